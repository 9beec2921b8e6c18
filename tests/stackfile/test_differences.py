"""Two states of a stack file are told apart by what matters for the mount, in words."""

from __future__ import annotations

import json

from envstack.stackfile import differences, parse

BEFORE = """\
version: 1
mount: merged
layers:
  - {name: project, dir: .}
  - {name: tools, dir: tools}
  - {name: data, dir: data, at: data}
env: {TOKEN: one, GONE: x}
"""


def canonical(text: str, path: bytes = b"/nowhere/web/envstack.yaml") -> str:
    return parse(text.encode(), path).canonical()


def test_comments_spelling_and_the_feed_make_no_difference() -> None:
    same = """\
# The same.
env: {"GONE": 'x', TOKEN: one}
watch: {ignore: ["*.pyc"]}
layers:
- {dir: ./, name: project, copy: false}
- {dir: /nowhere/web/tools, name: tools, at: .}
- {dir: ../web/data, name: data, at: ./data/}
name: web
mount: x/../merged/
version: 1
"""
    assert canonical(same) == canonical(BEFORE)
    assert differences(canonical(BEFORE), canonical(same)) == []


def test_what_differs_is_named() -> None:
    after = """\
version: 1
name: site
mount: other
layers:
  - {name: tools, dir: bin, copy: true}
  - {name: project, dir: .}
  - {name: deps, dir: deps}
env: {TOKEN: two, NEW: x}
root: true
"""
    assert differences(canonical(BEFORE), canonical(after)) == [
        "name: web -> site",
        "mount: /nowhere/web/merged -> /nowhere/web/other",
        "root: not given -> true",
        "layer 'tools': copy false -> true",
        "layer 'tools': dir /nowhere/web/tools -> /nowhere/web/bin",
        "layer 'data' removed",
        "layer 'deps' added",
        "the order of the layers",
        "env 'GONE' removed",
        "env 'TOKEN' changed",
        "env 'NEW' added",
    ]


def test_another_archive_is_named() -> None:
    layer = "version: 1\nlayers: [{name: a, archive: a.tar"
    before, after = canonical(f"{layer}}}]"), canonical(f"{layer}, sha256: {'b' * 64}, strip: 1}}]")
    assert differences(before, after) == [
        f"layer 'a': sha256  -> {'b' * 64}",
        "layer 'a': strip 0 -> 1",
    ]


def test_paths_that_are_not_utf_8_survive_and_can_be_shown() -> None:
    old = canonical(BEFORE, b"/nowhere/\xff/envstack.yaml")
    new = canonical(BEFORE, b"/nowhere/\xfe/envstack.yaml")
    assert old.isascii()
    assert json.loads(old)["mount"].encode("utf-8", "surrogateescape") == b"/nowhere/\xff/merged"
    words = differences(old, new)
    assert words[0] == "mount: /nowhere/\ufffd/merged -> /nowhere/\ufffd/merged"
