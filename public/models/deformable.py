"""Deformable convolution: each tap of the kernel reads at a place of its own, which the network predicts.

Papers: Deformable Convolutional Networks, arXiv 1703.06211; with a factor for each tap: Deformable ConvNets v2,
arXiv 1811.11168.  Channels of offsets and factors are in the order of torchvision's and MMCV's operation.

torchvision's operation adds its gradients with atomicAdd on CUDA, in another order each time, and does not announce
it. The form here is made of operations whose results have a fixed order on every device: the four neighbours of a
place are a bag of four rows of the feature map, whose weighted sum `embedding_bag` gives.  By torch's sources
(EmbeddingBag.cu, of an earlier release than 2.15) it adds the rows of a bag one after the other; its gradient for the
rows sorts them by index first; its gradient for the weights is one scalar product each.  No GPU was at hand to run it
on.

Legend: B batch, C channels, O output channels, H W of the input, h w of the output, T = kernel height * width taps,
G groups of channels that share their offsets.
"""

from typing import Annotated, Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from public.precision import at_least_float32, without_autocast
from public.settings import OneOf

FORMS = ("gather", "torchvision")
DeformableForm = Annotated[str, OneOf(("none", *FORMS))]  # of a setting: "none" is a plain convolution


def deform_conv2d(
    x: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    *,
    factors: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    form: str = "gather",
) -> torch.Tensor:
    """Deformable convolution without bias; between cells bilinear, zero outside of the map.

    In float32 at least, whatever the autocast: places in half precision would be whole cells.

    Args:
        x: (B, C, H, W).
        offsets: (B, G * T * 2, h, w), of each group and tap y then x, in cells, added to where the tap of a plain
            convolution reads.
        weight: (O, C, kernel height, kernel width).
        factors: (B, G * T, h, w), of what each tap reads; None: 1.
        form: "gather", which repeats bit for bit on every device; or "torchvision", whose gradients on CUDA do not.

    Returns:
        (B, O, h, w), what `torchvision.ops.deform_conv2d` gives, up to rounding.

    Raises:
        ValueError: another form, or shapes that do not belong together, naming them.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: deformable convolution has the forms {' and '.join(FORMS)}")
    with without_autocast(x.device):
        x, offsets, weight = at_least_float32(x), at_least_float32(offsets), at_least_float32(weight)
        factors = None if factors is None else at_least_float32(factors)
        if form == "torchvision":
            from torchvision import ops  # here, because it takes three seconds of CPU

            return ops.deform_conv2d(
                x, offsets, weight, stride=stride, padding=padding, dilation=dilation, mask=factors
            )
        return _by_gathering(x, offsets, weight, factors, stride, padding, dilation)


def _by_gathering(
    x: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    factors: torch.Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> torch.Tensor:
    batch, channels, height, width = x.shape
    kernel = (weight.shape[2], weight.shape[3])
    num_taps = kernel[0] * kernel[1]
    groups, h, w = offsets.shape[1] // (2 * num_taps), offsets.shape[2], offsets.shape[3]
    _check_shapes(x, offsets, weight, factors, groups, stride, padding, dilation)

    ys, xs = _places(offsets.view(batch, groups, num_taps, 2, h, w), kernel, stride, padding, dilation)
    top, weights_y = _neighbours(ys, height)  # (B, h, w, T, G, 2)
    left, weights_x = _neighbours(xs, width)
    weights = weights_y[..., :, None] * weights_x[..., None, :]  # (B, h, w, T, G, 2, 2)
    if factors is not None:
        by_tap = factors.view(batch, groups, num_taps, h, w).permute(0, 3, 4, 2, 1)
        weights = weights * by_tap[..., None, None]

    image = torch.arange(batch, device=x.device).view(batch, 1, 1, 1, 1, 1, 1)
    group = torch.arange(groups, device=x.device).view(groups, 1, 1)
    rows = ((image * height + top[..., :, None]) * width + left[..., None, :]) * groups + group
    features = x.permute(0, 2, 3, 1).reshape(batch * height * width * groups, channels // groups)
    columns = F.embedding_bag(
        rows.reshape(-1, 4), features, per_sample_weights=weights.reshape(-1, 4), mode="sum"
    )  # (B * h * w * T * G, C / G)
    columns = columns.view(batch * h * w, num_taps * channels)
    matrix = weight.permute(2, 3, 1, 0).reshape(num_taps * channels, -1)
    return (columns @ matrix).view(batch, h, w, -1).permute(0, 3, 1, 2)


def _check_shapes(
    x: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    factors: torch.Tensor | None,
    groups: int,
    stride: int,
    padding: int,
    dilation: int,
) -> None:
    num_taps = weight.shape[2] * weight.shape[3]
    sides = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel in zip(x.shape[2:], weight.shape[2:])
    ]
    if weight.shape[1] != x.shape[1] or groups == 0 or x.shape[1] % groups:
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} and offsets of {groups} groups do not fit {x.shape[1]} channels"
        )
    wanted = {"offsets": (offsets, 2 * groups * num_taps), "factors": (factors, groups * num_taps)}
    for name, (value, channels) in wanted.items():
        needed = (x.shape[0], channels, *sides)
        if value is not None and tuple(value.shape) != needed:
            raise ValueError(f"{name} have the shape {tuple(value.shape)}, for these features it must be {needed}")


def _places(
    offsets: torch.Tensor, kernel: tuple[int, int], stride: int, padding: int, dilation: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each tap reads, y and x in cells, each (B, h, w, T, G), from offsets (B, G, T, 2, h, w)."""
    h, w = offsets.shape[-2:]
    options: dict[str, Any] = {"device": offsets.device, "dtype": offsets.dtype}
    rows = torch.arange(h, **options) * stride - padding  # of the first tap
    columns = torch.arange(w, **options) * stride - padding
    tap_y = (torch.arange(kernel[0], **options) * dilation).repeat_interleave(kernel[1])  # (T,)
    tap_x = (torch.arange(kernel[1], **options) * dilation).repeat(kernel[0])
    plain_y = tap_y[:, None, None] + rows[:, None]  # (T, h, 1)
    plain_x = tap_x[:, None, None] + columns  # (T, 1, w)
    ys, xs = offsets[:, :, :, 0] + plain_y, offsets[:, :, :, 1] + plain_x  # (B, G, T, h, w)
    return ys.permute(0, 3, 4, 2, 1), xs.permute(0, 3, 4, 2, 1)


