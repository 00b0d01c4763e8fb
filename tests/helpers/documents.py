"""The pages of documentation as a test reads them: their commands, their code, their links."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from tests.helpers.places import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "*_experiments/README.md", "pretrained/README.md", "tests/README.md")
    for path in REPOSITORY.glob(pattern)
)
PROGRAMS = (
    "python",
    "python3",
    "torchrun",
    "pytest",
    "make",
    "cd",
    "mkdir",
    "cp",
    "source",
    "kill",
    "pip",
    "pre-commit",
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^|\n\n)((?:    \S.*\n?)+)")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Command(NamedTuple):
    """One command as a page writes it: a line of a block, or an inline span, cut at `&&` and `;`."""

    page: str
    text: str


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation of a list that holds them."""
    return [textwrap.dedent(block) for _, name, block in FENCE.findall(text) if name == language]


def spans(text: str) -> list[str]:
    """Inline code."""
    return SPAN.findall(FENCE.sub("", text))


def is_command(line: str) -> bool:
    first = line.split()[0] if line.split() else ""
    return first in PROGRAMS or first.startswith("./") or (first.endswith(".sh") and "/" in first)


def simple_commands(line: str) -> list[str]:
    """`cd a && python train.py   # why` as `cd a` and `python train.py`."""
    line = re.sub(r"\s+# .*$", "", line.strip())
    return [part.strip() for part in re.split(r"&&|;", line) if part.strip()]


def commands_of(text: str) -> list[str]:
    """All simple commands of a page, in order, blocks first."""
    lines = [line for block in blocks(text, "bash") + blocks(text, "") for line in block.splitlines()]
    without = FENCE.sub("", text)
    lines += [line.strip() for block in INDENTED.findall(without) for line in block.splitlines()]
    lines += spans(text)
    return [part for line in lines if is_command(line) for part in simple_commands(line)]


def all_commands() -> list[Command]:
    """Those of all pages, each once for a page."""
    return [Command(page, text) for page in PAGES for text in dict.fromkeys(commands_of(read(page)))]


def links(text: str) -> list[str]:
    """Targets inside the repository: paths, anchors, or both."""
    return [target for target in LINK.findall(FENCE.sub("", text)) if not re.match(r"[a-z]+://", target)]


def anchors(text: str) -> set[str]:
    """What a heading is called in an address, by the rule of the usual hosts of repositories."""
    titles = re.findall(r"^#+ +(.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: str, text: str) -> list[str]:
    """Links of `text`, the content of `page`, that lead to no file or no heading."""
    found = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        if not file.exists():
            found.append(f"{page}: {target} leads to no file")
        elif anchor and anchor not in anchors(text if not path else Path(file).read_text(encoding="utf-8")):
            found.append(f"{page}: {target} leads to no heading of {path or page}")
    return found
