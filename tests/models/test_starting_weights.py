"""Starting weights in training: what is taken over, what is not, and what is said where they are missing."""

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from public import random_streams
from public.checkpoint_files import digest, save_atomic
from public.models import create_model
from public.runs import starting_experiment
from public.training.run import build_state
from public.weights.known import KNOWN
from public.weights.load import check_keywords, find_starting_weights, load_starting_weights
from tests.helpers.places import HELPERS

CPU = torch.device("cpu")


@pytest.fixture
def model():
    random_streams.seed_torch(1, "model")
    return create_model("ppyoloe_xs", num_classes=3, use_alpha=True)


def random_state(num_classes: int = 3, *, use_alpha: bool = True) -> dict[str, torch.Tensor]:
    """A state dict of the model's shapes without a value that a new model has."""
    state = create_model("ppyoloe_xs", num_classes=num_classes, use_alpha=use_alpha).state_dict()
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(value.shape, generator=generator) + 2 if value.is_floating_point() else value + 5
        for name, value in state.items()
    }


def save(path, state, **entries):
    save_atomic({"model": state, "num_classes": 3, "class_names": ["a", "b", "c"], **entries}, path)
    return path


def without(state, ending):
    return {name: value for name, value in state.items() if not name.endswith(ending)}


def backbone_of(state):
    return {name: value for name, value in state.items() if name.startswith("backbone.")}


# ---------------------------------------------------------------------------------------------- whole detectors


def test_a_file_without_factors_leaves_them_at_1(tmp_path, model):
    """The learnt factors are reported by name; everything else is the file's."""
    state = random_state()
    bare = without(state, ".alpha")
    factors = [name for name in state if name.endswith(".alpha")]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in factors:
                value.fill_(9)  # whatever was there before
    (line,) = load_starting_weights(model, save(tmp_path / "x.pth", bare))
    assert line == f"{len(factors)} learnt factors that the file lacks are 1: {', '.join(factors)}"
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], torch.ones(1)) for name in factors)
    assert all(torch.equal(loaded[name], value) for name, value in bare.items())


def test_factors_that_the_model_does_not_know_are_an_error(tmp_path):
    plain = create_model("ppyoloe_xs", num_classes=3)
    before = digest(plain.state_dict())
    with pytest.raises(ValueError, match=r"does not know \['backbone\.stages\.0\.blocks\.0\.conv2\.alpha'"):
        load_starting_weights(plain, save(tmp_path / "x.pth", random_state()))
    assert digest(plain.state_dict()) == before


def test_class_layers_and_factors_in_one(tmp_path, model):
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    state = without(random_state(80), ".alpha")
    lines = load_starting_weights(model, save(tmp_path / "x.pth", state, num_classes=80))
    assert len(lines) == 7
    assert lines[0] == "head.pred_cls.0.weight: (80, 192, 3, 3) in the file, (3, 192, 3, 3) here; initial values kept"
    for name, value in model.state_dict().items():
        if name.endswith(".alpha"):
            assert value == 1
        else:
            assert torch.equal(value, initial[name] if "pred_cls" in name else state[name]), name


def test_class_layers_of_as_many_other_classes_are_reported(tmp_path, model, config):
    """No shape shows that they were trained for other names, or for these in another order."""
    path = save(tmp_path / "x.pth", random_state())
    assert load_starting_weights(model, path, class_names=("a", "b", "c")) == []
    (line,) = load_starting_weights(model, path, class_names=("a", "c", "b"))
    assert line.endswith("but 2 of 3 classes have other names or places in the file: b -> c, c -> b")
    unnamed = save(tmp_path / "y.pth", random_state(), class_names=[])
    assert load_starting_weights(model, unnamed, class_names=("a", "c", "b")) == []
    names = [f"class_{number}" for number in range(config.detector.num_classes)]
    path = save(
        tmp_path / "z.pth", config.detector.build_model().state_dict(), num_classes=len(names), class_names=names
    )
    _, notes = build_state(replace(config, starting_weights=str(path)), CPU, (*names[:-1], "other"))
    assert any(f"1 of {len(names)} classes" in line and line.endswith(f"{names[-1]} -> other") for line in notes)


