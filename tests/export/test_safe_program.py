"""No .pt2 file executes what it holds: changed copies of one of ours are refused, each of which torch would obey or could."""

import contextlib
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from public.export.runners.torch import open_torch

MODEL = "models/model.json"


class Touch:
    """A pickle of it creates a file where it is opened by Python's own reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return (self.conv(images),)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    size = torch.export.Dim("batch", min=1, max=8)
    images = torch.zeros(2, 3, 8, 8)
    exported = torch.export.export(Network().eval(), (images,), dynamic_shapes=({0: size},))
    path = tmp_path_factory.mktemp("program") / "whole.pt2"
    torch.export.save(exported, path)
    return path


def changed(program: Path, path: Path, *, texts=(), files=(), added=()) -> Path:
    """A copy with other texts (name, old, new) in its parts, other parts, and further ones."""
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(path, "w") as target:
        root = source.namelist()[0].partition("/")[0]
        for whole in source.namelist():
            content = dict(files).get(whole.partition("/")[2], source.read(whole))
            for name, old, new in texts:
                if whole.endswith(name):
                    assert old in content.decode(), (name, old)
                    content = content.decode().replace(old, new).encode()
            target.writestr(whole, content)
        for name, content in added:
            target.writestr(f"{root}/{name}", content)
    return path


def pickled(trace: Path) -> bytes:
    """As torch.save writes it, so that torch.load would obey."""
    buffer = trace.with_suffix(".pt")
    torch.save(Touch(trace), buffer)
    return buffer.read_bytes()


def test_a_file_of_torch_is_opened(program):
    run, _ = open_torch(program)
    (found,) = run([torch.zeros(3, 3, 8, 8).numpy()])
    assert found.shape == (3, 4, 6, 6)


SYMBOL = "Symbol('s"
TEXTS = {
    "an expression": (
        MODEL,
        f'"expr_str": "{SYMBOL}',
        f'"expr_str": "__import__(\'os\').getcwd() and {SYMBOL}',
        "size",
    ),
    "a function": (MODEL, "torch.ops.aten.conv2d.default", "torch.os.system", r"calls 'torch\.os\.system'"),
    "an operation on files": (MODEL, "torch.ops.aten.conv2d.default", "torch.ops.aten.from_file.default", "from_file"),
    "another module": (MODEL, "torch.ops.aten.conv2d.default", "math.factorial", "no operation of a network"),
    "a container": (MODEL, "builtins.tuple", "collections.defaultdict", "no plain container"),
    "a module of a container": (MODEL, r"\"context\": \"null\"", r"\"context\": \"{}\"", "no plain container"),
    "a pickled weight": ("model_weights_config.json", '"use_pickle": false', '"use_pickle": true', "as a pickle"),
    "half a text": (MODEL, "{", "", "damaged"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_could_be_executed_is_refused(case, program, tmp_path):
    name, old, new, told = TEXTS[case]
    path = changed(program, tmp_path / "other.pt2", texts=[(name, old, new)])
    with pytest.raises(ValueError, match=rf"other\.pt2 cannot be opened as a program of torch\.export: .*{told}"):
        open_torch(path)


def test_sample_inputs_and_constants_are_no_pickles(program, tmp_path):
    """torch itself obeys both, as the first lines show."""
    trace = tmp_path / "trace"
    inputs = changed(program, tmp_path / "inputs.pt2", files=[("data/sample_inputs/model.pt", pickled(trace))])
    config = {
        "config": {"kept": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    constants = changed(
        program,
        tmp_path / "constants.pt2",
        files=[("data/constants/model_constants_config.json", json.dumps(config).encode())],
        added=[("data/constants/opaque_obj_0", pickle.dumps(Touch(trace)))],
    )
    for path in (inputs, constants):
        with contextlib.suppress(Exception):  # whatever torch makes of what is no tensor
            torch.export.load(path)
        assert trace.exists(), path
        trace.unlink()
        with pytest.raises(ValueError, match=r"more than tensors|opaque_obj_0|as a pickle"):
            open_torch(path)
        assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/wrapper.so", "data/constants/custom_obj_0", "models/other.json"]
)
def test_no_other_part_is_taken(name, program, tmp_path):
    path = changed(program, tmp_path / "other.pt2", added=[(name, b"")])
    with pytest.raises(ValueError, match="not of a program of operations and numbers alone"):
        open_torch(path)
    path.write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="damaged"):
        open_torch(path)
