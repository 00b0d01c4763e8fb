"""Sets from which something cannot come out: said once at the start; what cannot be measured chooses no weights."""

import json
import re

import numpy as np
import pytest
import torch

from public.config import replace
from public.datasets.annotations import agree_on_classes
from public.datasets.classification_set import ClassificationSet
from public.datasets.coco import Coco
from public.datasets.image_folder import ImageFolder
from public.datasets.voc import Voc
from public.datasets.yolo import convert_yolo
from public.inference.trained import find_checkpoint
from public.runs.experiment import load_experiment
from public.runs.records import read_run
from public.runs.run_folder import newest_weights
from public.settings import SettingError
from public.tasks import make_task
from tests.helpers.experiments import TinyExperiment, read_manifest, read_metrics
from tests.helpers.forked_training import train
from tests.helpers.small_task import make_trainer
from tests.helpers.tiny_data import write_coco, write_voc, write_voc_xml

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------ val without objects


def empty_val(data_root, objects=()):
    for file in (data_root / "tiny/Annotations").glob("val_*.xml"):
        write_voc_xml(file, size=(48, 64), objects=list(objects))


def test_a_run_without_objects_in_val_says_so_once_and_has_no_best(tmp_path):
    experiment = TinyExperiment.create(tmp_path)
    empty_val(experiment.data_root)
    log = train(experiment, "--epochs", "3", "--early_stop", "1")
    assert len(re.findall("warning: ", log)) == 1
    assert "warning: val: VOC tiny/val has no object that AP could find" in log
    assert "the best so far" not in log
    assert log.count("(best AP -)") == 3  # and early stop counted none of the evaluations
    assert "best AP -: no evaluation could measure it; the last weights are" in log
    (run,) = experiment.runs
    assert not (run / "best.pth").exists()
    assert read_manifest(run)["finished"]["best"] is None
    assert [line["metrics"]["AP"] for line in read_metrics(run) if line["kind"] == "eval"] == [None] * 3
    assert newest_weights(load_experiment(experiment.folder)) == run / "latest.pth"
    assert find_checkpoint(run) == run / "latest.pth"  # what the commands use


@pytest.mark.parametrize(
    ("values", "bests"),
    [
        ([None, None], [None, None]),
        ([None, 0.0, 0.0, None, 0.1], [None, 0.0, 0.0, 0.0, 0.1]),
        ([float("nan"), 0.2, float("nan"), 0.3], [None, 0.2, 0.2, 0.3]),  # NaN would be the best for ever
    ],
)
def test_what_an_evaluation_makes_of_the_best(config, tmp_path, monkeypatch, values, bests):
    trainer = make_trainer(config, torch.nn.Linear(2, 2), tmp_path)
    saved = []
    for name in ("save", "save_best"):
        monkeypatch.setattr(trainer, name, lambda *_, name=name: saved.append(name))
    for name in ("evaluate", "summary", "best_text", "draw_predictions", "write_bad_samples"):
        monkeypatch.setattr(trainer.task, name, lambda *_, **__: 0, raising=False)
    monkeypatch.setattr("public.training.loop.draw_curves", lambda *_: None)
    for value, best in zip(values, bests):
        monkeypatch.setattr(trainer.task, "evaluate", lambda _, value=value: {"AP": value})
        before = trainer.state.evaluations_without_best
        trainer.evaluate()
        assert trainer.state.best == best
        if value is None or value != value:
            assert trainer.state.evaluations_without_best == before
    assert saved.count("save_best") == len(set(bests) - {None})


