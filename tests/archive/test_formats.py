"""What tar and zip write, in each of their formats, comes out as it went in."""

from __future__ import annotations

import os
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import Damaged, TooLarge, Unsafe, Unsupported
from envstack.stackfile.limits import ArchiveLimits
from tests.archive.harness import directory, entry, link, raw, refused, symlink, tar, zip_of
from tests.support import needs, trees

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.archive.harness import Ground

pytestmark = pytest.mark.kernel

NS = 1_600_000_000_123_456_789
WIDE = ArchiveLimits()


@pytest.fixture
def tree(directory: Callable[[], Path]) -> Path:
    """What every format can hold."""
    root = directory()
    (root / "dir" / "inner").mkdir(parents=True)
    (root / "dir" / "inner" / "file").write_bytes(os.urandom(70_000))
    (root / "empty").touch()
    (root / "dir" / "empty").mkdir(mode=0o700)
    (root / "setuid").write_bytes(b"x")
    (root / "setuid").chmod(0o4711)
    os.chown(root / "dir", 1234, 54321)
    os.link(root / "empty", root / "dir" / "hard")
    os.symlink("../no/such", root / "dir" / "symlink")
    os.lchown(root / "dir" / "symlink", 3, 4)
    (root / "été").write_bytes(b"utf-8")
    os.mkfifo(root / "fifo", 0o640)
    return root


def more(root: Path) -> None:
    """Add what ustar has no place for."""
    (root / os.fsdecode(b"\xff\xfe not utf-8")).write_bytes(b"x")
    deep = root.joinpath(*["deep" * 20] * 8)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    os.symlink("target/" * 40, deep / "symlink")
    os.link(deep / "file", deep / "hard")
    os.chown(deep, 3_000_000, 4_000_000_000)
    holes = root / "holes"
    with holes.open("wb") as file:
        for offset in range(0, 64 << 20, 1 << 20):
            file.seek(offset)
            file.write(b"data")
        file.truncate(65 << 20)
    with (root / "hole").open("wb") as file:
        file.truncate(10 << 20)


def dress(root: Path) -> None:
    """Give extended attributes and times to the nanosecond, which pax alone keeps."""
    os.setxattr(root / "empty", "user.one", b"\0\xff=\n")
    os.setxattr(root / "dir", "trusted.two", b"2")
    os.setxattr(root / "dir" / "symlink", "trusted.three", b"3", follow_symlinks=False)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(NS, NS), follow_symlinks=False)
    os.utime(root / "empty", ns=(-1_500_000_000, -1_500_000_000))


def made(tree: Path, *options: str) -> bytes:
    """Return what GNU tar makes of it."""
    command = [needs.program("tar"), "-C", str(tree), "-cf", "-", *options, "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def times(root: Path, unit: int) -> dict[str, int]:
    """Return when everything was modified, in so many nanoseconds."""
    paths = [root, *root.rglob("*")]
    return {str(path.relative_to(root)): os.lstat(path).st_mtime_ns // unit for path in paths}


def same(one: Path, other: Path, unit: int = 1_000_000_000) -> None:
    assert trees.snapshot(one) == trees.snapshot(other)
    assert times(one, unit) == times(other, unit)


PAX = ("--format=pax", "--xattrs", "--xattrs-include=*")


@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "pax"])
def test_gnu_tar_in_each_of_its_formats(ground: Ground, tree: Path, form: str) -> None:
    if form == "v7":  # which has no such thing
        (tree / "fifo").unlink()
    ground.unpack(made(tree, f"--format={form}"))
    same(ground.layer, tree)


