"""From labelled pictures to batches, by the batch samplers of `public.loading.detection`.

Every random number of a sample follows from the seed, the epoch, the picture's index and the transform's name, so the
number of workers, their speed and a restart change no bit.  B images of a batch, K classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from public.datasets.classification_set import ClassificationSet
from public.datasets.sample import RepeatedKey, SampleKey, sample_number
from public.input import ClassificationInput, ImageError, prepare_crop, read_image, read_size
from public.loading.samplers import EvalBatches, TrainBatches
from public.loading.workers import make_loader
from public.transforms.classification import UnreadPicture, apply_transforms
from public.transforms.mixing import NO_MIX, WHOLE, Mix, draw_mix, mix_images, partner_places
from public.transforms.rules import all_of


@dataclass(kw_only=True)
class ClassificationSample:
    """A picture and its class, after the transforms."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: int
    image_id: str
    index: int  # position in the set
    key: SampleKey | RepeatedKey
    skipped: str | None  # why the picture that belongs here could not be used, and what is here instead


class TrainingPictures(Dataset):
    """Training samples: read and transformed.

    Args:
        on_bad_sample: "error" raises where a picture cannot be read; "skip" takes the first readable one after it (after
            the last comes the first), with its class, and says so in the sample's `skipped`.  The random numbers stay those
            of the place, not of the picture.

    Raises:
        ValueError: a transform that has to read the picture itself does not stand first.
    """

    def __init__(
        self,
        pictures: ClassificationSet,
        *,
        transforms: tuple,
        batch_transforms: tuple = (),
        seed: int,
        on_bad_sample: str = "error",
    ):
        _check_choice(on_bad_sample)
        self.pictures = pictures
        self.transforms = transforms
        self.batch_transforms = batch_transforms
        self.seed = seed
        self.may_skip = on_bad_sample == "skip"
        reading = [getattr(transform, "use_reduced", False) for transform in all_of(transforms)]
        if any(reading[1:]):
            raise ValueError(
                f"{type(all_of(transforms)[reading.index(True, 1)]).__name__} with use_reduced reads the pictures itself: it "
                "stands first among train_transforms, once"
            )
        self.reads_reduced = any(reading)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: SampleKey | RepeatedKey) -> ClassificationSample:
        image, index, skipped = self._load(key)
        return _make_sample(self.pictures, image, index, key, skipped)

    def _unread(self, index: int) -> UnreadPicture:
        path = self.pictures.image_path(index)
        if self.pictures.images is not None:
            image = self.pictures.images[index]
            return UnreadPicture(sides=lambda: image.shape[:2], read=lambda _: image)
        return UnreadPicture(sides=lambda: read_size(path)[0][::-1], read=lambda by: read_image(path, reduction=by))

    def _load(self, key):
        """(picture after the transforms, its index, line on what was skipped)"""
        index = key.index
        problem, pictures = None, self.pictures
        for other in range(index, index + len(pictures)):
            other %= len(pictures)
            try:
                picture = self._unread(other) if self.reads_reduced else pictures.load_picture(other)
                image = apply_transforms(picture, self.transforms, self.seed, key.epoch, sample_number(key))
            except ImageError as error:
                if not self.may_skip:
                    raise
                problem = problem or str(error)
            else:
                return image, other, problem and f"{problem} Skipped; {pictures.image_path(other)} takes its place."
        raise ImageError(f"none of the {len(pictures)} pictures of {pictures.description} can be used: {problem}")


class EvaluationPictures(Dataset):
    """Prepared pictures with their classes.

    Args:
        on_bad_sample: "error" raises where a picture cannot be read; "skip" puts a black one in its place and says so in
            the sample's `skipped`: what the network answers there is to be counted as wrong.
    """

    def __init__(self, pictures: ClassificationSet, *, spec: ClassificationInput, on_bad_sample: str = "error"):
        _check_choice(on_bad_sample)
        self.pictures = pictures
        self.spec = spec
        self.may_skip = on_bad_sample == "skip"

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: SampleKey) -> ClassificationSample:
        skipped = None
        try:
            image, _ = prepare_crop(self.pictures.load_picture(key.index), self.spec)
        except ImageError as error:
            if not self.may_skip:
                raise
            image, skipped = np.zeros((*self.spec.size, 3), np.uint8), f"{error} Skipped; it counts as wrong."
        return _make_sample(self.pictures, image, key.index, key, skipped)


def _check_choice(on_bad_sample):
    if on_bad_sample not in ("error", "skip"):
        raise ValueError(f"on_bad_sample is {on_bad_sample!r}, has to be one of ('error', 'skip')")


