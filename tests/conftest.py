"""What every test may ask for, and the guard that no test leaves anything behind.

Kernel tests run in a mount namespace that the whole pytest process enters before the first of them.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import filesystems, needs, trees, waiting, ways
from tests.support.ground import Ground, set_propagation
from tests.support.judge import Judge
from tests.support.sandbox import Sandbox
from tests.support.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.edits import Edit

_GROUND = pytest.StashKey[Ground]()
_LEFT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_GROUND] = Ground.prepare()
    config.stash[_LEFT] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the namespace once it is known that a kernel test is to run."""
    collecting = session.config.option.collectonly
    if not collecting and any(item.get_closest_marker("kernel") for item in session.items):
        try:
            session.config.stash[_GROUND].isolate()
        except OSError:
            return  # each kernel test says so itself


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") and not item.config.stash[_GROUND].isolated:
        needs.lack("root (CAP_SYS_ADMIN), which mounting takes")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if anything outlived its test."""
    ground = session.config.stash[_GROUND]
    try:
        waiting.until(lambda: not ground.leftovers(), "a clean ground", within=2.0)
    except TimeoutError:
        session.config.stash[_LEFT] = ground.leftovers()
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give the ground back, also where there was no session (`pytest --help`)."""
    config.stash[_GROUND].clear()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left = config.stash[_LEFT]
    if left:
        terminalreporter.section("left behind by the tests", red=True)
        for line in left:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def ground(pytestconfig: pytest.Config) -> Ground:
    """The session's place on this machine."""
    return pytestconfig.stash[_GROUND]


@pytest.fixture(params=["private", "shared"])
def propagation(request: pytest.FixtureRequest, ground: Ground) -> Iterator[str]:
    """Both kinds of mount propagation, for tests marked `kernel`: the namespace has that kind."""
    assert ground.isolated, "only a test marked `kernel` may ask for propagation"
    kind: str = request.param
    set_propagation(kind)
    yield kind
    set_propagation("private")


@pytest.fixture(params=[ways.NEWER, ways.OLDER])
def way(request: pytest.FixtureRequest) -> str:
    """Both ways of mounting: whatever asks for it mounts through a service that has the one."""
    return needs.way(request.param)


@pytest.fixture
def home(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh ENVSTACK_HOME with a short path, set in the environment and not yet made."""
    path = ground.fresh("h")
    monkeypatch.setenv("ENVSTACK_HOME", str(path))
    yield path
    trees.remove(path)


@pytest.fixture
def directory(ground: Ground) -> Iterator[Callable[[], Path]]:
    """`directory()` makes a fresh and empty directory with a short path, at each call."""
    made: list[Path] = []

    def make() -> Path:
        path = ground.fresh("d")
        path.mkdir()
        path.chmod(0o755)
        made.append(path)
        return path

    yield make
    for path in made:
        trees.remove(path)


@pytest.fixture
def project(directory: Callable[[], Path]) -> Path:
    """A fresh and empty directory for a project, with a short path."""
    return directory()


@pytest.fixture
def filesystem(ground: Ground) -> Iterator[Callable[[str], Path]]:
    """`filesystem("xfs")` mounts a small new file system for the test and returns its root."""
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(filesystems.mounted(kind, ground.fresh("fs")))


@pytest.fixture
def sandbox(
    home: Path, project: Path, filesystem: Callable[[str], Path], way: str
) -> Iterator[Callable[..., Sandbox]]:
    """`sandbox(base=[edits], …)` makes the project with these layers, bottom first; not yet up.

    It depends on `filesystem` so that a store on one is closed before it is unmounted.
    """
    with ExitStack() as stack:

        def make(
            *, store: Path = home, mount: str = ".envstack/merged", **layers: list[Edit]
        ) -> Sandbox:
            return stack.enter_context(Sandbox(store, project, layers, mount, ways.daemon(way)))

        yield make


@pytest.fixture
def story(sandbox: Callable[..., Sandbox], directory: Callable[[], Path]) -> Callable[..., Story]:
    """`story(base=[edits], …)` is a sandbox that is up, with a plain directory that judges it."""

    def make(**layers: list[Edit]) -> Story:
        judged = [edits for name, edits in layers.items() if name != "store"]
        return Story(sandbox(**layers), Judge(directory() / "judge", *judged))

    return make
