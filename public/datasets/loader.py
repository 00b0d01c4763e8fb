"""From annotations to batches: data sets, the two batch samplers, the data loader.

The samplers hand out `SampleKey`s, from which every random number of a sample follows, so the number of workers, their
speed and a restart change no bit.  What the workers may do, and what happens when one dies: `workers`.

B images of a batch, N objects of an image.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from public.datasets.annotations import Annotations
from public.datasets.sample import Sample, SampleKey
from public.datasets.transforms import apply_batch_transforms, apply_transforms
from public.datasets.workers import WatchedLoader, start_worker
from public.input import Geometry, ImageError, InputSpec, prepare, read_image
from public.random_streams import stream


def load_picture(annotations: Annotations, index: int) -> np.ndarray:
    """The picture `index` (H, W, 3) uint8 RGB, which has the annotated size.

    Raises:
        ImageError: the picture cannot be read, or its size, turned by its EXIF orientation, is not the annotated one.
    """
    path = annotations.image_path(index)
    image = read_image(path)
    actual = image.shape[1], image.shape[0]
    if actual != _annotated_size(annotations, index):
        check_size(annotations, index, actual, read_image(path, turn=False).shape[1::-1])
    return image


def _annotated_size(annotations, index):
    return int(annotations.widths[index]), int(annotations.heights[index])


def check_size(annotations: Annotations, index: int, actual: tuple[int, int], stored: tuple[int, int]) -> None:
    """Compares the annotated (width, height) with that of the picture, turned by its EXIF orientation.

    Args:
        actual: of the picture as it is turned.
        stored: before that.

    Raises:
        ImageError: they differ.
    """
    annotated = _annotated_size(annotations, index)
    if annotated == actual:
        return
    remedy = "Correct one of them."
    if annotated == stored:
        remedy = (
            "That is its size as it is stored, before it is turned: annotate the turned picture, or take the orientation "
            "out of the file."
        )
    raise ImageError(
        f"{annotations.image_path(index)}: the picture has {actual[0]} x {actual[1]} pixels (width x height, turned by its "
        f"EXIF orientation), the annotation of {annotations.description} says {annotated[0]} x {annotated[1]}. {remedy}",
        "wrong size",
    )


def load_sample(annotations: Annotations, index: int) -> Sample:
    """The picture `index` and all its objects, in pixels of the original.

    Raises:
        ImageError: as `load_picture`.
    """
    return _sample(annotations, index, load_picture(annotations, index))


def _sample(annotations, index, image):
    boxes, labels, difficult, crowd = annotations.objects(index)
    return Sample(
        image=image,
        boxes=boxes,
        labels=labels,
        difficult=difficult,
        crowd=crowd,
        image_id=annotations.image_id(index),
        index=index,
        height=image.shape[0],
        width=image.shape[1],
    )


def load_readable_sample(annotations: Annotations, index: int) -> tuple[Sample, str | None]:
    """The sample `index`, or the first readable one of index + 1, index + 2, ... (after the last comes the first).

    What takes the place follows from the data and the index alone, whatever the epoch or the worker.

    Returns:
        The sample, and a line that says what was skipped, why, and what took its place; None if nothing was.

    Raises:
        ImageError: none of the pictures can be read.
    """
    problem = None
    for other in range(index, index + len(annotations)):
        try:
            sample = load_sample(annotations, other % len(annotations))
        except ImageError as error:
            problem = problem or str(error)
        else:
            return sample, problem and f"{problem} Skipped; {annotations.image_path(sample.index)} takes its place."
    raise ImageError(f"none of the {len(annotations)} pictures of {annotations.description} can be used: {problem}")


class DetectionDataset(Dataset):
    """Training samples: read, stripped of what is not trained on, transformed.

    Crowd objects never reach the loss, difficult ones only if the set says so; they leave before the transforms, as in
    the originals, so that no crop is chosen for their sake.  Images without objects stay.

    Args:
        on_bad_sample: "error" raises where a picture cannot be used; "skip" takes the one of `load_readable_sample` and
            says so in the sample's `skipped`.  The random numbers stay those of the place, not of the picture.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        transforms: tuple,
        batch_transforms: tuple,
        seed: int,
        on_bad_sample: str = "error",
    ):
        self.annotations = annotations
        self.load = _loading(on_bad_sample, load_readable_sample)
        self.transforms = transforms
        self.batch_transforms = batch_transforms
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> Sample:
        sample, skipped = self.load(self.annotations, key.index)
        is_trained = ~sample.crowd
        if not self.annotations.use_difficult:
            is_trained &= ~sample.difficult
        for name in ("boxes", "labels", "difficult", "crowd"):
            setattr(sample, name, getattr(sample, name)[is_trained])
        sample = apply_transforms(sample, self.transforms, self.seed, key)
        sample = apply_batch_transforms(sample, self.batch_transforms, self.seed, key)
        sample.skipped = skipped
        return sample


class EvaluationDataset(Dataset):
    """Prepared pictures with their geometry and all their objects, in network pixels.

    Args:
        on_bad_sample: "error" raises where a picture cannot be used; "skip" puts a black one in its place, with all its
            objects, and says so in the sample's `skipped`: what the network sees there is not to be counted as found.
    """

    def __init__(self, annotations: Annotations, *, spec: InputSpec, on_bad_sample: str = "error"):
        self.annotations = annotations
        self.spec = spec
        self.load = _loading(on_bad_sample, _load_or_black)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> Sample:
        sample, sample.skipped = self.load(self.annotations, key.index)
        sample.image, geometry = prepare(sample.image, self.spec)
        scale = np.array([geometry.scale_x, geometry.scale_y] * 2, dtype=np.float32)
        pad = np.array([geometry.pad_left, geometry.pad_top] * 2, dtype=np.float32)
        sample.boxes = sample.boxes * scale + pad
        sample.geometry = geometry
        return sample


