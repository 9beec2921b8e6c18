"""A daemon that serves a fake service; `python -m tests.daemon.fake [--ready-fd N]` runs it.

The environment variable FAKE_DAEMON holds its settings as JSON.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio import to_thread

from envstack import __version__, errors
from envstack.daemon import process, server
from envstack.rpc import messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envstack.daemon.calls import Call, Handler

Json = dict[str, Any]

_STEP = 0.002


class FakeService:
    """Does on request whatever a real service could do to the server."""

    def __init__(self, start_error: str | None) -> None:
        self._start_error = start_error
        self._names: list[str] = []

    async def __aenter__(self) -> Self:
        if self._start_error == "damaged":
            raise errors.Damaged("The store is of a newer format.", "Use the newer envstack.")
        if self._start_error == "bug":
            raise LookupError("not a thing to tell users")
        return self

    async def __aexit__(self, *_: object) -> None:
        logging.info("service left")

    def environments(self) -> list[str]:
        return self._names

    def methods(self) -> Mapping[str, Handler]:
        names = [name.removeprefix("do_") for name in dir(self) if name.startswith("do_")]
        return {name: getattr(self, f"do_{name}") for name in names}

    async def do_echo(self, _call: Call, params: Json) -> Any:
        return params

    async def do_peer(self, call: Call, _params: Json) -> Any:
        return call.peer_pid

    async def do_keep_up(self, _call: Call, params: Json) -> Any:
        self._names = params["names"]

    async def do_wait_for_ever(self, call: Call, _params: Json) -> Any:
        await call.progress("started")
        await anyio.sleep_forever()

    async def do_until_cancelled(self, call: Call, params: Json) -> Any:
        """In a thread, until the token is set; leave `params.trace` behind then."""

        def block() -> str:
            call.report("started", 0, 1)
            while not call.cancelled.wait(_STEP):
                pass
            with open(params["trace"], "w"):
                pass
            return "stopped at a safe place"

        with anyio.CancelScope(shield=True):
            return await to_thread.run_sync(block)

    async def do_until_exists(self, call: Call, params: Json) -> Any:
        """In a thread, deaf to being cancelled, until there is a file `params.path`."""

        def block() -> str:
            call.report("started")
            while not os.path.exists(params["path"]):
                time.sleep(_STEP)
            return "finished"

        with anyio.CancelScope(shield=True):
            return await to_thread.run_sync(block)

    async def do_report_much(self, call: Call, params: Json) -> Any:
        def block() -> None:
            for number in range(params["times"]):
                call.report("counting", number, params["times"])

        await to_thread.run_sync(block)

    async def do_large(self, _call: Call, params: Json) -> Any:
        return "x" * params["bytes"]

    async def do_no_json(self, _call: Call, _params: Json) -> Any:
        return b"bytes"

    async def do_refuse(self, _call: Call, _params: Json) -> Any:
        raise errors.StackFileError("a.yaml:1:2: no", "Mend it.", ({"line": 1},))

    async def do_refuse_in_a_group(self, _call: Call, _params: Json) -> Any:
        async with anyio.create_task_group():
            raise errors.NotFound("There is no such thing.")

    async def do_bug(self, _call: Call, _params: Json) -> Any:
        raise LookupError("not a thing to tell users")

    async def do_fill_disk(self, _call: Call, _params: Json) -> Any:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    async def do_exceed_quota(self, _call: Call, _params: Json) -> Any:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), b"/some/where")

    async def do_write_log(self, _call: Call, params: Json) -> Any:
        for _ in range(params["lines"]):
            logging.info("%s", "y" * 1000)

    async def do_surroundings(self, _call: Call, _params: Json) -> Any:
        umask = os.umask(0o077)
        return {"cwd": os.getcwd(), "umask": umask, "pgid": os.getpgid(0), "sid": os.getsid(0)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int)
    ready_fd = parser.parse_args().ready_fd
    settings = json.loads(os.environ.get("FAKE_DAEMON", "{}"))
    # What another version of this program would have there.
    vars(server)["__version__"] = vars(process)["__version__"] = settings.get(
        "version", __version__
    )
    vars(messages)["PROTOCOL"] = settings.get("protocol", messages.PROTOCOL)
    patience = process.Patience(settings.get("linger", 5.0), settings.get("grace", 20.0))
    try:
        return process.main(
            os.environ, ready_fd, lambda *_: FakeService(settings.get("start_error")), patience
        )
    except errors.EnvstackError as error:
        print(f"told: {error.message}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
