"""YOLOX's pages against the recipe's tables of Megvii's settings."""

import re
from pathlib import Path

import pytest

from public.config import scale_epochs
from public.runs.experiment import load_experiment
from public.transforms.rules import Until, all_of
from tests.helpers.places import REPOSITORY

SIZES = ("nano", "tiny", "s", "m", "l", "x", "darknet53")


def config_of(name: str):
    return load_experiment(REPOSITORY / "detection_experiments" / name).config


def tables_of(shared: Path) -> dict[str, list[str]]:
    """The rows of the part on YOLOX, by their first cell; where two begin alike, the later one."""
    text = (shared / "recipes/yolox_and_torch.md").read_text()
    lines = text[text.index("## 1. YOLOX") : text.index("## 2. YOLOF")].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def cell(row: list[str], size: str) -> str:
    """Of the columns nano, tiny, and s and up."""
    text = row[{"nano": 0, "tiny": 1}.get(size, 2)]
    return row[0] if text == "same" else text


@pytest.mark.parametrize("size", SIZES)
def test_the_page_agrees_with_the_tables_of_the_recipe(shared, size):
    config, rows = config_of(f"yolox_{size}_coco"), tables_of(shared)
    transforms = {type(transform).__name__: transform for transform in all_of(config.train_transforms)}
    side = int(cell(rows["train input"], size))
    assert config.input.size == (side, side)
    assert transforms["FitWhenRead"].size == transforms["Mosaic"].size == transforms["Letterbox"].size == (side, side)
    first, last = map(int, re.search(r"= (\d+)\.\.(\d+)", cell(rows["multi-scale draw"], size)).groups())
    assert config.batch_transforms[0].sizes == tuple(range(first, last + 1, 32))
    assert f"every {config.batch_transforms[0].every} iterations" in rows["multi-scale period"][0]
    mosaic = transforms["Mosaic"]
    assert mosaic.prob == float(cell(rows["mosaic probability"], size))
    low, high = map(float, cell(rows["affine scale"], size).split(".."))
    assert mosaic.affine.scale == (low, high)
    assert rows["rotation, shear (x and y)"][0] == f"+-{mosaic.affine.rotation:g} deg, +-{mosaic.affine.shear:g} deg"
    assert rows["translation"][0] == f"+-{mosaic.affine.translate:g} x input size"
    centre = (
        f"uniform {mosaic.center[0]:g}..{mosaic.center[1]:g} x input, canvas 2 x input, fill {mosaic.affine.fill[0]}"
    )
    assert rows["mosaic centre"][0] == centre
    mixup = cell(rows["mixup"], size)
    assert ("BlendPartner" in transforms) == (mixup != "off")
    if mixup != "off":
        blend = transforms["BlendPartner"]
        jitter = f"{blend.scale[0]:g}..{blend.scale[1]:g}"
        assert mixup == f"on, p {blend.prob:.1f}, jitter {jitter}, flip p {blend.flip_prob:g}, blend 0.5/0.5"
    hsv = transforms["HSVJitter"]
    assert f"up to {hsv.hue} / {hsv.saturation} / {hsv.value} on OpenCV HSV" in rows["HSV"][0]
    assert f"p {transforms['RandomFlip'].prob:g}" == rows["horizontal flip"][0]
    assert f"min(w, h) > {transforms['DropThin'].min_side:g} px kept" in rows["label filter"][0]


@pytest.mark.parametrize("size", SIZES)
def test_the_page_has_the_schedule_and_the_figures_that_are_published(shared, size):
    config, rows = config_of(f"yolox_{size}_coco"), tables_of(shared)
    assert config.lr == pytest.approx(0.01 / 64 * config.batch_size)
    assert rows["epochs"][0].startswith(
        f"{config.epochs}, of which last {config.epochs - config.schedule.horizon_epochs} "
    )
    assert f"from epoch index {config.detector.l1_from_epoch} of" in rows["mosaic/mixup off"][0]
    assert rows["warm-up"][0].startswith(f"{config.schedule.warmup_epochs} epochs, quadratic from 0")
    assert f"decay {config.ema.decay} x (1 - exp(-n/{config.ema.ramp_updates}))" in rows["EMA"][0]
    card = " ".join(config_docstring(size).split())
    _, val, test = rows[size][:3]  # of the table that comes last, the published one
    assert f"Expected: AP {float(val) / 100:.3f} on val2017" in card
    assert (f"AP {float(test) / 100:.3f} on test-dev" in card) if test != "-" else ("test-dev" not in card)


def config_docstring(size: str) -> str:
    text = (REPOSITORY / f"detection_experiments/yolox_{size}_coco/config.py").read_text()
    return text.split('"""')[1]


@pytest.mark.parametrize("name", [*(f"yolox_{size}_coco" for size in SIZES), "yolox_s_voc"])
def test_mosaic_ends_where_l1_begins_and_a_page_says_it_once(name):
    """Also when `--epochs_scaling linear` makes the run shorter."""
    page = (REPOSITORY / f"detection_experiments/{name}/config.py").read_text().split('"""')[2]
    config = config_of(name)
    for factor in (1, 0.1, 0.01):
        scaled, _ = scale_epochs(config, factor)
        (ending,) = (transform for transform in scaled.train_transforms if isinstance(transform, Until))
        assert ending.epoch == scaled.detector.l1_from_epoch
    epoch = config.detector.l1_from_epoch
    assert re.findall(rf"\b{epoch}\b", page) == [str(epoch)]
