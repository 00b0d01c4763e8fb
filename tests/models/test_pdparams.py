"""Reading .pdparams: the layouts that Paddle writes, and nothing else; a hostile file is refused and nothing of it runs."""

import functools
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from public.weights import pdparams
from public.weights.pdparams import read_pdparams
from tests.figures.fill_rule import fill
from tests.helpers.paddle_files import TABLE, write_pdparams

PROTO = b"\x80\x04"


def refusal(tmp_path, content: bytes) -> str:
    """What is said about a file with `content`, in one line that names the file."""
    path = tmp_path / "hostile.pdparams"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as caught:
        read_pdparams(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def small() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in (("a.w", (2, 3)), ("a.b", (2,)))}


# ---------------------------------------------------------------------------------------------- Paddle's layouts


@pytest.mark.parametrize("layout", ["state_protocol2", "state_protocol4", "sliced_protocol2"])
def test_layouts_that_paddle_wrote(shared, layout):
    folder = shared / "oracles/paddle/pdparams_layouts"
    expected = np.load(folder / "expected.npz")
    found = read_pdparams(folder / f"{layout}.pdparams")
    assert set(found.arrays) == set(expected.files)
    for name in expected.files:
        assert found.arrays[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found.arrays[name], expected[name])
    assert found.left_out[TABLE] == "Paddle's table of internal names"
    assert ("UnpackBigParamInfor@@" in found.left_out) == (layout == "sliced_protocol2")


def test_a_state_dict_within_a_dict(shared):
    folder = shared / "oracles/paddle/pdparams_layouts"
    found = read_pdparams(folder / "nested_tuple.pdparams")
    expected = np.load(folder / "expected.npz")["backbone.conv1.conv.weight"]
    assert list(found.arrays) == ["w"]
    np.testing.assert_array_equal(found.arrays["w"], expected)
    assert found.left_out == {"epoch": "beside the weights"}


def test_a_whole_network_that_paddle_wrote(shared):
    folder = shared / "oracles/paddle/picodet_xs"
    found = read_pdparams(folder / "model.pdparams")
    state = json.loads((folder / "state.json").read_text())
    assert list(found.arrays) == [entry["name"] for entry in state["entries"]]
    for entry in state["entries"]:
        array = found.arrays[entry["name"]]
        assert array.shape == tuple(entry["shape"])
        if entry["role"] in ("parameter", "buffer"):
            np.testing.assert_array_equal(array, fill(entry["name"], tuple(entry["shape"])))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_is_written_is_read(tmp_path, protocol):
    """Every type of numbers, both orders in memory, no dimension, no element; the sum is that of the file."""
    arrays = {code: np.arange(6).astype(code).reshape(2, 3) for code in pdparams.NUMBER_TYPES}
    arrays |= {"fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "scalar": np.array(2.5)}
    arrays["one"] = np.array([7], dtype=np.int8)
    if protocol > 2:  # which keeps no bytes at all as one more call
        arrays["empty"] = np.zeros((0, 4))
    found = read_pdparams(write_pdparams(tmp_path / "x.pdparams", arrays, protocol))
    assert list(found.arrays) == list(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    assert found.sha256 == subprocess.check_output(["sha256sum", tmp_path / "x.pdparams"], text=True).split()[0]


def test_what_older_versions_of_numpy_wrote(tmp_path):
    """numpy 1 has another module name, and its types of numbers were once made with 0 and 1, not False and True."""
    content = pickle.dumps(small(), protocol=2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(
        b"\x89\x88\x87", b"K\x00K\x01\x87"
    )
    assert old.count(b"numpy.core") == content.count(b"numpy._core") == 1
    assert len(old) == len(content) - 1 + 2
    (tmp_path / "old.pdparams").write_bytes(old)
    for name, array in read_pdparams(tmp_path / "old.pdparams").arrays.items():
        np.testing.assert_array_equal(array, small()[name])


def test_cut_arrays_are_joined_in_their_place(tmp_path):
    whole = np.arange(10, dtype=np.float32).reshape(2, 5)
    parts = {"w@@.0": whole.ravel()[:6], "w@@.1": whole.ravel()[6:]}
    cuts = {"UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 5), "slices": list(parts)}}}
    found = read_pdparams(write_pdparams(tmp_path / "x.pdparams", {"a": whole, **parts, "b": whole, **cuts}))
    assert list(found.arrays) == ["a", "w", "b"]
    np.testing.assert_array_equal(found.arrays["w"], whole)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"OriginShape": (2, 5), "slices": ["w@@.0", "w@@.2"]}, r"'w' lacks its parts \['w@@\.2'\]"),
        ({"OriginShape": (2, 4), "slices": ["w@@.0", "w@@.1"]}, r"'w' have 10 numbers, its shape \(2, 4\)"),
        ({"OriginShape": (2, -5), "slices": ["w@@.0", "w@@.1"]}, "not made of whole numbers"),
        ({"OriginShape": (2, 5), "slices": []}, "does not say how 'w' was cut"),
        (5, "does not say how 'w' was cut"),
    ],
)
def test_cut_arrays_that_do_not_fit_are_named(tmp_path, cut, message):
    parts = {"w@@.0": np.zeros(6, dtype=np.float32), "w@@.1": np.zeros(4, dtype=np.float32)}
    path = write_pdparams(tmp_path / "x.pdparams", {**parts, "UnpackBigParamInfor@@": {"w": cut}})
    with pytest.raises(ValueError, match=message):
        read_pdparams(path)


