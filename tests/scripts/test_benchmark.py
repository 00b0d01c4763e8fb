"""The benchmark's arithmetic, what it times, and that each option is in use.  No time is asserted."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import public
from public.input import normalise, prepare
from public.models.layers import RepVGGBlock
from public.test_scripts import benchmark as command
from public.test_scripts.benchmark import open_subject, parts_of, summarise, time_calls
from tests.helpers.numerics import assert_within_rounding, in_float64
from tests.helpers.tiny_data import make_picture, write_picture, write_voc
from tests.helpers.tiny_detector import SPEC, tolerances, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "tiny.pth")


def parse(*arguments):
    return command.make_parser().parse_args([*map(str, arguments), "--device", "cpu"])


def test_percentiles_and_throughput():
    """Of 0, 1, ..., 10 ms, in any order."""
    seconds = np.random.default_rng(0).permutation(11) / 1000
    timing = summarise(4, "forward", seconds.tolist())
    assert timing[:2] == (4, "forward")
    assert timing[2:] == pytest.approx((1.0, 5.0, 9.0, 4 / 0.005))


@pytest.mark.parametrize(("device", "waits"), [("cuda", ["wait"]), ("cpu", [])])
def test_what_is_timed_is_the_call_alone(monkeypatch, device, waits):
    """Warm-up calls are not timed; before each look at the clock a GPU is waited for."""
    events = []
    clock = iter(n**2 for n in range(100))

    def look():
        events.append("clock")
        return next(clock)

    monkeypatch.setattr(command.time, "perf_counter", look)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    seconds = time_calls(lambda: events.append("call"), 2, 3, torch.device(device))
    assert events == ["call", "call"] + 3 * [*waits, "clock", "call", *waits, "clock"]
    assert seconds == [1 - 0, 9 - 4, 25 - 16]


@pytest.mark.numeric
def test_end_to_end_is_the_detector(checkpoint):
    """The same boxes as public.load gives for each picture, and the parts are those of the same way."""
    subject, _, _ = open_subject(parse(checkpoint))
    pictures = [make_picture(np.random.default_rng(n), 50, 60 + n, 3)[0] for n in range(3)]
    detector = public.load(checkpoint, "cpu")
    parts, num_found = parts_of(subject, pictures)
    assert list(parts) == ["prepare", "forward", "nms", "end to end"]
    alone = [detector(picture) for picture in pictures]
    for image, found, expected in zip(pictures, parts["end to end"](), alone):
        np.testing.assert_allclose(
            found["boxes"].numpy(), expected["boxes"], rtol=0, atol=tolerances(detector, image)["boxes"]
        )
        assert found["labels"].tolist() == expected["labels"].tolist()
    assert num_found == sum(len(found["scores"]) for found in alone) > 0
    assert [len(found["scores"]) for found in parts["nms"]()] == [len(found["scores"]) for found in alone]
    assert parts["prepare"]()[0].shape == (3, *SPEC.size, 3)
    assert parts["forward"]().class_logits.shape[0] == 3


@pytest.mark.numeric
def test_each_option_is_in_use(checkpoint):
    picture = make_picture(np.random.default_rng(0), 64, 96, 3)[0]

    def forward(*options):
        subject, _, _ = open_subject(parse(checkpoint, *options))
        parts, _ = parts_of(subject, [picture])
        return subject, parts["forward"]()

    plain, expected = forward()
    assert any(isinstance(module, RepVGGBlock) for module in plain.model.modules())
    assert expected.class_logits.dtype == torch.float32
    fused, outputs = forward("--fuse")
    assert not any(isinstance(module, RepVGGBlock | nn.BatchNorm2d) for module in fused.model.modules())
    images = normalise(torch.from_numpy(prepare(picture, SPEC)[0])[None], SPEC)
    precise = in_float64(plain.model)(images).class_logits
    how = {"single": expected.class_logits, "double": precise, "cap": 1e-4}
    assert_within_rounding(outputs.class_logits, precise, **how)
    assert forward("--bf16")[1].class_logits.dtype == torch.bfloat16
    moved, outputs = forward("--channels_last")
    weight = next(p for p in moved.model.parameters() if p.dim() == 4 and min(p.shape) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not next(p for p in plain.model.parameters() if p.dim() == 4 and min(p.shape) > 1).is_contiguous(
        memory_format=torch.channels_last
    )
    assert forward("--shape", 128, 64)[1].level_sizes == ((4, 2), (8, 4), (16, 8))


def test_compile_wraps_the_network(checkpoint, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    open_subject(parse(checkpoint, "--compile", "--fuse"))
    assert len(compiled) == 1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in compiled[0].modules()), "fused first"


def run(capsys, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["benchmark", *map(str, arguments), "--device", "cpu"])
        command.main()
    return capsys.readouterr().out


def test_the_table_of_a_published_network(capsys, tmp_path):
    """Without weights and images the command says that the time of NMS means nothing."""
    quick = ("--repeats", 2, "--warmup", 0, "--batch_sizes", 1, 2, "--threads", 1, "--json", tmp_path / "times.json")
    said = run(capsys, "ppyoloe_xs", "--shape", 32, 32, *quick)
    assert "1 threads, float32" in said
    assert "weights: random; images: random pixels" in said
    assert "without trained weights and real images" in said
    content = json.loads((tmp_path / "times.json").read_text())
    assert [(row["batch_size"], row["part"]) for row in content["timings"]] == [
        (size, part) for size in (1, 2) for part in ("prepare", "forward", "nms", "end to end")
    ]
    assert all(0 < row["p10"] <= row["median"] <= row["p90"] for row in content["timings"])


def test_real_images_with_weights(capsys, checkpoint, experiment_folder, tmp_path):
    for number in range(3):
        write_picture(tmp_path / "photos" / f"{number}.png", make_picture(np.random.default_rng(number), 40, 60, 2)[0])
    quick = ("--repeats", 1, "--warmup", 0, "--batch_sizes", 2)
    said = run(capsys, checkpoint, "--image", tmp_path / "photos", *quick)
    assert f"weights: {checkpoint}; images: 3 of {tmp_path / 'photos'}" in said
    assert "mean nothing" not in said
    write_voc(tmp_path / "data", folder="tiny", split="val", num_images=5, seed=2)
    said = run(capsys, experiment_folder, checkpoint, "--val_images", "--data_root", tmp_path / "data", *quick)
    assert "images: 5 of " in said
    assert f"{SPEC.size[0]} x {SPEC.size[1]} pixels" in said, "the input that the checkpoint states"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ppyoloe_xs",), "say --shape HEIGHT WIDTH"),
        (("ppyoloe_xs", "some.pth", "--shape", 64, 64), "naming the checkpoint in place of ppyoloe_xs"),
        (("ppyoloe_xs", "--shape", 64, 64, "--val_images"), "--val_images needs an experiment's folder"),
        (("ppyoloe_xs", "--shape", 64, 64, "--batch_sizes", 0), "--batch_sizes is 0; it must be at least 1"),
        (("ppyoloe_xs", "--shape", 64, 64, "--repeats", 0), "--repeats is 0"),
        (("ppyoloe_xs", "--shape", 64, 64, "--val_images", "--image", "a.png"), "leave one out"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run(capsys, *arguments)
