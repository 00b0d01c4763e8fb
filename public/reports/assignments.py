"""Pictures and tables of what a detector's points learn: a panel a level, points in the colour of their object.

On a panel the picture is dimmed and the boxes are outlined.  A disc is a point, or an anchor, that learns the object of its
colour; a white ring is one that is ignored; a faint dot learns background, and is left out where dots would run together.
The anchors of a cell all have their middle at one place, so they are drawn side by side around it.

Legend: A points of all levels, P of one level, G objects of the image, L levels.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from public import drawing
from public.lettering import fitting_height, text_width, write
from public.losses.assigners.assignment import BACKGROUND, IGNORED, Matches
from public.reports.tables import format_table
from public.reports.titles import titled
from public.text import shown

DIMMED = 0.4  # of the brightness of a picture on a panel
BIGGEST, SMALLEST = 6.0, 1.2  # radius of a disc in pixels
ROOM = 5.0  # pixels between points below which background is not dotted
LEGEND = "points of each object, by level"
SIGNS = "disc: learns the object of its colour; ring: ignored; faint dot: background"
GAP = 8  # pixels between panels
FAINT, WHITE, DARK = (120, 120, 120), (255, 255, 255), (0, 0, 0)
TEXT_HEIGHT, SMALLEST_TEXT, LINE_HEIGHT = 10, 5, 17  # pixels of the legend; the first two of a capital letter
_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel


def level_of_points(matches: Matches) -> np.ndarray:
    """The number of the level of each point, (A,)."""
    lengths = [height * width * matches.num_in_cell for height, width in matches.level_sizes]
    return np.repeat(np.arange(len(lengths)), lengths)


def spacings(matches: Matches, size: tuple[int, int]) -> list[float]:
    """Pixels from a cell to the next of its row, a level; `size` (height, width) of the input, for levels of one column."""
    points, starts = matches.points.cpu().numpy(), np.flatnonzero(np.diff(level_of_points(matches), prepend=-1))
    step = matches.num_in_cell
    return [
        float(points[start + step, 0] - points[start, 0]) if width > 1 else size[1] / width
        for start, (_, width) in zip(starts, matches.level_sizes)
    ]


def count_points(matches: Matches, image: int, num_objects: int) -> np.ndarray:
    """How many points of each level learn what, int64 (G + 2, L): the G objects of an image, ignored, background."""
    objects, levels = matches.objects[image].cpu().numpy(), level_of_points(matches)
    kinds = [*range(num_objects), IGNORED, BACKGROUND]
    num_levels = len(matches.level_sizes)
    return np.stack([np.bincount(levels[objects == kind], minlength=num_levels) for kind in kinds])


def format_counts(
    counts: np.ndarray, boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str], columns: Sequence[float]
) -> str:
    """The table of one image: a row an object, then what is ignored and background, and their sum, a column a level.

    Args:
        counts: of `count_points`.
        boxes: (G, 4) in network pixels; `labels`: (G,) positions in `class_names`.
        columns: of `spacings`.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    names = [(str(number), class_names[label]) for number, label in enumerate(labels)]
    names += [("-", "ignored"), ("-", "background"), ("-", "all points")]
    sizes = [f"{width:.0f} x {height:.0f}" for width, height in sides] + ["-"] * 3
    rows = [
        [number, name, size, *(int(count) for count in row), int(row.sum())]
        for (number, name), size, row in zip(names, sizes, [*counts, counts.sum(0)])
    ]
    return format_table(["object", "class", "size", *(f"every {step:g} px" for step in columns), "all"], rows)


