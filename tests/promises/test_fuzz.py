"""Files of any content: each ends in a result, or in one line that names it; nothing is executed, hangs or fills memory.

`pytest tests/promises/test_fuzz.py --fuzz-cases 10000` tries as many cases of each kind of file; without the flag, a few
hundred.  Always the same ones: a case that fails is printed by hypothesis, and fails again.
"""

import copy
import functools
import json
import pickle
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import public
from public.checkpoint_files import load_checkpoint
from public.datasets.cifar import Cifar
from public.datasets.coco import Coco
from public.datasets.voc import Voc
from public.datasets.yolo import read_labels, read_names
from public.inference import classifier
from public.runs.checkpoint import load_latest
from public.runs.experiment import load_experiment
from public.runs.opening import Opening, _check
from public.runs.run_folder import RunFolder
from public.training.ema import EMA
from public.training.optimizers import SGD, AdamW
from public.training.run import _load
from public.training.state import TrainingState
from public.weights.convert import convert
from public.weights.pdparams import read_pdparams
from tests.helpers.fuzzing import Damaged, as_json, damaged, damaged_bytes, fuzz, judge, watched
from tests.helpers.paddle_files import write_pdparams
from tests.helpers.tiny_cifar import write_cifar100
from tests.helpers.tiny_data import write_coco, write_voc
from tests.helpers.tiny_detector import write_checkpoint

SEVERAL = {"classes": None, "keep_empty_images": True}


@pytest.fixture
def cases(request) -> int:
    """How many files of a kind are tried."""
    return request.config.getoption("--fuzz-cases") or 300


@pytest.fixture
def few_cases(request) -> int:
    """The same, where each builds a network or trains a step."""
    return request.config.getoption("--fuzz-cases") or 60


def either(value, data: bytes, **how):
    """Damage of a value, or of the bytes that hold it."""
    return st.one_of(damaged(value, **how), damaged(value, **how), damaged_bytes(data))


# ---------------------------------------------------------------------------------------------------- annotations


def test_coco_json(cases, tmp_path):
    write_coco(tmp_path, num_images=3)
    path = tmp_path / "annotations/train.json"
    data = path.read_bytes()
    settings = Coco(annotations="annotations/train.json", images="images", **SEVERAL)

    @fuzz(cases)
    @given(either(json.loads(data), data))
    def case(damage):
        content = damage.content
        path.write_bytes(content if isinstance(content, bytes) else as_json(content).encode())
        is_read = judge(lambda: settings.read(tmp_path).fingerprint(allow_missing=True), path)
        defects = []
        assert judge(lambda: settings.read(tmp_path, on_defect=defects.append).summary(), path) or not is_read
        assert all(str(path) in defect.message for defect in defects)

    case()


def xml_of(value) -> str:
    """The annotation of an image with its fields as `value` has them."""

    def node(name, inner):
        if isinstance(inner, list):
            return "".join(node(name, item) for item in inner)
        if isinstance(inner, dict):
            return f"<{name}>{''.join(node(key or 'x', item) for key, item in inner.items())}</{name}>"
        return f"<{name}>{inner}</{name}>"

    return node("annotation", value)


def test_voc_xml(cases, tmp_path):
    write_voc(tmp_path, folder="m", num_images=2)
    path = tmp_path / "m/Annotations/train_0000.xml"
    data = path.read_bytes()
    box = {"xmin": "1", "ymin": "2", "xmax": "30", "ymax": "40"}
    value = {
        "filename": "a.png",
        "size": {"width": "64", "height": "48", "depth": "3"},
        "object": [{"name": "cat", "difficult": "0", "bndbox": box}, {"name": "dog", "bndbox": dict(box)}],
    }
    settings = Voc(sources=("m/*",), use_difficult=True, **SEVERAL)

    @fuzz(cases)
    @given(either(value, data))
    def case(damage):
        content = damage.content
        path.write_bytes(content if isinstance(content, bytes) else xml_of(content).encode(errors="replace"))
        is_read = judge(lambda: settings.read(tmp_path).fingerprint(allow_missing=True), path, "VOC m/*")
        defects = []
        read = functools.partial(settings.read, tmp_path, on_defect=defects.append)
        assert judge(lambda: read().summary(), path, "VOC m/*") or not is_read

    case()


def test_entities_of_xml_that_would_fill_memory(tmp_path):
    write_voc(tmp_path, folder="m", num_images=1)
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    path = tmp_path / "m/Annotations/train_0000.xml"
    path.write_text(f'<!DOCTYPE a [<!ENTITY e0 "ha">{levels}]><annotation>&e11;</annotation>')
    settings = Voc(sources=("m/*",), use_difficult=True, **SEVERAL)
    assert not judge(lambda: settings.read(tmp_path), path)
    with pytest.raises(ET.ParseError), watched():
        ET.parse(path)


