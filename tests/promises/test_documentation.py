"""What the pages of documentation say can be done, can be done.

Three things are held.  Every link leads somewhere.  Every command that a page writes, in a block or in a line, names
programs, modules, flags, folders and tests that there are: it is parsed by the parser of the command itself.  And every
command is run: in one of the `WALKS` of `test_typed_commands`, or by the test that `RUN_BY` names.  A command that is new
on a page fails until it stands in one of the two; one that has left the pages fails until it leaves them.
"""

import ast
import os
import re
import shlex
import subprocess
import tomllib
from dataclasses import fields
from itertools import chain, pairwise

import pytest

from public import command_line
from public.config import ClassificationConfig, DetectionConfig
from public.runs.experiment import load_experiment
from public.test_scripts import demo
from tests.helpers import documents
from tests.helpers.commands_of_pages import parse_module
from tests.helpers.documents import PAGES, all_commands, blocks, broken_links, read, spans
from tests.helpers.places import REPOSITORY
from tests.promises.test_typed_commands import WALKS

WHOLE = "tests/promises/test_whole_path.py::"
RESUMED = WHOLE + "test_killed_and_resumed_ends_in_the_same_bits"
LAUNCHED = "tests/training/test_world_size.py::test_torchrun_restarts_a_killed_rank_and_hands_on_a_signal"
FOLDERS = "tests/promises/test_real_pictures.py::test_real_class_folders_train_and_are_evaluated"
CLASSES = "tests/scripts/test_classify.py::"
CONVERTED = "tests/models/test_convert.py::test_the_command_writes_a_detector_for_real_images"
CLASSIFIER = "tests/models/test_convert_classifiers.py::test_command"
DOWNLOADED = "tests/models/test_download_weights.py::"
REPRODUCED = "tests/scripts/test_reproduce.py::"
TYPED = "tests/promises/test_typed_commands.py::test_train_run_it_twice_and_evaluate"
RUN_BY = {  # command, as a page writes it: the test that runs it, or one that differs in names alone
    "kill -9 <its process>": RESUMED,
    "python train.py --help": "tests/promises/test_experiments.py::test_help_shows_the_card_and_the_present_values",
    "python train.py --max_steps 100": WHOLE + "test_resume_goes_by_equal_settings",
    "python train.py --max_steps 180": WHOLE + "test_resume_goes_by_equal_settings",
    "./test.sh --split test": TYPED,
    "python -m public.test_scripts.reproduce RUN --until 100": REPRODUCED
    + "test_the_comparison_ends_where_it_is_told_to",
    "python -m public.test_scripts.reproduce RUN [--until STEP]": (
        REPRODUCED + "test_a_run_that_was_interrupted_is_reproduced_to_the_last_digest"
    ),
    "torchrun --nproc_per_node=2 train.py": LAUNCHED,
    "python -m torch.distributed.launch --nproc_per_node=2 train.py": WHOLE
    + "test_two_processes_by_the_older_launcher",
    "torchrun --nnodes=2 --node_rank=0 --nproc_per_node=8 --master_addr=HOST --master_port=29500 train.py": (
        WHOLE + "test_two_machines_by_torchrun"
    ),
    "torchrun --nproc_per_node 4 train.py --data_root <folder that holds imagenet/>": LAUNCHED,
    "python train.py --data_root <folder that holds imagenet/>": FOLDERS,
    "python train.py --data_root ...": "tests/promises/test_bccd.py::test_bccd_takes_two_steps",
    "python -m public.datasets.shapes": "tests/datasets/test_shapes.py::test_the_command_line",
    "python -m public.datasets.drawn_cifar": "tests/datasets/test_cifar.py::test_the_drawn_set",
    "python -m public.test_scripts.seeds EXPERIMENT -n 5": "tests/scripts/test_seeds.py::"
    + "test_finished_seeds_count_again_and_missing_ones_are_trained",
    "python -m public.test_scripts.download_cifar --classes 10 100": "tests/datasets/test_cifar.py::test_the_command",
    "python -m public.test_scripts.download_cifar --classes 100": "tests/datasets/test_cifar.py::test_the_command",
    "python -m public.test_scripts.download_voc --year 2007 2012 --data_root data": (
        "tests/datasets/test_download.py::test_the_command"
    ),
    "python -m public.test_scripts.check_dataset BCCD/": (
        "tests/scripts/test_check_dataset.py::test_the_two_degenerate_boxes_of_the_blood_cells_are_found"
    ),
    "python -m public.test_scripts.table_of_networks --output docs/backbones.md": (
        "tests/models/test_table_of_networks.py::test_command"
    ),
    "python -m public.weights.convert paddle ppyoloe_s ppyoloe_crn_s_300e_coco.pdparams -o pretrained/ppyoloe_s_coco.pth": (
        CONVERTED
    ),
    "python -m public.weights.download ppyoloe_plus_s_coco": DOWNLOADED + "test_the_command",
    "python -m public.weights.download picodet_s_416_coco": DOWNLOADED + "test_the_command",
    "python -m public.test_scripts.new_experiment mine --from picodet_s_transfer --data mine/": (
        "tests/scripts/test_new_experiment.py::test_a_page_reads_the_data_that_it_was_written_for"
    ),
    "python -m public.weights.download --list": DOWNLOADED + "test_the_command",
    "python -m public.test_scripts.detect ppyoloe_plus_s street.jpg": (
        DOWNLOADED + "test_weights_are_used_by_name_and_missed_with_what_to_type"
    ),
    "python -m public.weights.repack path/to/best.pth best.safetensors": (
        DOWNLOADED + "test_a_checkpoint_goes_to_safetensors_and_back"
    ),
    "python -m public.test_scripts.new_experiment flowers --from imagenet_experiments/resnet18 --data flowers/": (
        "tests/scripts/test_new_experiment.py::test_a_step_of_training_from_the_written_page"
    ),
    "python -m public.weights.convert --help": "tests/promises/test_documentation.py::test_help_is_there",
    "python -m public.weights.convert torchvision resnet18 resnet18-f37072fd.pth -o pretrained/resnet18_imagenet.pth": (
        CLASSIFIER
    ),
    "python -m public.test_scripts.show_data imagenet_experiments/resnet18 --data_root <folder that holds imagenet/>": (
        CLASSES + "test_the_page_shows_what_training_sees"
    ),
    "python -m public.test_scripts.show_data imagenet_experiments/mine --data_root <folder that holds mine/>": (
        CLASSES + "test_the_page_shows_what_training_sees"
    ),
    "python -m public.test_scripts.check_dataset imagenet_experiments/mine --data_root <folder that holds mine/>": (
        CLASSES + "test_the_check_counts_classes_and_finds_what_splits_share"
    ),
    "python -m public.test_scripts.classify . picture.jpg": CLASSES
    + "test_the_five_best_classes_are_those_of_the_network",
    "./test.sh ../../pretrained/resnet18_imagenet.pth": CLASSES + "test_the_script_prints_the_digits_of_training",
    "./test.sh runs/<time>/latest.pth": CLASSES + "test_the_script_prints_the_digits_of_training",
    "python -m tests.helpers.crash_harness --kills 1000 --seed 2 --experiment classification --folder F": (
        "tests/promises/test_crash.py::test_many_kills_change_no_bit_and_no_line"
    ),
    "python -m public.test_scripts.export EXPERIMENT --format onnx -o exported": (
        "tests/export/test_command.py::test_the_file_is_proven_and_measured"
    ),
    "python -m public.test_scripts.export RUN --format onnx openvino --outputs detections --evaluate -o exported": (
        "tests/export/test_command.py::test_the_file_is_proven_and_measured"
    ),
    "python -m public.test_scripts.export path/to/best.pth --format torch ncnn --pictures photos/ -o exported": (
        "tests/export/test_command.py::test_a_checkpoint_alone"
    ),
    "python -m public.test_scripts.table_of_exports PicoDet --format executorch litert --outputs raw boxes": (
        "tests/export/test_table_of_exports.py::test_the_command"
    ),
    "python -m public.test_scripts.table_of_exports --output docs/export.md": (
        "tests/export/test_table_of_exports.py::test_the_command"
    ),
    "python -m benchmarks.inference --rounds 9 --folder exported": (
        "tests/export/test_benchmark_of_files.py::test_a_round_of_turns"
    ),
    "python -m benchmarks.real_weights": "tests/export/test_real_weights.py::test_a_file_finds_what_the_original_finds",
    "python -m benchmarks.real_weights --precision fp16": (
        "tests/export/test_real_weights.py::test_a_file_finds_what_the_original_finds"
    ),
    "python -m public.weights.convert paddle picodet_s_416 ../shared/weights/picodet_s_416_coco_lcnet.pdparams -o s.pth": (
        CONVERTED
    ),
    "python -m public.weights.convert yolox yolox_nano ../shared/weights/yolox_nano.pth -o nano.pth": CONVERTED,
    "python -m benchmarks.coco_halves ../shared/data/coco_val100 -o halves": (
        "tests/export/test_quantise.py::test_pictures_are_parted_in_halves"
    ),
    "python -m public.test_scripts.quantise EXPERIMENT s.pth --runtime openvino --calibration 50 --data_root halves/a -o D": (
        "tests/export/test_quantise.py::test_the_command_writes_both_files_and_ends_with_its_own_status"
    ),
    "python -m public.test_scripts.flops RUN --weights RUN/best.pth --fuse": (
        "tests/promises/test_changed_networks.py::test_macs_by_zeros_are_not_counted"
    ),
    "python -m public.test_scripts.prune RUN --macs 0.6 -o PAGE": (
        "tests/scripts/test_prune.py::test_the_macs_are_what_was_asked_for_and_all_is_listed"
    ),
    "python -m benchmarks.nncf_int8 EXPERIMENT D/NAME.xml --calibration 50 --data_root halves/a": (
        "tests/export/test_quantise.py::test_nncf_is_given_the_pictures_that_ours_is_calibrated_on"
    ),
    "python -m benchmarks.sparsity DENSE PRUNED": (
        "tests/export/test_quantise.py::test_the_benchmark_of_zeros_tells_shares_and_ratios"
    ),
    "python -m public.test_scripts.quantise RUN --runtime openvino --max_ap_loss 0.5 -o quantised": (
        "tests/export/test_quantise.py::test_the_command_writes_both_files_and_ends_with_its_own_status"
    ),
    "./test.sh exported/NAME.onnx": "tests/export/test_command.py::test_test_sh_takes_the_file",
    "make benchmark": "tests/scripts/test_benchmark_report.py::test_the_page_holds_figures_limits_and_what_failed",
    "make demo": "tests/promises/test_documentation.py::test_the_demo_is_made_of_what_is_run_here",
}
# Not commands of a test: the suite itself and its set-up, which CI types; moving between folders; tools of others.
BY_THEMSELVES = {
    "make setup",
    "make setup-export",
    "make setup-executorch",
    "make setup-litert",
    "make test",
    "make test-fast",
    "make lint",
    "source .venv/bin/activate",
    "pre-commit install",
}
RUN_BY_PAGE = {"pretrained/README.md": "tests/models/test_convert.py::test_each_known_file_can_be_made_by_its_command"}
OWN = "mine"  # what a user calls a folder of their own


