"""Functions of the library that fit on a screen, and files that can be read in one go."""

import ast

import pytest

from public.files import REPOSITORY

FUNCTION, FILE = 60, 500  # lines
FILES = sorted((REPOSITORY / "public").rglob("*.py"))


def long_functions(source: str) -> dict[str, int]:
    """name -> lines, its docstring included, of each function above the limit."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    return {name: count for name, count in lines.items() if count > FUNCTION}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(REPOSITORY).as_posix())
def test_functions_and_files_are_short(file):
    source = file.read_text()
    assert not long_functions(source)
    assert len(source.splitlines()) <= FILE


def test_a_long_function_is_seen():
    source = "def f():\n" + "    x = 1\n" * FUNCTION
    assert long_functions(source) == {"f": FUNCTION + 1}
    assert not long_functions("def f():\n" + "    x = 1\n" * (FUNCTION - 1))
