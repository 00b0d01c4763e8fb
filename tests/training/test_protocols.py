"""What the parts of a training are to each other: each fulfils its protocol, method by method and argument by argument."""

import inspect

import pytest
import torch
from torch import nn

from public import protocols
from public.decoders import create_decoder
from public.decoders.dense import DenseDecoder
from public.families import PUBLISHED
from public.loading.classification import ClassificationBatch
from public.loading.detection import DetectionBatch
from public.losses import create_loss
from public.losses.cross_entropy import CrossEntropyLoss
from public.models import create_model
from public.tasks.base import BaseTask
from public.tasks.classification import ClassificationTask
from public.tasks.detection import DetectionTask
from tests.helpers.small_task import SmallBatch, SmallTask


def members(protocol: type) -> dict[str, object]:
    """What a protocol asks for, by name."""
    own = {name: value for name, value in vars(protocol).items() if not name.startswith("_") or name == "__call__"}
    return {name: value for name, value in own.items() if callable(value) or isinstance(value, property)}


def lacking(thing: object, protocol: type) -> list[str]:
    """What of a protocol a class or a value has not, or cannot be called with; [] where it fulfils it."""
    found = []
    for name, member in members(protocol).items():
        own = getattr(thing, name, None)
        if own is None and not (isinstance(member, property) and name in getattr(thing, "__annotations__", {})):
            found.append(name)
        elif not isinstance(member, property):
            found += [f"{name}({argument})" for argument in _unknown_arguments(own, member)]
    return found


def _unknown_arguments(own: object, member: object) -> list[str]:
    """Arguments of the protocol's method that `own` does not take: by name, or, where that is left open, by number."""
    wanted = [p for p in inspect.signature(member).parameters.values() if p.name != "self"]
    given = [p for p in inspect.signature(own).parameters.values() if p.name != "self"]
    if any(p.kind is p.VAR_POSITIONAL for p in given):
        return []
    by_number = [p for p in wanted if p.kind is p.POSITIONAL_ONLY]
    missing = by_number[len(given) :]
    return [p.name for p in missing] + [
        p.name for p in wanted if p not in by_number and p.name not in {other.name for other in given}
    ]


@pytest.mark.parametrize("task", [DetectionTask, ClassificationTask])
def test_the_tasks_are_what_the_loop_is_handed(task):
    assert lacking(task, protocols.Task) == ["loss"], "an attribute that __init__ sets"
    assert not inspect.isabstract(task)
    assert issubclass(task, BaseTask)


def test_the_small_task_of_tests_offers_what_a_step_needs():
    """It evaluates, draws and saves nothing; all else is a task's."""
    absent = {"card", "evaluate", "summary", "best_text", "draw_batch", "draw_predictions", "write_bad_samples"}
    assert set(lacking(SmallTask(4), protocols.Task)) == absent


def test_the_base_declares_what_a_task_must_have():
    assert inspect.isabstract(BaseTask)
    needed = {"card", "train_dataset", "evaluation_dataset", "evaluate", "summary", "report", "draw_batch"}
    assert needed | {"draw_predictions", "_loader"} == BaseTask.__abstractmethods__
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (BaseTask,), {"card": lambda self: {}})()


@pytest.mark.parametrize("batch", [DetectionBatch, ClassificationBatch, SmallBatch])
def test_batches_are_moved_and_cut(batch):
    assert lacking(batch, protocols.Batch) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_and_decoders_of_every_detector(name):
    assert lacking(create_loss(name, num_classes=2), protocols.Loss) == []
    decoder = create_decoder(name)
    assert lacking(decoder, protocols.Decoder) == []
    assert isinstance(decoder, DenseDecoder)


def test_the_loss_of_classifiers():
    assert lacking(CrossEntropyLoss(num_classes=2, label_smoothing=0.0), protocols.Loss) == []


def test_whatever_answers_images_with_outputs_predicts():
    """A network, its traced form, and a plain function."""
    model = create_model("resnet18_cifar", num_classes=2).eval()
    images = torch.zeros(2, 3, 32, 32)
    traced = torch.jit.trace(model, images)
    for predictor in (model, traced, lambda images: model(images)):
        assert lacking(predictor, protocols.Predictor) == []
        assert predictor(images).shape == (2, 2)


def test_what_is_lacking_is_seen():
    class Half:
        def card(self):
            return {}

        def on_epoch(self, model):
            pass

    found = lacking(Half(), protocols.Task)
    assert "on_epoch(epoch)" in found
    assert "evaluate" in found
    assert "card" not in found
    assert lacking(nn.Identity(), protocols.Decoder) == ["decode"]
