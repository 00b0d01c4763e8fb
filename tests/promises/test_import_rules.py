"""Who may know whom in `public/`: the floors of docs/architecture.md, read from every import without running any.

An import goes to a room on a floor below, or along one of the ways that are listed in SIDEWAYS.  Three imports run up: the
doors create_model, create_loss and create_decoder look a family up when they are called.
"""

import ast
import functools
import sys
import tomllib
from pathlib import Path

import pytest

from public.files import REPOSITORY

# Rooms are folders or single files of public/; the longest name that fits a module says where it stands.
FLOORS: dict[int, tuple[str, ...]] = {
    1: (
        *("models", "losses", "decoders", "datasets"),
        *(
            "input",
            "anchors",
            "points",
            "precision",
            "files",
            "safe_pickle",
            "checkpoint_files",
            "drawing",
            "random_streams",
        ),
        *("experiment_files", "text", "lettering", "decoding", "folders"),
        *("protocols", "commands", "settings", "parts", "resizing"),
        "parallel.collectives",  # sums over the processes, which losses need; it knows nothing of the project
    ),
    2: ("families", "transforms", "evaluation", "parallel", "config", "command_line"),
    3: ("weights", "runs", "loading"),
    4: ("tasks", "reports"),
    5: ("training", "inference", "export"),
    6: ("test_scripts", ""),  # "": public/__init__.py, whose load() is for users
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
TOP = max(FLOORS)

# room -> the rooms of its own floor that it may know
SIDEWAYS: dict[str, set[str]] = {
    # taking weights from a file; the names of activations; what half precision is too coarse for; statistics of a whole batch
    "models": {"checkpoint_files", "parallel.collectives", "parts", "precision", "settings"},
    "losses": {"anchors", "points", "precision", "protocols", "parallel.collectives"},
    "decoders": {"anchors", "points", "precision"},
    "datasets": {"files", "folders", "input", "random_streams", "safe_pickle", "settings", "text"},
    "input": {"decoding", "folders", "resizing", "settings", "text"},
    "points": {"anchors"},
    "resizing": {"settings"},
    "settings": {"text"},
    "safe_pickle": {"text"},
    "files": {"text"},
    "commands": {"text"},
    "checkpoint_files": {"files", "text"},
    "experiment_files": {"files"},
    "lettering": {"text"},
    "drawing": {"files", "lettering", "text"},
    "command_line": {"config"},
    "parallel": {"config"},
    "tasks": {"reports"},
    "inference": {"export"},  # an exported file is used as a checkpoint is
}
ARROWS_UP = {  # (module, what it imports); only when it is called
    ("public.models", "public.families"),
    ("public.losses", "public.families"),
    ("public.decoders", "public.families"),
}
# modules that may not know some rooms, although these stand on lower floors
FORBIDDEN = {
    "public.training.loop": {"tasks", "evaluation", "models", "losses", "decoders", "families", "datasets", "loading"}
}


def room_of(module: str) -> str:
    """The room in which `module` stands.

    Raises:
        KeyError: in none: it needs a floor in FLOORS.
    """
    name = module.removeprefix("public").lstrip(".")
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOOR:
            return ".".join(parts[:length])
    if name:
        raise KeyError(f"{module} stands on no floor: write its room into FLOORS and into docs/architecture.md")
    return ""


class Import:
    """An import of a module of `public`: which, and whether it stands in a function."""

    def __init__(self, module: str, is_inside: bool) -> None:
        self.module, self.is_inside = module, is_inside


@functools.cache
def imports(source: str, modules: frozenset[str]) -> list[Import]:
    """The imports of `source` from `public`; `modules` are those that there are, for `from public.a import b`."""
    tree = ast.parse(source)
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full, so that this test can read them"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [part if part in modules else node.module for part in parts]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        found += [Import(n, id(node) in inner) for n in names if n == "public" or n.startswith("public.")]
    return found


def offences(module: str, source: str, modules: frozenset[str]) -> list[str]:
    """What `module` imports against the rules, each in words."""
    room, found = room_of(module), []
    for item in imports(source, modules):
        target = room_of(item.module)
        if item.module in modules - {"public"} or item.module == "public":
            arrow = f"{module} -> {item.module}"
        else:
            found.append(f"{module} -> {item.module}: there is no such module")
            continue
        if target in FORBIDDEN.get(module, ()):
            found.append(f"{arrow}: {module} may not know {target}")
        elif target == room or FLOOR[target] < FLOOR[room] or target in SIDEWAYS.get(room, ()):
            continue
        elif (module, item.module) in ARROWS_UP:
            if not item.is_inside:
                found.append(f"{arrow}: a door looks a family up when it is called, not at import")
        else:
            way = "up" if FLOOR[target] > FLOOR[room] else "sideways"
            found.append(f"{arrow}: from floor {FLOOR[room]} {way} to floor {FLOOR[target]}")
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """module -> source of all of `public/`."""
    files = sorted((REPOSITORY / "public").rglob("*.py"))
    return {module_name(file): file.read_text() for file in files}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def test_every_import_keeps_to_the_floors(sources):
    found = [line for module, source in sources.items() for line in offences(module, source, frozenset(sources))]
    assert not found, "\n".join(found)


def test_the_three_doors_are_the_arrows_that_run_up(sources):
    """Each of them is there, once: a door that no longer looks a family up must leave the list."""
    arrows = [
        (module, item.module)
        for module, source in sources.items()
        for item in imports(source, frozenset(sources))
        if FLOOR[room_of(item.module)] > FLOOR[room_of(module)]
    ]
    assert sorted(arrows) == sorted(ARROWS_UP)


def test_every_room_stands_on_a_floor(sources):
    """No folder or single file of `public/` is without a rule, and no rule is about a room that nobody has built."""
    rooms = {room_of(module) for module in sources}
    assert FLOOR.keys() <= rooms, "rooms that are not there"
    assert all(FLOOR[other] == FLOOR[room] for room, others in SIDEWAYS.items() for other in others)
    assert find_circle({room: SIDEWAYS.get(room, set()) for room in FLOOR}) is None


def test_nothing_below_imports_a_command(sources):
    """What two commands share stands in a room below; the commands themselves know no other command."""
    for module, source in sources.items():
        targets = [item.module for item in imports(source, frozenset(sources))]
        found = [target for target in targets if target.startswith("public.test_scripts.")]
        assert not found, f"{module} imports the command {found}"


def test_no_import_circle(sources):
    """Imports at the top of the files of `public/` form no circle."""
    graph = {
        module: {item.module for item in imports(source, frozenset(sources)) if not item.is_inside} - {module}
        for module, source in sources.items()
    }
    circle = find_circle(graph)
    assert circle is None, " -> ".join(circle)


def test_the_commands_and_experiments_are_the_only_ones_above(sources):
    """Benchmarks and experiments import `public`, and nothing of `public` imports them or the tests."""
    outside = ("benchmarks", "detection_experiments", "imagenet_experiments", "cifar100_experiments", "tests")
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[0] in outside], module


