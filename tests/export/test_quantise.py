"""int8 files: their scales, what they compute, which layers go back to float, and the command."""

import copy
import dataclasses
import json
import os
import re
import shutil
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import coco_halves, nncf_int8, sparsity
from public import commands
from public.config import freeze
from public.export.calibration import Calibrated, draw_pictures, worst_first
from public.export.formats import files_of, open_network
from public.export.graph import ExportGraph
from public.export.packages import openvino_core
from public.export.post_training import Bound, Variant, Writer, calibrated_layers, sentence, within_bound
from public.export.qdq import Layer, Levels, insert, take_layers
from public.export.runners.onnx import open_onnx
from public.export.runners.openvino import open_openvino
from public.families.quantised import QAT, LearnedRange, MovingRange, Quantised
from public.input import normalise, prepare
from public.models.fuse import fuse
from public.models.quantised import quantised_layers
from public.runs.experiment import load_experiment
from public.test_scripts import quantise
from tests.export.conftest import SPEC
from tests.helpers.experiments import TinyExperiment
from tests.helpers.lively import pictures

onnx = pytest.importorskip("onnx", reason="needs onnx, which is not installed: make setup-export")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

QAT_OF_TEST = QAT(
    weight_bits=8,
    activation_bits=8,
    per_channel=True,
    observer=MovingRange(momentum=0.5),
    start_epoch=0,
    freeze_observers_epoch=None,
    freeze_batchnorm_epoch=None,
    float_layers=(),
)

LEARNED = LearnedRange(momentum=0.5, observed_epochs=1, lr_factor=1.0)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    made = [prepare(picture, SPEC) for picture in pictures(4)]
    return [normalise(torch.from_numpy(pixels[None]), SPEC, [geometry.region]) for pixels, geometry in made]


@pytest.fixture(scope="module")
def with_last(tiny, images) -> Calibrated:
    """The convolutions that the outputs are made of, too."""
    return Calibrated(tiny[1], images, float_layers=(), float_last=False, with_outputs=False, with_depthwise=True)


@pytest.fixture(scope="module")
def calibrated(tiny, images) -> Calibrated:
    return Calibrated(tiny[1], images, float_layers=(), with_outputs=False, with_depthwise=True)


def decoded_by(run, decoder, image: torch.Tensor):
    with torch.no_grad():
        return decoder.decode(run(image))


