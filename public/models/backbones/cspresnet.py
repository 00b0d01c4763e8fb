"""CSPResNet, the backbone of PPYOLOE.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250, section 2.2; stages after CSPNet (arXiv 1911.11929), the
channel attention after CenterMask (arXiv 1911.06667), re-parameterised blocks after RepVGG (arXiv 2101.03697).
Weights: PaddleDetection's CSPResNet inside its PPYOLOE checkpoints, by `public.weights.paddle.rename_ppyoloe`.
Deviations:
- BatchNorm's running variance takes the unbiased variance of a batch (torch's rule); Paddle takes the biased one.
- A learnt alpha of exactly 0 switches the 1x1 branch off; the original's test for truth makes it act as 1.

Legend: B batch, C channels, H W height and width.
"""

import torch
from torch import nn

from public.models.layers import ConvBNAct, RepVGGBlock


class RepBasicBlock(nn.Module):
    """3x3 convolution, then a RepVGG block, with or without the input added.  (B, C, H, W) -> the same."""

    def __init__(self, channels: int, *, activation: str, use_shortcut: bool, use_alpha: bool):
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3, activation=activation)
        self.conv2 = RepVGGBlock(channels, channels, activation=activation, use_alpha=use_alpha)
        self.use_shortcut = use_shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.use_shortcut else y


class EffectiveSE(nn.Module):
    """Channel attention: each channel times the hard sigmoid of one linear layer of all channel means.

    The mean is taken over (2, 3): AdaptiveAvgPool2d has no deterministic backward on CUDA.  (B, C, H, W) -> the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.fc(x.mean((2, 3), keepdim=True)))  # (B, C, 1, 1) broadcast over H, W


class CSPResStage(nn.Module):
    """Halves the resolution; then two branches of half the width, the second through residual blocks, and attention.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, activation: str, use_alpha: bool):
        super().__init__()
        middle = (in_channels + out_channels) // 2
        half = middle // 2
        self.conv_down = ConvBNAct(in_channels, middle, 3, stride=2, activation=activation)
        self.conv1 = ConvBNAct(middle, half, 1, activation=activation)
        self.conv2 = ConvBNAct(middle, half, 1, activation=activation)
        self.blocks = nn.Sequential(
            *(
                RepBasicBlock(half, activation=activation, use_shortcut=True, use_alpha=use_alpha)
                for _ in range(num_blocks)
            )
        )
        self.attn = EffectiveSE(2 * half)
        self.conv3 = ConvBNAct(2 * half, out_channels, 1, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_down(x)  # (B, middle, H/2, W/2)
        x = torch.cat([self.conv1(x), self.blocks(self.conv2(x))], dim=1)
        return self.conv3(self.attn(x))


class CSPResNet(nn.Module):
    """Images (B, in_chans, H, W) -> the features of strides 8, 16 and 32, of `out_channels` channels, as a list.

    Args:
        in_chans: channels of the images.
        channels: of the stem and of the four stages, five numbers.
        num_blocks: residual blocks in each of the four stages.
        use_alpha: a learnt factor on each block's 1x1 branch (PPYOLOE+).
        activation: a name of `public.models.layers.ACTIVATIONS`.
    """

    input_layer = "stem.conv1.conv"  # the convolution that reads the images

    def __init__(
        self,
        *,
        in_chans: int,
        channels: tuple[int, ...],
        num_blocks: tuple[int, ...],
        use_alpha: bool,
        activation: str,
    ):
        super().__init__()
        if len(channels) != 5 or len(num_blocks) != 4:
            raise ValueError(
                f"CSPResNet takes 5 channel counts (stem and four stages) and 4 block counts, "
                f"not {len(channels)} and {len(num_blocks)}: channels={channels}, num_blocks={num_blocks}"
            )
        stem = channels[0]
        self.stem = nn.Sequential()
        self.stem.add_module("conv1", ConvBNAct(in_chans, stem // 2, 3, stride=2, activation=activation))
        self.stem.add_module("conv2", ConvBNAct(stem // 2, stem // 2, 3, activation=activation))
        self.stem.add_module("conv3", ConvBNAct(stem // 2, stem, 3, activation=activation))
        self.stages = nn.ModuleList(
            CSPResStage(inside, outside, num_blocks=count, activation=activation, use_alpha=use_alpha)
            for inside, outside, count in zip(channels[:-1], channels[1:], num_blocks)
        )
        self.out_channels = tuple(channels[2:])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images)  # stride 2
        features = []
        for stage in self.stages:  # strides 4, 8, 16, 32
            x = stage(x)
            features.append(x)
        return features[1:]
