"""Figures of matplotlib for reports: without pyplot, so that neither its backend nor its list of open figures is touched.

Texts are drawn by `public.lettering`, as in all other pictures, and literally: a class may be called `$5_$10`.

matplotlib is imported when the first figure is made: that takes more than a second, which a command that draws none,
and the start of a training, do without.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from public.drawing import save_image
from public.text import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_DRAWN = "\u200b"  # a space without width


def new_figure(width: float, height: float, *, dpi: int = 100, layout: Any = None) -> "Figure":
    """An empty figure of `width` x `height` inches with `dpi` pixels an inch; `layout` is matplotlib's."""
    from matplotlib.figure import Figure

    from public.reports import figure_canvas

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    figure_canvas.LetteringCanvas(figure)
    return figure


def label(name: str) -> str:
    """`name`, such as a class's, for a legend or an axis, in one line.

    A legend leaves out what begins with "_", matplotlib's sign for lines without a name; a mark that is not drawn keeps it.
    """
    name = shown(name)
    return f"{NOT_DRAWN}{name}" if name.startswith("_") else name


def save_figure(path: str | Path, figure: "Figure") -> None:
    """Draws `figure` into a picture file, whole or not at all.

    Raises:
        OSError: the picture cannot be written; it is named.
    """
    import matplotlib
    from matplotlib.text import Text

    canvas: Any = figure.canvas
    literal: Any = {"text.parse_math": False, "text.usetex": False}
    _write_numbers_plainly(figure)
    for text in figure.findobj(Text):
        text.set(parse_math=False, usetex=False)
    with matplotlib.rc_context(literal):  # of texts that are made while the figure is drawn, such as numbers of an axis
        canvas.draw()
    save_image(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def _write_numbers_plainly(figure: "Figure") -> None:
    """matplotlib writes the numbers of a logarithmic axis in TeX, which would be drawn letter by letter."""
    from matplotlib.ticker import LogFormatter, LogFormatterMathtext

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        for formatter, change in (
            (axis.get_major_formatter(), axis.set_major_formatter),
            (axis.get_minor_formatter(), axis.set_minor_formatter),
        ):
            if isinstance(formatter, LogFormatterMathtext):
                base, thresholds = formatter.labelOnlyBase, formatter.minor_thresholds
                change(LogFormatter(labelOnlyBase=base, minor_thresholds=thresholds))
