-- What the feed of an environment has told so far: `upper` is the layer that `entry` is about, `lowers`
-- what it stands on, `ops` the last row of `ops` in meta.db, `seq` the last event, `bytes` what the
-- events take.
CREATE TABLE followed (
    number  INTEGER PRIMARY KEY,
    env     TEXT NOT NULL UNIQUE,
    upper   TEXT NOT NULL,
    lowers  TEXT NOT NULL,
    ops     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT;

-- The events after `first`, up to the next epoch, were numbered in one boot: a power cut may take
-- the last of them back, and their numbers come again in another epoch.
CREATE TABLE epoch (
    followed  INTEGER NOT NULL,
    first     INTEGER NOT NULL,
    id        TEXT NOT NULL,
    boot      TEXT NOT NULL,
    PRIMARY KEY (followed, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    followed  INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (followed, seq)
) STRICT, WITHOUT ROWID;

-- The upper as it was told: one row an entry. `facts` is what the feed compares. `digest` stands for
-- the bytes of a file that may change unseen, and is NULL for all others.
CREATE TABLE entry (
    followed  INTEGER NOT NULL,
    dir       BLOB NOT NULL,
    name      BLOB NOT NULL,
    facts     BLOB NOT NULL,
    ino       INTEGER NOT NULL,
    digest    BLOB,
    PRIMARY KEY (followed, dir, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX entry_by_ino ON entry (followed, ino);
CREATE INDEX entry_doubtful ON entry (followed) WHERE digest IS NOT NULL;
