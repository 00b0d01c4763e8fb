"""Known weights by name: fetched from a server that breaks off and sends wrong bytes, converted, used; safetensors."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import public
from public.checkpoint_files import digest, load_checkpoint, read_safetensors, save_atomic
from public.families import PUBLISHED
from public.inference.places import open_classifier, open_detector
from public.models import create_model
from public.test_scripts import detect
from public.weights import download as command
from public.weights import known, repack
from public.weights.convert import convert
from public.weights.detectors import released
from public.weights.download import download, find
from tests.helpers.file_server import serving
from tests.helpers.paddle_files import paddle_arrays, paddle_name, write_pdparams
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_data import write_picture

ORIGINAL = "xs_test.pdparams"


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as running:
        yield running


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A file as Paddle writes it, of a ppyoloe_xs with 80 classes and initial values."""
    arrays, values = paddle_arrays("ppyoloe_xs", 80), create_model("ppyoloe_xs", num_classes=80).state_dict()
    arrays |= {paddle_name(name): value.numpy() for name, value in values.items() if paddle_name(name) in arrays}
    return write_pdparams(tmp_path_factory.mktemp("paddle") / ORIGINAL, arrays).read_bytes()


@pytest.fixture
def weights(server, content, monkeypatch, tmp_path):
    """The known weights ppyoloe_xs_test, on the server; the repository is an empty folder."""
    server.files[ORIGINAL] = content
    entry = known.KnownWeights(
        name="ppyoloe_xs_test.pth",
        model="ppyoloe_xs",
        original=ORIGINAL,
        url=f"{server.url}/{ORIGINAL}",
        source="PaddleDetection, a test",
        num_classes=80,
        published="AP 12.3 on nothing",
    )
    monkeypatch.setattr(known, "KNOWN", (entry,))
    monkeypatch.setattr(known, "REPOSITORY", tmp_path)
    monkeypatch.delenv("ENCORE_MIRROR", raising=False)
    return entry


def with_sum(weights, content, monkeypatch, length=64):
    changed = replace(weights, sha256=hashlib.sha256(content).hexdigest()[:length], sha256_source="the test")
    monkeypatch.setattr(known, "KNOWN", (changed,))
    return changed


def get(tmp_path, name="ppyoloe_xs_test", **options):
    return download(name, folder=tmp_path / "pretrained", wait=0.0, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------- whole path


def test_weights_are_fetched_converted_and_described(weights, server, content, tmp_path):
    lines = get(tmp_path)
    folder = tmp_path / "pretrained"
    assert names(folder) == ["ppyoloe_xs_test.json", "ppyoloe_xs_test.pth", ORIGINAL]
    assert (folder / ORIGINAL).read_bytes() == content, "nothing is removed"
    assert lines[-1].startswith("licence: Apache-2.0")
    checkpoint = load_checkpoint(folder / "ppyoloe_xs_test.pth")
    card = json.loads((folder / "ppyoloe_xs_test.json").read_text())
    made_from = card.pop("made_from")
    assert made_from == {
        "project": "paddle",
        "file": ORIGINAL,
        "sha256": hashlib.sha256(content).hexdigest(),
        "url": weights.url,
    }
    assert card == {
        "file": "ppyoloe_xs_test.pth",
        "sha256": hashlib.sha256((folder / "ppyoloe_xs_test.pth").read_bytes()).hexdigest(),
        "digest": digest(checkpoint["model"]),
        "network": "ppyoloe_xs",
        "part": "whole",
        "num_classes": 80,
        "input": checkpoint["input"],
        "trained_on": "PaddleDetection, a test",
        "published": "AP 12.3 on nothing",
        "licence": weights.licence,
    }
    asked = len(server.requests)
    assert get(tmp_path)[0].endswith("ppyoloe_xs_test.pth: there already, and left as it is")
    assert len(server.requests) == asked


def test_a_transfer_that_breaks_goes_on_where_it_stopped(weights, server, content, tmp_path):
    server.faults = [("status", 503), 100_000, "reset", 2_000_000]
    get(tmp_path)
    spans = [span for _, span in server.requests]
    assert spans[:3] == [None, None, "bytes=100000-"]
    assert (tmp_path / "pretrained" / ORIGINAL).read_bytes() == content


def test_a_call_that_was_stopped_is_resumed_by_the_next(weights, server, content, tmp_path):
    (tmp_path / "pretrained").mkdir()
    part = tmp_path / "pretrained" / f"{ORIGINAL}.part"
    part.write_bytes(content[:12345])
    server.faults = [0] * 5
    with pytest.raises(
        OSError, match=rf"given up after 5 attempts .*has 12345 of {len(content)} bytes; run this again.*--url"
    ):
        get(tmp_path)
    assert part.stat().st_size == 12345
    get(tmp_path)
    assert server.requests[-1] == (ORIGINAL, "bytes=12345-")


def test_a_transfer_that_ended_just_before_its_last_step_is_taken(weights, server, content, tmp_path):
    """All bytes are there, and the server says that there are no more."""
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / f"{ORIGINAL}.part").write_bytes(content)
    get(tmp_path)
    assert len(server.requests) == 1
    (tmp_path / "pretrained" / "ppyoloe_xs_test.pth").unlink()
    (tmp_path / "pretrained" / ORIGINAL).rename(tmp_path / "pretrained" / f"{ORIGINAL}.part")
    server.files[ORIGINAL] = content[:-1]
    with pytest.raises(OSError, match=rf"fewer than the {len(content)} bytes .*move {ORIGINAL}.part away"):
        get(tmp_path)


