"""From annotations to batches: data sets, the two batch samplers, the data loader.

The samplers hand out `SampleKey`s, from which every random number of a sample follows, so the number of workers, their
speed and a restart change no bit.  What the workers may do, and what happens when one dies: `workers`.

B images of a batch, N objects of an image.
"""

import functools
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from public.datasets.annotations import Annotations
from public.datasets.picture_digests import content_digest
from public.datasets.pictures import load_picture, load_sample, make_sample
from public.datasets.sample import Sample, SampleKey, Unread, blank
from public.input import Geometry, ImageError, InputSpec, Region, prepare, stack
from public.loading.picture_cache import PictureCache, open_in_folder
from public.loading.samplers import EvalBatches, TrainBatches
from public.loading.workers import WatchedLoader, make_loader
from public.transforms.detection import apply_batch_transforms, apply_transforms
from public.transforms.fitting import FitWhenRead, fitted
from public.transforms.rules import all_of


def load_readable_sample(
    annotations: Annotations, index: int, read: Callable[[Annotations, int], Sample] = load_sample
) -> tuple[Sample, str | None]:
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
            sample = read(annotations, other % len(annotations))
        except ImageError as error:
            problem = problem or str(error)
        else:
            return sample, problem and f"{problem} Skipped; {annotations.image_path(sample.index)} takes its place."
    raise ImageError(f"none of the {len(annotations)} pictures of {annotations.description} can be used: {problem}")


