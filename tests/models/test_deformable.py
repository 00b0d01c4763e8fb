"""Deformable convolution by gathering: against torchvision's, by finite differences, and what is promised of its order."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from public.losses import create_loss
from public.models import create_model
from public.models.deformable import DeformableConv2d, deform_conv2d
from public.models.detectors.centernet import CenterNetNeck
from public.protocols import Progress
from public.training.determinism import NONDETERMINISTIC, NondeterministicError, refuse_nondeterministic
from tests.helpers.numerics import assert_same_in_float64

START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=1, steps_per_epoch=1)
FORMS = [  # kernel, stride, padding, dilation, groups of offsets, whether taps have factors
    ((3, 3), 1, 1, 1, 1, True),
    ((3, 3), 1, 1, 1, 1, False),
    ((3, 3), 2, 1, 1, 2, True),
    ((3, 3), 1, 2, 2, 4, True),
    ((1, 5), 2, 0, 1, 1, True),
    ((2, 3), 3, 2, 1, 2, False),
]
every_form = pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups", "has_factors"), FORMS)


def tensors(kernel, stride, padding, dilation, groups, has_factors, *, reach: float = 3.0, size=(9, 11), channels=8):
    """Features, offsets up to some cells outside of the map, weights, factors or None; all random, in float64."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sides = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(size, kernel)]
    num_taps = groups * kernel[0] * kernel[1]
    factors = rand(2, num_taps, *sides).sigmoid() if has_factors else None
    return rand(2, channels, *size), reach * rand(2, 2 * num_taps, *sides), rand(5, channels, *kernel), factors


