"""Whose released weights each detector loads: names of their arrays, input and classes, one file a detector."""

from dataclasses import replace

from public.weights.detectors import centernet, fcos, picodet, ppyoloe, retinanet, yolof, yolox
from public.weights.detectors.released import Released

# published name -> its released weights
RELEASED: dict[str, Released] = {
    **centernet.RELEASED,
    **fcos.RELEASED,
    **picodet.RELEASED,
    **ppyoloe.RELEASED,
    **retinanet.RELEASED,
    **yolof.RELEASED,
    **yolox.RELEASED,
}


def released(name: str, source: str) -> Released:
    """What is known of `source`'s weights of the published detector `name`.

    Raises:
        ValueError: `source` has no weights of it here, naming those that have.
    """
    known = RELEASED.get(name)
    if known is None or source not in known.sources:
        others = "nobody's are" if known is None else f"{' and '.join(known.sources)}'s are"
        raise ValueError(f"{source}'s weights of the detector {name} are not known here; {others}")
    return replace(known, input=known.inputs_by_source.get(source, known.input))
