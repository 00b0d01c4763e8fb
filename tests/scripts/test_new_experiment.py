"""new_experiment: on data of each layout it writes a page that keeps the house's conventions, reads the data, and trains."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from public.datasets.combine import Split
from public.runs import fitting
from public.runs.experiment import load_experiment
from public.runs.near_copies import card_of, names_of_differences
from public.runs.page_text import PageText, literal, rendered
from public.test_scripts import check_dataset, new_experiment
from public.training import main as train
from tests.helpers.drawn_layouts import LAYOUTS, NUM_IMAGES, write_coco_json, write_voc_pair, write_yolo_pair
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_data import TINY_CLASSES
from tests.promises import test_pages

ORIGINALS = (
    *(
        "detection_experiments/ppyoloe_xs_bccd",
        "detection_experiments/ppyoloe_s_coco",
        "detection_experiments/ppyoloe_l_voc",
    ),
    *("imagenet_experiments/resnet18", "cifar100_experiments/resnet18", "cifar100_experiments/resnet18_mini"),
)
WITH_CONSTANTS = "detection_experiments/picodet_s_transfer"  # its data have a name of their own
DETECTION = [name for name, layout in LAYOUTS.items() if layout.kind != "classes"]
CLASSES = [name for name, layout in LAYOUTS.items() if layout.kind == "classes"]
WRITTEN = {  # name of the page: (original, layout)
    **{f"own_{name.replace(' ', '_')}": (ORIGINALS[0], name) for name in DETECTION},
    **{f"own_{original.split('/')[1]}": (original, "yolo") for original in (*ORIGINALS[1:3], WITH_CONSTANTS)},
    **{
        f"own_{name.replace(' ', '_')}_{original.replace('/', '_')}": (original, name)
        for name in CLASSES
        for original in ORIGINALS[3:]
    },
}


def make(clone, original, name, data, **options):
    arguments = {"name": name, "original": str(clone / original), "data": data, "layout": None, "page_only": True}
    return new_experiment.make(argparse.Namespace(**(arguments | options)))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Some experiments of the repository, and the data of each layout in data/."""
    root = tmp_path_factory.mktemp("clone")
    for original in (*ORIGINALS, WITH_CONSTANTS):
        shutil.copytree(REPOSITORY / original, root / original, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    for name, layout in LAYOUTS.items():
        layout.write(root / "data" / name.replace(" ", "_"))
    return root


@pytest.fixture(scope="module")
def pages(clone):
    """name of the page -> the folder that was written."""
    return {
        name: make(clone, original, name, clone / "data" / layout.replace(" ", "_"))
        for name, (original, layout) in WRITTEN.items()
    }


@pytest.mark.parametrize("rule", ["ShorterSide(rounding='nearest', multiple=32)", "KeepSize(multiple=32)"])
def test_a_page_that_keeps_aspects_keeps_its_size_as_well(clone, rule):
    """Its rule brings pictures of any size to the input; training's transforms go with it and stay."""
    name = rule.partition("(")[0]
    original = clone / "detection_experiments" / f"page_with_{name.lower()}"
    shutil.copytree(clone / ORIGINALS[0], original)
    page = original / "config.py"
    text = page.read_text()
    for old, new in (
        ('resize="stretch"', f"resize={rule}"),
        ("from public.training.ema", f"from public.resizing import {name}\nfrom public.training.ema"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    page.write_text(text)
    folder = make(clone, original.relative_to(clone), f"own_{name.lower()}", clone / "data" / "yolo")
    expected, config = (load_experiment(place).config for place in (original, folder))
    assert config.input == expected.input
    assert config.train_transforms == expected.train_transforms
    assert f"as in page_with_{name.lower()}: the rule" in (folder / "config.py").read_text()


# ------------------------------------------------------------------------------------------------- conventions


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_reads_the_data_that_it_was_written_for(pages, clone, name):
    layout = LAYOUTS[WRITTEN[name][1]]
    config = load_experiment(pages[name]).config
    train = config.train_data.read(clone / "data")
    val = config.val_data.read(clone / "data", train.class_names)
    assert train.class_names == TINY_CLASSES
    assert config.network_settings.num_classes == 3
    if "val" in layout.splits:
        assert (len(train), len(val)) == (NUM_IMAGES["train"], NUM_IMAGES["val"])
    else:
        assert isinstance(config.train_data, Split)
        assert len(train) + len(val) == NUM_IMAGES["train"]
        assert 1 <= len(val) <= 3, "about a fifth of eight"
    assert (config.test_data is not None) == ("test" in layout.splits)
    assert config.batch_size == 4
    assert config.input.size[0] < 224, "the pictures are small"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_keeps_the_conventions_of_pages(pages, name):
    folder, original = pages[name], WRITTEN[name][0]
    text = (folder / "config.py").read_text()
    outline = test_pages.outline(text)
    assert outline == test_pages.expected_outline({item for item in outline if not item.startswith("#")})
    card = card_of(folder).splitlines()
    assert card[1] == ""
    for word in ("Paper:", "Recipe:", "Data:", "Command:", "Expected: not trained yet."):
        assert any(line.startswith(word) for line in card), word
    for file in ("train.py", "test.sh"):
        assert (folder / file).read_bytes() == (REPOSITORY / original / file).read_bytes()
    assert os.access(folder / "test.sh", os.X_OK)
    assert not (folder / "runs").exists()


def test_the_pages_are_as_ruff_would_have_them(pages):
    files = [str(folder / "config.py") for folder in pages.values()]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", REPOSITORY / "pyproject.toml", *files],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["own_yolo", "own_ppyoloe_s_coco", "own_class_folders_cifar100_experiments_resnet18"])
def test_every_choice_stands_below_its_reason(pages, name):
    lines = (pages[name] / "config.py").read_text().splitlines()
    for start in ("batch_size=", "lr=", "epochs=", "train_data=", "test_data=", "size=", "num_classes="):
        places = [number for number, line in enumerate(lines) if line.strip().startswith(start)]
        assert places, start
        assert lines[places[0] - 1].strip().startswith("# "), start


def test_a_second_page_on_the_same_data_says_what_differs(pages, clone):
    """By the names and in the order that test_pages holds for every page."""
    folder = make(clone, ORIGINALS[0], "second", clone / "data/yolo")
    line = card_of(folder).splitlines()[2]
    original = line.split()[2].rstrip(":")  # own_yolo, or, where that is a near copy itself, the page that it names
    assert original.startswith("own_yolo")
    pair = [load_experiment(clone / "detection_experiments" / other).config for other in (original, "second")]
    assert line == test_pages.line_for(original, test_pages.names_of_differences(*pair))
    page = folder / "config.py"
    page.write_text(page.read_text().replace("    lr=", "    lr=2 * "))
    third = make(clone, "detection_experiments/second", "third", clone / "data/two_folders")
    nearest = card_of(third).splitlines()[2].split()[2].rstrip(":")
    configs = [load_experiment(clone / "detection_experiments" / other).config for other in (nearest, "third")]
    names = test_pages.names_of_differences(*configs)
    assert names == names_of_differences(*configs, test_pages.SETTINGS)
    assert card_of(third).splitlines()[2] == test_pages.line_for(nearest, names)
    shutil.rmtree(folder)
    shutil.rmtree(third)


# ------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("num_images", "of_page", "most", "batch"),
    [
        (205, 8, 16, 8), (24, 8, 16, 4), (20, 8, 16, 4), (3, 8, 16, 3), (1, 8, 16, 1), (118_287, 64, 16, 16),
        (60, 64, 16, 8), (50_000, 256, None, 256), (900, 256, None, 128), (16, 24, None, 4), (5, 2, None, 2),
    ],
)  # fmt: skip
def test_the_batch_leaves_an_epoch_enough_steps(num_images, of_page, most, batch):
    choice = fitting.choose_batch(num_images, of_page, "page", most)
    assert choice.value == batch
    assert f"{num_images // batch} steps" in choice.why


def test_the_rate_follows_the_batch():
    assert fitting.choose_lr(0.01, 16, 64, "page").value == 0.0025
    assert fitting.choose_lr(5e-3, 8, 8, "page").value == 5e-3
    assert "0.01 for 64 images, in proportion to 16" in fitting.choose_lr(0.01, 16, 64, "page").why


class Sized(argparse.Namespace):
    """Annotations of pictures of one size with objects of one size."""

    def __init__(self, height, width, side):
        boxes = np.array([[0, 0, side, side]] * 10, dtype=np.float32)
        super().__init__(heights=np.full(5, height), widths=np.full(5, width), boxes=boxes)


@pytest.mark.parametrize(
    ("height", "width", "side", "is_square", "size"),
    [
        (480, 640, 40, False, (320, 416)),  # 40 pixels are 27 there
        (480, 640, 12, False, (480, 640)),  # small objects: all that there is
        (3000, 4000, 40, False, (480, 640)),  # and no more than that
        (640, 480, 100, False, (416, 320)),
        (480, 640, 20, False, (384, 512)),  # 20 pixels are 16 there
        (100, 1000, 50, False, (224, 416)),  # no more than twice as wide as high
        (64, 64, 20, False, (128, 128)),  # small pictures are enlarged to what the network needs
        (480, 640, 40, True, (416, 416)),
    ],
)
def test_the_size_follows_the_pictures_and_the_small_objects(height, width, side, is_square, size):
    assert fitting.choose_size(Sized(height, width, side), is_square=is_square).value == size


def test_the_sizes_that_are_drawn_follow_the_page():
    assert fitting.choose_sizes(320, tuple(range(320, 769, 32)), 640).value == tuple(range(160, 385, 32))


def test_a_category_without_objects_is_left_out_and_named(clone, tmp_path):
    """Roboflow writes the root of its categories into each json."""
    write_coco_json(tmp_path / "mine", "train", json_file="a.json", images="images")
    content = json.loads((tmp_path / "mine/a.json").read_text())
    content["categories"].insert(0, {"id": 0, "name": "objects"})
    (tmp_path / "mine/a.json").write_text(json.dumps(content))
    folder = make(clone, ORIGINALS[0], "root", tmp_path / "mine")
    assert (
        "# found in the data, in label order; left out, since the json has no object of them: objects"
        in (folder / "config.py").read_text()
    )
    assert load_experiment(folder).config.train_data.read(tmp_path).class_names == TINY_CLASSES
    shutil.rmtree(folder)


def test_weights_that_are_not_there_are_left_out_with_the_command_that_gets_them(pages):
    config = load_experiment(pages["own_ppyoloe_s_coco"]).config
    assert config.starting_weights is None
    text = " ".join((pages["own_ppyoloe_s_coco"] / "config.py").read_text().replace("#", "").split())
    assert "python -m public.weights.download cspresnet_s_imagenet" in text
    frozen = load_experiment(pages["own_ppyoloe_l_voc"]).config
    assert load_experiment(REPOSITORY / ORIGINALS[2]).config.freeze
    assert frozen.freeze == frozen.freeze_batchnorm == ()


# ------------------------------------------------------------------------------------------------- refusals


def test_nothing_is_overwritten(clone, pages):
    before = {path: path.read_bytes() for path in clone.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="own_yolo is there already, and nothing is overwritten"):
        make(clone, ORIGINALS[0], "own_yolo", clone / "data/yolo")
    assert {path: path.read_bytes() for path in clone.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("original", "name", "data", "message"),
    [
        (ORIGINALS[0], "Mine", "yolo", "NAME is 'Mine'"),
        (ORIGINALS[0], "../mine", "yolo", "NAME is '../mine'"),
        (ORIGINALS[0], "mine", "class_folders", r"have class folders: take a page such as --from imagenet_experiments"),
        (ORIGINALS[3], "mine", "yolo", r"have boxes: take a page such as --from ppyoloe_xs_bccd"),
        (ORIGINALS[0], "mine", "gone", "is neither a folder nor a .json or .yaml file"),
        ("detection_experiments/ppyoloe_xxs", "mine", "yolo", "neither the folder nor the name of an experiment"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(clone, pages, original, name, data, message):
    before = sorted(clone.rglob("*"))
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        make(clone, original, name, clone / "data" / data)
    assert sorted(clone.rglob("*")) == before


def test_originals_are_found_by_name_and_two_of_a_name_are_refused():
    assert new_experiment.find_original("ppyoloe_xs_bccd").folder == REPOSITORY / ORIGINALS[0]
    with pytest.raises(
        ValueError, match=r"2 experiments are called resnet18: cifar100_experiments/resnet18 and imagenet"
    ):
        new_experiment.find_original("resnet18")


def test_data_that_cannot_be_parted_are_refused(clone, tmp_path):
    write_voc_pair(tmp_path / "one", "test", annotations="annotations", images="images")
    for file in sorted((tmp_path / "one/annotations").iterdir())[1:]:
        file.unlink()
    with pytest.raises(ValueError, match="1 pictures are too few to hold some back"):
        make(clone, ORIGINALS[0], "mine", tmp_path / "one")
    write_yolo_pair(tmp_path / "two", "val", images="images/val", labels="labels/val")
    (tmp_path / "two/data.yaml").write_text("val: images/val\nnames: [bird, cat, dog]\n")
    with pytest.raises(ValueError, match="nothing says which part is to be trained on"):
        make(clone, ORIGINALS[0], "mine", tmp_path / "two")


# ------------------------------------------------------------------------------------------------- text


def test_constants_that_nothing_uses_are_left_out_and_the_others_kept(tmp_path):
    page = tmp_path / "config.py"
    page.write_text(
        '"""Card."""\n\nA = 1\nB = (A, 2)\nCLASSES = ("a",)\nC = B\nD = 4\n\nconfig = dict(x=D, y=CLASSES)\n'
    )
    text = PageText(page.read_text())
    text.set_constants({"CLASSES": ("(1,)", None)})
    found: dict = {}
    exec(text.text, found)
    assert found["config"] == {"x": 4, "y": (1,)}
    assert not {"A", "B", "C"} & set(found)


def test_names_are_written_as_python_reads_them():
    for name in ("cat", "a'b", 'a"b', "a\\b", "猫", "a\nb", "\udcff", 'it\'s "x"', "🐈", "\u2028"):
        assert eval(literal((name, "b"))) == (name, "b")
    assert literal('a"b') == "'a\"b'"
    assert literal(("cat",)) == '("cat",)'


def test_what_does_not_fit_into_a_line_is_written_one_entry_a_line():
    names = tuple(f"class number {number}" for number in range(9))
    lines = rendered(f"Voc(sources=('a',), classes={literal(names)})", "    ", "train_data=", ",")
    assert lines[:3] == ["    train_data=Voc(", "        sources=('a',),", "        classes=("]
    assert lines[-2:] == ["        ),", "    ),"]


def test_a_setting_of_an_inner_line_changes_that_line_alone():
    text = (REPOSITORY / ORIGINALS[0] / "config.py").read_text()
    page = PageText(text)
    page.set_inner("detector", "num_classes", "7", "why not")
    changed = [line for line in page.text.splitlines() if line not in text.splitlines()]
    assert changed == ["        # why not", "        num_classes=7,"]


# ------------------------------------------------------------------------------------------------- training


@pytest.mark.usefixtures("modes_are_put_back")
@pytest.mark.parametrize(
    "name",
    [
        "own_two_folders", "own_yolo_in_splits", "own_json_in_splits",
        "own_one_of_class_folders_cifar100_experiments_resnet18_mini", "own_class_folders_imagenet_experiments_resnet18",
    ],
)  # fmt: skip
def test_a_step_of_training_from_the_written_page(pages, clone, name, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda checkpoint, file: None)
    flags = ["--device", "cpu", "--data_root", str(clone / "data"), "--max_steps", "1", "--num_workers", "0"]
    flags += [] if "resnet" in name else ["--precision", "float32"]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    train(str(pages[name] / "train.py"))
    (metrics,) = (pages[name] / "runs").glob("*/metrics.jsonl")
    kinds = [json.loads(line)["kind"] for line in metrics.read_text().splitlines()]
    assert {"train", "eval"} <= set(kinds)


def test_the_command_checks_and_shows_the_data(clone, tmp_path, monkeypatch, capsys):
    """What it types is looked at here; tests/promises/test_typed_commands.py runs it as a user does."""
    shutil.copytree(clone / "data/two_folders", tmp_path / "my data")
    monkeypatch.chdir(tmp_path / "my data")
    typed, found = (
        [],
        [[], ["empty box", "duplicate box"], ["empty box", "truncated picture"], ["picture in two splits"]],
    )

    def run(words, env):
        """Stands in for a command; the check writes what it found, of its kinds."""
        typed.append(words)
        if words[2].endswith("check_dataset"):
            defects = [{"kind": kind, "file": "a", "message": "b"} for kind in found.pop(0)]
            (Path(words[-1]) / "defects.json").write_text(json.dumps(defects))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    folder = make(clone, ORIGINALS[0], "mine", tmp_path / "my data", page_only=False)
    assert [words[2] for words in typed] == ["public.test_scripts.check_dataset", "public.test_scripts.show_data"]
    assert all(words[3:6] == [str(folder), "--data_root", str(tmp_path)] for words in typed)
    outputs = [words[7] for words in typed]
    assert outputs == [str(folder / "runs/data"), str(folder / "runs/data/train_samples.jpg")]
    said = capsys.readouterr().out
    assert "found: VOC xml in my data/annotations/" in said
    assert re.search(rf"to train: python \S*detection_experiments/mine/train.py --data_root {tmp_path}", said)
    make(clone, ORIGINALS[0], "boxes", tmp_path / "my data", page_only=False)
    assert "training leaves the boxes out that are named above" in capsys.readouterr().out
    for name in ("again", "leak"):
        with pytest.raises(
            ValueError, match=r"the check found 1 error, see above, at which training stops or which spoils"
        ):
            make(clone, ORIGINALS[0], name, tmp_path / "my data", page_only=False)
        assert (clone / "detection_experiments" / name / "config.py").is_file()
    for name in ("mine", "boxes", "again", "leak"):
        shutil.rmtree(clone / "detection_experiments" / name)


def test_a_check_of_the_page_may_write_beside_the_data_and_not_into_them(pages, clone):
    """The data root of a new user is often the repository itself, where the page lies as well."""
    for name in ("own_two_folders", "own_yolo", "own_class_folders_imagenet_experiments_resnet18"):
        arguments = argparse.Namespace(data=str(pages[name]), data_root=str(clone / "data"), images=None)
        found = check_dataset.read(arguments)
        check_dataset._refuse_inside(clone / "data" / "report", found)
        own = clone / "data" / WRITTEN[name][1].replace(" ", "_")
        for place in (own, own / "images" / "report"):
            with pytest.raises(ValueError, match=f"lies in the data, {own}, where nothing is written"):
                check_dataset._refuse_inside(place, found)
