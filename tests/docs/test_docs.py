"""The documents say what is true: links lead somewhere, verbs and flags are all told of, examples are well-formed.

Pure and fast: reads files, imports parsers and tables, and starts nothing but `bash -n`.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from pinnace.apiserver.resources.table import RESOURCES
from pinnace.cli.main import VERBS
from pinnace.cluster.settings import Settings
from pinnace.controllers.manager import TABLE
from pinnace.scheduler.plugins.registry import PLUGINS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CLUSTER = ROOT / "docs" / "cluster.md"
COMPATIBILITY = ROOT / "docs" / "compatibility.md"
README = ROOT / "README.md"
PACKAGE = ROOT / "src" / "pinnace"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_PATH = re.compile(r"`((?:[\w.*-]+/)+(?:[\w.*-]+\.\w+)?)`")
_FOLDERS = tuple(
    f"{entry.name}/" for folder in (ROOT, PACKAGE) for entry in sorted(folder.iterdir()) if entry.is_dir()
)
_HELP = {"-h", "--help"}
COMING: set[str] = set()       # verbs that documents may name as not there yet

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


class Block(NamedTuple):
    """A fenced block: where, in what language, and its text."""

    where: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all documents in these languages."""
    found = []
    for document in DOCUMENTS:
        for number, (language, text) in enumerate(_FENCE.findall(document.read_text()), 1):
            if language in languages:
                found.append(Block(f"{document.name} block {number}", language, text))
    return found


def each_block(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks(*languages), ids=lambda block: block.where.replace(" ", "-"))


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """The anchors that headings get, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def sections(document: Path) -> dict[str, str]:
    """The text below each `### pinnace VERB` heading, blocks included."""
    parts = re.split(r"^### pinnace (\S+)$", document.read_text(), flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {verb: re.split(r"^#{1,3} ", text, flags=re.MULTILINE)[0] for verb, text in pairs}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all that are below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pinnace {verb}")
    import_module(f"pinnace.cli.{VERBS[verb][0]}").arguments(parser)
    return parser


def options(verb: str) -> set[str]:
    """Every option of a verb and its actions, in all spellings."""
    actions = [action for parser in parsers(parser_of(verb)) for action in parser._actions]
    return {text for action in actions for text in action.option_strings} - _HELP


def row_names(table: str) -> set[str]:
    """The words in backticks in the first column of each row."""
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


# --------------------------------------------------------------------------------------------------- links and paths


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for pair in _LINK.findall(prose(document)):
        link = pair[0] or pair[1]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{document.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{document.name} links out of the repository: {link}"
        if anchor:
            assert anchor in anchors(target), f"{document.name}: {target.name} has no heading {anchor}"


@documents
def test_paths_in_the_text_exist(document: Path) -> None:
    """Paths from the root, or from the package. Words in capitals stand for a name; what git ignores is made later."""
    made = set((ROOT / ".gitignore").read_text().split())
    for path in _PATH.findall(prose(document)):
        if path in made or re.search(r"\b[A-Z]{2,}\b", path) or not path.startswith(_FOLDERS):
            continue
        assert any(any(place.glob(path)) for place in (ROOT, PACKAGE)), f"{document.name} names {path}"


# ------------------------------------------------------------------------------------------------- verbs and flags


def test_every_verb_is_documented_and_nothing_else() -> None:
    assert set(sections(CLUSTER)) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_of_a_verb_is_documented_and_nothing_else(verb: str) -> None:
    defined = options(verb)
    told = {word for name in row_names(sections(CLUSTER)[verb]) for word in name.split(" ") if word.startswith("-")}
    assert told == defined, f"docs/cluster.md: the flags of pinnace {verb}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_of_a_verb_is_documented(verb: str) -> None:
    section = sections(CLUSTER)[verb]
    for parser in parsers(parser_of(verb)):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name in action.choices:
                    assert f"`pinnace {verb} {name}" in section, f"docs/cluster.md: {verb} {name}"
            elif not action.option_strings:
                assert str(action.metavar or action.dest.upper()) in section, f"docs/cluster.md: {verb} {action.dest}"


@documents
def test_verbs_in_the_text_are_there(document: Path) -> None:
    named = set(re.findall(r"(?:`|^\s*|/bin/)pinnace ([a-z][a-z-]*)", document.read_text(), re.MULTILINE))
    assert named <= set(VERBS) | COMING, f"{document.name} names {named - set(VERBS) - COMING}"


def test_what_is_coming_has_not_come() -> None:
    assert not COMING & set(VERBS)


def test_every_setting_is_documented() -> None:
    text = CLUSTER.read_text()
    for field in Settings.__struct_encode_fields__:
        assert f"| `{field}` |" in text, f"docs/cluster.md has no row for the setting {field}"


# -------------------------------------------------------------------------------------------- what stands in tables


def test_every_controller_is_in_the_compatibility_document() -> None:
    text = COMPATIBILITY.read_text()
    missing = [entry.name for entry in TABLE if f"`{entry.name}`" not in text]
    assert not missing, f"docs/compatibility.md does not name {missing}"


def test_every_scheduler_plugin_is_in_the_compatibility_document() -> None:
    text = COMPATIBILITY.read_text()
    missing = [plugin.name for plugin in PLUGINS if plugin.name not in text]
    assert not missing, f"docs/compatibility.md does not name {missing}"


def test_every_served_kind_is_in_the_compatibility_document() -> None:
    text = COMPATIBILITY.read_text()
    missing = sorted({r.kind.kind for r in RESOURCES if not re.search(rf"\b{r.kind.kind}\b", text)})
    assert not missing, f"docs/compatibility.md does not name {missing}"


# ------------------------------------------------------------------------------------------------------- examples


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@documents
def test_make_targets_named_are_there(document: Path) -> None:
    named = set(re.findall(r"(?:`|^|; )make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert named <= make_targets(), f"{document.name} names {named - make_targets()}"


def test_readme_starts_with_the_two_commands() -> None:
    first = next(block.text for block in blocks("sh") if block.where.startswith("README"))
    assert "git clone" in first and "make up" in first
    assert "`make test`" in README.read_text()


def test_readme_keeps_a_place_for_the_measurements() -> None:
    text = README.read_text()
    assert text.count("<!-- bench:begin -->") == text.count("<!-- bench:end -->") == 1
    between = text.split("<!-- bench:begin -->")[1].split("<!-- bench:end -->")[0]
    assert between.strip().startswith("|"), "between the marks stands a table"


@each_block("sh", "bash", "shell")
def test_shell_parses(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False, timeout=10)
    assert done.returncode == 0, f"{block.where}: {done.stderr}"


@each_block("yaml")
def test_yaml_loads(block: Block) -> None:
    loaded = list(yaml.safe_load_all(block.text))
    assert loaded and loaded[0] is not None, block.where


@each_block("python")
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, block.where)


def test_pictures_are_well_formed_and_load_nothing() -> None:
    from xml.etree import ElementTree

    pictures = sorted((ROOT / "docs").glob("*.svg"))
    assert pictures
    for picture in pictures:
        text = picture.read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"(?:href|src)=\"http|@import|<script", text), f"{picture.name} loads something"
