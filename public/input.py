"""How a picture becomes the network's input, and how boxes find the way back.

One `InputSpec` (of a classifier a `ClassificationInput`) stands in the experiment's config, in the checkpoint and in every
export; `prepare` (`prepare_crop`) and `normalise` are the only code that follows it, in evaluation, detection, video and
exported models alike.  In training the transforms take the place of `prepare`; `normalise` is the same.  Pictures of one
batch may come out unequal (`ShorterSide`, `KeepSize`): `stack` pads them at the right and the bottom, there and here.

B batch, H W height and width of the original picture, h w of the network's input.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from public.decoding import JPEG, decode, is_cut_jpeg
from public.folders import where_it_leads
from public.resizing import (
    INTERPOLATIONS,
    Interpolation,
    KeepSize,
    Placement,
    ShorterSide,
    letterbox,
    letterbox_by_ratio,
    round_up,
    stretch,
)
from public.settings import Level, Positive, Side, check
from public.text import shown

FORMATS = ("AVIF", "BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # that OpenCV reads, in Pillow's words
ROUNDING = 1e-6  # pixels by which a whole number may be missed where a side is multiplied by its scale
LONGEST = 32  # times as long as wide: pictures that are longer are cut before they are resized
REDUCED = {  # flags of OpenCV's decoder without the colour order that their names hold
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
EXIF_ORIENTATION = 0x0112  # tag; from 5 to 8 width and height are exchanged


class ImageError(ValueError):
    """A picture that cannot be used; the message names the file and the reason.

    `kind` is the reason in two words, by which `public.datasets.defects` counts: "missing picture", "empty picture",
    "truncated picture", "damaged picture", "unreadable picture" or "wrong size".
    """

    def __init__(self, message: str, kind: str = "unreadable picture"):
        # torch makes the error of a loader worker anew, from the text of its traceback, which has lines
        super().__init__(message if message.startswith("Caught ") else shown(message))
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What the network expects.

    Fields:
        size: (height, width) in pixels.  With `ShorterSide` the smaller number is the shorter side's and the larger the
            most of the longer, such as (800, 1333).  With `KeepSize` it decides nothing; FLOPs are counted for it.
        resize: "stretch" to the size; "letterbox": aspect kept, as large as fits, sides rounded down, picture at the top
            left, the rest padded; "letterbox_by_ratio": the same with YOLOX's boxes, see `public.resizing`;
            `ShorterSide(...)` or `KeepSize(...)`, which see.
        interpolation: "nearest", "linear", "cubic", "area" or "lanczos".
        padding: grey value 0..255 of the padding; or "mean", the colour `mean`: exact zeros of the normalised input, with
            `ShorterSide` and `KeepSize` only (a letterbox of training is drawn in whole grey values).
        color_order: "rgb" or "bgr", the channels as the network takes them.
        scale, mean, std: channel c of the input is (pixel * scale - mean[c]) / std[c], in `color_order`.

    Raises:
        ValueError: a value makes no sense; the message names the field.
    """

    size: tuple[Side, Side]
    resize: Literal["stretch", "letterbox", "letterbox_by_ratio"] | ShorterSide | KeepSize
    interpolation: Interpolation
    padding: Level | Literal["mean"]
    color_order: Literal["rgb", "bgr"]
    scale: Positive
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]

    def __post_init__(self) -> None:
        check(self)
        if self.padding == "mean" and self.multiple is None:
            raise ValueError(
                f"InputSpec.padding is 'mean', which resize {self.resize!r} does not offer; write a grey value 0 .. 255"
            )

    @property
    def multiple(self) -> int | None:
        """Of which the sides of a batch are multiples; None: pictures come out in one size, and are not padded to another."""
        return None if isinstance(self.resize, str) else self.resize.multiple

    @property
    def usual_size(self) -> tuple[int, int]:
        """(height, width) of an input, for counting operations; of `ShorterSide` the largest one."""
        height, width = self.size
        return round_up(height, self.multiple or 1), round_up(width, self.multiple or 1)

    @property
    def size_text(self) -> str:
        """The size in words, for reports."""
        height, width = self.size
        if isinstance(self.resize, ShorterSide):
            sides = f"shorter side {min(self.size)}, longer at most {max(self.size)} pixels"
            return f"{sides}, padded to multiples of {self.multiple}"
        if isinstance(self.resize, KeepSize):
            return f"pictures of their own size, padded to multiples of {self.multiple}"
        return f"{height} x {width} pixels"

    @property
    def padding_color(self) -> tuple[int, int, int]:
        """RGB of the padding in uint8; of "mean" the nearest to it, where `normalise` then puts zeros."""
        if self.padding != "mean":
            return (self.padding,) * 3
        red, green, blue = (min(max(round(value / self.scale), 0), 255) for value in self.mean)
        return (red, green, blue) if self.color_order == "rgb" else (blue, green, red)


