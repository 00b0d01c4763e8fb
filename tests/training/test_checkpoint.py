"""Checkpoints: whole or not at all, safe to read, and complete; digests of weights; starting weights."""

import copy
import os
import pickle
import random
import re
import resource
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from public.checkpoint_files import digest, load_checkpoint, save_atomic
from public.parts import load_state
from public.runs.checkpoint import PARTS
from public.training.ema import EMA
from public.training.optimizers import SGD, AdamW
from public.training.state import TrainingState
from public.weights.load import load_starting_weights
from public.weights.torch_files import read_torch_file
from tests.helpers.processes import CONTEXT, start_process


def content(number: int) -> dict:
    """A checkpoint of about 400 kB all of whose parts say `number`."""
    weights = {"w": torch.full((100, 1000), float(number))}
    return {"model": weights, "number": number, "class_names": ["a", "b"], "nested": {"pair": (1, None, True)}}


def check_content(path: Path) -> int:
    """The number of the checkpoint at `path`, which must be whole."""
    value = load_checkpoint(path)
    assert (value["model"]["w"] == value["number"]).all()
    assert value["nested"] == {"pair": (1, None, True)}
    return value["number"]


# ---------------------------------------------------------------------------------------------- writing


def test_what_is_saved_is_read_back_and_nothing_else_is_left(tmp_path):
    save_atomic(content(1), tmp_path / "latest.pth")
    save_atomic(content(2), tmp_path / "latest.pth")
    assert check_content(tmp_path / "latest.pth") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pth"]


def die_while_saving(path: Path, moment: str) -> None:
    """Starts to save and ends the process, as a kill would, at `moment`."""

    def write_half(value: dict, file) -> None:
        file.write(b"half of a checkpoint")
        file.flush()
        os._exit(9)

    def die(*_) -> None:
        os._exit(9)

    if moment == "half written":
        torch.save = write_half
    elif moment == "not yet flushed":
        os.fsync = die
    elif moment == "not yet renamed":
        os.replace = die
    save_atomic(content(2), path)


@pytest.mark.parametrize("moment", ["half written", "not yet flushed", "not yet renamed"])
def test_killed_while_saving_the_old_checkpoint_is_whole(tmp_path, moment):
    path = tmp_path / "latest.pth"
    save_atomic(content(1), path)
    process = start_process(die_while_saving, path, moment)
    process.join(60)
    assert process.exitcode == 9
    assert check_content(path) == 1
    save_atomic(content(3), path)  # what the kill left behind is no obstacle
    assert check_content(path) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pth"]


def save_without_end(path: Path) -> None:
    for number in range(2, 1_000_000):
        save_atomic(content(number), path)


def test_killed_at_any_moment_the_checkpoint_is_whole(tmp_path):
    path = tmp_path / "latest.pth"
    save_atomic(content(1), path)
    moments = random.Random(0)
    for _ in range(6):
        before = path.stat().st_mtime_ns
        process = start_process(save_without_end, path)
        deadline = time.monotonic() + 60
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        assert check_content(path) >= 2


