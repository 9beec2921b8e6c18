"""Commands in namespaces of their own: real programs in real overlays, and nothing left of them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from envstack.errors import EnvstackError, UsageError
from envstack.linux import proc, syscalls
from envstack.linux.commands import Command
from envstack.linux.holders import find_holders
from envstack.linux.launcher import Launcher
from envstack.linux.mountinfo import read_mounts, stack_at, topmost_at
from envstack.overlay import mount as overlay
from tests.support import trees, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.linux.launcher import Running
    from envstack.linux.mountinfo import Mount
    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel

WITHIN = 20.0
ROOT = Path(__file__).parents[2]
PATH = os.environb[b"PATH"]


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with a layer, an upper, and a point where commands find the two merged."""

    root: Path

    def make(self) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (self.root / name).mkdir(parents=True)
        (self.root / "lower" / "known").write_text("known\n")

    @property
    def mark(self) -> dict[bytes, bytes]:
        """What a process is known by, whatever session or parent it has by then."""
        return {b"PLACE": os.fsencode(self.root)}

    @property
    def point(self) -> bytes:
        return os.fsencode(self.root / "merged")

    @property
    def upper(self) -> bytes:
        return os.fsencode(self.root / "upper")

    def build(self, source: bytes = b"envstack:built") -> int:
        lower, work = (os.fsencode(self.root / name) for name in ("lower", "work"))
        layers = overlay.Overlay(source, (lower,), self.upper, work)
        return overlay.build(layers, like=self.upper)

    def processes(self) -> list[int]:
        """Return the processes that commands started here, by their environment."""
        found = []
        for pid in proc.processes():
            with suppress(*proc.GONE):
                if b"PLACE=" + os.fsencode(self.root) in proc.read(b"/proc/%d/environ" % pid).split(
                    b"\0"
                ):
                    found.append(pid)
        return found

    @contextmanager
    def runs(self, launcher: Launcher, *argv: str | bytes, **environ: bytes) -> Iterator[Running]:
        """Run a command, and make sure that nothing is left of it."""
        variables = {os.fsencode(name): value for name, value in environ.items()}
        mount = self.build()
        try:
            command = Command(
                tuple(os.fsencode(word) for word in argv),
                {b"PATH": PATH, **self.mark, **variables},
                mount,
                self.point,
            )
            with launcher.start(command) as running:
                yield running
        finally:
            os.close(mount)
        assert self.processes() == []
        # Whoever reads /proc, as any scan for holders does, may hold it for a moment.
        waiting.until(lambda: not overlay.in_use(self.upper), "the end of the overlay")

    def result(self, launcher: Launcher, *argv: str | bytes, **environ: bytes) -> tuple[int, str]:
        """Run a command to its end; return its status, and what it wrote."""
        with self.runs(launcher, *argv, **environ) as running:
            written = everything(running)
            return status(running), written.decode()


def everything(running: Running) -> bytes:
    return b"".join(iter(lambda: some(running), b""))


def some(running: Running) -> bytes:
    assert ready(running.output, WITHIN), "the command writes, or ends"
    return os.read(running.output, 1 << 16)


def until(running: Running, end: bytes) -> bytes:
    """Return what the command writes up to `end`."""
    written = b""
    while not written.endswith(end):
        more = some(running)
        assert more, written
        written += more
    return written


def status(running: Running) -> int:
    assert ready(running, WITHIN), "the command ends"
    return running.wait()


def ready(waited: int | Running, within: float) -> bool:
    return bool(select.select([waited], [], [], within)[0])


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with Launcher() as started:
        yield started


@pytest.fixture
def new_place(ground: Ground) -> Iterator[Callable[[], Place]]:
    made: list[Place] = []

    def make() -> Place:
        place = Place(ground.fresh("l"))
        made.append(place)
        place.make()
        return place

    yield make
    for place in made:
        trees.remove(place.root)


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture
def fifo(place: Place) -> Iterator[Path]:
    """What a command may wait at: `read line < FIFO` ends with `fifo.write_text`."""
    path = place.root / "fifo"
    os.mkfifo(path)
    kept = os.open(path, os.O_RDWR)  # so that writing blocks nobody, whoever reads
    yield path
    os.close(kept)


