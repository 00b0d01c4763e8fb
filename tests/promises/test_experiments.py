"""Every experiment of the repository: its files, its settings, its objects, and two steps of training on tiny data."""

import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from public.checkpoint_files import load_checkpoint
from public.config import ClassificationConfig, DetectionConfig, TrainingConfig, classes_of, freeze, thaw
from public.datasets.voc import VOC_CLASSES
from public.families import published
from public.models.backbones import NETWORKS
from public.parts import used_part
from public.runs.experiment import load_experiment
from public.runs.starting_experiment import named_experiment
from public.training import loop, main
from public.training import run as training_run
from public.training.freezing import freeze_parameters
from public.weights.known import by_name
from tests.helpers import forked_training
from tests.helpers.experiments import ENVIRONMENT, REPOSITORY, TinyExperiment, read_metrics
from tests.helpers.forked_commands import run_test_sh
from tests.helpers.tiny_data import TINY_CLASSES, write_voc
from tests.helpers.tiny_layouts import shrunk, write_layout

FOLDERS = sorted(p.parent for p in REPOSITORY.glob("*_experiments/*/config.py"))
DETECTION = [folder for folder in FOLDERS if folder.parent.name == "detection_experiments"]
NUM_IMAGES = 5  # of each source
PUBLISHED_SIZES = ("s", "m", "l", "x")
EXPECTED_NAMES = (
    {f"ppyoloe_{size}_coco" for size in PUBLISHED_SIZES}
    | {f"ppyoloe_plus_{size}_{data}" for size in PUBLISHED_SIZES for data in ("coco", "objects365")}
    | {f"ppyoloe_{size}_voc" for size in ("xs", "s", "l")}
    | {f"ppyoloe_plus_{size}_voc" for size in ("s", "l")}
    | {f"picodet_{size}_{side}_coco" for size in ("xs", "s", "m", "l") for side in (320, 416)}
    | {"picodet_l_640_coco", "picodet_s_416_npu_coco", "picodet_s_416_esnet_coco", "picodet_s_416_voc"}
    | {"picodet_s_192_pedestrian", "picodet_s_320_pedestrian", "picodet_xs_shapes", "picodet_s_416_bccd"}
    | {"ppyoloe_plus_t_coco", "ppyoloe_plus_s_pcp", "ppyoloe_xs_bccd", "ppyoloe_xs_shapes"}
    | {f"yolox_{size}_coco" for size in ("nano", "tiny", "s", "m", "l", "x", "darknet53")}
    | {"yolox_s_voc", "yolox_nano_shapes"}
)
FCOS_NAMES = {
    *("resnet50_fcos_coco_resize667", "resnet101_fcos_coco_resize667", "resnet50_fcos_coco_resize1000"),
    *("fcos_shapes", "fcos_r18_bccd"),
}
RETINANET_NAMES = {
    *("resnet50_retinanet_coco_resize667", "resnet101_retinanet_coco_resize667", "resnet50_retinanet_coco_resize1000"),
    *("resnet50_retinanet_voc_resize667", "resnet50_retinanet_voc_resize667_from_coco", "retinanet_shapes"),
}
CENTERNET_NAMES = {"resnet18_centernet_coco_resize512", "resnet101_centernet_coco_resize512", "centernet_shapes"}
DISTILLED_NAMES = {
    *("ppyoloe_plus_s_voc_distilled_from_l", "ppyoloe_plus_m_coco_distilled_from_l"),
    *("ppyoloe_plus_l_coco_distilled_from_x", "picodet_s_416_coco_distilled_from_m"),
    *("resnet50_retinanet_coco_distilled_from_resnet101", "ppyoloe_xs_shapes_distilled", "ppyoloe_s_shapes"),
    *("ppyoloe_xs_bccd_half_distilled", "ppyoloe_xs_bccd_half", "ppyoloe_xs_bccd_half_distilled_pkd"),
}
CHANGED_NAMES = {  # quantised or pruned while they are trained, or narrower
    *("picodet_s_416_coco_qat", "picodet_s_416_coco_pruned75", "ppyoloe_plus_s_coco_qat"),
    *("ppyoloe_xs_bccd_qat", "ppyoloe_xs_bccd_pruned75", "ppyoloe_xs_bccd_pruned85", "ppyoloe_xs_bccd_slim"),
    *("ppyoloe_xs_bccd_qat_distilled", "ppyoloe_xs_bccd_qat_unlabelled"),
}
YOLOF_NAMES = {
    *("resnet50_yolof_coco", "resnet50_yolof_voc07", "shufflenetv2_yolof_voc07", "mobilenetv3_yolof_voc07"),
    *("rexnet_yolof_voc07", "repvgg_yolof_voc07", "yolov5s_yolof_voc07", "shufflenetv2_ca_acon_yolof_voc07"),
    "yolof_shapes",
}

