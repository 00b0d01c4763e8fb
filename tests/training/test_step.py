"""One step of the loop: how often it waits for the device, what a loss is told, and which causes an error keeps."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from public.config import replace
from public.runs.chain import FIRST_STEPS
from public.training import guards
from public.training.ema import EMA
from tests.helpers.small_task import SmallTask, make_trainer, run_steps

WAITING = {  # calls by which Python asks for values that a device computes
    *(
        "item",
        "tolist",
        "cpu",
        "numpy",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "nonzero",
        "equal",
        "allclose",
    ),
}


class CountWaits(TorchFunctionMode):
    """Counts the calls that would wait for a GPU."""

    def __init__(self) -> None:
        self.calls: Counter = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in WAITING:
            self.calls[function.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def settings(config):
    return replace(config, num_pictures=0, clip_norm=1.0, ema=EMA(decay=0.9), digest_interval=1000)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_waits_once_however_many_micro_batches(settings, tmp_path, accumulate):
    """The losses of all micro-batches and the gradient's norm come in one transfer, at the step's end."""
    trainer = make_trainer(replace(settings, accumulate=accumulate), nn.Conv2d(3, 1, 3), tmp_path)
    run_steps(trainer, FIRST_STEPS)  # whose batches are digested
    (batch,) = trainer.task.train_batches(first_step=FIRST_STEPS, num_steps=FIRST_STEPS + 1)
    with CountWaits() as waits:
        trainer.step(batch)
    assert waits.calls == {"tolist": 1}


def test_what_waits_is_seen():
    """The count can fail: each way of asking for a value is counted."""
    value = torch.ones(3)
    with CountWaits() as waits:
        if value.sum() > 2:
            value.sum().item()
        int(value.sum())
        value.cpu()
        value.nonzero()
    assert waits.calls == {"__bool__": 1, "item": 1, "__int__": 1, "cpu": 1, "nonzero": 1}


def test_micro_batches_have_the_gradient_of_the_whole(settings, tmp_path):
    """With a loss that is a mean over images, the averages of the parts are those of the batch; so is what is logged."""
    logged, weights = [], []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        trainer = make_trainer(replace(settings, accumulate=accumulate), nn.Conv2d(3, 1, 3).double(), tmp_path)
        trainer.task.loss = lambda outputs, targets, progress: SmallTask.loss(None, outputs, targets.double(), progress)
        trainer.task.inputs = lambda batch: batch.images.double()
        trainer.log = lambda losses, lr, norm: logged.append((losses["loss_square"], norm))
        run_steps(trainer, 3)
        weights.append(trainer.state.model.weight)
    torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-12)
    half = len(logged) // 2
    for one, several in zip(logged[:half], logged[half:]):
        assert several == pytest.approx(one, rel=1e-6)  # logged values and norms pass through float32


def test_progress_says_where_the_run_stands(settings, tmp_path):
    """Epoch, step of the run and step of the epoch, over an epoch's end."""
    trainer = make_trainer(settings, nn.Conv2d(3, 1, 3), tmp_path)
    seen = []
    whole = trainer.task.loss
    trainer.task.loss = lambda outputs, targets, progress: (seen.append(progress), whole(outputs, targets, progress))[1]
    run_steps(trainer, 7)
    assert [(p.epoch, p.step, p.step_in_epoch) for p in seen] == [
        *((0, 0, 0), (0, 1, 1), (0, 2, 2)),
        *((1, 3, 0), (1, 4, 1), (1, 5, 2)),
        (2, 6, 0),
    ]
    assert {(p.num_epochs, p.steps_per_epoch) for p in seen} == {(settings.epochs, 3)}


def test_a_loss_that_is_not_finite_ends_the_step_uncounted(settings, tmp_path):
    """The step that brought it is not counted, and its micro-batch alone is named and saved."""
    trainer = make_trainer(replace(settings, accumulate=2), nn.Conv2d(3, 1, 3), tmp_path)
    whole, calls = trainer.task.loss, []

    def loss(outputs, targets, progress):
        calls.append(progress)
        terms = whole(outputs, targets, progress)
        return {name: value * float("nan") for name, value in terms.items()} if len(calls) == 4 else terms

    trainer.task.loss = loss
    with pytest.raises(guards.NonFiniteLossError, match=r"step 1: .*loss_square.* images \[2, 3\].*part1"):
        run_steps(trainer, 2)
    assert trainer.state.step == 1
    assert [file.name for file in tmp_path.glob("not_finite*")] == ["not_finite_step1_rank0_part1.pth"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("something_cuda does not have a deterministic implementation"), "something_cuda"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of GPU memory"),
    ],
)
def test_what_is_told_keeps_its_cause(settings, tmp_path, error, expected):
    """The message is ours; torch's error stays behind it."""
    trainer = make_trainer(settings, nn.Conv2d(3, 1, 3), tmp_path)

    def fail(*_):
        raise error

    trainer.task.loss = fail
    with pytest.raises(RuntimeError, match=expected) as caught:
        run_steps(trainer, 1)
    assert caught.value.__cause__ is error


def test_another_error_passes_as_it_is(settings, tmp_path):
    trainer = make_trainer(settings, nn.Conv2d(3, 1, 3), tmp_path)
    error = RuntimeError("shapes do not fit")

    def fail(*_):
        raise error

    trainer.task.loss = fail
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        run_steps(trainer, 1)
    assert caught.value is error
