"""A whole experiment, as a user runs it: train, resume, extend, evaluate, detect; one process and several.

The first training, those from another folder and those by a launcher are started as a user starts them; the others are
forked (see `forked_training`).
"""

import json
import os
import shutil
import signal
import subprocess

import cv2
import pytest
import torch

import public
from public import random_streams
from public.checkpoint_files import digest, load_checkpoint
from public.inference import detector
from public.inference.places import find_weights
from public.models import create_model
from public.runs.experiment import load_experiment
from public.tasks.detection import DetectionTask
from public.training.reporter import Reporter
from tests.helpers import forked_training
from tests.helpers.experiments import ENVIRONMENT, REPOSITORY, TinyExperiment, read_manifest, read_metrics
from tests.helpers.forked_commands import run_python
from tests.helpers.numerics import assert_within_rounding
from tests.helpers.plain_steps import plain_steps
from tests.helpers.processes import run_processes
from tests.helpers.tiny_data import TINY_CLASSES, write_coco


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny experiment, trained once to its end."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("trained"))
    experiment.log = experiment.train()
    return experiment


@pytest.fixture(scope="module")
def first_losses(trained):
    """The loss terms of its first step, computed here without the trainer: single (float32) and double (float64)."""
    types = {"single": torch.float32, "double": torch.float64}
    return {name: plain_steps(trained, 1, dtype)[1][0] for name, dtype in types.items()}


class ForkedExperiment(TinyExperiment):
    """As `TinyExperiment`; without `launcher` and `cwd`, which only a command has, forked, in `world_size` processes."""

    def train(self, *flags: str, fails: bool = False, world_size: int = 1, **command) -> str:
        if command:
            return super().train(*flags, fails=fails, **command)
        return forked_training.train(self, *flags, status=int(fails), world_size=world_size)


@pytest.fixture
def fresh(trained, tmp_path):
    """A copy of the tiny experiment without runs, beside the same data."""
    copied = trained.copy(tmp_path)
    return ForkedExperiment(copied.folder, copied.data_root)


def test_run_folder_holds_everything(trained):
    (run,) = trained.runs
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and "tensorboard" not in p.parts}
    expected = {
        "config.json", "overrides.json", "manifest.json", "train.log", "metrics.jsonl", "latest.pth", "best.pth", "lock",
        "curves.png", "experiment/config.py", "experiment/loss.py", "experiment/train.py", "experiment/test.sh",
        "pictures/train_batch_0.jpg", "pictures/prediction_0.jpg",
    }  # fmt: skip
    assert expected <= names
    assert list((run / "tensorboard").glob("events*"))
    lines = read_metrics(run)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 10))
    assert [line["epoch"] for line in lines if line["kind"] == "eval"] == [1, 2, 3]
    manifest = read_manifest(run)
    assert manifest["finished"]["step"] == 9
    assert manifest["starts"][0]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert trained.log.startswith("starting from scratch")


def test_the_loss_of_the_experiment_itself_is_trained(trained, fresh):
    """Half the factor is half the loss at the first step: the folder's own loss and settings are in use."""
    config = fresh.folder / "config.py"
    config.write_text(config.read_text().replace("loss_factor=0.5", "loss_factor=0.25"))
    fresh.train("--max_steps", "1")
    first, second = read_metrics(trained.runs[0])[0], read_metrics(fresh.runs[0])[0]
    assert second["loss"] == first["loss"] / 2, "half of a binary number is exact"


def test_transforms_of_the_first_epochs_end_on_a_page(trained, fresh):
    """The flips of the page end with its second epoch: the steps before are those of the page without an end."""
    config = fresh.folder / "config.py"
    page = config.read_text()
    for old in ("RandomFlip(prob=0.5)", 'BatchRandomResize(sizes=(64, 96), interpolations=("linear", "nearest"))'):
        assert old in page
        page = page.replace(old, f"Until(epoch=2, transforms=({old},))")
    config.write_text(page.replace("\n\nfrom .loss", "\nfrom public.transforms.rules import Until\n\nfrom .loss"))
    fresh.train()
    whole, ended = ([line for line in read_metrics(e.runs[0]) if line["kind"] == "train"] for e in (trained, fresh))
    assert ended[:6] == whole[:6]
    assert ended[6]["loss"] != whole[6]["loss"]


