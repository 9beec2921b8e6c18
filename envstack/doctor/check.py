"""A finding of `envstack doctor` as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """`LIMITED`: envstack works, and something is slower or not to be had; `MISSING`: it cannot."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it stands, what was found, and what to do where it is not `OK`."""

    name: str
    state: State
    found: str
    hint: str = ""


def ok(name: str, found: str) -> Check:
    """Return a check that found what is needed."""
    return Check(name, State.OK, found)


def limited(name: str, found: str, hint: str) -> Check:
    """Return a check that found what envstack can work with, but not at its best."""
    return Check(name, State.LIMITED, found, hint)


def missing(name: str, found: str, hint: str) -> Check:
    """Return a check that found what envstack cannot work with."""
    return Check(name, State.MISSING, found, hint)
