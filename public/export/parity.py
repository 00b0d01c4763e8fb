"""Whether a file gives what its weights give: boxes, scores and detections on pictures and on noise, with bounds.

The reference is the network as it is evaluated, unfused, float32, on the CPU.  How far its precision itself is from the
exact result is measured beside it, against the same network in float64: by float32, or, for a file in half precision, by the
fused network in float16, as torch computes it.  A file may differ as far as the precision's bound, or, of a network that is
less accurate than that by itself, ROUNDINGS times as far as the network does on the same picture, at most MOST times it.
In half precision only boxes of points that could be told as something are looked at, those whose score is above SEEN: at the
others nothing is where the box says.

Scores below SMALLEST count as SMALLEST: PicoDet's are a square root, which makes 3e-4 of the 1e-7 that a runtime's sigmoid
may be wrong by near zero.  Pixels are of the network's input; of a box that reaches beyond the input the difference is a
share of its size: a side of 10,000 pixels has other digits than one of 10.

Legend: B batch, A anchors or points, K classes, N detections.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from public import random_streams
from public.export.runners.network import ExportedNetwork
from public.input import ClassificationInput, InputSpec, inputs_of, normalise, prepare, prepare_crop, stack
from public.models.fuse import fuse

BOUNDS = {  # pixels, score, share of unmatched detections
    "float32": (0.05, 1e-4, 0.002),
    "fp16": (1.0, 0.005, 0.01),
    "int8": (10.0, 0.05, 0.05),  # a value halfway between two levels may go to either; see docs/quantise.md
}
# how many times the network's own rounding: other runtimes' convolutions (Winograd's) round several times more in float32
# than direct ones; in half precision they round at other places than torch (YOLOX-nano in ONNX Runtime: 2.1 times as far)
ROUNDINGS = {"float32": 10.0, "int8": 10.0, "fp16": 4.0}
MOST = 20.0
SEEN = 0.05  # score
SMALLEST = 0.001  # score
SAME_IOU = 0.9  # of two detections that may be one; or their corners differ by no more than the bound
NOISE = 2  # pictures of noise beside the others
LIVELY = 0.001  # by which scores have to vary at least, so that equal ones say something


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was compared, and how it came out.

    Fields:
        pictures, noise: how many.
        boxes, scores: the differences, in pixels and of scores (of a classifier, of probabilities), of the picture that comes
            nearest to its bound or farthest over it.
        box_bound, score_bound: what was allowed there.
        own_boxes, own_scores: the network's own rounding, of the file's precision, the largest.
        matched, unmatched: detections that both have; that only one has, not counting those whose score is as near to the
            threshold, or to the last one that is kept, as scores may differ.
        allowed_unmatched: what was allowed.
        spread: by how much scores vary from point to point and picture to picture (standard deviation).
    """

    pictures: int
    noise: int
    boxes: float | None
    scores: float | None
    box_bound: float
    score_bound: float
    own_boxes: float | None
    own_scores: float
    matched: int | None
    unmatched: int | None
    allowed_unmatched: int
    spread: float

    @property
    def failures(self) -> list[str]:
        """What is over its bound, in words; none: the file gives what the weights give."""
        found = []
        for name, value, bound, unit in (
            ("boxes", self.boxes, self.box_bound, " px"),
            ("scores", self.scores, self.score_bound, ""),
        ):
            if value is not None and not value <= bound:  # a NaN is over every bound
                found.append(f"{name} differ by {value:.3g}{unit}, allowed are {bound:.3g}{unit}")
        if self.unmatched is not None and self.unmatched > self.allowed_unmatched:
            total = self.unmatched + (self.matched or 0)
            found.append(
                f"{self.unmatched} of {total} detections have no partner, allowed are {self.allowed_unmatched}"
            )
        return found

    @property
    def nearness(self) -> float:
        """How near it is to its bounds: of the worst difference, 1 at its bound; more where a bound is passed."""
        pairs = [(self.boxes, self.box_bound), (self.scores, self.score_bound)]
        ratios = [value / bound if value == value else np.inf for value, bound in pairs if value is not None]
        if self.unmatched is not None:
            ratios.append(self.unmatched / (self.allowed_unmatched + 1))
        return max(ratios, default=0.0) + (10.0 if self.failures else 0.0)

    @property
    def is_lively(self) -> bool:
        """Whether the reference has something to differ in: not so of a network without training, or nothing found."""
        return self.spread > LIVELY and self.matched != 0

    def line(self) -> str:
        """For the terminal."""
        parts = [f"{self.pictures} pictures and {self.noise} of noise"]
        if self.boxes is not None:
            parts.append(f"boxes {self.boxes:.2g} px (allowed {self.box_bound:.2g})")
        if self.scores is not None:
            parts.append(f"scores {self.scores:.2g} (allowed {self.score_bound:.2g})")
        if self.matched is not None:
            parts.append(f"{self.matched} detections matched, {self.unmatched} not (allowed {self.allowed_unmatched})")
        return ", ".join(parts)

    def entries(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"failures": self.failures, "is_lively": self.is_lively}


