"""The settings objects of all families, and the published settings by name."""

from difflib import get_close_matches
from typing import Any

from public.families import (
    centernet,
    fcos,
    image_classifier,
    picodet,
    picodet_legacy,
    ppyoloe,
    ppyoloe_aux,
    pruned,
    quantised,
    retinanet,
    slimmed,
    yolof,
    yolox,
)

# name of the settings class -> the class; pairs (`distilled.py`) are none, since a checkpoint is of the student alone
SETTINGS_CLASSES: dict[str, type] = {
    "CenterNet": centernet.CenterNet,
    "FCOS": fcos.FCOS,
    "ImageClassifier": image_classifier.ImageClassifier,
    "PicoDet": picodet.PicoDet,
    "PicoDetLegacy": picodet_legacy.PicoDetLegacy,
    "PPYOLOE": ppyoloe.PPYOLOE,
    "PPYOLOEAux": ppyoloe_aux.PPYOLOEAux,
    "RetinaNet": retinanet.RetinaNet,
    "YOLOF": yolof.YOLOF,
    "YOLOX": yolox.YOLOX,
}
# settings of networks that are changed while they are trained, and what these are made of
CHANGED_CLASSES: dict[str, type] = {
    "GMP": pruned.GMP,
    "LargestRange": quantised.LargestRange,
    "MovingRange": quantised.MovingRange,
    "Pruned": pruned.Pruned,
    "QAT": quantised.QAT,
    "Quantised": quantised.Quantised,
    "Slimmed": slimmed.Slimmed,
}
CHECKPOINT_CLASSES = SETTINGS_CLASSES | CHANGED_CLASSES  # of which a checkpoint or a card may be

# name of the network -> its published settings; read by the create_* functions only, never by an experiment
PUBLISHED: dict[str, Any] = {
    **centernet.PUBLISHED,
    **fcos.PUBLISHED,
    **picodet.PUBLISHED,
    **picodet_legacy.PUBLISHED,
    **ppyoloe.PUBLISHED,
    **ppyoloe_aux.PUBLISHED,
    **retinanet.PUBLISHED,
    **yolof.PUBLISHED,
    **yolox.PUBLISHED,
}


def published(name: str):
    """The published settings called `name`; ValueError, with the nearest names, where there are none."""
    if name not in PUBLISHED:
        nearest = get_close_matches(name, PUBLISHED, n=3) or sorted(PUBLISHED)
        raise ValueError(f"no published network is called {name!r}; did you mean {', '.join(nearest)}?")
    return PUBLISHED[name]
