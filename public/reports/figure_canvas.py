"""matplotlib's canvas with the letters of `public.lettering`.

It imports matplotlib, and is imported by `public.reports.figures` when the first figure is made.
"""

import math
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

from public import lettering

CAPITAL = 0.73  # height of a capital letter, in sizes of the font
DESCENT = 0.24  # of the letters below the line
BOLD = 600  # the weight from which a font is bold, of 100 .. 1000
WEIGHTS = {"semibold": 600, "demibold": 600, "demi": 600, "bold": 700, "heavy": 800, "extra bold": 800, "black": 900}


class LetteringRenderer(RendererAgg):
    """Draws texts by `public.lettering`, letter by letter as they are."""

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        """(width, height, of which below the line) in pixels."""
        height, is_bold = self._lettering(prop)
        size = height / CAPITAL
        return lettering.text_width(s, height, is_bold=is_bold), height + DESCENT * size, DESCENT * size

    def draw_text(self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath=False, mtext=None) -> None:
        """Draws `s` from (x, y), its lower left corner on the line, turned by `angle` degrees."""
        height, is_bold = self._lettering(prop)
        if not s.strip():
            return
        cover, line = lettering.letters(s, height, is_bold=is_bold)
        below = len(cover) - line
        x, y = x + below * math.sin(math.radians(angle)), y + below * math.cos(math.radians(angle))
        self._renderer.draw_text_image(cover, round(x), round(y), angle, gc)

    def _lettering(self, prop: Any) -> tuple[float, bool]:
        """Height of a capital letter in pixels, and whether the letters are bold."""
        weight = prop.get_weight()
        weight = WEIGHTS.get(weight, 400) if isinstance(weight, str) else weight
        return self.points_to_pixels(prop.get_size_in_points()) * CAPITAL, weight >= BOLD


class LetteringCanvas(FigureCanvasAgg):
    """A canvas in memory whose renderer is `LetteringRenderer`."""

    def get_renderer(self) -> LetteringRenderer:
        """The renderer for the figure's present size."""
        width, height = self.figure.bbox.size
        size = (width, height, self.figure.dpi)
        if getattr(self, "_size", None) != size:
            self.renderer, self._size = LetteringRenderer(*size), size
        return self.renderer
