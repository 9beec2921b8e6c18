"""What people and programs do to a tree, all at once: each a storm that the feed has to tell.

A storm takes the merged root and is a generator. Where it yields, nobody writes for a moment, and
what it still holds open or mapped stays so: there the mirror is compared. LOWER is the layer below.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import needs
from tests.support.checkout import REPOSITORY

if TYPE_CHECKING:
    from tests.support.edits import Edit

Storm = Callable[[Path], Iterator[None]]

LONG = os.environ.get("ENVSTACK_MODEL") == "long"
FILES = 100_000 if LONG else 10_000
PACKAGE = "django"
"""Large, pure Python and without a compiler."""

_RENAME_EXCHANGE = 2
_PAGE = 4096


def _fill(root: Path) -> None:
    for number in range(12):
        place = root / "lib" / f"package{number}" / "inner"
        place.mkdir(parents=True)
        for each in range(12):
            (place / f"module{each}").write_text(f"{number} {each}\n")
    (root / "lib" / "symlink").symlink_to("package0")
    for name in (b"caf\xe9", b"new\nline"):
        (root / os.fsdecode(name)).write_text("lower\n")
    (root / "config").write_text("key = value\n")
    (root / "data").write_bytes(b"\0" * 16 * _PAGE)
    (root / "one").write_text("of two names\n")
    os.link(root / "one", root / "lib" / "two")


LOWER: list[Edit] = [_fill]


def nested_files(root: Path) -> Iterator[None]:
    """A hundred files in each directory, and the directories seven deep in each other."""
    for number in range(0, FILES, 100):
        place = root / "made" / "/".join(f"{number:07}")
        place.mkdir(parents=True)
        for each in range(100):
            (place / f"file{each}").write_text("x")
    yield


def many_directories(root: Path) -> Iterator[None]:
    """A directory and at once a file in it: nobody who waits for the first sees the second."""
    for number in range(2000):
        place = root / "many" / str(number % 7) / str(number) / "below"
        place.mkdir(parents=True)
        (place / "file").write_text("x")
    yield


def git(root: Path) -> Iterator[None]:
    """Clone this repository, and check out its oldest and its newest commit in turn."""
    program = needs.program("git")
    if not (REPOSITORY / ".git").exists():
        needs.lack("a checkout of this repository with its history")
    place = str(root / "clone")
    _run(program, "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), place)
    yield
    commits = _run(program, "-C", place, "rev-list", "--first-parent", "HEAD").split()
    for commit in (commits[-1], commits[0], commits[len(commits) // 2], commits[0]):
        _run(program, "-C", place, "checkout", "--quiet", "--detach", commit)
        yield
    _run(program, "-C", place, "gc", "--quiet")
    yield


def pip(root: Path) -> Iterator[None]:
    """Install a large package, and again over itself."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*install, "--no-deps", "--upgrade", "--target", str(root / "site"), PACKAGE]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        needs.lack(f"a package index that has {PACKAGE}")
    yield
    _run(*command, "--force-reinstall")
    yield


def tar(root: Path) -> Iterator[None]:
    """Extract an archive with links of both kinds, and once more over what is there."""
    archive = root / "archive.tar"
    with tarfile.open(archive, "w") as file:
        file.add(REPOSITORY / "tests", "sources", filter=_without_caches)
        for number in range(200):
            link = tarfile.TarInfo(f"sources/link{number}")
            link.type, link.linkname = tarfile.LNKTYPE, "sources/conftest.py"
            file.addfile(link)
            symlink = tarfile.TarInfo(f"sources/symlink{number}")
            symlink.type, symlink.linkname = tarfile.SYMTYPE, "conftest.py"
            file.addfile(symlink)
    for _ in range(2):
        _run("tar", "xf", str(archive), "-C", str(root))
        yield


def copy_and_remove(root: Path) -> Iterator[None]:
    """cp -a of a lower tree, and rm -rf of lower trees, of copies, of all that there is."""
    _run("cp", "-a", str(root / "lib"), str(root / "copy"))
    yield
    _run("rm", "-rf", str(root / "lib" / "package0"), str(root / "copy" / "package1"))
    yield
    _run("rm", "-rf", *map(str, root.iterdir()))
    yield


