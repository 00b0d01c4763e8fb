"""Networks that are quantised or pruned while they are trained, or narrower: exact, resumed, evaluated, in two processes."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from public import random_streams
from public.checkpoint_files import load_checkpoint
from public.runs.experiment import load_experiment
from public.test_scripts import flops
from public.training.run import build_state
from tests.helpers.changed_experiments import (
    QUANTISED,
    SLIMMED,
    TAUGHT,
    create,
    tiny_learned,
    tiny_pruned,
    tiny_quantised,
    tiny_slimmed,
)
from tests.helpers.crash_harness import Harness, differences
from tests.helpers.experiments import read_manifest
from tests.helpers.forked_commands import run_test_sh
from tests.helpers.forked_training import train
from tests.helpers.plain_steps import plain_steps
from tests.helpers.processes import run_processes
from tests.helpers.tiny_data import TINY_CLASSES
from tests.training.test_world_size import distance, rounding_after

SHORT = ("--epochs", "2", "--num_pictures", "0")
KINDS = {"quantised": tiny_quantised, "pruned": tiny_pruned, "slimmed": tiny_slimmed}
ZEROS = {"quantised": (80, 95), "pruned": (20, 60), "slimmed": (80, 95)}  # percent of the MACs by other weights


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """The name of a kind, a tiny experiment of it, a harness, and a run that nothing disturbed."""
    experiment = KINDS[request.param](tmp_path_factory.mktemp(request.param))
    experiment.free = (
        ("--num_workers", ("2",)),
    )  # of the runs that are killed; the one that nothing disturbs has none
    harness = Harness(experiment, np.random.default_rng(3), flags=SHORT)
    return request.param, experiment, harness, harness.undisturbed()


def test_a_killed_run_ends_in_the_same_bits(whole):
    """Each kill is a resume: of ranges and their shares, of masks, and of what follows from the epoch.

    And pictures come from two loader processes.
    """
    _, _, harness, reference = whole
    run, spent = harness.killed_until_it_ends(2, ("a step has its gradient", "epoch 1 begins"))
    assert spent == 2
    found = differences(reference, run)
    shutil.rmtree(run)
    assert found == []


def test_what_a_run_leaves(whole):
    kind, _, _, reference = whole
    checkpoint = load_checkpoint(reference / "latest.pth")
    raw, used = checkpoint["training"]["raw_model"], checkpoint["model"]
    if kind == "quantised":
        seen = [value for name, value in raw.items() if name.endswith(".seen")]
        assert len(seen) > 20
        assert all(float(value) == pytest.approx(1 - 0.9**3) for value in seen), "three steps of the first epoch"
        return
    if kind == "slimmed":
        shapes = {name: tuple(value.shape) for name, value in used.items()}
        assert shapes["backbone.stem.conv2.conv.weight"] == (3, 4, 3, 3)
        assert shapes["backbone.stem.conv3.conv.weight"] == (8, 3, 3, 3)
        assert shapes["backbone.stages.1.attn.fc.weight"] == (12 + 9, 12 + 9, 1, 1)
        assert shapes["head.pred_cls.0.weight"] == (3, 60, 3, 3)
        assert shapes == {name: tuple(value.shape) for name, value in raw.items()}
        return
    assert load_checkpoint(reference / "best.pth")["step"] == 6, "after the first of two epochs not all masks are set"
    masks = {name: value for name, value in raw.items() if name.endswith(".mask")}
    assert len(masks) > 10
    assert not any(name.startswith("backbone.stem") for name in masks)
    for name, mask in masks.items():
        weight = name.replace(".mask", ".weight")
        assert int((~mask).sum()) == round(0.75 * mask.numel())
        assert torch.equal(used[name], mask)
        assert not raw[weight][~mask].any()
        assert not used[weight][~mask].any()
        assert (raw[weight][mask] != 0).float().mean() > 0.99


def test_macs_by_zeros_are_not_counted(whole, capsys, monkeypatch):
    kind, _, _, reference = whole
    monkeypatch.setattr("sys.argv", ["flops", str(reference), "--weights", str(reference / "best.pth"), "--fuse"])
    flops.main()
    told = capsys.readouterr().out
    share = float(re.search(r"effective: .* not zero, ([\d.]+)% of the dense ones", told)[1])
    assert ZEROS[kind][0] < share < ZEROS[kind][1], "layers of distances start at 0 and have not moved"


def test_the_weights_are_evaluated_as_the_training_evaluated_them(whole):
    _, experiment, _, reference = whole
    report = run_test_sh(experiment, "--no_report")
    assert f"voc_AP50: {read_manifest(reference)['finished']['metrics']['voc_AP50']:.6f}" in report


@pytest.mark.slow
def test_learnt_ranges_go_on_where_a_run_was_killed(tmp_path):
    """Between two epochs in which they are learnt: with the optimizer's state of factors that had none in the first."""
    experiment = tiny_learned(tmp_path)
    experiment.free = (("--num_workers", ("0",)),)
    harness = Harness(experiment, np.random.default_rng(3), flags=("--epochs", "3", "--num_pictures", "0"))
    reference = harness.undisturbed()
    run, spent = harness.killed_until_it_ends(1, ("epoch 2 begins",))
    assert spent == 1
    assert differences(reference, run) == []
    used = load_checkpoint(reference / "latest.pth")["model"]
    factors = [value for name, value in used.items() if ".factors." in name]
    assert len(factors) > 40
    assert sum(bool(value.any()) for value in factors) > 30, "a low end of 0, which ReLU has, has nothing to learn"
    report = run_test_sh(experiment, "--no_report")
    assert f"voc_AP50: {read_manifest(run)['finished']['metrics']['voc_AP50']:.6f}" in report