def _make_sample(pictures, image, index, key, skipped):
    return ClassificationSample(
        image=image,
        label=int(pictures.labels[index]),
        image_id=pictures.image_id(index),
        index=index,
        key=key,
        skipped=skipped,
    )


class ClassificationBatch(NamedTuple):
    """B samples of one size."""

    images: torch.Tensor  # (B, H, W, 3) uint8, RGB
    # labels (B,) int64; other_labels (B,) int64, those of the pictures that were mixed in; shares (B,) float32, that of
    # `labels`, 1 without mixing
    targets: dict[str, torch.Tensor]
    image_ids: list[str]
    indices: list[int]  # positions in the set
    skipped: list[str | None]  # B times a line on the picture that could not be used, or None

    def to(self, device: torch.device | str) -> "ClassificationBatch":
        """The batch with its tensors on `device`; from pinned memory the copy does not wait."""
        targets = {name: value.to(device, non_blocking=True) for name, value in self.targets.items()}
        return self._replace(images=self.images.to(device, non_blocking=True), targets=targets)

    def part(self, start: int, stop: int) -> "ClassificationBatch":
        """Images start .. stop - 1."""
        return ClassificationBatch(
            images=self.images[start:stop],
            targets={name: values[start:stop] for name, values in self.targets.items()},
            image_ids=self.image_ids[start:stop],
            indices=self.indices[start:stop],
            skipped=self.skipped[start:stop],
        )

    @property
    def labels(self) -> torch.Tensor:
        """(B,) int64: the classes of the pictures, what was mixed in not counted."""
        return self.targets["labels"]

    def soft_targets(self, num_classes: int, label_smoothing: float) -> torch.Tensor:
        """(B, K) float32 probabilities: mixed as the pictures are, then (1 - s) of that and s / K everywhere.

        Label smoothing is that of Szegedy et al., 1512.00567, section 7.

        Raises:
            ValueError: `label_smoothing` is not within [0, 1).
        """
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing!r}, has to be within 0 .. 1, below 1")
        target = self.targets
        shares = target["shares"][:, None] * (1 - label_smoothing)  # (B, 1)
        others = (1 - target["shares"][:, None]) * (1 - label_smoothing)
        soft = torch.full((len(shares), num_classes), label_smoothing / num_classes, device=shares.device)
        rows = torch.arange(len(shares), device=shares.device)
        soft[rows, target["labels"]] += shares[:, 0]  # no index twice: nothing is added in an unknown order
        soft[rows, target["other_labels"]] += others[:, 0]
        return soft


class Collate:
    """Makes a batch of samples, and mixes it as its batch transform says."""

    def __init__(self, batch_transforms: tuple, seed: int):
        self.batch_transforms = batch_transforms
        self.seed = seed

    def __call__(self, samples: list[ClassificationSample]) -> ClassificationBatch:
        """One batch.

        Raises:
            ValueError: two images differ in size (the message names both), or an odd number is to be mixed.
        """
        first = samples[0]
        for sample in samples:
            if sample.image.shape != first.image.shape:
                raise ValueError(
                    f"images of one batch have to have one size, but {first.image_id} has {first.image.shape[:2]} and "
                    f"{sample.image_id} has {sample.image.shape[:2]} (height, width). Use RandomResizedCrop."
                )
        images = torch.from_numpy(np.stack([sample.image for sample in samples]))
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        height, width = first.image.shape[:2]
        mix = draw_mix(self.batch_transforms, self.seed, first.key.epoch, first.key.batch, height, width)
        return ClassificationBatch(
            images=mix_images(images, mix),
            targets=make_targets(labels, mix),
            image_ids=[sample.image_id for sample in samples],
            indices=[sample.index for sample in samples],
            skipped=[sample.skipped for sample in samples],
        )


def make_targets(labels: torch.Tensor, mix: Mix) -> dict[str, torch.Tensor]:
    """The targets of a batch whose pictures were mixed by `mix`."""
    others = labels if mix == NO_MIX else labels[partner_places(len(labels)).to(labels.device)]
    shares = torch.full((len(labels),), mix.share / WHOLE, dtype=torch.float32, device=labels.device)
    return {"labels": labels, "other_labels": others, "shares": shares}


def make_classification_loader(
    dataset: TrainingPictures | EvaluationPictures,
    batches: TrainBatches | EvalBatches,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
) -> DataLoader:
    """A torch DataLoader of `ClassificationBatch`es that draws from no global generator; arguments as `make_loader`."""
    collate = Collate((), 0)
    if isinstance(dataset, TrainingPictures):
        collate = Collate(dataset.batch_transforms, dataset.seed)
    return make_loader(
        dataset,
        batches,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        pin_memory=pin_memory,
        collate_fn=collate,
    )
