"""The command that makes a network narrower: what it prints, the page it writes, and what can be done with it."""

import json
import re

import pytest
import torch

from public.checkpoint_files import load_checkpoint
from public.config import classes_of, freeze, replace, thaw
from public.inference.trained import build_trained
from public.models.fuse import fuse
from public.models.operations import count_operations, example_input
from public.runs.experiment import load_experiment
from public.test_scripts import prune
from public.training.run import build_state
from tests.helpers.experiments import TinyExperiment
from tests.helpers.forked_training import train
from tests.helpers.tiny_data import TINY_CLASSES


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """(the folder above, the tiny experiment, what the command printed, what it returned) at 0.6 of the MACs."""
    root = tmp_path_factory.mktemp("prune")
    experiment = TinyExperiment.create(root)
    torch.manual_seed(2)
    model = load_experiment(experiment.folder).config.detector.build_model()
    card = {"num_classes": len(TINY_CLASSES), "class_names": list(TINY_CLASSES)}
    torch.save({"model": model.state_dict(), "model_name": "HalfPPYOLOE", **card}, root / "dense.pth")
    lines: list[str] = []
    patch = pytest.MonkeyPatch()
    patch.setattr("sys.argv", words(experiment, root))
    patch.setattr("builtins.print", lambda *values, **_: lines.append(" ".join(map(str, values))))
    try:
        prune.main()
    finally:
        patch.undo()
    return root, experiment, "\n".join(lines)


def words(experiment: TinyExperiment, root, *flags: str) -> list[str]:
    place = [str(experiment.folder), str(root / "dense.pth")]
    return [
        "prune",
        *place,
        "--macs",
        "0.6",
        "--multiple",
        "2",
        "--spared",
        "backbone.stem",
        "-o",
        str(root / "slim"),
        *flags,
    ]


def test_the_macs_are_what_was_asked_for_and_all_is_listed(pruned):
    root, _, told = pruned
    sizes = {
        name: tuple(map(int, pair)) for name, *pair in re.findall(r"^(\S+\.conv) +(\d+) +(\d+)$", told, re.MULTILINE)
    }
    assert sizes["backbone.stem.conv1.conv"] == (4, 4)
    assert sizes["neck.pan_stages.0.conv3.conv"][0] == 96
    assert all(after % 2 == 0 and after < before for name, (before, after) in sizes.items() if "stem." not in name)
    assert "not cut, goes into view: head.pred_cls.0, head.pred_reg.0" in told
    config = load_experiment(root / "slim").config
    counts = [
        count_operations(fuse(settings.build_model()), example_input(64, 64)).macs
        for settings in (config.detector.network, config.detector)
    ]
    share = counts[1] / counts[0]
    assert 0.5 < share <= 0.6
    assert f"{share:.1%}" in told
    assert f"narrower: {share:.1%} of the MACs." in (root / "slim" / "config.py").read_text()


def test_the_page_is_the_experiments_own_but_for_the_network(pruned):
    root, experiment, _ = pruned
    config, dense = load_experiment(root / "slim").config, load_experiment(experiment.folder).config
    assert config.starting_weights == str(root / "dense.pth")
    assert freeze(config.detector.network) == freeze(dense.detector)
    assert freeze(replace(config, starting_weights=None, detector=dense.detector)) == freeze(dense)
    assert thaw(json.loads(json.dumps(freeze(config))), classes_of(config)) == config


def test_the_file_is_what_the_page_starts_from(pruned):
    """The page's own choice among the channels of the dense weights, and the command's; both open strictly."""
    root, _, _ = pruned
    path, config = root / "slim" / "pruned.pth", load_experiment(root / "slim").config
    opened = build_trained(path, load_checkpoint(path), config.detector).state_dict()
    state, notes = build_state(config, torch.device("cpu"), TINY_CLASSES)
    assert any("dense.pth" in note for note in notes)
    assert opened.keys() == state.model.state_dict().keys()
    assert all(torch.equal(value, opened[name]) for name, value in state.model.state_dict().items())


def test_the_page_trains(pruned):
    root, experiment, _ = pruned
    slim = TinyExperiment(root / "slim", experiment.data_root)
    log = train(slim, "--max_steps", "2", "--num_pictures", "0")
    assert "starting from dense.pth" in log
    path = slim.runs[-1] / "latest.pth"
    before = load_checkpoint(root / "slim" / "pruned.pth")["model"]
    after = load_checkpoint(path)["training"]["raw_model"]
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
    assert not torch.equal(after["neck.fpn_routes.0.conv.weight"], before["neck.fpn_routes.0.conv.weight"])


def test_what_is_refused(pruned, monkeypatch):
    root, experiment, _ = pruned
    slim = TinyExperiment(root / "slim", experiment.data_root)
    for place, flags, reason in (
        (experiment, (), "slim is there already, and nothing is overwritten"),
        (experiment, ("-o", str(root / "new"), "--macs", "1.5"), "--macs 1.5 has to be between 0 and 1"),
        (experiment, ("-o", str(root / "new"), "--spared", "nose"), "spared names 'nose'"),
        (slim, ("-o", str(root / "new")), r"slim trains a Slimmed\(...\); prune takes one network as it is"),
    ):
        monkeypatch.setattr("sys.argv", words(place, root, *flags))
        with pytest.raises(SystemExit, match=reason):
            prune.main()
    assert not (root / "new").exists()