def _loading(on_bad_sample, skipping):
    """The function that loads (sample, line on what was skipped)."""
    choices = {"error": _load_or_raise, "skip": skipping}
    if on_bad_sample not in choices:
        raise ValueError(f"on_bad_sample is {on_bad_sample!r}, has to be one of {tuple(choices)}")
    return choices[on_bad_sample]


def _load_or_raise(annotations, index):
    return load_sample(annotations, index), None


def _load_or_black(annotations, index):
    try:
        return load_sample(annotations, index), None
    except ImageError as error:
        skipped = f"{error} Skipped; its objects count as not found."
    black = np.zeros((annotations.heights[index], annotations.widths[index], 3), dtype=np.uint8)
    return _sample(annotations, index, black), skipped


class DetectionBatch(NamedTuple):
    """B samples of one size."""

    images: torch.Tensor  # (B, H, W, 3) uint8, RGB
    targets: list[dict]  # B times boxes (N, 4) float32 x1 y1 x2 y2 in pixels of `images`, labels (N,) int64
    image_ids: list
    indices: list[int]  # positions in the annotations
    geometries: list[Geometry] | None  # None in training
    skipped: list[str | None]  # B times a line on the picture that could not be used, or None

    def to(self, device: torch.device | str) -> "DetectionBatch":
        """The batch with its tensors on `device`; from pinned memory the copy does not wait."""
        targets = [
            {name: value.to(device, non_blocking=True) for name, value in target.items()} for target in self.targets
        ]
        return self._replace(images=self.images.to(device, non_blocking=True), targets=targets)


def collate(samples: list[Sample]) -> DetectionBatch:
    """One batch of samples.

    Raises:
        ValueError: two images differ in size; the message names both.
    """
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise ValueError(
                f"images of one batch have to have one size, but {first.image_id!r} has {first.image.shape[:2]} and "
                f"{sample.image_id!r} has {sample.image.shape[:2]} (height, width). End the transforms with Resize, or "
                "use BatchRandomResize."
            )
    targets = [
        {"boxes": torch.from_numpy(s.boxes.copy()), "labels": torch.from_numpy(s.labels.copy())} for s in samples
    ]
    return DetectionBatch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        targets=targets,
        image_ids=[sample.image_id for sample in samples],
        indices=[sample.index for sample in samples],
        geometries=None if first.geometry is None else [sample.geometry for sample in samples],
        skipped=[sample.skipped for sample in samples],
    )


class TrainBatches:
    """This process's batches of the steps first_step .. num_steps - 1, over all epochs, as lists of `SampleKey`.

    Epoch e shows the images in the order of the stream (seed, "order", e).  Its global batch b is the slice
    [b * batch_size, (b + 1) * batch_size) of that order, and rank r takes the r-th of world_size equal parts.  What is
    left at the end of an epoch is not shown in it.

    Raises:
        ValueError: batch_size cannot be split evenly, is more than there are images, or the steps make no sense.
    """

    def __init__(
        self,
        *,
        num_images: int,
        batch_size: int,
        seed: int,
        first_step: int,
        num_steps: int,
        rank: int,
        world_size: int,
    ):
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size {batch_size} cannot be split evenly over {world_size} processes")
        if num_images < batch_size:
            raise ValueError(
                f"the training set has {num_images} images, fewer than one batch of {batch_size}; "
                "take a smaller batch_size or more images"
            )
        if not 0 <= first_step <= num_steps:
            raise ValueError(f"first_step {first_step} is not between 0 and num_steps {num_steps}")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.num_steps = num_steps
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_steps - self.first_step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        steps_per_epoch = self.num_images // self.batch_size
        share = self.batch_size // self.world_size
        epoch, order = -1, None
        for step in range(self.first_step, self.num_steps):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = stream(self.seed, "order", epoch).permutation(self.num_images).tolist()
            batch = step % steps_per_epoch
            start = batch * self.batch_size + self.rank * share
            yield [SampleKey(epoch, batch, index) for index in order[start : start + share]]


class EvalBatches:
    """This process's evaluation batches: batch i is images [i * b, (i + 1) * b), rank r takes batches r, r + W, ...

    Each image is in exactly one batch of one rank, and no batch depends on the number W of ranks; the last batch may be
    smaller.
    """

    def __init__(self, *, num_images: int, batch_size: int, rank: int, world_size: int):
        if batch_size < 1:
            raise ValueError(f"the evaluation's batch_size is {batch_size}, has to be at least 1")
        self.num_images = num_images
        self.batch_size = batch_size
        self.own_batches = range(rank, -(-num_images // batch_size), world_size)

    def __len__(self) -> int:
        return len(self.own_batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in self.own_batches:
            start = batch * self.batch_size
            indices = range(start, min(start + self.batch_size, self.num_images))
            yield [SampleKey(0, batch, index) for index in indices]


def make_loader(
    dataset: Dataset,
    batches: TrainBatches | EvalBatches,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    collate_fn=collate,
) -> WatchedLoader:
    """A torch DataLoader of `DetectionBatch`es, or what else `collate_fn` makes, that draws from no global generator.

    Args:
        num_workers: processes that read and transform; 0 does it in this process.  They live as long as the loader.
        prefetch_factor: batches that each worker prepares ahead; without workers it has no effect.
        pin_memory: copy batches into page-locked memory, from which a GPU can fetch them without waiting.
    """
    return WatchedLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # the loader numbers its workers from it; none of our streams does
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        # forked workers know the classes of an experiment's own folder, which others could not import
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )
