"""The shape of a stack file, as pydantic models; the JSON Schema comes from the same models.

The text under a field is what an editor shows of its key. Every kind of layer is here, also those
that are refused: to bring one in is to take it off `NOT_YET`. Models hold what is written; what it
means for this project is in `stack`.
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
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

VERSION = 1
DEFAULT_MOUNT = ".envstack/merged"

KINDS = ("dir", "archive", "image", "git", "run")
"""The keys that say what a layer is made of; each layer has exactly one."""

NOT_YET = frozenset({"image", "git"})
"""Kinds that are known here and that nothing builds."""

RESERVED = frozenset({"workdir", "cmd", "extends", "platform", "insecure", "submodules"})
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


def _not_empty(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("bool_type", "must be true or false")
    return value


Choice = Annotated[bool | None, BeforeValidator(_not_empty), WithJsonSchema({"type": "boolean"})]
"""Yes or no; None where it is not given."""

Version = Annotated[Literal[1], BeforeValidator(_no_bool)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[
    Text,
    AfterValidator(_one_line),
    Field(
        json_schema_extra={
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
            "patternErrorMessage": "must be printable text on one line",
        }
    ),
]
Path = Annotated[str, Field(min_length=1, max_length=PATH_MAX)]
PathBelow = Annotated[
    Path,
    AfterValidator(_below),
    Field(
        json_schema_extra={
            "pattern": r"^(?!/)(?!(.*/)?\.\.(/|$))",
            "patternErrorMessage": "must be a relative path of the merged tree, without `..`",
        }
    ),
]
EnvName = Annotated[str, Field(pattern=r"^[^=]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class _Layer(_Model):
    name: Name
    """What the layer is called; no two layers of a stack share a name."""


class Dir(_Layer):
    """A directory, by reference; with `at` or `copy`, a copy of it."""

    dir: Path
    """A directory, relative to the stack file or absolute. It is read, never written."""

    at: PathBelow = "."
    """Where in the merged tree it appears; it is copied in then, not mounted."""

    copy_: Annotated[bool, Field(alias="copy")] = False
    """Take a private copy, which later changes to the directory do not reach."""


class Archive(_Layer):
    """What a tar or zip archive holds."""

    archive: Text
    """A tar or zip archive: a path relative to the stack file, or a URL."""

    sha256: Sha256 = ""
    """The SHA-256 digest that it must have, in hexadecimal digits; what a URL names needs one."""

    at: PathBelow = "."
    """Where in the merged tree its content appears."""

    strip: Annotated[int, Field(ge=0, le=255)] = 0
    """How many leading parts to leave out of each name, as tar does with --strip-components."""


class Image(_Layer):
    """The file system of a container image."""

    image: Text
    """A container image, such as `docker://registry.example/python:3.12`."""


class Git(_Layer):
    """The tree of a commit."""

    git: Text
    """A Git repository: a URL or a path."""

    rev: Text
    """The commit, tag or branch whose tree is taken."""

    at: PathBelow = "."
    """Where in the merged tree it appears."""


class Run(_Layer):
    """What a command changes on top of the layers below."""

    run: Text
    """A shell command, run in the merged tree of the layers below; what it changes is the layer."""

    inputs: list[PathBelow] = Field(default_factory=list)
    """Files and globs that the result depends on, besides the command, `env` and the layers."""


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
    """Patterns as in a .gitignore file: what matches them is left out of the change feed."""


class Stack(_Model):
    """A stack file."""

    version: Version
    """The version of this format: 1."""

    name: Name = ""
    """What the environment is called; the name of the project's directory if not given."""

    mount: Path = DEFAULT_MOUNT
    """Where the merged tree appears, relative to the stack file."""

    layers: Annotated[list[Layer], Field(min_length=1)]
    """The layers, bottom first: where two hold the same path, the later one is seen."""

    env: dict[EnvName, str] = Field(default_factory=dict)
    """Variables for commands that run in the merged tree; values are text, so quote numbers."""

    root: Choice = None
    """Whether commands have the merged tree as their root: if it has /bin/sh, when not given."""

    watch: Watch = Watch()
    """What the change feed leaves out."""
