"""Opening experiments and runs: own builders, copies, edits, and what importing a page may touch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from public.config import differences, freeze, replace
from public.experiment_files import (
    add_packages_again,
    added_packages,
    experiment_files,
    file_hashes,
    hash_files,
    library_hash,
)
from public.families.ppyoloe import PPYOLOE
from public.files import REPOSITORY
from public.runs.experiment import find_data_root, load_experiment
from public.runs.run_folder import RunFolder

EXPERIMENTS = sorted(p.parent for p in REPOSITORY.glob("*_experiments/*/config.py"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def make_run(folder: Path, **changes) -> Path:
    """A run of the experiment in `folder` with some settings changed, and closed."""
    experiment = load_experiment(folder)
    config = replace(experiment.config, **changes)
    overrides = {name: [getattr(experiment.config, name), value] for name, value in changes.items()}
    run = RunFolder.create(experiment, config, overrides)
    run.close()
    return run.path


# ---------------------------------------------------------------------------------------------- own builders


def test_an_experiment_may_have_settings_and_a_loss_of_its_own(experiment_folder):
    experiment = load_experiment(experiment_folder)
    assert experiment.folder == experiment_folder
    assert experiment.name == "tiny_experiment"
    assert experiment.run is None
    detector = experiment.config.detector
    assert isinstance(detector, PPYOLOE)
    assert type(detector) is not PPYOLOE
    loss = detector.build_loss()
    assert type(loss).__name__ == "HalfLoss"
    assert loss.factor == detector.loss_factor
    assert type(loss.loss) is type(PPYOLOE.build_loss(detector))


def test_a_run_builds_the_same_objects_with_its_own_settings(experiment_folder):
    path = make_run(experiment_folder, epochs=77)
    run = load_experiment(path)
    assert run.run == path
    assert run.folder == experiment_folder
    assert run.runs == path.parent
    assert run.config.epochs == 77, "the override is kept"
    assert json.loads((path / "overrides.json").read_text())["epochs"][1] == 77
    loss = run.config.detector.build_loss()
    assert type(loss).__name__ == "HalfLoss"
    source = load_experiment(experiment_folder).config
    assert differences(replace(source, epochs=77), run.config) == []
    assert freeze(run.config) == json.loads((path / "config.json").read_text())


def test_the_json_of_a_run_is_laid_over_its_copy(experiment_folder):
    path = make_run(experiment_folder)
    frozen = json.loads((path / "config.json").read_text())
    frozen["DetectionConfig"]["detector"]["HalfPPYOLOE"]["loss_factor"] = 0.125
    frozen["DetectionConfig"]["train_data"]["Voc"]["sources"] = ["a/b", "c/d"]
    (path / "config.json").write_text(json.dumps(frozen))
    config = load_experiment(path).config
    assert config.detector.build_loss().factor == 0.125
    assert config.train_data.sources == ("a/b", "c/d")


def test_a_run_does_not_follow_later_edits_of_the_folder(experiment_folder):
    path = make_run(experiment_folder)
    before = load_experiment(experiment_folder).config
    edit(experiment_folder / "loss.py", "self.factor * term", "0 * term")
    edit(experiment_folder / "config.py", "    epochs=", "    epochs=100 + ")
    assert load_experiment(experiment_folder).config.epochs == before.epochs + 100
    run = load_experiment(path).config
    assert run.epochs == before.epochs
    loss = run.detector.build_loss()
    loss.loss = lambda *_: {"term": 8.0}
    assert loss(None, None, None) == {"term": 8.0 * loss.factor}
    for file in path.parents[1].glob("*.py"):
        file.unlink()
    assert load_experiment(path).config.epochs == before.epochs, "not even when the folder's files are gone"


def test_a_run_of_a_run_copies_what_the_run_was_made_of(experiment_folder):
    first = load_experiment(make_run(experiment_folder))
    edit(experiment_folder / "config.py", "    epochs=", "    epochs=100 + ")
    second = RunFolder.create(first, first.config, {})
    second.close()
    assert second.path.parent == first.runs
    assert load_experiment(second.path).config.epochs == first.config.epochs
    copies = [run / "experiment" for run in (first.run, second.path)]
    assert len({hash_files(experiment_files(copy), copy) for copy in copies}) == 1


def test_two_experiments_with_files_of_the_same_names_do_not_clash(tmp_path):
    for name, number in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        write_experiment(folder, number)
    one, two = load_experiment(tmp_path / "one"), load_experiment(tmp_path / "two")
    assert (one.config.detector.read(), two.config.detector.read()) == (1, 2)
    assert type(one.config.detector) is not type(two.config.detector)
    assert load_experiment(tmp_path / "one").config.detector.read() == 1


def test_two_experiments_of_the_same_content_stay_apart(tmp_path):
    for name in ("one", "two"):
        write_experiment(tmp_path / name, 41)
    detectors = [load_experiment(tmp_path / name).config.detector for name in ("one", "two")]
    write_experiment(tmp_path / "one", 42)
    assert detectors[1].read() == 41, "what it imports late is its own"


def write_experiment(folder: Path, number: int) -> None:
    """An experiment whose detector reads a number from a file of a sub-folder that is imported late."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    (folder / "parts" / "number.py").write_text(f"NUMBER = {number}\n")
    (folder / "config.py").write_text(
        f"""
from dataclasses import dataclass
from public.config import replace
from public.runs.experiment import load_experiment

@dataclass(frozen=True, kw_only=True)
class Own:
    def build_model(self):
        pass

    def read(self):
        from .parts.number import NUMBER
        return NUMBER

config = replace(load_experiment({str(REPOSITORY / "tests" / "helpers" / "tiny_experiment")!r}).config, detector=Own())
"""
    )