def test_same_bits_twice_and_from_another_folder(trained, fresh):
    done = run_python(fresh.command()[1:], cwd=fresh.data_root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fresh.digests() == trained.digests()
    assert read_metrics(fresh.runs[0]) == read_metrics(trained.runs[0])


def test_workers_prefetch_and_print_interval_change_no_bit(trained, fresh):
    fresh.train("--num_workers", "2", "--prefetch_factor", "1", "--print_interval", "2")
    assert fresh.digests() == trained.digests()


def first_chain(experiment: TinyExperiment) -> tuple[int, str, str]:
    """(step, digest of its batch, chain of all losses so far) of the third step, the last of the first epoch."""
    line = json.loads((experiment.runs[0] / "digests.jsonl").read_text().splitlines()[2])
    return line["step"], line["batch"], line["chain"]


@pytest.mark.slow
def test_workers_of_a_system_without_fork_change_no_bit(trained, fresh, tmp_path):
    """As on macOS: each worker is a new interpreter, which has to find the classes of the experiment's own folder.

    One epoch: every start of an interpreter takes seconds.
    """
    config = fresh.folder / "config.py"
    page = config.read_text().replace("from public.transforms.flip import RandomFlip\n", "")
    config.write_text(page.replace("from .loss", "from .flip import RandomFlip\nfrom .loss"))
    lines = (
        "from dataclasses import dataclass\n\nfrom public.transforms import flip\n\n",
        "@dataclass(frozen=True, kw_only=True)\nclass RandomFlip(flip.RandomFlip):\n    pass\n",
    )
    (fresh.folder / "flip.py").write_text("".join(lines))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import multiprocessing\n\nmultiprocessing.set_start_method('spawn')\n"
    )
    done = subprocess.run(
        fresh.command("--num_workers", "1", "--max_steps", "3"),
        env=ENVIRONMENT | {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "multiprocessing/spawn.py" not in done.stderr
    assert first_chain(fresh) == first_chain(trained)
    assert read_metrics(fresh.runs[0]) == read_metrics(trained.runs[0])[:4]


def test_another_seed_gives_other_weights(trained, fresh):
    fresh.train("--seed", "1")
    assert fresh.digests()["weights"] != trained.digests()["weights"]


def kill_at_line(text: str) -> None:
    """A `change` of `Training`: it dies by SIGKILL at the moment its log says `text`."""
    say = Reporter.line

    def line(self, words):
        say(self, words)
        if text in words:
            os.kill(os.getpid(), signal.SIGKILL)

    Reporter.line = line


def kill_after(experiment: TinyExperiment, text: str, *flags: str) -> None:
    """Starts a run that is killed by SIGKILL at the moment its log says `text`."""
    forked_training.train(experiment, *flags, change=kill_at_line, change_args=(text,), status=-signal.SIGKILL)


@pytest.mark.parametrize("moment", ["step 5/", "step 6/", "after epoch 2"])
def test_killed_and_resumed_ends_in_the_same_bits(trained, fresh, moment):
    """In mid-epoch (checkpoints by time: at every step), around an evaluation, and right after it."""
    kill_after(fresh, moment, "--checkpoint_minutes", "0")
    log = fresh.train("--checkpoint_minutes", "0")
    assert log.startswith("resuming ")
    assert len(fresh.runs) == 1
    assert fresh.digests() == trained.digests()
    assert read_metrics(fresh.runs[0]) == read_metrics(trained.runs[0])
    assert len(read_manifest(fresh.runs[0])["starts"]) == 2


def test_resume_goes_by_equal_settings(trained, fresh):
    fresh.train("--max_steps", "4")
    assert read_manifest(fresh.runs[0])["finished"]["step"] == 4
    log = fresh.train("--max_steps", "4")
    assert log.startswith("starting from scratch"), "a finished run is not gone on with"
    kill_after(fresh, "step 4/", "--lr", "0.02")
    log = fresh.train("--lr", "0.03", "--max_steps", "1")
    assert "lr was 0.02, now 0.03" in log
    assert log.startswith("starting from scratch")


def test_named_resume_refuses_what_differs(trained, fresh):
    kill_after(fresh, "step 4/")
    (run,) = fresh.runs
    before = (run / "latest.pth").read_bytes()
    log = fresh.train("--resume", run.name, "--lr", "0.5", fails=True)
    assert "lr was 0.01, now 0.5" in log
    (fresh.folder / "loss.py").write_text((fresh.folder / "loss.py").read_text() + "\n# changed\n")
    log = fresh.train("--resume", run.name, fails=True)
    assert "experiment/loss.py was" in log
    assert (run / "latest.pth").read_bytes() == before
    assert "Traceback" not in log


def test_extended_run_is_a_new_run_and_equals_the_longer_one(trained, fresh):
    """Epochs only decide where this schedule ends, so 2 epochs extended by 1 are the 3 epochs of the whole run."""
    fresh.train("--epochs", "2")
    log = fresh.train("--epochs", "2", "--resume", fresh.runs[0].name, "--extend_epochs", "1")
    assert log.startswith("extending ")
    first, second = fresh.runs
    assert read_manifest(second)["extends"] == {"run": first.name, "step": 6}
    assert load_experiment(second).config.epochs == 3
    assert fresh.digests(second) == trained.digests()
    assert fresh.digests(first) != trained.digests()


def test_a_second_process_is_kept_out(fresh):
    training = forked_training.Training(fresh, "--epochs", "200")
    try:
        training.until("after epoch 1")
        (run,) = fresh.runs
        assert "another process is working on" in fresh.train("--epochs", "200", "--resume", run.name, fails=True)
        log = fresh.train("--epochs", "200", "--max_steps", "1")
        assert log.startswith("starting from scratch")
    finally:
        training.kill()


def test_two_processes_by_the_older_launcher(trained, fresh, first_losses):
    """The first losses are those of one process to rounding (same batch, same weights, whole-batch BatchNorm).

    torch.distributed.launch hands its processes their numbers as a flag; with --use-env it is torchrun, which starts two
    machines below, and in test_world_size a rank that was killed.
    """
    launcher = ("-m", "torch.distributed.launch", "--nproc_per_node=2", f"--master-port={29500 + os.getpid() % 400}")
    log = fresh.train("--max_steps", "3", launcher=launcher)
    one, two = read_metrics(trained.runs[0])[:4], read_metrics(fresh.runs[0])
    assert two[0]["losses"].keys() == one[0]["losses"].keys() == first_losses["single"].keys()
    values = {name: list(terms.values()) for name, terms in first_losses.items()}
    for ours in (one, two):
        assert_within_rounding(list(ours[0]["losses"].values()), values["double"], **values, cap=1e-5)
    assert [line["step"] for line in two] == [line["step"] for line in one]
    assert log.count("starting from scratch") == 1, "rank 0 alone prints"
    assert read_manifest(fresh.runs[0])["starts"][0]["processes"] == 2


def test_test_sh_prints_the_digits_of_training(trained, tmp_path):
    environment = ENVIRONMENT | {"PYTHON": trained.command()[0]}
    script = [str(trained.folder / "test.sh"), "--data_root", str(trained.data_root), "--device", "cpu"]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    (run,) = trained.runs
    best = load_checkpoint(run / "best.pth")
    for name in ("voc_AP50", "voc07_AP50"):
        assert f"{name}: {best['metrics'][name]:.6f}" in done.stdout
    assert f"= {best['metrics']['AP']:.3f}" in done.stdout
    assert best["digest"][:16] in done.stdout
    found = json.loads((run / "best_val_detections.json").read_text())
    assert {d["image_id"] for d in found} <= {f"val_{i:04d}" for i in range(5)}


def test_detection_of_one_image(trained, tmp_path):
    """By the script from anywhere, and by public.load: the same boxes; the classes' names come with the weights."""
    (run,) = trained.runs
    image = trained.data_root / "tiny" / "JPEGImages" / "val_0000.png"
    script = REPOSITORY / "public" / "test_scripts" / "detect_single_image.sh"
    environment = ENVIRONMENT | {"PYTHON": trained.command()[0]}
    command = [str(script), str(trained.folder), str(image), "--score_threshold", "0.001", "--output", "found.jpg"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert cv2.imread(str(tmp_path / "found.jpg")) is not None
    found = public.load(run / "best.pth", device="cpu")(str(image), 0.001)
    assert f"{len(found['names'])} objects" in done.stdout
    assert found["boxes"].shape == (len(found["names"]), 4)
    assert set(found["names"]) <= {"bird", "cat", "dog"}
    nothing = public.load(run / "best.pth", device="cpu")(str(image), 1.0)
    assert nothing["boxes"].shape == (0, 4)


def test_a_run_and_an_experiment_stand_for_their_best_weights(trained, fresh, tmp_path):
    image = next((trained.data_root / "tiny" / "JPEGImages").glob("val_*.png"))
    scores = [
        public.load(place, "cpu")(image)["scores"].tolist()
        for place in (trained.runs[0] / "best.pth", trained.runs[0], str(trained.folder))
    ]
    assert scores[0] == scores[1] == scores[2] != []
    for weights in (None, trained.runs[0], trained.runs[0] / "best.pth"):  # as the commands are given them
        experiment, path = find_weights(str(trained.folder), weights and str(weights))
        assert (experiment.run, path) == (trained.runs[0], trained.runs[0] / "best.pth")
    with pytest.raises(FileNotFoundError, match=r"has no best\.pth yet"):
        public.load(fresh.folder)
    with pytest.raises(FileNotFoundError, match="neither an experiment's folder"):
        public.load(tmp_path)


BACKBONE = """
    def build_model(self, **how):
        return super().build_model(backbone=create_model("lcnet_035", features_only=True), **how)
"""


def test_a_detector_on_another_backbone_is_rebuilt_from_its_run(fresh, tmp_path):
    """No setting says so: the run's copy of the folder does."""
    page = (fresh.folder / "config.py").read_text()
    page = page.replace("    loss_factor: float\n", f"    loss_factor: float\n{BACKBONE}", 1)
    page = page.replace("from public.config", "from public.models import create_model\nfrom public.config", 1)
    (fresh.folder / "config.py").write_text(page)
    fresh.train("--max_steps", "1")
    run = shutil.copytree(fresh.runs[0], tmp_path / "moved" / "run")
    shutil.rmtree(fresh.folder)
    model = detector.load(run / "best.pth", "cpu").model  # as it was trained; public.load fuses it
    assert public.load(run, "cpu").class_names == TINY_CLASSES
    assert set(model.backbone.out_channels) < set(create_model("lcnet_035", features_only=True).out_channels)
    assert digest(model.state_dict()) == read_manifest(run)["finished"]["digests"]["ema"]


def test_own_settings_are_not_called_like_the_librarys(fresh):
    """Moved out of its run, their checkpoint would be opened by the library's."""
    page = (fresh.folder / "config.py").read_text()
    page = page.replace("from public.families.ppyoloe import PPYOLOE", "from public.families import ppyoloe")
    page = page.replace("HalfPPYOLOE(PPYOLOE)", "PPYOLOE(ppyoloe.PPYOLOE)").replace("HalfPPYOLOE", "PPYOLOE")
    (fresh.folder / "config.py").write_text(page)
    log = fresh.train(fails=True)
    assert log.startswith("error: the class PPYOLOE of ")
    assert "has the name of the library's own settings; call it otherwise" in log
    assert fresh.runs == []


def test_weights_moved_out_of_their_run_need_their_experiment(trained, tmp_path):
    """The settings are the experiment's own class, which no checkpoint can carry."""
    moved = tmp_path / "moved.pth"
    shutil.copy(trained.runs[0] / "best.pth", moved)
    with pytest.raises(ValueError, match="HalfPPYOLOE"):
        public.load(moved)
    settings = load_experiment(trained.folder).config.detector
    detector = public.inference.detector.load(moved, "cpu", settings)
    assert detector.class_names == ("bird", "cat", "dog")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains(trained, fresh, precision):
    """Near the float32 run at the first step, and not equal to it: the mode is in use."""
    fresh.train("--precision", precision, "--channels_last", "true", "--max_steps", "2")
    ours, plain = read_metrics(fresh.runs[0]), read_metrics(trained.runs[0])
    assert ours[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.02)  # 5 steps of bf16
    assert ours[0]["loss"] != plain[0]["loss"]


def test_accumulation_takes_every_micro_batch(fresh):
    """With BatchNorm on its running statistics a micro-batch of one image has the loss of that image alone."""
    config = fresh.folder / "config.py"
    config.write_text(
        config.read_text().replace("freeze_batchnorm=()", 'freeze_batchnorm=("backbone", "neck", "head")')
    )
    losses = []
    for flags in ((), ("--accumulate", "4"), ("--batch_size", "1")):
        fresh.train(*flags, "--max_steps", "1", "--resume", "none")
        losses.append(read_metrics(fresh.runs[-1])[0]["losses"])
    whole, parts, first = losses
    assert parts != whole, "each part is normalised by its own objects"
    assert parts != first, "all four parts count, not one"


def test_early_stop(fresh):
    """The tiny network finds nothing yet: an evaluation brings no new best, and one is all it may wait."""
    fresh.train("--epochs", "9", "--early_stop", "1")
    finished = read_manifest(fresh.runs[0])["finished"]
    evaluations = [line["metrics"]["AP"] for line in read_metrics(fresh.runs[0]) if line["kind"] == "eval"]
    assert finished["step"] == 3 * len(evaluations) < 27
    assert evaluations[-1] <= max(evaluations[:-1])


def test_freezing_weights_and_batchnorm_statistics_apart(fresh):
    """Frozen weights stay, their statistics move; frozen statistics stay, their weights move; the rest moves."""
    config = fresh.folder / "config.py"
    text = config.read_text().replace("freeze=()", 'freeze=("backbone.stem",)')
    config.write_text(text.replace("freeze_batchnorm=()", 'freeze_batchnorm=("neck",)'))
    fresh.train("--max_steps", "4")
    after = load_checkpoint(fresh.runs[0] / "latest.pth")["training"]["raw_model"]
    settings = load_experiment(fresh.runs[0]).config
    random_streams.seed_torch(settings.seed, "model")
    before = settings.detector.build_model().state_dict()

    def moved(beginning: str, kind: str) -> set[bool]:
        names = [n for n in before if n.startswith(beginning) and n.endswith(kind)]
        return {not torch.equal(before[name], after[name]) for name in names}

    assert moved("backbone.stem", "conv.weight") == moved("backbone.stem", "bn.weight") == {False}
    assert moved("backbone.stem", "running_mean") == {True}
    assert moved("neck", "running_mean") == moved("neck", "running_var") == {False}
    assert moved("neck", "conv.weight") == {True}
    assert True in moved("neck", "bn.weight")  # after 4 steps some have moved by less than float32 can add to 1
    assert moved("head", "running_mean") == moved("backbone.stages", "conv.weight") == {True}


def test_out_of_memory_says_what_fits(fresh):
    """Above three images the loss raises what torch raises without memory; the message names three, found by trying."""
    loss = fresh.folder / "loss.py"
    limit = "        if len(targets) > 3:\n            raise torch.OutOfMemoryError\n        return {"
    loss.write_text("import torch\n" + loss.read_text().replace("        return {", limit))
    log = fresh.train("--batch_size", "8", fails=True)
    assert "out of GPU memory with 8 images at once on each process; 3 fit" in log
    assert "--batch_size 3" in log
    assert "--accumulate 4" in log


def test_coco_data(fresh, tmp_path):
    """The same experiment on a COCO json with sparse ids, crowd and an empty image; results carry the data's own ids."""
    for split, seed in (("train", 1), ("val", 2)):
        write_coco(tmp_path / "coco", annotations=f"{split}.json", images=split, num_images=9, seed=seed)
    config = fresh.folder / "config.py"
    text = config.read_text().replace("from public.datasets.voc import Voc", "from public.datasets.coco import Coco")
    for split in ("train", "val"):
        old = f'Voc(sources=("tiny/{split}",), classes=None, use_difficult=True, keep_empty_images=True)'
        assert old in text
        new = f'Coco(annotations="{split}.json", images="{split}", classes=None, keep_empty_images=True)'
        text = text.replace(old, new)
    config.write_text(text)
    fresh.data_root = tmp_path / "coco"
    fresh.train("--epochs", "1")
    best = load_checkpoint(fresh.runs[0] / "best.pth")
    assert best["class_names"] == list(TINY_CLASSES)
    place = ("--data_root", fresh.data_root, "--device", "cpu")
    done = run_python(["-m", "public.test_scripts.evaluate", fresh.folder, *place])
    assert done.returncode == 0, done.stderr
    found = json.loads((fresh.runs[0] / "best_val_detections.json").read_text())
    assert {d["category_id"] for d in found} <= {3, 17, 90}
    assert {d["image_id"] for d in found} <= {10 + 7 * i for i in range(9)}


def evaluate_on_this_rank(run, data_root):
    config = load_experiment(run).config
    task = DetectionTask(config=config, data_root=data_root, device=torch.device("cpu"), limit_images=None)
    model = config.detector.build_model()
    model.load_state_dict(load_checkpoint(run / "best.pth")["model"])
    metrics = task.evaluate(model)
    return {name: value for name, value in metrics.items() if not name.endswith("_ms")}, len(task.detections)


def test_evaluation_over_processes_gives_the_same_digits(trained):
    """Batches of 3 of 5 images on 1, 2 and 3 processes, one of which has nothing to do; each image counts once."""
    (run,) = trained.runs
    alone, count = evaluate_on_this_rank(run, trained.data_root)
    assert count == 5
    for world_size in (2, 3):
        results = run_processes(evaluate_on_this_rank, world_size, run, trained.data_root)
        assert [metrics for metrics, _ in results] == [alone] * world_size
        assert results[0][1] == 5


@pytest.mark.slow
def test_two_machines_by_torchrun(trained, fresh):
    """Two launchers that meet on the loopback, as two machines do, give what two processes of one machine give."""
    port = str(29500 + os.getpid() % 400)
    machines = []
    for rank in ("0", "1"):
        place = ("--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1")
        meet = ("--master_addr=127.0.0.1", f"--master_port={port}")
        command = fresh.command("--max_steps", "4", launcher=("-m", "torch.distributed.run", *place, *meet))
        machines.append(subprocess.Popen(command, env=ENVIRONMENT, cwd=fresh.folder, stdout=subprocess.DEVNULL))
    assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    two_machines = fresh.digests()
    fresh.train("--max_steps", "4", "--resume", "none", world_size=2)
    assert fresh.digests() == two_machines


def test_clipping_bounds_the_gradient_and_changes_the_weights(trained, fresh):
    fresh.train("--clip_norm", "0.1", "--max_steps", "3")
    norms = [line["gradient_norm"] for line in read_metrics(fresh.runs[0]) if line["kind"] == "train"]
    assert all(norm > 0.1 for norm in norms)
    ours = load_checkpoint(fresh.runs[0] / "latest.pth")["training"]["raw_model"]
    fresh.train("--max_steps", "3")
    free = load_checkpoint(fresh.runs[-1] / "latest.pth")["training"]["raw_model"]
    assert any(not torch.equal(ours[name], free[name]) for name in ours)


def test_data_errors_stop_before_the_first_step(trained, fresh):
    config = fresh.folder / "config.py"
    config.write_text(config.read_text().replace("num_classes=3", "num_classes=4"))
    log = fresh.train(fails=True)
    assert "has 3 classes (bird, cat, dog)" in log
    assert "num_classes = 4" in log
    assert not fresh.runs
    config.write_text(
        config.read_text().replace("num_classes=4", "num_classes=3").replace("batch_size=4", "batch_size=15")
    )
    assert "14 images, fewer than one batch of 15" in fresh.train(fails=True)


def test_batch_not_divisible_by_the_processes(fresh):
    log = fresh.train("--batch_size", "5", world_size=2, fails=True)
    assert "batch_size 5 cannot be split evenly over 2 processes" in log


def test_a_loss_that_is_not_finite_stops_and_says_where(fresh):
    loss = fresh.folder / "loss.py"
    broken = "(float('nan') if (progress.step, name) == (4, 'loss_iou') else self.factor) * term"
    loss.write_text(loss.read_text().replace("self.factor * term", broken))
    log = fresh.train(fails=True)
    assert "the loss is not finite at step 4" in log
    assert "loss_iou" in log
    (saved,) = fresh.runs[0].glob("not_finite_*.pth")
    batch = torch.load(saved, weights_only=True)
    assert batch["images"].shape[0] == 4
    assert all(f"'{name}'" in log for name in batch["image_ids"])
    assert load_checkpoint(fresh.runs[0] / "latest.pth")["training"]["step"] == 3, "the checkpoint before is kept"


def test_a_corrupt_image_is_named(fresh, tmp_path):
    data_root = tmp_path / "data"
    shutil.copytree(fresh.data_root, data_root)
    broken = data_root / "tiny" / "JPEGImages" / "train_0003.png"
    broken.write_bytes(broken.read_bytes()[:100])
    fresh.data_root = data_root
    assert str(broken) in fresh.train("--num_workers", "1", fails=True)
