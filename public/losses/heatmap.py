"""Heat maps of object centres: a Gaussian around each, drawn for all objects of an image at once.

Source: CornerNet, arXiv 1808.01244, section 3.2, for the radius; Objects as Points, arXiv 1904.07850, section 3.

Legend: G objects, H W height and width of the map in cells, K classes.
"""

import numpy as np
import torch

from public.losses.assigners.assignment import image_after_image

RADIUS_RULES = ("solved", "original")


def gaussian_radii(widths: torch.Tensor, heights: torch.Tensor, *, overlap: float, rule: str) -> torch.Tensor:
    """How far, in whole cells, the corners of each box may move before it overlaps itself by less than `overlap`.

    The smallest of three cases: one corner inwards and one outwards, both inwards, both outwards; each is a quadratic
    equation.

    Args:
        widths, heights: (G,) in cells.
        overlap: IoU above 0 and below 1.
        rule: "solved", the roots of the equations, as in MMDetection; or "original", CenterNet's own program, which takes
            (b + sqrt(b^2 - 4ac)) / 2 of each equation for its root, and sides rounded up to whole cells.

    Returns:
        (G,) whole numbers, of the type of `widths`.

    Raises:
        ValueError: another rule.
    """
    if rule not in RADIUS_RULES:
        raise ValueError(f"rule={rule!r}: the rules of the radius are {' and '.join(RADIUS_RULES)}")
    if rule == "original":
        widths, heights = widths.ceil(), heights.ceil()
    total, area = heights + widths, widths * heights
    equations = (  # a r^2 + b r + c = 0 in a form with b >= 0 or c <= 0, and the sign of its root
        (1.0, total, area * (1 - overlap) / (1 + overlap), -1),
        (4.0, 2 * total, (1 - overlap) * area, -1),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area, 1),
    )
    radii = []
    for a, b, c, sign in equations:
        root = (b * b - 4 * a * c).clamp(min=0).sqrt()
        radii.append((b + root) / 2 if rule == "original" else (b + sign * root) / (2 * a))
    return torch.stack(radii).amin(0).clamp(min=0).floor()


def draw_heatmaps(
    columns: torch.Tensor,
    rows: torch.Tensor,
    radii: torch.Tensor,
    labels: torch.Tensor,
    *,
    counts: list[int],
    num_classes: int,
    size: tuple[int, int],
) -> torch.Tensor:
    """The heat maps of B images: each cell holds, for each class, the highest of its objects' Gaussians.

    A Gaussian is 1 at its centre, ends `radius` cells beside it, and has a sixth of its diameter, 2 * radius + 1, as standard
    deviation.  Every object is drawn on the whole map, as the product of a column and a row, and the highest of each class
    is taken segment by segment: no order matters, and nothing waits for the device.  Memory: G * H * W numbers.

    Args:
        columns, rows: int64 (G,), the cells of the centres, within the map; of the objects of all images, image after image.
        radii: (G,) in cells, whole numbers; their type is that of the map.
        labels: int64 (G,).
        counts: how many of the G objects each image has.
        size: (H, W).

    Returns:
        (B, K, H, W) in [0, 1], 1 at the centres.
    """
    height, width = size
    num_maps = len(counts) * num_classes
    if len(labels) == 0:
        return radii.new_zeros(len(counts), num_classes, height, width)
    images = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(labels.device, non_blocking=True)
    maps, order = (images * num_classes + labels).sort(stable=True)
    deviations = ((2 * radii + 1) / 6)[order, None]
    reach = radii[order, None]

    def profiles(centres: torch.Tensor, length: int) -> torch.Tensor:
        distances = torch.arange(length, device=centres.device, dtype=radii.dtype) - centres[order, None]  # (G, length)
        values = image_after_image(torch.exp, -distances.square() / (2 * deviations.square()), counts)
        return torch.where(distances.abs() <= reach, values, 0)

    gaussians = profiles(rows, height)[:, :, None] * profiles(columns, width)[:, None, :]  # (G, H, W), map after map
    ends = torch.searchsorted(maps, torch.arange(num_maps, device=labels.device), right=True)
    lengths = ends.diff(prepend=ends.new_zeros(1))  # (B * K,)
    highest = torch.segment_reduce(gaussians, "max", lengths=lengths, axis=0, initial=0.0, unsafe=True)
    return highest.view(len(counts), num_classes, height, width)
