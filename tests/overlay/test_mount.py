"""The moves of overlayfs that everything stands on, each done to a real mount."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from envstack.errors import StateError, Unsupported
from envstack.linux.mountinfo import read_mounts, stack_at
from envstack.overlay import mount as overlay
from envstack.overlay import older
from tests.support import trees, waiting, ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from envstack.overlay.mount import Overlay
    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with layers, uppers, and a mount point; overlays are built in one of the ways."""

    root: Path
    way: str

    @property
    def point(self) -> Path:
        return self.root / "merged"

    def layer(self, name: str, **files: str) -> bytes:
        path = self.root / name
        path.mkdir(parents=True)
        for file, content in files.items():
            (path / file).write_text(content)
        return os.fsencode(path)

    def overlay(self, *lowers: bytes, upper: str = "upper") -> overlay.Overlay:
        return overlay.Overlay(
            source=b"envstack:" + upper.encode("ascii", "replace")[:99],
            lowers=lowers,
            upper=self.layer(f"{upper}/fs"),
            work=self.layer(f"{upper}/work"),
        )

    def build(self, value: Overlay) -> int:
        like = os.fsencode(self.root)
        if self.way == ways.NEWER:
            return overlay.build(value, like)
        return older.build(self._empty, value, like)

    @contextmanager
    def _empty(self) -> Iterator[bytes]:
        hidden = self.root / "hidden"
        hidden.mkdir()
        yield os.fsencode(hidden)
        assert not hidden.is_mount()
        hidden.rmdir()

    def sources(self) -> list[bytes]:
        return [mount.source for mount in stack_at(read_mounts(), os.fsencode(self.point))]


@pytest.fixture
def place(ground: Ground, way: str) -> Iterator[Place]:
    made = Place(ground.fresh("o"), way)
    made.point.mkdir(parents=True)
    yield made
    while made.sources():
        old = overlay.open_mount(os.fsencode(made.point))
        overlay.detach(old)
        os.close(old)
    trees.remove(made.root)


@contextmanager
def built(place: Place, value: overlay.Overlay) -> Iterator[int]:
    mount = place.build(value)
    try:
        yield mount
    finally:
        os.close(mount)


@contextmanager
def attached(place: Place, value: overlay.Overlay) -> Iterator[int]:
    with built(place, value) as mount:
        overlay.attach(mount, os.fsencode(place.point))
        yield mount


def test_the_first_lower_is_the_topmost(place: Place) -> None:
    top, bottom = place.layer("top", both="top"), place.layer("bottom", both="bottom", low="low")
    with attached(place, place.overlay(top, bottom)):
        assert (place.point / "both").read_text() == "top"
        assert (place.point / "low").read_text() == "low"
        assert place.sources() == [b"envstack:upper"]


def test_a_mount_point_that_was_deleted_is_said_to_be(place: Place) -> None:
    lost = place.root / "lost"
    lost.mkdir()
    descriptor = os.open(lost, os.O_PATH)
    lost.rmdir()
    try:
        with built(place, place.overlay(place.layer("lower"))) as mount:
            for point in (os.fsencode(lost), b"/proc/self/fd/%d" % descriptor):
                with pytest.raises(StateError, match="was deleted"):
                    overlay.attach(mount, point)
    finally:
        os.close(descriptor)


ODD = [b"a:b", b"a,b", b"a\\b", b"a\\072b", b"a\nb", b"a b", b"\xff\xfe", b"x" * 255, b"'\"$"]


@pytest.mark.parametrize("name", ODD)
def test_a_layer_may_have_any_name(place: Place, name: bytes) -> None:
    odd = os.fsdecode(name)
    lower = place.layer(f"{odd}/lower", file="content")
    other = place.layer(f"{odd}/other", second="content")
    with attached(place, place.overlay(lower, other, upper=f"{odd}/upper")):
        assert (place.point / "file").read_text() == "content"
        assert (place.point / "second").read_text() == "content"
        (place.point / "new").write_text("new")
        assert (place.root / odd / "upper" / "fs" / "new").read_text() == "new"