def test_a_server_that_does_not_say_a_length_is_believed_at_its_end(weights, server, content, tmp_path):
    server.says_length = False
    get(tmp_path)
    assert (tmp_path / "pretrained" / ORIGINAL).read_bytes() == content


# ---------------------------------------------------------------------------------------------------- wrong bytes


@pytest.mark.parametrize("length", [64, 8])
def test_wrong_bytes_are_refused_by_the_sum_and_kept_apart(weights, server, content, tmp_path, monkeypatch, length):
    known_sum = with_sum(weights, content, monkeypatch, length).sha256
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    server.files[ORIGINAL] = wrong
    rule = "has to be" if length == 64 else "has to begin with"
    with pytest.raises(
        ValueError, match=rf"its sha256 is {hashlib.sha256(wrong).hexdigest()}.* {rule} {known_sum}.*\.refused"
    ):
        get(tmp_path)
    assert names(tmp_path / "pretrained") == [f"{ORIGINAL}.refused"]
    server.files[ORIGINAL] = content
    get(tmp_path)
    assert "ppyoloe_xs_test.pth" in names(tmp_path / "pretrained")


@pytest.mark.parametrize("wrong", [b"<html>sign in, please</html>", b""])
def test_wrong_bytes_without_a_known_sum_do_not_fit_and_stay(weights, server, tmp_path, wrong):
    server.files[ORIGINAL] = wrong
    with pytest.raises(
        ValueError, match=rf"{ORIGINAL}.*The file stays as .*{ORIGINAL}; move it away to fetch it again"
    ):
        get(tmp_path)
    assert names(tmp_path / "pretrained") == [ORIGINAL]


def test_more_bytes_than_promised_are_another_file(weights, server, content, tmp_path):
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / f"{ORIGINAL}.part").write_bytes(content + b"more")
    with pytest.raises(OSError, match="fewer than the"):
        get(tmp_path)


# ---------------------------------------------------------------------------------------------------- where from


def test_addresses_of_ones_own(weights, server, content, tmp_path, monkeypatch):
    """--url is the file, whatever it is called there; $ENCORE_MIRROR a folder of originals; the card says which it was."""
    entry = replace(weights, url="http://127.0.0.1:9/gone")
    monkeypatch.setattr(known, "KNOWN", (entry,))
    server.files["other?download=true"] = content
    get(tmp_path, url=f"{server.url}/other?download=true")
    card = tmp_path / "pretrained" / "ppyoloe_xs_test.json"
    assert json.loads(card.read_text())["made_from"]["fetched_from"] == f"{server.url}/other?download=true"
    for path in (tmp_path / "pretrained").iterdir():
        path.unlink()
    monkeypatch.setenv("ENCORE_MIRROR", f"{server.url}/")
    get(tmp_path)
    assert json.loads(card.read_text())["made_from"]["fetched_from"] == f"{server.url}/{ORIGINAL}"
    assert server.requests[-1] == (ORIGINAL, None)


def test_what_cannot_be_had_says_where_else_to_look(weights, server, tmp_path):
    server.files.clear()
    with pytest.raises(
        OSError, match=rf"answers 404 .*so {ORIGINAL} is not available there. Try --url .*\$ENCORE_MIRROR"
    ):
        get(tmp_path)
    with pytest.raises(ValueError, match="a mirror has to begin with http"):
        get(tmp_path, url="ftp://there/x")