# Their two steps take a few seconds; all others, new ones too, are slow until they are named here.
QUICK = (
    *(
        "centernet_shapes",
        "fcos_shapes",
        "picodet_xs_shapes",
        "picodet_s_416_esnet_coco",
        "retinanet_shapes",
        "ppyoloe_xs_shapes",
        "ppyoloe_xs_shapes_distilled",
        "yolof_shapes",
        "ppyoloe_xs_voc",
        "ppyoloe_s_coco",
        "ppyoloe_plus_s_pcp",
        "ppyoloe_plus_t_coco",
        "yolox_nano_shapes",
    ),
    *("cifar100_experiments/resnet18_mini", "cifar100_experiments/resnet18_mini_distilled"),
    *("imagenet_experiments/resnet18", "imagenet_experiments/regnety_200mf"),
    *("imagenet_experiments/efficientnet_b0", "imagenet_experiments/vovnet19_slim_dw_se"),
)

# Trainable parameters that miemiedetection's own classes have (commit 7193fa8, counted by instantiating them); with
# another number of classes the last layer alone differs.
TRAINABLE = {
    "ppyoloe_s_coco": 8_084_605 - 17,  # its reg_max + 1 fixed projections are parameters there
    "ppyoloe_m_coco": 24_134_909 - 17,
    "ppyoloe_l_coco": 54_078_573 - 17,
    "ppyoloe_x_coco": 102_331_501 - 17,
    "ppyoloe_plus_s_coco": 8_084_611 - 17,
    "ppyoloe_plus_m_coco": 24_134_921 - 17,
    "ppyoloe_plus_l_coco": 54_078_591 - 17,
    "ppyoloe_plus_x_coco": 102_331_525 - 17,
    "ppyoloe_xs_voc": 2_014_336,
    "ppyoloe_s_voc": 7_721_528,
    "ppyoloe_l_voc": 32_193_864,  # stem and four stages frozen
    "ppyoloe_plus_s_voc": 7_721_551 - 17,
    "ppyoloe_plus_s_pcp": 7_630_786 - 17,
    # SimpleAICV's classes (commit d25e887), counted in the same way
    "resnet50_fcos_coco_resize667": 32_297_370,
    "resnet101_fcos_coco_resize667": 51_289_498,
    # as measured at the same commit; its deformable convolutions have a bias before BatchNorm
    "resnet18_centernet_coco_resize512": 14_437_349 - (256 + 128 + 64),
    "resnet101_centernet_coco_resize512": 49_673_189 - (256 + 128 + 64),
}


def name_of(folder: Path) -> str:
    """A detection experiment's name; of the others also the data's, since both have a resnet18."""
    return folder.name if folder in DETECTION else str(folder.relative_to(REPOSITORY))


every_experiment = pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
every_detector = pytest.mark.parametrize("folder", DETECTION, ids=name_of)


def build_on_meta(config: TrainingConfig) -> torch.nn.Module:
    """The network without memory or initial values."""
    with torch.device("meta"):
        return config.network_settings.build_model()