@pytest.mark.parametrize(
    "options",
    [
        ("--format=gnu",),
        ("--format=gnu", "-S"),
        ("--format=oldgnu", "-S"),
        ("--format=pax",),
        *((*PAX, "-S", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")),
    ],
    ids=" ".join,
)
def test_long_names_large_numbers_and_holes(
    ground: Ground, tree: Path, options: tuple[str, ...]
) -> None:
    more(tree)
    ground.unpack(made(tree, *options), limits=WIDE)
    same(ground.layer, tree)
    if "-S" in options:
        for name in ("hole", "holes"):
            assert os.stat(ground.layer / name).st_blocks <= os.stat(tree / name).st_blocks


def test_pax_keeps_attributes_and_times_to_the_nanosecond(ground: Ground, tree: Path) -> None:
    more(tree)
    dress(tree)
    ground.unpack(made(tree, *PAX), limits=WIDE)
    same(ground.layer, tree, unit=1)


@pytest.mark.parametrize("program", ["gzip", "xz", "zstd", "bzip2"])
def test_each_way_of_compressing_is_told_by_content(
    ground: Ground, tree: Path, program: str
) -> None:
    command = [needs.program(program), "-c"]
    data = made(tree, "--format=pax")
    halves = [data[:20_000], data[20_000:]]
    packed = [
        subprocess.run(command, input=half, check=True, capture_output=True).stdout
        for half in halves
    ]
    ground.unpack(b"".join(packed))  # several streams in a row, as pigz and split archives have
    same(ground.layer, tree)


def test_zstd_with_frames_to_skip(ground: Ground, tree: Path) -> None:
    command = [needs.program("zstd"), "-c", "--long=27"]
    packed = subprocess.run(command, input=made(tree), check=True, capture_output=True).stdout
    skipped = b"\x5a\x2a\x4d\x18\3\0\0\0abc"
    ground.unpack(skipped + packed + skipped)
    same(ground.layer, tree)


def test_zip_keeps_modes_symlinks_owners_and_names(ground: Ground, tree: Path) -> None:
    zipper = needs.program("zip")
    (tree / "fifo").unlink()
    (tree / os.fsdecode(b"\xff not utf-8")).write_bytes(b"x")
    out = tree.parent / f"{tree.name}.zip"
    try:
        subprocess.run([zipper, "-qry", out, "."], cwd=tree, check=True)
        ground.unpack(out.read_bytes())
    finally:
        out.unlink()
    os.unlink(tree / "dir" / "hard")  # a zip has no hard links
    (tree / "dir" / "hard").touch()
    times_of_links = {"dir/symlink"}
    for root in (tree, ground.layer):
        os.utime(root, (0, 0))
        os.lchown(root / "dir" / "symlink", 0, 0)
        os.utime(root / "dir" / "hard", (0, 0))
        os.utime(root / "dir", (0, 0))
    assert trees.snapshot(ground.layer) == trees.snapshot(tree)
    found, written = times(ground.layer, 10**9), times(tree, 10**9)
    assert {path: found[path] for path in found.keys() - times_of_links} == {
        path: written[path] for path in written.keys() - times_of_links
    }


def test_a_zip_from_elsewhere_has_usual_modes(ground: Ground) -> None:
    info = zipfile.ZipInfo("dir/naïve.txt", (1980, 1, 2, 3, 4, 6))
    info.create_system = 0
    data = zip_of()
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr(info, b"dos")
        archive.mkdir("empty/")
    ground.unpack(data.getvalue())
    found = os.stat(ground.layer / "dir" / "naïve.txt")
    assert (found.st_mode & 0o7777, found.st_uid, found.st_mtime) == (0o644, 0, 315_630_246)
    assert ground.names() == ["dir", "dir/naïve.txt", "empty"]


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def zipped(name: str, mode: int, data: bytes = b"") -> bytes:
    """Return a zip archive of one member of that mode."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    made = zip_of()
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr(info, data)
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (zipped("../outside/new", 0o100644), Unsafe, "../outside/new: its name holds `..`"),
        (zipped("x", 0o020644), Unsafe, "x: it is a device node"),
        (zipped("x", 0o140644), Unsupported, "x: a member of a type that is not known"),
        (zipped("x", 0o120777, b"t" * 5000), Damaged, "x: it is a symbolic link with a target"),
        (changed(zip_of(abc=b"d").getvalue(), b"abc", b"a\0c"), Unsafe, "can be no file's"),
        (zip_of(a=b"d" * 100).getvalue()[:-30], Damaged, "its directory is corrupt"),
        (
            changed(zip_of(a=b"d").getvalue(), b"\x14\0\0\0\x08\0", b"\x14\0\1\0\x08\0"),
            Unsupported,
            "a: it is encrypted",
        ),
        (
            changed(zip_of(a=b"d").getvalue(), b"\x14\0\0\0\x08\0", b"\x14\0\0\0\x5d\0"),
            Unsupported,
            "a: it is compressed in a way that is not known",
        ),
        (
            changed(zip_of(a=b"d").getvalue(), b"aK\x01\0", b"aK\x02\0"),
            Damaged,
            "a: its bytes are corrupt",
        ),
        (
            changed(zip_of(a=b"d").getvalue(), b"\3\0\0\0\1\0\0\0", b"\3\0\0\0\2\0\0\0"),
            Damaged,
            "a: it is shorter than the directory says",
        ),
        (zip_of(a=bytes(17 << 20)).getvalue(), TooLarge, "more than 16 MiB in all"),
        (zip_of(**{f"f{n}": b"" for n in range(501)}).getvalue(), TooLarge, "500 entries"),
    ],
)
def test_a_zip_that_means_harm_is_refused(
    ground: Ground, data: bytes, kind: Any, said: str
) -> None:
    with ground.untouched(), refused(kind, said):
        ground.unpack(data)


def test_a_zip_that_expands_without_end_is_stopped_before_anything_is_made(ground: Ground) -> None:
    wide = ArchiveLimits(bytes=1 << 40, members=10, ratio=100)
    with refused(TooLarge, "expands to more than 100 times its size"):
        ground.unpack(zip_of(a=bytes(70 << 20)).getvalue(), limits=wide)
    assert ground.names() == []


def test_stripped_names_lose_their_first_parts(ground: Ground) -> None:
    ground.unpack(
        tar(
            directory("top", uid=9),
            entry("./top/a", b"a"),
            entry("alone"),
            directory("top/d"),
            link("top/d/l", "top/a"),
            symlink("top/s", "top/a"),
        ),
        strip=1,
    )
    assert ground.names() == ["a", "d", "d/l", "s"]
    assert os.stat(ground.layer / "d" / "l").st_nlink == 2
    assert os.readlink(ground.layer / "s") == "top/a"
    assert os.stat(ground.layer).st_uid == 0


def test_directories_that_no_member_brings_are_the_same_each_time(ground: Ground) -> None:
    before = os.umask(0o77)
    try:
        ground.unpack(tar(entry("a/b/file", mtime=1000), entry("a/c/file", mtime=2000)))
    finally:
        os.umask(before)
    found = {name: os.stat(ground.layer / name) for name in ("a", "a/b", "a/c")}
    assert {status.st_mode & 0o7777 for status in found.values()} == {0o755}
    assert {name: status.st_mtime for name, status in found.items()} == {
        "a": 1000,
        "a/b": 1000,
        "a/c": 2000,
    }


def test_the_root_s_own_member_counts(ground: Ground) -> None:
    ground.unpack(tar(directory(".", uid=5, gid=6, mtime=7), entry("f")))
    found = os.stat(ground.layer)
    assert (found.st_uid, found.st_gid, found.st_mtime) == (5, 6, 7)


def test_records_for_all_members_hold_until_others_come(ground: Ground) -> None:
    header = raw(b"g", 9, type=b"g") + b"9 uid=77\n".ljust(512, b"\0")
    other = raw(b"x", 9, type=b"x") + b"9 uid=88\n".ljust(512, b"\0")
    ground.unpack(header + raw(b"a") + other + raw(b"b") + raw(b"c") + bytes(1024))
    assert [os.stat(ground.layer / name).st_uid for name in "abc"] == [77, 88, 77]


def test_the_label_of_a_volume_and_one_block_at_the_end_are_taken(ground: Ground) -> None:
    ground.unpack(raw(b"label", type=b"V") + raw(b"a") + bytes(512))
    assert ground.names() == ["a"]