@torch.no_grad()
def measure(
    exported: ExportedNetwork,
    exported_decoder: Any,
    *,
    model: nn.Module,
    decoder: Any,
    spec: InputSpec | ClassificationInput,
    pictures: Sequence[np.ndarray],
) -> Parity:
    """Runs `exported` and `model` on `pictures`, uint8 RGB (H, W, 3) of any sizes, and on noise, and compares.

    Args:
        exported_decoder: what is left to do on the file's outputs; not used for a classifier.
        decoder: of `model`; None: a classifier.
        spec: of the file, by which all pictures are prepared.
    """
    model = model.eval()
    double = copy.deepcopy(model).double()
    half = fuse(model).half() if exported.card.precision == "fp16" else None
    sums = _Sums(exported.card.precision)
    noise = [random_streams.stream(0, f"parity {n}").integers(0, 256, (*spec.size, 3), np.uint8) for n in range(NOISE)]
    for picture in (*pictures, *noise):
        batch, regions = _prepared(picture, spec)
        images = normalise(batch, spec, regions)
        ours, exact = model(images), double(images.double())
        rounded = ours if half is None else half(images.half())
        theirs = exported(inputs_of(exported, batch, spec, regions))
        if decoder is None:
            sums.add_scores(*(value.double().softmax(1) for value in (ours, exact, rounded, theirs)))
            continue
        dense = [decoder.decode(outputs) for outputs in (ours, exact, rounded)]
        sums.add_own(dense[0], dense[1], dense[2], spec.size)
        if exported.card.outputs != "detections":
            left = decoder if exported.card.outputs == "raw" else exported_decoder
            sums.add(dense[0], left.decode(theirs), spec.size)
        is_usable = all(value.isfinite().all() for value in dense[2])  # half precision may be too narrow for a network
        own = decoder(rounded, regions)[0] if half is not None and is_usable else None
        sums.add_found(decoder(ours, regions)[0], exported_decoder(theirs, regions)[0], own)
    return sums.result(decoder, len(pictures), NOISE)


def _prepared(picture: np.ndarray, spec: InputSpec | ClassificationInput) -> tuple[torch.Tensor, Any]:
    """One picture as a batch, and its region."""
    if isinstance(spec, InputSpec):
        pixels, geometry = prepare(picture, spec)
        return torch.from_numpy(stack([pixels], spec)), [geometry.region]
    return torch.from_numpy(prepare_crop(picture, spec)[0][None]), None


def box_difference(boxes: torch.Tensor, other: torch.Tensor, size: tuple[int, int]) -> float:
    """The largest difference of boxes (..., 4) in pixels of an input of `size`; of larger boxes, in shares of their size."""
    boxes, other = boxes.double(), other.double()
    share = (boxes.abs().amax(-1, keepdim=True) / max(size)).clamp(min=1)
    return float(((boxes - other).abs() / share).max()) if boxes.numel() else 0.0


