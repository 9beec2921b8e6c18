"""Whatever the bytes are: an error that is meant for a user, in a bounded time, nothing outside."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.errors import EnvstackError
from tests.archive.harness import (
    directory,
    entry,
    link,
    symlink,
    tar,
    zip_of,
)
from tests.support import trees
from tests.support.profiles import CHOSEN

if TYPE_CHECKING:
    from tests.archive.harness import Ground

pytestmark = pytest.mark.kernel

SECONDS = 5.0
"""For one archive of some kilobytes, on a machine that is busy."""

_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "9000", "GNU.sparse.name": "s"}
_MEMBERS = [
    directory("d", uid=5),
    entry("d/file", b"content " * 100, pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "1.5"}),
    symlink("d/link", "../d"),
    link("hard", "d/file"),
    entry("x" * 150, b"long"),
    entry("GNUSparse/s", b"1\n8192\n10\n".ljust(512, b"\0") + b"x" * 10, pax_headers=_SPARSE),
    entry("fifo", type=tarfile.FIFOTYPE),
]
_TAR = tar(*_MEMBERS)
VALID = [
    _TAR,
    tar(*_MEMBERS[:5], form=tarfile.GNU_FORMAT),
    gzip.compress(_TAR, 1),
    bz2.compress(_TAR),
    lzma.compress(_TAR),
    zip_of(**{"a/b": b"content " * 100, "c": b"d"}).getvalue(),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid archive, some bytes of it changed, cut out or put twice; its sums right, or not."""
    which = draw(st.integers(0, len(VALID) - 1))
    data = bytearray(VALID[which])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[at : at + 12] = draw(st.binary(min_size=12, max_size=12))
            case 2:
                del data[at : at + draw(st.integers(1, 600))]
            case 3:
                block = at // 512 * 512
                data[block:block] = data[block : block + 512]
            case _:
                data[at : at + 4] = draw(
                    st.sampled_from([b"../x", b"\0" * 4, b"7777", b"\xff" * 4])
                )
    return _summed(data) if which < 2 and draw(st.booleans()) else bytes(data)


def _summed(data: bytearray) -> bytes:
    """Make every block a header whose check sum is right, if it looks like one."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


@settings(CHOSEN, max_examples=20 * CHOSEN.max_examples // 3)
@given(data=mutated())
def test_no_archive_breaks_the_reader_or_out_of_its_layer(ground: Ground, data: bytes) -> None:
    began = time.process_time()
    with ground.untouched(), suppress(EnvstackError):
        ground.unpack(data)
    assert time.process_time() - began < SECONDS
    trees.remove(ground.layer)
    ground.layer.mkdir()


@settings(CHOSEN, max_examples=20 * CHOSEN.max_examples // 3)
@given(
    start=st.sampled_from(
        [b"", b"PK\3\4", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]
    ),
    rest=st.binary(max_size=2000),
)
def test_no_bytes_break_the_reader(ground: Ground, start: bytes, rest: bytes) -> None:
    with ground.untouched(), suppress(EnvstackError):
        ground.unpack(start + rest)
    assert ground.names() == []
