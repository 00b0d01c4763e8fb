"""Starting weights in training: what is taken over, what is not, and what is said where they are missing."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from public import random_streams
from public.checkpoint_files import digest, save_atomic
from public.models import create_model
from public.training.run import build_state
from public.weights.known import KNOWN
from public.weights.load import check_keywords, find_starting_weights, load_starting_weights

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