# ---------------------------------------------------------------------------------------------- nothing runs


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def make_marker(path):
    """Something that leaves a trace; pickled by name, it is found again by Python's reader."""
    open(path, "w").close()


LIVE = {
    "posix.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"),
    "builtins.exec": lambda marker: Calls(exec, f"open({str(marker)!r}, 'w')"),
    "subprocess.Popen": lambda marker: Calls(subprocess.Popen, ["touch", str(marker)]),
    "functools.partial": lambda marker: Calls(functools.partial(make_marker, str(marker))),
    f"{__name__}.make_marker": lambda marker: Calls(make_marker, str(marker)),
    f"{io.open.__module__}.open": lambda marker: Calls(io.open, str(marker), "w"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", LIVE)
def test_calls_are_refused_by_name_and_do_not_happen(tmp_path, name, protocol):
    """Beside good weights; Python's own reader does what the file says, so the payload is a live one."""
    marker = tmp_path / "marker"
    evil = LIVE[name](marker)
    content = pickle.dumps([evil] if protocol == 0 else {**small(), "evil": evil}, protocol=protocol, fix_imports=False)
    if protocol == 0:  # its list is an instruction that Paddle's files have not, so the call alone
        assert "instruction LIST" in refusal(tmp_path, content)
        content = pickle.dumps(evil, protocol=0, fix_imports=False)
    assert repr(name) in refusal(tmp_path, content)
    assert not marker.exists()
    loaded = pickle.loads(content)
    loaded = loaded["evil"] if isinstance(loaded, dict) else loaded
    if callable(loaded):
        loaded()
    if isinstance(loaded, subprocess.Popen):
        loaded.wait()
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "numpy.testing._private.utils.runstring",
        "numpy.load",
        "numpy.core.multiarray.fromfile",
        "numpy.core.multiarray.scalar",
        "numpy.f2py.diagnose.run",
        "torch._utils._rebuild_tensor_v2",
        "torch.load",
        "torch.jit.load",
        "collections.OrderedDict",
        "builtins.getattr",
        "builtins.__import__",
        "codecs.encode",
        "_codecs.decode",
        "numpy.ndarray.tofile",
        "numpy._core.multiarray._reconstruct.__globals__",
        "a_package_that_is_not_there.function",
    ],
)
def test_other_names_are_refused_before_they_are_looked_up(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    before = set(sys.modules)
    old = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"X\x01\x00\x00\x00x\x85R."
    new = PROTO + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)) + b"\x93."
    for content in (old, new):
        assert repr(name) in refusal(tmp_path, content)
    assert set(sys.modules) == before


