"""Pruning in closed forms: the schedule, which weights go, what is spared, and what is left to compute."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from public.config import thaw
from public.families import CHECKPOINT_CLASSES
from public.families.distilled import KD, Distilled
from public.families.image_classifier import ImageClassifier
from public.families.pruned import GMP, Pruned
from public.models.fuse import fuse
from public.models.layers import ConvBNAct
from public.models.operations import count_operations, example_input
from public.models.pruned import add_masks, apply_masks, mask_of, masked_layers, prune, sparsity
from public.protocols import Progress
from public.runs.experiment import load_experiment
from public.tasks.classification import ClassificationTask
from public.test_scripts.flops import _effective
from tests.helpers.places import HELPERS

FIELDS = {
    "ratio": 0.75,
    "initial_ratio": 0.15,
    "stable_epochs": 2,
    "pruning_epochs": 4,
    "steps": 8,
    "pointwise_only": False,
    "spared": (),
}
CLASSIFIER = ImageClassifier(  # any settings: `prepare` alone is asked for
    network="resnet18_cifar",
    num_classes=2,
    in_chans=3,
    dropout=0.0,
    drop_path=0.0,
    zero_init=False,
    label_smoothing=0.0,
    options=(),
)


class Net(nn.Module):
    """A stem, a depthwise and a pointwise convolution, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = ConvBNAct(3, 8, 3, activation="relu")
        self.depthwise = ConvBNAct(8, 8, 3, activation="relu", groups=8)
        self.pointwise = ConvBNAct(8, 8, 1, activation="relu")
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pointwise(self.depthwise(self.stem(x))))


def masked(**changes) -> Net:
    net = Net()
    add_masks(net, **{"pointwise_only": False, "spared": ()} | changes)
    return net


def test_the_schedule_is_cubic_in_equal_steps():
    """10 steps an epoch: stable until step 20, then from 0.15 to 0.75 in 8 steps of 5, then 0.75."""
    settings = GMP(**FIELDS)
    assert [settings.ratio_at(step, 10) for step in (0, 19)] == [None, None]
    for number in range(8):
        expected = 0.75 + (0.15 - 0.75) * (1 - number / 8) ** 3
        for step in (20 + 5 * number, 24 + 5 * number):
            assert settings.ratio_at(step, 10) == pytest.approx(expected), step
    assert settings.ratio_at(20, 10) == pytest.approx(0.15)
    assert [settings.ratio_at(step, 10) for step in (60, 1000)] == [0.75, 0.75]
    with pytest.raises(ValueError, match=r"GMP.initial_ratio 0.8 is larger than ratio 0.75"):
        GMP(**FIELDS | {"initial_ratio": 0.8})


def test_the_least_magnitudes_go_and_of_equal_ones_the_first():
    weight = torch.tensor([[3.0, -1.0, 0.5, -4.0], [1.0, 1.0, -0.2, 2.0]])
    assert mask_of(weight, 0.5).tolist() == [[True, False, False, True], [False, True, False, True]]
    assert mask_of(weight, 0.0).all()
    assert int(mask_of(weight, 0.75).sum()) == 2


def test_what_is_pruned_and_what_is_spared():
    def names(net):
        return [name for name, module in net.named_modules() if "mask" in module._buffers]

    assert names(masked()) == ["stem.conv", "pointwise.conv"]
    assert names(masked(pointwise_only=True)) == ["pointwise.conv"]
    assert names(masked(spared=("stem",))) == ["pointwise.conv"]
    with pytest.raises(ValueError, match="'first', but no convolution is called so"):
        masked(spared=("first",))
    with pytest.raises(ValueError, match="nothing is left to prune"):
        masked(spared=("stem", "pointwise"))


def test_what_is_pruned_stays_pruned_and_the_average_too():
    net = masked()
    average = copy.deepcopy(net)
    prune(net, 0.5)
    apply_masks(net, average)
    before = [layer.mask.clone() for layer in masked_layers(net)]
    for layer, other in zip(masked_layers(net), masked_layers(average)):
        assert torch.equal(layer.weight == 0, ~layer.mask)
        assert torch.equal(other.weight == 0, ~layer.mask)
        assert torch.equal(other.mask, layer.mask)
    prune(net, 0.75)
    for layer, mask in zip(masked_layers(net), before):
        assert not (layer.mask & ~mask).any()
        assert int((~layer.mask).sum()) == round(0.75 * layer.weight.numel())


def test_a_step_prunes_where_the_ratio_rises_alone():
    settings = Pruned(network=CLASSIFIER, pruning=GMP(**FIELDS))
    net = settings.prepare(Net())
    counts = []
    for step in range(18, 27):
        with torch.no_grad():
            net.stem.conv.weight += 0.01  # an optimizer's step, which moves what is zero as well
        settings.after_step(net, None, Progress(step // 10, step, step % 10, 8, 10))
        counts.append(int((net.stem.conv.weight == 0).sum()))
    size = net.stem.conv.weight.numel()
    first, second = (round(ratio * size) for ratio in (0.15, 0.75 - 0.6 * (7 / 8) ** 3))
    assert counts == [0, 0, *[first] * 5, second, second]


def test_a_student_is_pruned_beside_its_teacher():
    """And the average of its weights, which has no teacher."""
    settings = Distilled(
        student=Pruned(network=CLASSIFIER, pruning=GMP(**FIELDS)),
        teacher=CLASSIFIER,
        teacher_weights=None,
        teacher_precision="float32",
        feature=None,
        logits=KD(weight=1.0, temperature=4.0),
        factor=1.0,
        stop_epoch=None,
    )
    pair, average = (SimpleNamespace(student=masked()) for _ in range(2))
    settings.after_step(pair, average, Progress(6, 60, 0, 8, 10))
    for net in (pair.student, average.student):
        assert sparsity(net)["stem.conv"] == 0.75


def test_a_checkpoint_names_the_classifier_that_is_changed():
    settings = Pruned(network=CLASSIFIER, pruning=GMP(**FIELDS))
    spec = load_experiment(HELPERS / "tiny_classification").config.input
    task: Any = SimpleNamespace(config=SimpleNamespace(used_settings=settings, input=spec), class_names=("a", "b"))
    card = ClassificationTask.card(task)
    assert card["model_name"] == "resnet18_cifar"
    assert thaw(card["classifier"], CHECKPOINT_CLASSES) == settings


def test_zeros_survive_the_fold_and_are_counted():
    """216 weights in the stem and 64 in the pointwise convolution, three quarters of them zero, on 4 x 4 places."""
    net = masked()
    prune(net, 0.75)
    apply_masks(net, None)
    fused = fuse(net)
    zeros = sparsity(fused)
    assert zeros == {"stem.conv": 0.75, "depthwise.conv": 0.0, "pointwise.conv": 0.75, "last": 0.0}
    count = count_operations(fused, example_input(4, 4))
    dense = 16 * (216 + 72 + 64 + 16)
    left = 16 * (54 + 72 + 16 + 16)
    assert count.macs == dense
    assert _effective(count, zeros) == (
        f"effective: {left / 1e9:.3f} GMACs by weights that are not zero, {left / dense:.1%} of the dense ones"
    )