def four_steps_in_float64(experiment) -> dict[str, torch.Tensor]:
    return plain_steps(experiment, 4, torch.float64, lr=0.01)[0]


def test_two_processes_learn_the_same_ranges(tmp_path):
    """To the bit in both, and to rounding as one process does; in the last of four steps they are learnt."""
    experiment = tiny_learned(tmp_path)
    alone = four_steps_in_float64(experiment)
    first, second = run_processes(four_steps_in_float64, 2, experiment)
    factors = [name for name in alone if ".factors." in name]
    assert len(factors) > 40
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert distance({name: first[name] for name in factors}, {name: alone[name] for name in factors}) < 1e-9


def two_steps_in_float64(experiment) -> dict[str, torch.Tensor]:
    return plain_steps(experiment, 2, torch.float64, lr=0.01)[0]


def test_two_processes_agree_to_rounding(whole, tmp_path):
    """What is quantised in float64, since a value halfway between two levels goes to either by float32's last bit."""
    kind, experiment, _, _ = whole
    fresh, states = experiment.copy(tmp_path), []
    if kind == "quantised":
        alone = two_steps_in_float64(fresh)
        for state in run_processes(two_steps_in_float64, 2, fresh):
            assert distance(state, alone) < 1e-9
        return
    for world_size in (1, 2):
        train(fresh, "--max_steps", "2", "--resume", "none", "--num_pictures", "0", world_size=world_size)
        states.append(load_checkpoint(fresh.runs[-1] / "latest.pth")["training"]["raw_model"])
    assert distance(states[1], states[0]) < rounding_after(fresh, 2, cap=1e-5)
    masks = [name for name in states[0] if name.endswith(".mask")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in masks)


def test_starting_weights_are_those_of_the_network_before_it_was_changed(whole, tmp_path):
    """By name: also those of blocks whose branches become one convolution."""
    _, experiment, _, _ = whole
    config = load_experiment(experiment.folder).config
    random_streams.seed_torch(7, "model")
    bare = config.detector.network.build_model()
    path = tmp_path / "bare.pth"
    torch.save({"model": bare.state_dict(), "model_name": "bare", "num_classes": 3}, path)
    state, notes = build_state(replace(config, starting_weights=str(path)), torch.device("cpu"), TINY_CLASSES)
    assert any("bare.pth" in note for note in notes)
    expected = config.detector.prepare(bare).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in state.model.state_dict().items())


@pytest.mark.parametrize("kind", ["quantised", "slimmed"])
def test_the_network_before_it_was_changed_can_be_the_teacher(kind, tmp_path):
    """Ranges are seen beside a teacher, adapters fit the narrower maps, and the student learns of both."""
    text = TAUGHT if kind == "quantised" else TAUGHT.replace(QUANTISED, SLIMMED)
    experiment = create(tmp_path, text)
    state, losses = plain_steps(experiment, 1, torch.float32, lr=0.01)
    assert losses[0]["loss_feature"] > 0
    if kind == "quantised":
        seen = [value for name, value in state.items() if name.endswith(".seen")]
        assert len(seen) > 20
        assert all(float(value) == pytest.approx(0.1) for value in seen)
    else:
        assert state["adapters.0.align.weight"].shape[1] == 60
    config = load_experiment(experiment.folder).config
    assert config.used_settings is config.detector.student


def test_activations_of_a_quantised_network_are_not_computed_again(whole):
    """Its ranges would move twice, and BatchNorm's statistics, which are folded into the weights, have moved in between."""
    kind, experiment, _, _ = whole
    config = replace(load_experiment(experiment.folder).config, recompute_activations=True)
    if kind == "quantised":
        with pytest.raises(ValueError, match="recompute_activations is true and the network is Quantised"):
            build_state(config, torch.device("cpu"), TINY_CLASSES)
    else:
        _, notes = build_state(config, torch.device("cpu"), TINY_CLASSES)
        assert any("computed again" in note for note in notes)
