"""Losses that are not finite and memory that runs out: each stops with a message that says what to do."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from public.checkpoint_files import load_checkpoint
from public.parallel import collectives
from public.training.guards import (
    NonFiniteLossError,
    StepLosses,
    batch_that_fits,
    out_of_memory_message,
)
from tests.helpers.processes import run_processes


def make_batch(ids: list) -> SimpleNamespace:
    """What a batch is to the guard: images, targets and ids."""
    torch.manual_seed(0)
    return SimpleNamespace(
        images=torch.randint(0, 256, (len(ids), 4, 4, 3), dtype=torch.uint8),
        targets=[{"boxes": torch.rand(i, 4), "labels": torch.arange(i)} for i in range(len(ids))],
        image_ids=ids,
    )


def terms_of(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def guard(terms: dict[str, torch.Tensor], ids: list, folder: Path) -> str:
    """The message of the guard at step 7, "" where it lets the terms pass."""
    try:
        losses = StepLosses()
        losses.add(terms, make_batch(ids))
        losses.read(None, 7, folder)
    except NonFiniteLossError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------------------------------------- losses


def test_finite_losses_pass(tmp_path):
    assert guard(terms_of(cls=1.0, iou=0.0, dfl=-3e38), ["a"], tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_step_term_and_images_and_keeps_the_batch(tmp_path, value):
    ids = ["2007_000032", 17]
    message = guard(terms_of(cls=1.0, iou=value), ids, tmp_path)
    (file,) = tmp_path.iterdir()
    for part in ("step 7", "'iou'", str(value), "2007_000032", "17", str(file)):
        assert part in message
    assert "'cls'" not in message
    saved, batch = load_checkpoint(file), make_batch(ids)
    assert saved["step"] == 7
    assert saved["image_ids"] == ids
    assert saved["terms"]["cls"] == 1.0
    assert repr(saved["terms"]["iou"]) == repr(value)
    assert torch.equal(saved["images"], batch.images)
    for kept, target in zip(saved["targets"], batch.targets, strict=True):
        assert kept.keys() == target.keys()
        assert all(torch.equal(kept[name], target[name]) for name in target)


def guard_on_this_rank(values: list[float], folder: Path) -> str:
    """The guard's message where the term "iou" is `values[rank]` on each rank."""
    rank = collectives.rank()
    return guard(terms_of(cls=1.0, iou=values[rank]), [f"image_of_rank_{rank}"], folder)


def test_one_bad_rank_stops_all_ranks_with_one_message(tmp_path):
    first, second = run_processes(guard_on_this_rank, 2, [1.0, math.nan], tmp_path)
    assert first == second
    assert "'iou': nan} on rank 1" in first
    assert "image_of_rank_1" in first
    assert "image_of_rank_0" not in first
    (file,) = tmp_path.iterdir()
    assert str(file) in first
    assert load_checkpoint(file)["image_ids"] == ["image_of_rank_1"]


def test_several_bad_ranks_are_all_named(tmp_path):
    messages = run_processes(guard_on_this_rank, 3, [math.inf, 1.0, -math.inf], tmp_path)
    assert len(set(messages)) == 1
    for part in ("'iou': inf} on rank 0", "'iou': -inf} on rank 2", "image_of_rank_0", "image_of_rank_2"):
        assert part in messages[0]
    assert len(list(tmp_path.iterdir())) == 2


def test_finite_terms_whose_sum_overflows_stop_with_a_reason(tmp_path):
    messages = run_processes(guard_on_this_rank, 2, [3e38, 3e38], tmp_path)
    assert len(set(messages)) == 1
    assert "'iou'" in messages[0]


def test_a_batch_that_cannot_be_saved_still_stops_all_ranks(tmp_path):
    messages = run_processes(guard_on_this_rank, 2, [1.0, math.nan], tmp_path / "absent", timeout=20)
    assert len(set(messages)) == 1
    for part in ("'iou': nan} on rank 1", "image_of_rank_1", "could not be written"):
        assert part in messages[0]


def means_on_this_rank() -> dict[str, float]:
    losses = StepLosses()
    for offset in (0.0, 10.0):  # two micro-batches
        losses.add(terms_of(cls=1.0 + collectives.rank() + offset, iou=4.0), make_batch([1]))
    means, norm = losses.read(torch.tensor(2.5), 0, Path())
    assert norm == 2.5
    return means


def test_the_logged_terms_are_means_over_ranks_and_micro_batches():
    assert run_processes(means_on_this_rank, 2) == [{"cls": 6.5, "iou": 4.0}] * 2


# ---------------------------------------------------------------------------------------------- memory


class Memory:
    """Holds up to `limit` images."""

    def __init__(self, limit: int) -> None:
        self.limit, self.tried = limit, []

    def __call__(self, num_images: int) -> None:
        self.tried.append(num_images)
        if num_images > self.limit:
            raise torch.OutOfMemoryError("a made-up lack of memory")


def test_the_batch_that_fits_is_found_to_an_eighth():
    for num_images in range(1, 130):
        for limit in range(num_images):
            memory = Memory(limit)
            fits = batch_that_fits(memory, num_images)
            assert fits <= limit, "it was tried, or is zero"
            assert fits == 0 or fits in memory.tried
            assert limit - fits <= fits / 8, (num_images, limit, fits)
            assert all(0 < tried < num_images for tried in memory.tried)
            assert len(memory.tried) <= 2 * math.log2(num_images) + 2


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def attempt(num_images: int) -> None:
        raise RuntimeError("another mistake")

    with pytest.raises(RuntimeError, match="another mistake"):
        batch_that_fits(attempt, 8)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_advice_fits(monkeypatch, processes, accumulate):
    """Both ways out of the message lead to micro-batches that fit, and no smaller accumulate does."""
    monkeypatch.setattr(collectives, "world_size", lambda: processes)
    for num_images in range(2, 25):
        batch_size = num_images * accumulate * processes
        share = batch_size // processes
        for fits in range(1, num_images):
            message = out_of_memory_message(num_images, fits, batch_size)
            assert f"{num_images} images" in message
            assert f"{fits} fit" in message
            smaller = int(re.search(r"--batch_size (\d+)", message)[1])
            assert smaller == fits * accumulate * processes < batch_size
            pieces = int(re.search(r"--accumulate (\d+)", message)[1])
            fitting = [n for n in range(1, share + 1) if share % n == 0 and share // n <= fits]
            assert pieces == min(fitting)


def test_a_single_image_that_does_not_fit_has_its_own_message():
    message = out_of_memory_message(8, 0, 8)
    assert "single image" in message
    assert "--batch_size" not in message