NEEDED = {"torch", "torchvision", "numpy", "cv2", "pycocotools", "tqdm", "matplotlib", "tensorboard", "thop", "PIL"}


def outside_imports(source: str) -> set[str]:
    """The packages, by their top names, that `source` imports: neither Python's own nor `public`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[0] for name in names}
    return found - set(sys.stdlib_module_names) - {"public"}


def test_lint_passes_without_the_optional_packages(sources):
    """`make lint` runs before any extra is installed: mypy is told of every package that may be absent."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    told = {
        module.removesuffix(".*")
        for override in settings["tool"]["mypy"]["overrides"]
        if override.get("ignore_missing_imports")
        for module in override["module"]
    }
    for module, source in sources.items():
        assert outside_imports(source) <= NEEDED | told, module
    assert {"onnx", "hotcoco"} <= {name for source in sources.values() for name in outside_imports(source)}


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


@pytest.mark.parametrize(
    ("module", "source", "text"),
    [
        ("public.models.layers", "from public.families import ppyoloe", "up to floor 2"),
        ("public.models.layers", "def f():\n    import public.families.ppyoloe", "up to floor 2"),
        ("public.models", "from public.families import PUBLISHED", "when it is called"),
        ("public.losses.box", "import public.models.layers as layers", "sideways"),
        ("public.losses.box", "from public import models", "sideways"),
        ("public.training.loop", "from public.tasks import base", "may not know tasks"),
        ("public.weights.load", "from public.runs import experiment", "sideways"),
        ("public.config", "from public.test_scripts import detect", "up to floor 6"),
        ("public.config", "import importlib\nimportlib.import_module('public.training.run')", "up to floor 5"),
        ("public.config", "from public.configs import a", "no floor|no such module"),
    ],
)
def test_the_rules_can_fail(sources, module, source, text):
    try:
        found = offences(module, source, frozenset(sources))
    except KeyError as error:
        found = [str(error)]
    assert len(found) == 1
    assert any(part in found[0] for part in text.split("|"))


def test_what_is_allowed_is_let_pass(sources):
    door = "def door():\n    from public.families import PUBLISHED\n"
    assert offences("public.models", door, frozenset(sources)) == []
    assert (
        offences("public.losses.box", "import torch\nfrom public.points import cell_points", frozenset(sources)) == []
    )
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
