"""What is promised of every detector, tested on one experiment of each family: nobody is named here.

Losses: finite, in float32 and connected to the network without objects, with many, and from half precision; several
processes have the gradient of one.  Runs: twice the same bits, also after kills.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist

from public import random_streams
from public.checkpoint_files import load_checkpoint
from public.config import replace
from public.families import SETTINGS_CLASSES
from public.protocols import Progress
from public.runs.experiment import load_experiment
from tests.helpers.crash_harness import Harness, differences
from tests.helpers.forked_commands import run_python, run_test_sh
from tests.helpers.numerics import SAME
from tests.helpers.places import SHARED
from tests.helpers.processes import run_processes
from tests.helpers.small_pages import a_page_of_each_detector, detector_of, small_copy

PAGES = a_page_of_each_detector()
SIDE = 64  # of the pictures
EPOCHS = 300
FIRST = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=EPOCHS, steps_per_epoch=1)
LAST = Progress(epoch=EPOCHS - 1, step=EPOCHS - 1, step_in_epoch=0, num_epochs=EPOCHS, steps_per_epoch=1)
STAGES = {"first epoch": FIRST, "last epoch": LAST}  # between which some losses change

SOME = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 62.0, 30.0]]), "labels": torch.tensor([1, 0])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
SPLITS = {"one process without objects": [SOME, SOME, NONE, NONE], "no object at all": [NONE, NONE, NONE, NONE]}

every_detector = pytest.mark.parametrize("folder", PAGES.values(), ids=PAGES)


def settings_of(folder: Path):
    return detector_of(load_experiment(folder).config)


def model_of(folder: Path) -> torch.nn.Module:
    """In train mode, for all that it gives then, but for BatchNorm, whose batch statistics are another matter.

    Initial values by a seed, and some more in layers that start at 0, so that no gradient is 0 by construction.
    """
    random_streams.seed_torch(0, "model")
    model = settings_of(folder).build_model()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    for parameter in model.parameters():
        if parameter.ndim == 4 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def outputs_of(model: torch.nn.Module, count: int):
    return model(images(count))


def changed(outputs, change):
    """The same kind of outputs, `change` applied to their tensors, also in outputs of several heads."""
    if isinstance(outputs, torch.Tensor):
        return change(outputs)
    if hasattr(outputs, "_fields"):
        return type(outputs)(*(changed(part, change) for part in outputs))
    return outputs


def tensors_of(outputs) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    changed(outputs, found.append)
    return found


def test_every_family_of_detectors_has_a_page():
    detectors = {name for name, settings in SETTINGS_CLASSES.items() if hasattr(settings, "build_decoder")}
    assert PAGES.keys() == detectors


# ---------------------------------------------------------------------------------------------- losses


@every_detector
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_losses_without_objects_are_finite_and_connected(folder, stage, targets):
    """Also from half precision, whose outputs the loss takes as float32: what the network gives under autocast."""
    outputs = outputs_of(model_of(folder), 2)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        given = changed(outputs, lambda part, dtype=dtype: part.detach().to(dtype).requires_grad_())
        terms = settings_of(folder).build_loss()(given, targets, stage)
        assert all(term.dtype == torch.float32 and term.ndim == 0 and term.isfinite() for term in terms.values())
        gradients = torch.autograd.grad(sum(terms.values()), tensors_of(given))  # an error where one is not connected
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients), "background is learnt too"


@every_detector
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_an_image_may_hold_a_thousand_objects(folder, stage):
    settings = settings_of(folder)
    model = model_of(folder)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, SIDE - 8, (1000, 2))
    boxes = torch.tensor(np.concatenate([corners, corners + rng.uniform(1, 8, (1000, 2))], 1), dtype=torch.float32)
    labels = torch.from_numpy(rng.integers(0, settings.num_classes, 1000))
    terms = settings.build_loss()(outputs_of(model, 1), [{"boxes": boxes, "labels": labels}], stage)
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_detector
def test_targets_that_do_not_fit_are_refused(folder):
    settings = settings_of(folder)
    outputs = outputs_of(model_of(folder), 2)
    loss = settings.build_loss()
    with pytest.raises(ValueError, match=r"2 images but 1 targets"):
        loss(outputs, [SOME], FIRST)
    wrong = {"boxes": SOME["boxes"], "labels": torch.tensor([0, settings.num_classes])}
    with pytest.raises(ValueError, match=rf"labels from 0 to {settings.num_classes}"):
        loss(outputs, [wrong, NONE], FIRST)
    other = replace(settings, num_classes=settings.num_classes + 1).build_loss()
    with pytest.raises(ValueError, match=rf"{settings.num_classes} classes.* {settings.num_classes + 1}"):
        other(outputs, [SOME, NONE], FIRST)


# ---------------------------------------------------------------------------------------------- several processes


CASES = [
    (folder, targets, stage) for folder in PAGES.values() for targets, stage in zip(SPLITS.values(), STAGES.values())
]


def gradients(folder: Path, which: slice, targets: list, stage: Progress) -> torch.Tensor:
    """Of each parameter the products of its gradient, in float64, with two random vectors, one row a parameter."""
    model = model_of(folder).double()
    terms = settings_of(folder).build_loss()(model(images(4)[which].double()), targets[which], stage)
    sum(terms.values()).backward()
    generator = torch.Generator().manual_seed(2)
    rows = []
    for parameter in (p for p in model.parameters() if p.grad is not None):
        vectors = torch.randn(2, parameter.numel(), generator=generator, dtype=torch.float64)
        rows.append(vectors @ parameter.grad.flatten() / parameter.numel() ** 0.5)
    return torch.stack(rows)


def mean_gradients() -> list[torch.Tensor]:
    """What each of two processes does: its half of each batch, then the mean of the gradients."""
    which = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    found = []
    for folder, targets, stage in CASES:
        own = gradients(folder, which, targets, stage)
        dist.all_reduce(own)
        found.append(own / 2)
    return found


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one():
    """Also when one of them, or both, hold no object: normalisers are global."""
    of_rank_0, _ = run_processes(mean_gradients, 2, timeout=300)
    for (folder, targets, stage), found in zip(CASES, of_rank_0, strict=True):
        expected = gradients(folder, slice(4), targets, stage)
        total = expected.norm()
        assert total > 0
        assert ((found - expected).norm(dim=1) <= SAME * expected.norm(dim=1) + 1e-3 * SAME * total).all(), folder.name


# ---------------------------------------------------------------------------------------------- runs


FLAGS = ("--starting_weights", "none", "--max_steps", "3", "--num_pictures", "0", "--limit_images", "5")


@pytest.fixture(scope="module", params=PAGES.values(), ids=PAGES)
def undisturbed(request) -> Iterator[tuple[Harness, Path]]:
    """A short training of the page in small, which nothing disturbed, and its run.

    PPYOLOE's networks are narrow: one page of it is in bf16, which takes ten times as long on most CPUs.
    """
    with tempfile.TemporaryDirectory() as folder:
        experiment = small_copy(request.param, Path(folder), num_images=5, is_narrow=True)
        harness = Harness(experiment, np.random.default_rng(4), flags=FLAGS)
        yield harness, harness.undisturbed()


@pytest.mark.slow
def test_a_killed_run_ends_in_the_bits_of_one_that_was_not(undisturbed):
    """Which is also a second run with the bits of the first."""
    harness, reference = undisturbed
    elsewhere = reference.rename(harness.experiment.folder.parent / "reference")
    try:
        run, kills = harness.killed_until_it_ends(2)
        assert kills > 0
        assert differences(elsewhere, run) == []
    finally:
        for other in harness.experiment.runs:  # one that began in the same second has the reference's name
            shutil.rmtree(other)
        elsewhere.rename(reference)


@pytest.mark.slow
def test_its_weights_are_used_by_every_command(undisturbed, tmp_path):
    """On real pictures where they are, else on the run's own; the digits of an evaluation are those of the training."""
    harness, run = undisturbed
    experiment = harness.experiment
    best = load_checkpoint(run / "best.pth")
    shown = run_test_sh(experiment, "--limit_images", "5")
    assert best["digest"][:16] in shown
    assert f"= {best['metrics']['AP']:.3f}" in shown

    named = SHARED / "data/coco_val100/named"
    pictures = named if named.exists() else next(path.parent for path in experiment.data_root.rglob("*.png"))
    first = sorted(path for path in pictures.iterdir() if path.suffix in (".jpg", ".png"))[0]
    video = write_video(tmp_path / "clip.mp4", first)
    place, device = str(run), ("--device", "cpu")
    few = tmp_path / "few"
    few.mkdir()
    for picture in sorted(path for path in pictures.iterdir() if path.suffix in (".jpg", ".png"))[:2]:
        shutil.copy(picture, few)
    for source in (first, few, video):
        out = tmp_path / f"found_{source.stem}"
        words = (
            "-m",
            "public.test_scripts.detect",
            place,
            source,
            "--score_threshold",
            "0.001",
            "--output",
            out,
            *device,
        )
        done = run_python(words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert out.exists(), done.stdout
    for words in (
        ("flops", place, "--shape", "64", "96"),
        ("benchmark", place, "--image", first, "--warmup", "1", "--repeats", "2", "--fuse", *device),
        ("compare", place),
    ):
        done = run_python(("-m", f"public.test_scripts.{words[0]}", *words[1:]))
        assert done.returncode == 0, done.stdout + done.stderr


def write_video(path: Path, picture: Path) -> Path:
    """Three frames of 96 x 64 pixels."""
    frame = cv2.resize(cv2.imread(str(picture)), (96, 64))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))
    for _ in range(3):
        writer.write(frame)
    writer.release()
    return path
