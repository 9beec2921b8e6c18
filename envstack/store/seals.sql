-- What the upper of an environment held when the chain of its head was sealed, in one boot.
CREATE TABLE seal (
    number  INTEGER PRIMARY KEY,
    env     TEXT NOT NULL UNIQUE,
    upper   TEXT NOT NULL,
    lowers  TEXT NOT NULL,
    chain   TEXT NOT NULL,
    boot    TEXT NOT NULL
) STRICT;

-- One row a directory, by its path: what was in it, packed.
CREATE TABLE directory (
    seal    INTEGER NOT NULL,
    path    BLOB NOT NULL,
    packed  BLOB NOT NULL,
    PRIMARY KEY (seal, path)
) STRICT, WITHOUT ROWID;
