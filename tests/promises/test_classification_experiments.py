"""The pages of the classification experiments: against the tables of the recipes, each other, and what their cards say.

What holds for every experiment, and their two steps of training, stands in tests/promises/test_experiments.py.
"""

import ast
import math
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from public.checkpoint_files import load_checkpoint
from public.config import ClassificationConfig, freeze
from public.datasets.cifar import OFFICIAL
from public.datasets.drawn_cifar import DRAWN_CLASSES, draw_cifar
from public.input import prepare_crop
from public.models import create_model
from public.runs.experiment import load_experiment
from public.tasks import make_task
from public.training.optimizers import NORMALISATION
from public.transforms.classification import ColorJitter, RandomResizedCrop, ReflectPadCrop
from public.transforms.flip import RandomFlip
from tests.helpers import forked_training
from tests.helpers.experiments import REPOSITORY, TinyExperiment, read_metrics
from tests.helpers.forked_commands import run_test_sh

CIFAR = REPOSITORY / "cifar100_experiments"
IMAGENET = REPOSITORY / "imagenet_experiments"
DEPTHS = (18, 34, 50, 101, 152)
CIFAR_PAGES = [f"resnet{depth}" for depth in DEPTHS]
IMAGENET_PAGES = sorted(path.parent.name for path in IMAGENET.glob("*/config.py") if "_distilled_" not in str(path))
STEPS = 5004  # of an epoch of ImageNet: 1,281,167 images, 256 a step

every_imagenet_page = pytest.mark.parametrize("name", IMAGENET_PAGES)
every_cifar_page = pytest.mark.parametrize("name", CIFAR_PAGES)


def page_of(folder: Path) -> ClassificationConfig:
    return load_experiment(folder).config


def card_of(folder: Path) -> str:
    """The card on one line."""
    return " ".join(ast.get_docstring(ast.parse((folder / "config.py").read_text())).split())


def num_parameters(config: ClassificationConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in config.classifier.build_model().parameters())