def test_weights_of_a_network_that_is_not_yet_what_it_becomes_cannot_be_the_best(config, tmp_path, monkeypatch):
    """A network that is pruned until its third epoch is better before, and would be kept with all its weights."""
    trainer = make_trainer(config, torch.nn.Linear(2, 2), tmp_path)
    saved = []
    for name in ("save", "save_best"):
        monkeypatch.setattr(trainer, name, lambda *_, name=name: saved.append(name))
    for name in ("summary", "best_text", "draw_predictions", "write_bad_samples"):
        monkeypatch.setattr(trainer.task, name, lambda *_, **__: 0, raising=False)
    monkeypatch.setattr(trainer.task, "ready_epoch", 3)
    lines = []
    monkeypatch.setattr(trainer.reporter, "line", lines.append)
    monkeypatch.setattr(trainer.reporter, "run", trainer.run)
    monkeypatch.setattr("public.training.loop.draw_curves", lambda *_: None)
    for epoch, (value, best) in enumerate([(0.9, None), (0.8, None), (0.5, 0.5), (0.6, 0.6)], start=1):
        monkeypatch.setattr(trainer.task, "evaluate", lambda _, value=value: {"AP": value}, raising=False)
        trainer.state.step = epoch * trainer.steps_per_epoch
        trainer.evaluate()
        assert trainer.state.best == best
        assert trainer.state.evaluations_without_best == 0
    assert saved.count("save_best") == 2
    assert ["(cannot be the best before epoch 3)" in line for line in lines] == [True, True, False, False]
    assert [line.get("ready", True) for line in read_metrics(trainer.run.path)] == [False, False, True, True]
    record = read_run(trainer.run.path)
    record.settings["best_metric"] = "AP"
    assert record.metric("AP") == (0.6, 0.6)
    assert record.best_evaluation()["epoch"] == 4


def warnings_of(config, data_root):
    return make_task(config, data_root=data_root, device=CPU, limit_images=None).warnings()


@pytest.mark.parametrize(
    ("objects", "metric", "is_told"),
    [
        ([], "AP", True),
        ([], "voc_AP50", True),
        ([("cat", (4, 4, 30, 30), False)], "AP", False),
        ([("cat", (4, 4, 30, 30), True)], "AP", False),  # COCO's metric counts difficult objects, VOC's does not
        ([("cat", (4, 4, 30, 30), True)], "voc_AP50", True),
        ([("cat", (4, 4, 30, 30), False)], "APs", False),
        ([("cat", (4, 4, 30, 30), False)], "APm", True),
        ([("cat", (0, 0, 64, 48), False)], "ARm", False),
        ([("cat", (0, 0, 64, 48), False)], "APl", True),
    ],
)
def test_what_the_best_metric_cannot_find_is_told(config, tmp_path, objects, metric, is_told):
    write_voc(tmp_path, folder="tiny", split="train", num_images=14, seed=1)
    write_voc(tmp_path, folder="tiny", split="val", num_images=2, seed=2)
    empty_val(tmp_path, objects)
    lines = [line for line in warnings_of(replace(config, best_metric=metric), tmp_path) if "val: " in line]
    assert len(lines) == is_told
    if is_told:
        assert f"no object that {metric} could find" in lines[0]


def test_classes_without_an_object_to_train_on_are_told(config, tmp_path):
    write_voc(tmp_path, folder="tiny", split="train", num_images=14, seed=1)
    write_voc(tmp_path, folder="tiny", split="val", num_images=3, seed=2)
    assert warnings_of(config, tmp_path) == []
    classes = ("bird", "cat", "dog", "unicorn")
    settings = replace(
        config,
        train_data=replace(config.train_data, classes=classes),
        detector=replace(config.detector, num_classes=4),
    )
    assert warnings_of(settings, tmp_path) == [
        "warning: train: there is no object to train on of 1 classes: ('unicorn',)"
    ]


# ------------------------------------------------------------------------------------------ a root category


def write_root(data_root, *, root=None, used=False):
    """A json of tiny pictures whose categories hang below one that Roboflow would put before them."""
    write_coco(data_root, num_images=4, category_ids=(1, 2, 3))
    path = data_root / "annotations/train.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, root or {"id": 0, "name": "animals", "supercategory": "none"})
    if used:
        content["annotations"][0]["category_id"] = content["categories"][0]["id"]
    path.write_text(json.dumps(content))


def read_root(data_root, classes=None, on_defect=None):
    data = Coco(annotations="annotations/train.json", images="images", classes=classes, keep_empty_images=True)
    return data.read(data_root) if on_defect is None else data.read(data_root, on_defect=on_defect)


