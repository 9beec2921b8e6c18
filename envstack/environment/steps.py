"""The names of the steps of every sequence, in the order in which a sequence takes them."""

from __future__ import annotations

from enum import StrEnum


class Step(StrEnum):
    """Announced before it is taken, so that a test can stop a sequence between any two."""

    STAGE = "stage"
    """`up`, and a live checkpoint: write down the layers that will be built."""
    COPY = "copy"
    """`up`: build one layer below `staging/`."""
    RUN = "run"
    """`up`: run the command of a layer on top of those below it, its upper below `staging/`."""
    PUBLISH = "publish"
    """`up`, and a live checkpoint: move a built layer to its place."""

    COPY_CHANGES = "copy-changes"
    """Live checkpoint: copy what changed into a layer below `staging/`."""
    FREEZE = "freeze"
    """Live checkpoint: let those inside stand still who can be made to."""
    CATCH_UP = "catch-up"
    """Live checkpoint: copy what changed meanwhile, and give the layer its root's metadata."""

    REGISTER = "register"
    """Write the intent; it names the new upper and all that is to be committed."""
    PREPARE = "prepare"
    """Make the new upper, if none was made ahead."""
    BUILD = "build"
    """Build the new overlay, attached nowhere."""
    ATTACH = "attach"
    """Attach the overlay at the mount point: in `up`, and in an exchange in turn."""
    REFRESH = "refresh"
    """`up --relay`: make the overlay forget what it knows of its layers."""
    LOCK = "lock"
    """Make the old mount read-only, then give the new upper's root its metadata."""
    BENEATH = "beneath"
    """Attach the new overlay beneath the old mount."""
    DETACH = "detach"
    """Detach the old mount: from here on there is no way back, but in an exchange in turn."""
    UNMOUNT = "unmount"
    """`down`: take the mount off."""
    COMMIT = "commit"
    """Make the new state the truth."""
    REMEMBER = "remember"
    """Live checkpoint: write down what the upper held."""

    SEAL = "seal"
    """Off the path: make the old superblock read-only."""
    RECORD = "record"
    """Off the path: write down that the layer is sealed."""
    SPARE = "spare"
    """Off the path: make the upper that the next rotation will take."""
    COUNT = "count"
    """Off the path: count what a checkpoint changed."""
    FINGERPRINT = "fingerprint"
    """Off the path: write down what the directories by reference look like."""

    SUM = "sum"
    """Off the path, but for `--sync`: measure what was sealed, and write that down."""
    SYNC = "sync"
    """Likewise: flush the store's file system, and write down what is durable then."""

    FORGET = "forget"
    """Purge: delete the rows of an environment."""
    DELETE = "delete"
    """Delete the directory of a layer that is no longer needed."""