def card_of(folder) -> str:
    return ast.get_docstring(ast.parse((folder / "config.py").read_text()))


# ---------------------------------------------------------------------------------------------- files and pages


def test_the_experiments_are_there():
    assert {
        folder.name for folder in DETECTION
    } >= EXPECTED_NAMES | FCOS_NAMES | RETINANET_NAMES | CENTERNET_NAMES | YOLOF_NAMES | DISTILLED_NAMES | CHANGED_NAMES


@pytest.mark.parametrize("name", ["train.py", "test.sh"])
def test_scripts_are_byte_identical(name):
    contents = {(folder / name).read_bytes() for folder in FOLDERS}
    assert len(contents) == 1


def test_scripts_can_be_started():
    """test.sh is executable everywhere."""
    assert [folder.name for folder in FOLDERS if not os.access(folder / "test.sh", os.X_OK)] == []


def test_train_py_has_three_lines_of_code():
    lines = [line for line in (FOLDERS[0] / "train.py").read_text().splitlines() if line.strip()]
    assert len(lines) == 3


@every_experiment
def test_page_is_a_recipe_card_and_values(folder):
    """A docstring, imports, constants, and one configuration: no function, loop or condition."""
    page = ast.parse((folder / "config.py").read_text())
    for word in ("Paper:", "Data:", "Command:", "Expected:"):
        assert word in card_of(folder), f"the card says no {word}"
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.ClassDef)
    assert all(isinstance(node, allowed) for node in page.body)
    modules = [node.module for node in page.body if isinstance(node, ast.ImportFrom) and not node.level]
    assert all(module.startswith("public.") or module == "dataclasses" for module in modules), "no shared constants"


@every_experiment
def test_card_speaks_of_the_values_below_it(folder):
    """The starting weights, the epochs and the size that the name of the folder promises."""
    config, card = load_experiment(folder).config, " ".join(card_of(folder).split())
    if config.starting_weights is not None:
        assert f"Starting weights: {config.starting_weights}," in card
        assert any(origin in card for origin in ("published by", "Measured here", "not trained yet"))
    first_line = card_of(folder).splitlines()[0]
    if "epochs" in first_line:
        assert f"{config.epochs} epochs" in first_line
    if "images a step" in first_line:
        assert f"{config.batch_size} images a step" in first_line


def size_of(detector) -> list:
    """Which network of its family a detector's settings name: depth and width, or the backbone."""
    return [getattr(detector, name, None) for name in ("depth", "width", "backbone")]


@every_detector
def test_starting_weights_are_known(folder):
    """pretrained/README.md says how to make them, from the file that the card names, and they are of this size."""
    config = load_experiment(folder).config
    if config.starting_weights is None or named_experiment(config.starting_weights) is not None:
        return
    known = by_name(Path(config.starting_weights).name)
    assert known is not None
    assert config.starting_weights == f"pretrained/{known.name}"
    assert known.original.removesuffix(".pdparams") in card_of(folder)
    if known.model in NETWORKS:  # a classifier's weights are of more than the backbone
        assert config.used_settings.backbone == known.model
        assert config.backbone_only
        return
    assert config.backbone_only == known.backbone_only
    assert size_of(config.used_settings) == size_of(published(known.model))


@every_detector
def test_an_experiment_starts_from_one_that_is_there_and_has_the_same_network(folder):
    """So that whatever the other has learnt fits, the class layers aside."""
    config = load_experiment(folder).config
    source = None if config.starting_weights is None else named_experiment(config.starting_weights)
    if source is None:
        return
    assert not config.backbone_only
    settings = config.used_settings
    bare = settings.network if hasattr(settings, "prepare") else settings  # before it is quantised or pruned
    with torch.device("meta"):
        model = bare.build_model()
    other = build_on_meta(load_experiment(source).config)
    shapes = [
        {name: p.shape for name, p in m.state_dict().items() if not name.startswith(m.class_layers)}
        for m in (model, other)
    ]
    assert shapes[0] == shapes[1]