def is_typed_by_itself(command: str) -> bool:
    return command in BY_THEMSELVES or command.split()[0] in ("cd", "mkdir", "cp", "pytest")


def is_mention(command: str) -> bool:
    """`python -m public.weights.convert` without arguments names the command and does not call it."""
    return bool(re.fullmatch(r"python -m public\.(test_scripts|weights)\.\w+", command))


# ---------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert broken_links(page, read(page)) == []


def test_the_check_of_links_can_fail():
    text = "[a](docs/none.md) [b](README.md#nowhere) [c](README.md#experiments) [d](https://x.y/z)\n# A title\n[e](#a-title)"
    assert broken_links("README.md", text) == [
        "README.md: docs/none.md leads to no file",
        "README.md: README.md#nowhere leads to no heading of README.md",
    ]


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) < 250


def test_every_page_of_docs_can_be_reached_from_the_readme():
    reached, left = set(), ["README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        for target in documents.links(read(page)):
            path = target.partition("#")[0]
            file = ((REPOSITORY / page).parent / path).resolve().relative_to(REPOSITORY).as_posix() if path else page
            left += [file] if file.endswith(".md") and file not in reached else []
    assert set(PAGES) <= reached


# ---------------------------------------------------------------------------------------------- each command can be typed


def fault(command: str, folder: str = "detection_experiments/ppyoloe_xs_shapes") -> str | None:
    """What is wrong with a command as a page writes it, or None.  `folder`: where train.py is started."""
    words = shlex.split(re.sub(r"<[^>]*>", "PLACE", command.replace("[--until STEP]", "--until 1")))
    words = [word.strip("[]").removesuffix("...") or "PLACE" for word in words]
    program, rest = words[0], words[1:]
    if program == "make":
        targets = " ".join(re.findall(r"^([\w %/.-]+):", read("Makefile"), re.MULTILINE)).split()
        missing = [word for word in rest if word not in targets]
        return f"the Makefile has no {missing[0]}" if missing else None
    if program == "pytest":
        return fault_of_pytest(rest)
    if program in ("cd", "cp", "mkdir"):
        return fault_of_places(program, rest)
    if program == "./test.sh":
        return parse_module("public.test_scripts.evaluate", [folder, *rest])
    if program.endswith(".sh"):
        return parse_module(program.removesuffix(".sh").replace("/", "."), rest)
    if program == "torchrun" or words[:3] == ["python", "-m", "torch.distributed.launch"]:
        return fault_of_launcher(rest if program == "torchrun" else rest[2:], folder)
    if words[:2] == ["python", "train.py"]:
        return fault_of_training(rest[1:], folder)
    if words[:2] == ["python", "-m"]:
        return parse_module(rest[1], rest[2:], is_mention=is_mention(command))
    return None if command.split()[0] in ("source", "kill", "pre-commit") else f"what is {program}?"


def fault_of_pytest(words: list[str]) -> str | None:
    """Files and the names in -k are there; so are the markers of -m."""
    options = dict(pairwise(words))
    files = [word for word in words if word.startswith("tests")]
    found = [list(REPOSITORY.glob(file)) for file in files]
    if [] in found:
        return f"there is no {files[found.index([])]}"
    markers = tomllib.loads(read("pyproject.toml"))["tool"]["pytest"]["ini_options"]["markers"]
    if "-m" in options and not any(line.startswith(options["-m"] + ":") for line in markers):
        return f"there is no marker {options['-m']}"
    names = " ".join(path.read_text() for path in chain(*found) if path.is_file())
    for word in options["-k"].split(" or ") if "-k" in options else ():
        if not re.search(rf"def test_\w*{word}", names):
            return f"no test of {files} has {word} in its name"
    return None


def fault_of_places(program: str, words: list[str]) -> str | None:
    """Folders and files of the repository are there; those that the user makes need not be."""
    if program == "mkdir":
        return None if all(OWN in word for word in words) else f"{words} is not the user's"
    sources = words[:-1] if program == "cp" else words
    for source in chain.from_iterable(braces(word) for word in sources):
        if f"/{OWN}" not in source and not (REPOSITORY / source).exists():
            return f"there is no {source}"
    return None


def braces(word: str) -> list[str]:
    """a/{b,c} -> a/b, a/c"""
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", word)
    return [f"{match[1]}{part}{match[3]}" for part in match[2].split(",")] if match else [word]


def fault_of_launcher(words: list[str], folder: str) -> str | None:
    from torch.distributed.run import get_args_parser

    try:
        options = get_args_parser().parse_args(words)
    except SystemExit:
        return f"torchrun does not take {words}"
    if options.training_script != "train.py":
        return f"{options.training_script} is no train.py"
    return fault_of_training(options.training_script_args, folder)


def fault_of_training(words: list[str], folder: str) -> str | None:
    config = load_experiment(REPOSITORY / folder).config
    try:
        command_line.parse(config, "", words)
    except SystemExit as error:
        return None if not error.code else f"train.py does not take {words}"
    return None


def test_every_command_can_be_typed():
    found, folder = [], ""
    for page, command in all_commands():
        if command.startswith("cd ") and "experiments/" in command and OWN not in command:
            folder = command.removeprefix("cd ")
        why = fault(command, folder) if folder else fault(command)
        found += [f"{page}: {command}: {why}"] if why else []
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("python train.py --epoch 1", "does not take"),
        ("python train.py --epochs one", "does not take"),
        ("torchrun --nproc=2 test.py", "does not take|is no train.py"),
        ("python -m public.test_scripts.detekt a b", "no module"),
        ("python -m public.test_scripts.detect a b --scores 1", "unrecognized"),
        ("python -m public.test_scripts.detect a", "required"),
        ("python -m public.training.loop", "no command"),
        ("./test.sh --split tset", "invalid choice"),
        ("make dmeo", "has no dmeo"),
        ("pytest tests/test_nothing.py", "there is no"),
        ("pytest tests/promises/test_whole_path.py -k kiled", "no test"),
        ("pytest -m numerical", "no marker"),
        ("cd detection_experiments/ppyoloe_xxs", "there is no"),
        ("cp detection_experiments/ppyoloe_xs_bccd/{config.py,trian.py} detection_experiments/mine/", "trian"),
        ("pyhton train.py", "what is"),
    ],
)
def test_the_check_of_commands_can_fail(command, reason):
    assert re.search(reason, fault(command) or "nothing")