def needs_exact_int8() -> None:
    """Skips where the CPU has no VNNI: there the runtimes add int8 products in 16 bits, which overflow (docs/quantise.md)."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        if cpuinfo.exists()
        else ""
    )
    if flags and (not {"avx512_vnni", "avx_vnni"} & set(flags.split()) or "ONEDNN_MAX_CPU_ISA" in os.environ):
        pytest.skip("no VNNI instructions, or none may be used: sums of int8 products overflow in 16 bits")


def share_of_ties(file, network, decoder, pixels: np.ndarray) -> tuple[float, float]:
    """Of the values that file and network give, the share that differ by more than float32 rounds, and the largest of them.

    Where a value lies halfway between two levels, one more or less in the last bit decides to which it goes.
    """
    boxes, scores = file([pixels])
    image = normalise(torch.from_numpy(pixels), SPEC, [(0, 0, SPEC.size[1], SPEC.size[0])])
    ours = decoded_by(network, decoder, image)
    far = torch.cat([(a - torch.from_numpy(b)).abs().flatten() for a, b in zip(ours, (boxes, scores))])
    return float((far > 1e-3).float().mean()), float(far.max())


@pytest.mark.parametrize("kind", ["calibrated", "with_last"])
def test_a_file_computes_what_the_fake_quantised_network_does(tiny, write_tiny, kind, request, tmp_path):
    """In both runtimes, to the few values that rounding ties move; without the levels much differs."""
    needs_exact_int8()
    settings, _ = tiny
    calibrated = request.getfixturevalue(kind)
    source = write_tiny("onnx", "boxes")
    network, decoder = copy.deepcopy(calibrated.network), settings.build_decoder()
    pixels = np.stack([prepare(pictures(6)[5:][0], SPEC)[0]])
    plain, _ = open_onnx(source.path)
    assert share_of_ties(plain, network, decoder, pixels)[0] == 0
    for layer in quantised_layers(network):
        layer.is_quantising = True
    assert share_of_ties(plain, network, decoder, pixels)[0] > 0.5
    model = onnx.load(source.path)
    insert(model, calibrated.files_layers(), integer_bias=False)
    path = tmp_path / "int8.onnx"
    path.write_bytes(model.SerializeToString())
    for open_file in (open_onnx, open_openvino):
        share, largest = share_of_ties(open_file(path)[0], network, decoder, pixels)
        assert share < 0.02, (open_file.__name__, share, largest)
        assert largest < 0.5
    names = {value.name for value in model.graph.initializer}
    (name, layer), *_ = calibrated.layers.items()
    whole = next(v for v in model.graph.initializer if v.name == f"model.{name}.weight_int")
    steps = calibrated.files_layers()[name].weight_scale
    assert np.array_equal(
        numpy_helper.to_array(whole), (layer.weight.detach().numpy() / steps[:, None, None, None]).round()
    )
    assert f"model.{name}.weight" not in names, "the file does not hold them twice"
    assert sum(path.stat().st_size for path in [path]) < 0.6 * source.path.stat().st_size


def test_a_network_that_was_trained_so_takes_its_scales_along(tiny, images):
    """Of blocks with BatchNorm and of merged branches: their levels are in the graph that is exported, which is float."""
    settings, model = tiny
    changed = Quantised(network=settings, quantisation=QAT_OF_TEST)
    network = changed.prepare(copy.deepcopy(model))
    changed.on_epoch(network, 0)
    network.train()
    with torch.no_grad():
        network(torch.cat(images))
    network.eval()
    expected = take_layers(fuse(network))
    graph = ExportGraph(
        model=network, decoder=settings.build_decoder(), spec=SPEC, input_form="image", outputs="boxes", size=SPEC.size
    )
    assert graph.quantised.keys() == expected.keys()
    assert len(expected) == len(quantised_layers(network)) > 10
    for name, layer in expected.items():
        for ours, theirs in zip(
            (*layer.input, layer.weight_scale), (*graph.quantised[name].input, graph.quantised[name].weight_scale)
        ):
            assert np.array_equal(ours, theirs)
    with pytest.raises(ValueError, match="--format ncnn holds no int8 layers"):
        graph.refuse_quantised("ncnn")
    assert quantised_layers(network)[0].is_quantising, "the network itself is as it was"


def test_a_file_has_the_learnt_levels(tiny, write_tiny, images, tmp_path):
    """Factors that were moved, each end by another: files compute what the network does, with whole zero points."""
    needs_exact_int8()
    settings, _ = tiny
    learned = dataclasses.replace(QAT_OF_TEST, observer=LEARNED, freeze_batchnorm_epoch=0)
    changed = Quantised(network=settings, quantisation=learned)
    network = changed.prepare(copy.deepcopy(tiny[1]))
    changed.on_epoch(network, 0)
    with torch.no_grad():
        for image in images:
            network.train()(image)
    changed.on_epoch(network, 1)
    observed = take_layers(fuse(network.eval()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in quantised_layers(network):
            for factor in layer.factors.parameters():
                factor.copy_(0.2 * torch.rand(factor.shape, generator=generator) - 0.15)
    levels = take_layers(fuse(network))
    assert levels.keys() == observed.keys()
    assert all(not np.array_equal(levels[name].input.scale, observed[name].input.scale) for name in levels)
    model = onnx.load(write_tiny("onnx", "boxes").path)
    insert(model, levels, integer_bias=False)
    path = tmp_path / "learned.onnx"
    path.write_bytes(model.SerializeToString())
    pixels = np.stack([prepare(pictures(6)[5:][0], SPEC)[0]])
    folded, decoder = fuse(network), settings.build_decoder()
    for open_file in (open_onnx, open_openvino):
        share, largest = share_of_ties(open_file(path)[0], folded, decoder, pixels)
        assert share < 0.02, (open_file.__name__, share, largest)
        assert largest < 0.5
    unlike = share_of_ties(open_onnx(path)[0], fuse(tiny[1]), decoder, pixels)
    assert unlike[0] > 0.5


def test_levels_of_channels_go_through_what_a_concat_joins(tmp_path):
    """A depthwise convolution behind a Concat: OpenVINO compiles it, and both runtimes give what numpy gives."""
    needs_exact_int8()
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 1, 1, 1)).astype(np.float32)
    scale = np.array([0.1, 0.02, 0.3, 0.5, 0.07], np.float32)
    zero = np.array([3, 0, 128, 7, 255], np.uint8)
    value = lambda name, c: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 4, 4])  # noqa: E731
    nodes = [
        helper.make_node("Relu", ["a"], ["a_relu"]),
        helper.make_node("Neg", ["b"], ["b_neg"]),
        helper.make_node("Concat", ["a_relu", "b_neg"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "model.conv.weight"], ["y"], group=5),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("a", 2), value("b", 3)],
        [value("y", 5)],
        [numpy_helper.from_array(weight, "model.conv.weight")],
        value_info=[value("a_relu", 2), value("b_neg", 3), value("both", 5)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    step = np.abs(weight).reshape(5) / 127
    insert(model, {"conv": Layer(Levels(scale, zero), step, None)}, integer_bias=False)
    path = tmp_path / "joined.onnx"
    path.write_bytes(model.SerializeToString())
    a, b = rng.normal(size=(1, 2, 4, 4)).astype(np.float32) * 5, rng.normal(size=(1, 3, 4, 4)).astype(np.float32) * 20
    both = np.concatenate([np.maximum(a, 0), -b], 1)
    s, z = scale[:, None, None], zero[:, None, None].astype(np.float32)
    expected = (np.clip(np.round(both / s) + z, 0, 255) - z) * s * weight[:, 0]
    for open_file in (open_onnx, open_openvino):
        assert np.allclose(open_file(path)[0]([a, b])[0], expected, atol=1e-4), open_file.__name__


def test_every_convolution_of_a_file_is_in_int8_if_asked_for(write_tiny, calibrated, with_last, tmp_path):
    """Told by the graph that OpenVINO runs: without it those that the outputs are made of are in float."""
    found = []
    for made in (calibrated, with_last):
        model = onnx.load(write_tiny("onnx", "boxes").path)
        insert(model, made.files_layers(), integer_bias=False)
        path = tmp_path / "int8.onnx"
        path.write_bytes(model.SerializeToString())
        network = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        nodes = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
        kinds = [str(info["runtimePrecision"].value) for info in nodes if info["layerType"].value == "Convolution"]
        assert len(kinds) == len(made.layers) + len(made.kept)
        found.append((len(made.kept), sum(kind not in ("u8", "i8") for kind in kinds)))
    assert found[0][0] == found[0][1] > 0
    assert found[1] == (0, 0)


def test_the_same_pictures_give_the_same_scales_bit_for_bit(tiny, images, calibrated):
    again = Calibrated(tiny[1], images, float_layers=(), with_outputs=False, with_depthwise=True)
    for (name, ours), theirs in zip(calibrated.files_layers().items(), again.files_layers().values()):
        assert ours.input.scale.tobytes() == theirs.input.scale.tobytes(), name
        assert ours.weight_scale.tobytes() == theirs.weight_scale.tobytes(), name
    fewer = Calibrated(tiny[1], images[:1], float_layers=(), with_outputs=False, with_depthwise=True)
    assert any(
        not np.array_equal(a.input.scale, b.input.scale)
        for a, b in zip(calibrated.files_layers().values(), fewer.files_layers().values())
    )


# ---------------------------------------------------------------------------------------------- which layers


def test_a_layer_whose_range_is_clipped_is_found(calibrated):
    """Made bad on purpose, one layer after the other: it becomes the worst, and the others keep their errors."""
    before = calibrated.errors(2)
    assert max(before.values()) < 0.2
    for name in (list(before)[3], list(before)[-1]):
        layer = calibrated.layers[name]
        low, high = layer.low.clone(), layer.high.clone()
        layer.set_range(low / 20, high / 20)
        errors = calibrated.errors(2)
        layer.set_range(low, high)
        assert worst_first(errors)[0] == name
        assert errors[name] > 5 * before[name]
        assert {key: value for key, value in errors.items() if key != name} == {
            k: v for k, v in before.items() if k != name
        }


def test_groups_go_back_until_the_bound_holds():
    """Six layers that cost what they cost; the worst first, in groups, and not one more than is needed."""
    costs = {f"layer{i}": 0.001 * i for i in range(24)}
    asked = []

    def evaluate(back):
        asked.append(back)
        return {"AP": 0.5 - sum(cost for name, cost in costs.items() if name not in back)}

    bound = Bound(metric="AP", reference=0.5, points=20.0, unit=100.0)
    metrics, back, steps = within_bound(costs, bound, evaluate)
    assert [len(names) for names in asked] == [0, 2, 4]
    assert back == {"layer23", "layer22", "layer21", "layer20"}
    assert bound.loss(metrics) == pytest.approx(19.0)
    assert [[name for name, _ in step.layers] for step in steps] == [["layer23", "layer22"], ["layer21", "layer20"]]
    assert within_bound(costs, dataclasses.replace(bound, points=30.0), evaluate)[1] == frozenset()
    nothing = within_bound(costs, dataclasses.replace(bound, points=-1.0), evaluate)
    assert nothing[1] == costs.keys(), "all float, and still not there: who asked is told"


def test_the_sentence_is_about_speed(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"")
    plain = Variant(name="float", path=path, metrics={"AP": 0.4}, layers=0, milliseconds=10.0)
    small = Variant(name="int8", path=path, metrics={"AP": 0.396}, layers=5, milliseconds=4.0)
    assert sentence(plain, small, "AP", 100.0) == ("int8 is faster by 2.50 at -0.40 points of AP", True)
    for changes in ({"milliseconds": 10.0}, {"layers": 0}):
        told, is_faster = sentence(plain, dataclasses.replace(small, **changes), "AP", 100.0)
        assert told.startswith("int8 is not faster here: keep float")
        assert not is_faster


# ---------------------------------------------------------------------------------------------- the command


PAGE = '''"""The tiny network of the exported files, on tiny data.

