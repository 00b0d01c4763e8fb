"""Coordinate Attention, ACON-C and Meta-ACON against closed forms in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from public.models.activations import AconC, MetaAcon
from public.models.attention import BiasedConvBNAct, CoordinateAttention, check_attention
from public.models.fuse import fuse
from public.models.layers import ConvBNAct, make_activation
from tests.helpers.backbone_checks import scatter_batch_norms


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in float64 with parameters and statistics far from their initial values, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7, generator=generator)
    scatter_batch_norms(module)
    return module.double().eval()


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def pointwise(conv: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution of columns: (channels, positions) -> (channels, positions)."""
    weight = conv.weight.detach().numpy()[:, :, 0, 0]
    bias = 0 if conv.bias is None else conv.bias.detach().numpy()[:, None]
    return weight @ x + bias


# ---------------------------------------------------------------------------------------------- Coordinate Attention


def coordinate_attention(module: CoordinateAttention, image: np.ndarray) -> np.ndarray:
    """The paper's formulas, one image (C, H, W) at a time, in another order: rows and columns never meet."""

    def squeeze(means: np.ndarray) -> np.ndarray:
        bn = module.shared.bn
        mean, variance, weight, bias = (
            tensor.detach().numpy()[:, None] for tensor in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
        )
        f = (pointwise(module.shared.conv, means) - mean) / np.sqrt(variance + bn.eps) * weight + bias
        return f * np.clip(f + 3, 0, 6) / 6

    rows = sigmoid(pointwise(module.rows, squeeze(image.mean(axis=2))))  # (C, H)
    columns = sigmoid(pointwise(module.columns, squeeze(image.mean(axis=1))))  # (C, W)
    return image * rows[:, :, None] * columns[:, None, :]


def test_coordinate_attention_is_the_papers_formula():
    module = seeded(CoordinateAttention(12))
    x = images(3, 12, 5, 7)
    with torch.no_grad():
        y = module(x).numpy()
    expected = np.stack([coordinate_attention(module, image) for image in x.numpy()])
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    factors = y / x.numpy()
    assert factors.std(axis=2).min() > 1e-6  # the factors differ from row to row
    assert factors.std(axis=3).min() > 1e-6  # and from column to column


def test_coordinate_attention_of_the_transposed_image():
    """Rows and columns change places, and so must their convolutions."""
    module, swapped = seeded(CoordinateAttention(12)), seeded(CoordinateAttention(12))
    swapped.rows, swapped.columns = swapped.columns, swapped.rows
    x = images(2, 12, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(swapped(x.transpose(2, 3)), module(x).transpose(2, 3))
        assert not torch.allclose(module(x.transpose(2, 3)), module(x).transpose(2, 3))


@pytest.mark.parametrize(("channels", "middle"), [(12, 8), (256, 8), (320, 10), (1044, 32)])
def test_channels_in_the_middle(channels, middle):
    """C / 32 rounded down, at least 8; biases everywhere: 2 * C * M + M of the shared part, C * M + C of each branch."""
    module = CoordinateAttention(channels)
    assert module.shared.conv.out_channels == middle
    count = (channels * middle + middle) + 2 * middle + 2 * (channels * middle + channels)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_coordinate_attention_learns_from_rows_and_columns():
    module = seeded(CoordinateAttention(8)).train()
    assert torch.autograd.gradcheck(module, images(2, 8, 3, 4).requires_grad_())


@pytest.mark.numeric
def test_fused_coordinate_attention():
    module = seeded(nn.Sequential(CoordinateAttention(12), BiasedConvBNAct(12, 5, activation="relu")))
    fused = fuse(module)
    x = images(2, 12, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), module(x), rtol=1e-12, atol=1e-12)
    assert not [part for part in fused.modules() if isinstance(part, nn.BatchNorm2d)]


def test_unknown_attention_is_named():
    with pytest.raises(ValueError, match=r"unknown attention 'se'; write 'none' .* or 'coordinate'"):
        check_attention("se")


# ---------------------------------------------------------------------------------------------- ACON


def test_acon_c_is_the_papers_formula():
    module = seeded(AconC(6))
    x = images(2, 6, 3, 4)
    p1, p2, beta = (tensor.detach().numpy() for tensor in (module.p1, module.p2, module.beta))
    difference = (p1 - p2) * x.numpy()
    expected = difference * sigmoid(beta * difference) + p2 * x.numpy()
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("p1", "p2", "beta", "expected"),
    [
        (1.0, 0.0, 1.0, torch.nn.functional.silu),
        (1.0, 0.0, 1e6, torch.relu),
        (1.0, 0.25, 1e6, lambda x: torch.maximum(x, 0.25 * x)),  # a leaky ReLU
        (1.5, 0.5, 0.0, lambda x: x),  # the mean of both slopes
        (2.0, 2.0, 3.0, lambda x: 2 * x),
    ],
)
def test_acon_c_contains_other_activations(p1, p2, beta, expected):
    module = AconC(3).double()
    for parameter, value in ((module.p1, p1), (module.p2, p2), (module.beta, beta)):
        nn.init.constant_(parameter, value)
    x = images(2, 3, 4, 5)
    torch.testing.assert_close(module(x).detach(), expected(x))


def test_meta_acon_is_the_papers_formula():
    module = seeded(MetaAcon(40))
    assert module.fc1.weight.shape == (2, 40, 1, 1)  # 40 // 16
    x = images(3, 40, 3, 4)
    p1, p2 = (tensor.detach().numpy()[0, :, 0] for tensor in (module.p1, module.p2))  # (C, 1)
    for image, found in zip(x.numpy(), module(x).detach().numpy()):
        flat = image.reshape(40, 12)
        beta = sigmoid(pointwise(module.fc2, pointwise(module.fc1, flat.mean(axis=1, keepdims=True))))
        assert beta.std() > 1e-2
        difference = (p1 - p2) * flat
        expected = difference * sigmoid(beta * difference) + p2 * flat
        np.testing.assert_allclose(found.reshape(40, 12), expected, rtol=1e-12)


@pytest.mark.numeric
@pytest.mark.parametrize("activation", ["acon_c", "meta_acon"])
def test_gradients_and_the_fused_form(activation):
    module = seeded(ConvBNAct(3, 16, 3, activation=activation))
    assert torch.autograd.gradcheck(module, images(2, 3, 4, 3).requires_grad_())
    x = images(2, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(fuse(module)(x), module(x), rtol=1e-12, atol=1e-12)


def test_initial_values():
    """p1 and p2 from N(0, 1), beta 1; the same seed gives the same, another draw something else."""
    torch.manual_seed(0)
    module = AconC(4000)
    for parameter in (module.p1, module.p2):
        assert parameter.mean().abs() < 0.06
        assert abs(parameter.std() - 1) < 0.05
    assert not torch.equal(module.p1, module.p2)
    assert (module.beta == 1).all()
    torch.manual_seed(0)
    assert torch.equal(AconC(4000).p2, module.p2)


def test_what_cannot_be_built_is_named():
    with pytest.raises(ValueError, match="Meta-ACON over 15 channels has none in its middle"):
        make_activation("meta_acon", 15)
    with pytest.raises(ValueError, match="'acon_c', or its channels are not known"):
        make_activation("acon_c")
