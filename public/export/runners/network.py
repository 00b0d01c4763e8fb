"""An exported file in the place of a network, and what is left to do on what it gives.

Legend: B batch, h w of the input, A anchors or points, K classes, N detections of an image.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from public.decoders.dense import DenseDecoder
from public.export.card import LIMITS, WAYS, Card
from public.input import Pixels
from public.models.detectors.centernet import CenterNetOutputs
from public.models.detectors.fcos import FCOSOutputs
from public.models.detectors.picodet import PicoDetOutputs
from public.models.detectors.ppyoloe import PPYOLOEOutputs
from public.models.detectors.retinanet import RetinaNetOutputs
from public.models.detectors.yolof import YOLOFOutputs
from public.models.detectors.yolox import YOLOXOutputs

Session = Callable[[list[np.ndarray]], list[np.ndarray]]  # inputs -> outputs, both in the order of the card
RAW: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        CenterNetOutputs,
        FCOSOutputs,
        PicoDetOutputs,
        PPYOLOEOutputs,
        RetinaNetOutputs,
        YOLOFOutputs,
        YOLOXOutputs,
    )
}


class Decoded(NamedTuple):
    """What a file with the outputs "boxes" gives."""

    boxes: torch.Tensor  # (B, A, 4) in network pixels, not clipped
    scores: torch.Tensor  # (B, A, K)
    candidates: torch.Tensor | None  # (B, A, K)
    image_size: tuple[int, int]
    level_sizes: tuple[tuple[int, int], ...] | None  # in cells, of a file for any size


class Found(NamedTuple):
    """What a file with the outputs "detections" gives; see `public.export.graph.ExportGraph`."""

    counts: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


class ExportedNetwork(nn.Module):
    """Called as the network it was made of: images float32 (B, 3, h, w), or where `takes_pixels` a `Pixels`, -> outputs.

    Args:
        session: runs the file.
        card: of the file.
        name: of the file, for messages.
    """

    def __init__(self, session: Session, card: Card, name: str) -> None:
        super().__init__()
        self.session, self.card, self.name = session, card, name
        self.takes_pixels = card.input_form == "image"

    def forward(self, images: torch.Tensor | Pixels) -> Any:
        """See `public.export.graph.ExportGraph`; "raw" gives the network's own outputs.

        Raises:
            ValueError: the images are not of the file's size, or not on the CPU.
        """
        pixels, regions = images if isinstance(images, Pixels) else (images, None)
        height, width = pixels.shape[1:3] if self.takes_pixels else pixels.shape[2:]
        if self.card.size not in (None, (height, width)):
            raise ValueError(
                f"{self.name} takes images of {self.card.size} pixels (height, width), not {(height, width)}"
            )
        multiple = self.card.multiple
        if multiple is not None and (height % multiple or width % multiple):
            raise ValueError(
                f"{self.name} takes images whose sides are multiples of {multiple} pixels, not {(height, width)}"
            )
        if pixels.device.type != "cpu":
            raise ValueError(f"{self.name} runs on the CPU, its images lie on {pixels.device}: --device cpu")
        inputs = [pixels.contiguous().numpy()]
        if "regions" in self.card.input_names:
            inputs.append(np.array(regions or [(0, 0, width, height)] * len(pixels), dtype=np.int64))
        tensors = [torch.from_numpy(value) for value in self._run(inputs)]
        if self.card.kind == "classifier":
            return tensors[0]
        if self.card.outputs == "raw":
            return self._raw(dict(zip(self.card.output_names, tensors)), (height, width))
        if self.card.outputs == "detections":
            return Found(*tensors)
        named = dict(zip(self.card.output_names, tensors))
        sizes = _level_sizes(named)
        return Decoded(named["boxes"], named["scores"], named.get("candidates"), (height, width), sizes)

    def _run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The file on all images: at once, or `card.batch` at a time, the last ones filled up by the first."""
        batch, count = self.card.batch, len(inputs[0])
        if batch is None:
            return [np.array(value) for value in self.session(inputs)]
        found = []
        for start in range(0, count, batch):
            places = [i if i < count else 0 for i in range(start, start + batch)]
            outputs = self.session([np.ascontiguousarray(value[places]) for value in inputs])
            found.append([value[: count - start] for value in outputs])
        return [np.concatenate(parts) for parts in zip(*found)]

    def _raw(self, tensors: dict[str, torch.Tensor], image_size: tuple[int, int]) -> Any:
        kind = RAW.get(self.card.raw_class)
        if kind is None:
            raise ValueError(
                f"{self.name} gives the outputs of {self.card.raw_class}, which this library does not know"
            )
        sizes = _level_sizes(tensors) or self.card.level_sizes
        known: Any = tensors | {"level_sizes": sizes, "image_size": image_size}
        if kind is PicoDetOutputs:
            known["bins"] = tensors["bins"][0]
        fields: Any = {name: known.get(name) for name in kind._fields}
        return kind(**fields)


def _level_sizes(tensors: dict[str, torch.Tensor]) -> tuple[tuple[int, int], ...] | None:
    """The levels' sizes where a file gives them."""
    if "level_sizes" not in tensors:
        return None
    return tuple((height, width) for height, width in tensors["level_sizes"][0].tolist())


class DecodedDecoder(DenseDecoder):
    """Threshold, choice and NMS on what a file gives as boxes and scores: as the decoder that the file was made of."""

    def __init__(self, card: Card) -> None:
        super().__init__(**{name: card.decoder[name] for name in LIMITS})
        for name in WAYS:
            setattr(self, name, card.decoder[name])
        self.lengths, self.anchors_of_cell = list(card.level_lengths or ()), card.anchors_of_cell or ()

    def level_lengths(self, outputs: Decoded) -> list[int]:
        if outputs.level_sizes is None:
            return self.lengths
        return [count * height * width for count, (height, width) in zip(self.anchors_of_cell, outputs.level_sizes)]

    def candidate_scores(self, outputs: Decoded) -> torch.Tensor | None:
        return outputs.candidates

    def decode(self, outputs: Decoded) -> tuple[torch.Tensor, torch.Tensor]:
        """What the file gives."""
        return outputs.boxes, outputs.scores


class FoundDecoder:
    """Takes the padding off what a file with NMS in it gives."""

    def __init__(self, card: Card) -> None:
        self.clips_to_picture = card.decoder["clips_to_picture"]

    def __call__(
        self, outputs: Found, regions: Sequence[tuple[int, int, int, int]] | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """For each image `boxes` (N, 4) in network pixels, `scores` (N,) and `labels` (N,), by falling score."""
        if (outputs.counts < 0).any():
            raise ValueError("the network's outputs are NaN or infinite, so its weights are broken; they find nothing")
        rows = zip(outputs.counts.tolist(), outputs.boxes, outputs.scores, outputs.labels)
        return [{"boxes": b[:n], "scores": s[:n], "labels": labels[:n]} for n, b, s, labels in rows]
