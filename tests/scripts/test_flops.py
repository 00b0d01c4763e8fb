"""Counted operations: closed forms, thop, the published figures, and the table."""

import copy
import json

import pytest
import thop
import torch
from torch import nn

from public.families import PUBLISHED
from public.models import create_model
from public.models.deformable import DeformableConv2d
from public.models.fuse import fuse
from public.models.layers import RepVGGBlock
from public.models.operations import count_operations, example_input
from public.test_scripts import flops as command

PUBLISHED_GFLOPS = {"ppyoloe_s": 17.36, "ppyoloe_m": 49.91, "ppyoloe_l": 110.07, "ppyoloe_x": 206.59}
PUBLISHED_MILLIONS = {"ppyoloe_s": 7.93, "ppyoloe_m": 23.43, "ppyoloe_l": 52.20, "ppyoloe_x": 98.42}  # at 640 x 640


class Example(nn.Module):
    """Operations with known counts; one part in a list, one called twice, one not at all."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)])
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.linear = nn.Linear(8, 5)
        self.unused = nn.Linear(4, 4)

    def forward(self, images):
        features = self.parts[1](self.parts[0](images))
        features = self.grouped(self.grouped(features))
        return self.linear(features.mean((2, 3)))


EXAMPLE_MACS = {
    "parts.0": 16 * 12 * 8 * 3 * 9,  # outputs times the inputs of each
    "parts.1": 0,
    "grouped": 2 * (16 * 12 * 8 * 2 * 9),
    "linear": 8 * 5,
    "unused": 0,
}


def test_closed_forms():
    count = count_operations(Example(), example_input(32, 24))
    found = {row.name: row.macs for row in count.rows}
    assert {name: found[name] for name in EXAMPLE_MACS} == EXAMPLE_MACS
    assert found["parts"] == EXAMPLE_MACS["parts.0"], "a list is never called; it has what its parts have"
    assert count.macs == found[""] == sum(EXAMPLE_MACS.values())
    assert {row.name: row.parameters for row in count.rows}["grouped"] == 8 * 2 * 9 + 8
    assert count.uncounted == ["unused"]


def without_values(name: str) -> nn.Module:
    """The network on the meta device: the initial values of a large one take seconds."""
    with torch.device("meta"):
        return create_model(name, num_classes=80)


def by_size(names):
    """The names as parameters; those of large networks are slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow if name.endswith(("_l", "_x")) else ()) for name in names]


def count_transposed(module: nn.ConvTranspose2d, inputs: tuple, _) -> None:
    """Each number of the input meets each of its channel's kernel; thop takes the output's numbers, four times as many."""
    module.total_ops += inputs[0].numel() * module.weight[0].numel()


def count_deformable(module: DeformableConv2d, _, output: torch.Tensor) -> None:
    """As a plain convolution, of which thop knows; what predicts its offsets is a layer of its own."""
    module.total_ops += output.numel() * module.weight[0].numel()


# one name of each network: released for several sizes of images, it has several
DISTINCT = sorted({str(settings): name for name, settings in sorted(PUBLISHED.items(), reverse=True)}.values())


ONE_OF_EACH_FAMILY = sorted({type(PUBLISHED[name]): name for name in sorted(DISTINCT, reverse=True)}.values())


@pytest.mark.parametrize("name", by_size(ONE_OF_EACH_FAMILY))
def test_proportional_to_the_batch(name):
    model = without_values(name).eval()
    one, three = (count_operations(model, example_input(640, 640, num_images=count)) for count in (1, 3))
    assert three.macs == 3 * one.macs


@pytest.mark.parametrize("name", by_size(DISTINCT))
def test_against_thop(name):
    """thop's hooks see layers, torch's counter sees operations.

    thop counts normalisation as well, which is put to zero here: in the small networks it is more than 2 %.
    """
    model = without_values(name).eval()
    one = count_operations(model, example_input(640, 640))
    rules = dict.fromkeys((nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm), lambda *_: None)
    rules |= {nn.ConvTranspose2d: count_transposed, DeformableConv2d: count_deformable}
    assert one.parameters == sum(parameter.numel() for parameter in model.parameters())
    macs, _ = thop.profile(model, (example_input(640, 640),), custom_ops=rules, verbose=False)
    assert one.macs == pytest.approx(macs, rel=0.02)
    assert one.macs > 1e8


@pytest.mark.parametrize("name", ["ppyoloe_xs", "ppyoloe_s"])
def test_what_thop_counts_beside(name):
    """Four operations for each value that a BatchNorm puts out: with these the two tools agree to the last operation."""
    model = create_model(name, num_classes=80).eval()
    macs, _ = thop.profile(copy.deepcopy(model), (torch.zeros(1, 3, 64, 96),), verbose=False)
    normalised = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, output: normalised.append(output.numel()))
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 96))
    count = count_operations(create_model(name, num_classes=80).eval(), example_input(64, 96))
    assert macs == count.macs + 4 * sum(normalised)