def test_a_path_may_be_longer_than_fsconfig_takes(place: Place) -> None:
    deep = "/".join(["d" * 200] * 3)
    lower = place.layer(f"{deep}/lower", file="content")
    with attached(place, place.overlay(lower, upper=f"{deep}/upper")):
        assert (place.point / "file").read_text() == "content"


def test_500_lowers_are_mounted_and_501_refused(place: Place) -> None:
    lowers = [place.layer(f"l{number}", **{f"f{number}": ""}) for number in range(501)]
    assert overlay.MAX_LOWERS == 500
    with attached(place, place.overlay(*lowers[:500])):
        assert len(os.listdir(place.point)) == 500
    with pytest.raises(Unsupported):
        place.build(place.overlay(*lowers, upper="more"))


def test_no_descriptor_is_left_by_a_build_that_fails(place: Place) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    value = place.overlay(place.layer("back\\slash"))
    os.rmdir(value.work)
    with pytest.raises(OSError, match=r"workdir|/work'") as caught:
        place.build(value)
    assert caught.value.errno == errno.ENOENT
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_an_upper_on_an_overlay_is_refused_with_the_kernels_words(place: Place) -> None:
    with attached(place, place.overlay(place.layer("lower"))):
        nested = overlay.Overlay(
            b"nested",
            (os.fsencode(place.root / "lower"),),
            os.fsencode(place.point / "u"),
            os.fsencode(place.point / "w"),
        )
        (place.point / "u").mkdir()
        (place.point / "w").mkdir()
        with pytest.raises(Unsupported) as caught:
            place.build(nested)
        assert ("upper" if place.way == ways.NEWER else "dmesg") in caught.value.message


@pytest.mark.parametrize("way", [ways.NEWER], indirect=True)
def test_the_one_beneath_shows_once_the_top_is_detached(place: Place, propagation: str) -> None:
    lower = place.layer("lower", file="content")
    first, second = place.overlay(lower, upper="first"), place.overlay(lower, upper="second")
    with attached(place, first) as top, built(place, second) as beneath:
        (place.point / "only").write_text("in the first")
        overlay.lock_mount(top)
        overlay.attach_beneath(beneath, top)
        assert place.sources() == [b"envstack:second", b"envstack:first"]
        assert (place.point / "only").exists()
        overlay.detach(top)
        assert place.sources() == [b"envstack:second"]
        assert sorted(os.listdir(place.point)) == ["file"]
        (place.point / "new").write_text("new")
        with pytest.raises(OSError, match="Read-only"):
            os.open(b"/proc/self/fd/%d/late" % top, os.O_CREAT | os.O_WRONLY)


def test_the_lock_of_a_mount_waits_for_writers_and_can_be_taken_back(place: Place) -> None:
    with attached(place, place.overlay(place.layer("lower"))) as mount:
        with (place.point / "file").open("w"), pytest.raises(OSError, match="busy") as caught:
            overlay.lock_mount(mount, patience=0.01)
        assert caught.value.errno == errno.EBUSY
        overlay.lock_mount(mount)
        with pytest.raises(OSError, match="Read-only"):
            (place.point / "file").write_text("")
        overlay.unlock_mount(mount)
        (place.point / "file").write_text("")


def test_the_lock_of_a_superblock_reaches_every_clone(place: Place) -> None:
    with attached(place, place.overlay(place.layer("lower"))) as mount:
        clone = overlay.clone(mount)
        try:
            (place.point / "gone").write_text("")
            with (place.point / "gone").open():
                (place.point / "gone").unlink()
                with pytest.raises(OSError, match="busy") as caught:
                    overlay.lock_superblock(mount)
                assert caught.value.errno == errno.EBUSY
            overlay.lock_superblock(mount)
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(b"/proc/self/fd/%d/late" % clone)
        finally:
            os.close(clone)


