"""What an address serves arrives whole, is taken up where it broke off, or is said to fail."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from envstack.errors import Cancelled, EnvstackError, NotFound, TooLarge
from envstack.sources import fetching
from envstack.sources.fetching import fetched
from tests.support import needs
from tests.support.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

DATA = os.urandom(3_000_000)
MOST = 4_000_000


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_PAUSE", 0.0)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as served:
        yield served


def get(
    address: str,
    folder: Path,
    environ: Mapping[bytes, bytes] | None = None,
    tell: Callable[[str], None] = lambda _message: None,
) -> bytes:
    """Return what is fetched; nothing stays in the folder."""
    try:
        with fetched(address, os.fsencode(folder), environ or {}, MOST, tell) as file:
            assert os.listdir(folder) == []
            return os.pread(file, MOST, 0)
    finally:
        assert os.listdir(folder) == []


def test_it_arrives_and_is_told_about(web: Web, tmp_path: Path) -> None:
    told: list[str] = []
    assert get(web.lay("/a", DATA), tmp_path, tell=told.append) == DATA
    assert told[-1] == "2.9 of 2.9 MiB fetched"
    assert get(web.lay("/none", b""), tmp_path) == b""


def test_it_goes_on_where_it_was_interrupted(web: Web, tmp_path: Path) -> None:
    address = web.lay("/a", DATA, cuts=[1_000_000, 500_000])
    assert get(address, tmp_path) == DATA
    assert web.asked == [("/a", ""), ("/a", "bytes=1000000-"), ("/a", "bytes=1500000-")]


def test_it_starts_anew_where_the_server_cannot_go_on(web: Web, tmp_path: Path) -> None:
    assert get(web.lay("/a", DATA, cuts=[1_000_000], has_ranges=False), tmp_path) == DATA
    assert [asked for _path, asked in web.asked] == ["", "bytes=1000000-"]


def test_it_starts_anew_where_another_version_is_served(web: Web, tmp_path: Path) -> None:
    address = web.lay("/a", bytes(2_000_000), cuts=[1_000_000])

    def change(message: str) -> None:
        if " of " in message and not message.startswith("0.0"):
            web.lay("/a", DATA, version='"two"')

    assert get(address, tmp_path, tell=change) == DATA


def test_what_never_comes_whole_is_given_up(web: Web, tmp_path: Path) -> None:
    address = web.lay("/a", DATA, cuts=[10] * 99, has_ranges=False)
    with pytest.raises(EnvstackError, match=r"it ended after 10 of 3,000,000 bytes") as caught:
        get(address, tmp_path)
    assert caught.value.kind == "failed"
    assert 4 <= len(web.asked) <= 5


def test_a_server_that_is_busy_is_asked_again(web: Web, tmp_path: Path) -> None:
    assert get(web.lay("/a", DATA, statuses=[503, 429]), tmp_path) == DATA


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, NotFound, "it answers 404 Not Found"),
        (410, NotFound, "it answers 410 Gone"),
        (403, EnvstackError, "cannot be fetched: it answers 403 Forbidden"),
        (500, EnvstackError, "cannot be fetched: it answers 500"),
    ],
)
def test_what_is_not_to_be_had_is_said(
    web: Web, tmp_path: Path, status: int, kind: type[EnvstackError], said: str
) -> None:
    address = web.lay("/a", DATA, statuses=[status] * 9)
    with pytest.raises(EnvstackError, match=said) as caught:
        get(address, tmp_path)
    assert type(caught.value) is kind
    assert address in caught.value.message


def test_where_nobody_listens_it_fails(tmp_path: Path) -> None:
    with Web() as gone:
        address = gone.url + "/a"
    with pytest.raises(EnvstackError, match="Connection refused"):
        get(address, tmp_path)


@pytest.mark.parametrize("has_length", [True, False])
def test_what_is_larger_than_may_be_is_refused(web: Web, tmp_path: Path, has_length: bool) -> None:
    address = web.lay("/a", bytes(MOST + 1), has_length=has_length)
    with pytest.raises(TooLarge) as caught:
        get(address, tmp_path)
    assert "max_mib" in caught.value.hint


def test_redirects_are_followed(web: Web, tmp_path: Path) -> None:
    web.lay("/b", DATA, cuts=[1000])
    assert get(web.lay("/a", location="/b"), tmp_path) == DATA


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"])
def test_but_to_no_other_scheme(web: Web, tmp_path: Path, location: str) -> None:
    with pytest.raises(EnvstackError, match=r"not followed|not allowed"):
        get(web.lay("/a", location=location), tmp_path)


def test_a_redirect_in_a_circle_ends(web: Web, tmp_path: Path) -> None:
    with pytest.raises(EnvstackError, match="302"):
        get(web.lay("/a", location="/a"), tmp_path)


def test_ctrl_c_ends_it_though_the_server_says_nothing(web: Web, tmp_path: Path) -> None:
    address = web.lay("/a", DATA, gate=threading.Event())

    def cancel(_message: str) -> None:
        if web.is_answering.is_set():
            raise Cancelled("given up")

    began = time.monotonic()
    with pytest.raises(Cancelled):
        get(address, tmp_path, tell=cancel)
    assert time.monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "envstack-fetch"]


def test_a_proxy_is_taken_from_the_variables_of_who_asks(web: Web, tmp_path: Path) -> None:
    for path in ("http://files.invalid/a", "/a"):
        web.lay(path, DATA)
    proxy = {b"http_proxy": web.url.encode()}
    assert get("http://files.invalid/a", tmp_path, proxy) == DATA
    assert web.asked == [("http://files.invalid/a", "")]
    direct = {**proxy, b"no_proxy": b"example.org, 127.0.0.1"}
    assert get(f"{web.url}/a", tmp_path, direct) == DATA


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine, signed by itself; its key is in the same file."""
    openssl = needs.program("openssl")
    made = tmp_path_factory.mktemp("tls") / "both.pem"
    key = made.with_suffix(".key")
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    command = (openssl, "req", *kind, *names, "-days", "1", "-keyout", key, "-out", made)
    subprocess.run(command, check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + key.read_bytes())
    return made


@pytest.fixture
def secure(certificate: Path) -> Iterator[Web]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Web(context) as served:
        yield served


def test_no_redirect_leads_from_https_to_http(
    web: Web,
    secure: Web,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert get(secure.lay("/a", DATA, cuts=[100_000]), tmp_path) == DATA
    open_one = web.lay("/b", DATA)
    with pytest.raises(EnvstackError, match="from https to http, which is not followed"):
        get(secure.lay("/c", location=open_one), tmp_path)
    assert web.asked == []


def test_a_server_that_nobody_vouches_for_is_not_believed(secure: Web, tmp_path: Path) -> None:
    with pytest.raises(EnvstackError, match=r"self[- ]signed certificate"):
        get(secure.lay("/a", DATA), tmp_path)
    assert secure.asked == []
