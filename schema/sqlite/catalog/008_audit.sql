-- The audit log: one row for each write to the operator side that was made, or whose end is not known. `at_ms` is Unix
-- milliseconds; `org` is NULL for what is of the whole node; `release` is that of the catalog, NULL where there is none;
-- `before` and `after` are JSON, NULL where there was or is nothing, or where `omitted` says that they were too long. `total`
-- counts the bytes of this and of all rows before it. Rows come at the end only, and go at the beginning.
CREATE TABLE audit
(
    sequence   INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    request_id TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    org        TEXT,
    action     TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    status     INTEGER NOT NULL,
    release    INTEGER,
    before     TEXT,
    after      TEXT,
    omitted    INTEGER NOT NULL,
    total      INTEGER NOT NULL
);
-- Requests with an `Idempotency-Key`, by who sent them. `digest` is SHA-256 of the request; `run` is the process that took it;
-- `status` is NULL while there is no answer; `body` is NULL where the answer is not kept.
CREATE TABLE idempotency
(
    actor    TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    digest   BLOB    NOT NULL,
    begun_ms INTEGER NOT NULL,
    run      INTEGER NOT NULL,
    status   INTEGER,
    headers  TEXT,
    body     BLOB,
    PRIMARY KEY (actor, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_by_time ON idempotency (begun_ms);
