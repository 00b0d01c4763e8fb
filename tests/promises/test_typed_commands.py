"""The commands of the documentation, typed one after the other as a reader would, on tiny data.

A walk is a list of commands as the pages write them; `test_documentation` holds that each of them stands on a page, and that
each command on a page is in a walk here or named with the test that runs it.  What is not as on the page is said in place:
`fill` says what stands for `RUN` or `<time>`, `shorten` what makes a training short.
"""

import ast
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from public.checkpoint_files import load_checkpoint, save_atomic
from public.datasets.drawn_cifar import draw_cifar
from public.datasets.shapes import draw_shapes
from public.models import create_model
from public.runs.experiment import load_experiment
from tests.helpers.documents import blocks, read
from tests.helpers.drawn_layouts import LAYOUTS
from tests.helpers.tiny_data import write_picture
from tests.helpers.tiny_layouts import write_layout
from tests.helpers.typed import Clone

DEMO = "detection_experiments/ppyoloe_xs_shapes"
DETECT = "python -m public.test_scripts.detect"
DATA = "--data_root <folder that holds mine/>"
# of a page in bf16, which takes ten times as long on a CPU without instructions for it; test_experiments trains in it
SHORT = "--max_steps 1 --num_workers 0 --precision float32"
WALKS = {  # name: commands in their order
    "train": (
        f"cd {DEMO}",
        "python train.py",
        "python train.py --resume none",
        "./test.sh path/to/weights.pth --split test",
        "python -m public.test_scripts.reproduce runs/<time>",
    ),
    "look": (
        "python -m public.test_scripts.analyze_logs RUN... --keys loss AP lr -o curves.png",
        "python -m public.test_scripts.compare RUN_OR_EXPERIMENT... --sort AP",
        "python -m public.test_scripts.flops EXPERIMENT --shape 640 640 --fuse --depth 2",
        "python -m public.test_scripts.benchmark EXPERIMENT [weights] --fuse --bf16 --batch_sizes 1 8",
        "python -m public.test_scripts.show_assignment EXPERIMENT [weights] --images 4",
        f"python -m public.test_scripts.show_assignment {DEMO}",
    ),
    "use": (
        f"{DETECT} {DEMO} street.jpg",
        f"{DETECT} path/to/best.pth photos/ --recursive --score_threshold 0.5 --output found",
        f"public/test_scripts/detect_single_image.sh {DEMO} street.jpg",
    ),
    "new experiment": (
        "python -m public.test_scripts.check_dataset mine/",
        "python -m public.test_scripts.show_data mine/",
        "python -m public.test_scripts.new_experiment mine --from ppyoloe_xs_bccd --data mine/",
        "cd detection_experiments/mine",
        f"python train.py {DATA}",
    ),
    "own data": (
        "mkdir detection_experiments/mine",
        "cp detection_experiments/ppyoloe_xs_bccd/{config.py,train.py,test.sh} detection_experiments/mine/",
        f"python -m public.test_scripts.show_data detection_experiments/mine {DATA}",
        "cd detection_experiments/mine",
        f"python train.py {DATA}",
    ),
    "labels": (
        "python -m public.test_scripts.yolo_to_coco mine/images/train mine/labels/train --names mine/data.yaml "
        "-o mine/train.json",
    ),
    "classify": (
        "cd cifar100_experiments/resnet18_mini",
        "python train.py",
        "./test.sh",
        "python -m public.test_scripts.classify cifar100_experiments/resnet18_mini picture.png",
    ),
    "benchmarks": (
        "python -m benchmarks.determinism",
        "python -m benchmarks.train_step",
        "python -m benchmarks.train_step --parts --model yolox_s --size 640 --batch 8 --objects 20",
        "python -m benchmarks.train_step --parts --model ppyoloe_xs --teacher ppyoloe_s",
        "python -m benchmarks.distilled_step",
        "python -m benchmarks.reduction",
        "python -m benchmarks.evaluation",
        "python -m benchmarks.read_image",
        "python -m benchmarks.data_pipeline",
        "python -m benchmarks.pipelines",
        "python -m benchmarks.pipelines imagenet_experiments/resnet50 --sides 1500 2000 --pictures 8 --use_reduced",
        "python -m benchmarks.deformable",
        "python -m benchmarks.postprocess",
        "python -m benchmarks.annotations",
        "python -m benchmarks.peers",
        "python -m benchmarks.start",
    ),
}


