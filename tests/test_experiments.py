"""Every experiment of the repository: its files, its settings, its objects."""

import ast
import json
import subprocess

import pytest
import torch

from public import random_streams
from public.config import TrainingConfig, classes_of, freeze, thaw
from public.datasets.voc import VOC_CLASSES
from public.experiment import load_experiment
from public.training.checkpoint import load_checkpoint
from tests.experiments import ENVIRONMENT, REPOSITORY, TinyExperiment, read_metrics
from tests.tiny_data import TINY_CLASSES, write_voc

FOLDERS = sorted(p.parent for p in REPOSITORY.glob("*_experiments/*/config.py"))


def test_there_are_experiments():
    assert {"ppyoloe_xs_shapes", "ppyoloe_xs_bccd", "ppyoloe_s_voc"} <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("name", ["train.py", "test.sh"])
def test_scripts_are_byte_identical(name):
    contents = {(folder / name).read_bytes() for folder in FOLDERS}
    assert len(contents) == 1


def test_train_py_has_four_lines():
    lines = [line for line in (FOLDERS[0] / "train.py").read_text().splitlines() if line.strip()]
    assert len(lines) == 3


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_page_is_a_recipe_card_and_values(folder):
    """A docstring, imports, constants, and one configuration: no function, loop or condition."""
    page = ast.parse((folder / "config.py").read_text())
    assert "Command:" in ast.get_docstring(page)
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.ClassDef)
    assert all(isinstance(node, allowed) for node in page.body)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_settings_survive_json_and_build(folder):
    config = load_experiment(folder).config
    assert isinstance(config, TrainingConfig)
    assert thaw(json.loads(json.dumps(freeze(config))), classes_of(config)) == config
    model = config.detector.build_model()
    assert config.optimizer.build(model, config.lr).param_groups
    config.detector.build_loss()
    config.detector.build_decoder()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_help_shows_the_card_and_the_present_values(folder):
    done = subprocess.run(
        [TinyExperiment(folder, folder).command()[0], str(folder / "train.py"), "--help"],
        env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = load_experiment(folder).config
    assert "PP-YOLOE" in done.stdout
    assert f"--lr {'float'}" in " ".join(done.stdout.split())
    assert str(config.lr) in done.stdout


@pytest.mark.slow
def test_ppyoloe_s_voc_takes_two_steps_on_tiny_voc_data(tmp_path):
    """The real recipe with all its augmentation and fp16, on six small images in VOC's layout."""
    assert set(TINY_CLASSES) <= set(VOC_CLASSES)
    write_voc(tmp_path / "data", folder="VOCdevkit/VOC2012", split="train", num_images=8, seed=1)
    write_voc(tmp_path / "data", folder="VOCdevkit/VOC2012", split="val", num_images=2, seed=2)
    experiment = TinyExperiment(REPOSITORY / "detection_experiments" / "ppyoloe_s_voc", tmp_path / "data")
    copy = tmp_path / "ppyoloe_s_voc"
    copy.mkdir()
    for name in ("config.py", "train.py"):
        (copy / name).write_bytes((experiment.folder / name).read_bytes())
    copied = TinyExperiment(copy, tmp_path / "data")
    log = copied.train(fails=True)
    assert "pretrained/ppyoloe_s_coco.pth" in log
    assert "--starting_weights none" in log
    copied.train("--starting_weights", "none", "--max_steps", "2")
    (run,) = copied.runs
    assert len([line for line in read_metrics(run) if line["kind"] == "train"]) == 1, "the last step is printed"
    trained = load_checkpoint(run / "latest.pth")["training"]["raw_model"]
    config = load_experiment(run).config
    random_streams.seed_torch(config.seed, "model")
    initial = config.detector.build_model().state_dict()
    convolutions = [name for name, value in initial.items() if value.ndim == 4]
    unmoved = {name for name in convolutions if torch.equal(initial[name], trained[name])}
    # These start at 0, so no weight decay moves them, and a level without an object gives them no gradient.
    assert unmoved < {f"head.pred_reg.{level}.weight" for level in range(3)}
