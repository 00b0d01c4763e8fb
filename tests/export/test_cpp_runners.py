"""The C++ examples: built where a compiler and the runtimes are at hand, they find what the file gives here.

$ENCORE_ONNXRUNTIME_ROOT and $ENCORE_NCNN_ROOT name folders with include/ (and lib/) of the runtimes, in place of those of the
system.  The library of ONNX Runtime is otherwise that of its wheel, which has no headers; ncnn's wheel has neither.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from public.export.formats import make_decoder, open_network
from public.input import inputs_of, prepare, read_image
from tests.export.conftest import SPEC
from tests.export.test_files import needs
from tests.helpers.lively import pictures
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_data import write_picture

SOURCES = REPOSITORY / "public/export/runners/cpp"
HEADERS = {
    "onnx": ("ENCORE_ONNXRUNTIME_ROOT", ("onnxruntime_cxx_api.h", "onnxruntime/onnxruntime_cxx_api.h")),
    "ncnn": ("ENCORE_NCNN_ROOT", ("ncnn/net.h",)),
}
# what the examples use of the two runtimes, declared so that a compiler can read them without the headers
STUBS = {
    "onnxruntime_cxx_api.h": """
#include <cstdint>
#include <string>
#include <vector>
enum { ORT_LOGGING_LEVEL_WARNING, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, OrtArenaAllocator, OrtMemTypeDefault };
namespace Ort {
struct Env { Env(int, const char*); };
struct SessionOptions { SessionOptions& SetIntraOpNumThreads(int); };
struct RunOptions { explicit RunOptions(std::nullptr_t); };
struct Name { const char* get() const; };
struct AllocatorWithDefaultOptions {};
struct MemoryInfo { static MemoryInfo CreateCpu(int, int); };
struct Shape { std::vector<std::int64_t> GetShape() const; int GetElementType() const; };
struct TypeInfo { Shape GetTensorTypeAndShapeInfo() const; };
struct Value {
    template <typename T> static Value CreateTensor(const MemoryInfo&, T*, std::size_t, const std::int64_t*, std::size_t);
    template <typename T> const T* GetTensorData() const;
};
struct Session {
    Session(const Env&, const char*, const SessionOptions&);
    std::size_t GetInputCount() const; std::size_t GetOutputCount() const;
    Name GetInputNameAllocated(std::size_t, AllocatorWithDefaultOptions&) const;
    TypeInfo GetInputTypeInfo(std::size_t) const;
    std::vector<Value> Run(const RunOptions&, const char* const*, const Value*, std::size_t, const char* const*, std::size_t);
};
}
""",
    "net.h": """
#include <vector>
namespace ncnn {
struct Option { int num_threads; bool use_fp16_packed, use_fp16_storage, use_fp16_arithmetic, use_bf16_storage; };
struct Mat { int w, h; Mat(); Mat(int, int, int); Mat channel(int); float* row(int); const float* row(int) const; };
struct Extractor { int input(const char*, const Mat&); int extract(const char*, Mat&); };
struct Net {
    Option opt;
    int load_param(const char*); int load_model(const char*);
    Extractor create_extractor() const; const std::vector<const char*>& output_names() const;
};
}
""",
}


def root_of(name: str) -> Path:
    """Where the runtime's headers are; without them the test is skipped, saying what is missing."""
    variable, headers = HEADERS[name]
    roots = [Path(os.environ[variable])] if variable in os.environ else [Path("/usr/local"), Path("/usr")]
    for root in roots:
        if any((root / "include" / header).is_file() for header in headers):
            return root
    pytest.skip(f"needs {headers[0]} in include/ of {' or '.join(map(str, roots))}; ${variable} names another folder")


