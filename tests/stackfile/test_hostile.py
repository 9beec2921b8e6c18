"""Whatever the bytes, the answer is an error of ours, and it comes at once."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.errors import StackFileError
from envstack.stackfile import load, parse, tree
from envstack.stackfile.schema import KINDS, LAYER_MODELS, RESERVED, Stack

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
PATH = b"/nowhere/envstack.yaml"
HEAD = "version: 1\nlayers: [{name: a, dir: .}]\n"


def filled(piece: str) -> str:
    return piece * ((MIB - 1) // len(piece.encode()))


def bomb(link: str) -> str:
    lines = ["a0: &a0 {x: y}"]
    lines += [f"a{i + 1}: &a{i + 1} " + link.format(*[f"*a{i}"] * 9) for i in range(30)]
    return "\n".join(lines)


HOSTILE = {
    "nested lists": (filled("["), "nested more than 64 levels deep"),
    "nested mappings": (filled("{"), "nested more than 64 levels deep"),
    "nested keys": (filled("? "), "nested more than 64 levels deep"),
    "nested items": (filled("- "), "nested more than 64 levels deep"),
    "many values": (filled("- a\n"), "more than 10,000 values"),
    "alias bomb": (bomb("[{},{},{},{},{},{},{},{},{}]"), "more than 10,000 values"),
    "alias chain": (bomb("[{}]"), "unknown key"),
    "merge bomb": (bomb("{{<<: [{},{},{},{},{},{},{},{},{}]}}"), "more than 10,000 values"),
    "merge key": (HEAD + "env: {<<: {A: b}}", "merge keys"),
    "alias of itself": ("&a [*a]", "names nothing that is complete above it"),
    "alias of nothing": ("[*a]", "names nothing that is complete above it"),
    "tag directives": (
        "".join(f"%TAG !{i}! x\n" for i in range(60_000)) + "---\n" + HEAD,
        "tags are not taken",
    ),
    "python tag": (
        HEAD + "env: {A: !!python/object/apply:os.system [id]}",
        "tags are not taken: leave out `!!python/object/apply:os.system`",
    ),
    "standard tag": (HEAD + "env: {A: !!str 1}", "tags are not taken: leave out `!!str`"),
    "several documents": (filled("---\n"), "a second document begins"),
    "long key": (filled("k")[:-9] + ": 1", "not YAML"),
    "long unknown key": (f"? {filled('k')[:-9]}\n: 1", "unknown key"),
    "long number": (f"version: {filled('9')[:-20]}", "`version` must be the number 1"),
    "unknown keys": ("".join(f"verzion{i}: 1\n" for i in range(4_900)), "unknown key"),
    "one fault a line": (
        HEAD + "env:\n" + "".join(f"  A{i}: 1\n" for i in range(4_900)),
        "and 4800 more",
    ),
    "long path": (
        f"version: 1\nmount: {'a/' * 500_000}\nlayers: [{{name: a, dir: .}}]",
        "longer than a path can be",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_at_once(name: str) -> None:
    text, message = HOSTILE[name]
    data = text.encode()
    assert len(data) <= MIB
    started = time.process_time()
    with pytest.raises(StackFileError) as caught:
        parse(data, PATH)
    assert time.process_time() - started < 1
    assert message in caught.value.message
    assert len(caught.value.message) < 60_000


@pytest.mark.parametrize(
    ("data", "at", "message"),
    [
        (b"#" * (MIB + 1), (1, 1), "the file is larger than 1 MiB"),
        ("version: 1".encode("utf-16"), (1, 1), "the file is UTF-16: save it as UTF-8"),
        ("ä: 1\nb: ä".encode("latin-1"), (1, 1), "byte 0xe4 is not UTF-8"),
        (b"a: 1\nb: \xc3\xa4\xe4", (2, 5), "byte 0xe4 is not UTF-8"),
        (b"a: 1\r\nb: \0", (2, 4), "character U+0000 is not allowed in YAML"),
        (b"a: \x1b[31m", (1, 4), "character U+001B is not allowed in YAML"),
    ],
)
def test_bytes_that_are_no_yaml_text_are_refused(
    data: bytes, at: tuple[int, int], message: str
) -> None:
    with pytest.raises(StackFileError) as caught:
        parse(data, PATH)
    [fault] = caught.value.faults
    assert ((fault["line"], fault["column"]), fault["message"]) == (at, message)


def test_a_file_of_any_size_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "envstack.yaml"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(StackFileError, match="larger than 1 MiB"):
        load(os.fsencode(path))


def test_a_report_holds_nothing_that_a_terminal_obeys() -> None:
    text = HEAD + r'"\e]0;x\a": "\e[31m"' + "\nenv: {A: \u202e1, B: [\u0085]}\n"
    with pytest.raises(StackFileError) as caught:
        parse(text.encode(), b"/nowhere/\x1b[31m.yaml")
    assert all(char.isprintable() for char in caught.value.message.replace("\n", ""))


WORDS = [*Stack.model_fields, *KINDS, *RESERVED, "<<", "at", "copy", "dri", "version: 1", "x: y"]
WORDS += [key for model in LAYER_MODELS.values() for key in model.model_fields]
MARKS = [
    "\n",
    "\n  ",
    "\n  - ",
    ": ",
    ", ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!t ",
    "? ",
    "|",
]
MARKS += [">", "'", '"', "#", "%TAG", "---", "...", "\t", "\r", "~", "0x1", "1e3", "\\", "\ufeff"]
MARKS += [r'"\uD800"', r'"\0"', r'"\UFFFFFFFF"', "\u2028", "on", "/", "..", "=", "\x00"]
YAMLISH = st.lists(st.sampled_from([*WORDS, *MARKS]), max_size=40).map("".join).map(str.encode)


def faults_of(data: bytes) -> tuple[dict[str, Any], ...]:
    """Return the faults; what is not a StackFileError, or one without faults, is let through."""
    try:
        parse(data, PATH)
    except StackFileError as error:
        if not error.faults:
            raise
        return error.faults
    return ()


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_any_bytes_at_all_raise_nothing_but_our_errors(
    loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "LOADER", getattr(yaml, loader))

    @settings(max_examples=300, deadline=500)
    @given(
        st.one_of(
            st.binary(), st.text().map(str.encode), YAMLISH, YAMLISH.map(HEAD.encode().__add__)
        )
    )
    def check(data: bytes) -> None:
        for fault in faults_of(data):
            assert fault["line"] >= 1
            assert fault["column"] >= 1
            assert fault["message"].isprintable()

    check()