# what an InputSpec is made of, by name, for `public.config.thaw`
INPUT_CLASSES: dict[str, type] = {kind.__name__: kind for kind in (InputSpec, ShorterSide, KeepSize)}


@dataclass(frozen=True, kw_only=True)
class ClassificationInput:
    """What a classifier expects: the shorter side is resized, the middle is cut out.

    Fields:
        size: (height, width) in pixels.
        shorter_side: to which the picture is resized first, aspect kept; at least both sides of `size`.
        interpolation: "nearest", "linear", "cubic", "area" or "lanczos"; "area" is done as "linear" where it enlarges.
        color_order: "rgb" or "bgr", the channels as the network takes them.
        scale, mean, std: channel c of the input is (pixel * scale - mean[c]) / std[c], in `color_order`.

    Raises:
        ValueError: a value makes no sense; the message names the field.
    """

    size: tuple[Side, Side]
    shorter_side: Side
    interpolation: Interpolation
    color_order: Literal["rgb", "bgr"]
    scale: Positive
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]

    def __post_init__(self):
        check(self)
        if self.shorter_side < max(self.size):
            raise ValueError(
                f"ClassificationInput.shorter_side is {self.shorter_side!r}, has to be whole pixels, at least the sides of "
                f"size {self.size}"
            )

    @property
    def usual_size(self) -> tuple[int, int]:
        """(height, width) of an input: of every one."""
        return self.size

    @property
    def size_text(self) -> str:
        """The size in words, for reports."""
        return f"{self.size[0]} x {self.size[1]} pixels"


Region = tuple[int, int, int, int]  # x1 y1 x2 y2 in whole pixels of a canvas


class Geometry(NamedTuple):
    """Where `prepare` put a picture: network x = original x * scale_x + pad_left, and so for y."""

    scale_x: float
    scale_y: float
    pad_left: int
    pad_top: int
    width: int  # of the original picture, in pixels
    height: int

    @property
    def region(self) -> Region:
        """Where the picture lies on its canvas."""
        right = self.pad_left + int(self.width * self.scale_x + ROUNDING)
        return self.pad_left, self.pad_top, right, self.pad_top + int(self.height * self.scale_y + ROUNDING)


class Pixels(NamedTuple):
    """A batch before `normalise`, for an exported network that normalises by itself."""

    images: torch.Tensor  # uint8 RGB (B, h, w, 3)
    regions: Sequence[Region] | None  # as `normalise` takes them


def prepare(image: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, Geometry]:
    """The picture (H, W, 3) uint8 RGB at the network's size: (h, w, 3) uint8 RGB, and its geometry.

    The picture is resized and padded as `spec` says; alone, so with `ShorterSide` and `KeepSize` to multiples only, and
    `stack` brings several to one size.  The scales are those of the sides after rounding, so that boxes come back without
    bias, but with "letterbox_by_ratio".
    """
    height, width = image.shape[:2]
    placed = _place(height, width, spec)
    if (placed.height, placed.width) != (height, width):
        size = placed.width, placed.height
        image = cv2.resize(image, size, interpolation=INTERPOLATIONS[spec.interpolation])
    below, right = placed.canvas_height - placed.top - placed.height, placed.canvas_width - placed.left - placed.width
    if placed.top or below or placed.left or right:
        borders = placed.top, below, placed.left, right
        image = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=spec.padding_color)
    scale_x, scale_y = placed.scale or placed.width / width, placed.scale or placed.height / height
    return image, Geometry(scale_x, scale_y, placed.left, placed.top, width, height)


def _place(height: int, width: int, spec: InputSpec) -> Placement:
    if spec.resize == "stretch":
        return stretch(height, width, spec.size)
    if spec.resize == "letterbox":
        return letterbox(height, width, spec.size)
    if spec.resize == "letterbox_by_ratio":
        return letterbox_by_ratio(height, width, spec.size)
    return spec.resize.place(height, width, spec.size)


