"""A fault is named in plain words, at its line and column, beside all the others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from envstack.errors import StackFileError
from envstack.stackfile import parse
from envstack.stackfile.schema import KINDS, LAYER_MODELS, RESERVED, Stack

JARGON = re.compile(
    r"\binput\b|pydantic|valid string|dictionary|literal|extra|field|schema|instance", re.IGNORECASE
)


def error_of(text: str) -> StackFileError:
    with pytest.raises(StackFileError) as caught:
        parse(text.encode(), b"/nowhere/envstack.yaml")
    return caught.value


def faults_of(text: str) -> list[str]:
    """Return the faults as `LINE:COLUMN: message`."""
    return [f"{row['line']}:{row['column']}: {row['message']}" for row in error_of(text).faults]


def in_layer(rest: str) -> str:
    return "version: 1\nlayers:\n  - " + rest


def test_all_faults_are_reported_at_once_in_the_order_of_the_text() -> None:
    text = """\
version: 2
mnt: x
layers:
  - {name: a, dir: .}
  - name: a
    run: make
    at: ../x
  - {name: b, dri: x}
env: {PORT: 8080}
"""
    assert faults_of(text) == [
        "1:10: version 2 is newer than this envstack, which reads version 1",
        "2:1: unknown key `mnt`: did you mean `mount`?",
        "5:11: two layers are named `a`; the first is in line 4",
        "7:5: `at` does not go with `run`",
        "8:5: a layer needs `dir`, `archive` or `run`",
        "8:15: unknown key `dri`: did you mean `dir`?",
        '9:13: `PORT` must be text, and YAML reads this as a number: quote it, "8080"',
    ]


def test_root_is_yes_or_no() -> None:
    assert (
        parse(b"version: 1\nroot: no\nlayers: [{name: a, dir: .}]", b"/x/y.yaml").is_root is False
    )
    assert faults_of("version: 1\nroot: /\nlayers: [{name: a, dir: .}]\n") == [
        "2:7: `root` must be true or false, not text"
    ]
    assert faults_of("version: 1\nroot:\nlayers: [{name: a, dir: .}]\n") == [
        "2:6: `root` must be true or false, not left without a value"
    ]


def test_a_report_shows_each_line_with_a_caret() -> None:
    error = error_of("version: 1\nlayers:\n\t- x")
    assert error.message == (
        "envstack.yaml:3:1: a tab stands where YAML takes spaces alone\n     - x\n    ^"
    )
    assert error.exit_code == 2
    assert error.details() == {
        "faults": [
            {
                "file": "/nowhere/envstack.yaml",
                "line": 3,
                "column": 1,
                "message": "a tab stands where YAML takes spaces alone",
            }
        ]
    }


def test_the_caret_stands_below_the_fault_after_wide_and_many_characters() -> None:
    wide, long = error_of("{你好: 1}"), error_of("env: {" + "A: b, " * 30 + "Z: 1}")
    assert wide.message.splitlines()[-2:] == ["    {你好: 1}", "     ^"]
    report = long.message.splitlines()
    line, caret = report[-2], report[-1]
    assert line[caret.index("^")] == "1"
    assert len(line) < 130


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1:1: the file is empty"),
        ("# only this", "1:1: the file is empty"),
        ("hello", "1:1: a stack file must be a mapping of keys to values, not text"),
        ("- a", "1:1: a stack file must be a mapping of keys to values, not a list"),
        ("layers: [{name: a, dir: .}]", "1:1: `version: 1` is missing"),
        ("version: 1", "1:1: a stack file needs `layers`"),
        ("version: '1'", "1:10: `version` must be the number 1"),
        ("version: true", "1:10: `version` must be the number 1"),
        ("version: 0", "1:10: `version` must be the number 1"),
        ("version: 1\nlayers: []", "2:9: `layers` must not be empty"),
        ("version: 1\nlayers:", "2:8: `layers` must be a list, not left without a value"),
        ("version: 1\nlayers: {}", "2:9: `layers` must be a list, not a mapping"),
        ("name: ''", "1:7: `name` must not be empty"),
        ('name: "a\\nb"', "1:7: `name` must be printable text on one line"),
        ("name: [a]", "1:7: `name` must be text, not a list"),
        ("env: [A=b]", "1:6: `env` must be a mapping of keys to values, not a list"),
        ("env: {A: }", "1:10: `A` must be text, not left without a value"),
        (
            "env: {A: on}",
            '1:10: `A` must be text, and YAML reads this as true or false: quote it, "on"',
        ),
        (
            "env: {A: 0755}",
            '1:10: `A` must be text, and YAML reads this as a number: quote it, "0755"',
        ),
        (
            "env: {A: 1.5}",
            '1:10: `A` must be text, and YAML reads this as a number: quote it, "1.5"',
        ),
        (
            "env: {A: 2026-01-01}",
            '1:10: `A` must be text, and YAML reads this as a date: quote it, "2026-01-01"',
        ),
        ("env: {A=B: x}", "1:7: the name of a variable must not be empty and not contain `=`"),
        ("env: {'': x}", "1:7: the name of a variable must not be empty and not contain `=`"),
        ('env: {A: "\\0"}', "1:10: holds a character that no path or variable can hold"),
        ("watch: {ignore: x}", "1:17: `ignore` must be a list, not text"),
        ("watch: {ignore: [x, 1]}", "1:21: an item of `ignore` must be text, and YAML"),
        ('watch: {ignore: [a, "!"]}', "1:21: `!` is no pattern, see gitignore(5)"),
        ("watch: {ignor: []}", "1:9: unknown key `ignor`: did you mean `ignore`?"),
        (
            "zzz: 1",
            "1:1: unknown key `zzz`; known here: `version`, `name`, `mount`, `layers`, `env`",
        ),
        ("name: a\nname: b", "2:1: `name` is here a second time; the first is in line 1"),
        ("[a]: b", "1:1: a key must be text, not a list or a mapping"),
        ("a: {", "1:5: this is not YAML: the file ends too early"),
        ("a: b: c", "1:5: this is not YAML: mapping values are not allowed"),
        ("mount: ..", "1:8: the mount point is above the project and would hide it"),
        ("mount: /", "1:8: the mount point is above the project and would hide it"),
        (f"mount: {'a/' * 2048}", "1:8: `mount` is longer than a path can be"),
        (in_layer("x"), "3:5: a layer must be a mapping of keys to values, not text"),
        (in_layer("{dir: .}"), "3:5: a layer needs `name`"),
        (in_layer("{name: a}"), "3:5: a layer needs `dir`"),
        (in_layer("{name: a, dir: ''}"), "3:20: `dir` must not be empty"),
        (in_layer("{name: a, dir: ., at: ''}"), "3:27: `at` must not be empty"),
        (in_layer("{name: a, dir: ., at: /b}"), "3:27: `at` must be relative"),
        (in_layer("{name: a, dir: ., at: b/../..}"), "3:27: `at` must not contain `..`"),
        (
            in_layer("{name: a, dir: ., copy: 1}"),
            "3:29: `copy` must be true or false, not a number",
        ),
        (in_layer("{name: a, dir: ., copy: 'no'}"), "3:29: `copy` must be true or false, not text"),
        (in_layer("{name: a, dir: ., run: b}"), "3:23: a layer is one thing: `dir` or `run`"),
        (in_layer("{name: a, dir: ., sha256: b}"), "3:23: `sha256` does not go with `dir`"),
        (in_layer("{name: a, archive: b, sha256: c}"), "3:35: `sha256` must be 64 hexadecimal"),
        (in_layer("{name: a, archive: b, strip: -1}"), "3:34: `strip` must be a whole number"),
        (in_layer("{name: a, archive: b, strip: 256}"), "3:34: `strip` must be a whole number"),
        (in_layer("{name: a, archive: b, strip: x}"), "3:34: `strip` must be a whole number"),
        (in_layer("{name: a, archive: b, strip: on}"), "3:34: `strip` must be a whole number"),
        (in_layer("{name: a, archive: b, at: ../c}"), "3:31: `at` must not contain `..`"),
        (in_layer("{name: a, archive: 'https://h/b'}"), "3:24: what an address serves may change"),
        (in_layer("{name: a, archive: 'ftp://h/b'}"), "3:24: an address begins with `http://` or"),
        (in_layer("{name: a, archive: 'file:///b'}"), "3:24: an address begins with `http://` or"),
        (in_layer("{name: a, archive: 'http://h/a b'}"), "3:24: an address has no blanks"),
        (in_layer("{name: a, archive: 'http://h/é'}"), "3:24: an address has no blanks"),
    ],
)
def test_a_fault_is_named_where_it_is(text: str, fault: str) -> None:
    assert any(found.startswith(fault) for found in faults_of(text)), faults_of(text)


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_a_reserved_key_is_refused_as_not_yet(key: str) -> None:
    expected = f"`{key}` is reserved: not yet in this version"
    assert f"1:1: {expected}" in faults_of(f"{key}: x")
    assert faults_of(in_layer(f"{{name: a, dir: ., {key}: x}}")) == [f"3:23: {expected}"]


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("image: 'docker://registry.example/a'", "image"),
        ("git: 'https://host.example/a', rev: v1, at: lib", "git"),
    ],
)
def test_a_kind_that_nothing_builds_is_refused_as_not_yet(layer: str, kind: str) -> None:
    found = faults_of(in_layer(f"{{name: a, {layer}}}"))
    assert found == [f"3:15: `{kind}` layers: not yet in this version"]


def test_a_command_needs_a_layer_below_it() -> None:
    found = faults_of(in_layer("{name: a, run: make}"))
    assert found == ["3:15: a `run` layer needs a layer below it: put a `dir` first"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_an_input_is_a_path_of_the_tree_below(path: str) -> None:
    text = in_layer("{name: a, dir: .}\n  - {name: b, run: make, inputs: [" + path + "]}")
    assert [fault.partition(" ")[0] for fault in faults_of(text)] == ["4:35:"]


def test_no_fault_speaks_in_the_terms_of_the_validator() -> None:
    wrong: list[str] = ["~", "1", "text", "[]", "[1]", "{}", "{a: 1}", "1.5", "''", "'\\0'", "on"]
    texts = [f"{key}: {value}" for key in Stack.model_fields for value in wrong]
    for kind in KINDS:
        keys = LAYER_MODELS[kind].model_fields
        texts += [in_layer(f"{{{kind}: x, {key}: {value}}}") for key in keys for value in wrong]
    found: list[str] = []
    for text in texts:
        try:
            parse(text.encode(), b"/nowhere/envstack.yaml")
        except StackFileError as error:
            found += [row["message"] for row in error.faults]
    assert len(found) > len(texts)
    assert not [fault for fault in found if JARGON.search(fault)]


def test_a_value_can_be_faulted_later_by_its_place() -> None:
    text = "version: 1\nlayers:\n  - name: a\n    dir: x\n  - {name: b, dir: y}\n"
    stack = parse(text.encode(), b"/nowhere/envstack.yaml")

    def place(layer: int | None, key: str | None) -> tuple[Any, Any]:
        [fault] = stack.fault(layer, key, "is bad").faults
        assert fault["message"] == "is bad"
        return fault["line"], fault["column"]

    assert place(0, "dir") == (4, 10)
    assert place(1, "dir") == (5, 20)
    assert place(1, "at") == place(1, None) == (5, 5)
    assert place(None, "layers") == (3, 3)
    assert place(None, "mount") == (1, 1)
    assert str(stack.fault(0, "dir", "is bad")) == (
        "envstack.yaml:4:10: is bad\n        dir: x\n             ^"
    )


def test_the_json_schema_comes_from_the_same_model() -> None:
    schema = Stack.model_json_schema()
    assert set(schema["properties"]) == {
        *("version", "name", "mount", "layers", "env", "root", "watch")
    }
    assert schema["additionalProperties"] is False
    kinds = {
        next(key for key in KINDS if key in d["properties"])
        for name, d in schema["$defs"].items()
        if name != "Watch"
    }
    assert kinds == set(KINDS)
    assert set(schema["$defs"]["Dir"]["properties"]) == {"name", "dir", "at", "copy"}