def save_with_a_limit(path: Path, limit: int, answer) -> None:
    """Saves where no file may grow above `limit` bytes, as on a full disk; sends the error's type and text."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save_atomic(content(2), path)
    except BaseException as error:
        answer.send((type(error), str(error)))
    else:
        answer.send((None, ""))


@pytest.mark.parametrize("limit", [0, 10, 1000, 50_000, 399_000])
def test_a_full_disk_is_named_and_costs_nothing(tmp_path, limit):
    path = tmp_path / "latest.pth"
    save_atomic(content(1), path)
    question, answer = CONTEXT.Pipe(duplex=False)
    process = start_process(save_with_a_limit, path, limit, answer)
    assert question.poll(60)
    kind, text = question.recv()
    process.join(60)
    assert kind is OSError
    assert str(path) in text
    assert "File too large" in text, "the reason is the system's"
    assert "what was there before is kept" in text
    assert check_content(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pth"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match=r"absent/latest\.pth could not be written"):
        save_atomic(content(1), tmp_path / "absent" / "latest.pth")


def test_the_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("flush"), flush(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), rename(*paths))[1])
    save_atomic(content(1), tmp_path / "latest.pth")
    assert calls == ["flush", "rename", "flush"]  # the last one is the folder's


# ---------------------------------------------------------------------------------------------- reading


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_file_that_would_execute_something_is_refused(tmp_path, save):
    path, trace = tmp_path / "harmful.pth", tmp_path / "trace"
    save({"model": {"w": torch.zeros(1)}, "extra": Harmful(trace)}, path)
    with pytest.raises(ValueError, match=r"harmful\.pth is not a checkpoint that can be read safely: it ") as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value)  # torch's advice to execute what it holds
    assert not trace.exists()
    if save is torch.save:  # the file is harmful indeed
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_objects_of_other_classes_are_refused(tmp_path):
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "module.pth")
    with pytest.raises(
        ValueError, match=r"module\.pth is not a checkpoint that can be read safely: it holds code, torch"
    ):
        load_checkpoint(tmp_path / "module.pth")


def test_damaged_absent_and_foreign_files_are_named(tmp_path):
    save_atomic(content(1), tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("half.pth", "empty.pth"):
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint that can be read safely: [^\n]{{1,100}}$"):
            load_checkpoint(tmp_path / name)
    for value in ([1], {"state_dict": {}}, torch.zeros(1)):
        torch.save(value, tmp_path / "foreign.pth")
        with pytest.raises(ValueError, match=r"foreign\.pth .* it has no entry 'model'"):
            load_checkpoint(tmp_path / "foreign.pth")
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*absent\.pth"):
        load_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: torch.empty(3, device="meta"), r"is no plain array of numbers \(meta"),
        (lambda: torch.eye(3).to_sparse(), r"is no plain array of numbers \(cpu, torch\.sparse_coo"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is no plain array of numbers"),
        (lambda: torch.zeros(1).expand(10**9), r"has 1000000000 numbers .* of which the file holds 1$"),
        (lambda: torch.zeros(2, 1).expand(2, 10**6), "has 2000000 numbers .* of which the file holds 2$"),
    ],
    ids=["meta", "sparse", "quantised", "a billion of one", "a million of each"],
)
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_tensors_that_are_no_plain_arrays_are_named(tmp_path, make, text):
    """Found by 10,000 cases of the fuzz test: a file of a few bytes may say that it holds gigabytes, or nothing."""
    tensor = make()
    where = {
        "model.a": {"model": {"a": tensor}},
        "training.x[1].b": {"model": {}, "training": {"x": [1, {"b": tensor}]}},
    }
    for name, value in where.items():
        torch.save(value, tmp_path / "a.pth")
        for read in (lambda: load_checkpoint(tmp_path / "a.pth"), lambda: read_torch_file(tmp_path / "a.pth")):
            with pytest.raises(ValueError, match=rf"a\.pth is damaged: its tensor '{re.escape(name)}' {text}"):
                read()


def test_a_name_without_end_is_cut_in_the_message(tmp_path):
    torch.save({"model": {"name" * 5000: torch.zeros(1)}}, tmp_path / "a.pth")
    for read in (load_checkpoint, read_torch_file):
        with pytest.raises(ValueError, match=r"a\.pth is damaged: a name in it has 20000 letters: 'name.{1,120}$"):
            read(tmp_path / "a.pth")


def test_views_of_one_tensor_are_plain_arrays(tmp_path):
    """Transposed, parts of one another, empty: what other programs save, too."""
    whole = torch.arange(12.0).view(3, 4)
    state = {"a": whole, "b": whole.T, "c": whole[1:, :2], "d": torch.zeros(0, 4), "e": whole[0, 0]}
    torch.save({"model": state}, tmp_path / "a.pth")
    found = load_checkpoint(tmp_path / "a.pth")["model"]
    assert all(torch.equal(found[name], value) for name, value in state.items())


# ---------------------------------------------------------------------------------------------- digests


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(2, 3, 4, 4), "b": torch.tensor(3), "c": torch.zeros(0), "d": torch.tensor([True, False])}


def changed(**changes) -> dict[str, torch.Tensor]:
    return state() | changes


def one_bit_flipped(tensor: torch.Tensor) -> torch.Tensor:
    flipped = tensor.clone()
    flipped.view(torch.int32)[0, 1, 2, 3] ^= 1
    return flipped


def test_the_digest_is_that_of_equal_content():
    whole = state()
    assert digest(state()) == digest(whole)
    assert digest(dict(reversed(whole.items()))) == digest(whole), "the order of the names does not count"
    a = whole["a"]
    for same in (a.to(memory_format=torch.channels_last), a.mT.contiguous().mT, a.clone().requires_grad_(), a[:, :]):
        assert digest(changed(a=same)) == digest(whole)


def test_anything_else_has_another_digest():
    a = state()["a"]
    without = state()
    del without["c"]
    renamed = state()
    renamed["aa"] = renamed.pop("a")
    others = [
        state(),
        without,
        renamed,
        changed(a=one_bit_flipped(a)),
        changed(a=a.view(3, 2, 4, 4)),
        changed(a=a.flatten()),
        changed(a=a.mT.contiguous()),
        changed(a=a.view(torch.int32)),
        changed(a=a.double()),
        changed(a=a.bfloat16()),
        changed(a=a.half()),
        changed(b=torch.tensor([3])),
        changed(b=torch.tensor(3, dtype=torch.int32)),
        changed(c=torch.zeros(0, 1)),
        changed(d=torch.tensor([1, 0], dtype=torch.uint8)),
        changed(b=torch.tensor(-0.0)),
        changed(b=torch.tensor(0.0)),
    ]
    digests = [digest(other) for other in others]
    assert len(set(digests)) == len(others)


# ---------------------------------------------------------------------------------------------- the whole state


SGD_OF_TEST = SGD(momentum=0.9, nesterov=False, weight_decay=0.1, decay_normalisation=False, decay_bias=False)
ADAM_OF_TEST = AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, decay_normalisation=False, decay_bias=False)


def make_state(*, with_ema: bool) -> TrainingState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(1))
    model(torch.zeros(2, 3, 5, 5))
    return TrainingState(
        model=model,
        optimizer=SGD_OF_TEST.build(model, lr=0.1),
        ema=EMA(decay=0.5).build(model) if with_ema else None,
        scaler=torch.amp.GradScaler("cpu", enabled=True, init_scale=8.0, growth_interval=2),
    )


def train(state: TrainingState, num_steps: int) -> None:
    for _ in range(num_steps):
        torch.manual_seed(state.step)
        state.optimizer.zero_grad()
        state.scaler.scale(state.model(torch.randn(4, 3, 5, 5)).square().sum()).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema:
            state.ema.update(state.model)
        state.step += 1


def digests(state: TrainingState) -> list[str]:
    return [digest(state.model.state_dict()), digest(state.weights.state_dict())]


def test_the_optimizers_state_is_alike_for_all_parameters():
    """What the first step of a resumed run would find; by 1,500 cases of the fuzz test."""
    first = make_state(with_ema=False)
    train(first, 2)
    saved = first.state_dict()
    optimizer = next(part["optimizer"] for part in (saved, saved.get("training", {})) if "optimizer" in part)
    optimizer["state"][1]["momentum_buffer"] = 0
    text = "the state of parameter 1 is momentum_buffer a number, that of parameter 0 momentum_buffer a tensor"
    with pytest.raises(ValueError, match=text):
        make_state(with_ema=False).load_state_dict(saved)


def test_an_optimizer_that_lost_the_state_of_one_parameter_is_told():
    """A parameter that never had a gradient has none either: so a checkpoint says how many had."""
    first = make_state(with_ema=False)
    train(first, 2)
    saved = copy.deepcopy(first.state_dict())
    count = len(saved["training"]["optimizer"]["state"])
    del saved["training"]["optimizer"]["state"][1]
    text = f"it has the state of {count - 1} parameters, the checkpoint was written with {count}"
    with pytest.raises(ValueError, match=text):
        make_state(with_ema=False).load_state_dict(saved)
    kept = first.state_dict()
    del kept["training"]["num_optimizer_states"]  # of a checkpoint from before
    make_state(with_ema=False).load_state_dict(kept)


@pytest.mark.parametrize("with_ema", [False, True])
def test_a_state_that_was_saved_goes_on_with_the_same_bits(tmp_path, with_ema):
    whole = make_state(with_ema=with_ema)
    train(whole, 5)
    first = make_state(with_ema=with_ema)
    train(first, 3)
    first.best, first.evaluations_without_best, first.phase, first.metrics = 0.25, 2, "evaluating", {"AP": None}
    save_atomic(first.state_dict(), tmp_path / "latest.pth")
    second = make_state(with_ema=with_ema)
    train(second, 1)  # another state, all of which must be replaced
    second.load_state_dict(load_checkpoint(tmp_path / "latest.pth"))
    assert (second.step, second.best, second.evaluations_without_best) == (3, 0.25, 2)
    assert (second.phase, second.metrics) == ("evaluating", {"AP": None})
    assert second.scaler.get_scale() == first.scaler.get_scale()
    assert digests(second) == digests(first)
    train(second, 2)
    assert digests(second) == digests(whole)
    assert second.scaler.get_scale() == whole.scaler.get_scale() != 8.0


def test_the_checkpoint_holds_the_weights_to_use():
    trained = make_state(with_ema=True)
    train(trained, 3)
    saved = trained.state_dict()
    assert digest(saved["model"]) == digest(trained.ema.model.state_dict()) != digest(trained.model.state_dict())


ALL_PARTS = (*PARTS, "raw_model", "ema")


@pytest.mark.parametrize("part", ALL_PARTS)
def test_a_part_of_the_state_that_is_missing_is_named(part):
    state = make_state(with_ema=True)
    saved = state.state_dict()
    assert {*ALL_PARTS, "num_optimizer_states"} == saved["training"].keys()
    del saved["training"][part]
    with pytest.raises(ValueError, match=f"lacks '{part}'"):
        state.load_state_dict(saved)
    with pytest.raises(ValueError, match="lacks 'training'"):
        state.load_state_dict({"model": saved["model"]})


@pytest.mark.parametrize(("part", "inner"), [("ema", "num_updates"), ("ema", "decay_product"), ("optimizer", "state")])
def test_what_a_part_lacks_is_named(part, inner):
    state = make_state(with_ema=True)
    saved = state.state_dict()
    del saved["training"][part][inner]
    with pytest.raises(ValueError, match=f"lacks '{inner}'"):
        state.load_state_dict(saved)


def test_weights_that_do_not_fit_are_named():
    state = make_state(with_ema=True)
    saved = state.state_dict()
    del saved["training"]["raw_model"]["0.bias"]
    with pytest.raises(ValueError, match=r"does not fit the model.*0\.bias"):
        state.load_state_dict(saved)


class Scaled(nn.Linear):
    """With a parameter that is one number, as FCOS's scales."""

    def __init__(self) -> None:
        super().__init__(3, 1)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(x)


