"""PPYOLOE's sizes against PaddleDetection's checkpoints: every name and shape, also of the sizes without an oracle.

`paddle_entries` writes down a checkpoint's names and shapes from the recipe's numbers, apart from our networks.  It must
give the lists of the three oracles exactly, and our networks must take the lists of all sizes.
"""

import json

import numpy as np
import pytest
import torch

from public.families import published
from public.models import create_model
from public.weights.detectors.ppyoloe import rename_ppyoloe
from tests.figures.make_figures import load_figures

# name -> stem and stage channels, blocks a stage, neck channels (32, 16, 8), neck blocks, class count; recipes, section 1
SIZES = {
    "s": ((32, 64, 128, 256, 512), (1, 2, 2, 1), (384, 192, 96), 1),
    "m": ((48, 96, 192, 384, 768), (2, 4, 4, 2), (576, 288, 144), 2),
    "l": ((64, 128, 256, 512, 1024), (3, 6, 6, 3), (768, 384, 192), 3),
    "x": ((80, 160, 320, 640, 1280), (4, 8, 8, 4), (960, 480, 240), 4),
    "t": ((24, 48, 96, 192, 384), (1, 2, 2, 1), (144, 144, 144), 1),
}


def conv_bn(name: str, inside: int, outside: int, kernel: int) -> list:
    parts = [[f"{name}.bn.{part}", [outside]] for part in ("weight", "bias", "_mean", "_variance")]
    return [[f"{name}.conv.weight", [outside, inside, kernel, kernel]], *parts]


def rep_vgg(name: str, channels: int) -> list:
    return conv_bn(f"{name}.conv1", channels, channels, 3) + conv_bn(f"{name}.conv2", channels, channels, 1)


def plain_conv(name: str, inside: int, outside: int, kernel: int) -> list:
    return [[f"{name}.weight", [outside, inside, kernel, kernel]], [f"{name}.bias", [outside]]]