@pytest.mark.parametrize("name", by_size(PUBLISHED_GFLOPS))
def test_published_figures(name):
    """PaddleDetection's FLOPs are two for each MAC, of the network with its RepVGG blocks fused.

    Ours are 0.1 to 0.6 % below: Paddle counts more than convolutions.
    """
    fused = count_operations(fuse(without_values(name)), example_input(640, 640))
    assert 0.99 < 2 * fused.macs / 1e9 / PUBLISHED_GFLOPS[name] < 1
    assert fused.parameters / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], rel=0.005)


def test_published_figures_of_the_tiny_size():
    """PaddleDetection's 4.85 M parameters and 19.15 G are those of the network before fusing, without its auxiliary part."""
    count = count_operations(create_model("ppyoloe_plus_t", num_classes=80).eval(), example_input(640, 640))
    auxiliary = sum(row.parameters for row in count.rows if row.name in ("aux_neck", "aux_head"))
    assert (count.parameters - auxiliary) / 1e6 == pytest.approx(4.85, abs=0.005)
    assert 0.99 < 2 * count.macs / 1e9 / 19.15 < 1


def test_fusing_takes_away_the_1x1_branches():
    model = create_model("ppyoloe_xs", num_classes=80)
    macs = {"branches": 0}

    def add(module, inputs, output):
        macs["branches"] += output.numel() * module.conv.in_channels

    for block in model.modules():
        if isinstance(block, RepVGGBlock):
            block.conv2.register_forward_hook(add)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 64, 64))
    plain = count_operations(create_model("ppyoloe_xs", num_classes=80).eval(), example_input(64, 64))
    fused = count_operations(fuse(create_model("ppyoloe_xs", num_classes=80)), example_input(64, 64))
    assert plain.macs - fused.macs == macs["branches"] > 0


def test_the_parts_make_the_whole():
    count = count_operations(create_model("ppyoloe_s", num_classes=80).eval(), example_input(64, 64))
    top = [row for row in count.rows if row.name and "." not in row.name]
    assert [row.name for row in top] == ["backbone", "neck", "head"]
    assert sum(row.macs for row in top) == count.macs
    assert sum(row.parameters for row in top) == count.parameters
    assert count.uncounted == []


# The command


def run(capsys, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["flops", *map(str, arguments)])
        command.main()
    return capsys.readouterr().out


def test_a_published_network(capsys, tmp_path):
    said = run(capsys, "ppyoloe_s", "--shape", 640, 640, "--depth", 2, "--json", tmp_path / "count.json")
    assert "8.796 GMACs = 17.591 GFLOPs" in said
    lines = [line.split()[0] for line in said.splitlines()[2:]]
    assert lines[:3] == ["backbone", "backbone.stem", "backbone.stages"]
    assert "backbone.stages.0" not in lines
    content = json.loads((tmp_path / "count.json").read_text())
    assert content["flops"] == 2 * content["macs"] == 2 * content["modules"][0]["macs"]
    assert content["parameters"] == 8_084_588
    assert "17.267 GFLOPs" in run(capsys, "ppyoloe_s", "--shape", 640, 640, "--fuse", "--depth", 0)


def test_parts_that_only_train_are_named_as_a_whole(capsys):
    said = run(capsys, "ppyoloe_plus_t", "--shape", 64, 64, "--depth", 0)
    assert said.splitlines()[-1].endswith("play no part in inference: aux_neck, aux_head")


def test_an_experiment_has_its_own_size_and_what_it_freezes(capsys, experiment_folder):
    """Four times the pixels are four times the operations, and a quarter of a percent for what looks at means."""
    config = experiment_folder / "config.py"
    config.write_text(config.read_text().replace("freeze=()", 'freeze=("backbone",)'))
    said = run(capsys, experiment_folder)
    assert "one image of 64 x 64 pixels" in said
    arguments = command.argparse.Namespace(
        network=str(experiment_folder), shape=None, depth=0, fuse=False, json=None, weights=None
    )
    small = command.flops(arguments)
    arguments.shape = [128, 128]
    large = command.flops(arguments)
    assert large.macs == pytest.approx(4 * small.macs, rel=0.01)
    backbone = next(row for row in small.rows if row.name == "backbone")
    assert small.trainable == small.parameters - backbone.parameters
    assert f"({small.trainable:,} trainable, {backbone.parameters:,} frozen)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ppyoloe_s",), "say --shape HEIGHT WIDTH"),
        (("ppyoloe_ss", "--shape", "64", "64"), "ppyoloe_ss is not a folder.*did you mean ppyoloe_"),
        (("ppyoloe_s", "--shape", "65", "64"), "multiples of 32"),
        (("tests", "--shape", "64", "64"), "neither an experiment's folder"),
        (("ppyoloe_s", "--shape", "64", "64", "--depth", "-1"), "--depth is -1"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run(capsys, *arguments)