# ---------------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("holds", ["a detector", "a backbone"])
def test_backbone_only_takes_the_backbone_and_nothing_else(tmp_path, model, holds):
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    state = random_state(80)
    if holds == "a backbone":
        path = save(tmp_path / "x.pth", backbone_of(state), part="backbone", num_classes=None)
    else:
        path = save(tmp_path / "x.pth", state, num_classes=80)
    (line,) = load_starting_weights(model, path, backbone_only=True)
    names = set(backbone_of(state))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name] if name in names else initial[name]), name
    count = sum(p.numel() for p in model.backbone.parameters())
    unused = 0 if holds == "a backbone" else len(state) - len(names)
    assert line.startswith(f"the backbone alone: {len(names)} arrays, {count:,} of the model's")
    assert f"{unused} arrays of the file are not used" in line


def test_backbone_only_checks_the_backbone(tmp_path, model):
    before = digest(model.state_dict())
    state = random_state()
    cut = {**state, "backbone.stem.conv1.conv.weight": torch.zeros(2, 3, 3, 3)}
    with pytest.raises(
        ValueError, match=r"backbone\.stem\.conv1\.conv\.weight has shape \(2, 3, 3, 3\), the model's has \(8"
    ):
        load_starting_weights(model, save(tmp_path / "x.pth", cut), backbone_only=True)
    with pytest.raises(ValueError, match=r"it lacks \['backbone\.stages\.0\.attn\.fc\.bias'"):
        load_starting_weights(model, save(tmp_path / "x.pth", without(state, "attn.fc.bias")), backbone_only=True)
    neck = {name: value for name, value in state.items() if name.startswith("neck.")}
    with pytest.raises(ValueError, match=r"x\.pth has 0, the model has"):
        load_starting_weights(model, save(tmp_path / "x.pth", neck), backbone_only=True)
    assert digest(model.state_dict()) == before
    lines = load_starting_weights(model, save(tmp_path / "x.pth", without(state, ".alpha")), backbone_only=True)
    assert "learnt factors that the file lacks are 1" in lines[1]


def test_a_backbone_for_a_whole_detector_is_an_error_that_says_what_to_set(tmp_path, model):
    path = save(tmp_path / "x.pth", backbone_of(random_state()), part="backbone", num_classes=None)
    with pytest.raises(ValueError, match=r"x\.pth holds a backbone alone.*--backbone_only true"):
        load_starting_weights(model, path)


# ---------------------------------------------------------------------------------------------- a configuration


def test_training_starts_from_what_the_configuration_names(tmp_path, config):
    """Whole weights; the backbone alone, beside the initial values of the seed; or nothing."""
    scratch, _ = build_state(replace(config, starting_weights=None), CPU)
    initial = {name: value.clone() for name, value in scratch.model.state_dict().items()}
    state = {n: value + 1 if value.is_floating_point() else value for n, value in initial.items()}
    path = save(tmp_path / "start.pth", state, num_classes=config.detector.num_classes)
    named = replace(config, starting_weights=str(path))
    whole, notes = build_state(named, CPU)
    assert digest(whole.model.state_dict()) == digest(state)
    assert notes[0] == "starting from start.pth"
    part, notes = build_state(replace(named, backbone_only=True), CPU)
    for name, value in part.model.state_dict().items():
        assert torch.equal(value, (state if name.startswith("backbone.") else initial)[name]), name
    assert notes[1].startswith("the backbone alone: ")


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_missing_known_file_says_what_to_put_there_and_how(known):
    path = f"pretrained/{known.name}"
    try:
        assert find_starting_weights(path).name == known.name
    except FileNotFoundError as error:
        message = str(error)
    else:
        pytest.skip(f"{path} is here")
    assert path in message
    for part in (known.original, known.url, f"run: {known.command}.", "--starting_weights none"):
        assert part in message


def test_a_missing_file_of_ones_own(config):
    with pytest.raises(
        FileNotFoundError, match=r"runs/mine\.pth, which are not there\. Put a checkpoint there: best\.pth"
    ):
        build_state(replace(config, starting_weights="runs/mine.pth"), CPU)