class Slots:
    __slots__ = ("value",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"(S'ls'\nios\nsystem\n.", "instruction STRING"),
        (b"(ios\nsystem\n.", "instruction INST os system"),
        (b"(o.", "instruction OBJ"),
        (PROTO + b"})\x81.", "instruction NEWOBJ"),
        (PROTO + b"})}\x92.", "instruction NEWOBJ_EX"),
        (PROTO + b"\x82\x01.", "instruction EXT1"),
        (PROTO + b"\x83\x01\x01.", "instruction EXT2"),
        (b"Pname\n.", "instruction PERSID"),
        (PROTO + b"NQ.", "instruction BINPERSID"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00x.", "instruction BYTEARRAY8"),
        (PROTO + b"\x8f.", "instruction EMPTY_SET"),
        (PROTO + b"}}b.", "sets a dict to a dict"),
        (PROTO + b"cnumpy\nndarray\n}b.", "sets the type of arrays to a dict"),
        (PROTO + b"cnumpy\nndarray\n)R.", "calls the type of arrays with a tuple"),
        (PROTO + b"\x8c\x05array)R.", "calls a str with a tuple"),
        (PROTO + b"c_codecs\nencode\n\x8c\x01a\x8c\x05utf-8\x86R.", "calls text to bytes with a tuple"),
        (PROTO + b"c_codecs\nencode\n\x8c\x01a\x8c\x0aunicode_es\x86R.", "calls text to bytes with a tuple"),
        (PROTO + b"cnumpy\ndtype\n\x8c\x01O\x89\x88\x87R.", "an array of the type 'O'"),
        (PROTO + b"cnumpy\ndtype\n\x8c\x0bf4,(2,)i8,O\x89\x88\x87R.", "an array of the type"),
        (PROTO + b"cbuiltins\ntuple\n\x8c\x01a\x85R.", "calls a tuple with a tuple"),
        (PROTO + b"}]K\x01s.", "an entry whose name is a list"),
        (PROTO + b"]K\x01K\x01s.", "entries of a list"),
        (PROTO + b"}K\x01a.", "APPEND to a dict"),
        (PROTO + b"}(K\x01u.", "entries of a dict"),
        (PROTO + b"]K\x01\x93.", "a name that is no text"),
        (PROTO + b"}\x8c\x01aK\x01s\x8c\x01aK\x02s.", "the entry 'a' twice"),
        (PROTO + b"].", "holds a list, not a dict of arrays"),
        (PROTO + b"}.", "holds no state dict"),
        (PROTO + b"}}.", "leaves 2 objects"),
        (PROTO + b"}.trailing", "8 bytes follow the end"),
        (PROTO + b"h\x05.", "it refers to entry 5, which it has not; download it again"),
        (PROTO + b"t.", "not a whole pickle"),
        (PROTO + b"0.", "instruction POP"),
        (PROTO + b"R.", "not a whole pickle"),
    ],
)
def test_instructions_that_no_weights_need(tmp_path, content, message):
    assert message in refusal(tmp_path, content)


def test_objects_of_python_classes_are_refused_by_the_name_of_the_class(tmp_path):
    things = {"OrderedDict": __import__("collections").OrderedDict(a=1), "Slots": Slots(), "tensor": torch.zeros(2)}
    for thing in things.values():
        for protocol in (2, 4):
            assert "nothing of it was imported" in refusal(tmp_path, pickle.dumps({"a": thing}, protocol=protocol))


def test_arrays_of_objects_are_refused(tmp_path):
    array = np.array([Calls(os.system, f"touch {tmp_path / 'marker'}")], dtype=object)
    message = refusal(tmp_path, pickle.dumps({"a": array}, protocol=4))
    assert "type 'O8'" in message or "posix.system" in message
    assert not (tmp_path / "marker").exists()


# ---------------------------------------------------------------------------------------------- claims


def with_text(*parts: bytes | str) -> bytes:
    """The parts, text as SHORT_BINUNICODE."""
    return b"".join(p if isinstance(p, bytes) else b"\x8c" + bytes([len(p)]) + p.encode() for p in parts)