@pytest.fixture(scope="module")
def trained() -> Iterator[Clone]:
    """A clone whose demo has been trained for an epoch of two steps, by the README's words; `said`: the log."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clone = Clone(root / "clone", root / "data")
        draw_shapes(str(clone.data_root / "shapes"), num_train=32, num_val=8, size=128, seed=0)
        page = clone.copy(DEMO) / "config.py"
        text = page.read_text()
        val = re.search(r"val_data=(.*),$", text, re.MULTILINE)[1]
        assert text.count("test_data=None") == 1
        page.write_text(
            text.replace("test_data=None", f"test_data={val}")
        )  # so that --split test has something to show
        clone.shorten["python train.py"] = "--epochs 1 --num_workers 0"
        enter, train = WALKS["train"][:2]
        clone.type(enter)
        clone.said = clone.type(train)
        yield clone


def run_of(clone: Clone) -> Path:
    """The first run of the demo."""
    return min(file.parent for file in (clone.root / DEMO / "runs").glob("*/manifest.json"))


def digests_said(text: str) -> str:
    return re.search(r"digests after step .*", text)[0]


@pytest.mark.slow
def test_train_run_it_twice_and_evaluate(trained):
    """Two runs show the same digests, a run is reproduced, and test.sh evaluates the weights that it is given."""
    trained.folder = trained.root / DEMO
    run = run_of(trained)
    trained.fill = {"runs/<time>": f"runs/{run.name}", "path/to/weights.pth": f"runs/{run.name}/best.pth"}
    again, test, reproduce = WALKS["train"][2:]
    assert digests_said(trained.type(again)) == digests_said(trained.said)
    assert load_checkpoint(run / "best.pth")["digest"][:16] in trained.type(test)
    assert (run / "best_test_evaluation").is_dir()
    assert "equal" in trained.type(reproduce)


@pytest.mark.slow
def test_look_at_runs(trained):
    trained.folder = trained.root
    trained.fill = {"RUN_OR_EXPERIMENT...": DEMO, "RUN...": DEMO, "EXPERIMENT [weights]": DEMO, "EXPERIMENT": DEMO}
    trained.shorten["python -m public.test_scripts.benchmark"] = "--repeats 1 --warmup 0"
    for command in WALKS["look"]:
        assert trained.type(command).strip(), command
    assert (trained.root / "curves.png").stat().st_size > 0


@pytest.mark.slow
def test_use_trained_weights(trained, monkeypatch):
    """In images by the commands, and in Python by the pages' own code."""
    trained.folder = trained.root
    pictures = sorted((trained.data_root / "shapes" / "JPEGImages").glob("*.jpg"))
    for name, picture in zip(("street.jpg", "a.jpg", "b.jpg", "photos/more/c.jpg"), pictures):
        (trained.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, trained.root / name)
    trained.fill = {"path/to/best.pth": str(run_of(trained) / "best.pth")}
    for command in WALKS["use"]:
        trained.type(command)
    assert (trained.root / "street_detections.jpg").is_file()
    assert list((trained.root / "found").rglob("detections.json"))
    monkeypatch.chdir(trained.root)
    for page in ("README.md", "docs/use.md"):
        names: dict = {}
        exec(blocks(read(page), "python")[0], names)
        assert names["found"]["boxes"].shape == (len(names["found"]["names"]), 4)
    assert len(names["many"]) == 2


