"""What an image layer asks of the writer, and what overlayfs makes of all that it wrote."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from envstack.archive.member import Kind, Member
from envstack.archive.reading import Reading
from envstack.archive.writer import Writer
from envstack.errors import Unsafe
from envstack.linux.syscalls import umount
from envstack.overlay import mount as overlay
from envstack.stackfile.limits import ArchiveLimits
from tests.archive.harness import directory as member
from tests.archive.harness import entry, refused, tar
from tests.support import needs, ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.archive.harness import Ground

pytestmark = pytest.mark.kernel


def reading() -> Reading:
    return Reading("test.tar", ArchiveLimits(), lambda _entries: None)


def writer(ground: Ground) -> Writer:
    return Writer(os.fsencode(ground.layer), reading())


def is_whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_a_whiteout_hides_a_name(ground: Ground) -> None:
    with writer(ground) as made:
        made.whiteout(b"a")
        made.whiteout(b"d/b")
    assert is_whiteout(ground.layer / "a")
    assert is_whiteout(ground.layer / "d/b")


@pytest.mark.parametrize("is_first", [True, False])
def test_a_directory_that_stands_where_one_is_hidden_is_opaque(
    ground: Ground, is_first: bool
) -> None:
    with writer(ground) as made:
        if is_first:
            made.whiteout(b"d")
            made.whiteout(b"e")
        made.put(Member(b"d", Kind.DIRECTORY, 0o755))
        made.put(Member(b"e/f", Kind.FILE))
        if not is_first:
            made.whiteout(b"d")
            made.whiteout(b"e")
        made.put(Member(b"d", Kind.DIRECTORY, 0o700))
    assert is_opaque(ground.layer / "d")
    assert is_opaque(ground.layer / "e")
    assert ground.names() == ["d", "e", "e/f"]


def test_a_file_that_stands_where_one_is_hidden_needs_no_mark(ground: Ground) -> None:
    with writer(ground) as made:
        made.put(Member(b"a", Kind.FILE))
        made.whiteout(b"a")
        made.whiteout(b"b")
        made.put(Member(b"b", Kind.FILE))
    assert {stat.S_IFMT(os.lstat(ground.layer / name).st_mode) for name in "ab"} == {stat.S_IFREG}


def test_an_opaque_directory_is_made_if_need_be(ground: Ground) -> None:
    with writer(ground) as made:
        made.opaque(b"a/b")
        made.put(Member(b"a/b", Kind.DIRECTORY, 0o711, xattrs=(("user.x", b"y"),)))
    assert is_opaque(ground.layer / "a/b")
    assert not is_opaque(ground.layer / "a")
    assert os.getxattr(ground.layer / "a/b", "user.x") == b"y"


def test_devices_are_made_but_for_the_one_that_hides(ground: Ground) -> None:
    with writer(ground) as made:
        made.put(Member(b"null", Kind.CHARACTER, 0o666, device=os.makedev(1, 3)))
        made.put(Member(b"loop", Kind.BLOCK, 0o660, gid=6, device=os.makedev(7, 0)))
        with refused(Unsafe, "hides a file below"):
            made.put(Member(b"zero", Kind.CHARACTER))
    found = os.stat(ground.layer / "null"), os.stat(ground.layer / "loop")
    assert [oct(status.st_mode) for status in found] == ["0o20666", "0o60660"]
    assert [status.st_rdev for status in found] == [os.makedev(1, 3), os.makedev(7, 0)]


@pytest.fixture
def merged(ground: Ground, directory: Callable[[], Path]) -> Iterator[Callable[[], Path]]:
    """`merged()` mounts the layer over another one, with something that a mark would hide."""
    lower, point = directory(), directory()
    (lower / "d").mkdir()
    (lower / "d" / "below").touch()
    (lower / "file").write_bytes(b"hidden by a file")

    def mount() -> Path:
        chain = (os.fsencode(ground.layer), os.fsencode(lower))
        mounted = overlay.build(overlay.Overlay(b"test", chain), os.fsencode(point))
        overlay.attach(mounted, os.fsencode(point))
        os.close(mounted)
        return point

    needs.way(ways.NEWER)
    yield mount
    umount(os.fsencode(point))


def test_what_of_a_member_looks_like_a_mark_hides_nothing(
    ground: Ground, merged: Callable[[], Path]
) -> None:
    marks = {
        f"SCHILY.xattr.{space}.overlay.{name}": value
        for space in ("trusted", "user")
        for name, value in (("opaque", "y"), ("redirect", "/other"), ("metacopy", "m"))
    }
    ground.unpack(
        tar(
            member("d", pax_headers=marks),
            entry("file", b"seen", pax_headers={"SCHILY.xattr.trusted.overlay.metacopy": "m"}),
            entry("d/file", pax_headers={"SCHILY.xattr.trusted.overlay.whiteout": "y"}),
        )
    )
    tree = merged()
    assert sorted(os.listdir(tree / "d")) == ["below", "file"]
    assert (tree / "file").read_bytes() == b"seen"
    assert (tree / "d" / "file").read_bytes() == b""
    assert os.getxattr(tree / "d", "user.overlay.opaque") == b"y"
    assert not is_opaque(ground.layer / "d")