Command: a test's.
"""

from dataclasses import replace

from public.families.ppyoloe import PPYOLOE
from public.input import InputSpec

from .page import config as page

config = replace(page, detector={detector!r}, input={spec!r}, best_metric="voc_AP50")
'''


@pytest.fixture(scope="module")
def experiment(tiny, tmp_path_factory):
    """A tiny experiment with the network of `write_tiny`, and its weights beside it."""
    settings, model = tiny
    made = TinyExperiment.create(tmp_path_factory.mktemp("quantise"))
    (made.folder / "config.py").rename(made.folder / "page.py")
    (made.folder / "config.py").write_text(PAGE.format(detector=settings, spec=SPEC))
    names = list(load_experiment(made.folder).config.val_data.read(made.data_root, None).class_names)
    card = {"model_name": "tiny", "num_classes": len(names), "class_names": names, "input": freeze(SPEC)["InputSpec"]}
    state = {"model": model.state_dict(), "detector": freeze(settings), **card}
    torch.save(state, made.folder.parent / "tiny.pth")
    return made


@pytest.fixture
def written_before(write_tiny, monkeypatch):
    """The float file is the one that other tests have, since the exporter takes its time."""

    def copied(request, path, **_):
        source = write_tiny(request.format, request.outputs)
        path.parent.mkdir(parents=True)
        shutil.copyfile(source.path, path)
        return dataclasses.replace(source, path=path)

    monkeypatch.setattr(quantise, "write", copied)


@pytest.mark.usefixtures("written_before")
def test_the_command_writes_both_files_and_ends_with_its_own_status(experiment, capsys, monkeypatch):
    output = experiment.folder.parent / "out"
    words = [
        str(experiment.folder),
        str(experiment.folder.parent / "tiny.pth"),
        "--data_root",
        str(experiment.data_root),
    ]
    words += ["--runtime", "openvino", "--calibration", "6", "--max_ap_loss", "100", "-o", str(output)]
    words += ["--judge_on", "train"]
    monkeypatch.setattr("sys.argv", ["quantise", *words])
    monkeypatch.setattr(quantise, "in_turns", lambda networks, inputs, rounds: [1.0, 2.0])
    with pytest.raises(SystemExit) as ended:
        quantise.main()
    assert ended.value.code == quantise.NOT_FASTER == 5
    told = capsys.readouterr().out
    assert "int8 is not faster here: keep float" in told
    assert [line.split()[0] for line in told.splitlines()[-4:-1]] == ["variant", "float", "int8"]
    assert told.splitlines()[-4].split()[1:4] == ["AP", "AP50", "voc_AP50"], "whatever chooses the page's best weights"
    assert "points of AP)" in told
    assert [line.split(",")[0] for line in told.splitlines() if ", train: " in line or line.startswith("on ")] == [
        *("float", "int8", "on val:"),  # by the one it is decided, of the other are the figures
    ]
    made = open_network(output / "tiny_experiment_int8.xml").card
    entries = made.source["quantisation"]
    data = load_experiment(experiment.folder).config.train_data.read(experiment.data_root, None)
    drawn = draw_pictures(data, 6, 0, made.input)
    assert entries["calibration"]["ids"] == list(drawn.ids)
    assert entries["calibration"]["digest"] == drawn.digest
    assert len(set(drawn.ids)) == 6
    assert draw_pictures(data, 6, 1, made.input).ids != drawn.ids
    assert made.precision == "int8"
    assert all(name.startswith("head.") for name in entries["float"])
    before = (output / "tiny_experiment_int8.bin").read_bytes()
    again = Writer(
        output / "tiny_experiment.onnx",
        output / "again.onnx",
        card=open_network(output / "tiny_experiment.onnx").card,
        pictures=drawn,
        options={},
        runtime="onnxruntime",
    )
    subject = commands.call(lambda _: quantise.open_subject(words[0], words[1]), None)
    for_ort = Calibrated(
        subject.model, drawn.images, float_layers=("backbone",), with_outputs=True, with_depthwise=False
    )
    network = again.write(*calibrated_layers(for_ort, frozenset()))
    assert network.card.source["quantisation"]["int8"] == list(for_ort.layers)
    kinds = Counter(node.op_type for node in onnx.load(output / "again.onnx").graph.node)
    assert kinds["QuantizeLinear"] > len(for_ort.layers), "what comes in and what goes out"
    assert len(before) < (output / "tiny_experiment.bin").stat().st_size


@pytest.mark.usefixtures("written_before")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_command_leaves_no_layer_in_float_if_asked_for(experiment, tmp_path, monkeypatch, runtime):
    """The tiny network has no depthwise convolutions, for which ONNX Runtime has no kernels."""
    words = [
        str(experiment.folder),
        str(experiment.folder.parent / "tiny.pth"),
        "--int8_outputs",
        "--limit_images",
        "1",
    ]
    words += ["--data_root", str(experiment.data_root), "--runtime", runtime, "--max_ap_loss", "100"]
    words += ["--calibration", "2", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(quantise, "in_turns", lambda networks, inputs, rounds: [2.0, 1.0])
    monkeypatch.setattr("sys.argv", ["quantise", *words])
    quantise.main()
    suffix = {"onnxruntime": ".onnx", "openvino": ".xml"}[runtime]
    card = open_network(tmp_path / "out" / f"tiny_experiment_int8{suffix}").card
    assert card.source["quantisation"]["float"] == []
    assert any(name.startswith("head.") for name in card.source["quantisation"]["int8"])


def test_the_benchmark_of_zeros_tells_shares_and_ratios(experiment, tiny, write_tiny, tmp_path, capsys, monkeypatch):
    """In each runtime; the files are those that other tests have, and nothing is asserted of the times."""

    def copied(request, path, **_):
        for file in files_of(write_tiny(request.format, request.outputs).path):
            shutil.copyfile(file, path.with_suffix(file.suffix))

    monkeypatch.setattr(sparsity, "write", copied)
    _, model = tiny
    dense = torch.load(experiment.folder.parent / "tiny.pth", weights_only=True)
    convs = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    pruned = {name: torch.zeros_like(value) if name in convs else value for name, value in dense["model"].items()}
    first = next(name for name in pruned if name in convs)
    pruned[first] = dense["model"][first]
    torch.save(dense | {"model": pruned}, tmp_path / "pruned.pth")
    files = [str(experiment.folder.parent / "tiny.pth"), str(tmp_path / "pruned.pth")]
    monkeypatch.setattr("sys.argv", ["sparsity", *files, "--formats", "openvino", "--rounds", "1"])
    sparsity.main()
    told = capsys.readouterr().out
    total = sum(dense["model"][name].numel() for name in convs)
    share = 100 * (1 - pruned[first].numel() / total)
    assert f"0.0 % of the dense, {share:.1f} % of the pruned" in told
    ways = ["torch", "openvino", "openvino, sparse"]
    assert re.findall(r"^(.*): dense [\d.]+ ms, pruned [\d.]+ ms$", told, re.MULTILINE) == ways
    assert re.findall(r"^  a pruned network in (.*): [\d.e-]+ of the time of the dense one$", told, re.M) == ways


def test_nncf_is_given_the_pictures_that_ours_is_calibrated_on(experiment, write_tiny, tmp_path, capsys, monkeypatch):
    """Its place is taken by a stand-in that changes nothing, so that its files find what the float one does."""
    given = []

    def left_as_it_is(model, images, *, subset_size, preset):
        assert subset_size == len(images)
        given.append(images)
        return model

    stand_in = types.SimpleNamespace(quantize=left_as_it_is, Dataset=list, QuantizationPreset=str)
    monkeypatch.setitem(sys.modules, "nncf", stand_in)
    for suffix in (".xml", ".bin"):
        shutil.copyfile(write_tiny("openvino", "boxes").path.with_suffix(suffix), tmp_path / f"net{suffix}")
    words = [str(experiment.folder), str(tmp_path / "net.xml"), "--calibration", "6"]
    monkeypatch.setattr("sys.argv", ["nncf_int8", *words, "--data_root", str(experiment.data_root)])
    nncf_int8.main()
    told = re.findall(r"^(.*): AP ([\d.]+), AP50 ([\d.]+), ", capsys.readouterr().out, re.M)
    assert [name for name, *_ in told] == ["float", "NNCF, performance", "NNCF, mixed"]
    assert told[0][1:] == told[1][1:] == told[2][1:]
    data = load_experiment(experiment.folder).config.train_data.read(experiment.data_root, None)
    ours = draw_pictures(data, 6, 0, SPEC)
    region = (0, 0, SPEC.size[1], SPEC.size[0])
    for images in given:
        assert len(images) == 6
        assert all(torch.equal(normalise(torch.from_numpy(a), SPEC, [region]), b) for a, b in zip(images, ours.images))


def test_too_many_pictures_are_asked_for(experiment):
    data = load_experiment(experiment.folder).config.train_data.read(experiment.data_root, None)
    with pytest.raises(ValueError, match="--calibration is 15; "):
        draw_pictures(data, 15, 0, load_experiment(experiment.folder).config.input)


def test_pictures_are_parted_in_halves(tmp_path, monkeypatch):
    """By id, each picture in one half, with its annotations; the second root is the first turned round."""
    source = tmp_path / "source"
    (source / "annotations").mkdir(parents=True)
    (source / "images/val2017").mkdir(parents=True)
    ids = [7, 3, 9, 1, 5]
    content = {
        "images": [{"id": number} for number in ids],
        "annotations": [{"id": 10 * number, "image_id": number} for number in ids],
        "categories": [{"id": 1}],
    }
    (source / "annotations/instances_val2017.json").write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["coco_halves", str(source), "-o", str(tmp_path / "halves")])
    coco_halves.main()
    found = {}
    for root in "ab":
        for split in ("train2017", "val2017"):
            place = tmp_path / "halves" / root / "coco"
            read = json.loads((place / f"annotations/instances_{split}.json").read_text())
            assert [entry["image_id"] for entry in read["annotations"]] == [image["id"] for image in read["images"]]
            assert (place / split).resolve() == (source / "images/val2017").resolve()
            found[root, split] = {image["id"] for image in read["images"]}
    assert found["a", "train2017"] == found["b", "val2017"] == {1, 5, 9}
    assert found["a", "val2017"] == found["b", "train2017"] == {3, 7}