@pytest.mark.parametrize("name", ["step", "exp_avg"])
@pytest.mark.parametrize("settings", [SGD_OF_TEST, ADAM_OF_TEST], ids=["SGD", "AdamW"])
def test_parameters_that_are_one_number_go_on_and_are_checked(settings, name):
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = Scaled()
        optimizer, scaler = settings.build(model, lr=0.1), torch.amp.GradScaler("cpu", enabled=False)
        states.append(TrainingState(model=model, optimizer=optimizer, ema=None, scaler=scaler))
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    first, second = states
    saved = copy.deepcopy(first.state_dict())
    second.load_state_dict(saved)
    assert digests(second) == digests(first)
    number = [parameter.ndim for group in first.optimizer.param_groups for parameter in group["params"]].index(0)
    entries = saved["training"]["optimizer"]["state"][number]
    if name in entries:
        for damaged in (torch.ones(2), torch.tensor(1), torch.tensor(1j)):
            entries[name] = damaged
            with pytest.raises(ValueError, match=f"{name} of parameter {number}, torch.float32 of shape"):
                second.load_state_dict(saved)


def test_one_number_in_place_of_many_is_told():
    """torch's fused step would read beyond it."""
    trained = make_state(with_ema=False)
    train(trained, 2)
    saved = copy.deepcopy(trained.state_dict())
    saved["training"]["optimizer"]["state"][2]["momentum_buffer"] = torch.tensor(1.0)
    text = "momentum_buffer is one number of one of the parameters 0 and 2, and not of the other"
    with pytest.raises(ValueError, match=text):
        make_state(with_ema=False).load_state_dict(saved)


