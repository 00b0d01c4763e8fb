"""Text files are read and written in UTF-8, whatever the locale: none is opened without saying so."""

import ast

import pytest

from public.files import REPOSITORY

FILES = sorted((REPOSITORY / "public").rglob("*.py"))
METHODS = ("read_text", "write_text")


def without_encoding(source: str) -> list[str]:
    """The calls that leave the encoding of a text file to the locale."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = ast.unparse(node.func)
        is_text = name.endswith(tuple(f".{method}" for method in METHODS))
        if name == "open" or name.endswith("fdopen"):
            modes = [*(a for a in node.args[1:2]), *(k.value for k in node.keywords if k.arg == "mode")]
            is_text = not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
        if is_text:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(REPOSITORY).as_posix())
def test_every_text_file_states_its_encoding(file):
    assert not without_encoding(file.read_text(encoding="utf-8"))


def test_the_rule_can_fail():
    assert len(without_encoding("open(a)\nopen(a, 'w')\npath.read_text()\npath.write_text(b)\n")) == 4
    assert not without_encoding(
        "open(a, 'rb')\nopen(a, mode='ab')\npath.read_text(encoding='utf-8')\nwrite_text(a, b)\n"
    )


@pytest.mark.parametrize("name", ["imread", "imwrite", "imreadmulti", "haveImageReader", "haveImageWriter", "imcount"])
def test_no_file_reaches_opencv_by_name(name):
    """OpenCV ends the process at a name that is no UTF-8: pictures are decoded and encoded in memory."""
    assert not [file for file in FILES if f"cv2.{name}(" in file.read_text(encoding="utf-8")]
