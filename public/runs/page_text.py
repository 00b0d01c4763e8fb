"""An experiment's page as a text that is edited: settings are replaced where they stand, everything else stays as it is.

The text stays as `ruff format` would have it: what does not fit into a line is written with one entry a line.
"""

import ast
import json
import textwrap

WIDTH = 120
LONGEST = 126  # what ruff bears of a text
INDENT = "    "


class PageText:
    """The text of a `config.py` whose `config = ...Config(...)` states the settings by keyword.

    Args:
        source: the text.
    """

    def __init__(self, source: str) -> None:
        self.lines = source.splitlines()
        self.card: list[str] = []  # as it was written last
        self._parse()

    def _parse(self) -> None:
        self.tree = ast.parse("\n".join(self.lines))
        self.assignment = next(
            node for node in self.tree.body if isinstance(node, ast.Assign) and _name(node) == "config"
        )
        call = self.assignment.value
        assert isinstance(call, ast.Call)
        self.settings = {str(keyword.arg): keyword for keyword in call.keywords}

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def expression(self, name: str) -> str:
        """The value of a setting as it is written."""
        return ast.get_source_segment("\n".join(self.lines), self.settings[name].value) or ""

    def set(self, name: str, expression: str, why: str | None = None) -> None:
        """Writes another value for a setting, below a comment that says why."""
        keyword = self.settings[name]
        written = rendered(expression, INDENT, f"{name}=", ",")
        self._replace(keyword.lineno, keyword.end_lineno, [*comment(why, INDENT), *written])

    def set_inner(self, name: str, inner: str, expression: str, why: str | None = None) -> None:
        """Writes another value wherever the objects of setting `name` have a keyword `inner`.

        Where it stands in a line of its own only that line changes, so that what stands around it stays.
        """
        keywords = [
            keyword
            for node in ast.walk(self.settings[name].value)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == inner
        ]
        if all(self.lines[k.lineno - 1].strip().startswith(f"{inner}=") and self._is_alone(k) for k in keywords):
            for keyword in sorted(keywords, key=lambda keyword: -keyword.lineno):
                indent = " " * keyword.col_offset
                written = rendered(expression, indent, f"{inner}=", ",")
                self._replace(keyword.lineno, keyword.end_lineno, [*comment(why, indent), *written])
            return
        value = ast.parse(self.expression(name), mode="eval")
        source = self.expression(name)
        edits = [
            (keyword.value, expression)
            for node in ast.walk(value)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == inner
        ]
        for node, new in sorted(edits, key=lambda edit: (-edit[0].lineno, -edit[0].col_offset)):
            source = _substituted(source, node, new)
        self.set(name, source, why)

    def _is_alone(self, keyword: ast.keyword) -> bool:
        line = self.lines[keyword.lineno - 1].rstrip().removesuffix(",")
        return keyword.lineno == keyword.end_lineno and len(line.encode()) == keyword.end_col_offset

    def drop(self, name: str) -> None:
        """Takes a setting away, which then has its default."""
        if name in self.settings:
            self._replace(self.settings[name].lineno, self.settings[name].end_lineno, [])

    def set_card(self, card: list[str]) -> None:
        """Writes the lines of the docstring."""
        self.card = card
        first = self.tree.body[0]
        safe = [line.replace("\\", "\\\\").replace('"""', "'''") for line in card]
        end = '"""  # noqa: E501' if max(map(len, safe)) > LONGEST else '"""'  # a line of names cannot be broken
        self._replace(first.lineno, first.end_lineno, [f'"""{safe[0]}', *safe[1:], end])

    def set_constants(self, constants: dict[str, tuple[str, str | None]]) -> None:
        """Writes name -> (expression, why) above the configuration, in place of the page's own values of these names.

        What nothing on the page uses any more is left out.
        """
        unused = _unused_constants(self.tree)
        for node in reversed(self.tree.body):
            if isinstance(node, ast.Assign) and _name(node) in ("CLASSES", *constants, *unused):
                self._replace(node.lineno, node.end_lineno, [])
        place = self.tree.body.index(self.assignment)
        space = ["", ""] if isinstance(self.tree.body[place - 1], ast.ClassDef) else [""]
        start = self.assignment.lineno - 1
        lines = [*"\n".join(self.lines[:start]).rstrip().splitlines(), *space]
        for name, (expression, why) in constants.items():
            lines += [*comment(why, ""), *rendered(expression, "", f"{name} = ", "")]
        self.lines = [*lines, *([""] if constants else []), *self.lines[start:]]
        self._parse()

    def set_imports(self, places: dict[str, str]) -> None:
        """Imports what the page uses and no more; `places`: name -> the module of names that are new on the page."""
        used = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        imports = [node for node in self.tree.body if isinstance(node, ast.ImportFrom) and not node.level]
        ours = [node for node in imports if str(node.module).startswith("public.")]
        names: dict[str, set[str]] = {}
        for node in ours:
            names.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
        for name, module in places.items():
            names.setdefault(module, set()).add(name)
        written = []
        for module in sorted(names):
            kept = sorted(names[module] & used, key=lambda name: (not name.isupper(), name))
            if kept:
                written += _import(module, kept)
        self._replace(ours[0].lineno, ours[-1].end_lineno, written)

    def _replace(self, first: int, last: int | None, lines: list[str]) -> None:
        self.lines[first - 1 : last] = lines
        self._parse()


