"""Where things are, by environment variables alone."""

from __future__ import annotations

import os

import pytest

from envstack.errors import UsageError
from envstack.rpc.places import SOCKET_PATH_MAX, Places, places

USER, ROOT = 1000, 0


def test_a_home_that_is_chosen_holds_everything() -> None:
    environ = {"ENVSTACK_HOME": "/srv/e", "XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/h"}
    assert places(environ, USER) == Places(
        b"/srv/e", b"/srv/e/daemon.sock", b"/srv/e/daemon.lock", b"/srv/e/daemon.log"
    )


@pytest.mark.parametrize(
    ("environ", "uid", "home", "directory"),
    [
        (
            {"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1000"},
            USER,
            b"/h/.local/share/envstack",
            b"/run/user/1000/envstack",
        ),
        (
            {"HOME": "/h", "XDG_DATA_HOME": "/data", "XDG_RUNTIME_DIR": "/r"},
            ROOT,
            b"/data/envstack",
            b"/r/envstack",
        ),
        ({"HOME": "/root"}, ROOT, b"/root/.local/share/envstack", b"/run/envstack"),
        ({"HOME": "/h"}, USER, b"/h/.local/share/envstack", b"/h/.local/share/envstack"),
        (
            {"HOME": "/h", "XDG_DATA_HOME": "data", "XDG_RUNTIME_DIR": "", "ENVSTACK_HOME": ""},
            USER,
            b"/h/.local/share/envstack",
            b"/h/.local/share/envstack",
        ),
    ],
)
def test_without_a_chosen_home_the_xdg_directories_count(
    environ: dict[str, str], uid: int, home: bytes, directory: bytes
) -> None:
    assert places(environ, uid) == Places(
        home, directory + b"/daemon.sock", directory + b"/daemon.lock", home + b"/daemon.log"
    )


@pytest.mark.parametrize("environ", [{"ENVSTACK_HOME": "here", "HOME": "/h"}, {}, {"HOME": "h"}])
def test_places_that_are_not_absolute_are_wrong_usage(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        places(environ, USER)


def test_a_socket_path_is_kept_up_to_what_the_kernel_takes() -> None:
    room = SOCKET_PATH_MAX - len("/daemon.sock")
    fits = places({"ENVSTACK_HOME": "/" + "d" * (room - 1)}, USER)
    assert fits.socket == fits.home + b"/daemon.sock"
    assert len(fits.socket) == SOCKET_PATH_MAX
    longer = places({"ENVSTACK_HOME": "/" + "d" * room}, USER)
    assert not longer.socket.startswith(longer.home)


@pytest.mark.parametrize(
    ("environ", "uid", "parent"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, USER, b"/run/user/1000/envstack"),
        ({}, ROOT, b"/run/envstack"),
        ({}, USER, b"/tmp/envstack-1000"),
        ({"XDG_RUNTIME_DIR": "/" + "r" * 100}, USER, b"/tmp/envstack-1000"),
    ],
)
def test_a_long_home_has_a_short_socket_of_its_own(
    environ: dict[str, str], uid: int, parent: bytes
) -> None:
    def long(name: str) -> Places:
        return places({"ENVSTACK_HOME": f"/{'d' * 110}/{name}", **environ}, uid)

    one, again, other = long("one"), long("one"), long("two")
    assert os.path.dirname(one.socket) == parent
    assert len(one.socket) <= SOCKET_PATH_MAX
    assert one == again
    assert one.socket != other.socket
    assert one.lock == one.home + b"/daemon.lock"


def test_a_name_that_is_not_utf8_is_kept_byte_for_byte() -> None:
    assert places({"ENVSTACK_HOME": os.fsdecode(b"/caf\xe9")}, USER).home == b"/caf\xe9"
