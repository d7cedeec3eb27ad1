-- Releases: one row for each write to the catalog, made in its transaction. `at_ms` is Unix milliseconds; `total` counts
-- the changes of this and of all releases before it, also of those that are no longer kept.
CREATE TABLE releases
(
    version INTEGER NOT NULL PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    actor   TEXT    NOT NULL,
    note    TEXT    NOT NULL,
    changes INTEGER NOT NULL,
    total   INTEGER NOT NULL
);
-- What a release changed, an entry of the catalog once: as JSON, NULL where there was or is none. `revision` is the
-- greater of the versions of the two. `name` of a link is `domain/slug`. Rows come
-- at the end only: versions grow, and names are sorted.
CREATE TABLE changes
(
    version  INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    before   TEXT,
    after    TEXT,
    revision INTEGER NOT NULL,
    PRIMARY KEY (version, kind, name)
) WITHOUT ROWID;
-- How far the versions of an entry have come: a name that is used again goes on from there.
CREATE INDEX changes_by_name ON changes (kind, name, revision);
