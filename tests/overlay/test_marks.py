"""The marks of overlayfs: how attributes are named, shown, kept and refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.errors import Unsupported
from envstack.overlay.marks import Marks, is_opaque, portable, refuse_references, visible

if TYPE_CHECKING:
    from pathlib import Path

BOTH = pytest.mark.parametrize("marks", list(Marks))


@BOTH
def test_the_overlays_own_attributes_are_not_shown(marks: Marks) -> None:
    own = [f"{marks.prefix}{name}" for name in ("origin", "impure", "opaque", "nlink", "upper")]
    assert visible([*own, "user.mine"], marks) == {"user.mine": "user.mine"}


@BOTH
def test_escaped_attributes_are_shown_with_one_escape_less(marks: Marks) -> None:
    prefix = marks.prefix
    once, twice = f"{prefix}overlay.opaque", f"{prefix}overlay.overlay.opaque"
    shown = {f"{prefix}opaque": once, f"{prefix}overlay.opaque": twice}
    assert visible([once, twice], marks) == shown


def test_the_other_kinds_marks_are_a_users_attributes() -> None:
    name = "user.overlay.opaque"
    assert visible([name], Marks.TRUSTED) == {name: name}
    assert portable([name], Marks.TRUSTED) == [name]


@BOTH
def test_a_copy_takes_what_hides_and_what_is_shown(marks: Marks) -> None:
    prefix = marks.prefix
    kept = [f"{prefix}opaque", f"{prefix}whiteout", f"{prefix}overlay.opaque"]
    kept += ["user.a", "trusted.a", "security.capability", "system.posix_acl_default"]
    left = [f"{prefix}{name}" for name in ("origin", "impure", "nlink", "upper", "uuid")]
    left += ["btrfs.compression", "system.nfs4_acl"]
    assert portable([*left, *kept], marks) == kept


@BOTH
@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_an_entry_that_leans_on_other_layers_is_refused_by_name(marks: Marks, mark: str) -> None:
    with pytest.raises(Unsupported, match=f"a/\ufffd.*{marks.prefix}{mark}"):
        refuse_references(b"a/\xff", ["user.a", f"{marks.prefix}{mark}"], marks)
    refuse_references(b"a", [f"{marks.prefix}overlay.{mark}"], marks)


@pytest.mark.parametrize(("value", "opaque"), [(b"y", True), (b"x", False), (b"n", False)])
def test_only_y_makes_a_directory_opaque(tmp_path: Path, value: bytes, opaque: bool) -> None:
    os.setxattr(tmp_path, "user.overlay.opaque", value)
    assert is_opaque(os.fsencode(tmp_path), Marks.USER) is opaque
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert is_opaque(directory, Marks.USER) is opaque
        assert not is_opaque(directory, Marks.TRUSTED)
    finally:
        os.close(directory)


def test_a_file_system_without_attributes_has_no_marks() -> None:
    directory = os.open("/proc/self", os.O_RDONLY)
    try:
        assert not is_opaque(directory, Marks.TRUSTED)
    finally:
        os.close(directory)