@every_detector
def test_card_expects_what_the_makers_of_the_weights_publish(folder):
    """Where an experiment makes one of the known weights, their figure is what its card expects."""
    known = by_name(f"{folder.name}.pth")
    if known is not None:
        metric, percent = re.match(r"(AP\d*) ([\d.]+) on", known.published).groups()
        assert f"Expected: {metric} {float(percent) / 100:.3f}" in card_of(folder)
        assert size_of(published(known.model)) == size_of(load_experiment(folder).config.detector)


# ---------------------------------------------------------------------------------------------- settings and objects


@every_experiment
def test_settings_survive_json_and_build(folder):
    config = load_experiment(folder).config
    assert isinstance(config, TrainingConfig)
    assert thaw(json.loads(json.dumps(freeze(config))), classes_of(config)) == config
    model = build_on_meta(config)
    assert model.num_classes == config.network_settings.num_classes
    assert config.optimizer.build(model, config.lr).param_groups
    config.network_settings.build_loss()
    if isinstance(config, DetectionConfig):
        config.detector.build_decoder()


@every_experiment
def test_the_network_takes_images_of_the_full_size(folder):
    """On the meta device, where shapes are computed without values."""
    config = load_experiment(folder).config
    model, size = build_on_meta(config).eval(), config.input.usual_size
    outputs = model(torch.empty(2, 3, *size, device="meta"))
    if isinstance(config, ClassificationConfig):
        assert outputs.shape == (2, config.network_settings.num_classes)
        return
    num_points = {part.shape[:2] for part in outputs if isinstance(part, torch.Tensor) and part.ndim == 3}
    assert len(num_points) == 1
    assert outputs.class_logits.shape[::2] == (2, config.network_settings.num_classes)
    assert num_points.pop()[1] % sum(height * width for height, width in outputs.level_sizes) == 0


@pytest.mark.parametrize("name", sorted(TRAINABLE))
def test_the_network_has_as_many_trainable_parameters_as_the_original(name):
    config = load_experiment(REPOSITORY / "detection_experiments" / name).config
    model = build_on_meta(config)
    freeze_parameters(model, config.freeze)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == TRAINABLE[name]


@pytest.mark.parametrize("name", [n.removesuffix("_coco") for n in sorted(EXPECTED_NAMES) if n.endswith("_coco")])
def test_a_coco_experiment_states_the_published_detector(name):
    config = load_experiment(REPOSITORY / "detection_experiments" / f"{name}_coco").config
    assert config.detector == published(name)


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_objects365_differs_from_coco_in_its_class_layers_only(size):
    """285 classes more, one 3x3 filter with a bias for each on each level; and no alpha."""
    configs = [load_experiment(REPOSITORY / "detection_experiments" / f"ppyoloe_{n}").config
               for n in (f"plus_{size}_objects365", f"{size}_coco")]  # fmt: skip
    shapes = [{name: p.shape for name, p in build_on_meta(config).named_parameters()} for config in configs]
    assert shapes[0].keys() == shapes[1].keys()
    different = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert different == {f"head.pred_cls.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")}
    assert all(shapes[0][name][0] - shapes[1][name][0] == 285 for name in different)


@every_experiment
def test_help_shows_the_card_and_the_present_values(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as end:
        main(str(folder / "train.py"))
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert card_of(folder) in shown
    config = load_experiment(folder).config
    assert f"--lr float {config.lr} " in " ".join(shown.split())
    assert f"--starting_weights str|none {config.starting_weights} " in " ".join(shown.split())


def test_train_py_starts_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDERS[0] / "train.py"), "--help"],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert card_of(FOLDERS[0]) in done.stdout


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("name", "end"),
    [("ppyoloe_s_coco", 0.0688), ("ppyoloe_plus_s_coco", 0.0744), ("ppyoloe_s_voc", 0.1054), ("ppyoloe_plus_s_pcp", 0.154)],
)  # fmt: skip
def test_runs_end_at_the_published_share_of_their_learning_rate(name, end):
    """The cosines run beyond the last epoch; the shares are those of the original's formula and logs."""
    config = load_experiment(REPOSITORY / "detection_experiments" / name).config
    steps = 1000  # in an epoch
    assert config.schedule.factor(config.epochs * steps - 1, steps) == pytest.approx(end, abs=6e-4)
    assert config.schedule.factor(0, steps) == 0.0


