"""Who may know whom in `public/`, read from the source without running it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# room or file -> what none of its files may import; a door that imports inside its function is named beside it
FORBIDDEN = {
    "losses": (
        "decoders",
        "models",
        "datasets",
        "training",
        "config",
        "experiment",
        "families",
        "evaluation",
        "export",
    ),
    "decoders": (
        "losses",
        "models",
        "datasets",
        "training",
        "config",
        "experiment",
        "families",
        "evaluation",
        "export",
    ),
    "models": (
        "losses",
        "decoders",
        "config",
        "experiment",
        "families",
        "datasets",
        "training",
        "evaluation",
        "export",
    ),
    "families": ("datasets", "training", "config", "experiment", "evaluation", "export"),
    "datasets": ("models", "losses", "decoders", "families", "training", "config", "experiment"),
    "evaluation": ("models", "losses", "decoders", "families", "training", "config", "experiment"),
    "collectives.py": ("",),
    "random_streams.py": ("",),
    "training/loop.py": (
        "datasets",
        "evaluation",
        "models",
        "losses",
        "decoders",
        "families",
        "training.detection",
        "training.classification",
    ),
}
ALLOWED = {"public.losses.progress.Progress"}  # four counts in a tuple, which the loop hands to any loss
DOORS = {"models/__init__.py", "losses/__init__.py", "decoders/__init__.py"}  # these may look up a family when called


def imported_modules(source: str, inside_functions: bool = True) -> set[str]:
    """Every module that `source` imports, with the names taken from it, as dotted paths."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    if not inside_functions:
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = {id(node) for function in functions for node in ast.walk(function)}
        nodes = [node for node in nodes if id(node) not in inner]
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full, so that this test can read them"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def offences(source: str, forbidden: tuple[str, ...], *, is_door: bool) -> set[str]:
    modules = imported_modules(source, inside_functions=not is_door)
    prefixes = [f"public.{name}".rstrip(".") for name in forbidden]
    return {m for m in modules - ALLOWED if any(m == prefix or m.startswith(f"{prefix}.") for prefix in prefixes)}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_imports_nothing_forbidden(room):
    place = ROOT / "public" / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    if not place.exists():
        pytest.skip(f"{place} does not exist yet")
    for file in files:
        name = file.relative_to(ROOT / "public").as_posix()
        found = offences(file.read_text(), FORBIDDEN[room], is_door=name in DOORS)
        assert not found, f"public/{name} imports {', '.join(sorted(found))}; see section 2 of the design"


def test_no_import_circle():
    """Imports at the top of the files of `public/` form no circle."""
    files = {file: module_name(file) for file in (ROOT / "public").rglob("*.py")}
    names = set(files.values())
    graph = {}
    for file, name in files.items():
        imported = imported_modules(file.read_text(), inside_functions=False)
        # `from a.b import c` may mean the module a.b.c or a name in a.b
        targets = {m if m in names else m.rpartition(".")[0] for m in imported}
        graph[name] = (targets & names) - {name}
    circle = find_circle(graph)
    assert circle is None, " -> ".join(circle)


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A path that ends where it began, or None."""
    finished = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return None
        for target in sorted(graph[name]):
            circle = visit(target, [*path, name])
            if circle:
                return circle
        finished.add(name)
        return None

    for name in sorted(graph):
        circle = visit(name, [])
        if circle:
            return circle
    return None


def test_the_rules_can_fail():
    """On sources made up for it, each way of importing is seen, and only at a door may it stand in a function."""
    lazily = "def door():\n    from public.families import published\n"
    forbidden = ("families", "models")
    assert offences(lazily, forbidden, is_door=False) == {"public.families.published"}
    assert offences(lazily, forbidden, is_door=True) == set()
    assert offences("import public.models.layers as layers\n", forbidden, is_door=True) == {"public.models.layers"}
    assert offences("from public import models\n", forbidden, is_door=True) == {"public.models"}
    assert offences("import public.collectives\n", ("",), is_door=False) == {"public.collectives"}
    assert offences("import torch\nfrom public.modelsize import x\n", forbidden, is_door=False) == set()
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