# ---------------------------------------------------------------------------------------------- an experiment


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two experiments, of which `tiny_shapes` stands in two places under one name."""
    for name in (
        "detection_experiments/tiny_coco",
        "detection_experiments/tiny_shapes",
        "other_experiments/tiny_shapes",
    ):
        shutil.copytree(HELPERS / "tiny_experiment", tmp_path / name, ignore=shutil.ignore_patterns("runs"))
    monkeypatch.setattr(starting_experiment, "REPOSITORY", tmp_path)
    return tmp_path


def add_run(repository, config, *, name: str, value: float, finished: bool = True):
    """The folder of a run of tiny_coco whose best weights are all `value`."""
    run = repository / "detection_experiments/tiny_coco/runs" / name
    run.mkdir(parents=True)
    state = {n: torch.full_like(v, value) for n, v in config.detector.build_model().state_dict().items()}
    save(run / "best.pth", state, num_classes=config.detector.num_classes)
    (run / "manifest.json").write_text(json.dumps({"finished": {"step": 9} if finished else None}))
    return run


@pytest.mark.parametrize("name", ["detection_experiments/tiny_coco", "tiny_coco", "absolute"])
def test_an_experiment_means_the_best_weights_of_its_newest_run(repository, config, name):
    for number, folder in enumerate(("20260101-000000", "20260102-000000")):
        run = add_run(repository, config, name=folder, value=number + 1.0)
        os.utime(run / "best.pth", (1000 + number, 1000 + number))
    name = str(repository / "detection_experiments/tiny_coco") if name == "absolute" else name
    state, notes = build_state(replace(config, starting_weights=name), CPU)
    assert all((value == 2).all() for value in state.model.state_dict().values())
    assert notes[0] == "starting from detection_experiments/tiny_coco/runs/20260102-000000/best.pth"


def test_a_run_that_is_not_finished_is_told_of(repository, config):
    add_run(repository, config, name="20260101-000000", value=1.0, finished=False)
    _, notes = build_state(replace(config, starting_weights="tiny_coco"), CPU)
    assert notes[0].endswith("20260101-000000/best.pth, the best so far of a run that is not finished")


def test_an_experiment_without_weights_says_what_to_run_first(repository, config):
    (repository / "detection_experiments/tiny_coco/runs/20260101-000000").mkdir(parents=True)  # stopped too early
    with pytest.raises(
        FileNotFoundError,
        match=r"best weights of detection_experiments/tiny_coco, which has none yet\. "
        r"Run it first: python detection_experiments/tiny_coco/train\.py; .*--starting_weights none",
    ):
        build_state(replace(config, starting_weights="tiny_coco"), CPU)


def test_a_name_that_is_no_experiment_or_two(repository, config):
    with pytest.raises(
        FileNotFoundError, match=r"tiny_cocoa, which is neither an experiment \(near: tiny_coco.* ending"
    ):
        build_state(replace(config, starting_weights="tiny_cocoa"), CPU)
    with pytest.raises(
        ValueError, match=r"detection_experiments/tiny_shapes and other_experiments/tiny_shapes; name the folder"
    ):
        build_state(replace(config, starting_weights="tiny_shapes"), CPU)


def test_a_file_is_a_file_whatever_its_name(repository, tmp_path):
    (tmp_path / "weights").touch()
    for name in ("weights", str(tmp_path / "weights"), "pretrained/ppyoloe_s_coco.pth", "runs/mine.pth"):
        assert starting_experiment.named_experiment(name) is None


# ---------------------------------------------------------------------------------------------- keywords


def test_keywords_that_the_weights_need_stand_in_the_options(tmp_path):
    path = tmp_path / "mobilenet.pth"
    torch.save({"model": {}, "keywords": {"bn_eps": 1e-5}}, path)
    settings = SimpleNamespace(options=(("bn_eps", 1e-5), ("attention", "none")))
    check_keywords(settings, path)
    for options in ((), (("bn_eps", 1e-3),)):
        with pytest.raises(
            ValueError, match=r"built with {'bn_eps': 1e-05}, the configuration's options are .*write options="
        ):
            check_keywords(SimpleNamespace(options=options), path)
    torch.save({"model": {}}, path)
    check_keywords(SimpleNamespace(), path)
