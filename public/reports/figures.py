"""Figures of matplotlib for reports: without pyplot, so that neither its backend nor its list of open figures is touched.

matplotlib is imported when the first figure is made: that takes more than a second, which a command that draws none,
and the start of a training, do without.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from public.drawing import save_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, *, dpi: int = 100, layout: Any = None) -> "Figure":
    """An empty figure of `width` x `height` inches with `dpi` pixels an inch; `layout` is matplotlib's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: str | Path, figure: "Figure") -> None:
    """Draws `figure` into a picture file, whole or not at all.

    Raises:
        OSError: the picture cannot be written; it is named.
    """
    canvas: Any = figure.canvas
    canvas.draw()
    save_image(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
