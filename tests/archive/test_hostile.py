"""Archives that mean harm, member by member: nothing outside the layer is ever written."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from envstack.archive.reading import Reading
from envstack.archive.unpack import unpack
from envstack.errors import Cancelled, Damaged, EnvstackError, TooLarge, Unsafe, Unsupported
from envstack.stackfile.limits import ArchiveLimits
from tests.archive.harness import (
    LIMITS,
    Entry,
    Ground,
    directory,
    entry,
    link,
    raw,
    refused,
    symlink,
    tar,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.kernel

OUT = "OUTSIDE"
"""Stands for the absolute path of the directory beside the layer."""


def placed(entries: list[Entry], ground: Ground) -> list[Entry]:
    """Put the path of what is outside in its place."""
    for info, _data in entries:
        info.name = info.name.replace(OUT, str(ground.outside))
        info.linkname = info.linkname.replace(OUT, str(ground.outside))
    return entries


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("../outside/new", b"x")], ["../outside/new: its name holds `..`"]),
        ([entry("a/../../outside/secret", b"x")], ["holds `..`"]),
        ([directory("a/..")], ["holds `..`"]),
        (
            [symlink("out", OUT), entry("out/new", b"x")],
            ["out/new: its name passes through a symbolic link, out"],
        ),
        ([symlink("out", "../outside"), directory("out/new")], ["through a symbolic link, out"]),
        ([symlink("out", "../outside"), symlink("out/new", "x")], ["through a symbolic link, out"]),
        (
            [symlink("out", "../outside"), entry("out/inner/file", b"x")],
            ["out/inner/file: its name passes through a symbolic link, out"],
        ),
        (
            [
                directory("d"),
                symlink("d/up", ".."),
                symlink("d/up2", "up/../outside"),
                entry("d/up2/new", b"x"),
            ],
            ["through a symbolic link, d/up2"],
        ),
        ([directory("d"), symlink("in", "d"), entry("in/new")], ["through a symbolic link, in"]),
        ([link("new", "../outside/secret")], ["new: its name holds `..`"]),
        ([link("new", f"{OUT}/secret")], ["new: it is a hard link to /", "no file of the archive"]),
        (
            [symlink("out", OUT), link("new", "out/secret")],
            ["new: it is a hard link to out/secret, which is no file of the archive"],
        ),
        ([directory("d"), link("new", "d")], ["a hard link to d, which is no file"]),
        ([link("new", "none")], ["a hard link to none, which is no file"]),
        ([entry("a"), link("a", "./a")], ["a: it is a hard link to itself"]),
        ([entry("file"), entry("file/new")], ["file/new: it lies in file, which is no directory"]),
        ([entry("f"), entry("f/a/b")], ["f/a/b: it lies in f, which is no directory"]),
        ([entry("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], ["x: it is a device node"]),
        ([entry("x", type=tarfile.BLKTYPE, devmajor=7)], ["x: it is a device node"]),
        ([entry("x", type=tarfile.CHRTYPE)], ["x: it is a device node"]),
        ([entry(".", b"x")], [".: it stands for the root"]),
        ([entry("./", type=tarfile.SYMTYPE, linkname="/")], ["it stands for the root"]),
        ([entry("a", pax_headers={"path": "a\0b"})], ["its name can be no file's"]),
        ([entry("a/" * 2048 + "a")], ["its name can be no file's"]),
    ],
    ids=lambda value: value[-1][0].name[:20] if isinstance(value[-1], tuple) else "",
)
def test_a_member_that_reaches_out_is_refused_by_name(
    ground: Ground, entries: list[Entry], said: list[str]
) -> None:
    with ground.untouched(), refused(Unsafe, *said):
        ground.unpack(tar(*placed(entries, ground)))


@pytest.mark.parametrize(
    ("entries", "path", "kind"),
    [
        ([symlink("x", f"{OUT}/secret"), entry("x", b"mine")], "x", stat.S_IFREG),
        ([symlink("x", f"{OUT}/inner"), directory("x"), entry("x/file", b"m")], "x", stat.S_IFDIR),
        ([symlink("x", f"{OUT}/inner"), symlink("x", "y")], "x", stat.S_IFLNK),
        ([symlink("x", f"{OUT}/secret"), link("y", "x"), entry("y", b"m")], "x", stat.S_IFLNK),
        ([symlink("x", f"{OUT}/none"), entry("x", type=tarfile.FIFOTYPE)], "x", stat.S_IFIFO),
        ([entry("x", b"one"), symlink("x", "../outside/secret")], "x", stat.S_IFLNK),
    ],
)
def test_a_link_that_leads_out_is_kept_and_never_followed(
    ground: Ground, entries: list[Entry], path: str, kind: int
) -> None:
    with ground.untouched():
        ground.unpack(tar(*placed(entries, ground)))
    assert stat.S_IFMT(os.lstat(ground.layer / path).st_mode) == kind


def test_an_absolute_name_lies_beneath_the_layer(ground: Ground) -> None:
    names = [f"{ground.outside}/secret", "//a", "./b/./c//d/"]
    with ground.untouched():
        ground.unpack(tar(*[entry(name, b"x") for name in names[:2]], directory(names[2])))
    assert (ground.layer / str(ground.outside)[1:] / "secret").read_text() == "x"
    assert (ground.layer / "a").read_text() == "x"
    assert (ground.layer / "b/c/d").is_dir()


def test_of_two_members_of_one_name_the_last_counts(ground: Ground) -> None:
    entries = [
        entry("a", b"1"),
        entry("a", b"two"),
        directory("d"),
        entry("d/deep/file", b"x"),
        entry("d", b"a file now"),
        entry("f", b"x"),
        directory("f", uid=7),
        entry("f/new", b"x"),
        directory("f", uid=8),
        entry("l", b"kept"),
        link("m", "l"),
        entry("l", b"anew"),
        directory("d2/sub"),
        symlink("d2", "a"),
    ]
    ground.unpack(tar(*entries))
    assert ground.names() == ["a", "d", "d2", "f", "f/new", "l", "m"]
    read = {name: (ground.layer / name).read_text() for name in ("a", "d", "l", "m")}
    assert read == {"a": "two", "d": "a file now", "l": "anew", "m": "kept"}
    assert os.stat(ground.layer / "f").st_uid == 8


def test_a_directory_that_comes_again_is_another_one(ground: Ground) -> None:
    ground.unpack(tar(entry("d/e/f"), entry("d"), directory("d"), entry("d/e/g"), entry("d/h")))
    assert ground.names() == ["d", "d/e", "d/e/g", "d/h"]


def test_names_that_differ_by_case_alone_are_two_files(ground: Ground) -> None:
    ground.unpack(tar(entry("Read", b"one"), entry("read", b"two"), directory("READ")))
    assert ground.names() == ["READ", "Read", "read"]
    assert (ground.layer / "Read").read_text() == "one"


def test_setuid_and_capabilities_are_kept(ground: Ground) -> None:
    capability = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    text = capability.decode("utf-8", "surrogateescape")
    headers = {"SCHILY.xattr.security.capability": text}
    entries = [entry("su", b"x", mode=0o4755, uid=1, gid=2, pax_headers=headers)]
    ground.unpack(tar(*entries))
    found = os.stat(ground.layer / "su")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4755, 1, 2)
    assert os.getxattr(ground.layer / "su", "security.capability") == capability


def test_a_whiteout_of_an_image_is_a_name_like_any_other(ground: Ground) -> None:
    ground.unpack(tar(entry(".wh.a", b"x"), entry("d/.wh..wh..opq")))
    assert ground.names() == [".wh.a", "d", "d/.wh..wh..opq"]
    assert stat.S_ISREG(os.lstat(ground.layer / ".wh.a").st_mode)
    assert os.listxattr(ground.layer / "d") == []


@pytest.mark.parametrize(
    ("entries", "key", "said"),
    [
        ([entry(f"f{n}") for n in range(501)], "max_members", "f500: more than 500 entries"),
        ([entry("a/" * 501 + "b")], "max_members", "more than 500 entries"),
        ([entry("big", bytes(17 << 20))], "max_mib", "big: more than 16 MiB in all"),
        ([entry(f"f{n}", bytes(1 << 20)) for n in range(17)], "max_mib", "f16: more than 16 MiB"),
        ([directory(".")] * 501, "max_members", "./: more than 500 entries"),
    ],
    ids=["members", "parents", "one", "all", "root"],
)
def test_what_passes_a_limit_is_refused_with_its_key(
    ground: Ground, entries: list[Entry], key: str, said: str
) -> None:
    with ground.untouched(), refused(TooLarge, said, f"raise `archive: {{{key}: …}}`"):
        ground.unpack(tar(*entries))


def test_a_sparse_file_counts_as_long_as_it_is(ground: Ground) -> None:
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "bomb",
        "GNU.sparse.realsize": str(1 << 40),
    }
    bomb = entry("GNUSparseFile/bomb", b"1\n0\n0\n".ljust(512, b"\0"), pax_headers=headers)
    with refused(TooLarge, "bomb: more than 16 MiB in all", "max_mib"):
        ground.unpack(tar(bomb))
    old = raw(b"old", type=b"S", magic=b"ustar  \0")[:483] + b"%011o\0" % (1 << 32) + bytes(17)
    old = old[:148] + b"%06o\0 " % (sum(old) - sum(old[148:156]) + 256) + old[156:]
    with refused(TooLarge, "old: more than 16 MiB in all"):
        ground.unpack(old + bytes(1024))
    assert ground.names() == []


def test_headers_without_members_do_not_go_on_for_ever(ground: Ground) -> None:
    header = raw(b"h", type=b"g") * 600
    with refused(TooLarge, "more than 500 entries"):
        ground.unpack(header + bytes(1024))
    with refused(TooLarge, "more than 500 entries"):
        ground.unpack(tar(*[entry("x")] * 600), strip=1)


def test_what_expands_without_end_is_stopped(ground: Ground) -> None:
    wide = ArchiveLimits(bytes=1 << 40, members=10, ratio=100)
    bomb = raw(b"zeros", 1 << 30) + bytes(70 << 20)
    with refused(TooLarge, "zeros: expands to more than 100 times its size", "max_ratio"):
        ground.unpack(gzip.compress(bomb, 1), limits=wide)
    for compress in (gzip.compress, lzma.compress):
        with refused(TooLarge, "more than 16 MiB in all", "max_mib"):
            ground.unpack(compress(bytes(17 << 20)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"hello, this is no archive\n" * 100,
        raw(b"a")[:-1],
        raw(b"a"),
        raw(b"a") + bytes(512) + raw(b"b") + bytes(1024),
        raw(b"a") + b"x" * 512 + bytes(1024),
        raw(b"a", 100) + b"short",
        raw(b"a", size=1 << 20),
        raw(b"a", type=b"L"),
        raw(b"a", 1 << 21, type=b"x") + bytes(1 << 21),
        raw(b"a", size=1)[:124] + b"\xff" * 12 + raw(b"a")[136:],
        raw(b"a", mode=b"0o0644\0"),
        raw(b"a", mode=b"0000_44\0"),
        raw(b"a", mtime=b"\x80" + b"\xff" * 11),
        raw(b"a", 6, type=b"x") + b"9 a=b\n".ljust(512, b"\0"),
        raw(b"a", 6, type=b"x") + b"6 ab\n\n".ljust(512, b"\0"),
        gzip.compress(raw(b"a"))[:-4],
        gzip.compress(tar(entry("a")))[:-8] + bytes(8),
        gzip.compress(tar(entry("a"))) + b"more",
        gzip.compress(tar(entry("a"))) + lzma.compress(b""),
        lzma.compress(tar(entry("a")))[:-20],
        b"BZh9" + bytes(100),
        b"\x28\xb5\x2f\xfd" + bytes(100),
        b"PK\3\4" + bytes(100),
        b"PK\5\6" + bytes(10),
    ],
)
def test_what_is_cut_off_or_corrupt_is_damaged(ground: Ground, data: bytes) -> None:
    with ground.untouched(), refused(Damaged):
        ground.unpack(data)


def test_an_archive_that_is_cut_off_anywhere_is_damaged(ground: Ground) -> None:
    data = tar(entry("a", b"x" * 600), directory("d"), entry("d/é" * 60, b"y"))[:-1024]
    for end in range(1, len(data) + 1, 128):
        with refused(Damaged):
            ground.unpack(data[:end])
    ground.unpack(data + bytes(512))


@pytest.mark.parametrize("kind", [b"M", b"N", b"Z", b"A"])
def test_a_member_of_a_kind_that_is_not_known_is_no_file(ground: Ground, kind: bytes) -> None:
    with refused(Unsupported, "a: a member of a type that is not known"):
        ground.unpack(raw(b"a", type=kind) + bytes(1024))


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ("2\n0\n10\n5\n10\n", 100),
        ("1\n0\n20\n", 10),
        ("1\n0\n30\n", 100),
        ("1\n-1\n20\n", 100),
        ("99999999\n0\n1\n", 100),
        ("1\n0\n", 100),
        ("x\n", 100),
        ("1" * 600 + "\n", 100),
    ],
)
def test_a_map_of_holes_that_lies_is_damaged(ground: Ground, extents: str, size: int) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(size)}
    data = extents.encode().ljust(512, b"\0") + b"x" * 20
    with ground.untouched(), refused(Damaged, "s: "):
        ground.unpack(tar(entry("s", data, pax_headers=headers)))


def test_what_the_kernel_refuses_is_said_of_the_member(ground: Ground) -> None:
    with refused(EnvstackError, "n" * 200, "File name too long"):
        ground.unpack(tar(entry("n" * 256)))
    with refused(EnvstackError, "s: "):
        ground.unpack(tar(entry("s", type=tarfile.SYMTYPE)))


def test_who_gives_up_in_the_midst_of_it_is_heard(ground: Ground) -> None:
    def tick(entries: int) -> None:
        if entries:
            raise Cancelled("given up")

    file = os.memfd_create("archive")
    try:
        os.write(file, tar(*[entry(f"f{n}") for n in range(1000)]))
        with pytest.raises(Cancelled):
            unpack(file, os.fsencode(ground.layer), Reading("test.tar", LIMITS, tick))
    finally:
        os.close(file)
    assert len(ground.names()) < 300


def chain(count: int) -> list[Entry]:
    return [entry(f"{'d/' * 200}{n}/f") for n in range(count)]


def alternating(count: int) -> list[Entry]:
    return [directory("x/y") if n % 2 else entry("x/y") for n in range(count)]


def apart(count: int) -> list[Entry]:
    return [entry(f"{n % 97}/{n}") for n in range(count)]


def links(count: int) -> list[Entry]:
    return [entry("0"), *[link(str(n), str(n - 1)) for n in range(1, count)]]


@pytest.mark.parametrize("make", [chain, alternating, apart, links])
def test_four_times_the_members_take_about_four_times_as_long(
    ground: Ground, make: Callable[[int], list[Entry]]
) -> None:
    wide = ArchiveLimits(members=1_000_000)

    def seconds(count: int) -> float:
        data = tar(*make(count))
        began = time.process_time()
        ground.unpack(data, limits=wide)
        return time.process_time() - began

    seconds(10)
    few = min(seconds(200) for _ in range(2))
    assert seconds(800) < 12 * few + 0.05
