"""PicoDet's pages against PaddleDetection's resolved settings, as the recipes list them."""

import re
from pathlib import Path

import pytest

from public.runs.experiment import load_experiment
from public.weights.known import by_name
from tests.helpers.places import REPOSITORY

PAGES = {  # of the recipes' files; without configs/picodet/
    **{
        f"picodet_{size}_{side}_coco": f"picodet_{size}_{side}_coco_lcnet.yml"
        for size, sides in {"xs": (320, 416), "s": (320, 416), "m": (320, 416), "l": (320, 416, 640)}.items()
        for side in sides
    },
    "picodet_s_416_npu_coco": "picodet_s_416_coco_npu.yml",
    "picodet_s_192_pedestrian": "application/pedestrian_detection/picodet_s_192_lcnet_pedestrian.yml",
    "picodet_s_320_pedestrian": "application/pedestrian_detection/picodet_s_320_lcnet_pedestrian.yml",
}


def rows_of(shared: Path, yml: str) -> list[dict[str, str]]:
    """The rows about one file in the tables of the recipes: architecture, training."""
    rows, header = [], []
    for line in (shared / "recipes/ppyoloe_picodet.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        header = cells if cells[-1] == "source" else header
        if cells[-1] == f"`configs/picodet/{yml}`":
            rows.append(dict(zip(header, cells)))
    return rows


@pytest.mark.parametrize("name", PAGES)
def test_the_page_agrees_with_the_resolved_settings_of_paddledetection(shared, name):
    config = load_experiment(REPOSITORY / "detection_experiments" / name).config
    detector = config.detector
    architecture, training = rows_of(shared, PAGES[name])
    assert detector.backbone == f"lcnet_{round(100 * float(architecture['LCNet scale'])):03d}"
    assert detector.neck.replace("_", "").upper() == architecture["neck"]
    assert detector.channels == int(architecture["neck channels"]) == int(architecture["head channels"])
    assert detector.head_convs == int(architecture["head convs per level"])
    assert detector.activation == architecture["neck act"].removesuffix(" (default)").replace("hard_swish", "hardswish")
    assert (detector.reg_max, detector.num_classes) == (int(architecture["reg_max"]), int(architecture["classes"]))
    assert str(list(detector.strides)) == architecture["strides"]
    assert (config.epochs, config.lr) == (int(training["epochs"]), float(training["base LR"]))
    assert config.batch_size == int(training["batch/GPU"]) * int(training["GPUs"])
    assert detector.static_assigner_epochs == int(training["static assigner until epoch"])
    assert training["eval size"] == "x".join(map(str, config.input.size))
    assert training["weight decay"] == f"L2 {config.optimizer.weight_decay}"
    assert by_name(Path(config.starting_weights).name).original == training["starts from"]
    if name != "picodet_s_416_npu_coco":  # its warm-up and plateau are those of YOLOX
        horizon, start, steps = re.match(
            r"CosineDecay\(max_epochs=(\d+)\) \+ LinearWarmup\(start_factor=([\d.]+), steps=(\d+)\)",
            training["schedule + warm-up"],
        ).groups()
        assert (config.schedule.horizon_epochs, config.schedule.warmup_start) == (int(horizon), float(start))
        if "coco" in name:
            steps_per_epoch = (118_287 - 1_021) // config.batch_size
            assert config.schedule.warmup_epochs * steps_per_epoch == pytest.approx(int(steps))