def test_a_command_runs_in_the_overlay_and_nobody_else_sees_it(
    launcher: Launcher, place: Place, fifo: Path, propagation: str
) -> None:
    script = f"pwd; cat known; echo new > new; ls >&2; read line < {fifo}; echo late"
    with place.runs(launcher, "sh", "-c", script) as running:
        assert until(running, b"known\nnew\n") == place.point + b"\nknown\nknown\nnew\n"
        assert os.listdir(place.point) == []
        assert stack_at(read_mounts(), place.point) == []
        assert (place.root / "upper" / "new").read_text() == "new\n"
        fifo.write_text("\n")
        assert everything(running) == b"late\n"
        assert status(running) == 0


@pytest.mark.parametrize(
    ("script", "expected"),
    [("exit 3", 3), ("kill -TERM $$", -15), ("kill -KILL $$", -9), ("kill -KILL -1; exit 4", 4)],
)
def test_the_status_tells_an_exit_code_from_a_signal(
    launcher: Launcher, place: Place, script: str, expected: int
) -> None:
    with place.runs(launcher, "sh", "-c", script) as running:
        assert status(running) == expected
        assert running.wait() == expected


def test_the_end_of_a_command_can_be_polled_for(
    launcher: Launcher, place: Place, fifo: Path
) -> None:
    with place.runs(launcher, "head", "-n1", os.fsencode(fifo)) as running:
        assert not ready(running, 0)
        fifo.write_text("\n")
        assert ready(running, WITHIN)
        assert status(running) == 0


def test_a_command_starts_in_a_clean_state(place: Place) -> None:
    """Whatever the daemon made of itself."""
    before = os.umask(0o077)
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with Launcher() as launcher:
            script = "umask; cut -d' ' -f1,6 /proc/self/stat; grep Sig /proc/self/status; cat"
            script += "; echo /proc/[0-9]*; exec ls /proc/self/fd"
            code, said = place.result(launcher, "sh", "-c", script)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGHUP, handler)
        os.umask(before)
    umask, session, *rest = said.splitlines()
    assert code == 0
    assert umask == "0022"
    assert session.split()[1] == "2", "the shell leads a session of its own"
    masks = dict(line.split(":\t") for line in rest if line.startswith("Sig"))
    signals = sum(1 << (number - 1) for number in signal.valid_signals())  # not libc's own
    assert (int(masks["SigBlk"], 16) | int(masks["SigIgn"], 16)) & signals == 0
    assert [line for line in rest if line.startswith("/proc")] == ["/proc/1 /proc/2"]
    assert rest[-4:] == ["0", "1", "2", "3"], "ls itself has opened the fourth"


def test_a_command_has_the_environment_that_it_was_given_and_no_other(
    launcher: Launcher, place: Place
) -> None:
    large = {f"LARGE{number}": b"%d" % number * 100_000 for number in range(10)}
    given = {"ODD": b"\xff\n=x", "EMPTY": b"", **large}
    with place.runs(launcher, "env", "-0", **given) as running:
        seen = dict(word.split(b"=", 1) for word in everything(running).split(b"\0")[:-1])
    assert seen == {b"PATH": PATH, **place.mark, **{k.encode(): v for k, v in given.items()}}


def test_arguments_arrive_as_they_are(launcher: Launcher, place: Place) -> None:
    with place.runs(launcher, "printf", "%s|", "", b"\xff", "a b", "\n") as running:
        assert everything(running) == b"|\xff|a b|\n|"


def test_a_program_is_found_on_the_path_of_the_command(launcher: Launcher, place: Place) -> None:
    program = place.root / "lower" / "bin" / "own"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho own\n")
    program.chmod(0o755)
    assert place.result(launcher, "own", PATH=place.point + b"/bin") == (0, "own\n")


def test_50_mb_of_output_arrive_whole(launcher: Launcher, place: Place) -> None:
    with place.runs(launcher, "head", "-c", "50000000", "/dev/zero") as running:
        assert sum(map(len, iter(lambda: some(running), b""))) == 50_000_000
        assert status(running) == 0