def tables(shared: Path) -> dict[str, list[dict[str, str]]]:
    """The tables of the recipes by the title of their section, a dict a row, bold marks taken out."""
    found: dict[str, list[dict[str, str]]] = {}
    title, header = "", None
    for line in (shared / "recipes" / "classification.md").read_text().replace("**", "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("#"):
            title = line.strip("# ")
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set("|- "):
            found.setdefault(title, []).append(dict(zip(header, cells, strict=True)))
    return found


# ---------------------------------------------------------------------------------------------- ImageNet


def folder_of(network: str) -> str:
    """The folder of a network by its name in the table, such as "VoVNet-19-slim-depthwise-se"."""
    if network.startswith("ResNet-50 DDP"):
        return {"no sync-bn": "resnet50_ddp", "sync-bn": "resnet50_ddp_syncbn"}[network.split(", ")[1]]
    name = network.split(" (")[0].lower().replace("depthwise", "dw")
    return re.sub("[-.]", "_", re.sub(r"^(resnet|darknet|vovnet)-", r"\1", name))


def imagenet_rows(shared: Path) -> dict[str, dict[str, str]]:
    """The rows of results by folder; "same" filled in from the row above."""
    rows, last = {}, {}
    for row in tables(shared)["A6. ImageNet results and sizes"]:
        last = {key: last[key] if value == "same" else value for key, value in row.items()}
        rows[folder_of(row["net (README name)"])] = last
    return rows


def recipe_column(shared: Path, name: str) -> dict[str, str]:
    """{item: value} of the recipe that a folder follows, "same" filled in from the column to the left."""
    *others, ddp = ("ResNet / VoVNet / DarkNet (DataParallel)", "EfficientNet", "RegNetY", "ResNet-50 DDP")
    family = 2 if name.startswith("regnety") else 1 if name.startswith("efficientnet") else 0
    recipe = {}
    for row in tables(shared)["A5. ImageNet recipes"]:
        choices = [row[ddp]] if "_ddp" in name else [row[column] for column in others[family::-1]]
        value = next((choice for choice in choices if not choice.startswith("same")), row[others[0]])
        recipe[row["item"]] = row[others[family - 1]] if value.startswith("same as") else value
    return recipe


def test_every_network_of_the_table_has_a_page_and_no_other(shared):
    assert set(imagenet_rows(shared)) == set(IMAGENET_PAGES)


@every_imagenet_page
def test_imagenet_card_agrees_with_its_row(shared, name):
    """Published error, number of GPUs, size; and where the original's network is another, that it says so."""
    row, card, config = imagenet_rows(shared)[name], card_of(IMAGENET / name), page_of(IMAGENET / name)
    assert f"top-1 error {row['top-1 error %'].split()[0]} %, published by SimpleAICV" in card
    assert "commit d25e887" in card
    assert "Not trained by us" in card
    if row["GPUs"] != "-":
        assert f"{row['GPUs']} GPUs" in card
        assert f"nproc_per_node {row['GPUs']}" in card
        assert re.search(rf"\b{config.batch_size // int(row['GPUs'])}\b", card)
    assert config.classifier.network == re.sub("_ddp.*", "", name)
    ours, theirs = num_parameters(config), row["params measured"]
    assert f" {ours:,} parameters" in card
    assert ours == sum(p.numel() for p in meta_model(config.classifier.network).parameters())
    is_variant = f"published figure belongs to that project's variant ({theirs} parameters)" in card
    assert is_variant == (f"{ours:,}" != theirs)


def meta_model(network: str) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(network, num_classes=1000)


@every_imagenet_page
def test_imagenet_optimizer_and_augmentation_are_the_recipes(shared, name):
    recipe, config = recipe_column(shared, name), page_of(IMAGENET / name)
    assert config.lr == float(recipe["lr"])
    assert config.epochs == int(recipe["epochs"])
    assert config.batch_size == math.prod(map(int, re.findall(r"\d+", recipe["batch"])))
    assert config.accumulate == int(recipe["accumulation"].split()[0])
    assert config.seed == int(re.match(r"\d", recipe["seed"])[0])
    assert config.sync_batchnorm == name.endswith("_syncbn")
    optimizer = config.optimizer
    assert recipe["optimizer"].startswith(f"SGD {optimizer.momentum}")
    assert not optimizer.nesterov
    assert optimizer.weight_decay == float(re.match(r"[\de-]+", recipe["weight decay"])[0])
    assert optimizer.decay_normalisation == ('contains "bn" get 0' not in recipe["weight decay"])
    crop, flip, *jitter = config.train_transforms
    assert (type(crop), flip) == (RandomResizedCrop, RandomFlip(prob=0.5))
    strengths = re.search(r"ColorJitter\(([\d.]+),([\d.]+),([\d.]+),hue (\d)\)", recipe["train aug"])
    keys = ("brightness", "contrast", "saturation", "hue")
    assert jitter == ([ColorJitter(**dict(zip(keys, map(float, strengths.groups()))))] if strengths else [])
    assert config.ema is None
    assert config.batch_transforms == ()
    assert config.repeats == 1
    settings = config.classifier
    assert (settings.drop_path, settings.label_smoothing, settings.zero_init) == (0.0, 0.0, False)


@every_imagenet_page
def test_imagenet_pictures_are_as_large_as_in_the_recipes(shared, name):
    recipe, config, row = recipe_column(shared, "resnet18"), page_of(IMAGENET / name), imagenet_rows(shared)[name]
    spec = config.input
    side = re.search(r"\((\d+)\)", row["GMACs measured (input)"])
    sizes = {"efficientnet_b1": 240, "efficientnet_b2": 260, "efficientnet_b3": 300, "darknet53": 256}
    expected = int(side[1]) if side else sizes.get(name, 224)
    assert spec.size == config.train_transforms[0].size == (expected, expected)
    shorter = dict(re.findall(r"(\d+)->(\d+)", recipe["val aug"]))
    assert spec.shorter_side == int(shorter.get(str(expected), expected * 256 / 224))
    mean, std = ([float(v) for v in part.split(",")] for part in recipe["mean / std"].split(" / "))
    assert (list(spec.mean), list(spec.std), spec.scale) == (mean, std, 1 / 255)


@every_imagenet_page
def test_imagenet_learning_rate_follows_the_recipe(shared, name):
    """At the beginning of each epoch the factor is the recipe's formula for that epoch; within the first it rises."""
    recipe, schedule = recipe_column(shared, name)["schedule"], page_of(IMAGENET / name).schedule
    if recipe.startswith("LambdaLR"):
        assert "e/5 while e<=5, then 0.5*(1+cos(pi*(e-5)/95))" in recipe
        expected = [e / 5 if e <= 5 else 0.5 * (1 + math.cos(math.pi * (e - 5) / 95)) for e in range(100)]
        assert schedule.factor(STEPS // 2, STEPS) == pytest.approx(0.1), "no idle first epoch"
        assert "spent its first one at 0" in card_of(IMAGENET / name)
    else:
        milestones = [int(number) for number in re.findall(r"\b\d0\b", recipe)]
        expected = [0.1 ** sum(e >= milestone for milestone in milestones) for e in range(100)]
        assert milestones == [30, 60, 90]
    assert [schedule.factor(e * STEPS, STEPS) for e in range(100)] == pytest.approx(expected)


@pytest.mark.parametrize("family", ["resnet", "efficientnet", "darknet", "vovnet", "regnety"])
def test_pages_of_a_family_differ_in_network_and_size_only(family):
    own = {"network", "dropout", "input", "train_transforms", "sync_batchnorm"}
    frozen = [freeze(page_of(IMAGENET / name)) for name in IMAGENET_PAGES if name.startswith(family)]
    values = [config["ClassificationConfig"] for config in frozen]
    values = [value | value.pop("classifier")["ImageClassifier"] for value in values]
    assert len(values) > 1
    for other in values[1:]:
        assert {key for key in other if other[key] != values[0][key]} <= own


@pytest.mark.parametrize(("name", "decayed_normalisation"), [("efficientnet_b0", False), ("resnet18", True)])
def test_what_weight_decay_spares(name, decayed_normalisation):
    """EfficientNet: scale and shift of BatchNorm and nothing else; the others: nothing."""
    config = page_of(IMAGENET / name)
    model = meta_model(config.classifier.network)
    spared = {id(p) for g in config.optimizer.build(model, config.lr).param_groups if not g["weight_decay"]
              for p in g["params"]}  # fmt: skip
    norms = {id(p) for module in model.modules() if isinstance(module, NORMALISATION) for p in module.parameters()}
    assert spared == (set() if decayed_normalisation else norms)


def test_darknet_is_leaky_with_its_own_slope():
    """timm's darknet53, ours without an option, has 0.01."""
    for name in ("darknet19", "darknet53"):
        model = page_of(IMAGENET / name).classifier.build_model()
        slopes = {module.negative_slope for module in model.modules() if isinstance(module, torch.nn.LeakyReLU)}
        assert slopes == {0.1}


def test_efficientnet_dropout_is_that_of_the_table(shared):
    for row in tables(shared)["B2. EfficientNet (pi/models/efficientnet.py)"]:
        if re.fullmatch("b[0-3]", row.get("net", "")):
            config = page_of(IMAGENET / f"efficientnet_{row['net']}")
            assert config.classifier.dropout == float(row["dropout"])
            assert config.input.size[0] == int(row["size"])


def test_the_readme_says_what_the_cards_say():
    text = (IMAGENET / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d.]+) % \| (.*) \|$", text, re.MULTILINE)
    assert sorted(row[0] for row in rows) == IMAGENET_PAGES
    for name, side, parameters, error, belongs in rows:
        card = card_of(IMAGENET / name)
        assert int(side) == page_of(IMAGENET / name).input.size[0]
        assert f" {parameters} parameters" in card
        assert f"top-1 error {error} %" in card
        variant = re.search(r"that project's variant (\([\d,]+ parameters\))", card)
        assert belongs == (f"its own variant, {variant[1].strip('()')}" if variant else "the same network")


# ---------------------------------------------------------------------------------------------- CIFAR-100


@every_cifar_page
def test_cifar_card_agrees_with_its_row(shared, name):
    rows = {row["CIFAR net"]: row for row in tables(shared)["A4. CIFAR-100"] if "CIFAR net" in row}
    row, card, config = rows[name.replace("resnet", "ResNet-")], card_of(CIFAR / name), page_of(CIFAR / name)
    assert f"top-1 error {row['top-1 error %']} % on the test set, published by SimpleAICV" in card
    assert "best epoch" in card
    assert "Not trained by us" in card
    assert config.classifier.network == f"{name}_cifar"
    assert f" {num_parameters(config):,} parameters" in card
    assert f"{num_parameters(config):,}" == row["params (measured)"]


@every_cifar_page
def test_cifar_settings_are_the_recipes(shared, name):
    recipe = {row["item"]: row["value"] for row in tables(shared)["A4. CIFAR-100"] if "item" in row}
    config = page_of(CIFAR / name)
    lr, momentum, decay = re.match(
        r"SGD lr ([\d.]+), momentum ([\d.]+) \(no nesterov\), weight decay ([\de-]+) on everything", recipe["optimizer"]
    ).groups()
    optimizer = config.optimizer
    assert (config.lr, optimizer.momentum, optimizer.weight_decay) == (float(lr), float(momentum), float(decay))
    assert (optimizer.nesterov, optimizer.decay_normalisation, optimizer.decay_bias) == (False, True, True)
    assert config.batch_size == int(recipe["batch, workers"].split(",")[0])
    milestones, gamma, epochs = re.match(
        r"MultiStep ([\d,]+), gamma ([\d.]+), (\d+) epochs, no warm-up", recipe["schedule"]
    ).groups()
    milestones = [int(number) for number in milestones.split(",")]
    assert config.epochs == int(epochs)
    expected = [float(gamma) ** sum(e >= milestone for milestone in milestones) for e in range(config.epochs)]
    assert [config.schedule.factor(e * 390, 390) for e in range(config.epochs)] == pytest.approx(expected)
    numbers = [float(number) for number in re.findall(r"\d+\.\d", recipe["mean / std"])]
    assert [v * 255 for v in (*config.input.mean, *config.input.std)] == pytest.approx(numbers)
    assert recipe["train transforms (order)"].startswith("Pad 4 reflect -> RandomHorizontalFlip -> RandomCrop 32")
    assert config.train_transforms == (RandomFlip(prob=0.5), ReflectPadCrop(padding=4, size=(32, 32)))
    assert config.evaluation_interval == 1, "the figure is that of the best epoch"


def test_cifar_pages_differ_in_the_network_only():
    first, *others = [freeze(page_of(CIFAR / name))["ClassificationConfig"] for name in CIFAR_PAGES]
    for other in others:
        assert {key for key in other if other[key] != first[key]} == {"classifier"}
        classifiers = [value["classifier"]["ImageClassifier"] for value in (first, other)]
        assert {key for key in classifiers[0] if classifiers[0][key] != classifiers[1][key]} == {"network"}


def test_cifar_evaluation_leaves_the_pixels_as_they_are():
    """ToTensor and Normalize only: nothing is resized or cut."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in (*CIFAR_PAGES, "resnet18_mini"):
        assert np.array_equal(prepare_crop(picture, page_of(CIFAR / name).input)[0], picture)


def test_the_mini_network_is_resnet18_with_a_quarter_of_the_channels():
    """Every array of resnet18_cifar is there, each side of it a quarter but for pictures, classes and kernels."""
    config = page_of(CIFAR / "resnet18_mini")
    with torch.device("meta"):
        mini = config.classifier.build_model().state_dict()
        whole = create_model("resnet18_cifar", num_classes=config.classifier.num_classes).state_dict()
    assert [name for name in mini] == [name.replace("stem.conv.", "stem.") for name in whole]
    for (name, small), large in zip(mini.items(), whole.values()):
        for axis, (ours, theirs) in enumerate(zip(small.shape, large.shape, strict=True)):
            is_free = axis > 1 or (axis == 1 and name == "backbone.stem.conv.weight") or ours == 12
            assert ours == (theirs if is_free else theirs // 4), name
    assert f"{num_parameters(config):,} parameters" in card_of(CIFAR / "resnet18_mini")


# ---------------------------------------------------------------------------------------------- data


def write_class_folders(root: Path, folder: str, names: list[str], num_images: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        for number in range(num_images):
            path = root / folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(os.fspath(path), rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "regnety_200mf"])
def test_imagenet_pages_refuse_other_numbers_of_classes(name, tmp_path):
    """The classes are read from the data; a page of ImageNet takes exactly its thousand."""
    write_class_folders(tmp_path, "imagenet/train", [f"n{k}" for k in range(10)], 1, 8)
    with pytest.raises(ValueError, match="imagenet/train has 10 class folders, num_classes is 1000"):
        make_task(page_of(IMAGENET / name), data_root=tmp_path, device=torch.device("cpu"), limit_images=None)


def test_the_other_archives_names_promise_their_counts(tmp_path):
    """A page of CIFAR-100 refuses a smaller archive under the official name."""
    config = page_of(CIFAR / "resnet18")
    assert config.train_data.archive in OFFICIAL
    draw_cifar(tmp_path / config.train_data.archive, num_train=12, num_test=12, seed=0)
    with pytest.raises(
        ValueError, match="train has 12 images of 12 classes, the archive of this name has 50000 of 100"
    ):
        make_task(config, data_root=tmp_path, device=torch.device("cpu"), limit_images=None)


# ---------------------------------------------------------------------------------------------- the commands of the cards


def copied(folder: Path, root: Path) -> TinyExperiment:
    ignored = shutil.ignore_patterns("runs", "reproductions", "__pycache__")
    return TinyExperiment(shutil.copytree(folder, root / folder.name, ignore=ignored), root / "data")


def check_test_sh_repeats_training(experiment: TinyExperiment, *flags: str) -> dict:
    """test.sh prints the digits of the last evaluation of training; the checkpoint of the best weights."""
    (run,) = experiment.runs
    best = load_checkpoint(run / "best.pth")
    shown = run_test_sh(experiment, *flags)
    assert best["digest"][:16] in shown
    metrics = best["metrics"]
    assert f"top-1 error: {metrics['top1_error']:.3f} %, top-5 error: {metrics['top5_error']:.3f} %" in shown
    assert f"loss {metrics['eval_loss']:.6f}" in shown
    return best


@pytest.mark.slow
def test_the_mini_experiment_learns(tmp_path):
    """The real page on a smaller drawing of the same classes: two epochs beat guessing, test.sh gives the same digits."""
    experiment = copied(CIFAR / "resnet18_mini", tmp_path)
    draw_cifar(experiment.data_root / "cifar-shapes-python", num_train=1280, num_test=120, seed=0)
    forked_training.train(experiment, "--epochs", "2", timeout=300)
    best = check_test_sh_repeats_training(experiment)
    assert best["metrics"]["top1_error"] < 100 * (1 - 1 / 12) - 3
    (line,) = [line for line in read_metrics(experiment.runs[0]) if line["kind"] == "eval"]
    assert line["metrics"]["top1_error"] == best["metrics"]["top1_error"]
    assert best["class_names"] == list(DRAWN_CLASSES)


@pytest.mark.slow
def test_an_imagenet_page_at_full_size(tmp_path):
    """1000 class folders, pictures of 224 pixels, all augmentation, as the card's command runs them."""
    experiment = copied(IMAGENET / "resnet18", tmp_path)
    names = [f"n{k:08d}" for k in range(1000)]
    for split in ("train", "val"):
        write_class_folders(experiment.data_root, f"imagenet/{split}", names, 1, 24)
    flags = ("--max_steps", "2", "--batch_size", "2", "--limit_images", "4", "--evaluation_batch_size", "2")
    forked_training.train(experiment, *flags, timeout=300)
    best = check_test_sh_repeats_training(experiment)
    assert best["step"] == 2
    assert best["class_names"] == names
    assert best["input"]["size"] == [224, 224]
