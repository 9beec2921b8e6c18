"""What tests of standing still have in common: the ways of it, and who writes meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.linux import cgroup, stopping
from tests.support import needs

if TYPE_CHECKING:
    import pytest

KINDS = (cgroup.V2, cgroup.V1, stopping.KIND)


def allow_only(kind: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Let groups be made in one way alone, and return it; it is lacking where there is none."""
    places = dict(cgroup._places())
    if kind not in (*places, stopping.KIND):
        needs.lack(f"a {kind.decode()} hierarchy")
    only = [(kind, places[kind])] if kind in places else []
    monkeypatch.setattr(cgroup, "_places", lambda: iter(only))
    return kind


def writer(pairs: int) -> str:
    """Return a program that writes each of so many first files before its second one, for ever.

    It prints "begun" when it has been through all of them once.
    """
    return f"""
import itertools, os
for count in itertools.count(1):
    for number in range({pairs}):
        for name in ("first", "second"):
            with open(f"{{name}}{{number}}.new", "w") as file:
                file.write(str(count))
            os.rename(f"{{name}}{{number}}.new", f"{{name}}{{number}}")
    if count == 1:
        print("begun", flush=True)
"""