WORDS = (
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1e400",
    "nan",
    "inf",
    "-0.0",
    "1" * 400,
    "0x1",
    "\uff11",
    "\0",
    "猫",
    "1_0",
    "1e300",
    "9" * 30,
    "",
    "\t",
    "\n",
)


def test_yolo_labels_and_names(cases, tmp_path):
    labels, names = tmp_path / "a.txt", tmp_path / "data.yaml"
    text = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n"
    yaml = b"nc: 2\nnames: [cat, 'dog']\n"
    lines = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), max_size=3).map("\n".join)
    entries = st.lists(
        st.sampled_from((*WORDS, "names:", "nc:", "[", "]", "{", "}", "'", '"', "- a", "0: a", ",", "#"))
    )

    @fuzz(cases)
    @given(
        st.one_of(lines.map(str.encode), damaged_bytes(text).map(lambda damage: damage.content)),
        st.one_of(entries.map(" ".join).map(str.encode), damaged_bytes(yaml).map(lambda damage: damage.content)),
    )
    def case(content, of_names):
        labels.write_bytes(content)
        names.write_bytes(of_names)
        for polygons in (False, True):
            judge(functools.partial(read_labels, labels, ("cat", "dog"), polygons=polygons), labels)
        judge(lambda: read_names(str(names)), names)

    case()


# ---------------------------------------------------------------------------------------------------- archives


class Calls:
    """What unpickling it would do."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def calls(folder):
    """Values whose pickles would execute something."""
    system = pickle.loads(b"cposix\nsystem\n.")
    return st.sampled_from(
        (Calls(system, f"touch {folder}/executed"), Calls(eval, "1/0"), Calls(open, f"{folder}/executed", "w"), print)
    )


def with_call(value, folder):
    """`value` with one entry that calls."""
    return st.tuples(st.sampled_from(sorted(value)), calls(folder)).map(
        lambda pair: Damaged(value | {pair[0]: pair[1]}, [f"{pair[0]} calls"])
    )


def pickled(content, protocol: int) -> bytes:
    return content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)


def test_pdparams(cases, tmp_path):
    arrays = {"a.weight": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16), "c": np.zeros((), np.float32)}
    path = write_pdparams(tmp_path / "a.pdparams", arrays)
    data, value = path.read_bytes(), arrays | {"UnpackBigParamInfor@@": {"d": {"OriginShape": (4,), "slices": ["b"]}}}

    @fuzz(cases)
    @given(st.one_of(either(value, data), with_call(arrays, tmp_path)), st.sampled_from((2, 3, 4, 5)))
    def case(damage, protocol):
        path.write_bytes(pickled(damage.content, protocol))
        judge(lambda: read_pdparams(path), path)
        assert not (tmp_path / "executed").exists()

    case()


def test_cifar(cases, tmp_path):
    folder = tmp_path / "cifar"
    write_cifar100(folder, num_train=2, num_test=1)
    originals = {name: (folder / name).read_bytes() for name in ("meta", "train")}
    values = {name: pickle.loads(data, encoding="latin1") for name, data in originals.items()}
    settings = Cifar(archive="cifar", split="train")

    @st.composite
    def damage(draw):
        name = draw(st.sampled_from(sorted(originals)))
        return name, draw(st.one_of(either(values[name], originals[name]), with_call(values[name], tmp_path)))

    @fuzz(cases)
    @given(damage(), st.sampled_from((2, 3, 4)))
    def case(broken, protocol):
        name, damage = broken
        (folder / name).write_bytes(pickled(damage.content, protocol))
        judge(lambda: settings.read(tmp_path).fingerprint(), folder)
        assert not (tmp_path / "executed").exists()
        (folder / name).write_bytes(originals[name])

    case()


# ---------------------------------------------------------------------------------------------------- weights and runs


def save(content, path) -> None:
    """Writes bytes as they are, and a value by torch.save."""
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


def test_pth_of_a_detector(few_cases, tmp_path):
    path = write_checkpoint(tmp_path / "a.pth")
    data, value = path.read_bytes(), torch.load(path, weights_only=True)

    @fuzz(few_cases)
    @given(st.one_of(either(value, data, tensors=True), with_call(value, tmp_path)))
    def case(damage):
        save(damage.content, path)
        judge(lambda: public.load(path, device="cpu"), path)
        assert not (tmp_path / "executed").exists()

    case()


def test_pth_of_a_classifier(few_cases, tmp_path):
    path = tmp_path / "a.pth"
    spec = {
        "size": [32, 32], "shorter_side": 32, "interpolation": "area", "color_order": "rgb", "scale": 1 / 255,
        "mean": [0.5] * 3, "std": [0.2] * 3,
    }  # fmt: skip
    value = {
        "model": public.models.create_model("shufflenetv2_x0_5", num_classes=2).state_dict(),
        "model_name": "shufflenetv2_x0_5", "keywords": {}, "num_classes": 2, "class_names": ["a", "b"], "input": spec,
    }  # fmt: skip

    @fuzz(few_cases)
    @given(damaged(value, tensors=True))
    def case(damage):
        save(damage.content, path)
        judge(lambda: classifier.load(path, "cpu"), path)

    case()


@pytest.mark.parametrize(
    ("source", "name"), [("torchvision", "shufflenetv2_x0_5"), ("yolox", "yolox_nano"), ("mmdet", "yolof_r50_mmdet")]
)
def test_weights_of_others(few_cases, tmp_path, source, name):
    """Of a whole classifier, and of the beginning of a detector's file, of which a sound part is refused as well."""
    path, output = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    arrays = torchvision.models.shufflenet_v2_x0_5().state_dict()
    few = dict(list(arrays.items())[:6])
    value = {
        "torchvision": arrays,
        "yolox": {"model": few, "start_epoch": 3},
        "mmdet": {"state_dict": few, "meta": {}},
    }[source]
    torch.save(value, path)
    data = path.read_bytes()

    @fuzz(few_cases)
    @given(st.one_of(either(value, data, tensors=True), with_call(value, tmp_path)))
    def case(damage):
        save(damage.content, path)
        judge(lambda: convert(source=source, model_name=name, file=path, output=output), path)
        assert not (tmp_path / "executed").exists()

    case()