# ---------------------------------------------------------------------------------------------- edits and errors


@pytest.fixture
def python_keeps_bytecode(monkeypatch):
    """As it does unless PYTHONDONTWRITEBYTECODE is set."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def test_an_edit_is_seen_when_the_folder_is_loaded_again(experiment_folder):
    first = load_experiment(experiment_folder).config
    edit(experiment_folder / "config.py", "    epochs=", "    epochs=10 + ")
    assert load_experiment(experiment_folder).config.epochs == first.epochs + 10


def test_an_edit_is_seen_even_where_size_and_time_of_the_file_stay(tmp_path, python_keeps_bytecode):
    """Python's own cache of compiled files would take the old content for fresh."""
    for number in (1, 2, 3):
        write_experiment(tmp_path / "quick", number)
        os.utime(tmp_path / "quick" / "parts" / "number.py", (1_800_000_000, 1_800_000_000))
        assert load_experiment(tmp_path / "quick").config.detector.read() == number


def test_a_file_that_is_added_is_seen(tmp_path):
    write_experiment(tmp_path / "growing", 1)
    (tmp_path / "growing" / "parts" / "number.py").unlink()
    detector = load_experiment(tmp_path / "growing").config.detector
    with pytest.raises(ImportError):
        detector.read()
    write_experiment(tmp_path / "growing", 5)
    assert load_experiment(tmp_path / "growing").config.detector.read() == 5


def test_loading_leaves_nothing_in_the_folder(experiment_folder, python_keeps_bytecode):
    before = sorted(experiment_folder.rglob("*"))
    load_experiment(experiment_folder).config.detector.build_loss()
    assert sorted(experiment_folder.rglob("*")) == before


def test_equal_content_is_loaded_once(experiment_folder):
    assert load_experiment(experiment_folder).config is load_experiment(str(experiment_folder)).config


def test_a_folder_that_is_neither_experiment_nor_run_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=rf"{path} is neither .*config\.py.* nor a run"):
            load_experiment(path)


def test_a_page_without_a_configuration_is_named(experiment_folder):
    (experiment_folder / "config.py").write_text("config = {'lr': 1}\n")
    with pytest.raises(ValueError, match=r"tiny_experiment/config\.py must state `config = DetectionConfig"):
        load_experiment(experiment_folder)