def test_names(monkeypatch):
    for name in (
        "ppyoloe_plus_s_coco",
        "ppyoloe_plus_s_coco.pth",
        "ppyoloe_plus_crn_s_80e_coco.pdparams",
        "ppyoloe_plus_s",
    ):
        assert find(name).name == "ppyoloe_plus_s_coco.pth"
    assert find("ppyoloe_plus_s_objects365").num_classes == 365
    assert find("resnet18").original == "resnet18-f37072fd.pth"
    assert find("cspresnet_s_imagenet").backbone_only
    with pytest.raises(ValueError, match=r"no known weights are called 'ppyoloe_plus_z'; did you mean ppyoloe_plus_."):
        find("ppyoloe_plus_z")


def test_names_of_files_are_all_different():
    everything = known.all_known()
    assert len({item.name for item in everything}) == len({item.original for item in everything}) == len(everything)
    assert all(item.licence and item.url.endswith(item.original) for item in everything)


def test_the_facts_of_torchvision_are_its_own():
    """Address, sum and figure, as the installed package has them."""
    import torchvision

    for item in known.CLASSIFIERS:
        name = item.original.rpartition("-")[0].removesuffix("_rwightman")
        theirs = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        assert item.url == theirs.url
        assert theirs.url.endswith(f"-{item.sha256}.pth")
        assert item.published.split()[2] == str(theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"])
        with torch.device("meta"):
            model = create_model(item.model)
        assert sum(p.numel() for p in model.parameters()) == theirs.meta["num_params"]


def torchvisions_table(item: known.KnownWeights):
    """What the installed package says of a known detector of its own."""
    import torchvision

    function = item.original.partition("_coco-")[0]
    return torchvision.models.get_model_weights(function).COCO_V1


@pytest.mark.parametrize(
    "item", [one for one in known.DETECTORS if one.project == "torchvision"], ids=lambda one: one.short_name
)
def test_the_facts_of_torchvisions_detectors_are_its_own(item):
    theirs = torchvisions_table(item)
    assert item.url == theirs.url
    assert item.url.endswith(f"-{item.sha256}.pth")
    assert item.published == f"AP {theirs.meta['_metrics']['COCO-val2017']['box_map']} on COCO val2017"
    with torch.device("meta"):
        model = create_model(item.model)
    assert sum(p.numel() for p in model.parameters()) + frozen_away(model) == theirs.meta["num_params"]
    names = theirs.meta["categories"]
    for ours, name in zip(released(item.model, "torchvision").class_names, names, strict=True):
        assert ours == name or (ours.startswith("unused") and name in ("N/A", "__background__"))


def frozen_away(model: torch.nn.Module) -> int:
    """Less the BatchNorm's scales and shifts where they are frozen, which torchvision's are no parameters then."""
    is_frozen = model.backbone_batchnorm == "frozen"
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)] if is_frozen else []
    return -sum(p.numel() for norm in norms for p in norm.parameters())


def test_the_readme_lists_every_detector_of_torchvision_and_mmdetection():
    text = (REPOSITORY / "pretrained" / "README.md").read_text()
    for item in known.DETECTORS:
        cells = (item.name, item.model, item.source, item.num_classes, item.published)
        row = f"| {' | '.join(map(str, cells))} | [{item.original}]({item.url}) |"
        assert row in text.splitlines()
        assert PUBLISHED[item.model].num_classes == item.num_classes
        assert item.project in released(item.model, item.project).sources
        assert item.url.endswith(f"{item.sha256}.pth")
        assert len(item.sha256) == 8


def test_the_command(weights, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["download", "ppyoloe_xs_test", "--folder", str(tmp_path / "new/place")])
    command.main()
    assert (tmp_path / "new/place/ppyoloe_xs_test.pth").is_file()
    assert "licence: Apache-2.0" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["download", "--list"])
    command.main()
    out = capsys.readouterr().out
    assert "ppyoloe_xs_test" in out
    assert "resnet50_imagenet" in out
    for words, message in (([], "say which weights"), (["nothing"], "no known weights are called 'nothing'")):
        monkeypatch.setattr(sys, "argv", ["download", *words])
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            command.main()


# ---------------------------------------------------------------------------------------------------- by name