def test_an_optimizer_may_keep_single_numbers():
    """NAdam's mu_product, for one."""
    states = [make_state(with_ema=False) for _ in range(2)]
    for state in states:
        state.optimizer = torch.optim.NAdam(state.model.parameters(), lr=0.1)
    train(states[0], 2)
    saved = copy.deepcopy(states[0].state_dict())
    assert not saved["training"]["optimizer"]["state"][0]["mu_product"].ndim
    states[1].load_state_dict(saved)
    assert digests(states[1]) == digests(states[0])


@pytest.mark.parametrize("kind", [torch.complex64, torch.float64, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize("part", ["model", "raw_model", "momentum_buffer"])
def test_numbers_of_another_kind_do_not_go_on(part, kind):
    """torch casts them without a word, complex numbers to their real part; a run that goes on needs the very bits."""
    trained = make_state(with_ema=True)
    train(trained, 2)
    saved = copy.deepcopy(trained.state_dict())
    if part == "momentum_buffer":
        entries, name = saved["training"]["optimizer"]["state"][1], part
    else:
        entries, name = saved["model"] if part == "model" else saved["training"][part], "0.weight"
    entries[name] = entries[name].to(kind)
    before = make_state(with_ema=True)
    first = digests(before)
    with pytest.raises(ValueError, match=rf"does not fit .*{name}.* {kind}"):
        before.load_state_dict(saved)
    if part != "momentum_buffer":
        assert digests(before) == first, "nothing was taken over"


# ---------------------------------------------------------------------------------------------- starting weights


class Network(nn.Module):
    class_layers = ("head.cls",)

    def __init__(self, *, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.head = nn.ModuleDict({"cls": nn.Conv2d(width, num_classes, 1), "reg": nn.Conv2d(width, 4, 1)})


@pytest.fixture
def starting_file(tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    state = Network(num_classes=3).state_dict()
    save_atomic({"model": state, "num_classes": 3}, tmp_path / "start.pth")
    return tmp_path / "start.pth", state


def test_starting_weights_are_taken_over(starting_file):
    path, state = starting_file
    model = Network(num_classes=3)
    assert load_starting_weights(model, path) == []
    assert digest(model.state_dict()) == digest(state)


def test_other_class_layers_keep_their_initial_values_and_are_named(starting_file):
    path, state = starting_file
    model = Network(num_classes=7)
    own = copy.deepcopy(model.state_dict())
    lines = load_starting_weights(model, path)
    assert [line.split(":")[0] for line in lines] == ["head.cls.weight", "head.cls.bias"]
    assert all("(3" in line and "(7" in line for line in lines)
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("head.cls") else state[name]), name


def test_any_other_difference_is_an_error_that_names_it(starting_file):
    path, state = starting_file
    with pytest.raises(
        ValueError, match=r"backbone\.0\.weight has shape \(4, 3, 3, 3\), the model's has \(5, 3, 3, 3\)"
    ):
        load_starting_weights(Network(num_classes=3, width=5), path)
    renamed = {name.replace("reg", "box"): value for name, value in state.items()}
    save_atomic({"model": renamed, "num_classes": 3}, path)
    model = Network(num_classes=3)
    before = digest(model.state_dict())
    with pytest.raises(ValueError, match=r"lacks \['head\.reg.*does not know \['head\.box"):
        load_starting_weights(model, path)
    assert digest(model.state_dict()) == before


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64, torch.bool], ids=str)
def test_numbers_of_another_kind_are_no_weights(starting_file, kind):
    path, state = starting_file
    name = "backbone.0.weight"
    save_atomic({"model": state | {name: state[name].to(kind)}, "num_classes": 3}, path)
    model = Network(num_classes=3)
    before = digest(model.state_dict())
    match = rf"start\.pth: backbone\.0\.weight has numbers of {kind}, the model's are of torch\.float32"
    with pytest.raises(ValueError, match=match):
        load_starting_weights(model, path)
    assert digest(model.state_dict()) == before
    counter = "backbone.1.num_batches_tracked"
    save_atomic({"model": state | {counter: torch.tensor(2.5)}, "num_classes": 3}, path)
    with pytest.raises(ValueError, match=rf"{counter} has numbers of torch\.float32, the model's are of torch\.int64"):
        load_starting_weights(model, path)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64], ids=str)
def test_numbers_of_another_kind_are_not_put_into_a_network(kind):
    """Where weights are only used, not trained on."""
    model = Network(num_classes=3)
    before = digest(model.state_dict())
    state = copy.deepcopy(model.state_dict())
    state["head.reg.bias"] = state["head.reg.bias"].to(kind)
    with pytest.raises(RuntimeError, match=rf"head\.reg\.bias has numbers of {kind}"):
        load_state(model, state)
    assert digest(model.state_dict()) == before


def test_weights_in_half_precision_are_widened(starting_file):
    path, state = starting_file
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_atomic({"model": half, "num_classes": 3}, path)
    model = Network(num_classes=3)
    assert load_starting_weights(model, path) == []
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, half[name].to(value.dtype))


def test_class_layers_of_another_shape_need_another_number_of_classes(starting_file):
    """A class layer that differs although the classes agree is damage, not transfer."""
    path, state = starting_file
    cut = state | {"head.cls.weight": state["head.cls.weight"][:, :2]}
    save_atomic({"model": cut, "num_classes": 3}, path)
    with pytest.raises(ValueError, match=r"head\.cls\.weight has shape \(3, 2, 1, 1\)"):
        load_starting_weights(Network(num_classes=3), path)