def stack(images: Sequence[np.ndarray], spec: InputSpec) -> np.ndarray:
    """Pictures (h, w, 3) uint8 RGB as one batch (B, h, w, 3).

    The batch is as high as its highest picture and as wide as its widest, each rounded up to the multiple of `spec`; what is
    missing is padded at the right and the bottom with its padding.  So the size of a picture's canvas, and with it what a
    network sees beyond the picture's right and lower border, depends on its neighbours in the batch.

    Raises:
        ValueError: the pictures differ in size, and `spec` brings all to one; the message names both sizes.
    """
    shapes = [image.shape for image in images]
    if spec.multiple is None:
        other = next((shape for shape in shapes if shape != shapes[0]), None)
        if other is not None:
            raise ValueError(
                f"images of one batch have to have one size, not {shapes[0][:2]} and {other[:2]} (height, width)"
            )
        return np.stack(images)
    height, width = (round_up(max(shape[axis] for shape in shapes), spec.multiple) for axis in (0, 1))
    batch = np.empty((len(images), height, width, 3), dtype=np.uint8)
    for canvas, image, shape in zip(batch, images, shapes):
        canvas[: shape[0], : shape[1]] = image
        canvas[shape[0] :] = spec.padding_color
        canvas[: shape[0], shape[1] :] = spec.padding_color
    return batch


