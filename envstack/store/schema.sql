CREATE TABLE environment (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    stack_path  BLOB NOT NULL UNIQUE,
    project     BLOB NOT NULL,
    mount       BLOB NOT NULL UNIQUE,
    stack       TEXT NOT NULL,
    base        TEXT NOT NULL,
    upper       TEXT NOT NULL,
    lowers      TEXT NOT NULL,
    head        TEXT,
    wanted      INTEGER NOT NULL,
    created_at  TEXT NOT NULL
) STRICT;

CREATE TABLE layer (
    id      TEXT PRIMARY KEY,
    env     TEXT NOT NULL,
    kind    TEXT NOT NULL,
    state   TEXT NOT NULL,
    name    TEXT,
    source  BLOB,
    key     TEXT,
    -- The boot in which it was sealed; NULL when it is durable, or is no sealed layer as yet.
    boot    TEXT,
    -- What it held then; NULL until it is known.
    files   INTEGER,
    bytes   INTEGER
) STRICT;

CREATE INDEX layer_of_env ON layer (env);
CREATE INDEX layer_at_risk ON layer (boot) WHERE boot IS NOT NULL;

-- What a directory by reference looked like when it was last mounted.
CREATE TABLE fingerprint (
    layer     TEXT PRIMARY KEY,
    digest    TEXT NOT NULL,
    entries   INTEGER NOT NULL,
    root      TEXT NOT NULL,
    taken_ns  INTEGER NOT NULL
) STRICT;

CREATE TRIGGER fingerprint_goes_with_layer AFTER DELETE ON layer
BEGIN
    DELETE FROM fingerprint WHERE layer = old.id;
END;

CREATE TABLE checkpoint (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    env         TEXT NOT NULL,
    parent      TEXT,
    message     TEXT NOT NULL,
    tag         TEXT,
    created_at  TEXT NOT NULL,
    mode        TEXT NOT NULL,
    chain       TEXT NOT NULL,
    added       INTEGER,
    modified    INTEGER,
    deleted     INTEGER,
    -- What is wrong with it; NULL while nothing is known.
    damage      TEXT,
    UNIQUE (env, tag)
) STRICT;

-- At most one intent an environment: what is being done to it, and how it is committed.
CREATE TABLE intent (
    env         TEXT PRIMARY KEY,
    transition  TEXT NOT NULL
) STRICT;

-- What a file of the user's own held when it was last read, while it is the one of that identity.
CREATE TABLE digest (
    path      BLOB PRIMARY KEY,
    identity  TEXT NOT NULL,
    sha256    TEXT NOT NULL
) STRICT;

-- The commands of stack files that somebody said yes to: the content by its digest.
CREATE TABLE trust (
    stack_path  BLOB NOT NULL,
    digest      TEXT NOT NULL,
    at          TEXT NOT NULL,
    PRIMARY KEY (stack_path, digest)
) STRICT;

-- What was done, from what to what; undo reads it.
CREATE TABLE ops (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    env     TEXT NOT NULL,
    op      TEXT NOT NULL,
    before  TEXT NOT NULL,
    after   TEXT NOT NULL,
    at      TEXT NOT NULL
) STRICT;

CREATE INDEX ops_of_env ON ops (env, seq);
