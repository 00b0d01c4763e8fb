"""A trained detector, ready to use: from a checkpoint to boxes in the pixels of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from public.checkpoint_files import load_checkpoint
from public.decoders.dense import clips_to_picture
from public.inference.trained import build_trained, recorded_settings, thawed
from public.input import INPUT_CLASSES, InputSpec, as_picture, inputs_of, prepare, to_image
from public.models.fuse import fuse
from public.parallel.processes import choose_device
from public.precision import place


class Detector:
    """Finds objects in images, one at a time or many.

    Args:
        model: a detector's network, with its weights.
        decoder: turns the network's outputs into detections.
        spec: how an image becomes the network's input.
        class_names: the name of each label.
        device: where to compute.
    """

    def __init__(
        self, *, model: nn.Module, decoder, spec: InputSpec, class_names: tuple[str, ...], device: torch.device
    ):
        self.model = model.to(device).eval()
        self.decoder, self.spec, self.class_names, self.device = decoder, spec, class_names, device

    def fused(self) -> "Detector":
        """The same detector in its fastest form: a re-parameterised copy of the network, in channels-last order.

        What it finds agrees up to rounding.  An exported file, whose form is settled, is returned as it is.
        """
        if getattr(self.model, "card", None) is not None:
            return self
        model = place(fuse(self.model), self.device, channels_last=True)
        return Detector(
            model=model, decoder=self.decoder, spec=self.spec, class_names=self.class_names, device=self.device
        )

    def __call__(self, image: str | Path | np.ndarray, score_threshold: float = 0.0) -> dict[str, Any]:
        """Detections by falling score; finding nothing is a normal result.

        Args:
            image: a file, or uint8 RGB (H, W, 3).
            score_threshold: detections with a lower score are left out.

        Returns:
            boxes: float32 (N, 4), x1 y1 x2 y2 in pixels of the image.  scores: float32 (N,).  labels: int64 (N,).
            names: N names.

        Raises:
            ImageError: the file cannot be read; it is named.
            ValueError: the array is not a picture of this form.
        """
        return self._batch([image], score_threshold)[0]

    def many(
        self, images: Sequence[str | Path | np.ndarray], score_threshold: float = 0.0, *, batch_size: int = 8
    ) -> list[dict[str, Any]]:
        """For each image what `detector(image, score_threshold)` finds, up to rounding; `batch_size` images at once.

        Files are read batch by batch, so that many large images do not fill the memory.  Of a batch, those that come out of
        `prepare` in one size go through the network together: no image is padded for the sake of another, as it is in an
        evaluation, whose batch of 1 is what is done here.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        starts = range(0, len(images), batch_size)
        return [found for i in starts for found in self._batch(images[i : i + batch_size], score_threshold)]

    @torch.inference_mode()
    def _batch(self, images: Sequence[str | Path | np.ndarray], score_threshold: float) -> list[dict[str, Any]]:
        prepared = [prepare(as_picture(image), self.spec) for image in images]
        decoder = self.decoder.at_least(score_threshold) if hasattr(self.decoder, "at_least") else self.decoder
        found: dict[int, dict[str, Any]] = {}  # by the image's place
        for shape in dict.fromkeys(pixels.shape for pixels, _ in prepared):
            places = [place for place, (pixels, _) in enumerate(prepared) if pixels.shape == shape]
            geometries = [prepared[place][1] for place in places]
            batch = torch.from_numpy(np.stack([prepared[place][0] for place in places])).to(self.device)  # (B, h, w, 3)
            regions = [geometry.region for geometry in geometries]
            inputs = inputs_of(self.model, batch, self.spec, regions)
            outputs = self.model(inputs)
            detections = to_image(decoder(outputs, regions), geometries, clip=clips_to_picture(self.decoder))
            found |= {place: self._named(one, score_threshold) for place, one in zip(places, detections)}
        return [found[place] for place in range(len(images))]

    def _named(self, found: dict[str, torch.Tensor], score_threshold: float) -> dict[str, Any]:
        """The detections of one image as arrays, those below the threshold left out, with their names."""
        kept = found["scores"] >= score_threshold
        boxes, scores, labels = (found[key][kept].cpu().numpy() for key in ("boxes", "scores", "labels"))
        names = [self.class_names[label] for label in labels]
        return {"boxes": boxes, "scores": scores, "labels": labels, "names": names}


def load(path: str | Path, device: str = "auto", settings=None) -> Detector:
    """The detector of checkpoint `path`: a run's best.pth or latest.pth, or weights of `public.weights.convert`.

    Args:
        settings: the detector's settings; None: those of the run the checkpoint lies in (with code of its own, if it has
            any), else those that the checkpoint states.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of a whole detector, does not fit the settings, or needs the code of an
            experiment it no longer lies in.
    """
    path = Path(path).resolve()
    checkpoint = load_checkpoint(path)
    _check_is_detector(path, checkpoint)
    if settings is None:
        settings = recorded_settings(path, checkpoint["detector"], "detect")
    return Detector(
        model=build_trained(path, checkpoint, settings),
        decoder=settings.build_decoder(),
        spec=thawed(path, {"InputSpec": checkpoint["input"]}, INPUT_CLASSES),
        class_names=tuple(checkpoint["class_names"]),
        device=choose_device(device),
    )


def _check_is_detector(path: Path, checkpoint: dict) -> None:
    if checkpoint.get("part") == "backbone":
        raise ValueError(f"{path} holds a backbone only, to start a training from; a detector needs all its weights")
    missing = [key for key in ("num_classes", "class_names", "input", "detector") if key not in checkpoint]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: it is not a checkpoint of a detector; those of a run have them, and those "
            "that python -m public.weights.convert writes"
        )
