"""Exported files as the detectors and classifiers they were made of."""

from pathlib import Path

import torch

from public.export.formats import is_exported, make_decoder, open_network
from public.export.runners.network import ExportedNetwork
from public.families import CHECKPOINT_CLASSES
from public.inference.classifier import TrainedClassifier
from public.inference.detector import Detector
from public.inference.trained import thawed

__all__ = ["is_exported", "load"]


def load(path: str | Path, device: str = "auto") -> Detector | TrainedClassifier:
    """The detector or classifier in the exported file `path`, whose card says how pictures become its input.

    Files run on the CPU: `device` is "auto" or "cpu".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another device; the runtime is not installed; the file is damaged, or has no card.
    """
    path = Path(path).resolve()
    if device not in ("auto", "cpu"):
        raise ValueError(f"{path} is an exported file, which runs on the CPU: --device cpu, not {device}")
    network = open_network(path)
    card, cpu = network.card, torch.device("cpu")
    if card.kind == "classifier":
        return TrainedClassifier(model=network, spec=card.input, class_names=card.class_names, device=cpu)  # type: ignore[arg-type]
    decoder = make_decoder(card) or _own_decoder(path, network)
    return Detector(model=network, decoder=decoder, spec=card.input, class_names=card.class_names, device=cpu)  # type: ignore[arg-type]


def _own_decoder(path: Path, network: ExportedNetwork):
    """The decoder of the settings that the card states, for a file of raw outputs."""
    frozen = network.card.source.get("detector") or {}
    if not frozen.keys() <= CHECKPOINT_CLASSES.keys() or len(frozen) != 1:
        raise ValueError(
            f"{path} gives raw outputs of an experiment with settings of its own ({', '.join(frozen)}), whose decoder it "
            "cannot hold; export it with --outputs boxes"
        )
    return thawed(path, frozen, CHECKPOINT_CLASSES).build_decoder()
