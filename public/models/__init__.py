"""Networks.  `create_model` builds a published one by name; experiments build theirs from their settings."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from torch import nn

from public.checkpoint_files import load_checkpoint
from public.models.backbone import Backbone
from public.models.backbones import NETWORKS, build, published_classes
from public.models.image_classifier import Classifier, check_num_classes
from public.models.input_channels import adapt_input_channels
from public.models.loading import load_weights


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: str | Path | None = None,
    in_chans: int = 3,
    features_only: bool = False,
    out_strides: Sequence[int] | None = None,
    backbone: str | Backbone | None = None,
    **changes,
) -> nn.Module:
    """A new network with the published settings called `name`, in train mode: a detector or a classifier.

    Args:
        num_classes: at least 1; None: the published number.
        pretrained: a checkpoint of this project (a run's, or one that `public.weights.convert` wrote) to take the
            weights from.  Whatever it does not give, such as the class layers where the numbers of classes differ, or all
            but the backbone where it holds nothing else, is reported by a warning and keeps its initial values.  None:
            initial values everywhere, which come from torch's global generator.
        in_chans: channels of the images.  The first convolution of a checkpoint made for another number is adapted: see
            `adapt_input_channels`.
        features_only: of a classifier the `Backbone` alone, which gives feature maps.  `pretrained` may then be any
            checkpoint with the same backbone, a detector's too.
        out_strides: of these maps; None: all that there are.  The backbone's attributes `out_strides` and `out_channels`
            say what it gives.
        backbone: of a detector: the name of a network, or a `Backbone` with its own initial values, in place of the
            published one.
        changes: further fields of a detector's settings to replace, or keywords of the classifier's family, such as
            dropout, drop_path and zero_init: see its `build`.  Where the weights of a checkpoint need a keyword, it is
            taken from there.

    Raises:
        ValueError: an unknown name; fewer classes than 1; a stride that the backbone has not; arguments that the network
            has no use for; a checkpoint that does not fit, naming a parameter and both shapes, or a keyword and both
            values.
        TypeError: an unknown field or keyword; a `pretrained` that names no checkpoint.
        FileNotFoundError: there is no such checkpoint.
    """
    _check_arguments(in_chans, num_classes, pretrained, out_strides, features_only)
    if name in NETWORKS:
        if backbone is not None:
            raise ValueError(f"{name} is a backbone itself; backbone={backbone!r} belongs to a detector")
        model: Any = _classifier(name, num_classes, in_chans, pretrained, changes)
    else:
        if features_only and name in list_models():
            raise ValueError(f"{name} is a detector; features_only=True belongs to a backbone, such as resnet50")
        model = _detector(name, num_classes, in_chans, backbone, changes)
    if pretrained is not None:
        for line in _load_pretrained(model, Path(pretrained), in_chans, backbone_only=features_only):
            warnings.warn(f"{name} from {pretrained}: {line}", stacklevel=2)
    if features_only:
        return model.backbone if out_strides is None else model.backbone.select(out_strides)
    return model


def _check_arguments(
    in_chans: int,
    num_classes: int | None,
    pretrained: str | Path | None,
    out_strides: Sequence[int] | None,
    features_only: bool,
) -> None:
    """Refuses what makes no sense of any network."""
    if in_chans < 1:
        raise ValueError(f"in_chans = {in_chans}: images have at least one channel")
    if num_classes is not None:
        check_num_classes(num_classes)
    if isinstance(pretrained, bool):
        raise TypeError(
            f"pretrained={pretrained}: nothing is downloaded here.  Name a checkpoint, such as python -m "
            "public.weights.convert makes of released weights (pretrained/README.md), or leave it out for initial values"
        )
    if out_strides is not None and not features_only:
        raise ValueError(f"out_strides={out_strides} belongs to features_only=True")


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted: detectors and classifiers."""
    return sorted({*_published(), *NETWORKS})


def _published() -> dict:
    """The published settings of the detectors, by name."""
    from public.families import PUBLISHED  # here, so that no network depends on a family at import

    return PUBLISHED


def _detector(
    name: str, num_classes: int | None, in_chans: int, backbone: str | Backbone | None, changes: dict
) -> nn.Module:
    published = _published()
    if name not in published:
        nearest = get_close_matches(name, list_models(), n=3) or list_models()
        raise ValueError(f"no published network is called {name!r}; did you mean {', '.join(nearest)}?")
    if num_classes is not None:
        changes = changes | {"num_classes": num_classes}
    settings = replace(published[name], **changes)
    if backbone is None:
        return settings.build_model(in_chans=in_chans)
    if isinstance(backbone, str):
        backbone = build(backbone, in_chans=in_chans, num_classes=1).backbone
    return settings.build_model(in_chans=in_chans, backbone=backbone)


def _classifier(
    name: str, num_classes: int | None, in_chans: int, pretrained: str | Path | None, changes: dict
) -> Classifier:
    """The network with the keywords that its checkpoint needs and those of `changes`, which must not contradict them."""
    needed = {} if pretrained is None else _keywords_of(Path(pretrained))
    for keyword in needed.keys() & changes.keys():
        if needed[keyword] != changes[keyword]:
            raise ValueError(
                f"{pretrained}: its weights belong to {keyword}={needed[keyword]!r}, not to {changes[keyword]!r}; leave the "
                "keyword out, or train from initial values"
            )
    num_classes = published_classes(name) if num_classes is None else num_classes
    try:
        return build(name, num_classes=num_classes, in_chans=in_chans, **(needed | changes))
    except TypeError as error:
        if not needed.keys() - changes.keys():
            raise
        raise ValueError(f"{pretrained}: {name} cannot be built with the keywords of its weights: {error}") from error


def _keywords_of(path: Path) -> dict[str, Any]:
    return load_checkpoint(path).get("keywords", {})


def _load_pretrained(model: nn.Module, path: Path, in_chans: int, *, backbone_only: bool) -> list[str]:
    """Takes over the weights of `path`; a line for whatever was not simply taken over.

    With `backbone_only`, for which the backbone alone was asked, that line is left out.
    """
    checkpoint = load_checkpoint(path)
    is_part = checkpoint.get("part") == "backbone"
    adapted = _made_for_other_channels(model, checkpoint["model"], in_chans)
    for name, channels in adapted.items():  # loaded as they are into convolutions of their own number of channels
        conv = cast(nn.Conv2d, model.get_submodule(name))
        conv.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, channels, *conv.kernel_size))
    lines, _ = load_weights(model, checkpoint, path, backbone_only=backbone_only or is_part)
    if backbone_only:
        lines = lines[1:]
    for name, channels in adapted.items():
        conv = cast(nn.Conv2d, model.get_submodule(name))
        conv.weight = nn.Parameter(adapt_input_channels(conv.weight.detach(), in_chans))
        lines.append(f"{name}.weight: made for {channels} channels, adapted to {in_chans}")
    return lines


def _made_for_other_channels(model: nn.Module, state: dict, in_chans: int) -> dict[str, int]:
    """The convolutions that read the images, one or several branches, -> channels that `state` has for them, if others."""
    first = state.get(f"{model.input_layer}.weight")
    if first is None or first.ndim != 4 or first.shape[1] == in_chans:
        return {}
    found = {}
    for name, module in model.named_modules():
        theirs = state.get(f"{name}.weight")
        if isinstance(module, nn.Conv2d) and theirs is not None and theirs.ndim == 4:
            own = module.weight.shape
            if own[1] == in_chans and theirs.shape == (own[0], first.shape[1], *own[2:]):
                found[name] = first.shape[1]
    return found