def with_gradients(function, given: tuple, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output, and the gradient of a weighted sum of it for each tensor of `given`."""
    given = [None if x is None else x.to(dtype).requires_grad_() for x in given]
    output = function(*given)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return [output, *torch.autograd.grad((output * weights).sum(), [x for x in given if x is not None])]


@every_form
def test_it_is_torchvisions(kernel, stride, padding, dilation, groups, has_factors):
    """Output and every gradient: in float64, and in float32 within 1e-5 of the largest."""
    given = tensors(kernel, stride, padding, dilation, groups, has_factors)
    options = {"stride": stride, "padding": padding, "dilation": dilation}

    def ours(x, offsets, weight, factors):
        return deform_conv2d(x, offsets, weight, factors=factors, **options)

    def theirs(x, offsets, weight, factors):
        return torchvision.ops.deform_conv2d(x, offsets, weight, mask=factors, **options)

    for found, expected in zip(
        with_gradients(ours, given, torch.float64), with_gradients(theirs, given, torch.float64)
    ):
        assert_same_in_float64(found, expected, bound=1e-12)
    for found, expected in zip(
        with_gradients(ours, given, torch.float32), with_gradients(theirs, given, torch.float32)
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_the_other_form_is_torchvisions_own():
    x, offsets, weight, factors = tensors(*FORMS[0])
    found = deform_conv2d(x, offsets, weight, factors=factors, padding=1, form="torchvision")
    assert torch.equal(found, torchvision.ops.deform_conv2d(x, offsets, weight, mask=factors, padding=1))


@pytest.mark.parametrize("form", [FORMS[0], FORMS[2], FORMS[5]])
def test_gradients_are_those_of_finite_differences(form):
    _, stride, padding, dilation, _, _ = form
    x, offsets, weight, factors = tensors(*form, size=(3, 4), channels=2)
    offsets = offsets + (offsets - offsets.round()).abs().lt(1e-3) * 0.01  # no place at a kink, a whole cell
    options = {"stride": stride, "padding": padding, "dilation": dilation}

    def function(x, offsets, weight, factors=None):
        return deform_conv2d(x, offsets, weight, factors=factors, **options)

    given = (x[:1], offsets[:1], weight[:2], None if factors is None else factors[:1])
    given = [value.requires_grad_() for value in given if value is not None]
    assert torch.autograd.gradcheck(function, given)


def test_at_whole_cells_and_on_the_border_it_is_torchvisions():
    """Where bilinear reading has a kink, and where a place is exactly one cell outside."""
    x, offsets, weight, factors = tensors(*FORMS[0])
    given = (x, offsets.round(), weight, factors)

    def ours(x, offsets, weight, factors):
        return deform_conv2d(x, offsets, weight, factors=factors, padding=1)

    def theirs(x, offsets, weight, factors):
        return torchvision.ops.deform_conv2d(x, offsets, weight, mask=factors, padding=1)

    for found, expected in zip(
        with_gradients(ours, given, torch.float64), with_gradients(theirs, given, torch.float64)
    ):
        assert_same_in_float64(found, expected, bound=1e-12)


def test_without_offsets_it_is_a_convolution():
    x, offsets, weight, _ = tensors((3, 3), 2, 1, 1, 1, False)
    found = deform_conv2d(x, 0 * offsets, weight, stride=2, padding=1)
    assert_same_in_float64(found, F.conv2d(x, weight, stride=2, padding=1))


def test_places_far_outside_read_nothing_and_what_is_no_number_shows():
    x, offsets, weight, _ = tensors(*FORMS[1])
    far = deform_conv2d(x, torch.full_like(offsets, 1e30), weight, padding=1)
    assert far.count_nonzero() == 0
    offsets[0, 3, 2, 2] = float("nan")
    found = deform_conv2d(x, offsets, weight, padding=1)
    assert found[0, :, 2, 2].isnan().all()
    assert found[1].isfinite().all()


def test_autocast_leaves_it_in_float32():
    x, offsets, weight, factors = (value.float() for value in tensors(*FORMS[0]))
    expected = deform_conv2d(x, offsets, weight, factors=factors, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = deform_conv2d(x, offsets, weight, factors=factors, padding=1)
        layer = DeformableConv2d(8, 4, form="gather")(x.bfloat16())
    assert torch.equal(found, expected)
    assert layer.dtype == torch.float32


def test_memory_formats_give_the_same():
    x, offsets, weight, factors = tensors(*FORMS[2])
    found = deform_conv2d(
        x.contiguous(memory_format=torch.channels_last), offsets, weight, factors=factors, stride=2, padding=1
    )
    assert torch.equal(found, deform_conv2d(x, offsets, weight, factors=factors, stride=2, padding=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "none"}, "form='none': deformable convolution has the forms gather and torchvision"),
        ({"stride": 2}, r"offsets have the shape \(2, 18, 9, 11\), for these features it must be \(2, 18, 5, 6\)"),
        ({"factors": torch.ones(2, 8, 9, 11)}, r"factors have the shape \(2, 8, 9, 11\), .* \(2, 9, 9, 11\)"),
        (
            {"weight": torch.ones(5, 6, 3, 3)},
            r"kernel of shape \(5, 6, 3, 3\) and offsets of 1 groups do not fit 8 channels",
        ),
        ({"offsets": torch.zeros(2, 54, 9, 11)}, "offsets of 3 groups do not fit 8 channels"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    x, offsets, weight, _ = tensors(*FORMS[1])
    given = {"offsets": offsets, "weight": weight, "padding": 1} | change
    with pytest.raises(ValueError, match=message):
        deform_conv2d(x, **given)


def test_it_can_be_exported():
    torch.manual_seed(0)
    neck = CenterNetNeck(in_channels=6, channels=(4,), deformable="gather").double().eval()
    torch.nn.init.normal_(neck.blocks[0].conv.conv.offset.weight, std=0.3)
    sample, batch = torch.randn(2, 6, 5, 7, dtype=torch.float64), torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(neck, ([sample],), dynamic_shapes=([{0: batch}],))
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64)
    (found,), (expected,) = program.module()([x]), neck([x])
    assert_same_in_float64(found, expected)


# ---------------------------------------------------------------------------------------------- one order of summing


@pytest.fixture
def deterministic_mode():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def step_of(name: str, deformable: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, backbone="lcnet_035", deformable=deformable)
    target = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0]]), "labels": torch.tensor([2])}
    outputs = model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    sum(create_loss(name, num_classes=3)(outputs, [target, target], START).values()).backward()
    return model


@pytest.mark.usefixtures("deterministic_mode")
def test_a_step_in_deterministic_mode_has_the_same_bits_twice():
    gradients = [[parameter.grad for parameter in step_of("centernet", "gather").parameters()] for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("deformable", ["gather", "none"])
def test_the_projects_list_lets_it_pass(deformable):
    """No GPU is at hand: the CPU stands for it, as in test_determinism.py."""
    with refuse_nondeterministic("cpu"):
        step_of("centernet", deformable)


def test_torchvisions_is_refused_by_name_with_the_setting_to_take():
    with (
        pytest.raises(NondeterministicError, match="torchvision::deform_conv2d") as refusal,
        refuse_nondeterministic("cpu"),
    ):
        step_of("centernet", "torchvision")
    assert 'deformable="gather"' in str(refusal.value)
    assert NONDETERMINISTIC["torchvision::deform_conv2d"] in str(refusal.value)
    with refuse_nondeterministic("cuda"):
        step_of("centernet", "torchvision")  # on a CPU it repeats
