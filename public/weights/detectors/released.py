"""What is known of the released weights of one detector."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from public.input import InputSpec


@dataclass(frozen=True, kw_only=True)
class Released:
    """Released weights of one published name, of which nothing is guessed.

    Fields:
        sources: whose files there are: "paddle", ...
        rename: their arrays -> ours; ValueError for an array that is foreign, an empty dict for fixed values that are no
            parameters here.
        input: how an image becomes the network's input.
        class_names: of the released file, in label order.
        left_out: the file's arrays -> those that are not renamed, and why; ValueError where copies of one array differ.
        backbone_parts: how the names in a file of the backbone alone begin, where they are not those of our backbone.
        inputs_by_source: of sources whose weights take another input than `input`.
        neck: how the names of arrays begin that the file counts among its backbone's, "backbone.*", and we do not.
    """

    sources: tuple[str, ...]
    rename: Callable[[dict[str, np.ndarray]], dict[str, torch.Tensor]]
    input: InputSpec
    class_names: tuple[str, ...]
    left_out: Callable[[dict[str, np.ndarray]], dict[str, str]] = lambda arrays: {}
    backbone_parts: tuple[str, ...] = ()
    inputs_by_source: dict[str, InputSpec] = field(default_factory=dict)
    neck: tuple[str, ...] = ()
