"""Programs that look at a merged tree from inside: watchers, editors, a server and its visitor."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from tests.support import needs, waiting
from tests.support.residents import WITHIN, Program

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_WATCHFILES = """
import sys
from watchfiles import watch
begun = False
for changes in watch(
    sys.argv[1], watch_filter=None, debounce=50, step=5, rust_timeout=50, yield_on_timeout=True
):
    if not begun:
        print("begun", file=sys.stderr, flush=True)
        begun = True
    for _, path in changes:
        print(path, flush=True)
"""


class Watcher(Program):
    """A program that watches a directory and tells the paths of what changes."""

    def __init__(self, directory: Path, command: Sequence[str], begun: str) -> None:
        self.command = command[0]
        self._told: set[str] = set()
        pipe = subprocess.PIPE
        super().__init__(
            subprocess.Popen(command, cwd=directory, stdout=pipe, stderr=pipe, text=True)
        )
        assert self.process.stderr is not None
        while begun not in (line := self.process.stderr.readline()):
            assert line, f"{self.command} begins"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @classmethod
    def inotifywait(cls, directory: Path) -> Watcher:
        """Return inotifywait(1), which watches the directory and all that are in it."""
        program = needs.program("inotifywait")
        command = (program, "--monitor", "--recursive", "--format", "%w%f", str(directory))
        return cls(directory, command, "Watches established")

    @classmethod
    def watchfiles(cls, directory: Path) -> Watcher:
        """Return a watcher as Python's dev servers have it."""
        return cls(directory, (sys.executable, "-c", _WATCHFILES, str(directory)), "begun")

    def forget(self) -> None:
        """Forget what was told until now."""
        self._told.clear()

    def hear(self, paths: Iterable[str]) -> None:
        """Wait until all these paths were told."""
        wanted = set(paths)
        try:
            waiting.until(lambda: wanted <= set(self._told), "all changes", WITHIN)
        except TimeoutError:
            raise AssertionError(f"{self.command} did not tell {wanted - self._told}") from None

    def work(self) -> None:
        assert self.process.poll() is None, f"{self.command} lives"

    def end(self) -> None:
        self.work()

    def kill(self) -> None:
        self.process.kill()
        self._thread.join(WITHIN)
        super().kill()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._told.add(line.removesuffix("\n"))


class Editor(Program):
    """Neovim without a screen on one file, spoken to through its socket."""

    def __init__(self, path: Path, socket: Path) -> None:
        self._program = needs.program("nvim")
        self._path = path
        self._socket = socket
        command = (self._program, "--headless", "--clean", "-n", "--listen", socket, path.name)
        quiet = subprocess.DEVNULL
        super().__init__(subprocess.Popen(command, cwd=path.parent, stdin=quiet, stderr=quiet))
        waiting.until(lambda: self._speak("1").returncode == 0, "the editor", WITHIN)

    def ask(self, expression: str) -> str:
        """Return the value of an expression of its language."""
        answer = self._speak(expression)
        assert answer.returncode == 0, answer.stdout
        return answer.stdout.rstrip("\n")

    def _speak(self, expression: str) -> subprocess.CompletedProcess[str]:
        """Ask; versions before 0.8 answer on standard error."""
        return subprocess.run(
            (self._program, "--server", self._socket, "--remote-expr", expression),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=WITHIN,
        )

    def write_without_saving(self, text: str) -> None:
        """Have `text` as the last line of a buffer that is not saved."""
        self.ask(f"appendbufline('%', '$', '{text}')")
        assert self.ask("&modified") == "1"

    @property
    def shown(self) -> str:
        """What is in the buffer."""
        return self.ask("join(getbufline('%', 1, '$'), '|')")

    def look_again(self) -> str:
        """Have it look at the file, as when it gets the focus; return what it shows then."""
        self.ask("execute('set autoread | checktime')")
        return self.shown

    def work(self) -> None:
        assert self.process.poll() is None, "the editor lives"
        assert self.ask("getcwd()") == os.fspath(self._path.parent)

    def end(self) -> None:
        self.work()
        assert self.ask("v:errmsg") == ""


class Web(Program):
    """`python -m http.server` in a directory, and one who asks for its pages all the time."""

    PAGES = ("one", "two", "three")

    def __init__(self, directory: Path) -> None:
        command = (sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0")
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        super().__init__(subprocess.Popen(command, cwd=directory, text=True, **streams))
        assert self.process.stdout is not None
        self._port = int(self.process.stdout.readline().split(" port ")[1].split()[0])
        self._faults: list[str] = []
        self.answered = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def work(self) -> None:
        """See that it answers, and that no page was ever missing or torn."""
        before = self.answered
        waiting.until(lambda: self.answered > before or bool(self._faults), "an answer", WITHIN)
        assert not self._faults

    def end(self) -> None:
        self.work()
        assert self.process.poll() is None, "the server lives"

    def kill(self) -> None:
        self._over.set()
        self._thread.join(WITHIN)
        super().kill()

    def _visit(self) -> None:
        while not self._over.wait(0.01):
            for page in self.PAGES:
                try:
                    self._ask(page)
                except (OSError, http.client.HTTPException) as error:
                    self._faults.append(f"{page}: {error!r}")
                self.answered += 1

    def _ask(self, page: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WITHIN)
        connection.request("GET", f"/{page}")
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        if answer.status != http.client.OK or not body.startswith(page) or not body.endswith("end"):
            self._faults.append(f"{page}: {answer.status} {body!r}")
