"""Structured pruning: channels of a trained network are removed, and what is left is a smaller dense network.

Papers: Pruning Filters for Efficient ConvNets, arXiv 1608.08710 (the filters of least magnitude go); Filter Pruning via
Geometric Median for Deep Convolutional Neural Networks Acceleration, arXiv 1811.00250 (FPGM: those go that the others can
stand in for, the nearest to all others).
Deviations:
- A filter is taken as inference computes it, times the factor of the BatchNorm behind it.
- A channel that several layers make, such as one of a residual branch, has the sum of its scores in them, each over the mean
  of its layer; layers whose output only gates others have no say.

Legend: O output channels, N channels of a width, F values of a filter.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import nn

from public.models.channels import Channels, Group
from public.models.layers import batch_norm_factors

CRITERIA = ("fpgm", "magnitude")


def slim(model: nn.Module, widths: Mapping[str, int], *, criterion: str, channels: Channels | None = None) -> None:
    """Removes channels of `model`, in place, until the layers named in `widths` have so many.

    Parameters and buffers keep their names and the values of the channels that stay, in their order.  No random number is
    drawn; of channels of the same score the first stay.

    Args:
        widths: name of a width, which is that of the first layer that makes its channels -> channels that stay.
        criterion: one of CRITERIA.
        channels: those of `model`, where they are known already.

    Raises:
        ValueError: a name is that of no width or of one that cannot be made narrower, or a width is larger than it was.
    """
    channels = channels or Channels(model)
    check_widths(channels, widths)
    modules = dict(model.named_modules())
    removed: set[int] = set()
    for group in channels.groups:
        count = widths.get(group.name, len(group.channels))
        if count < len(group.channels):
            order = np.argsort(-scores(group, channels, modules, criterion), kind="stable")
            removed |= set(group.channels[order[count:]].tolist())
    remove(model, channels, removed)


def check_widths(channels: Channels, widths: Mapping[str, int]) -> None:
    """Raises ValueError where `widths` does not fit, naming what does not."""
    groups = {group.name: len(group.channels) for group in channels.groups}
    reasons = dict(channels.spared)
    for name, count in widths.items():
        if name in reasons and name not in groups:
            raise ValueError(f"widths names {name!r}, whose channels all stay: {reasons[name]}")
        if name not in groups:
            near = get_close_matches(name, groups, n=2) or list(groups)[:2]
            raise ValueError(
                f"widths names {name!r}, which is no width of this network; there is {' and '.join(map(repr, near))}"
            )
        if not 0 < count <= groups[name]:
            raise ValueError(f"widths asks for {count} channels of {name!r}, which has {groups[name]}")


def scores(group: Group, channels: Channels, modules: Mapping[str, nn.Module], criterion: str) -> np.ndarray:
    """What each channel of `group` is worth (N,), in float64: the sum over the layers that make it."""
    total = np.zeros(len(group.channels))
    for layer, places in group.makers.items():
        own = np.add.reduceat(
            _scores_of(filters(modules, layer, channels.norms.get(layer)), np.concatenate(places), criterion),
            np.cumsum([0, *map(len, places[:-1])]),
        )
        mean = own.mean()
        total += own / mean if mean > 0 else own
    return total


def _scores_of(rows: torch.Tensor, places: np.ndarray, criterion: str) -> np.ndarray:
    """Of each of the filters at `places`: its magnitude, or the sum of its distances to the others."""
    own = rows[torch.from_numpy(places)]  # (N, F)
    if criterion == "magnitude":
        return own.square().sum(1).sqrt().numpy()
    squares = own.square().sum(1)
    return (squares[:, None] + squares - 2 * own @ own.T).clamp(min=0).sqrt().sum(1).numpy()


def filters(modules: Mapping[str, nn.Module], layer: str, norm: str | None) -> torch.Tensor:
    """The filters of a layer as inference has them, (O, F) in float64 on the CPU; `norm`: the BatchNorm behind it.

    Without values, on the meta device, all are 0.
    """
    made: Any = modules[layer]
    if made.weight.is_meta:
        return torch.zeros(len(made.weight), 1, dtype=torch.float64, device="cpu")
    rows = made.weight.detach().double().cpu().flatten(1)
    if norm is None:
        return rows
    factors, _ = batch_norm_factors(modules[norm])  # type: ignore[arg-type]
    return rows * factors.cpu()[:, None]


@torch.no_grad()
def remove(model: nn.Module, channels: Channels, removed: set[int]) -> None:
    """Takes these channels, by the ones that stand for them, out of all parameters and buffers of `model`, in place."""
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, uses in channels.uses.items():
        value = kept = values[name]
        for use in uses:
            stays = np.array([root not in removed for root in channels.roots(use.channels).tolist()])
            if not stays.all():
                index = torch.from_numpy(np.flatnonzero(stays)).to(value.device)
                kept = kept.index_select(use.dim, index)
        if kept is not value:
            _replace(model, name, kept.contiguous())
    for module in model.modules():
        _state_sizes(module)
    modules: dict[str, Any] = dict(model.named_modules())
    for name, maps in channels.parts.items():
        counts = tuple(sum(root not in removed for root in channels.roots(one).tolist()) for one in maps)
        is_one = isinstance(modules[name].out_channels, int) and len(set(counts)) == 1
        modules[name].out_channels = counts[0] if is_one else counts


def _replace(model: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, own = name.rpartition(".")
    module: Any = model.get_submodule(owner)
    if own in module._parameters:
        former = module._parameters[own]
        module._parameters[own] = nn.Parameter(value, requires_grad=former.requires_grad)
    else:
        module._buffers[own] = value


def _state_sizes(module: Any) -> None:
    """Writes into a layer how many channels it has now."""
    if isinstance(module, nn.Conv2d):
        is_depthwise = module.groups == module.in_channels > 1
        module.out_channels = module.weight.shape[0]
        module.groups = module.out_channels if is_depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(module.running_mean) if module.running_mean is not None else module.num_features
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