def yml_of(name: str) -> str | None:
    """PaddleDetection's file for an experiment of PPYOLOE; None for all others."""
    if not name.startswith("ppyoloe"):
        return None
    *plus, size, data = name.removeprefix("ppyoloe_").split("_")
    if data == "coco" and size == "t":
        return "ppyoloe_plus_crn_t_auxhead_300e_coco.yml"
    if data == "coco":
        return f"ppyoloe_plus_crn_{size}_80e_coco.yml" if plus else f"ppyoloe_crn_{size}_300e_coco.yml"
    folders = {
        "voc": "voc/ppyoloe_plus_crn_{}_30e_voc.yml",
        "objects365": "objects365/ppyoloe_plus_crn_{}_60e_objects365.yml",
    }
    return folders[data].format(size) if plus and data in folders else None


def recipe_rows(shared: Path, yml: str) -> list[dict[str, str]]:
    """The rows about one file of PaddleDetection in the tables of the recipes: architecture, training."""
    rows, header = [], []
    for line in (shared / "recipes" / "ppyoloe_picodet.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        header = cells if cells[-1] == "source" else header
        if cells[-1] == f"`configs/ppyoloe/{yml}`":
            rows.append(dict(zip(header, cells)))
    return rows


@pytest.mark.parametrize("name", sorted(name for name in EXPECTED_NAMES if yml_of(name)))
def test_the_page_agrees_with_the_resolved_settings_of_paddledetection(shared, name):
    config, card = (
        load_experiment(REPOSITORY / "detection_experiments" / name).config,
        card_of(REPOSITORY / "detection_experiments" / name),
    )
    assert f"configs/ppyoloe/{yml_of(name)}" in card
    architecture, training = recipe_rows(shared, yml_of(name))
    detector = config.detector
    assert (detector.depth, detector.width) == (float(architecture["depth"]), float(architecture["width"]))
    assert str(detector.use_alpha) == architecture["backbone alpha"]
    assert (config.epochs, config.lr) == (int(training["epochs"]), float(training["base LR"]))
    horizon, warmup = re.match(
        r"CosineDecay\(max_epochs=(\d+)\) \+ LinearWarmup\(start_factor=0.0, epochs=(\d+)\)",
        training["schedule + warm-up"],
    ).groups()
    assert (config.schedule.horizon_epochs, config.schedule.warmup_epochs) == (int(horizon), int(warmup))
    assert training["optimizer"] == f"{{momentum: {config.optimizer.momentum}, type: Momentum}}"
    assert training["weight decay"] == f"L2 {config.optimizer.weight_decay}"
    assert f"decay {config.ema.decay}," in training["EMA"]
    assert detector.static_assigner_epochs == max(int(training["static assigner until epoch"]), 0)
    assert by_name(Path(config.starting_weights).name).original == training["starts from"]
    assert config.sync_batchnorm == (training["norm"] == "sync_bn")
    has_statistics = {"R1": True, "R3": False}[training["reader"]]
    assert (config.input.mean != (0.0, 0.0, 0.0)) == has_statistics
    if "objects365" not in name:
        assert config.batch_size == int(training["batch/GPU"]) * int(training["GPUs"])


def test_objects365_counts_the_images_of_all_machines(shared):
    text = (shared / "recipes" / "ppyoloe_picodet.md").read_text()
    machines = re.search(
        r"\| Objects365 \| s / m / l / x .*\| ([x\d]+) / ([x\d]+) / ([x\d]+) / ([x\d]+) \|", text
    ).groups()
    for size, product in zip(PUBLISHED_SIZES, machines):
        config = load_experiment(REPOSITORY / "detection_experiments" / f"ppyoloe_plus_{size}_objects365").config
        assert config.batch_size == math.prod(map(int, product.split("x")))


@pytest.mark.parametrize(("name", "rate"), [("ppyoloe_s_voc", 0.04 / 256), ("ppyoloe_l_voc", 0.025 / 160),
                                            ("ppyoloe_xs_voc", 0.04 / 256), ("ppyoloe_m_coco", 0.035 / 224),
                                            ("ppyoloe_x_coco", 0.02 / 128), ("ppyoloe_plus_s_pcp", 0.001 / 64),
                                            ("ppyoloe_plus_l_voc", 0.001 / 64)])  # fmt: skip
def test_learning_rates_are_the_originals_rate_for_one_image(name, rate):
    config = load_experiment(REPOSITORY / "detection_experiments" / name).config
    assert config.lr / config.batch_size == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("names", [
    [f"ppyoloe_{size}_coco" for size in PUBLISHED_SIZES],
    [f"ppyoloe_plus_{size}_coco" for size in PUBLISHED_SIZES],
    [f"ppyoloe_plus_{size}_objects365" for size in PUBLISHED_SIZES],
    ["ppyoloe_plus_s_voc", "ppyoloe_plus_l_voc"],
], ids=["coco", "plus_coco", "plus_objects365", "plus_voc"])  # fmt: skip
def test_sizes_of_a_recipe_differ_in_depth_width_and_weights_only(names):
    """PaddleDetection's files of a family differ in these; the README's number of machines makes the batch of Objects365."""
    own = {"detector.depth", "detector.width", "starting_weights", "batch_size"}
    first, *others = [flatten(freeze(load_experiment(REPOSITORY / "detection_experiments" / n).config)) for n in names]
    for other in others:
        different = {key for key in first.keys() | other.keys() if first.get(key) != other.get(key)}
        assert {key.removeprefix("DetectionConfig.").replace("PPYOLOE.", "") for key in different} <= own


def flatten(frozen, path: str = "") -> dict:
    if not isinstance(frozen, dict):
        return {path: frozen}
    return {k: v for key, item in frozen.items() for k, v in flatten(item, f"{path}.{key}" if path else key).items()}


# ---------------------------------------------------------------------------------------------- two steps


SMALL_PAGE = '''"""Command: a test's; the experiment's own page, small."""

from tests.helpers.tiny_layouts import shrunk

from .page import config as page

config = shrunk(page, is_large={is_large})
'''
# Larger sizes of recipes whose sizes differ in depth, width and weights only, as a test above holds, take their two steps
# at the depth and width of s; ppyoloe_{m,l,x}_coco and ppyoloe_l_voc take theirs at the full ones.
# What a near copy may differ in and still take the steps of the page that it names: its network and its numbers.
OF_NO_OTHER_KIND = {
    *("network", "backbone", "depth", "width", "channels", "head_convs", "starting_weights", "dropout"),
    *("backbone_options", "neck", "neck_blocks", "head_channels", "activation", "use_depthwise", "Mosaic.prob"),
    *("batch_size", "lr", "epochs", "warmup_epochs"),
}


def takes_its_own_steps(folder: Path) -> bool:
    """False for a page that says in its card that it differs from another in OF_NO_OTHER_KIND only.

    Of these, settings, network and input at full size are looked at, and the line that says what differs is held to be
    true; their trainings would be the other page's, slower: ResNet-101 in place of ResNet-50.  So would those of
    large pairs of student and teacher be: their methods are looked at one by one, and small pairs take their steps.
    Networks that are quantised or pruned take theirs in test_changed_networks.py.
    """
    if "_distilled_from_" in folder.name or folder.name in CHANGED_NAMES:
        return False
    found = re.search(r"^Differs from \S+: (.*)\.$", card_of(folder), re.MULTILINE)
    return not (found and set(found[1].split(", ")) <= OF_NO_OTHER_KIND)


def copied_small(folder: Path, root: Path) -> Path:
    """A copy of an experiment whose pictures are small; of those that are not QUICK, precision and ResNet too."""
    copy = copied(folder, root).folder
    (copy / "config.py").rename(copy / "page.py")
    (copy / "config.py").write_text(SMALL_PAGE.format(is_large=name_of(folder) not in QUICK))
    return copy


@pytest.fixture(scope="module")
def layout_of(tmp_path_factory):
    """A function of a page: a folder with tiny data in the layout that it names, made once for all with the same data."""
    made: dict[tuple, Path] = {}

    def find(page: TrainingConfig) -> Path:
        key = page.train_data, page.val_data, page.test_data, page.network_settings.num_classes
        if key not in made:
            made[key] = tmp_path_factory.mktemp("data")
            write_layout(page, made[key], num_images=NUM_IMAGES)
        return made[key]

    return find


def slow_unless_quick(folder):
    return pytest.param(folder, id=name_of(folder), marks=() if name_of(folder) in QUICK else pytest.mark.slow)


@pytest.mark.usefixtures("modes_are_put_back")
@pytest.mark.parametrize("folder", [slow_unless_quick(folder) for folder in FOLDERS if takes_its_own_steps(folder)])
def test_two_steps_on_tiny_data_and_an_evaluation(folder, layout_of, tmp_path, monkeypatch):
    """The whole `train.py` of every kind of experiment on data in the layout that its page names, with small pictures.

    The quick ones in the precision that the page states, the others in float32, and with ResNet-18 in place of a deeper
    one: the page's own network sees pictures of the full size in another test.
    """
    page = load_experiment(folder).config
    small = shrunk(page, is_large=name_of(folder) not in QUICK)
    copy = copied_small(folder, tmp_path)
    saved = []  # the checkpoints; written, at up to a gigabyte each, they would take longer than all else
    monkeypatch.setattr(torch, "save", lambda checkpoint, file: saved.append(checkpoint))
    flags = ["--device", "cpu", "--data_root", str(layout_of(page)), "--starting_weights", "none", "--max_steps", "2"]
    flags += ["--print_interval", "1", "--limit_images", str(NUM_IMAGES)]
    initial = keep_initial_values(monkeypatch)
    monkeypatch.setattr(
        loop, "digest", lambda state: "not looked at here; of a large network it takes as long as a step"
    )
    monkeypatch.setattr(training_run, "digest", loop.digest)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    main(str(copy / "train.py"))
    (run,) = (path.parent for path in copy.glob("runs/*/manifest.json"))
    lines = read_metrics(run)
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    (evaluation,) = (line for line in lines if line["kind"] == "eval")
    assert 0 <= evaluation["metrics"][page.best_metric] <= (1 if folder in DETECTION else 100)
    assert freeze(load_experiment(run).config.network_settings) == freeze(small.network_settings)
    assert {len(checkpoint["class_names"]) for checkpoint in saved} == {page.network_settings.num_classes}
    latest = [checkpoint for checkpoint in saved if "training" in checkpoint][-1]
    assert latest["training"]["step"] == 2
    check_what_moved(small, initial, latest["training"]["raw_model"] if page.ema else latest["model"])


def keep_initial_values(monkeypatch) -> dict[str, torch.Tensor]:
    """A dict that holds the state of the network at step 0, once a training has built it."""
    initial: dict[str, torch.Tensor] = {}
    build_state = training_run.build_state

    def build_and_keep(*arguments):
        state, notes = build_state(*arguments)
        initial.update({name: value.clone() for name, value in state.model.state_dict().items()})
        return state, notes

    monkeypatch.setattr(training_run, "build_state", build_and_keep)
    return initial


def student_alone(state: dict) -> dict:
    """Of a state of student and teacher what is the student's, by its own names."""
    own = {name.removeprefix("student."): value for name, value in state.items() if name.startswith("student.")}
    return own or state


def check_what_moved(page: TrainingConfig, initial: dict, trained: dict) -> None:
    """Every part of the network has learnt, but the frozen ones; BatchNorm's statistics move in any case."""
    initial, trained = student_alone(initial), student_alone(trained)
    model = used_part(build_on_meta(page))
    assert initial.keys() == trained.keys() == model.state_dict().keys()
    parameters = {name for name, _ in model.named_parameters()}
    freeze_parameters(model, page.freeze)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    moved = {name for name, value in initial.items() if not torch.equal(value, trained[name])}
    assert not frozen & moved
    parts = {name.split(".")[0] for name in parameters - frozen}
    assert {name.split(".")[0] for name in moved & parameters} == parts
    if isinstance(page, ClassificationConfig):
        assert parameters <= moved
    if not page.freeze_batchnorm:
        rests = getattr(page.network_settings, "backbone_batchnorm", "trained") != "trained"
        resting = ("aux", "backbone.") if rests else ("aux",)
        assert all(name in moved for name in trained if name.endswith("running_mean") and not name.startswith(resting))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppyoloe_s_coco", "ppyoloe_plus_s_objects365"])
def test_train_py_and_test_sh_at_full_size(name, tmp_path):
    """The commands of the card on tiny data: 320 .. 768 pixels, all augmentation, real checkpoints.

    What others have beside (frozen stages, an auxiliary head), the test above sees in small pictures.

    In float32: on a CPU without bf16 instructions bf16 takes up to ten times as long.  The test above runs the quick pages
    in the precision that they state.
    """
    experiment = copied(REPOSITORY / "detection_experiments" / name, tmp_path)
    config = load_experiment(experiment.folder).config
    write_layout(config, experiment.data_root, num_images=3)
    check_train_and_test(experiment, "--batch_size", "2", "--precision", "float32", num_steps=1)


@pytest.mark.slow
def test_train_py_and_test_sh_in_bf16(tmp_path):
    """The same in the precision of the page, with small pictures: the digits of test.sh are those of training in it too."""
    experiment = TinyExperiment(
        copied_small(REPOSITORY / "detection_experiments/ppyoloe_xs_voc", tmp_path), tmp_path / "data"
    )
    config = load_experiment(experiment.folder).config
    assert config.precision == "bf16"
    write_layout(config, experiment.data_root, num_images=3)
    check_train_and_test(experiment)


def check_train_and_test(experiment: TinyExperiment, *flags: str, num_steps: int = 2) -> None:
    """Some steps of train.py, an evaluation, and test.sh with the same digits of the same weights."""
    forked_training.train(experiment, "--starting_weights", "none", "--max_steps", str(num_steps), *flags, timeout=300)
    (run,) = experiment.runs
    best = load_checkpoint(run / "best.pth")
    assert best["step"] == num_steps
    shown = run_test_sh(experiment)
    assert best["digest"][:16] in shown
    assert f"= {best['metrics']['AP']:.3f}" in shown


def copied(folder: Path, root: Path) -> TinyExperiment:
    """A copy of an experiment, whose runs are the test's."""
    ignored = shutil.ignore_patterns("runs", "reproductions", "__pycache__")
    return TinyExperiment(shutil.copytree(folder, root / folder.name, ignore=ignored), root / "data")


def test_a_page_names_the_starting_weights_that_are_not_there(tmp_path):
    """And the flag that does without them."""
    assert set(TINY_CLASSES) <= set(VOC_CLASSES)
    for split, seed in (("train", 1), ("val", 2)):
        write_voc(tmp_path / "data", folder="VOCdevkit/VOC2012", split=split, num_images=2, seed=seed)
    experiment = copied(REPOSITORY / "detection_experiments" / "ppyoloe_s_voc", tmp_path)
    log = forked_training.train(experiment, "--batch_size", "2", status=1)
    assert "pretrained/ppyoloe_s_coco.pth" in log
    assert "--starting_weights none" in log
