"""The stack file that `envstack init` writes, and the name of a project that has chosen none."""

from __future__ import annotations

import json
import os

from envstack.stackfile.source import printable

SCHEMA_FILE = ".envstack.schema.json"
"""Where a first stack file tells editors to look for the schema: beside it.

By a relative path, so that it works offline and for everybody who has the project: it belongs into
version control as the stack file does. A path of one user's home would not, and `.envstack/` keeps
itself out.
"""

_TEMPLATE = """\
# yaml-language-server: $schema={schema}

# The stack of layers that `envstack up` mounts as one tree. Changes made in that tree stay on top;
# the directories named here are only read.
version: 1
name: {name}

# Where the merged tree appears, relative to this file.
mount: .envstack/merged

# Bottom first: where two layers hold the same path, the later one is seen.
layers:
  - name: project
    dir: .

  # A private copy, which later changes to the directory do not reach:
  # - name: tools
  #   dir: ../tools
  #   copy: true

  # Placed below a path of the merged tree (copied in, too):
  # - name: fixtures
  #   dir: ../data
  #   at: tests/data

  # What a tar or zip archive holds, from a path or an address (which needs a sha256):
  # - name: sdk
  #   archive: ../sdk.tar.zst
  #   at: opt/sdk

  # Made by a command on top of the layers above; run again when the inputs have changed:
  # - name: venv
  #   run: python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
  #   inputs: [requirements.txt]

# Variables for commands that run in the merged tree; always text, so quote numbers.
# env:
#   PORT: "8080"
"""


def template(name: str) -> str:
    """Return a commented stack file for a project called `name`: one layer, its directory."""
    # A JSON string is a YAML string, whatever the name may look like.
    quoted = json.dumps(printable(name), ensure_ascii=False)
    return _TEMPLATE.format(schema=SCHEMA_FILE, name=quoted)


def default_name(project: bytes) -> str:
    """Return what a project at the absolute path `project` is called unless its file says so."""
    return printable(os.path.basename(project).decode("utf-8", "replace")) or "root"