def test_a_page_that_fails_shows_its_own_error_each_time_and_can_be_mended(experiment_folder):
    good = (experiment_folder / "config.py").read_text()
    (experiment_folder / "config.py").write_text(good + "\nraise RuntimeError('an own mistake')\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="an own mistake"):
            load_experiment(experiment_folder)
    (experiment_folder / "config.py").write_text(good)
    assert load_experiment(experiment_folder).config.epochs


# ---------------------------------------------------------------------------------------------- files and hashes


def test_the_files_of_an_experiment_are_its_recipe_and_not_its_runs(experiment_folder):
    for name in ("runs/1/experiment/config.py", "__pycache__/config.pyc", "parts/__pycache__/x.py", "notes.bin"):
        (experiment_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (experiment_folder / name).write_text("")
    (experiment_folder / "parts" / "neck.py").write_text("")
    for name in (".pytest_cache/README.md", ".ipynb_checkpoints/config-checkpoint.py", ".vscode/settings.json"):
        (experiment_folder / name).parent.mkdir()
        (experiment_folder / name).write_text("what tools leave")
    names = [file.relative_to(experiment_folder).as_posix() for file in experiment_files(experiment_folder)]
    assert names == ["config.py", "loss.py", "parts/neck.py", "test.sh", "train.py"]
    assert list(file_hashes(experiment_folder)) == names


@pytest.mark.parametrize("handle", [1, 2])
def test_the_output_of_this_process_is_no_part_of_the_recipe(experiment_folder, handle):
    """As of `python train.py > log.txt`: else no run could be gone on with after a line was printed."""
    (experiment_folder / "classes.txt").write_text("cat")
    command = [sys.executable, "-c", "import sys; from public.experiment_files import *; "
               "open(sys.argv[2], 'w').write(' '.join(file_hashes(Path(sys.argv[1]))))"]  # fmt: skip
    answer = experiment_folder.parent / "answer"
    with open(experiment_folder / "log.txt", "w") as log:
        output = {"stdout": log} if handle == 1 else {"stderr": log}
        subprocess.run([*command, str(experiment_folder), str(answer)], cwd=REPOSITORY, check=True, **output)
    assert answer.read_text().split() == ["classes.txt", "config.py", "loss.py", "test.sh", "train.py"]


def test_the_hash_changes_with_a_name_a_byte_and_the_border_between_files(tmp_path):
    def hashed(**contents):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_text(content)
        return hash_files(sorted(folder.iterdir()), folder)

    assert hashed(a="1", b="2") == hashed(a="1", b="2")
    others = [hashed(a="1", b="2"), hashed(a="1", c="2"), hashed(a="1", b="3"), hashed(a="12", b=""), hashed(a="1")]
    others += [hashed(a="1b 1\n2"), hashed(a="1", b="2", c="")]
    assert len(set(others)) == len(others)


def test_the_hash_of_the_library_is_repeatable():
    assert library_hash() == library_hash()


def test_the_data_root_is_the_option_then_the_variable(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("ENCORE_DATA_ROOT", str(tmp_path / "b"))
    assert find_data_root(str(tmp_path / "a")) == tmp_path / "a"
    assert find_data_root(None) == tmp_path / "b"
    with pytest.raises(FileNotFoundError, match=r"^--data_root says .*/absent"):
        find_data_root(str(tmp_path / "absent"))
    monkeypatch.setenv("ENCORE_DATA_ROOT", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"^\$ENCORE_DATA_ROOT says .*/gone"):
        find_data_root(None)


# ---------------------------------------------------------------------------------------------- what importing touches

PROGRAM = """
import gc, sys
import cv2, numpy, torch, torchvision  # what these open is theirs
repository, *folders = sys.argv[1:]
opened = []
def watch(event, args):
    if event == "open":
        opened.append(str(args[0]))
    if event in ("subprocess.Popen", "os.mkdir", "socket.connect"):
        raise RuntimeError(f"{event} {args}")
sys.addaudithook(watch)
from public.runs.experiment import load_experiment
for folder in folders:
    load_experiment(folder)
    assert f"{folder}/config.py" in opened
ours = [name for name in opened if name.startswith(repository) and "/.venv/" not in name]
wrong = [name for name in ours if not name.endswith((".py", ".sh", ".md", ".json", ".txt")) and ".pyc" not in name]
assert not wrong, wrong
assert not torch.cuda.is_initialized()
built = [type(thing) for thing in gc.get_objects() if isinstance(thing, torch.nn.Module)]
assert not built, built
"""


def test_importing_a_page_touches_no_data_no_gpu_and_builds_nothing():
    folders = [REPOSITORY / "tests" / "helpers" / "tiny_experiment", *EXPERIMENTS]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(REPOSITORY), *map(str, folders)],
        capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


# ---------------------------------------------------------------------------------------------- in another process


def test_packages_are_told_to_another_process_by_name_and_folder(experiment_folder):
    name = type(load_experiment(experiment_folder).config.detector).__module__.split(".")[0]
    told = {key: folder for key, folder in added_packages().items() if key == name}
    assert told == {name: str(experiment_folder)}
    add_packages_again(told)
    (experiment_folder / "loss.py").write_text((experiment_folder / "loss.py").read_text() + "# a word more\n")
    with pytest.raises(RuntimeError, match=rf"the files of {experiment_folder} have changed"):
        add_packages_again(told)
