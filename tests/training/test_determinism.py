"""Operations without a deterministic form are refused by name: in the forward pass, by torch, and in a real step."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from public.config import replace
from public.training import determinism
from public.training.determinism import (
    NONDETERMINISTIC,
    NondeterministicError,
    check_compile,
    explained,
    refuse_nondeterministic,
)
from tests.helpers.small_task import make_trainer, run_steps


def line(size: int = 6) -> torch.Tensor:
    return torch.randn(1, 4, size, requires_grad=True)


def plane(size: int = 6) -> torch.Tensor:
    return torch.randn(1, 4, size, size, requires_grad=True)


def cube(size: int = 6) -> torch.Tensor:
    return torch.randn(1, 4, size, size, size, requires_grad=True)


def enlarged(x: torch.Tensor, mode: str, **options) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode=mode, align_corners=False, **options)


REGION = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
CALLS = {
    "aten::upsample_linear1d": lambda: enlarged(line(), "linear"),
    "aten::upsample_bilinear2d": lambda: enlarged(plane(), "bilinear"),
    "aten::_upsample_bilinear2d_aa": lambda: enlarged(plane(), "bilinear", antialias=True),
    "aten::upsample_bicubic2d": lambda: enlarged(plane(), "bicubic"),
    "aten::_upsample_bicubic2d_aa": lambda: enlarged(plane(), "bicubic", antialias=True),
    "aten::upsample_trilinear3d": lambda: enlarged(cube(), "trilinear"),
    "aten::_adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(plane(), 2),
    "aten::_adaptive_avg_pool3d": lambda: F.adaptive_avg_pool3d(cube(), 2),
    "aten::adaptive_max_pool2d": lambda: F.adaptive_max_pool2d(plane(), 2),
    "aten::fractional_max_pool2d": lambda: F.fractional_max_pool2d(plane(), 2, output_size=3),
    "aten::avg_pool3d": lambda: F.avg_pool3d(cube(), 2),
    "aten::reflection_pad1d": lambda: F.pad(line(), (1, 1), mode="reflect"),
    "aten::reflection_pad2d": lambda: F.pad(plane(), (1, 1, 1, 1), mode="reflect"),
    "aten::reflection_pad3d": lambda: F.pad(cube(), (1,) * 6, mode="reflect"),
    "aten::grid_sampler_2d": lambda: F.grid_sample(plane(), torch.zeros(1, 3, 3, 2), align_corners=False),
    "aten::grid_sampler_3d": lambda: F.grid_sample(cube(), torch.zeros(1, 3, 3, 3, 3), align_corners=False),
    "aten::nll_loss2d_forward": lambda: F.cross_entropy(plane(), torch.zeros(1, 6, 6, dtype=torch.int64)),
    "torchvision::deform_conv2d": lambda: torchvision.ops.deform_conv2d(
        plane(), torch.zeros(1, 18, 6, 6), torch.randn(2, 4, 3, 3), padding=1
    ),
    "torchvision::roi_pool": lambda: torchvision.ops.roi_pool(plane(), REGION, 2),
    "torchvision::ps_roi_align": lambda: torchvision.ops.ps_roi_align(plane(), REGION, 2),
    "torchvision::ps_roi_pool": lambda: torchvision.ops.ps_roi_pool(plane(), REGION, 2),
}


def test_this_file_calls_every_operation_of_the_list():
    assert CALLS.keys() == NONDETERMINISTIC.keys()


@pytest.mark.parametrize("name", CALLS)
def test_each_operation_is_refused_by_name_with_what_to_do(name):
    torch.manual_seed(0)
    CALLS[name]()  # outside, it runs
    with pytest.raises(NondeterministicError) as refusal, refuse_nondeterministic("cpu"):
        CALLS[name]()
    for part in (name, NONDETERMINISTIC[name], "--deterministic false"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("name", ["aten::upsample_bilinear2d", "torchvision::deform_conv2d"])
def test_without_a_gradient_or_on_another_device_they_run(name):
    with refuse_nondeterministic("cpu"), torch.no_grad():
        F.interpolate(plane().detach(), scale_factor=2, mode="bilinear")
        torchvision.ops.deform_conv2d(plane().detach(), torch.zeros(1, 18, 4, 4), torch.randn(2, 4, 3, 3))
    with refuse_nondeterministic("cuda"):
        CALLS[name]()


def test_what_stands_beside_them_runs():
    """The forms that the messages recommend, and RoIAlign, which has a deterministic one."""
    with refuse_nondeterministic("cpu"):
        F.interpolate(plane(), scale_factor=2, mode="nearest")
        F.adaptive_avg_pool2d(plane(), 1)
        F.avg_pool2d(plane(), 2)
        F.max_pool2d(plane(), 2)
        F.cross_entropy(line().flatten(0, 1), torch.zeros(4, dtype=torch.int64))
        torchvision.ops.roi_align(plane(), REGION, 2)


# ---------------------------------------------------------------------------------------------- in a step


class Enlarging(nn.Module):
    """A convolution, and a bilinear enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return enlarged(self.conv(x), "bilinear")