def draw_assignment(
    picture: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    matches: Matches,
    image: int,
    *,
    side: int,
    title: str,
) -> np.ndarray:
    """A row of panels: the picture with its numbered objects, their counts, and each level with its points.

    Args:
        picture: uint8 RGB (H, W, 3), as the network gets it.
        boxes: (G, 4) in its pixels; `labels`: (G,) positions in `class_names`.
        image: its number in `matches`.
        side: the longer side of a panel in pixels.
        title: over the first panel.
    """
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    ratios = np.array([size[0] / width, size[1] / height])
    boxes = boxes * np.tile(ratios, 2)
    colors = [tuple(color) for color in drawing.class_colors(max(len(boxes), 1)).tolist()]
    names = [f"{number} {shown(class_names[label])}" for number, label in enumerate(labels)]
    numbered = drawing.draw_detections(scaled, boxes, np.arange(len(boxes)), names)
    counts, steps = count_points(matches, image, len(boxes)), spacings(matches, (height, width))
    lines = [f"{name}: {row.sum()} = {' + '.join(map(str, row))}" for name, row in zip(names, counts)]
    panels = [_under(title, numbered), _under(LEGEND, _legend(size, lines, colors))]

    dimmed = _dimmed(scaled, boxes, colors)
    objects, levels = matches.objects[image].cpu().numpy(), level_of_points(matches)
    points = _spread(matches, steps) * ratios
    for level, ((rows, columns), step) in enumerate(zip(matches.level_sizes, steps)):
        own = levels == level
        gap = step * scale / _across(matches.num_in_cell)
        cells = f"{rows} x {columns} cells" + (f" of {matches.num_in_cell}" if matches.num_in_cell > 1 else "")
        learn, ignored = counts[:-2, level].sum(), counts[-2, level]
        text = f"every {step:g} px, {cells}: {learn} learn an object" + (f", {ignored} ignored" if ignored else "")
        panels.append(_under(text, _with_points(dimmed, points[own], objects[own], colors, gap)))
    gap = np.full((panels[0].shape[0], GAP, 3), drawing.BACKGROUND, dtype=np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _under(title: str, panel: np.ndarray) -> np.ndarray:
    return titled(panel, [title], side=1, longest=max(panel.shape[:2]))


def _dimmed(picture: np.ndarray, boxes: np.ndarray, colors: Sequence[tuple]) -> np.ndarray:
    """The picture in dark grey, with the outlines of the boxes."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) * DIMMED
    canvas = np.ascontiguousarray(np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2))
    for (x1, y1, x2, y2), color in zip(np.rint(boxes).astype(int).tolist(), colors):
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, 1)
    return canvas


def _across(num_in_cell: int) -> int:
    """How many anchors of a cell are drawn in a row."""
    return int(np.ceil(np.sqrt(num_in_cell)))


def _spread(matches: Matches, steps: Sequence[float]) -> np.ndarray:
    """Where points are drawn, (A, 2) in network pixels: as they lie, the anchors of a cell side by side."""
    across = _across(matches.num_in_cell)
    numbers = np.arange(matches.num_in_cell)
    places = np.stack([numbers % across, numbers // across], axis=1) - (across - 1) / 2  # (in a cell, 2)
    steps_of_points = np.asarray(steps)[level_of_points(matches)][:, None]
    repeated = np.tile(places, (len(matches.points) // matches.num_in_cell, 1))
    return matches.points.cpu().numpy() + repeated / across * steps_of_points


def _with_points(
    canvas: np.ndarray, points: np.ndarray, objects: np.ndarray, colors: Sequence[tuple], gap: float
) -> np.ndarray:
    """A copy of `canvas` with points (P, 2), `gap` pixels apart, each by the number of its object (P,)."""
    canvas = canvas.copy()
    radius = float(np.clip(0.38 * gap, SMALLEST, BIGGEST))
    if gap >= ROOM:
        for point in points[objects == BACKGROUND]:
            _disc(canvas, point, 0.8, FAINT)
    for point in points[objects == IGNORED]:
        _disc(canvas, point, max(0.75 * radius, SMALLEST), WHITE, thickness=1)
    for point, number in zip(points[objects >= 0], objects[objects >= 0]):
        if radius >= 2:
            _disc(canvas, point, radius + 1, DARK)
        _disc(canvas, point, radius, colors[number])
    return canvas


def _disc(canvas: np.ndarray, point: np.ndarray, radius: float, color: tuple, thickness: int = -1) -> None:
    x, y = np.rint((point - 0.5) * 2**_SHIFT).astype(int).tolist()  # a pixel's middle is OpenCV's whole number
    cv2.circle(canvas, (x, y), round(radius * 2**_SHIFT), color, thickness, cv2.LINE_AA, _SHIFT)


def _legend(size: tuple[int, int], lines: Sequence[str], colors: Sequence[tuple]) -> np.ndarray:
    """A white panel, at most of `size` (width, height): a line an object behind its colour; what has no room is counted."""
    width, height = size
    room = max(height // LINE_HEIGHT, 1)
    if not lines:
        lines, colors = ["no object: every point learns background"], [drawing.BACKGROUND]
    elif len(lines) > room:
        left = len(lines) - room + 1
        lines, colors = [*lines[: room - 1], f"and {left} more objects"], [*colors[: room - 1], drawing.BACKGROUND]
    text_height = fitting_height(lines, width - LINE_HEIGHT - 4, TEXT_HEIGHT, SMALLEST_TEXT, is_bold=False)
    needed = [LINE_HEIGHT + 4 + text_width(line, text_height, is_bold=False) for line in lines]
    width = min(width, max(*needed, text_width(LEGEND, TEXT_HEIGHT, is_bold=False) + 2 * GAP))
    panel = np.full((height, width, 3), drawing.BACKGROUND, dtype=np.uint8)
    for number, (line, color) in enumerate(zip(lines, colors)):
        top = number * LINE_HEIGHT
        panel[top + 3 : top + LINE_HEIGHT - 3, 2 : LINE_HEIGHT - 4] = color
        write(panel, line, (LINE_HEIGHT, top + LINE_HEIGHT - 4), text_height, drawing.INK, is_bold=False)
    return panel
