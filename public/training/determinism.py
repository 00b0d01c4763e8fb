"""Operations without a deterministic form: what is refused, by name, where `deterministic` is set.

torch raises for most of them itself, some only in the backward pass; others, such as torchvision's deformable
convolution, do not announce themselves.  The first step of each start runs under `refuse_nondeterministic`, which sees
every operation of the forward pass and stops at one of `NONDETERMINISTIC`; whatever torch raises later is put into the same
words by `explained`.  One convolution in bf16, whose gradient is wrong on some CPUs, is refused there too.

The list is that of torch's documentation of use_deterministic_algorithms (torch 2.15) for operations that a vision network
may meet and that run forward without complaint, and of the sources of torchvision 0.29 for its own CUDA kernels, whose
backward passes add with atomicAdd (RoIAlign is not among them: it has another form in deterministic mode).
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# name of the operation as the dispatcher knows it -> what it is and what to take in its place; all on CUDA
NONDETERMINISTIC = {
    "aten::upsample_linear1d": "linear interpolation (backward): take nearest",
    "aten::upsample_bilinear2d": "bilinear interpolation (backward): take nearest",
    "aten::_upsample_bilinear2d_aa": "antialiased bilinear interpolation (backward): take nearest",
    "aten::upsample_bicubic2d": "bicubic interpolation (backward): take nearest",
    "aten::_upsample_bicubic2d_aa": "antialiased bicubic interpolation (backward): take nearest",
    "aten::upsample_trilinear3d": "trilinear interpolation (backward): take nearest",
    "aten::_adaptive_avg_pool2d": "adaptive average pooling to more than one cell (backward): take avg_pool2d, or a mean",
    "aten::_adaptive_avg_pool3d": "adaptive average pooling in 3D (backward): take avg_pool3d",
    "aten::adaptive_max_pool2d": "adaptive max pooling (backward): take max_pool2d",
    "aten::fractional_max_pool2d": "fractional max pooling (backward)",
    "aten::avg_pool3d": "average pooling in 3D (backward)",
    "aten::reflection_pad1d": "reflection padding in 1D (backward): pad by slices and torch.cat",
    "aten::reflection_pad2d": "reflection padding (backward): pad the data set's images, or by slices and torch.cat",
    "aten::reflection_pad3d": "reflection padding in 3D (backward)",
    "aten::grid_sampler_2d": "grid_sample (backward)",
    "aten::grid_sampler_3d": "grid_sample in 3D (backward)",
    "aten::nll_loss2d_forward": "cross entropy over a map of labels (backward): flatten it to (N, K)",
    "torchvision::deform_conv2d": "torchvision's deformable convolution (backward; it does not announce itself): take that "
    'of public.models.deformable, in settings deformable="gather"',
    "torchvision::roi_pool": "torchvision's RoIPool (backward)",
    "torchvision::ps_roi_align": "torchvision's position-sensitive RoIAlign (backward)",
    "torchvision::ps_roi_pool": "torchvision's position-sensitive RoIPool (backward)",
}
BF16_MESSAGE = (
    "the gradient of a bf16 convolution's weights is wrong, and another one each time, where it strides over a map of "
    "width 1 on a CPU with bf16 instructions (oneDNN in torch 2.15): input {}, weights {}, stride {}. Take larger "
    "pictures, or --precision float32"
)
DEVICE_TYPE = "cuda"  # where they have none; on a CPU all of them repeat
FIRST_TORCH_WITH_DETERMINISTIC_COMPILE = (2, 15)


class NondeterministicError(RuntimeError):
    """An operation has no deterministic form; the message names it."""


class _Refuse(TorchDispatchMode):
    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name == "aten::convolution" and _is_wrong_in_bf16(*args):
            raise NondeterministicError(BF16_MESSAGE.format(tuple(args[0].shape), tuple(args[1].shape), args[3]))
        if name in NONDETERMINISTIC and _has_gradient_on(self.device_type, args):
            raise NondeterministicError(_message(name, NONDETERMINISTIC[name]))
        return func(*args, **(kwargs or {}))


def refuse_nondeterministic(device_type: str) -> TorchDispatchMode:
    """A context in which an operation of NONDETERMINISTIC that will be differentiated on `device_type` raises.

    Raises:
        NondeterministicError: naming the operation and what to take in its place.
    """
    return _Refuse(device_type)


def explained(error: RuntimeError) -> NondeterministicError | None:
    """torch's own refusal in our words; None where `error` is something else."""
    text = str(error)
    if "does not have a deterministic implementation" not in text:
        return None
    return NondeterministicError(_message(text.split(" does not have")[0].strip(), "as torch says"))


def check_compile(compile_: bool, deterministic: bool, version: str = torch.__version__) -> None:
    """Refuses what is not promised: compiled networks with `deterministic` before torch 2.15.

    Only from there on was it looked at that deterministic mode reaches the compiler (torch/_inductor: no atomic scatter,
    no benchmarked choice of kernels), and in its default mode only.

    Raises:
        ValueError: naming the version and the remedy.
    """
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if compile_ and deterministic and release < FIRST_TORCH_WITH_DETERMINISTIC_COMPILE:
        needed = ".".join(map(str, FIRST_TORCH_WITH_DETERMINISTIC_COMPILE))
        raise ValueError(
            f"compile = True with deterministic = True needs torch {needed} or newer, this is {version}: before it, "
            "deterministic mode does not reach the compiler. Take --compile false, or --deterministic false"
        )


def _is_wrong_in_bf16(images, weights, bias, stride, padding, dilation, transposed, output_padding, groups) -> bool:
    """Whether this is the convolution of BF16_MESSAGE, found by comparing with float64: depthwise ones are right.

    On other CPUs too, whose gradients are right: what is refused does not depend on the machine.
    """
    return (
        images.device.type == "cpu"
        and images.dtype == torch.bfloat16
        and images.ndim == 4
        and weights.requires_grad
        and not transposed
        and groups < images.shape[1]
        and images.shape[3] == 1
        and weights.shape[3] > 1
        and stride[-1] > 1
    )


def _message(name: str, hint: str) -> str:
    return (
        f"{name} has no deterministic form: {hint}. Change the network, or take --deterministic false, which gives up the "
        "promise that the run repeats"
    )


def _has_gradient_on(device_type: str, args) -> bool:
    """Whether a tensor among `args` lies on `device_type` and will get a gradient."""
    flat = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
    tensors = [item for item in flat if isinstance(item, torch.Tensor)]
    return any(tensor.device.type == device_type and tensor.requires_grad for tensor in tensors)