@pytest.fixture
def settings(config):
    return replace(config, num_pictures=0, ema=None)


def test_the_first_step_of_a_training_refuses_the_operation(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(determinism, "DEVICE_TYPE", "cpu")
    trainer = make_trainer(settings, Enlarging(), tmp_path)
    before = trainer.state.model.conv.weight.clone()
    with pytest.raises(NondeterministicError, match="aten::upsample_bilinear2d has no deterministic form"):
        run_steps(trainer, 1)
    assert trainer.state.step == 0
    assert torch.equal(trainer.state.model.conv.weight, before)


def test_where_determinism_is_given_up_or_the_device_repeats_it_trains(settings, tmp_path, monkeypatch):
    trainer = make_trainer(settings, Enlarging(), tmp_path)
    run_steps(trainer, 1)
    assert trainer.state.step == 1, "on a CPU every operation repeats"
    monkeypatch.setattr(determinism, "DEVICE_TYPE", "cpu")
    trainer = make_trainer(replace(settings, deterministic=False), Enlarging(), tmp_path)
    run_steps(trainer, 1)
    assert trainer.state.step == 1


class Announcing(nn.Module):
    """An operation of which torch itself says, in the backward pass only, that it has no deterministic form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Announced.apply(self.conv(x))


class _Announced(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.put_(torch.tensor([0]), torch.tensor([1.0]), accumulate=False)  # has none on a CPU either


@pytest.fixture
def deterministic_mode():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("deterministic_mode")
def test_what_torch_announces_in_the_backward_pass_gets_the_same_words(settings, tmp_path):
    trainer = make_trainer(settings, Announcing(), tmp_path)
    with pytest.raises(NondeterministicError, match=r"^put_ has no deterministic form"):
        run_steps(trainer, 1)
    assert trainer.state.step == 0


def test_other_errors_stay_what_they_are(settings, tmp_path):
    assert explained(RuntimeError("sizes do not match")) is None
    trainer = make_trainer(settings, nn.Conv2d(4, 1, 3), tmp_path)
    with pytest.raises(RuntimeError, match="channels"):
        run_steps(trainer, 1)


# ---------------------------------------------------------------------------------------------- compiled networks


@pytest.mark.parametrize("version", ["2.11.0", "2.14.1+cu128", "1.13"])
def test_compiling_is_promised_from_a_version_on(version):
    with pytest.raises(ValueError, match=rf"needs torch 2.15 or newer, this is {version.split('+')[0]}"):
        check_compile(True, True, version)
    check_compile(True, False, version)
    check_compile(False, True, version)


@pytest.mark.parametrize("version", ["2.15.0", "2.15.1+cpu", "2.16.0.dev20260101", "3.0"])
def test_from_there_on_it_is_allowed(version):
    with warnings.catch_warnings(action="error"):
        check_compile(True, True, version)


def strided(width: int, *, channels: int = 8, groups: int = 1, stride: int = 2, dtype=torch.bfloat16) -> None:
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=groups).to(dtype)
    conv(torch.randn(2, channels, 2, width, dtype=dtype))


def test_a_bf16_convolution_whose_gradient_is_wrong_is_refused():
    """A map of width 1 crossed by a stride: what a small picture has on the coarsest levels of RetinaNet and FCOS."""
    with refuse_nondeterministic("cuda"), pytest.raises(NondeterministicError, match=r"wrong.*float32"):
        strided(1)
    with (
        refuse_nondeterministic("cuda"),
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(NondeterministicError, match=r"input \(2, 8, 2, 1\), weights \(8, 8, 3, 3\), stride \[2, 2\]"),
    ):
        strided(1, dtype=torch.float32)
    with refuse_nondeterministic("cuda"):
        strided(2)
        strided(1, stride=1)
        strided(1, groups=8)
        strided(1, dtype=torch.float32)


@pytest.mark.numeric
def test_the_gradients_of_bf16_convolutions_that_are_not_refused_are_right():
    """Against float64, from memory that holds NaN: what oneDNN does wrong is the case above alone."""
    generator = torch.Generator().manual_seed(0)
    for width, groups, stride in [(2, 1, 2), (3, 1, 2), (4, 1, 2), (1, 1, 1), (1, 16, 2), (2, 16, 2)]:
        images, weights = (
            torch.randn(shape, generator=generator).bfloat16()
            for shape in [(2, 16, 1, width), (16, 16 // groups, 3, 3)]
        )
        gradient = torch.randn(
            F.conv2d(images, weights, None, stride, 1, 1, groups).shape, generator=generator
        ).bfloat16()
        places = ([stride, stride], [1, 1], [1, 1], False, [0, 0], groups, [False, True, False])
        expected = torch.ops.aten.convolution_backward(
            gradient.double(), images.double(), weights.double(), None, *places
        )[1]
        for _ in range(3):
            del_me = [torch.full((size,), torch.nan) for size in (1000, 20000, 300000)]
            del del_me
            found = torch.ops.aten.convolution_backward(gradient, images, weights, None, *places)[1]
            assert (found.double() - expected).abs().max() <= 2**-7 * expected.abs().max(), (width, groups, stride)