def _neighbours(places: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two cells on either side of `places` (...) on an axis of `length` cells, and their weights, both (..., 2).

    A cell outside of the axis has the weight 0 and some index inside.  Places that are not numbers give weights that are
    none either.
    """
    first = places.detach().floor()
    share = places - first  # of the second cell
    cells = torch.stack([first, first + 1], dim=-1)
    is_inside = (cells >= 0) & (cells < length)
    weights = torch.stack([1 - share, share], dim=-1) * is_inside
    cells = torch.where(is_inside, cells, 0)  # also in place of what is infinite or no number
    return cells.long(), weights


class DeformableConv2d(nn.Module):
    """3x3 deformable convolution: a plain convolution predicts the offsets and factors of its nine taps.

    (B, in_channels, H, W) -> (B, out_channels, H, W).  At first offsets are 0 and factors 0.5, as in MMCV.

    Args:
        form: "gather" or "torchvision", see `deform_conv2d`.
        bias: whether a bias, 0 at first, is added.
    """

    def __init__(self, in_channels: int, out_channels: int, *, form: str, bias: bool = False):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form={form!r}: deformable convolution has the forms {' and '.join(FORMS)}")
        self.form = form
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.offset = nn.Conv2d(in_channels, 3 * 9, 3, padding=1)
        bound = (9 * in_channels) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(cast(torch.Tensor, self.offset.bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        offsets, factors = self.offset(x).split([18, 9], dim=1)
        factors = at_least_float32(factors).sigmoid()
        x = deform_conv2d(x, offsets, self.weight, factors=factors, padding=1, form=self.form)
        return x if self.bias is None else x + self.bias[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, form={self.form!r}"