def test_a_command_may_close_its_output_and_go_on(
    launcher: Launcher, place: Place, fifo: Path
) -> None:
    script = f"exec >&- 2>&-; read line < {fifo}; exit 4"
    with place.runs(launcher, "sh", "-c", script) as running:
        assert everything(running) == b""
        assert not ready(running, 0)
        fifo.write_text("\n")
        assert status(running) == 4


DEAF = "trap '' TERM INT HUP; echo deaf; sleep 1000"


def test_what_a_command_leaves_behind_ends_with_it(
    launcher: Launcher, place: Place, fifo: Path
) -> None:
    script = f'(setsid sh -c "{DEAF}" &); read line < {fifo}'
    with place.runs(launcher, "sh", "-c", script) as running:
        until(running, b"deaf\n")
        fifo.write_text("\n")
        assert status(running) == 0
        assert everything(running) == b""  # which nobody holds open any more


def test_orphans_are_reaped_while_the_command_runs(
    launcher: Launcher, place: Place, fifo: Path
) -> None:
    many = "for each in 1 2 3 4 5; do (true &); done"
    script = f"{many}; read line < {fifo}; ps -e -o stat= | grep -c Z"
    with place.runs(launcher, "sh", "-c", script) as running:
        fifo.write_text("\n")
        assert everything(running) == b"0\n"


@pytest.mark.parametrize("script", [DEAF, f'setsid sh -c "{DEAF}" & {DEAF}'])
def test_a_command_is_killed_with_all_its_descendants(
    launcher: Launcher, place: Place, script: str
) -> None:
    with place.runs(launcher, "sh", "-c", script) as running:
        until(running, b"deaf\n")
        running.kill()
        assert status(running) == -signal.SIGKILL
        running.kill()
    running.kill()


def test_leaving_the_context_kills_what_runs(launcher: Launcher, place: Place) -> None:
    with place.runs(launcher, "sh", "-c", DEAF) as running:
        until(running, b"deaf\n")
        assert place.processes()


def test_who_waits_is_told_of_a_kill_by_another_thread(launcher: Launcher, place: Place) -> None:
    with ThreadPoolExecutor() as threads, place.runs(launcher, "sh", "-c", DEAF) as running:
        until(running, b"deaf\n")
        waiter = threads.submit(running.wait)
        running.kill()
        assert waiter.result(WITHIN) == -signal.SIGKILL


def test_commands_run_side_by_side(launcher: Launcher, new_place: Callable[[], Place]) -> None:
    places = [new_place() for _ in range(8)]
    meeting = places[0].root / "meeting"
    meeting.mkdir()
    # Each ends only once all the others are there.
    meet = f"touch {meeting}/$NAME; until test $(ls {meeting} | wc -l) = 8; do sleep 0.01; done"
    script = f"{meet}; echo $NAME > own"

    def run(number: int) -> tuple[int, str]:
        return places[number].result(launcher, "sh", "-c", script, NAME=b"%d" % number)

    with ThreadPoolExecutor(len(places)) as threads:
        assert list(threads.map(run, range(8))) == [(0, "")] * 8
    for number, place in enumerate(places):
        assert (place.root / "upper" / "own").read_text() == f"{number}\n"


@pytest.mark.parametrize("program", ["no-such-program", "./known", "./no-such-program", ""])
def test_a_program_that_cannot_be_executed_is_told_in_words(
    launcher: Launcher, place: Place, program: str
) -> None:
    with pytest.raises(EnvstackError, match="cannot be started: ") as caught:
        place.result(launcher, program)
    assert program in caught.value.message
    assert place.processes() == []


