"""The parameters of a request, read one by one with their types checked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from envstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Params:
    """Every method raises UsageError for a parameter of the wrong type; null counts as missing."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def optional_text(self, name: str) -> str | None:
        """Return a text that UTF-8 can hold, as the database must, or None where it is missing."""
        value = self._string(name)
        if value is not None and not _is_encodable(value):
            raise UsageError(f"{name!r} must be UTF-8 text")
        return value

    def text(self, name: str, default: str) -> str:
        """Return a text, or `default`."""
        value = self.optional_text(name)
        return default if value is None else value

    def path(self, name: str) -> bytes:
        """Return an absolute path, which must be there."""
        value = _file_name(self._string(name))
        if value is None or not os.path.isabs(value):
            raise UsageError(f"{name!r} must be an absolute path")
        return value

    def optional_path(self, name: str) -> bytes | None:
        """Return a path of any kind, or None where it is missing."""
        value = self._string(name)
        path = _file_name(value)
        if value is not None and not path:
            raise UsageError(f"{name!r} must be a path")
        return path

    def paths(self, name: str) -> tuple[bytes, ...]:
        """Return a list of paths of any kind, empty where it is missing."""
        values = self._raw.get(name)
        found = [_file_name(value) for value in values] if isinstance(values, list) else []
        paths = tuple(path for path in found if path)
        if values is not None and (not isinstance(values, list) or len(paths) < len(values)):
            raise UsageError(f"{name!r} must be a list of paths")
        return paths

    def flag(self, name: str) -> bool:
        """Return a truth value, false where it is missing."""
        value = self._raw.get(name)
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{name!r} must be true or false")
        return bool(value)

    def lines(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty where it is missing."""
        values = self._raw.get(name)
        if values is None:
            return ()
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise UsageError(f"{name!r} must be a list of texts")
        return tuple(values)

    def texts(self, name: str) -> dict[str, str]:
        """Return an object of texts, such as environment variables; empty where it is missing."""
        value = self._raw.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise UsageError(f"{name!r} must be an object of texts")
        return value

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """Return one of `known`, the first where it is missing."""
        value = self.text(name, known[0])
        if value not in known:
            raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        return value

    def _string(self, name: str) -> str | None:
        value = self._raw.get(name)
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise UsageError(f"{name!r} must be a text")
        return value


def _file_name(value: object) -> bytes | None:
    """Return the bytes of a file name, None for what can be none."""
    try:
        return os.fsencode(value) if isinstance(value, str) and "\0" not in value else None
    except UnicodeEncodeError:
        return None


def _is_encodable(text: str) -> bool:
    """Tell whether there is no lone surrogate in it, which JSON can hold and SQLite cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
