"""A stack on an archive from an address as a user meets it: asked, fetched, given up, and up."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.archive.harness import entry, tar
from tests.support import needs
from tests.support.web import Web

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.kernel


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as served:
        yield served


@pytest.fixture
def packed() -> bytes:
    """A compressed archive."""
    data = tar(entry("top/hello", b"from the archive\n"))
    command = [needs.program("zstd"), "-c"]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


@pytest.fixture
def stack(project: Path, home: Path, web: Web, packed: bytes) -> Iterator[Path]:
    """A project on that archive, at an address."""
    layer = {
        "name": "tools",
        "archive": web.lay("/tools.tar.zst", packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "strip": 1,
    }
    (project / "envstack.yaml").write_text(json.dumps({"version": 1, "layers": [layer]}))
    yield project
    _start(project, "down", "--purge", "--yes").communicate()
    _start(project, "daemon", "stop").communicate()


def _start(project: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "envstack", "-C", project, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(project: Path, *words: str) -> tuple[int, str, str]:
    started = _start(project, *words)
    out, err = started.communicate()
    return started.returncode, out, err


def test_it_is_named_before_it_is_fetched_and_can_be_given_up(stack: Path, web: Web) -> None:
    code, _, said = _run(stack, "up")
    assert code == 4
    assert f"{web.url}/tools.tar.zst" in said
    assert web.asked == []

    page = web.pages["/tools.tar.zst"]
    page.gate = threading.Event()
    waiting = _start(stack, "up", "--trust")
    assert web.is_answering.wait(30)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate()
    assert waiting.returncode == 130
    page.gate = None

    code, out, said = _run(stack, "up", "--trust", "--json")
    assert code == 0, said
    assert [layer["kind"] for layer in json.loads(out)["layers"]] == ["archive"]
    assert (stack / ".envstack/merged/hello").read_text() == "from the archive\n"

    before = len(web.asked)
    _run(stack, "down")
    assert _run(stack, "up")[0] == 0
    assert len(web.asked) == before
