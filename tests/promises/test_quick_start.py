"""`--help` answers about as fast as `import torch` does: what takes seconds to import waits until it is used.

No time is measured here; the modules that cost the seconds must not have been imported (docs/measured.md has the figures).
"""

import subprocess
import sys

from tests.helpers.places import REPOSITORY

SLOW = ("torchvision", "torch._dynamo", "torch._inductor", "matplotlib")
COMMANDS = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in (REPOSITORY / "public" / "test_scripts").glob("*.py")
    if "def main()" in path.read_text(encoding="utf-8")
)
WITH_MODELS_OF_TORCHVISION = "public.test_scripts.table_of_networks"  # the table lists its names


def imported(statement: str) -> set[str]:
    """Those of SLOW that a fresh interpreter has imported after `statement`."""
    listing = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300
    )
    return set(SLOW) & set(done.stdout.split())


def test_no_command_imports_at_its_start_what_takes_seconds():
    modules = [name for name in COMMANDS if name != WITH_MODELS_OF_TORCHVISION]
    assert len(modules) > 8
    assert imported(f"import public.training.run, public.inference.places, {', '.join(modules)}") == set()
