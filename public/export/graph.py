"""What is exported: normalising, the network and its decoder as one module whose inputs and outputs are tensors.

Nothing is written twice: `public.input.normalise`, the fused network and the decoder's own `decode` stand in the graph, and
`public.export.nms` follows `public.decoders.nms`, against which it is tested.

Legend: B batch, h w of the input, A anchors or points, K classes, N detections of an image at most.
"""

from typing import Any

import torch
from torch import nn

from public.decoders.dense import clip_boxes
from public.export.nms import best_detections
from public.export.qdq import take_layers
from public.input import ClassificationInput, InputSpec, normalise
from public.models.deformable import DeformableConv2d
from public.models.fuse import fuse

INPUTS = ("image", "normalised")  # what a file takes: pixels, or what `normalise` makes of them
OUTPUTS = ("raw", "boxes", "detections")  # what it gives
MOST_DETECTIONS = 1000  # of an image, in files of a decoder that keeps all
MOST_IMAGES = 64  # of a batch of any size, as the shapes in the file say it
MULTIPLE = 32  # pixels: of what both sides of an input of any size have to be multiples,
LEAST, MOST = 2, 128  # and how many of them


class ExportGraph(nn.Module):
    """images (and regions) -> tensors, by name in `output_names`.

    "raw": the tensors of the network's own outputs, each with a row for each image; of a classifier its logits (B, K).
    "boxes": `boxes` (B, A, 4) in network pixels, not clipped, and `scores` (B, A, K), both of the decoder's `decode`; where
    something else than the (best) score makes a candidate also `candidates` (B, A, K).  "detections": `counts` (B,) int64, -1
    where an output is not finite; `boxes` (B, N, 4), `scores` (B, N), `labels` (B, N) int64, by falling score, filled up with
    zeros and the label -1.

    A graph for inputs of any size also gives, of a detector with "raw" or "boxes", `level_sizes` (B, L, 2) int64: height and
    width of each level in cells, the same for every image.

    Args:
        model: the network with its weights; it is fused, and left as it is.
        decoder: a `public.decoders.dense.DenseDecoder`; None for a classifier.
        spec: how a picture becomes the network's input.
        input_form: of INPUTS: "image" takes uint8 RGB (B, h, w, 3), "normalised" float32 (B, 3, h, w).
        outputs: of OUTPUTS.
        size: (h, w) of the example input.
        any_size: whether inputs may have any size whose sides are multiples of MULTIPLE.

    Raises:
        ValueError: `size` is none of them; a classifier is to give boxes, or a decoder of its own kind detections.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        decoder: Any,
        spec: InputSpec | ClassificationInput,
        input_form: str,
        outputs: str,
        size: tuple[int, int],
        any_size: bool = False,
    ) -> None:
        super().__init__()
        if any_size and any(side % MULTIPLE or side // MULTIPLE < LEAST for side in size):
            raise ValueError(
                f"a file for any size takes sides that are multiples of {MULTIPLE} from {LEAST * MULTIPLE} pixels, not {size}"
            )
        if decoder is None and outputs != "raw":
            raise ValueError(f"a classifier has no {outputs}: its file gives the classes' logits, --outputs raw")
        self.model = fuse(model)
        for module in self.model.modules():
            if isinstance(module, DeformableConv2d):
                module.form = "torchvision"  # one operation, which ONNX has as DeformConv
        self.quantised = take_layers(self.model)  # of a network trained so: the file gets its levels
        self.decoder, self.spec = decoder, spec
        self.input_form, self.outputs, self.size, self.any_size = input_form, outputs, size, any_size
        self.is_half = False
        example = self._example_outputs()
        self.raw_names, self.level_sizes = _tensor_names(example), getattr(example, "level_sizes", None)
        self.raw_class = type(example).__name__
        # the best class of a box follows from its scores
        self.gives_candidates = (
            decoder is not None and not decoder.one_class_a_box and decoder.candidate_scores(example) is not None
        )
        names = {
            "raw": self.raw_names,
            "boxes": ("boxes", "scores", "candidates") if self.gives_candidates else ("boxes", "scores"),
            "detections": ("counts", "boxes", "scores", "labels"),
        }
        self.gives_level_sizes = any_size and decoder is not None and outputs != "detections"
        self.output_names: tuple[str, ...] = names[outputs] + (("level_sizes",) if self.gives_level_sizes else ())
        self.level_lengths = None if decoder is None else list(decoder.level_lengths(example))

    @property
    def takes_regions(self) -> bool:
        """Whether the picture's place on its canvas is an input: padding is exactly zero, or boxes end at its borders."""
        if not isinstance(self.spec, InputSpec):
            return False
        is_zero = self.input_form == "image" and self.spec.padding == "mean"
        is_whole = self.spec.resize == "stretch" and not self.any_size
        is_cut = self.outputs == "detections" and self.decoder.is_clipped and not is_whole
        return is_zero or is_cut

    @property
    def keep_top_k(self) -> int:
        """N, the most detections of an image."""
        return self.decoder.keep_top_k or MOST_DETECTIONS

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("images", "regions") if self.takes_regions else ("images",)

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs of `batch` images that do not matter."""
        height, width = self.size
        if self.input_form == "image":
            images = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        else:
            images = torch.zeros(batch, 3, height, width)
        region = torch.tensor([[0, 0, width, height]]).repeat(batch, 1)
        return (images, region) if self.takes_regions else (images,)

    @property
    def family(self) -> str:
        """What a person calls the network."""
        return self.raw_class.removesuffix("Outputs") if self.decoder is not None else type(self.model).__name__

    @property
    def anchors_of_cell(self) -> tuple[int, ...] | None:
        """How many anchors or points each cell of each level has; None of a classifier."""
        if self.level_lengths is None:
            return None
        return tuple(length // (h * w) for length, (h, w) in zip(self.level_lengths, self.level_sizes or ()))

    def shapes(self, batch: int | None) -> Any:
        """Which sides of the inputs vary, as `torch.export` takes it; of a batch of None also the first."""
        if batch is not None and not self.any_size:
            return None
        sides: dict[int, Any] = {}
        if self.any_size:
            first = 1 if self.input_form == "image" else 2
            sides = {
                first + n: MULTIPLE * torch.export.Dim(name, min=LEAST, max=MOST)
                for n, name in enumerate(("h_cells", "w_cells"))
            }
        images = {0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)} if batch is None else {}
        return (images | sides, images) if self.takes_regions else (images | sides,)

    def refuse_quantised(self, format: str) -> None:
        """Raises ValueError where the network was trained to be quantised, which a file of `format` cannot hold."""
        if self.quantised:
            raise ValueError(
                f"--format {format} holds no int8 layers, which this network was trained for: --format onnx"
            )

    def in_half(self) -> "ExportGraph":
        """This graph, with the network's weights and what is computed of them in half precision; in place."""
        self.model.half()
        self.is_half = True
        return self

    def forward(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        if self.input_form == "image":
            images = normalise(images, self.spec, regions)
        outputs = self.model(images.half() if self.is_half else images)
        sizes = (_sizes(outputs.level_sizes, images),) if self.gives_level_sizes else ()
        if self.outputs == "raw":
            return (*(_of_images(tensor, images.shape[0]) for tensor in _tensors(outputs)), *sizes)
        boxes, scores = self.decoder.decode(outputs)
        if self.outputs == "boxes" and not self.gives_candidates:
            return boxes, scores, *sizes
        candidates = self.decoder.candidate_scores(outputs)
        if self.outputs == "boxes":
            return boxes, scores, candidates, *sizes
        if self.decoder.is_clipped:
            whole = [(0, 0, outputs.image_size[1], outputs.image_size[0])]
            boxes = clip_boxes(boxes, whole if regions is None else regions)
        by_level = self.decoder.candidates_of == "level"
        return best_detections(
            boxes,
            scores,
            candidates,
            score_threshold=self.decoder.score_threshold,
            iou_threshold=self.decoder.nms_iou,
            keep_top_k=self.keep_top_k,
            top_k_per_class=None if by_level else self.decoder.nms_top_k,
            top_k_per_level=self.decoder.nms_top_k if by_level else None,
            level_lengths=self.decoder.level_lengths(outputs),
            drop_empty=self.decoder.drops_empty,
        )

    @torch.no_grad()
    def _example_outputs(self) -> Any:
        return self.model(torch.zeros(1, 3, *self.size))


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [outputs] if torch.is_tensor(outputs) else [value for value in outputs if torch.is_tensor(value)]


def _tensor_names(outputs: Any) -> tuple[str, ...]:
    if torch.is_tensor(outputs):
        return ("logits",)
    return tuple(name for name, value in zip(outputs._fields, outputs) if torch.is_tensor(value))


def _sizes(level_sizes: tuple[tuple[int, int], ...], images: torch.Tensor) -> torch.Tensor:
    """(B, L, 2) int64; the sizes may be symbols of an export."""
    sides = [torch.full((1,), side, dtype=torch.int64) for size in level_sizes for side in size]
    return torch.cat(sides).view(1, -1, 2).expand(images.shape[0], -1, -1)


def _of_images(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """`tensor` in float32, with a row for each image, also of what all images share, such as PicoDet's bins."""
    tensor = tensor.float() if tensor.dtype == torch.float16 else tensor
    return tensor.expand(batch, -1) if tensor.ndim == 1 else tensor
