"""Programs that live in a merged tree as a developer's do: a shell, a database, a log, a mapping.

Each does a little work when it is told to, and fails there if anything disturbed it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from tests.environment.harness import Bystander
from tests.support import waiting

if TYPE_CHECKING:
    from pathlib import Path

WITHIN = 20.0
"""Seconds that any of them may take to answer."""

_END = "end of the answer"


class Resident(Protocol):
    """A process in the tree."""

    @property
    def pid(self) -> int: ...

    def work(self) -> None:
        """Do what it does all day; fail if that does not go as ever."""

    def end(self) -> None:
        """End it, and fail if it met an error."""

    def kill(self) -> None:
        """End it at once, if it did not."""


class Program:
    """A resident that is one child of this process."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        with self.process:
            pass  # which closes its pipes and waits


class Obedient:
    """A resident that is a bystander, which knows the directory it works in as `T`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bystander = Bystander(directory)

    @property
    def pid(self) -> int:
        return self._bystander.pid

    def do(self, code: str) -> Any:
        """Run code there."""
        return self._bystander.do(code)

    def kill(self) -> None:
        self._bystander.close()

    def replace(self) -> None:
        """Put a new process in its place."""
        self._bystander.close()
        self._bystander = Bystander(self._directory)


class Shell(Program):
    """bash with its working directory deep inside, on a pipe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        pipe = subprocess.PIPE
        streams: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.STDOUT}
        super().__init__(subprocess.Popen(["bash", "--norc"], cwd=directory, bufsize=0, **streams))
        self._inode = self.say("stat -c %d:%i .")
        self._count = 0

    def say(self, command: str) -> str:
        """Return all that a command says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho {_END}\n".encode())
        said = b""
        while not said.endswith(f"{_END}\n".encode()):
            assert select.select([self.process.stdout], [], [], WITHIN)[0], f"it answers: {said!r}"
            more = os.read(self.process.stdout.fileno(), 65536)
            assert more, f"it lives: {said!r}"
            said += more
        return said.decode().removesuffix(f"{_END}\n").strip()

    def work(self) -> None:
        self._count += 1
        name = f"new{self._count}"
        assert self.say("pwd -P") == str(self._directory)
        assert self.say("stat -c %d:%i .") == self._inode
        assert self.say("cat ../../above") == "from above"
        assert self.say(
            f"echo {self._count} >{name}; mkdir -p d; mv {name} d; cat d/{name}"
        ) == str(self._count)
        assert (self._directory / "d" / name).read_text() == f"{self._count}\n"

    def end(self) -> None:
        said, _ = self.process.communicate(timeout=WITHIN)
        assert (said, self.process.returncode) == (b"", 0)


class Database(Obedient):
    """A SQLite database in WAL mode, with a transaction open from one piece of work to the next.

    `committed` is how many rows it has; what is open is not among them.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._begin()
        self.do("db.execute('PRAGMA journal_mode=WAL'); db.execute('CREATE TABLE t (n)')")
        self.committed = 0
        self._open()

    def work(self) -> None:
        """Commit what is open, and open the next transaction."""
        self.do("db.execute('COMMIT')")
        self.committed += 1
        assert self.do("answer = db.execute('SELECT count(*) FROM t').fetchone()[0]") == (
            self.committed
        )
        self._open()

    def begin_again(self, committed: int) -> None:
        """Put another process in its place, which finds so many rows; the old one is killed.

        It has another log open than is there by now. If it went on to commit, or closed the
        database, it would write that log into the file that may still be the same one.
        """
        self.do("db.execute('INSERT INTO t VALUES (0)'); db.execute('SELECT count(*) FROM t')")
        self.replace()
        self._begin()
        assert self.do("answer = db.execute('PRAGMA integrity_check').fetchone()[0]") == "ok"
        found = self.do("answer = db.execute('SELECT count(*) FROM t').fetchone()[0]")
        assert found == committed
        self.committed = committed
        self._open()

    def end(self) -> None:
        self.do("db.execute('COMMIT')")
        assert self.do("answer = db.execute('PRAGMA integrity_check').fetchone()[0]") == "ok"
        self.do("db.close()")

    def _begin(self) -> None:
        self.do("os.chdir(T); import sqlite3; db = sqlite3.connect('app.db', isolation_level=None)")
        self.do("db.execute('PRAGMA wal_autocheckpoint=10')")

    def _open(self) -> None:
        self.do("db.execute('BEGIN IMMEDIATE')")
        self.do("db.execute('INSERT INTO t VALUES (hex(randomblob(2000)))')")