def test_a_clone_that_is_attached_again_is_the_same_superblock(place: Place) -> None:
    with attached(place, place.overlay(place.layer("lower"))) as mount:
        clone = overlay.clone(mount)
        device = os.stat(place.point).st_dev
        overlay.detach(mount)
    assert place.sources() == []
    overlay.attach(clone, os.fsencode(place.point))
    os.close(clone)
    assert os.stat(place.point).st_dev == device


def test_an_upper_is_in_use_while_anything_holds_its_overlay(place: Place) -> None:
    value = place.overlay(place.layer("lower"))
    assert not overlay.in_use(value.upper)
    with built(place, value):
        assert overlay.in_use(value.upper)
    waiting.until(lambda: not overlay.in_use(value.upper), "the end of the superblock")
    with attached(place, value):
        assert overlay.in_use(value.upper)
        with (place.point / "file").open("w"):
            detached = overlay.open_mount(os.fsencode(place.point))
            overlay.detach(detached)
            os.close(detached)
            assert overlay.in_use(value.upper)
    waiting.until(lambda: not overlay.in_use(value.upper), "the end of the superblock")
    assert os.listdir(value.upper) == [b"file"]


def test_unmounting_one_in_use_is_refused(place: Place) -> None:
    with built(place, place.overlay(place.layer("lower"))) as mount:
        overlay.attach(mount, os.fsencode(place.point))
    with (place.point / "file").open("w"):
        with pytest.raises(OSError, match="busy") as caught:
            overlay.unmount(os.fsencode(place.point))
        assert caught.value.errno == errno.EBUSY
    overlay.unmount(os.fsencode(place.point))
    assert place.sources() == []


def test_nothing_is_left_of_building_one(place: Place, propagation: str) -> None:
    value = place.overlay(place.layer("lower", file="content"))
    before = read_mounts(), sorted(os.listdir("/proc/self/fd")), os.getcwd()
    with built(place, value) as mount:
        assert read_mounts() == before[0]
        assert os.listdir(b"/proc/self/fd/%d" % mount) == [b"file"]
    assert (sorted(os.listdir("/proc/self/fd")), os.getcwd()) == before[1:]


def test_the_flags_of_the_file_system_below_carry_over(
    place: Place, filesystem: Callable[[str], Path]
) -> None:
    like = filesystem("tmpfs")
    subprocess.run(["mount", "-o", "remount,bind,nodev,nosuid", like], check=True)
    place = Place(like, place.way)
    with built(place, place.overlay(place.layer("lower"))) as mount:
        flags = os.fstatvfs(mount).f_flag
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOSUID
    assert not flags & os.ST_NOEXEC


@pytest.mark.parametrize("way", [ways.OLDER], indirect=True)
def test_another_namespace_keeps_nothing_of_building_one(place: Place, propagation: str) -> None:
    command = ["unshare", "--mount", "--propagation", "unchanged", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        waiting.until(
            lambda: os.stat(f"/proc/{other.pid}/ns/mnt") != os.stat("/proc/self/ns/mnt"),
            "another namespace",
        )
        before = len(read_mounts(other.pid))
        with built(place, place.overlay(place.layer("lower"))):
            assert len(read_mounts(other.pid)) == before
        other.communicate()


@pytest.mark.parametrize("way", [ways.NEWER], indirect=True)
def test_asking_for_the_newer_calls_changes_nothing(
    directory: Callable[[], Path], way: str
) -> None:
    one, other = (os.fsencode(directory()) for _ in range(2))
    before = read_mounts(), sorted(os.listdir("/proc/self/fd"))
    assert older.mounts_beneath()
    assert older.takes_lowers_one_by_one(one, other)
    assert not older.takes_lowers_one_by_one(b"/proc/self/fd", one), "procfs is no layer"
    assert (read_mounts(), sorted(os.listdir("/proc/self/fd"))) == before
    assert os.listdir(one) == os.listdir(other) == []