class _Sums:
    """What is gathered picture by picture."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.boxes: list[float] = []
        self.scores: list[float] = []
        self.own_boxes: list[float] = []
        self.own_scores: list[float] = []
        self.spread: list[torch.Tensor] = []
        self.found: list[tuple[dict, dict, dict | None]] = []
        self.size = (1, 1)

    def add_scores(self, ours: torch.Tensor, exact: torch.Tensor, rounded: torch.Tensor, theirs: torch.Tensor) -> None:
        self.scores.append(_largest(ours, theirs))
        self.own_scores.append(_largest(rounded, exact))
        self.spread.append(ours.flatten())

    def add_own(self, ours: tuple, exact: tuple, rounded: tuple, size: tuple[int, int]) -> None:
        self.size = size
        seen = self._seen(ours)
        self.own_boxes.append(box_difference(rounded[0][seen], exact[0][seen], size))
        self.own_scores.append(_largest(rounded[1], exact[1]))
        self.spread.append(ours[1].amax(-1).flatten())

    def add(self, ours: tuple, theirs: tuple, size: tuple[int, int]) -> None:
        seen = self._seen(ours)
        self.boxes.append(box_difference(ours[0][seen], theirs[0][seen], size))
        self.scores.append(_largest(ours[1], theirs[1]))

    def _seen(self, ours: tuple) -> torch.Tensor:
        """(B, A) bool: the points whose boxes are compared."""
        best = ours[1].amax(-1)
        return best > SEEN if self.precision == "fp16" else torch.ones_like(best, dtype=torch.bool)

    def add_found(self, found: dict, other: dict, own: dict | None) -> None:
        self.found.append((found, other, own))

    def result(self, decoder: Any, pictures: int, noise: int) -> Parity:
        of_boxes, of_scores, share = BOUNDS[self.precision]
        factor = ROUNDINGS[self.precision]
        box_bounds = _bounds(of_boxes, factor, self.own_boxes)
        score_bounds = _bounds(of_scores, factor, self.own_scores)
        boxes, scores, matched, unmatched, allowed = self.boxes, self.scores, None, None, 0
        if self.found:
            bounds = list(zip(box_bounds, score_bounds))
            matches = [match(ours, file, decoder, b, self.size) for (ours, file, _), b in zip(self.found, bounds)]
            matched, unmatched = sum(m.matched for m in matches), sum(m.unmatched for m in matches)
            own = [(ours, own, b) for (ours, _, own), b in zip(self.found, bounds) if own is not None]
            lost = sum(match(ours, other, decoder, b, self.size).unmatched for ours, other, b in own)
            allowed = int(share * (matched + unmatched) + factor * lost)
            if not boxes:  # detections are all there is
                boxes, scores = [m.boxes for m in matches], [m.scores for m in matches]
        worst_boxes, box_bound = _worst(boxes, box_bounds)
        worst_scores, score_bound = _worst(scores, score_bounds)
        return Parity(
            pictures=pictures,
            noise=noise,
            boxes=worst_boxes,
            scores=worst_scores,
            box_bound=box_bound or of_boxes,
            score_bound=score_bound or of_scores,
            own_boxes=max(self.own_boxes, default=None),
            own_scores=max(self.own_scores),
            matched=matched,
            unmatched=unmatched,
            allowed_unmatched=allowed,
            spread=float(torch.cat(self.spread).double().std()),
        )


def _bounds(bound: float, factor: float, own: list[float]) -> list[float]:
    """What is allowed on each picture, by the network's own rounding on it; one that is no number allows nothing more."""
    return [min(max(bound, factor * one), MOST * bound) for one in own]


def _worst(values: list[float], bounds: list[float]) -> tuple[float | None, float | None]:
    """The difference that is the largest against its bound, and this bound; a NaN is the worst of all."""
    if not values:
        return None, None
    ratios = [value / bound if value == value else np.inf for value, bound in zip(values, bounds)]
    worst = int(np.argmax(ratios))
    return values[worst], bounds[worst]