def rows_of(directory: Path, name: str, place: Path) -> int:
    """Return how many rows the database in `directory` has, read from a copy; it must be whole."""
    for part in (name, f"{name}-wal"):
        (place / part).unlink(missing_ok=True)
        if (directory / part).exists():
            shutil.copyfile(directory / part, place / part)
    with closing(sqlite3.connect(place / name)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows: int = database.execute("SELECT count(*) FROM t").fetchone()[0]
        return rows


_LOGGER = """
import os, signal, sys, time
number, path, log = 0, sys.argv[1], -1
def reopen(*_):
    global log
    if log >= 0:
        os.close(log)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    print(number, flush=True)
def end(*_):
    print(number, flush=True)
    sys.exit()
reopen()
signal.signal(signal.SIGUSR1, reopen)
signal.signal(signal.SIGTERM, end)
while True:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    os.write(log, b"%d\\n" % number)
    number += 1
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})
    time.sleep(0.001)
"""


class Logger(Program):
    """Appends a number to a log every millisecond; every number is there, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        command = [sys.executable, "-c", _LOGGER, str(path)]
        super().__init__(
            subprocess.Popen(command, cwd=path.parent, stdout=subprocess.PIPE, text=True)
        )
        self._before = b""
        self._first = self._number()

    def read(self) -> bytes:
        """Return what is in the log, of which nothing that was written is missing."""
        content = self.path.read_bytes()
        self.check(content)
        return content

    def check(self, content: bytes) -> None:
        """Fail unless this was in the log at some time since it was opened."""
        assert content.startswith(self._before)
        own = content[len(self._before) :]
        expected = b"".join(b"%d\n" % (self._first + n) for n in range(own.count(b"\n") + 1))
        assert expected.startswith(own), f"a line is missing: {own[-200:]!r}"

    def work(self) -> None:
        """See that it has gone on."""
        before = len(self.read())
        waiting.until(lambda: len(self.path.read_bytes()) > before, "another line", WITHIN)

    def reopen(self, before: bytes) -> None:
        """Have it open its log anew, which has the content `before` by now."""
        os.kill(self.pid, signal.SIGUSR1)
        self._first = self._number()
        self._before = before

    def end(self) -> None:
        """End it; all is there, to the last line."""
        self.process.terminate()
        last = self._number()
        assert self.process.wait(WITHIN) == 0
        expected = b"".join(b"%d\n" % n for n in range(self._first, last))
        assert self.path.read_bytes() == self._before + expected

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


class Mapper(Obedient):
    """Writes through a shared mapping, and reads through one of another file."""

    SIZE = 3 * 4096

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._count = 0
        (directory / "written").write_bytes(bytes(self.SIZE))
        (directory / "mapped").write_bytes(b"as it was" + bytes(self.SIZE))
        self.map_anew()

    def map_anew(self) -> None:
        """Map both files as they are now."""
        self.do("f = open(T + '/written', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()")
        self.do("f = open(T + '/mapped', 'rb')")
        self.do("r = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close(); first = r[:9]")

    def work(self) -> None:
        """Write through one mapping, to a page that is dirty already; read through the other."""
        self._count += 1
        self.do(f"m[4096:4104] = b'%08d' % {self._count}")
        assert self.do("answer = r[:9] == first")
        assert self.do("answer = sum(r[9:]) == 0")

    def rewrite(self) -> None:
        """Put another file in the place of the one that is read, as editors do."""
        (self._directory / "next").write_bytes(b"%09d" % self._count + bytes(self.SIZE))
        (self._directory / "next").rename(self._directory / "mapped")

    def end(self) -> None:
        self.do("m.close(); r.close()")
