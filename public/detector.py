"""A trained detector, ready to use: from a checkpoint to boxes in the pixels of an image."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from public.config import thaw
from public.experiment import load_experiment
from public.families import FAMILIES
from public.input import InputSpec, normalise, prepare, read_image, to_image
from public.training.checkpoint import load_checkpoint
from public.training.processes import choose_device


class Detector:
    """Finds objects in one image at a time.

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

    @torch.no_grad()
    def __call__(self, image: str | Path | np.ndarray, score_threshold: float = 0.0) -> dict[str, object]:
        """Detections by falling score; finding nothing is a normal result.

        Args:
            image: a file, or uint8 RGB (H, W, 3).
            score_threshold: detections with a lower score are left out.

        Returns:
            boxes: float32 (N, 4), x1 y1 x2 y2 in pixels of the image.  scores: float32 (N,).  labels: int64 (N,).
            names: N names.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        prepared, geometry = prepare(pixels, self.spec)
        batch = torch.from_numpy(prepared)[None].to(self.device)
        (found,) = to_image(self.decoder(self.model(normalise(batch, self.spec))), [geometry])
        kept = found["scores"] >= score_threshold
        boxes, scores, labels = (found[key][kept].cpu().numpy() for key in ("boxes", "scores", "labels"))
        names = [self.class_names[label] for label in labels]
        return {"boxes": boxes, "scores": scores, "labels": labels, "names": names}


def load(path: str | Path, device: str = "auto", settings=None) -> Detector:
    """The detector of checkpoint `path`: a run's best.pth or latest.pth, or converted weights.

    Args:
        settings: the detector's settings; None: those of the run the checkpoint lies in (with code of its own, if it has
            any), else those that the checkpoint states.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or needs the code of an experiment it no longer lies in.
    """
    path = Path(path).resolve()
    checkpoint = load_checkpoint(path)
    if settings is None:
        settings = _settings(path, checkpoint)
    if settings.num_classes != checkpoint["num_classes"]:
        raise ValueError(
            f"{path} holds weights for {checkpoint['num_classes']} classes, but the settings say {settings.num_classes}"
        )
    model = settings.build_model()
    model.load_state_dict(checkpoint["model"])
    return Detector(
        model=model,
        decoder=settings.build_decoder(),
        spec=thaw({"InputSpec": checkpoint["input"]}, {"InputSpec": InputSpec}),
        class_names=tuple(checkpoint["class_names"]),
        device=choose_device(device),
    )


def _settings(path: Path, checkpoint: dict):
    if (path.parent / "config.json").is_file():
        return load_experiment(path.parent).config.detector
    (name,) = checkpoint["detector"]
    if name not in FAMILIES:
        raise ValueError(
            f"{path} belongs to an experiment with settings of its own ({name}); leave it in its run's folder, or name the "
            "experiment: public/test_scripts/detect_single_image.sh <experiment folder> <image> <weights>"
        )
    return thaw(checkpoint["detector"], FAMILIES)