def prepare_crop(image: np.ndarray, spec: ClassificationInput) -> tuple[np.ndarray, Geometry]:
    """The picture (H, W, 3) uint8 RGB at the network's size: (h, w, 3) uint8 RGB, and its geometry.

    The longer side is rounded down to whole pixels, the cut's corner to the nearest (to the even one from the half), as
    torchvision's Resize and CenterCrop do.  The geometry's pads are negative: what was cut off at the left and the top.

    Of a strip, over LONGEST times as long as wide, the middle of this length is taken first, and only that is resized, which
    may move what is seen by half a pixel of the strip: resized as a whole, a line of 20,000 pixels would fill gigabytes.
    """
    if max(image.shape[:2]) > LONGEST * min(image.shape[:2]):
        return _prepare_strip(image, spec)
    height, width = image.shape[:2]
    shorter = min(height, width)
    new_height, new_width = (spec.shorter_side * side // shorter for side in (height, width))
    if (new_height, new_width) != (height, width):
        name = "linear" if spec.interpolation == "area" and spec.shorter_side > shorter else spec.interpolation
        image = cv2.resize(image, (new_width, new_height), interpolation=INTERPOLATIONS[name])
    top, left = round((new_height - spec.size[0]) / 2), round((new_width - spec.size[1]) / 2)
    cut = np.ascontiguousarray(image[top : top + spec.size[0], left : left + spec.size[1]])
    return cut, Geometry(new_width / width, new_height / height, -left, -top, width, height)


def _prepare_strip(image: np.ndarray, spec: ClassificationInput) -> tuple[np.ndarray, Geometry]:
    """`prepare_crop` of the middle of a picture that is over LONGEST times as long as wide."""
    height, width = image.shape[:2]
    kept = LONGEST * min(height, width)
    top, left = max(height - kept, 0) // 2, max(width - kept, 0) // 2
    cut, inner = prepare_crop(image[top : top + kept, left : left + kept], spec)
    pad_left, pad_top = inner.pad_left - round(left * inner.scale_x), inner.pad_top - round(top * inner.scale_y)
    return cut, inner._replace(pad_left=pad_left, pad_top=pad_top, width=width, height=height)


def normalise(
    images: torch.Tensor,
    spec: InputSpec | ClassificationInput,
    regions: Sequence[Region] | torch.Tensor | None = None,
) -> torch.Tensor:
    """The network's input, float32 (B, 3, h, w), from uint8 RGB (B, h, w, 3), on the same device.

    The result lies in memory as the pixels did, torch.channels_last; `.contiguous()` gives the other layout.

    Args:
        regions: where each picture lies on its canvas, also as a tensor (B, 4); needed, and used, only where the padding is
            "mean".

    Raises:
        TypeError: the images are not uint8.
        ValueError: the padding is "mean", and there is not a region for each image.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalise takes uint8 images, not {images.dtype}")
    if spec.color_order == "bgr":
        images = images.flip(3)
    batch, height, width, channels = images.shape
    mean = torch.tensor(spec.mean, dtype=torch.float64)
    std = torch.tensor(spec.std, dtype=torch.float64)
    # (pixel * scale - mean) / std is pixel * factor + offset.  Along whole rows it is three times as fast as along the
    # three channels of a pixel; without waiting, the small tensors do not stop a GPU.
    factor = (spec.scale / std).float().to(images.device, non_blocking=True).repeat(width)  # (w * 3,)
    offset = (-mean / std).float().to(images.device, non_blocking=True).repeat(width)
    rows = images.reshape(batch, height, width * channels).to(torch.float32)
    rows = rows.mul_(factor).add_(offset)
    inputs = rows.view(batch, height, width, channels)
    if isinstance(spec, InputSpec) and spec.padding == "mean":
        inputs.masked_fill_(_is_padding(inputs, regions).unsqueeze(3), 0.0)
    return inputs.permute(0, 3, 1, 2)  # (B, 3, h, w)


def inputs_of(
    model: Any, images: torch.Tensor, spec: InputSpec | ClassificationInput, regions: Sequence[Region] | None = None
) -> Any:
    """What `model` takes for uint8 RGB (B, h, w, 3): normalised images, or `Pixels` if it says that it `takes_pixels`."""
    if getattr(model, "takes_pixels", False):
        return Pixels(images, regions)
    return normalise(images, spec, regions)


def _is_padding(inputs: torch.Tensor, regions: Sequence[Region] | torch.Tensor | None) -> torch.Tensor:
    """(B, h, w) bool: the pixels of `inputs` (B, h, w, 3) outside their picture's region."""
    batch, height, width, _ = inputs.shape
    count = "none" if regions is None else regions.shape[0] if torch.is_tensor(regions) else len(regions)
    if count != batch:
        raise ValueError(
            f"the padding is 'mean', zeros around each of {batch} images: normalise needs the region of each, not {count}. "
            "Geometry.region and DetectionBatch.regions give it"
        )
    sides = torch.as_tensor(regions).to(inputs.device, non_blocking=True)
    x1, y1, x2, y2 = sides.view(batch, 4, 1).unbind(dim=1)  # (B, 1) each
    columns, rows = (torch.arange(length, device=inputs.device) for length in (width, height))
    is_column, is_row = (columns >= x1) & (columns < x2), (rows >= y1) & (rows < y2)  # (B, w), (B, h)
    return ~(is_row.unsqueeze(2) & is_column.unsqueeze(1))


def to_image(detections: list[dict], geometries: list[Geometry], *, clip: bool = True) -> list[dict]:
    """Detections in network pixels as detections in pixels of the original pictures, clipped to them.

    Args:
        detections: one dict a picture: `boxes` (N, 4) x1 y1 x2 y2, `scores` (N,), `labels` (N,) tensors.
        geometries: the geometry of each picture.
        clip: False leaves boxes as they are that reach beyond their picture.

    Raises:
        ValueError: not as many geometries as detections.
    """
    if len(detections) != len(geometries):
        raise ValueError(f"{len(detections)} detections for {len(geometries)} geometries, one each is needed")
    restored = []
    for detection, geometry in zip(detections, geometries):
        pad_left, pad_top, scale_x, scale_y = geometry.pad_left, geometry.pad_top, geometry.scale_x, geometry.scale_y
        x1, y1, x2, y2 = detection["boxes"].unbind(dim=1)
        x1, x2 = ((x - pad_left) / scale_x for x in (x1, x2))
        y1, y2 = ((y - pad_top) / scale_y for y in (y1, y2))
        if clip:
            x1, x2 = (x.clamp(0, geometry.width) for x in (x1, x2))
            y1, y2 = (y.clamp(0, geometry.height) for y in (y1, y2))
        restored.append({**detection, "boxes": torch.stack([x1, y1, x2, y2], dim=1)})
    return restored


def as_picture(image: str | os.PathLike | np.ndarray) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3): what is in the file `image`, or the array itself.

    Raises:
        ImageError: the file cannot be read; it is named.
        ValueError: the array is not a picture of this form, or `image` is neither.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(
            "an image has to be the name of a file, or a numpy array uint8 RGB (height, width, 3), not a "
            f"{type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image has to be uint8 RGB (height, width, 3), not {image.dtype} of shape {image.shape}")
    return image