def test_weights_are_used_by_name_and_missed_with_what_to_type(weights, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "photo.jpg", np.zeros((64, 64, 3), np.uint8))
    missing = (
        r"ppyoloe_xs means the weights .*ppyoloe_xs_test.pth .*: python -m public.weights.download ppyoloe_xs_test"
    )
    monkeypatch.setattr(sys, "argv", ["detect", "ppyoloe_xs", "photo.jpg", "--score_threshold", "1", "--device", "cpu"])
    with pytest.raises(SystemExit, match=f"^error: {missing}"):
        detect.main()
    with pytest.raises(FileNotFoundError, match=missing):
        public.load("ppyoloe_xs")
    get(tmp_path)
    for name in ("ppyoloe_xs", "ppyoloe_xs_test"):
        detector, path = open_detector(name, None, "cpu")
        assert path == tmp_path / "pretrained/ppyoloe_xs_test.pth"
        assert detector.class_names[0] == "person"
    assert public.load("ppyoloe_xs", "cpu").class_names == detector.class_names
    detect.main()
    assert "results: " in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"python -m public\.weights\.download resnet18_imagenet"):
        open_classifier("resnet18", None, "cpu")
    with pytest.raises(FileNotFoundError, match="is neither an experiment's folder"):
        open_detector("ppyoloe_zz", None, "cpu")


def test_a_folder_of_the_same_name_comes_first(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ppyoloe_xs").mkdir()
    with pytest.raises(FileNotFoundError, match="is neither an experiment's folder"):
        open_detector("ppyoloe_xs", None, "cpu")


def test_a_conversion_by_hand_lays_a_card_beside_it(tmp_path, content):
    (tmp_path / "mine.pdparams").write_bytes(content)
    convert(source="paddle", model_name="ppyoloe_xs", file=tmp_path / "mine.pdparams", output=tmp_path / "a.pth")
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["licence"] is card["published"] is card["made_from"]["url"] is None
    assert card["made_from"]["sha256"] == hashlib.sha256(content).hexdigest()
    (tmp_path / "train.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"train\.json is there and is no card of weights"):
        convert(
            source="paddle", model_name="ppyoloe_xs", file=tmp_path / "mine.pdparams", output=tmp_path / "train.pth"
        )
    assert names(tmp_path) == ["a.json", "a.pth", "mine.pdparams", "train.json"]


# ---------------------------------------------------------------------------------------------------- safetensors


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    message = r"a.safetensors: a .safetensors file needs the package safetensors, .*: pip install safetensors"
    with pytest.raises(ValueError, match=message):
        save_atomic({"model": {}}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_checkpoint_goes_to_safetensors_and_back(tmp_path, content):
    pytest.importorskip("safetensors")
    (tmp_path / "x.pdparams").write_bytes(content)
    convert(source="paddle", model_name="ppyoloe_xs", file=tmp_path / "x.pdparams", output=tmp_path / "a.safetensors")
    repack.repack(tmp_path / "a.safetensors", tmp_path / "b.pth")
    first, second = load_checkpoint(tmp_path / "a.safetensors"), load_checkpoint(tmp_path / "b.pth")
    assert digest(first.pop("model")) == digest(second.pop("model"))
    assert first == second
    assert public.load(tmp_path / "a.safetensors", "cpu").class_names[0] == "person"
    with pytest.raises(FileExistsError, match=r"b\.pth is there already"):
        repack.repack(tmp_path / "a.safetensors", tmp_path / "b.pth")


def test_safetensors_of_others_are_converted(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    import torchvision

    theirs = torchvision.models.resnet18(num_classes=10)
    safetensors.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"its metadata have no entry 'encore'.*public.weights.convert"):
        load_checkpoint(tmp_path / "model.safetensors")
    convert(
        source="torchvision", model_name="resnet18", file=tmp_path / "model.safetensors", output=tmp_path / "ours.pth"
    )
    images = torch.rand(1, 3, 64, 64)
    ours = create_model("resnet18", num_classes=10, pretrained=tmp_path / "ours.pth").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images))


def test_what_safetensors_cannot_hold_and_damage_are_named(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match=r"safetensors holds weights and plain values.*take best.pth"):
        save_atomic({"model": {}, "training": {"optimizer": torch.zeros(2)}}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"b.safetensors is damaged, or no .safetensors file"):
        read_safetensors(Path(tmp_path / "b.safetensors"))
