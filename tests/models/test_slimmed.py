"""Structured pruning in closed forms: which channels go together, which go, and that empty ones may."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from public.families import published
from public.families.slimmed import Slimmed
from public.models import create_model
from public.models.channels import Channels
from public.models.fuse import fuse
from public.models.layers import ConvBNAct, RepVGGBlock
from public.models.operations import count_operations, example_input
from public.models.slimmed import CRITERIA, remove, scores, slim
from public.models.widths import find_widths, width


class Net(nn.Module):
    """A residual branch, a concatenation, a gate, a depthwise convolution, branches, and a head that two maps share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = ConvBNAct(3, 6, 3, activation="silu")
        self.branch = ConvBNAct(6, 6, 3, activation="relu")
        self.beside = ConvBNAct(6, 4, 1, activation="relu")
        self.gate = nn.Conv2d(10, 10, 1)
        self.depthwise = ConvBNAct(10, 10, 3, activation="relu", groups=10)
        self.rep = RepVGGBlock(10, 8, activation="silu", use_alpha=True)
        self.down = ConvBNAct(8, 8, 3, stride=2, activation="silu")
        self.head = nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.stem(x)
        x = x + self.branch(x)
        x = torch.cat([self.beside(x), x], dim=1)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.rep(self.depthwise(x))
        return self.head(x), self.head(self.down(x))


class Odd(nn.Module):
    """What cannot be followed: a split of channels, a GroupNorm, a grouped convolution; and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(width, 8, 1) for width in (3, 4, 8))
        self.norm = nn.GroupNorm(2, 8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.free, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.second(self.first(x).chunk(2, dim=1)[0]))
        return self.last(self.free(self.grouped(self.third(x))))


def with_statistics(model: nn.Module) -> nn.Module:
    """With BatchNorms that do something, and no convolution of zeros alone."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.bias):
                    values.normal_(0, 0.1, generator=generator)
                for values in (module.running_var, module.weight):
                    values.uniform_(0.5, 2, generator=generator)
            elif isinstance(module, nn.Conv2d) and not module.weight.any():
                module.weight.normal_(0, 0.02, generator=generator)
    return model


