"""The same run twice; what must change no bit; and that every random stream is one of its own."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from public import random_streams
from public.checkpoint_files import digest, load_checkpoint
from public.config import replace
from public.parallel import collectives
from public.runs.experiment import load_experiment
from public.tasks.detection import DetectionTask
from public.transforms.detection import Resize
from tests.helpers.experiments import TinyExperiment, read_manifest, read_metrics
from tests.helpers.forked_training import train
from tests.helpers.processes import run_processes
from tests.helpers.small_task import make_trainer, run_steps

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TinyExperiment:
    """The tiny experiment, trained once."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("whole"))
    train(experiment)
    return experiment


@pytest.fixture
def fresh(whole, tmp_path) -> TinyExperiment:
    return whole.copy(tmp_path)


# ---------------------------------------------------------------------------------------------- twice


def results(run) -> dict:
    """Everything that a run computed: digests at both ends and in between, losses, metrics, weights."""
    manifest = read_manifest(run)
    finished = {name: value for name, value in manifest["finished"].items() if name != "time"}
    finished["metrics"] = {k: v for k, v in finished["metrics"].items() if not k.endswith("_ms")}
    states = [load_checkpoint(run / name)["model"] for name in ("best.pth", "latest.pth")]
    return {
        "start": manifest["starts"][0]["digest"],
        "finished": finished,
        "losses and metrics": read_metrics(run),
        "chain": (run / "digests.jsonl").read_text(),
        "weights": [digest(state) for state in states],
    }


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_runs_are_equal_in_every_loss_metric_and_digest(whole, fresh, precision):
    flags = ("--precision", precision, "--digest_interval", "2", "--resume", "none")
    train(fresh, *flags)
    train(fresh, *flags)
    first, second = map(results, fresh.runs)
    assert first == second
    steps = [json.loads(line) for line in first["chain"].splitlines()]
    assert [line["step"] for line in steps if "weights" in line] == [2, 4, 6, 8, 9]
    assert steps[-1]["weights"] == first["finished"]["digests"]["weights"]
    assert len({line["weights"] for line in steps if "weights" in line}) == 5, "each step changes the weights"
    assert (first["finished"]["digests"] == whole.digests()) == (precision == "float32"), "the precision is in use"


# ---------------------------------------------------------------------------------------------- what changes no bit


@pytest.mark.parametrize(
    "flags",
    [
        ("--num_workers", "1", "--prefetch_factor", "1", "--pin_memory", "false"),
        ("--num_workers", "2", "--checkpoint_minutes", "0", "--print_interval", "4", "--digest_interval", "3"),
        ("--num_pictures", "3", "--prefetch_factor", "7", "--print_interval", "1000"),
    ],
    ids=" ".join,
)
def test_workers_prefetch_intervals_pictures_and_checkpoints_change_no_bit(whole, fresh, flags):
    train(fresh, *flags)
    assert fresh.digests() == whole.digests()
    last = [json.loads((run / "digests.jsonl").read_text().splitlines()[-1]) for run in (fresh.runs[0], whole.runs[0])]
    assert last[0] == last[1], "nor a loss of any step"


@pytest.mark.parametrize("interval", ["2", "100"])
def test_the_evaluation_interval_changes_no_weight(whole, fresh, interval):
    train(fresh, "--evaluation_interval", interval)
    assert fresh.digests() == whole.digests()
    evaluations = [line["epoch"] for line in read_metrics(fresh.runs[0]) if line["kind"] == "eval"]
    assert evaluations == ([2, 3] if interval == "2" else [3])


# ---------------------------------------------------------------------------------------------- streams


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A transform that writes what it draws, 8 random bytes, into the first pixels of the picture."""

    def __call__(self, sample, rng):
        sample.image[0, :8, 0] = rng.integers(0, 256, 8, dtype=np.uint8)
        return sample


def batches_of(whole: TinyExperiment, **changes) -> list:
    """This process's training batches of two epochs, by the settings of the tiny experiment with `changes`."""
    config = replace(load_experiment(whole.folder).config, **changes)
    task = DetectionTask(config=config, data_root=whole.data_root, device=CPU, limit_images=None)
    return list(task.train_batches(first_step=0, num_steps=6))


def stamps(whole: TinyExperiment, num_workers: int) -> list[bytes]:
    """What each sample of this process drew in two epochs."""
    transforms = (Resize(size=(64, 64), interpolation="nearest"), Stamp())
    batches = batches_of(whole, num_workers=num_workers, train_transforms=transforms, batch_transforms=())
    return [image[0, :8, 0].numpy().tobytes() for batch in batches for image in batch.images]


def test_two_workers_two_epochs_and_two_ranks_never_share_a_stream(whole):
    alone = stamps(whole, 2)
    assert len(set(alone)) == len(alone) == 24
    by_rank = run_processes(stamps, 2, whole, 0)
    assert len(by_rank[0]) == len(by_rank[1]) == 12
    assert sorted(by_rank[0] + by_rank[1]) == sorted(alone), "the same draws, whoever makes them"


def images_digest(batches: list) -> list[str]:
    return [hashlib.sha256(batch.images.numpy().tobytes()).hexdigest() for batch in batches]


def test_another_seed_gives_other_batches_weights_and_losses(whole, fresh):
    first, second = (batches_of(whole, seed=seed) for seed in (0, 1))
    assert images_digest(first) == images_digest(batches_of(whole, seed=0))
    assert not set(images_digest(first)) & set(images_digest(second))
    assert [batch.image_ids for batch in first] != [batch.image_ids for batch in second], "another order"
    train(fresh, "--seed", "1", "--max_steps", "1")
    ours, others = (results(run) for run in (fresh.runs[0], whole.runs[0]))
    assert ours["start"] != others["start"], "other initial weights"
    assert ours["losses and metrics"][0]["losses"] != others["losses and metrics"][0]["losses"]


class Masking(nn.Module):
    """A network with dropout that keeps the masks it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout, self.masks = nn.Conv2d(3, 1, 3), nn.Dropout(0.5), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.masks.append(self.dropout(torch.ones_like(x)))
        return x * self.masks[-1]


def masks_of(config, folder, num_steps: int) -> list[bytes]:
    random_streams.seed_torch(0, "model")
    model = Masking()
    trainer = make_trainer(replace(config, num_pictures=0, ema=None), model, folder)
    torch.rand(collectives.rank() + 3)  # what was drawn before a step does not matter
    run_steps(trainer, num_steps)
    return [mask.detach().numpy().tobytes() for mask in model.masks]


def masks_of_this_rank(folder_of_experiment, folder, num_steps: int) -> list[bytes]:
    return masks_of(load_experiment(folder_of_experiment).config, folder, num_steps)


def test_masks_follow_from_seed_step_and_rank_alone(config, experiment_folder, tmp_path):
    masks = masks_of(config, tmp_path, 4)
    assert masks == masks_of(config, tmp_path, 4)
    assert len(set(masks)) == 4, "each step has its own"
    assert not set(masks) & set(masks_of(replace(config, seed=1), tmp_path, 4)), "each seed too"
    ranks = run_processes(masks_of_this_rank, 2, experiment_folder, tmp_path, 4)
    assert len(set(ranks[0]) | set(ranks[1])) == 8, "and each rank"