def _largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of scores; see SMALLEST."""
    return float((ours.double().clamp(min=SMALLEST) - theirs.double().clamp(min=SMALLEST)).abs().max())


@dataclass(frozen=True)
class Match:
    matched: int
    unmatched: int
    boxes: float
    scores: float


def match(found: dict, other: dict, decoder: Any, bounds: tuple[float, float], size: tuple[int, int]) -> Match:
    """Detections of one picture and those of a file: each with the nearest in score of its label that overlaps enough.

    One without a partner does not count where rounding decides of it: its score is at an edge, or its overlap with a better
    one is so near the decoder's `nms_iou` that boxes which move as far as the matched ones did may cross it.
    """
    ious, same = _ious(found["boxes"], other["boxes"]), found["labels"][:, None] == other["labels"]
    corners = (found["boxes"][:, None] - other["boxes"]).abs().amax(-1)
    may_be = (((ious >= SAME_IOU) | (corners <= bounds[0])) & same).numpy()  # (N, N of the other)
    apart = (found["scores"][:, None] - other["scores"]).abs().numpy()
    is_free = np.ones(len(other["scores"]), dtype=bool)
    pairs, left = [], []
    for i in range(len(found["scores"])):
        near = np.flatnonzero(may_be[i] & is_free)
        if len(near):
            best = int(near[apart[i, near].argmin()])
            is_free[best] = False
            pairs.append((i, best))
        else:
            left.append(_one(found, i))
    left += [_one(other, int(j)) for j in np.flatnonzero(is_free)]
    ours, theirs = (torch.tensor([pair[n] for pair in pairs], dtype=torch.long) for n in (0, 1))
    boxes = box_difference(found["boxes"][ours], other["boxes"][theirs], size)
    scores = _largest(found["scores"][ours], other["scores"][theirs]) if pairs else 0.0
    edges = [decoder.score_threshold]
    if decoder.keep_top_k and len(found["scores"]) == decoder.keep_top_k:
        edges.append(float(found["scores"][-1]))
    moved = float(corners[ours, theirs].max()) if pairs else 0.0
    unmatched = sum(
        min(abs(one["scores"].item() - edge) for edge in edges) > bounds[1]
        and not any(_may_be_suppressed(one, by, decoder.nms_iou, moved) for by in (found, other))
        for one in left
    )
    return Match(len(pairs), unmatched, boxes, scores)


def _one(found: dict, index: int) -> dict:
    return {name: values[index : index + 1] for name, values in found.items()}


def _may_be_suppressed(one: dict, by: dict, nms_iou: float | None, moved: float) -> bool:
    """Whether a detection of `by` stands at the threshold of suppressing `one`, when corners move by `moved` pixels.

    Intersection and areas then change by less than `moved` times a perimeter each, so the overlap by less than four of the
    longest perimeter over the union.
    """
    if nms_iou is None:
        return False
    boxes = torch.cat([one["boxes"], by["boxes"]]).double()
    sides = boxes[:, 2:] - boxes[:, :2]
    perimeters, areas, ious = 2 * sides.sum(1), sides.prod(1), _ious(one["boxes"], by["boxes"])[0]
    unions = (areas[0] + areas[1:]) / (1 + ious)
    slack = 4 * moved * torch.maximum(perimeters[0], perimeters[1:]) / unions
    is_better = (by["labels"] == one["labels"]) & (by["scores"] >= one["scores"])
    return bool((is_better & ((ious - nms_iou).abs() <= slack)).any())


def _ious(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(N, M) of boxes (N, 4) and (M, 4); of two without area 1 where they are equal."""
    boxes, others = boxes.double()[:, None], others.double()[None]
    sides = (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])).clamp(
        min=0
    )
    shared = sides.prod(-1)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - shared
    return torch.where(union > 0, shared / union, (boxes == others).all(-1).double())