def read_image(path: str | os.PathLike, *, turn: bool = True, reduction: int = 1) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3), by one rule that boxes, drawing, training and detection share.

    - It is turned as its EXIF orientation says (JPEG, PNG, WebP, TIFF).  Boxes belong to the turned picture.
    - Grey, one-bit and palette pictures become RGB.
    - Alpha is dropped, not blended: the colours under it are taken as they are stored.
    - CMYK becomes RGB as (255 - C) (255 - K) / 255; Adobe's inverted CMYK JPEGs are recognised.
    - 16 bits become 8 as value / 257, rounded, which takes 65535 to 255.  Pictures of floating point or 32-bit numbers are
      refused, since what is white in them is not known.
    - Of an animation or a file of several pages the first picture is taken.

    Args:
        turn: False leaves the picture as it is stored, to find out what an annotation was made for.  (TIFFs are always
            turned.)
        reduction: 2, 4 or 8 decodes a JPEG to so small a part of its sides, rounded up, which spares most of its inverse
            cosine transform.  Every other format is read at its full size.

    Raises:
        ImageError: the file is missing, empty, cut short, no picture, or one of floating point or 32-bit numbers; or its
            decoder noticed any damage.  Bytes after the picture's end are none.
    """
    path = os.fspath(path)
    data = _read_bytes(path)
    if is_cut_jpeg(data):
        raise ImageError(
            f"{path}: truncated, the JPEG has no end after its {len(data)} bytes. Fetch the picture again.",
            "truncated picture",
        )
    flags = cv2.IMREAD_ANYDEPTH | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
    if reduction > 1 and data.startswith(JPEG):
        flags |= REDUCED[reduction]
    image = _decode(path, data, flags | cv2.IMREAD_COLOR_RGB)
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise ImageError(
            f"{path}: its values are {image.dtype}, which has no stated white. Save it with 8 or 16 bits a channel."
        )
    # OpenCV 5.0 mixes up the channels of 16-bit TIFFs where it is asked for RGB.
    image = cv2.cvtColor(_decode(path, data, flags | cv2.IMREAD_COLOR_BGR), cv2.COLOR_BGR2RGB)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def read_size(path: str | os.PathLike) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the picture as `read_image` gives it, and as it is stored, from the file's header alone.

    Pillow reads it: OpenCV cannot read a header without the pixels.

    Raises:
        ImageError: the file is missing, empty or no picture.  A file that is cut short is not noticed.
    """
    path = os.fspath(path)
    try:
        with Image.open(path) as picture:
            stored = picture.size  # of a TIFF, Pillow says the size after turning
            is_on_its_side = picture.format != "TIFF" and picture.getexif().get(EXIF_ORIENTATION) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        data = _read_bytes(path)
        raise ImageError(f"{path}: no picture whose header can be read ({len(data)} bytes).") from error
    return (stored[::-1] if is_on_its_side else stored), stored


def has_picture_inside(path: str | os.PathLike) -> bool:
    """Whether the file `path` begins as a picture does in one of FORMATS, whatever its name."""
    try:
        with Image.open(os.fspath(path), formats=FORMATS):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        told = f"{path}: missing{where_it_leads(path)}. Is the data root right?"
        raise ImageError(told, "missing picture") from error
    except (OSError, ValueError) as error:  # the second: no file can have this name
        raise ImageError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if not data:
        raise ImageError(f"{path}: empty, 0 bytes. Fetch the picture again.", "empty picture")
    return data


def _decode(path: str, data: bytes, flags: int) -> np.ndarray:
    """The picture as OpenCV decodes it; of a floating-point picture that it cannot make RGB of, as it is stored."""
    try:
        image, damage = decode(data, flags)
        if image is None:
            image = decode(data, cv2.IMREAD_UNCHANGED).image
            if image is None or image.dtype in (np.uint8, np.uint16):
                reason = f": {damage}" if damage else ""
                raise ImageError(
                    f"{path}: no picture that OpenCV can decode, or a damaged one ({len(data)} bytes){reason}."
                )
            return image
    except cv2.error as error:
        raise ImageError(f"{path}: OpenCV cannot decode it: {error.err}") from error
    if damage:
        raise ImageError(
            f"{path}: damaged, its decoder says: {damage}. Fetch the picture again; or, if it looks whole, save it anew.",
            "damaged picture",
        )
    return image