def test_config_and_manifest_of_a_run(cases, config, experiment_folder):
    experiment = load_experiment(experiment_folder)
    run = RunFolder.create(experiment, config, {})
    run.write_json("manifest.json", {"experiment_copy": "experiment", "identity": {"limit_images": None}})
    originals = {name: (run.path / name).read_bytes() for name in ("config.json", "manifest.json")}

    @st.composite
    def damage(draw):
        name = draw(st.sampled_from(sorted(originals)))
        return name, draw(either(json.loads(originals[name]), originals[name]))

    @fuzz(cases)
    @given(damage())
    def case(broken):
        name, content = broken[0], broken[1].content
        (run.path / name).write_bytes(content if isinstance(content, bytes) else as_json(content).encode())
        judge(lambda: load_experiment(run.path), run.path)
        (run.path / name).write_bytes(originals[name])

    case()


def state_of_a_run(optimizer) -> TrainingState:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = TrainingState(
        model=model, optimizer=optimizer.build(model, 0.1), ema=EMA(decay=0.9).build(model),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )  # fmt: skip
    step(state)
    return state


def step(state: TrainingState) -> None:
    state.model.train()
    state.model(torch.ones(4, 3)).square().sum().backward()
    state.optimizer.step()
    state.ema.update(state.model)
    state.step += 1


OPTIMIZERS = (
    SGD(momentum=0.9, nesterov=False, weight_decay=1e-4, decay_normalisation=False, decay_bias=True),
    AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decay_normalisation=False, decay_bias=False),
)


def test_checkpoints_of_a_run(few_cases, tmp_path):
    """One that is read goes on: a step after it ends well, too."""
    path = tmp_path / "latest.pth"
    run = RunFolder(tmp_path)
    states = [state_of_a_run(optimizer) for optimizer in OPTIMIZERS]
    values = [copy.deepcopy(state.state_dict()) for state in states]
    for value in values:
        value["training"]["log_sizes"] = run.log_sizes()
    torch.save(values[0], path)
    data = path.read_bytes()

    def go_on(state):
        checkpoint, _ = load_latest(tmp_path)
        _check(path, checkpoint, "log_sizes", "raw_model", "ema")
        run.truncate_logs(checkpoint["training"]["log_sizes"])
        _load(state, Opening(run=run, path=tmp_path, epochs=1, checkpoint=checkpoint, lines=[], source=path))
        step(state)

    @fuzz(few_cases)
    @given(st.integers(0, 1).flatmap(lambda i: st.tuples(st.just(i), either(values[i], data, tensors=True))))
    def case(which):
        number, damage = which
        save(damage.content, path)
        judge(lambda: go_on(states[number]), path)

    case()
    save(values[0], path)
    assert judge(lambda: go_on(states[0]), path)
    assert load_checkpoint(path)["model"]
