"""The tiny detection experiment with all that YOLOX does to its pictures; mosaics end with the first epoch."""

from dataclasses import dataclass
from pathlib import Path

from tests.helpers.experiments import TinyExperiment

PLAIN = 'train_transforms=(RandomFlip(prob=0.5), Resize(size=(64, 64), interpolation="linear")),'
OURS = """train_transforms=(
        FitWhenRead(size=(64, 64), interpolation="linear", use_reduced=True),
        Until(
            epoch=1,
            transforms=(
                Mosaic(
                    size=(64, 64),
                    prob=1.0,
                    center=(0.5, 1.5),
                    affine=RandomAffine(
                        rotation=10.0, scale=(0.5, 1.5), shear=2.0, translate=0.1, fill=(114, 114, 114)
                    ),
                ),
                BlendPartner(prob=1.0, scale=(0.5, 1.5), flip_prob=0.5, fill=(114, 114, 114)),
            ),
        ),
        HSVJitter(hue=5, saturation=30, value=30, apply_prob=0.5),
        RandomFlip(prob=0.5),
        Letterbox(size=(64, 64), interpolation="linear", padding=114),
        DropThin(min_side=1.0),
    ),"""
IMPORTS = """from public.transforms.detection import BatchRandomResize, DropThin, HSVJitter
from public.transforms.fitting import FitWhenRead
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox
from public.transforms.mosaic import BlendPartner, Mosaic, RandomAffine
from public.transforms.rules import Until
"""
THEIRS = """from public.transforms.detection import BatchRandomResize, Resize
from public.transforms.flip import RandomFlip
"""


@dataclass
class MosaicExperiment(TinyExperiment):
    """As `TinyExperiment`."""

    free = (("--picture_cache", ("none", "memory")),)  # more flags that change nothing, and their values

    @classmethod
    def create(cls, root: Path) -> "MosaicExperiment":
        experiment = super().create(root)
        config = experiment.folder / "config.py"
        page = config.read_text()
        for old, new in ((PLAIN, OURS), (THEIRS, IMPORTS)):
            assert old in page, "the tiny experiment's page reads otherwise"
            page = page.replace(old, new)
        config.write_text(page)
        return cls(experiment.folder, experiment.data_root)