def flags_of_this_project() -> set[str]:
    """Those that a parser adds, and one for each setting."""
    sources = chain.from_iterable((REPOSITORY / room).rglob("*.py") for room in ("public", "benchmarks"))
    added = set(re.findall(r'"(--?[a-z]\w*)"', "\n".join(path.read_text() for path in sources)))
    settings = {f"--{f.name}" for kind in (DetectionConfig, ClassificationConfig) for f in fields(kind)}
    return added | settings | {"--help"}


def test_flags_in_sentences_are_there():
    known = flags_of_this_project()
    for page in PAGES:
        words = [span.split()[0] for span in spans(read(page)) if span.startswith("--")]
        assert [word for word in words if word not in known] == [], page
    assert "--epoch" in known, "of show_data"
    assert "--epoches" not in known


def test_help_is_there():
    assert parse_module("public.weights.convert", ["--help"]) is None


# ---------------------------------------------------------------------------------------------- each command is run


def without_a_test(commands: list[documents.Command]) -> list[str]:
    walked = set(chain.from_iterable(WALKS.values()))
    return [
        f"{page}: {command}"
        for page, command in commands
        if not (command in walked or command in RUN_BY or is_typed_by_itself(command) or is_mention(command))
        and page not in RUN_BY_PAGE
    ]


