"""Tiny experiments whose network is quantised or pruned while it is trained, or narrower, with pages of their own."""

from pathlib import Path

from tests.helpers.experiments import TinyExperiment

PAGE = '''"""A tiny network that is changed.

Command: a test's.
"""

from dataclasses import replace

from public.families.distilled import CWD, Distilled
from public.families.pruned import GMP, Pruned
from public.families.quantised import QAT, LargestRange, LearnedRange, MovingRange, Quantised
from public.families.slimmed import Slimmed

from .page import config as page

config = replace(page, detector={detector})
'''
QUANTISED = """Quantised(
        network=page.detector,
        quantisation=QAT(
            weight_bits=8,
            activation_bits=8,
            per_channel=True,
            observer=MovingRange(momentum=0.9),
            start_epoch=0,
            freeze_observers_epoch=1,
            freeze_batchnorm_epoch=1,
            float_layers=(),
        ),
    )"""
LEARNED = (
    QUANTISED.replace("MovingRange(momentum=0.9)", "LearnedRange(momentum=0.9, observed_epochs=1, lr_factor=10)")
    .replace("freeze_observers_epoch=1", "freeze_observers_epoch=None")
    .replace("freeze_batchnorm_epoch=1", "freeze_batchnorm_epoch=None")
)
PRUNED = """Pruned(
        network=page.detector,
        pruning=GMP(
            ratio=0.75,
            initial_ratio=0.2,
            stable_epochs=0,
            pruning_epochs=1,
            steps=3,
            pointwise_only=False,
            spared=("backbone.stem",),
        ),
    )"""

SLIMMED = """Slimmed(
        network=page.detector,
        criterion="fpgm",
        widths=(
            ("backbone.stem.conv2.conv", 3),
            ("backbone.stages.1.conv2.conv", 9),
            ("neck.fpn_stages.0.conv3.conv", 60),
            ("neck.pan_stages.0.conv3.conv", 60),
        ),
    )"""

TAUGHT = f"""Distilled(
        student={QUANTISED},
        teacher=page.detector,
        teacher_weights=None,
        teacher_precision="float32",
        feature=CWD(weight=1.0, temperature=1.0, normalise=True),
        logits=None,
        factor=1.0,
        stop_epoch=None,
    )"""


def create(root: Path, detector: str) -> TinyExperiment:
    """The tiny experiment with this detector, written in terms of its `page.detector`."""
    made = TinyExperiment.create(root)
    (made.folder / "config.py").rename(made.folder / "page.py")
    (made.folder / "config.py").write_text(PAGE.format(detector=detector))
    return made


def tiny_quantised(root: Path) -> TinyExperiment:
    """Quantised from the first epoch on; ranges and BatchNorm stay in the second."""
    return create(root, QUANTISED)


def tiny_learned(root: Path) -> TinyExperiment:
    """Quantised from the first epoch on, with ranges that are learnt from the second on."""
    return create(root, LEARNED)


def tiny_pruned(root: Path) -> TinyExperiment:
    """Pruned to three quarters in three steps of the first epoch, tuned in the second."""
    return create(root, PRUNED)


def tiny_slimmed(root: Path) -> TinyExperiment:
    """With four widths of its own: in the stem, of a residual branch, of a map of the neck, and of one of the head."""
    return create(root, SLIMMED)
