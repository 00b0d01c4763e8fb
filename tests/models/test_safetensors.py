"""Checkpoints as .safetensors: the same weights, the same card, the same detections and the same export as the .pth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import public
from public.checkpoint_files import CARD, load_checkpoint, save_atomic
from public.inference.subject import open_subject, source_of
from public.weights import repack
from tests.helpers.tiny_detector import picture, write_checkpoint

safetensors = pytest.importorskip("safetensors.torch", reason="needs the package safetensors, which is not installed")
METRICS = {"AP": 0.1 + 0.2, "APl": None, "class_AP": {"square": 1.0, "circle": 0.0}}  # as best.pth of a run has them


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint as best.pth of a run is, and the .safetensors made of it."""
    folder = tmp_path_factory.mktemp("pair")
    first = write_checkpoint(folder / "best.pth", metrics=METRICS, step=7)
    assert "digest" in repack.repack(first, folder / "best.safetensors")
    return first, folder / "best.safetensors"


def test_nothing_of_a_checkpoint_is_lost(pair):
    ours, theirs = (load_checkpoint(path) for path in pair)
    weights = [checkpoint.pop("model") for checkpoint in (ours, theirs)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.dumps(ours) == json.dumps(theirs)  # the order of classes too


def test_it_finds_the_same(pair):
    found = [public.load(path, "cpu")(picture(1), 0.01) for path in pair]
    assert len(found[0]["scores"]) > 3
    for name in ("boxes", "scores", "labels"):
        assert np.array_equal(*(one[name] for one in found))


def test_the_same_bytes_again_and_by_the_way_of_pth(pair, tmp_path):
    repack.repack(pair[1], tmp_path / "back.pth")
    repack.repack(tmp_path / "back.pth", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == pair[1].read_bytes()


def test_an_export_names_the_same_weights(pair):
    """The digest on a card is that of the weights, whichever file they were read from."""
    cards = [source_of(open_subject(str(path), None)) for path in pair]
    assert cards[0]["digest"] == cards[1]["digest"]
    assert cards[0]["detector"] == cards[1]["detector"] is not None
    assert cards[1]["weights"] == "best.safetensors"


def test_a_damaged_card_is_named(pair, tmp_path):
    """Also one that brings weights of its own, which would take the place of the file's."""
    tensors = safetensors.load_file(pair[1])
    card = {"model": {}, "class_names": ["a"]}
    safetensors.save_file(tensors, tmp_path / "other.safetensors", {CARD: json.dumps(card)})
    assert load_checkpoint(tmp_path / "other.safetensors")["model"].keys() == tensors.keys()
    for entry, value in (("class_names", 3), ("step", -1), ("input", [])):
        safetensors.save_file(tensors, tmp_path / "bad.safetensors", {CARD: json.dumps({entry: value})})
        with pytest.raises(ValueError, match=rf"bad\.safetensors is damaged: its entry '{entry}' has to be"):
            load_checkpoint(tmp_path / "bad.safetensors")


def test_what_json_would_change_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the key 3 is no text"):
        save_atomic({"model": {}, "metrics": {"by_class": [{3: 0.5}]}}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