def saves_of_editors(root: Path) -> Iterator[None]:
    """Write beside and rename over; move the old aside, write anew, delete; truncate and write."""
    for number in range(50):
        for name in ("config", "notes"):
            path, beside = root / name, root / f".{name}.swp"
            with beside.open("w") as file:
                file.write(f"saved by rename, {number % 10}\n")
                os.fsync(file.fileno())
            beside.rename(path)
            backup = root / f"{name}~"
            path.rename(backup)
            path.write_text(f"saved beside a backup, {number % 10}\n")
            backup.unlink()
            path.write_text(f"saved in place, {number % 10}\n")
    yield


def ring_of_renames(root: Path) -> Iterator[None]:
    """A thousand renames after which ten files, and ten directories, have changed places."""
    places = [root / "ring" / str(number) for number in range(10)]
    for number, place in enumerate(places):
        place.mkdir(parents=True)
        (place / f"was{number}").touch()
        place.with_suffix(".txt").write_text(str(number))
    yield
    for suffix in ("", ".txt"):
        ring = [place.with_suffix(suffix) for place in places]
        for _ in range(50):
            ring[0].rename(root / "ring" / "held")
            for here, there in zip(ring[1:], ring[:-1], strict=True):
                here.rename(there)
            (root / "ring" / "held").rename(ring[-1])
        yield


def hard_links(root: Path) -> Iterator[None]:
    """Names of one file in several directories, changed through each of them."""
    names = [root / place / "name" for place in ("a", "b", "a/deep", ".")]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
    names[0].write_text("first\n")
    for name in names[1:]:
        os.link(names[0], name)
    yield
    for name in names:
        name.write_text(f"through {name.parent.name}\n")
        yield
        with name.open("a") as file:
            file.write("and more\n")
        yield
    names[1].chmod(0o600)
    yield
    os.setxattr(names[2], "user.a", b"seen by all")
    yield
    names[0].unlink()
    names[1].write_text("after one name is gone\n")
    yield
    os.rename(names[1], root / "config")
    (root / "config").write_text("and another lies over a file\n")
    yield


def hard_links_of_lower_files(root: Path) -> Iterator[None]:
    """A further name for a file of a layer, and the first write to one of its two names there."""
    os.link(root / "one", root / "three")
    yield
    (root / "three").write_text("through the new name\n")
    yield
    (root / "lib" / "two").write_text("through the other\n")
    yield
    (root / "one").unlink()
    (root / "three").write_text("and again\n")
    yield


def deep_directories(root: Path) -> Iterator[None]:
    """mkdir -p of five hundred at once, a move in the middle of them, and all of them gone."""
    names = ["d"] * 500
    for top in ("deep", "lib/deep"):
        _run("mkdir", "-p", str(root / top / "/".join(names)))
        (root / top / "/".join(names) / "file").write_text("at the bottom\n")
    yield
    (root / "deep" / "/".join(names[:200])).rename(root / "moved")
    yield
    _run("rm", "-rf", str(root / "moved"), str(root / "lib" / "deep"))
    yield


def made_anew(root: Path) -> Iterator[None]:
    """Directories of a layer that are removed and made anew: empty, alike, with some of it."""
    place = root / "lib" / "package1"
    shutil.rmtree(place)
    place.mkdir()
    yield
    (place / "inner").mkdir()
    (place / "inner" / "module1").write_text("not as it was\n")
    yield
    for package in (root / "lib" / "package2", root / "lib" / "package3"):
        copy = root / "copy"
        shutil.copytree(package, copy)
        shutil.rmtree(package)
        copy.rename(package)
        yield
        shutil.rmtree(package)
        yield


def changes_of_kind(root: Path) -> Iterator[None]:
    """A directory of a layer, a file and a new name, each by turns everything there is."""
    for path in (root / "lib" / "package4", root / "config", root / "fresh"):
        for make in (_file, _directory, _symlink, _fifo, _socket, _directory, _file):
            _run("rm", "-rf", str(path))
            make(path)
            yield
    for make in (_symlink, _directory, _file, _directory):
        for path in (root / "lib" / "package5", root / "data"):
            _run("rm", "-rf", str(path))
            make(path)
    yield


def mappings(root: Path) -> Iterator[None]:
    """Writes through a shared mapping, of which only the first to a page leaves any trace."""
    (root / "own").write_bytes(b"\0" * 4 * _PAGE)
    for name in ("own", "data"):
        with (root / name).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            for offset in (0, 1, 2, 2 * _PAGE, 2 * _PAGE + 1):
                mapping[offset] = mapping[offset] ^ 0xFF
                yield
            mapping[3] = mapping[3] ^ 0xFF
        yield