def library_of_wheel(folder: Path) -> Path:
    """The library in the package onnxruntime, by the name that programs ask for."""
    found = importlib.util.find_spec("onnxruntime")
    libraries = [] if found is None else sorted(Path(found.origin).parent.glob("capi/libonnxruntime.so*"))
    if not libraries:
        pytest.skip("needs the library of ONNX Runtime, which neither the folder nor the package has")
    link = folder / "libonnxruntime.so.1"
    link.symlink_to(libraries[0])
    return link


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that builds one of the examples, once; its program."""
    kept: dict[str, Path] = {}

    def built(name: str) -> Path:
        if shutil.which("cmake") is None or shutil.which("c++") is None:
            pytest.skip("needs cmake and a C++ compiler")
        if name not in kept:
            root, folder = root_of(name), tmp_path_factory.mktemp(f"cpp_{name}")
            words = [f"-D{'NCNN' if name == 'ncnn' else 'ONNXRUNTIME'}_ROOT={root}", "-DCMAKE_BUILD_TYPE=Debug"]
            if name == "onnx" and not list((root / "lib").glob("**/libonnxruntime.so*")):
                words.append(f"-DONNXRUNTIME_LIBRARY={library_of_wheel(folder)}")
            run_whole(["cmake", "-S", SOURCES, "-B", folder, *words])
            run_whole(["cmake", "--build", folder, "--target", f"detect_{name}"])
            kept[name] = folder / f"detect_{name}"
        return kept[name]

    return built


def run_whole(words: list) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run(program: Path, *words) -> subprocess.CompletedProcess:
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A picture of the network's size."""
    path = tmp_path_factory.mktemp("ppm") / "picture.ppm"
    write_picture(path, prepare(pictures(1, 64, 96)[0], SPEC)[0])
    return path


@pytest.mark.parametrize(("name", "outputs"), [("onnx", "detections"), ("ncnn", "boxes")])
def test_they_find_what_we_find(name, outputs, build, picture, write_tiny, tmp_path):
    needs(name)
    program, path = build(name), write_tiny(name, outputs).path
    done = run(program, path, picture, "0.31")
    assert done.returncode == 0, done.stderr
    rows = np.array([[float(value) for value in line.split()] for line in done.stdout.splitlines()])
    network = open_network(path)
    batch, regions = torch.from_numpy(read_image(picture)[None]), [(0, 0, 96, 64)]
    (expected,) = make_decoder(network.card)(network(inputs_of(network, batch, SPEC, regions)), regions)
    labels, scores, boxes = (expected[name][expected["scores"] >= 0.31] for name in ("labels", "scores", "boxes"))
    assert len(rows) > 3
    assert rows[:, 0].tolist() == labels.tolist()
    np.testing.assert_allclose(rows[:, 1], scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(rows[:, 2:], boxes, rtol=0, atol=0.01)
    write_picture(tmp_path / "small.ppm", pictures(1, 32, 96)[0])
    (tmp_path / "cut.ppm").write_bytes(picture.read_bytes()[:-1])
    (tmp_path / "other.ppm").write_bytes(b"P5 96 64 255\n")
    for file, said in (("small", "pictures of 96 x 64 pixels, this one has 96 x 32"), ("cut", "ends"), ("other", "P6")):
        done = run(program, path, tmp_path / f"{file}.ppm")
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
    assert run(program).returncode == 2


def test_ncnn_refuses_what_it_does_not_do(build, picture, write_tiny, tmp_path):
    needs("ncnn")
    program, path = build("ncnn"), write_tiny("ncnn", "boxes").path
    entries = json.loads(Path(f"{path}.json").read_text())
    entries["card"]["decoder"] |= {"candidates_of": "level"}
    (tmp_path / "a.ncnn.param.json").write_text(json.dumps(entries))
    done = run(program, tmp_path / "a.ncnn.param", picture)
    assert done.returncode == 1
    assert "chosen by level" in done.stderr
    done = run(program, tmp_path / "b.ncnn.param", picture)
    assert "b.ncnn.param.json is no card" in done.stderr


@pytest.mark.parametrize(("name", "header"), [("onnx", "onnxruntime_cxx_api.h"), ("ncnn", "net.h")])
def test_a_compiler_reads_them(name, header, tmp_path):
    """Also where the runtimes' headers are missing: against declarations of what they use."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / header).write_text(STUBS[header])
    words = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    run_whole([*words, SOURCES / f"detect_{name}.cpp"])