@pytest.mark.slow
def test_networks_by_name(tmp_path, monkeypatch):
    """The code of docs/use.md on networks, beside made-up weights of the names that it gives."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").mkdir()
    for name, model in (("ppyoloe_plus_s_coco", "ppyoloe_plus_s"), ("resnet50_imagenet", "resnet50")):
        network = create_model(model)
        content = {"model": network.state_dict(), "model_name": model, "num_classes": network.num_classes}
        save_atomic(content | {"keywords": {}}, tmp_path / "pretrained" / f"{name}.pth")
    names: dict = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        exec(blocks(read("docs/use.md"), "python")[1], names)
    assert all("initial values kept" in str(item.message) for item in told), "of the class layers, and of nothing else"
    assert names["model"].num_classes == 20
    assert tuple(names["maps"].out_strides) == (8, 16, 32)
    assert names["classifier"](torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def lay_over(page: Path, block: str) -> None:
    """Writes what a page of documentation says into a config.py, as its reader would: over the lines of the same names."""
    text = page.read_text().replace("num_classes=3", "num_classes=2")
    for node in ast.parse(block).body:
        source = ast.get_source_segment(block, node)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):  # "val_data=...," : a setting
            name = node.targets[0].id
            text, count = re.subn(rf"^    {name}=.*,$", f"    {source}", text, flags=re.MULTILINE)
            assert count == 1, f"{name} does not stand in one line of {page}"
        else:  # imports, and what stands above config
            text = text.replace("\nconfig = ", f"\n{source}\n\nconfig = ", 1)
    page.write_text(text)


@pytest.mark.slow
def test_own_data(tmp_path):
    """The steps by hand of docs/own_data.md: copy, write what the page says, in each of its four ways, show, train."""
    clone = Clone(tmp_path / "clone", tmp_path / "data")
    clone.copy("detection_experiments/ppyoloe_xs_bccd")
    clone.fill["<folder that holds mine/>"] = str(clone.data_root)
    clone.shorten |= {
        "python train.py": SHORT,
        "python -m public.test_scripts.show": "--num_images 4",
    }
    make, copy, show, enter, train = WALKS["own data"]
    clone.type(make)
    clone.type(copy)
    page = clone.root / "detection_experiments" / "mine" / "config.py"
    original = page.read_text()
    in_voc, in_coco, in_yolo, split, balanced = blocks(read("docs/own_data.md"), "python")
    for parts in ((in_coco,), (in_yolo,), (in_voc,), (split, balanced)):
        page.write_text(original)
        for part in (in_voc, *parts):
            lay_over(page, part)
        if split not in parts:  # which reads what is there
            write_layout(load_experiment(page.parent).config, clone.data_root, num_images=12)
        clone.type(show)
        (clone.folder / "mine_train_samples.jpg").unlink()
    clone.type(enter)
    assert "digests after step 1" in clone.type(train)


@pytest.mark.slow
def test_a_new_experiment(tmp_path):
    """As a new user does: data in the folder of the repository, two commands to a training."""
    clone = Clone(tmp_path / "clone", tmp_path / "data")
    clone.copy("detection_experiments/ppyoloe_xs_bccd")
    LAYOUTS["two folders"].write(clone.root / "mine")
    before = {path: path.read_bytes() for path in (clone.root / "mine").rglob("*") if path.is_file()}
    clone.fill["<folder that holds mine/>"] = str(clone.root)
    clone.shorten |= {
        "python train.py": SHORT,
        "python -m public.test_scripts.show": "--num_images 4",
    }
    check, show, new, enter, train = WALKS["new experiment"]
    for command in (check, show, new):
        assert "VOC xml in mine/annotations/ and pictures in mine/images/" in clone.type(command)
    assert (clone.root / "mine_check/report.txt").is_file()
    assert (clone.root / "mine_all_samples.jpg").is_file()
    written = clone.root / "detection_experiments/mine"
    assert {file.name for file in (written / "runs/data").iterdir()} >= {"report.txt", "train_samples.jpg"}
    after = {path: path.read_bytes() for path in (clone.root / "mine").rglob("*") if path.is_file()}
    assert after == before, "nothing is written into the user's data"
    clone.type(enter)
    assert "digests after step 1" in clone.type(train)


def test_yolo_labels(tmp_path):
    clone = Clone(tmp_path / "clone", tmp_path)
    clone.folder = tmp_path
    write_picture(tmp_path / "mine/images/train/a.png", np.zeros((40, 80, 3), dtype=np.uint8))
    (tmp_path / "mine/labels/train").mkdir(parents=True)
    (tmp_path / "mine/labels/train/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "mine/data.yaml").write_text("names:\n  0: cat\n  1: dog\n")
    clone.type(WALKS["labels"][0])
    assert '"dog"' in (tmp_path / "mine/train.json").read_text()


@pytest.mark.slow
def test_classification(tmp_path):
    clone = Clone(tmp_path / "clone", tmp_path / "data")
    draw_cifar(clone.data_root / "cifar-shapes-python", num_train=128, num_test=24, seed=0)
    clone.copy("cifar100_experiments/resnet18_mini")
    clone.shorten["python train.py"] = "--epochs 1 --num_workers 0"
    enter, train, test, classify = WALKS["classify"]
    clone.type(enter)
    assert "digests after step 2" in clone.type(train)
    assert "top1_error" in clone.type(test)
    clone.folder = clone.root
    write_picture(clone.root / "picture.png", np.zeros((32, 32, 3), dtype=np.uint8))
    assert "picture.png" in clone.type(classify)


@pytest.mark.slow
def test_benchmarks_start(tmp_path):
    """The programs of docs/measured.md run to their end on little; what they measure is not looked at."""
    clone = Clone(tmp_path / "clone", tmp_path)
    clone.shorten |= {
        "python -m benchmarks.determinism": "--rounds 1 --size 64 --batch 2",
        "python -m benchmarks.train_step": "--rounds 1 --size 64 --batch 2",
        "python -m benchmarks.distilled_step": "--rounds 1 --size 64 --batch 2 --teacher ppyoloe_xs",
        "python -m benchmarks.reduction": "--rounds 1 --size 32 --model resnet18",
        "python -m benchmarks.evaluation": "--images 4 --rounds 1",
        "python -m benchmarks.read_image": "--most 4 --rounds 1",
        "python -m benchmarks.data_pipeline": "--pictures 4 --samples 2",
        "python -m benchmarks.pipelines": "--pictures 4 --samples 9",
        "python -m benchmarks.deformable": "--size 64 --rounds 1",
        "python -m benchmarks.postprocess": "--anchors 4000 --classes 2 --rounds 1",
        "python -m benchmarks.annotations": "--images 30 --workers 1 --ways columns",
        "python -m benchmarks.peers": "--short --only labelled metric programs",
        "python -m benchmarks.start": "--rounds 1",
    }
    for command in WALKS["benchmarks"]:
        assert clone.type(command).strip(), command
