-- The ledger. Minutes are whole minutes since 1970; a run is the name of a folder under journal/.

-- Clicks of one minute of one run: as its edge threads counted them, and what became of those that are finished.
CREATE TABLE accounts
(
    minute    INTEGER NOT NULL,
    run       TEXT    NOT NULL,
    accepted  INTEGER NOT NULL DEFAULT 0,
    untracked INTEGER NOT NULL DEFAULT 0,
    taken     INTEGER NOT NULL DEFAULT 0,
    stored    INTEGER NOT NULL DEFAULT 0,
    refused   INTEGER NOT NULL DEFAULT 0,
    damaged   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (minute, run)
) WITHOUT ROWID;

-- How far a stretch of a journal is in the table above: everything before this position, and nothing behind it.
CREATE TABLE marks
(
    run      TEXT    NOT NULL,
    core     INTEGER NOT NULL,
    origin   INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (run, core, origin)
) WITHOUT ROWID;

-- Clicks of a minute that were stored when its rollups were computed last.
CREATE TABLE rolled
(
    minute INTEGER NOT NULL PRIMARY KEY,
    stored INTEGER NOT NULL
);

-- Minutes in which the backup was made that this file comes from: clicks of them may be in the store that neither its
-- journal nor this ledger has.
CREATE TABLE copied
(
    minute INTEGER NOT NULL PRIMARY KEY
);

-- The name under which this node stores clicks (one row), and since which minute: what was stored under another name
-- before cannot be compared.
CREATE TABLE node
(
    name  TEXT    NOT NULL,
    since INTEGER NOT NULL
);