class DetectionDataset(Dataset):
    """Training samples: read, stripped of what is not trained on, transformed.

    Crowd objects never reach the loss, difficult ones only if the set says so; they leave before the transforms, as in
    the originals, so that no crop is chosen for their sake.  Images without objects stay.  Pictures that a transform mixes
    in come from here too, treated alike.

    Args:
        on_bad_sample: "error" raises where a picture cannot be used; "skip" takes the one of `load_readable_sample` and
            says so in the sample's `skipped`.  The random numbers stay those of the place, not of the picture.
        cache: where pictures are kept as they were read, or None; the same bits with and without.

    Raises:
        ValueError: a FitWhenRead does not stand first among the transforms.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        transforms: tuple,
        batch_transforms: tuple,
        seed: int,
        on_bad_sample: str = "error",
        cache: PictureCache | None = None,
    ):
        self.annotations = annotations
        self.load = _loading(on_bad_sample, load_readable_sample)
        self.fit = fit_of(transforms)
        self.transforms = transforms if self.fit is None else transforms[1:]
        self.cache = cache
        self.batch_transforms = batch_transforms
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> Sample:
        skipped: list[str] = []
        sample = apply_transforms(
            self._unread(key.index, skipped),
            self.transforms,
            self.seed,
            key,
            load=lambda index: self._unread(index, skipped),
            num_images=len(self),
        )
        sample = apply_batch_transforms(sample, self.batch_transforms, self.seed, key)
        sample.skipped = " ".join(dict.fromkeys(skipped)) or None
        return sample

    def _unread(self, index: int, skipped: list[str]) -> Unread:
        """The picture `index` with the objects that are trained on; where another takes its place, `skipped` gets a line."""

        def read() -> Sample:
            sample, line = self.load(self.annotations, index, self._read)
            if line:
                skipped.append(line)
            return self._trained(sample)

        height, width = int(self.annotations.heights[index]), int(self.annotations.widths[index])
        sides = (height, width) if self.fit is None else self.fit.sides(height, width)[:2]
        return Unread(outline=self._trained(self._with_picture(index, blank(*sides))), read=read)

    def _read(self, annotations: Annotations, index: int) -> Sample:
        picture = self._picture if self.cache is None else functools.partial(self.cache.get, read=self._picture)
        return self._with_picture(index, picture(index))

    def _picture(self, index: int) -> np.ndarray:
        return load_picture(self.annotations, index) if self.fit is None else self.fit.picture(self.annotations, index)

    def _with_picture(self, index: int, image: np.ndarray) -> Sample:
        sample = make_sample(self.annotations, index, image)
        return sample if self.fit is None else fitted(sample, self.fit, self.annotations)

    def _trained(self, sample: Sample) -> Sample:
        is_trained = ~sample.crowd
        if not self.annotations.use_difficult:
            is_trained &= ~sample.difficult
        for name, values in sample.objects._asdict().items():
            setattr(sample, name, values[is_trained])
        return sample


def fit_of(transforms: tuple) -> FitWhenRead | None:
    """The FitWhenRead by which the pictures are read, or None.

    Raises:
        ValueError: there is one elsewhere than in the first place.
    """
    places = [place for place, transform in enumerate(all_of(transforms)) if isinstance(transform, FitWhenRead)]
    if not places:
        return None
    if places != [0] or not isinstance(transforms[0], FitWhenRead):
        raise ValueError(
            "FitWhenRead says how pictures are read: it stands first among train_transforms, once, in no Until"
        )
    return transforms[0]


def open_cache(
    annotations: Annotations, fit: FitWhenRead | None, *, max_bytes: int, on_disk: bool, folder: Path | None = None
) -> PictureCache:
    """The cache of the pictures of `annotations` as a DetectionDataset reads them.

    Args:
        folder: of the files on disk; None: the repository's.

    Raises:
        OSError: the folder or the file cannot be made, or a picture cannot be read for its digest.
    """
    sides = [(int(height), int(width)) for height, width in zip(annotations.heights, annotations.widths)]
    shapes = sides if fit is None else [fit.sides(*pair)[:2] for pair in sides]
    if not on_disk:
        return PictureCache(shapes, max_bytes=max_bytes)
    content = content_digest(annotations.picture_files())
    return open_in_folder(shapes, content=content, rule=repr(fit), max_bytes=max_bytes, folder=folder)


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


def _load_or_raise(annotations, index, read=load_sample):
    return read(annotations, index), None


def _load_or_black(annotations, index):
    try:
        return load_sample(annotations, index), None
    except ImageError as error:
        skipped = f"{error} Skipped; its objects count as not found."
    black = np.zeros((annotations.heights[index], annotations.widths[index], 3), dtype=np.uint8)
    return make_sample(annotations, index, black), skipped


class DetectionBatch(NamedTuple):
    """B samples, brought to one size, with M objects in all.

    The objects of all images lie one after the other: a batch travels from a worker in three tensors, each of which keeps
    a file open on its way, whatever B is.
    """

    images: torch.Tensor  # (B, H, W, 3) uint8, RGB
    regions: list[Region]  # where each picture lies in its image: x1 y1 x2 y2; around it is padding
    boxes: torch.Tensor  # (M, 4) float32 x1 y1 x2 y2 in pixels of `images`
    labels: torch.Tensor  # (M,) int64
    offsets: list[int]  # B + 1: the objects of image i are offsets[i] .. offsets[i + 1] - 1
    image_ids: list
    indices: list[int]  # positions in the annotations
    geometries: list[Geometry] | None  # None in training
    skipped: list[str | None]  # B times a line on the picture that could not be used, or None

    @property
    def targets(self) -> list[dict[str, torch.Tensor]]:
        """B times boxes (N, 4) and labels (N,) of one image, as a loss takes them: views of the batch's tensors."""
        counts = [stop - start for start, stop in pairwise(self.offsets)]
        parts = zip(self.boxes.split(counts), self.labels.split(counts))
        return [{"boxes": boxes, "labels": labels} for boxes, labels in parts]

    def to(self, device: torch.device | str) -> "DetectionBatch":
        """The batch with its tensors on `device`; from pinned memory the copy does not wait."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("images", "boxes", "labels")}
        return self._replace(**moved)

    def on_canvas(self, height: int, width: int, color: tuple[int, int, int]) -> "DetectionBatch":
        """The batch with images of these sides, none smaller than now; `color` at the right and the bottom."""
        count, old_height, old_width, _ = self.images.shape
        if (height, width) == (old_height, old_width):
            return self
        images = torch.tensor(color, dtype=torch.uint8).expand(count, height, width, 3).contiguous()
        images[:, :old_height, :old_width] = self.images
        return self._replace(images=images)

    def part(self, start: int, stop: int) -> "DetectionBatch":
        """Images start .. stop - 1."""
        offsets = self.offsets[start : stop + 1]
        objects = slice(offsets[0], offsets[-1])
        return DetectionBatch(
            images=self.images[start:stop],
            regions=self.regions[start:stop],
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            offsets=[offset - offsets[0] for offset in offsets],
            image_ids=self.image_ids[start:stop],
            indices=self.indices[start:stop],
            geometries=None if self.geometries is None else self.geometries[start:stop],
            skipped=self.skipped[start:stop],
        )


def collate(samples: list[Sample], spec: InputSpec | None = None) -> DetectionBatch:
    """One batch of samples, of training or of evaluation.

    Pictures of unequal sizes are padded at the right and the bottom as `public.input.stack` says, where the rule of `spec`
    lets them be unequal; `normalise` knows from `regions` what is padding.  What a training transform has drawn around a
    picture, such as the canvas of ResizeLongestSide, belongs to the picture.

    Raises:
        ValueError: two images differ in size, and have to be equal; the message names both.
    """
    first = samples[0]
    images = [sample.image for sample in samples]
    if spec is None or spec.multiple is None:
        _check_one_size(samples)
        stacked = np.stack(images)
    else:
        stacked = stack(images, spec)
    return DetectionBatch(
        images=torch.from_numpy(stacked),
        regions=[_region(sample) for sample in samples],
        boxes=torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
        labels=torch.from_numpy(np.concatenate([sample.labels for sample in samples])),
        offsets=list(accumulate((len(sample.boxes) for sample in samples), initial=0)),
        image_ids=[sample.image_id for sample in samples],
        indices=[sample.index for sample in samples],
        geometries=None if first.geometry is None else [sample.geometry for sample in samples],  # type: ignore[misc]  # all of a batch or none
        skipped=[sample.skipped for sample in samples],
    )


def _check_one_size(samples: list[Sample]) -> None:
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise ValueError(
                f"images of one batch have to have one size, but {first.image_id!r} has {first.image.shape[:2]} and "
                f"{sample.image_id!r} has {sample.image.shape[:2]} (height, width). End the transforms with Resize, or "
                "use BatchRandomResize; or let the InputSpec's resize be ShorterSide, which pads them."
            )


def _region(sample: Sample) -> Region:
    if sample.geometry is not None:
        return sample.geometry.region
    return (0, 0, sample.image.shape[1], sample.image.shape[0])


def make_detection_loader(
    dataset: DetectionDataset | EvaluationDataset,
    batches: TrainBatches | EvalBatches,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    spec: InputSpec | None = None,
) -> WatchedLoader:
    """A torch DataLoader of `DetectionBatch`es that draws from no global generator; arguments as `make_loader`.

    Args:
        spec: by whose rule unequal pictures are padded; None: they are refused.
    """
    return make_loader(
        dataset,
        batches,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        pin_memory=pin_memory,
        collate_fn=functools.partial(collate, spec=spec),
    )