def mappings_among_others(root: Path) -> Iterator[None]:
    """Forty files that are mapped and open, and one after the other is written to unseen."""
    places = [root / f"mapped{number}" for number in range(40)]
    held = []
    try:
        for place in places:
            place.write_bytes(b"\0" * _PAGE)
            with place.open("r+b") as file:
                held.append(mmap.mmap(file.fileno(), 0))
            held[-1][0] = 1
        yield
        for mapping in held[::10]:
            mapping[1] = 2
            yield
    finally:
        for mapping in held:
            mapping.close()
    yield


def rewrites(root: Path) -> Iterator[None]:
    """The same size at once again, right after each barrier, and with its old times put back."""
    path = root / "rewritten"
    path.write_text("0000")
    for number in range(1, 15):
        yield
        path.write_text(f"{number:04}")
    for name in ("rewritten", "config"):
        before = (root / name).stat()
        (root / name).write_text("x" * before.st_size)
        os.utime(root / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        yield


def metadata(root: Path) -> Iterator[None]:
    """Mode, owner and attributes alone: of files, directories, links and the root."""
    (root / "upper").write_text("upper\n")
    for name in ("upper", "config", "lib", "lib/package6", "."):
        path = root / name
        for mode in (0o700, 0o4711, 0o755):
            path.chmod(mode)
            yield
        os.chown(path, 1, 2)
        yield
        os.setxattr(path, "user.a", b"1")
        yield
        os.setxattr(path, "user.a", b"2")
        yield
        os.removexattr(path, "user.a")
        yield
    os.chown(root / "lib" / "symlink", 1, 1, follow_symlinks=False)
    yield


def odd_names(root: Path) -> Iterator[None]:
    """Names that are not UTF-8 or hold newlines, quotes, or as many bytes as fit."""
    names = [b"\xff\xfe", b"a\nb\n", b"\n", b'"\\', b" ", b"-rf", b"n" * 255, b"\xc3\x28", b"\x7f"]
    top = os.fsencode(root)
    for above in (top, top + b"/\xe9", top + b"/\xe9/\r"):
        os.makedirs(above, exist_ok=True)
        for name in names:
            Path(os.fsdecode(above + b"/" + name)).write_text("odd\n")
    yield
    for name in (b"/caf\xe9", b"/new\nline", b"/\xe9/\r/\xff\xfe"):
        Path(os.fsdecode(top + name)).write_text("odd and longer\n")
    yield
    os.rename(top + b"/\xe9", top + b"/\xe8")
    yield
    for name in (b"/caf\xe9", b"/new\nline", b"/\xe8"):
        _run(b"rm", b"-rf", top + name)
    yield


def deleted_while_open(root: Path) -> Iterator[None]:
    """Files that have no name any more and are written to, and others under their old names."""
    (root / "brief").write_text("brief\n")
    with (root / "brief").open("a") as first, (root / "config").open("a") as second:
        (root / "brief").unlink()
        (root / "config").unlink()
        first.write("of nobody\n")
        second.write("of nobody\n")
        second.flush()
        yield
        (root / "config").write_text("another\n")
        first.flush()
        yield
    yield


def named_late(root: Path) -> Iterator[None]:
    """A file that gets its name when it is whole (O_TMPFILE, linkat)."""
    try:
        descriptor = os.open(root / "lib", os.O_TMPFILE | os.O_RDWR, 0o644)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        needs.lack("O_TMPFILE on overlayfs (Linux 6.1)")
    with open(descriptor, "w") as file:
        file.write("whole\n")
        file.flush()
        yield
        # Python follows the link only where a descriptor makes it call linkat(2).
        os.link(f"/proc/self/fd/{descriptor}", root / "lib" / "late", src_dir_fd=descriptor)
        yield
        file.write("and longer under its name\n")
    yield


def renames_over(root: Path) -> Iterator[None]:
    """Over files of the upper and of a layer, over an empty directory, a symlink over a file."""
    for name in ("a", "b", "c"):
        (root / name).write_text(name)
    (root / "full").mkdir()
    (root / "full" / "file").touch()
    (root / "empty").mkdir()
    (root / "symlink").symlink_to("a")
    yield
    os.rename(root / "a", root / "b")
    os.rename(root / "b", root / "config")
    os.rename(root / "full", root / "empty")
    os.rename(root / "symlink", root / "c")
    os.rename(root / "lib" / "package7" / "inner" / "module1", root / "data")
    yield


def exchanges(root: Path) -> Iterator[None]:
    """RENAME_EXCHANGE, of whatever overlayfs lets it."""
    for number in range(3):
        (root / f"file{number}").write_text(f"{number}\n")
        (root / f"dir{number}").mkdir()
        (root / f"dir{number}" / "inside").write_text(f"{number}\n")
    pairs = [
        ("file0", "config"),
        ("file1", "file2"),
        ("file1", "dir0"),
        ("dir1", "dir2"),
        ("dir2/inside", "lib/package8/inner/module8"),
        ("lib/package8", "lib/package9"),
        ("dir1", "lib/package10"),
    ]
    done = 0
    for one, other in pairs:
        done += _exchange(root / one, root / other)
        yield
    assert done >= 4, "overlayfs exchanges nothing"


def moves(root: Path) -> Iterator[None]:
    """Trees that change places: within the upper by one rename, from a layer by copying."""
    for name in ("left", "right"):
        (root / name / "below").mkdir(parents=True)
        for number in range(50):
            (root / name / "below" / str(number)).write_text(name)
    yield
    (root / "left").rename(root / "held")
    (root / "right").rename(root / "left")
    (root / "held").rename(root / "right")
    yield
    shutil.move(root / "lib" / "package11", root / "moved")
    shutil.move(root / "moved", root / "lib" / "package12")
    yield
    (root / "left").rename(root / "lib" / "left")
    yield


def holes(root: Path) -> Iterator[None]:
    """Sizes that change and bytes that do not, and the other way round."""
    for name in ("data", "sparse"):
        path = root / name
        path.touch()
        for size in (1 << 20, 3, 0, 8192):
            os.truncate(path, size)
            yield
        descriptor = os.open(path, os.O_RDWR)
        os.posix_fallocate(descriptor, 0, 1 << 16)
        os.pwrite(descriptor, b"x", 60_000)
        os.close(descriptor)
        yield


def coming_and_going(root: Path) -> Iterator[None]:
    """The same names made and removed a thousand times; the last time they stay, or they go."""
    for last in ("stays", "goes"):
        place = root / last
        for number in range(500):
            place.mkdir()
            (place / "file").write_text(str(number))
            (place / "file").unlink()
            place.rmdir()
        if last == "stays":
            place.mkdir()
            (place / "file").write_text("here\n")
        yield


def many_at_once(root: Path) -> Iterator[None]:
    """Four programs that write, rename and remove in the same directories."""
    script = (
        "i=0; while [ $i -lt 300 ]; do d=$((i % 5)); mkdir -p shared/$d;"
        ' echo "$1 $i" > shared/$d/$1'
        " && mv shared/$d/$1 shared/$d/last && cp shared/$d/last shared/$1-$d 2>/dev/null;"
        " [ $((i % 50)) = 0 ] && rm -rf shared/$d; i=$((i + 1)); done; true"
    )
    (root / "shared").mkdir()
    quiet = subprocess.DEVNULL
    writers = [
        subprocess.Popen(["sh", "-c", script, "sh", str(number)], cwd=root, stderr=quiet)
        for number in range(4)
    ]
    for writer in writers:
        writer.wait()
    yield


STORMS: dict[str, Storm] = {
    storm.__name__: storm
    for storm in (
        nested_files,
        many_directories,
        git,
        pip,
        tar,
        copy_and_remove,
        saves_of_editors,
        ring_of_renames,
        hard_links,
        hard_links_of_lower_files,
        deep_directories,
        made_anew,
        changes_of_kind,
        mappings,
        mappings_among_others,
        rewrites,
        metadata,
        odd_names,
        deleted_while_open,
        named_late,
        renames_over,
        exchanges,
        moves,
        holes,
        coming_and_going,
        many_at_once,
    )
}


def _run(*command: str | bytes) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command!r}: {done.stderr}"
    return done.stdout


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where overlayfs will not (EXDEV)."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), -100, os.fsencode(other)
    if libc.renameat2(-100, *names, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number not in (errno.EXDEV, errno.EINVAL):
        raise OSError(number, os.strerror(number), one)
    return False


def _file(path: Path) -> None:
    path.write_text("now a file\n")


def _directory(path: Path) -> None:
    (path / "inside").mkdir(parents=True)
    (path / "inside" / "file").write_text("now a directory\n")


def _symlink(path: Path) -> None:
    path.symlink_to("nowhere")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # bind(2) takes 107 bytes, and a path through a directory's descriptor is short.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