@pytest.mark.parametrize(
    "root", [None, {"id": 0, "name": "animals"}, {"id": 9, "name": "animals", "supercategory": "animals"}]
)
def test_a_root_category_without_objects_is_told(tmp_path, config, root):
    write_root(tmp_path, root=root)
    defects = []
    annotations = read_root(tmp_path, on_defect=defects.append)
    assert "animals" in annotations.class_names  # it is a class, as the file says
    (line,) = annotations.warnings
    assert "train.json: the category 'animals' (id " in line
    assert "supercategory of ('bird', 'cat', 'dog')" in line
    assert "to leave it out: classes=('bird', 'cat', 'dog')" in line
    assert [defect.message for defect in defects if defect.kind == "root category"] == [line]
    assert not defects[0].is_error
    assert annotations.take([0], "part").warnings == [line]
    without = read_root(tmp_path, classes=("bird", "cat", "dog"))
    assert (without.warnings, without.class_names) == ([], ("bird", "cat", "dog"))
    data = Coco(annotations="annotations/train.json", images="images", classes=None, keep_empty_images=True)
    with pytest.raises(ValueError, match=r"has 4 classes .* num_classes = 3\. .*'animals' .* has no object"):
        warnings_of(replace(config, train_data=data, val_data=data), tmp_path)
    settings = replace(config, train_data=data, val_data=data, detector=replace(config.detector, num_classes=4))
    told = warnings_of(settings, tmp_path)
    assert f"warning: train: {line}" in told
    assert "warning: train: there is no object to train on of 1 classes: ('animals',)" in told


def test_other_categories_are_not_taken_for_a_root(tmp_path):
    write_root(tmp_path, used=True)  # it has objects of its own
    assert read_root(tmp_path).warnings == []
    write_root(tmp_path, root={"id": 0, "name": "cow", "supercategory": "animals"})  # nothing hangs below it
    assert read_root(tmp_path).warnings == []


# ------------------------------------------------------------------------------------------ a text for a tuple


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ImageFolder(folder="x", classes="ab", num_classes=None), "ImageFolder.classes"),
        (lambda: Voc(sources=("x/*",), classes="ab", use_difficult=True, keep_empty_images=True), "Voc.classes"),
        (lambda: Voc(sources="ab", classes=None, use_difficult=True, keep_empty_images=True), "Voc.sources"),
        (lambda: Coco(annotations="x", images="y", classes="ab", keep_empty_images=True), "Coco.classes"),
    ],
)
def test_a_text_in_the_place_of_names_is_refused_with_the_remedy(make, name):
    with pytest.raises(SettingError, match=rf"{name} is the text 'ab'; a tuple of one name has a comma: \('ab',\)"):
        make()


@pytest.mark.parametrize("name", ["freeze", "freeze_batchnorm", "metrics"])
def test_a_text_for_names_of_a_page_is_refused_with_the_remedy(config, name):
    with pytest.raises(SettingError, match=rf"{name} is the text 'coco'; a tuple of one name has a comma: \('coco',\)"):
        replace(config, **{name: "coco"})


def test_where_the_comma_is_no_remedy_it_is_not_named(config):
    with pytest.raises(SettingError, match=r"metrics is 'ap'; it must be a tuple of coco or voc"):
        replace(config, metrics="ap")
    with pytest.raises(SettingError, match=r"sizes is '64'; it must be"):
        replace(config.batch_transforms[0], sizes="64")


def test_no_function_reads_names_letter_by_letter(tmp_path):
    with pytest.raises(SettingError, match=r"class_names is the text 'ab'; a tuple of one name has a comma: \('ab',\)"):
        agree_on_classes(None, "ab", "a set")
    with pytest.raises(SettingError, match="the text 'ab'"):
        convert_yolo(tmp_path, tmp_path, "ab", polygons=False, unused_labels=False)
    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(SettingError, match="class_names is the text 'ab'"):
        ClassificationSet(
            images=pixels, image_root=None, labels=[0, 1], class_names="ab", image_ids=["1", "2"], description="a set"
        )
