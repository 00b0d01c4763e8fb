"""How many files loading holds open: few, whatever the batch; a limit that is too low is raised or named; nothing hangs."""

import os
import resource

import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from public.datasets.preparing import checks
from public.datasets.sample import Sample
from public.files import OpenFilesError, allow_open_files
from public.loading.classification import ClassificationBatch
from public.loading.detection import collate
from public.loading.samplers import EvalBatches
from public.loading.workers import BATCH_FILES, DeadWorkerError, make_loader

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.fixture
def limit():
    """Sets this process's limit of open files, the one that may be raised again; it is undone after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(autouse=True)
def torch_looks_at_its_workers_often(monkeypatch):
    """Instead of every five seconds."""
    waiting = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waiting, "__defaults__", (0.3,))


def num_open() -> int:
    return len(os.listdir("/dev/fd"))


def sample(index: int) -> Sample:
    """A black picture with `index` % 4 objects."""
    count = index % 4
    boxes = np.full((count, 4), index, dtype=np.float32)
    flags = np.zeros(count, dtype=bool)
    return Sample(
        image=np.zeros((4, 4, 3), dtype=np.uint8), boxes=boxes, labels=np.full(count, index), difficult=flags, crowd=flags,
        image_id=index, index=index, height=4, width=4,
    )  # fmt: skip


class Samples:
    """Samples by number; `first` is called in the worker before sample 0."""

    def __init__(self, first=lambda: None):
        self.first = first

    def __getitem__(self, key):
        if key.index == 0:
            self.first()
        return sample(key.index)


def loader(num_images, batch_size, *, first=lambda: None, collate_fn=collate, num_workers=1):
    batches = EvalBatches(num_images=num_images, batch_size=batch_size, rank=0, world_size=1)
    return make_loader(
        Samples(first), batches, num_workers=num_workers, prefetch_factor=2, pin_memory=False, collate_fn=collate_fn
    )


# ---------------------------------------------------------------------------------------------------- few


def test_the_files_of_a_batch_do_not_grow_with_it():
    """Each tensor of a batch that a worker has sent keeps a file open."""
    for batch_size in (3, 90):
        batches = iter(loader(batch_size * 2, batch_size))
        first = next(batches)
        before = num_open()
        held = [first, next(batches)]
        assert len(held[1].images) == batch_size
        assert num_open() - before <= BATCH_FILES


def test_batches_have_no_more_tensors_than_room_is_made_for():
    batch = collate([sample(3)])
    assert sum(isinstance(value, torch.Tensor) for value in batch) <= BATCH_FILES
    assert len(ClassificationBatch._fields) - 4 + len(("labels", "other_labels", "shares")) == BATCH_FILES


def test_objects_stay_with_their_images():
    batch = collate([sample(number) for number in (3, 4, 1, 6, 0)])
    assert batch.offsets == [0, 3, 3, 4, 6, 6]
    for number, target in zip((3, 4, 1, 6, 0), batch.targets, strict=True):
        assert target["boxes"].tolist() == sample(number).boxes.tolist()
        assert target["labels"].tolist() == sample(number).labels.tolist()
    for start, stop in ((0, 5), (1, 4), (3, 5), (1, 2), (2, 2)):
        part = batch.part(start, stop)
        assert part.image_ids == batch.image_ids[start:stop]
        assert len(part.targets) == stop - start
        for one, other in zip(part.targets, batch.targets[start:stop]):
            assert torch.equal(one["boxes"], other["boxes"])
            assert torch.equal(one["labels"], other["labels"])


def test_a_batch_without_objects():
    batch = collate([sample(0), sample(4)])
    assert [target["boxes"].shape for target in batch.targets] == [(0, 4), (0, 4)]
    assert batch.boxes.dtype == torch.float32
    assert batch.part(1, 2).targets[0]["labels"].shape == (0,)


# ---------------------------------------------------------------------------------------------------- the limit


def test_a_low_limit_is_raised(limit):
    limit(num_open() + 10)
    assert len(list(loader(4, 2))) == 2
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == HARD


def test_a_limit_that_is_high_enough_stays(limit):
    limit(num_open() + 500)
    allow_open_files(100, "this", "that")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == num_open() + 500


def test_a_limit_that_cannot_be_raised_is_named(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40, 40))
    with pytest.raises(OpenFilesError, match=r"2 workers.* may open 40 \(ulimit -Hn\).*--num_workers"):
        loader(4, 2, num_workers=2)
    assert len(list(loader(4, 2, num_workers=0))) == 2
    with pytest.raises(OpenFilesError, match=r"8 processes.* may open 40 .*--workers takes fewer"):
        checks.look_at([], num_workers=8, title="")


def test_a_limit_without_end_stays_one(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    allow_open_files(10**9, "this", "that")
    assert asked == []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40, resource.RLIM_INFINITY))
    allow_open_files(100, "this", "that")
    ((soft, hard),) = asked
    assert 100 < soft < 1000
    assert hard == resource.RLIM_INFINITY


# ---------------------------------------------------------------------------------------------------- no hanging


def no_more_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open(), HARD))


def no_more_connections():
    """As many files as the worker needs to write a batch, too few to hand its tensors over."""
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open(), HARD))
    for handle in held[: 2 * BATCH_FILES]:  # of each tensor one file and a copy of its handle
        os.close(handle)


@pytest.mark.parametrize("first", [no_more_files, no_more_connections])
def test_a_worker_that_may_open_no_more_files_ends(first, capfd):
    """Python's threads in it would print an error without end, or lose the batch and leave the parent waiting."""
    with pytest.raises((DeadWorkerError, OSError), match=r"[Nn]o more files may be opened|Too many open files"):
        list(loader(8, 2, first=first))
    assert len(capfd.readouterr().err) < 2000


def test_a_batch_that_cannot_be_handed_over_ends_the_worker(capfd):
    with pytest.raises(DeadWorkerError, match="ended with exit code 70"):
        list(loader(4, 2, collate_fn=lambda samples: lambda: samples))  # no function inside a function can be sent
    assert "cannot hand over a batch" in capfd.readouterr().err


def test_a_parent_that_may_open_no_more_files_says_so(limit):
    batches = iter(loader(40, 2))
    held = [next(batches)]
    limit(num_open() + 1)
    with pytest.raises(OpenFilesError, match=r"ulimit -n.*--num_workers"):
        held += list(batches)