def test_every_command_is_run_by_a_test():
    found = without_a_test(all_commands())
    assert not found, "write a test that runs it, into WALKS or RUN_BY:\n" + "\n".join(found)


def test_no_command_is_listed_that_no_page_writes():
    written = {command for _, command in all_commands()}
    assert (set(RUN_BY) | set(chain.from_iterable(WALKS.values()))) - written == set()
    assert not set(RUN_BY) & set(chain.from_iterable(WALKS.values())), "run here: no need to name a test"


def test_a_new_command_needs_a_test():
    new = documents.Command("docs/new.md", "python -m public.test_scripts.detect a b --every 3")
    assert without_a_test([new]) == ["docs/new.md: python -m public.test_scripts.detect a b --every 3"]


@pytest.mark.parametrize("name", sorted({*RUN_BY.values(), *RUN_BY_PAGE.values()}))
def test_the_tests_that_run_them_are_there(name):
    file, _, test = name.partition("::")
    defined = {node.name for node in ast.walk(ast.parse(read(file))) if isinstance(node, ast.FunctionDef)}
    assert test in defined


def test_the_demo_is_made_of_what_is_run_here():
    """`make demo` draws, trains, evaluates and detects: by commands that are run by tests, in this order.

    Also below `make test`, whose variables would have this make name the folders it enters and leaves.
    """
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    made = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--assume-old", "setup", "demo"],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name not in of_make},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.splitlines()[-1].endswith("-m public.test_scripts.demo")
    program = r"public\.datasets\.shapes|train\.py|test\.sh|detect_single_image\.sh"
    programs = [re.search(program, command)[0] for _, _, command in demo.PARTS]
    assert programs == ["public.datasets.shapes", "train.py", "test.sh", "detect_single_image.sh"]
    assert sum(share for _, share, _ in demo.PARTS) == pytest.approx(1)
    covered = " ".join(chain(RUN_BY, *WALKS.values()))
    assert all(program in covered for program in programs)