def emptied(model: nn.Module, channels: Channels, removed: set[int]) -> nn.Module:
    """A copy in which these channels are zero everywhere: the layers that make them, and the BatchNorms on their way."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        for use in channels.uses.get(name, []):
            if use.dim == 0:
                parameter.data[[root in removed for root in channels.roots(use.channels)]] = 0
    return model


def tensors(outputs) -> list[torch.Tensor]:
    return [value for value in ([outputs] if torch.is_tensor(outputs) else outputs) if torch.is_tensor(value)]


# ---------------------------------------------------------------------------------------------- what goes together


def test_channels_that_meet_are_one_width():
    channels = Channels(Net())
    assert [(group.name, len(group.channels), list(group.makers)) for group in channels.groups] == [
        ("stem.conv", 6, ["stem.conv", "branch.conv"]),  # a sum; the gate, which spans two widths, has no say
        ("beside.conv", 4, ["beside.conv"]),
        ("rep.conv2.conv", 8, ["rep.conv2.conv", "rep.conv1.conv", "down.conv"]),  # one head reads both
        ("head.0", 5, ["head.0"]),
    ]
    assert [(layer.name, layer.reason) for layer in channels.spared] == [("head.2", "an output of the network")]
    assert channels.norms["stem.conv"] == "stem.bn"
    assert "depthwise.conv" not in channels.norms


def test_what_cannot_be_followed_stays_and_is_named():
    channels = Channels(Odd())
    assert [group.name for group in channels.groups] == ["free"]
    assert dict(channels.spared) == {
        "first": "goes into split",
        "second": "goes into native_group_norm",
        "third": "goes into a grouped or transposed convolution",
        "last": "an output of the network",
    }
    for name, reason in (("third", "all stay: goes into a grouped"), ("freee", "there is 'free'")):
        with pytest.raises(ValueError, match=reason):
            slim(Odd(), {name: 4}, criterion="fpgm")
    with pytest.raises(ValueError, match="asks for 9 channels of 'free', which has 8"):
        slim(Odd(), {"free": 9}, criterion="fpgm")


NETWORKS = {
    "all in one": Net,
    "ppyoloe with its second head": lambda: small("ppyoloe_plus_t", depth=0.16, width=0.125),
    "picodet": lambda: small("picodet_xs", channels=16),
    "yolox": lambda: small("yolox_nano", head_channels=16),
    "a classifier": lambda: create_model("lcnet_035", num_classes=3),
}


def small(name: str, **changes) -> nn.Module:
    return replace(published(name), num_classes=3, **changes).build_model()


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_are_zero_can_be_removed(name):
    """In float64 the outputs stay, re-parameterised too, and so do the names in the state dict."""
    torch.manual_seed(0)
    model = with_statistics(NETWORKS[name]()).double()
    channels = Channels(model)
    rng = np.random.default_rng(1)
    removed: set[int] = set()
    for group in channels.groups:
        removed |= set(rng.permutation(group.channels)[max(1, len(group.channels) * 3 // 5) :].tolist())
    assert len(removed) >= 9
    empty = emptied(model, channels, removed)
    left = copy.deepcopy(empty)
    remove(left, channels, removed)
    assert left.state_dict().keys() == model.state_dict().keys()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        expected = tensors(empty.eval()(x))
        for found in (left.eval()(x), fuse(left)(x)):
            for value, other in zip(tensors(found), expected, strict=True):
                assert torch.allclose(value, other, rtol=1e-9, atol=1e-12)
        left.train()(x)  # what is for training alone, as well
    assert sum(p.numel() for p in left.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------------------------------------- which go


def test_the_filters_of_least_magnitude_go_as_inference_has_them():
    """BatchNorm turns the order around; of a residual sum both branches count, each over its mean."""
    net = Net().eval()
    with torch.no_grad():
        for layer, sizes in ((net.beside, (1.0, 2.0, 3.0, 4.0)), (net.stem, [1.0] * 6), (net.branch, [1.0] * 6)):
            layer.conv.weight.copy_(torch.tensor(sizes)[:, None, None, None].expand_as(layer.conv.weight))
        net.beside.bn.weight.copy_(torch.tensor([8.0, 3.0, 1.0, 1.0]))  # times the sizes: 8, 6, 3, 4
        net.stem.bn.weight.copy_(torch.tensor([4.0, 1.0, 1.0, 2.0, 2.0, 2.0]))  # over the mean 2
        net.branch.bn.weight.copy_(torch.tensor([10.0, 80.0, 50.0, 40.0, 20.0, 40.0]))  # over the mean 40
    channels, modules = Channels(net), dict(net.named_modules())
    groups = {group.name: group for group in channels.groups}
    found = scores(groups["stem.conv"], channels, modules, "magnitude")
    assert found == pytest.approx([2 + 0.25, 0.5 + 2, 0.5 + 1.25, 1 + 1, 1 + 0.5, 1 + 1])
    before = net.beside.conv.weight.clone()
    slim(net, {"beside.conv": 2, "stem.conv": 5}, criterion="magnitude", channels=channels)
    assert torch.equal(net.beside.conv.weight, before[:2, [0, 1, 2, 3, 5]])
    assert net.beside.bn.weight.tolist() == [8.0, 3.0]
    assert net.gate.weight.shape == (7, 7, 1, 1)
    assert (net.depthwise.conv.groups, net.depthwise.conv.in_channels, net.rep.conv1.conv.in_channels) == (7, 7, 7)


def test_fpgm_removes_what_the_others_stand_in_for():
    """Of filters on a line at 0, 4, 5, 6 and 20, the one in the middle is the nearest to all; the smallest one stays."""
    net = nn.Sequential(nn.Conv2d(1, 5, 1), nn.Conv2d(5, 2, 1))
    places = torch.tensor([0.0, 4.0, 5.0, 6.0, 20.0])
    with torch.no_grad():
        net[0].weight.copy_(places[:, None, None, None])
    channels = Channels(net)
    distances = (places[:, None] - places).abs().sum(1).double().numpy()  # 35, 23, 22, 23, 65
    found = scores(channels.groups[0], channels, dict(net.named_modules()), "fpgm")
    assert found == pytest.approx(distances / distances.mean())
    slim(net, {"0": 3}, criterion="fpgm", channels=channels)
    assert net[0].weight.flatten().tolist() == [0.0, 4.0, 20.0], "of 4 and 6, which are worth the same, the first stays"


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_half_of_equal_filters_is_the_first_half(criterion):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[1].weight)
    with torch.no_grad():
        net[0].bias.copy_(torch.arange(4.0))
    slim(net, {"0": 2}, criterion=criterion)
    assert net[0].bias.tolist() == [0.0, 1.0]


# ---------------------------------------------------------------------------------------------- how many


def test_widths_are_the_nearest_multiples():
    assert [width(count, 750, 4) for count in (2, 4, 8, 10, 16, 24)] == [2, 4, 8, 8, 12, 20]
    assert [width(count, 500, 1) for count in (1, 3, 10)] == [1, 2, 5]
    assert width(64, 1, 8) == 8


def test_the_macs_fall_to_what_is_asked():
    """The most that fits: of the next larger fraction there is more than is asked for.  `flops` counts the same."""
    net = Net()
    channels = Channels(net)
    options = {"size": (32, 48), "multiple": 1, "spared": ("head",)}
    found = find_widths(net, channels, 0.5, **options)
    assert "head.0" not in found.widths
    small = copy.deepcopy(net)
    slim(small, found.widths, criterion="fpgm", channels=channels)
    counts = [count_operations(fuse(model), example_input(32, 48)).macs for model in (net, small)]
    assert [found.dense_macs, found.macs] == counts
    assert 0.35 < found.macs / found.dense_macs <= 0.5
    exact = find_widths(net, channels, found.macs / found.dense_macs, **options)
    assert exact == found
    with pytest.raises(
        ValueError, match=r"1.0% of the MACs cannot be reached: with 1 channels in every width .*% are left"
    ):
        find_widths(net, channels, 0.01, **options)
    with pytest.raises(ValueError, match="spared names 'tail', but no width is called so"):
        find_widths(net, channels, 0.5, size=(32, 48), multiple=1, spared=("tail",))


def test_settings_are_checked():
    fields = {"network": published("ppyoloe_xs"), "criterion": "fpgm", "widths": (("backbone.stem.conv1.conv", 4),)}
    settings = Slimmed(**fields)
    assert settings.num_classes == 80
    for changes, reason in (
        ({"criterion": "l1"}, "Slimmed.criterion"),
        ({"widths": ()}, "Slimmed.widths"),
        ({"widths": (("a", 0),)}, "Slimmed.widths"),
        ({"widths": (("a", 1), ("a", 2))}, "names 'a' twice"),
        ({"network": settings}, "it must be one network as it is"),
    ):
        with pytest.raises(ValueError, match=reason):
            Slimmed(**fields | changes)
