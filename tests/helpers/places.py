"""Where things lie that tests look for."""

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
FIGURES = TESTS / "figures"
REPOSITORY = TESTS.parent
SHARED = REPOSITORY.parent / "shared"  # reference data beside the repository, not everywhere