def test_a_set_up_that_fails_is_told_in_words(launcher: Launcher, place: Place) -> None:
    environ = {b"PATH": PATH}
    gone, file = place.point + b"/gone", os.fsencode(place.root / "lower" / "known")
    mount = place.build()
    attached = os.open(place.root, os.O_PATH)
    try:
        for point, descriptor, words in (
            (gone, mount, "No such file or directory: .*gone"),
            (file, mount, "Not a directory: .*known"),
            (place.point, attached, "move_mount: Invalid argument"),
        ):
            with pytest.raises(EnvstackError, match=words):
                launcher.start(Command((b"true",), environ, descriptor, point))
        with pytest.raises(UsageError, match="NUL"):
            launcher.start(Command((b"a\0b",), environ, mount, place.point))
        with pytest.raises(EnvstackError, match="cannot be started"):
            launcher.start(Command((), environ, mount, place.point))
    finally:
        os.close(attached)
        os.close(mount)
    waiting.until(lambda: not overlay.in_use(place.upper), "the end of what failed")
    assert place.result(launcher, "true") == (0, "")


@pytest.mark.slow
def test_a_thousand_commands_leave_nothing_behind(
    launcher: Launcher, filesystem: Callable[[str], Path]
) -> None:
    # On a tmpfs, because the end of an overlay writes out the file system that it is on.
    place = Place(filesystem("tmpfs") / "p")
    place.make()

    def held() -> tuple[list[str], list[str], int]:
        own, its = (sorted(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", launcher.pid))
        return own, its, len(read_mounts())

    assert place.result(launcher, "true") == (0, "")
    before = held()
    for number in range(1000):
        assert place.result(launcher, "sh", "-c", f"exit {number % 7}")[0] == number % 7
        if number % 50 == 0:
            with pytest.raises(EnvstackError):
                place.result(launcher, "no-such-program")
    assert held() == before
    waiting.until(lambda: _children(launcher.pid) == "", "no child of the launcher, no zombie")


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def test_the_launcher_keeps_nothing_of_commands_that_run(launcher: Launcher, place: Place) -> None:
    assert place.result(launcher, "true") == (0, "")
    before = sorted(os.listdir(f"/proc/{launcher.pid}/fd"))
    with place.runs(launcher, "sh", "-c", DEAF) as running:
        until(running, b"deaf\n")
        assert sorted(os.listdir(f"/proc/{launcher.pid}/fd")) == before
    waiting.until(lambda: _children(launcher.pid) == "", "no child of the launcher, no zombie")


def test_the_launcher_holds_its_socket_and_nothing_else_of_the_daemon(place: Place) -> None:
    mount = place.build()
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with Launcher() as launcher:
        os.close(mount)
        os.close(writer)
        assert place.result(launcher, "true") == (0, "")
        names = [os.readlink(f"/proc/{launcher.pid}/fd/{fd}") for fd in range(5)]
        assert names[:3] == ["/dev/null"] * 3
        assert {name.partition(":")[0] for name in names[3:]} == {"socket", "anon_inode"}
        assert len(os.listdir(f"/proc/{launcher.pid}/fd")) == 5
        assert os.read(reader, 1) == b""
        assert os.readlink(f"/proc/{launcher.pid}/cwd") == "/"
    os.close(reader)
    assert not Path(f"/proc/{launcher.pid}").exists()


def test_a_launcher_that_is_killed_takes_its_commands_along(place: Place) -> None:
    with Launcher() as launcher:
        with place.runs(launcher, "sh", "-c", f'setsid sh -c "{DEAF}" & {DEAF}') as running:
            until(running, b"deaf\n")
            os.kill(launcher.pid, signal.SIGKILL)
            assert ready(running, WITHIN)
            with pytest.raises(EnvstackError, match="killed"):
                running.wait()
            waiting.until(lambda: place.processes() == [], "the end of the command", within=1.0)
        with pytest.raises(EnvstackError, match="has ended"):
            place.result(launcher, "true")


def test_a_launcher_that_cannot_start_is_told_of(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Launcher() as launcher, pytest.raises(EnvstackError, match="has ended"):
        place.result(launcher, "true")


DAEMON = """
import os, sys
from tests.linux.test_launcher import DEAF, Launcher, Path, Place, until
place = Place(Path(sys.argv[1]))
with Launcher() as launcher, place.runs(launcher, "sh", "-c", DEAF) as running:
    print(until(running, b'deaf\\n'), launcher.pid, flush=True)
    sys.stdin.read()
"""


def test_a_daemon_that_is_killed_takes_launcher_and_commands_along(place: Place) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(place.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as daemon:
        assert daemon.stdout is not None
        launcher = os.pidfd_open(int(daemon.stdout.readline().split()[1]))
        assert place.processes()
        daemon.kill()
        waiting.exited(launcher, "the launcher", within=1.0)
        os.close(launcher)
        waiting.until(lambda: place.processes() == [], "the end of the command", within=1.0)
    waiting.until(lambda: not overlay.in_use(place.upper), "the end of the overlay")


def test_a_command_holds_no_other_environment(
    launcher: Launcher, new_place: Callable[[], Place], propagation: str
) -> None:
    place, other, second = new_place(), new_place(), new_place()
    nobody = frozenset({os.getpid()})
    script = f"ls -a {other.root}/merged; {DEAF}"
    with (
        _attached(other, b"envstack:other"),
        _attached(second, b"envstack:second"),
        place.runs(launcher, "sh", "-c", script) as running,
    ):
        assert until(running, b"deaf\n") == b".\n..\ndeaf\n"
        for environment in (other, second):
            assert find_holders(_mount(environment), ignore=nobody) == ()
        _swap(other)
        assert _mount(other).source == b"envstack:next"
        assert find_holders(_mount(other), ignore=nobody) == ()
        waiting.until(lambda: not overlay.in_use(other.upper), "the end of what was swapped out")


def _mount(place: Place) -> Mount:
    mount = topmost_at(read_mounts(), place.point)
    assert mount is not None
    return mount


def test_what_is_mounted_meanwhile_comes_in_where_mounts_are_shared(
    launcher: Launcher, place: Place, directory: Callable[[], Path], fifo: Path, propagation: str
) -> None:
    point = directory()
    script = f"echo runs; read line < {fifo}; ls {point}"
    with place.runs(launcher, "sh", "-c", script) as running:
        until(running, b"runs\n")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
        try:
            (point / "late").touch()
            fifo.write_text("\n")
            assert everything(running) == (b"late\n" if propagation == "shared" else b"")
        finally:
            syscalls.umount(os.fsencode(point), syscalls.MNT_DETACH)


CHROOTED = """
import os, subprocess, sys
from envstack.linux import syscalls
from tests.linux.test_launcher import Launcher, Path, Place, read_mounts, until
place, kind, root = Place(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.set_propagation(b"/", syscalls.MS_REC | syscalls.MS_PRIVATE)
for name in os.listdir("/"):
    if os.path.islink(f"/{name}"):
        os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
    elif os.path.isdir(f"/{name}"):
        os.mkdir(f"{root}/{name}")
        subprocess.run(["mount", "--rbind", f"/{name}", f"{root}/{name}"], check=True)
flags = {"private": syscalls.MS_PRIVATE, "shared": syscalls.MS_SHARED}
syscalls.set_propagation(b"/", syscalls.MS_REC | flags[kind])
os.chroot(root)
os.chdir("/")
before = read_mounts()
with Launcher() as launcher:
    with place.runs(launcher, "sh", "-c", "pwd; ls; sleep 1000") as running:
        assert until(running, b"known\\n") == place.point + b"\\nknown\\n"
        assert read_mounts() == before
"""


def test_commands_run_below_a_changed_root_too(
    place: Place, directory: Callable[[], Path], propagation: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHROOTED, place.root, propagation, directory()],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def _attached(place: Place, source: bytes) -> Iterator[None]:
    mount = place.build(source)
    overlay.attach(mount, place.point)
    os.close(mount)
    try:
        yield
    finally:
        syscalls.umount(place.point, syscalls.MNT_DETACH)


def _swap(place: Place) -> None:
    """Exchange what is mounted for another overlay, as a rotation does."""
    old = overlay.open_mount(place.point)
    for name in ("upper", "work"):
        (place.root / f"next-{name}").mkdir()
    paths = [os.fsencode(place.root / name) for name in ("lower", "next-upper", "next-work")]
    layers = overlay.Overlay(b"envstack:next", (paths[0],), paths[1], paths[2])
    new = overlay.build(layers, like=place.upper)
    overlay.attach_beneath(new, old)
    overlay.detach(old)
    for mount in (old, new):
        os.close(mount)