def backbone_entries(channels, blocks, has_alpha: bool) -> list:
    stem = channels[0]
    entries = conv_bn("backbone.stem.conv1", 3, stem // 2, 3) + conv_bn("backbone.stem.conv2", stem // 2, stem // 2, 3)
    entries += conv_bn("backbone.stem.conv3", stem // 2, stem, 3)
    for i, (inside, outside, count) in enumerate(zip(channels, channels[1:], blocks)):
        name, middle = f"backbone.stages.{i}", (inside + outside) // 2
        half = middle // 2
        entries += conv_bn(f"{name}.conv_down", inside, middle, 3)
        entries += conv_bn(f"{name}.conv1", middle, half, 1) + conv_bn(f"{name}.conv2", middle, half, 1)
        for j in range(count):
            entries += conv_bn(f"{name}.blocks.{j}.conv1", half, half, 3) + rep_vgg(f"{name}.blocks.{j}.conv2", half)
            entries += [[f"{name}.blocks.{j}.conv2.alpha", [1]]] if has_alpha else []
        entries += plain_conv(f"{name}.attn.fc", 2 * half, 2 * half, 1) + conv_bn(f"{name}.conv3", 2 * half, outside, 1)
    return entries


def csp_entries(name: str, inside: int, outside: int, count: int, has_spp: bool) -> list:
    half = outside // 2
    entries = conv_bn(f"{name}.conv1", inside, half, 1) + conv_bn(f"{name}.conv2", inside, half, 1)
    for j in range(count):
        entries += conv_bn(f"{name}.convs.{j}.conv1", half, half, 3) + rep_vgg(f"{name}.convs.{j}.conv2", half)
    entries += conv_bn(f"{name}.convs.spp.conv", 4 * half, half, 1) if has_spp else []
    return entries + conv_bn(f"{name}.conv3", outside, outside, 1)


def neck_entries(name: str, inside, outside, count: int) -> list:
    entries, route = [], 0
    for i in range(3):
        entries += csp_entries(f"{name}.fpn_stages.{i}.0", inside[i] + route, outside[i], count, has_spp=i == 0)
        route = outside[i] // 2
    for i in range(2):
        entries += conv_bn(f"{name}.fpn_routes.{i}", outside[i], outside[i] // 2, 1)
        entries += conv_bn(f"{name}.pan_routes.{i}", outside[i + 1], outside[i + 1], 3)
        both = outside[i] + outside[i + 1]
        entries += csp_entries(f"{name}.pan_stages.{i}.0", both, outside[i], count, has_spp=False)
    return entries


def aux_head_entries(channels: int, num_classes: int) -> list:
    entries = [[f"aux_head.scales.{i}.scale", []] for i in range(3)]
    for branch, count in (("cls", num_classes), ("reg", 68)):
        name = f"aux_head.{branch}_convs.0"
        entries += [[f"{name}.conv.weight", [channels, channels, 3, 3]]]
        entries += [[f"{name}.norm.weight", [channels]], [f"{name}.norm.bias", [channels]]]
        entries += plain_conv(f"aux_head.gfl_{branch}", channels, count, 3)
    return entries


def paddle_entries(size: str, *, is_plus: bool, num_classes: int) -> list:
    channels, blocks, neck, neck_blocks = SIZES[size]
    features = channels[:1:-1]  # of the strides 32, 16, 8
    entries = backbone_entries(channels, blocks, is_plus) + neck_entries("neck", features, neck, neck_blocks)
    for i, width in enumerate(neck):
        for branch, count in (("cls", num_classes), ("reg", 68)):
            name = f"yolo_head.stem_{branch}.{i}"
            entries += plain_conv(f"{name}.fc", width, width, 1)
            entries += rep_vgg(f"{name}.conv", width) if size == "t" else conv_bn(f"{name}.conv", width, width, 1)
            entries += plain_conv(f"yolo_head.pred_{branch}.{i}", width, count, 3)
    entries += [["yolo_head.proj_conv.weight", [1, 17, 1, 1]]]
    if size == "t":
        entries += neck_entries("aux_neck", features, neck, neck_blocks) + aux_head_entries(2 * neck[0], num_classes)
    return entries


@pytest.mark.parametrize(
    ("oracle", "size"), [("ppyoloe_crn_s", "s"), ("ppyoloe_plus_crn_s", "s"), ("ppyoloe_plus_crn_t_auxhead", "t")]
)
def test_the_list_is_that_of_the_oracle(oracle, size):
    entries = paddle_entries(size, is_plus="plus" in oracle, num_classes=80)
    assert sorted(entries) == sorted(load_figures(oracle)["entries"])


@pytest.mark.parametrize("num_classes", [20, 80, 365])
@pytest.mark.parametrize("name", [f"ppyoloe_{size}" for size in "smlx"] + [f"ppyoloe_plus_{size}" for size in "tsmlx"])
def test_every_array_has_its_place(name, num_classes):
    """The renamed arrays are exactly the tensors of our network, with their shapes."""
    arrays = {  # of one number in memory, whatever the shape
        entry: np.broadcast_to(np.float32(0), shape)
        for entry, shape in paddle_entries(name[-1], is_plus="plus" in name, num_classes=num_classes)
    }
    arrays["yolo_head.proj_conv.weight"] = np.arange(17, dtype=np.float32).reshape(1, 17, 1, 1)
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
        renamed = {key: tuple(value.shape) for key, value in rename_ppyoloe(arrays).items()}
    assert renamed == {key: tuple(value.shape) for key, value in model.state_dict().items()}
    changed = {key for key, shape in renamed.items() if key.startswith(model.class_layers)}
    assert changed == {key for key, shape in renamed.items() if shape and shape[0] == num_classes and "pred_" in key}


def test_published_count_of_the_tiny_model():
    """4.85 million without the auxiliary parts; 7,946,689 with them, as measured in the reference."""
    with torch.device("meta"):
        model = create_model("ppyoloe_plus_t", num_classes=80)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(counts.values()) == 7_946_689
    used = sum(count for name, count in counts.items() if name.split(".")[0] not in model.training_only)
    assert used == pytest.approx(4.851e6, abs=500)


CONFIGS = {  # our name -> PaddleDetection's file, in the recipes
    **{f"ppyoloe_{size}": f"ppyoloe_crn_{size}_300e_coco.yml" for size in "smlx"},
    **{f"ppyoloe_plus_{size}": f"ppyoloe_plus_crn_{size}_80e_coco.yml" for size in "smlx"},
    "ppyoloe_plus_t": "ppyoloe_plus_crn_t_auxhead_300e_coco.yml",
}


def rows_of(recipes: str, section: str, file: str) -> dict[str, str]:
    """The cells of the table row in `section` whose last cell names `file`, by the heads of their columns."""
    lines = recipes.split(f"\n## {section}")[1].split("\n## ")[0].splitlines()
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    heads = next(row for row in tables if row[-1] == "source")
    (cells,) = (row for row in tables if row[-1] == f"`configs/ppyoloe/{file}`")
    return dict(zip(heads, cells, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_published_settings_are_those_of_the_recipes(shared, name):
    recipes = (shared / "recipes/ppyoloe_picodet.md").read_text()
    network, training = (rows_of(recipes, section, CONFIGS[name]) for section in ("1.", "3."))
    settings = published(name)
    assert (settings.depth, settings.width) == (float(network["depth"]), float(network["width"]))
    assert str(settings.use_alpha) == network["backbone alpha"]
    assert settings.reg_max == int(network["reg_max"])
    assert list(settings.strides) == json.loads(network["strides (order)"])
    assert settings.static_assigner_epochs == int(training["static assigner until epoch"])
    attention = {"convbn (default)": "conv"}.get(network["head attn_conv"], network["head attn_conv"])
    assert getattr(settings, "head_attention", "conv") == attention
