-- Links, by slug. Times are Unix milliseconds; `tags` is a JSON array of texts.
CREATE TABLE links
(
    slug        TEXT    NOT NULL PRIMARY KEY,
    url         TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    query       TEXT    NOT NULL,
    campaign    TEXT    NOT NULL,
    paused      INTEGER NOT NULL,
    tags        TEXT    NOT NULL,
    external_id TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL
) WITHOUT ROWID;