def _unused_constants(tree: ast.Module) -> set[str | None]:
    """Names that are assigned on the page and used by nothing, or by such names only."""
    assigned = {_name(node): node for node in tree.body if isinstance(node, ast.Assign) and _name(node) != "config"}
    unused: set[str | None] = set()
    while True:
        left = [top for top in tree.body if top not in [assigned[name] for name in unused]]
        names = [node for top in left for node in ast.walk(top) if isinstance(node, ast.Name)]
        found = set(assigned) - {node.id for node in names if isinstance(node.ctx, ast.Load)}
        if found == unused:
            return unused
        unused = found


def _name(node: ast.Assign) -> str | None:
    return node.targets[0].id if isinstance(node.targets[0], ast.Name) else None


def _import(module: str, names: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    return [line] if len(line) <= WIDTH else [f"from {module} import (", *(f"{INDENT}{name}," for name in names), ")"]


def _substituted(source: str, node: ast.expr, new: str) -> str:
    """`source` with `new` where `node`, which was parsed from it, stands."""
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: (node.end_lineno or 1) - 1])) + (node.end_col_offset or 0)
    whole = source.encode()
    return (whole[:start] + new.encode() + whole[end:]).decode()


# ------------------------------------------------------------------------------------------------------- writing


def literal(value: object) -> str:
    """A text, number, or tuple of them in Python, as `ruff format` writes it."""
    if isinstance(value, tuple):
        inner = ", ".join(map(literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not isinstance(value, str):
        return repr(value)
    if '"' in value and "'" not in value and value.isprintable() and "\\" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=not value.isprintable())


def comment(why: str | None, indent: str) -> list[str]:
    """Lines of a comment."""
    width = WIDTH - len(indent) - 2
    return [f"{indent}# {line}" for line in textwrap.wrap(why, width, break_long_words=False)] if why else []


def rendered(expression: str, indent: str, before: str, after: str) -> list[str]:
    """The lines of `before` + expression + `after`: one if it fits, else one entry a line, and so on within."""
    return _render(ast.parse(expression, mode="eval").body, expression, indent, before, after)


def _render(node: ast.expr, source: str, indent: str, before: str, after: str) -> list[str]:
    flat = f"{indent}{before}{_flat(node, source)}{after}"
    if len(flat) <= WIDTH:
        return [flat]
    inner = indent + INDENT
    if isinstance(node, ast.Call):
        head = f"{indent}{before}{_flat(node.func, source)}("
        parts = [_render(item, source, inner, "", ",") for item in node.args]
        parts += [_render(keyword.value, source, inner, f"{keyword.arg}=", ",") for keyword in node.keywords]
    elif isinstance(node, ast.Tuple):
        head, parts = f"{indent}{before}(", [_render(item, source, inner, "", ",") for item in node.elts]
    else:
        return [flat]
    return [head, *(line for part in parts for line in part), f"{indent}){after}"]


def _flat(node: ast.expr, source: str) -> str:
    """`node` in one line; numbers and texts stay as they are written."""
    if isinstance(node, ast.Call):
        parts = [_flat(item, source) for item in node.args]
        parts += [f"{keyword.arg}={_flat(keyword.value, source)}" for keyword in node.keywords]
        return f"{_flat(node.func, source)}({', '.join(parts)})"
    if isinstance(node, ast.Tuple):
        inner = ", ".join(_flat(item, source) for item in node.elts)
        return f"({inner},)" if len(node.elts) == 1 else f"({inner})"
    return ast.get_source_segment(source, node) or ast.unparse(node)
