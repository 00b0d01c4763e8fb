"""A trained first convolution for images of another number of channels."""

import torch


def adapt_input_channels(weight: torch.Tensor, in_chans: int) -> torch.Tensor:
    """The weight (O, I, kH, kW) of a convolution of I channels for images of `in_chans` channels.

    timm's rule (`adapt_input_conv`), which timm states for I = 3.  For one channel the weights are summed over I, so a
    grey image gives what its I equal channels gave.  For more, the channels are repeated in turn and all weights
    multiplied by I / in_chans, so a response keeps its size; where in_chans is a multiple of I, images of equal channels
    give exactly what they gave.  The same number leaves the weight as it is.

    Returns:
        (O, in_chans, kH, kW), a new tensor.
    """
    channels = weight.shape[1]
    if in_chans == channels:
        return weight.clone()
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    order = torch.arange(in_chans, device=weight.device) % channels  # 0, 1, 2, 0, 1, ...
    return weight[:, order] * (channels / in_chans)
