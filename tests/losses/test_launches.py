"""What a loss asks of a device does not grow with the images of a batch: each operation of it would be a launch on a GPU.

The operations of torch are counted on the CPU, with the losses told not to compute images alone, as on a GPU.
"""

import collections
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from public.families import PUBLISHED
from public.losses.assigners import assignment
from tests.losses.test_matches import CASES, NUM_CLASSES, NUM_IMAGES, TARGETS, random_outputs, strides_of

# what makes the program wait for the device: how many numbers there are, or what they are
WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "repeat_interleave.Tensor", "bincount")
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.assigner}, {case.progress.epoch}")


class Operations(TorchDispatchMode):
    """Counts the operations of torch by their names."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[str(func).removeprefix("aten.")] += 1
        return func(*args, **(kwargs or {}))


def learn(case, times: int):
    """The operations of loss and gradients of TARGETS, `times` times over, and the terms."""
    settings = dataclasses.replace(PUBLISHED[case.name], num_classes=NUM_CLASSES)
    loss = settings.build_loss()
    outputs, _ = random_outputs(settings, loss, strides_of(loss, settings), NUM_IMAGES * times)
    with Operations() as operations:
        terms = loss.unweighted(outputs, TARGETS * times, case.progress)
        sum(terms.values()).backward()
    return operations.counts, {name: term.item() for name, term in terms.items()}


@EACH
def test_launches_do_not_grow_with_the_batch(case, monkeypatch):
    _, alone = learn(case, 2)
    monkeypatch.setattr(assignment, "computes_images_alone", lambda device: False)
    few, _ = learn(case, 1)
    many, together = learn(case, 2)
    assert many == few
    waits = {name: count for name, count in many.items() if name.startswith(WAITS)}
    num_heads = 2 if case.name == "ppyoloe_plus_t" else 1
    assert sum(waits.values()) <= num_heads, waits  # for how many points of a head learn an object
    assert together == pytest.approx(alone, rel=1e-6)


@EACH
def test_an_image_learns_what_it_would_alone(case):
    """Whatever the others of its batch have."""
    settings = dataclasses.replace(PUBLISHED[case.name], num_classes=NUM_CLASSES)
    loss = settings.build_loss()
    outputs, _ = random_outputs(settings, loss, strides_of(loss, settings))
    together = loss.matches(outputs, TARGETS, case.progress).objects

    def of_image(value, number: int):
        if isinstance(value, torch.Tensor):
            return value[number : number + 1] if len(value) == NUM_IMAGES and value.dim() > 1 else value
        if hasattr(value, "_fields"):
            return type(value)(*(of_image(part, number) for part in value))
        return value

    for number, target in enumerate(TARGETS):
        alone = loss.matches(of_image(outputs, number), [target], case.progress).objects
        assert torch.equal(together[number : number + 1], alone)
