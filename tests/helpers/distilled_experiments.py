"""Tiny experiments whose network learns beside a teacher: those of the other helpers, with a page of their own."""

from pathlib import Path

import torch

from public.checkpoint_files import load_checkpoint, save_atomic
from public.config import freeze
from public.runs.experiment import load_experiment
from tests.helpers.classification_experiments import TinyClassification
from tests.helpers.experiments import TinyExperiment
from tests.helpers.tiny_data import TINY_CLASSES

PAGE = '''"""{title}

Command: a test's.
"""

from dataclasses import replace

from public.families.distilled import CWD, DKD, KD, LD, Distilled, Mutual, PPYOLOELogits, SoftLabels
from public.families.ppyoloe import PPYOLOE

from .page import config as page

{body}
'''
DETECTOR = """
fields = dict(vars(page.detector), width=0.25)
fields.pop("loss_factor")
config = replace(
    page,
    detector=Distilled(
        student=page.detector,
        teacher=PPYOLOE(**fields),
        teacher_weights={weights!r},
        teacher_precision="float32",
        feature=CWD(weight=0.1, temperature=1.0, normalise=True),
        logits=None,
        factor=1.0,
        stop_epoch=1,
    ),
)
"""
CLASSIFIER = """
config = replace(
    page,
    classifier=Distilled(
        student=page.classifier,
        teacher=replace(page.classifier, width=16),
        teacher_weights={weights!r},
        teacher_precision="float32",
        feature=None,
        logits=KD(weight=1.0, temperature=4.0),
        factor=1.0,
        stop_epoch=None,
    ),
)
"""
MUTUAL = """
config = replace(
    page,
    classifier=Mutual(
        student=page.classifier, peer=replace(page.classifier, width=4), weight=1.0, temperature=1.0
    ),
)
"""


def write_page(folder: Path, body: str) -> None:
    """The folder's page becomes page.py, beside a config.py that lays `body` over it."""
    (folder / "config.py").rename(folder / "page.py")
    (folder / "config.py").write_text(PAGE.format(title="A tiny pair.", body=body))


def write_teacher(folder: Path, path: Path, *, names, seed: int = 5) -> None:
    """A teacher of the experiment in `folder`, with the initial values of a seed, for classes of these names."""
    config = load_experiment(folder).config
    settings = config.network_settings.teacher
    torch.manual_seed(seed)
    save_atomic(
        {
            "model": settings.build_model().state_dict(),
            "model_name": "teacher",
            "num_classes": len(names),
            "class_names": list(names),
            "input": next(iter(freeze(config.input).values())),
        },
        path,
    )


class TinyDistilled(TinyExperiment):
    """A detector, student beside a teacher twice as wide; it learns alone from the second epoch on."""

    @property
    def teacher(self) -> Path:
        return self.data_root / "teacher.pth"

    @classmethod
    def create(cls, root: Path) -> "TinyDistilled":
        made = super().create(root)
        write_page(made.folder, DETECTOR.format(weights=str(made.teacher)))
        write_teacher(made.folder, made.teacher, names=TINY_CLASSES)
        return made


class TinyDistilledClassifier(TinyClassification):
    """A classifier beside a teacher twice as wide."""

    @property
    def teacher(self) -> Path:
        return self.data_root / "teacher.pth"

    @classmethod
    def create(cls, root: Path) -> "TinyDistilledClassifier":
        made = super().create(root)
        write_page(made.folder, CLASSIFIER.format(weights=str(made.teacher)))
        names = load_experiment(made.folder).config.train_data.read(made.data_root, None).class_names
        write_teacher(made.folder, made.teacher, names=names)
        return made


class TinyMutual(TinyClassification):
    """Two classifiers that learn from each other."""

    @classmethod
    def create(cls, root: Path) -> "TinyMutual":
        made = super().create(root)
        write_page(made.folder, MUTUAL)
        return made


def plain_state(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "best.pth")["model"]