# ---------------------------------------------------------------------------------------------- code, paths, other files


@pytest.mark.parametrize("page", PAGES)
def test_code_compiles_and_imports_what_there_is(page):
    for block in blocks(read(page), "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                module = __import__(node.module, fromlist=[alias.name for alias in node.names])
                assert [a.name for a in node.names if not hasattr(module, a.name)] == [], f"{page}: {node.module}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    __import__(alias.name)


def missing_paths(page: str) -> list[str]:
    """Paths of the repository in a page's spans that lead nowhere; places to fill in (name, <...>, mine) are left out."""
    rooms = "public|tests|docs|benchmarks|detection_experiments|imagenet_experiments|cifar100_experiments"
    found = []
    for span in spans(read(page)):
        if re.fullmatch(rf"({rooms})/[\w./*{{}},-]*", span) and not re.search(rf"name\b|_name_|{OWN}", span):
            found += [path for path in braces(span) if not list(REPOSITORY.glob(path.rstrip("/")))]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_paths_lead_somewhere(page):
    assert missing_paths(page) == []


def test_new_imports_of_the_changelog_are_there():
    rows = re.findall(r"^\| `public.*?\| (.*) \|$", read("CHANGELOG.md"), re.MULTILINE)
    modules = re.findall(r"`(public[\w.]*)`", " ".join(rows))
    assert len(modules) >= 14
    for module in modules:
        __import__(module)


def test_the_citation_names_the_version_and_the_licence():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    entries = dict(re.findall(r"^([\w-]+): +(.*)$", read("CITATION.cff"), re.MULTILINE))
    assert entries["cff-version"] == "1.2.0"
    assert (entries["version"], entries["license"]) == (project["version"], project["license"])
    assert entries["type"] == "software"
    assert {"message", "title"} <= entries.keys()
    assert re.search(r"^authors:\n  - name: ", read("CITATION.cff"), re.MULTILINE)


def test_pre_commit_runs_what_make_lint_runs():
    """The same commands in the same order, by the environment of `make setup`, and nothing from elsewhere."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)[1]
    made = [line.strip().replace("$(PYTHON)", ".venv/bin/python") for line in recipe.splitlines()]
    text = read(".pre-commit-config.yaml")
    assert re.findall(r"^ +entry: (.*)$", text, re.MULTILINE) == made
    assert re.findall(r"repo: (.*)$", text, re.MULTILINE) == ["local"]
    assert re.findall(r"language: (.*)$", text, re.MULTILINE) == ["system"] * len(made)
    assert "VENV := .venv" in read("Makefile")
