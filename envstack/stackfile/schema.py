"""The shape of a stack file, as pydantic models; the JSON Schema comes from the same models.

Every kind of layer is here, also those that are refused: to bring one in is to take it off
`NOT_YET`. Models hold what is written; what it means for this project is in `stack`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)
from pydantic_core import PydanticCustomError

VERSION = 1
DEFAULT_MOUNT = ".envstack/merged"

KINDS = ("dir", "archive", "image", "git", "run")
"""The keys that say what a layer is made of; each layer has exactly one."""

NOT_YET = frozenset({"archive", "image", "git"})
"""Kinds that are known here and that nothing builds."""

RESERVED = frozenset({"root", "workdir", "cmd", "extends", "platform", "insecure", "submodules"})
"""Keys that have no meaning yet and will have one."""


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("text", "must be printable text on one line")
    return value


def _below(value: str) -> str:
    if value.startswith("/"):
        raise PydanticCustomError("path", "must be relative: it is a path of the merged tree")
    if ".." in value.split("/"):
        raise PydanticCustomError("path", "must not contain `..`")
    return value


PATH_MAX = 4095
"""limits.h without the closing NUL: a longer path is refused by every system call."""


def _no_bool(value: Any) -> Any:
    # Literal compares with ==, and True == 1.
    return str(value) if isinstance(value, bool) else value


Version = Annotated[Literal[1], BeforeValidator(_no_bool)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[Text, AfterValidator(_one_line)]
Path = Annotated[str, Field(min_length=1, max_length=PATH_MAX)]
PathBelow = Annotated[Path, AfterValidator(_below)]
EnvName = Annotated[str, Field(pattern=r"^[^=]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Layer(_Model):
    name: Name


class Dir(_Layer):
    """A directory, by reference; with `at` or `copy`, a copy of it."""

    dir: Path
    at: PathBelow = "."
    copy_: Annotated[bool, Field(alias="copy")] = False


class Archive(_Layer):
    """What a tar or zip archive holds."""

    archive: Text
    sha256: Sha256 = ""
    at: PathBelow = "."


class Image(_Layer):
    """The file system of a container image."""

    image: Text


class Git(_Layer):
    """The tree of a commit."""

    git: Text
    rev: Text
    at: PathBelow = "."


class Run(_Layer):
    """What a command changes on top of the layers below."""

    run: Text
    inputs: list[PathBelow] = Field(default_factory=list)


def _kind(layer: Any) -> str:
    """Return the kind of a raw layer; one that tells none is judged as a `dir`."""
    if isinstance(layer, dict):
        return next((kind for kind in KINDS if kind in layer), "dir")
    return "dir"


Layer = Annotated[
    Annotated[Dir, Tag("dir")]
    | Annotated[Archive, Tag("archive")]
    | Annotated[Image, Tag("image")]
    | Annotated[Git, Tag("git")]
    | Annotated[Run, Tag("run")],
    Discriminator(_kind),
]

LAYER_MODELS: dict[str, type[_Layer]] = {
    "dir": Dir,
    "archive": Archive,
    "image": Image,
    "git": Git,
    "run": Run,
}


class Watch(_Model):
    """What the feed leaves out, as gitignore patterns."""

    ignore: list[Text] = Field(default_factory=list)


class Stack(_Model):
    """A stack file."""

    version: Version
    name: Name = ""
    mount: Path = DEFAULT_MOUNT
    layers: Annotated[list[Layer], Field(min_length=1)]
    env: dict[EnvName, str] = Field(default_factory=dict)
    watch: Watch = Watch()