ANNOUNCE = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOATS = with_text(
    b"cnumpy\ndtype\n", "f4", b"\x89\x88\x87R(K\x03", "<", b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def array_with(shape: tuple[int, ...], content: bytes, dtype: bytes = FLOATS) -> bytes:
    sides = b"".join(b"\x8a\x09" + side.to_bytes(9, "little", signed=True) for side in shape)
    return ANNOUNCE + b"(K\x01(" + sides + b"t" + dtype + b"\x89B" + struct.pack("<I", len(content)) + content + b"tb"


def test_the_hand_made_array_is_a_good_one(tmp_path):
    (tmp_path / "x").write_bytes(PROTO + b"}" + with_text("a") + array_with((2, 1), struct.pack("<2f", 1, 2)) + b"s.")
    np.testing.assert_array_equal(read_pdparams(tmp_path / "x").arrays["a"], np.float32([[1], [2]]))


HUGE = {
    "bytes": PROTO + b"\x8e" + struct.pack("<Q", 10**10) + b"x" * 90,
    "text": PROTO + b"\x8d" + struct.pack("<Q", 10**10) + b"x" * 90,
    "frame": PROTO + b"\x95" + struct.pack("<Q", 10**10) + b"}.",
    "memo": PROTO + b"}r\xff\xff\xff\xff.",
    "shape": PROTO + b"}" + with_text("a") + array_with((50000, 50000), b"1234") + b"s.",
    "overflow": PROTO + b"}" + with_text("a") + array_with((2**31 - 1,) * 8, b"") + b"s.",
    "side": PROTO + b"}" + with_text("a") + array_with((0, 2**62), b"") + b"s.",
    "negative": PROTO + b"}" + with_text("a") + array_with((-1, -1), b"1234") + b"s.",
    "too many bytes": PROTO + b"}" + with_text("a") + array_with((2,), b"x" * 12) + b"s.",
    "big endian": PROTO + b"}" + with_text("a") + array_with((1,), b"1234", FLOATS.replace(b"<", b">")) + b"s.",
    "no content": PROTO + b"}" + with_text("a") + ANNOUNCE + b"s.",
    "twice filled": PROTO + b"}" + with_text("a") + array_with((1,), b"1234") + b"(K\x01)NNNtb" + b"s.",
    "copies": b"\x80\x02}q\x00c_codecs\nencode\nq\x01X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x02"
    + (b"h\x01h\x02" + with_text("latin1") + b"\x86R") * 10**4 + b".",
    "same bytes": PROTO + b"}"
    + with_text("a") + array_with((1000,), b"1234" * 1000).replace(b"tb", b"q\x07tb")
    + b"".join(b"s" + with_text(f"b{i}") + ANNOUNCE + b"(K\x01(M\xe8\x03t" + FLOATS + b"\x89h\x07tb" for i in range(50))
    + b"s.",
    "nested": PROTO + b"\x8c\x01x" + b"\x85" * 2 * 10**4 + b".",
    "doubling": PROTO + b"}" + with_text("a") + b"".join(b"q\x01h\x01\x86" for _ in range(200)) + b"s.",
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGE)
def test_claims_beyond_the_file_are_refused_in_little_memory(tmp_path, kind):
    tracemalloc.start()
    message = refusal(tmp_path, HUGE[kind])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6 + 3 * len(HUGE[kind])
    expected = {
        "shape": "shape (50000, 50000), 10000000000 bytes, with 4 bytes",
        "big endian": "byte order '>'",
        "no content": "'a' has no content",
        "copies": "again and again",
        "same bytes": "the same bytes used again",
        "bytes": "only 90 remain",
    }
    assert expected.get(kind, "") in message


def test_a_file_of_instructions_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pdparams, "MAX_INSTRUCTIONS", 1000)
    assert "more than 1000 instructions" in refusal(tmp_path, PROTO + b"}" + b"\x94" * 1000 + b".")
    path = tmp_path / "fits"
    path.write_bytes(PROTO + b"}" + with_text("a") + array_with((1,), b"1234") + b"\x94" * 900 + b"s.")
    assert list(read_pdparams(path).arrays) == ["a"]


# ---------------------------------------------------------------------------------------------- damage


def test_every_cut_is_noticed(tmp_path):
    for protocol, step in ((2, 5), (4, 1)):
        content = write_pdparams(tmp_path / "whole", small(), protocol).read_bytes()
        for length in range(1, len(content), step):
            refusal(tmp_path, content[:length])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damaged_bytes_end_in_an_error_or_in_weights(tmp_path):
    """Never in another exception, and never in a crash."""
    generator = np.random.default_rng(0)
    content = write_pdparams(tmp_path / "whole", small()).read_bytes()
    path, refused = tmp_path / "damaged", 0
    for _ in range(500):
        damaged = bytearray(content)
        for place in generator.integers(len(content), size=generator.integers(1, 4)):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            found = read_pdparams(path)
        except ValueError:
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in found.arrays.values())
    assert 100 < refused < 500


def test_files_that_are_something_else(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", "x")
    torch.save({"model": {}}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert "a zip archive, as torch.save writes" in refusal(tmp_path, archive.getvalue())
    assert "a web page, not weights" in refusal(tmp_path, b"\n<!DOCTYPE html><html><body>404</body></html>")
    assert "follow the end of the pickle" in refusal(tmp_path, (tmp_path / "legacy.pth").read_bytes())
    assert "not a whole pickle" in refusal(tmp_path, b"\0" * 100)
    assert "not a whole pickle" in refusal(tmp_path, b"version https://git-lfs.github.com/spec/v1\n")
    assert "several dicts of them, ['a', 'b']" in refusal(tmp_path, pickle.dumps({"a": small(), "b": small()}))
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty is empty, 0 bytes"):
        read_pdparams(tmp_path / "empty")
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"there is no file {missing}"):
            read_pdparams(missing)


def test_entries_beside_the_weights_are_reported(tmp_path):
    path = write_pdparams(tmp_path / "x", {**small(), "epoch": 3, "note": "text", "more": {"w": small()["a.w"]}})
    found = read_pdparams(path)
    assert set(found.arrays) == {"a.w", "a.b"}
    assert found.left_out == {
        "epoch": "an int, no array",
        "note": "a str, no array",
        "more": "a dict, no array",
        TABLE: "Paddle's table of internal names",
    }
