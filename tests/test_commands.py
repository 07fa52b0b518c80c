"""Commands as README, docs and help print them: all can be parsed, and name files that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tofc.cli.app import app
from tofc.cli.evaluations import EVALUATIONS
from tofc.cli.options import command_of
from tofc.config import find_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_in(text: str) -> Iterator[list[str]]:
    """The words behind `tofc` of each command line of a text."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"[|;]|&&", re.sub(r"\s+#.*|\s{3,}\(.*", "", line)):
            words = shlex.split(part.strip().removeprefix("$ "))
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words[:1] == ["tofc"]:
                yield words[1:]
            elif "-m" in words and words[words.index("-m") + 1 :][:1] == ["tofc"]:
                yield words[words.index("-m") + 2 :]


def on_page(page: Path) -> list[list[str]]:
    blocks = re.findall(r"^```(?:console|sh)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [words for block in blocks for words in commands_in(block)]


def helps(command: Any) -> Iterator[str]:
    """The examples of a command and of all below it."""
    yield (command.epilog or "").replace("\\[", "[").replace("\n\n", "\n")
    for below in getattr(command, "commands", {}).values():
        yield from helps(below)


def parse(words: list[str]) -> None:
    """Raises what the command line would say of these words."""
    command: Any = command_of(app)
    names: list[str] = []
    while hasattr(command, "commands") or names[:1] == ["eval"]:
        if names[:1] == ["eval"] and len(names) == 2:
            name = "drafting" if names[1] == "decoding" else names[1]
            command = command_of(import_module(f"eval.{name}.__main__").app)
            words = ["measure", *words] if names[1] == "decoding" else words
            names = []
        else:
            command, names, words = command.commands[words[0]], [*names, words[0]], words[1:]
    command.make_context("tofc", list(words))


def check(words: list[str]) -> None:
    if not words or words[0].startswith("-") or any(word in ("--help", "-h", "...") for word in words):
        return
    parse(words)
    for word in words:
        if word.startswith("configs/"):
            find_config(ROOT / word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page(page: Path) -> None:
    for words in on_page(page):
        try:
            check(words)
        except Exception as error:
            raise AssertionError(f"tofc {shlex.join(words)}: {error}") from error


def test_pages_show_commands() -> None:
    assert sum(len(on_page(page)) for page in PAGES) > 40


@pytest.mark.parametrize("name", ["", *EVALUATIONS])
def test_examples_in_help(name: str) -> None:
    command = command_of(import_module(f"eval.{name}.__main__").app if name else app)
    for text in helps(command):
        for words in commands_in(text):
            try:
                check(words)
            except Exception as error:
                raise AssertionError(f"tofc {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("words", ["example", "train first-codec", "train-familial first-family"])
def test_what_a_beginner_is_shown_needs_nothing_else(words: str) -> None:
    """Neither a run before it, nor files that do not come with the package."""
    assert words in "\n".join(helps(command_of(app)))
    config = words.partition(" ")[2]
    if config:
        assert re.search(r"^base: scenes-tiny$", find_config(config).read_text("utf-8"), re.MULTILINE)
