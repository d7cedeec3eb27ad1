-- Links by domain and slug: one slug may stand under several domains. `*` is any; links of before belong to it.
CREATE TABLE links_by_domain
(
    domain      TEXT    NOT NULL DEFAULT '*',
    slug        TEXT    NOT NULL,
    url         TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    query       TEXT    NOT NULL,
    campaign    TEXT    NOT NULL,
    paused      INTEGER NOT NULL,
    tags        TEXT    NOT NULL,
    external_id TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    starts_ms   INTEGER,
    expires_ms  INTEGER,
    expired_url TEXT,
    PRIMARY KEY (domain, slug)
) WITHOUT ROWID;
INSERT INTO links_by_domain
SELECT '*', slug, url, status, query, campaign, paused, tags, external_id, version, created_ms, updated_ms, starts_ms,
       expires_ms, expired_url
FROM links ORDER BY slug;
DROP TABLE links;
ALTER TABLE links_by_domain RENAME TO links;

-- Where visits go that are to no link, by domain; `*` is any. `document` is the JSON that was saved.
CREATE TABLE domains
(
    name       TEXT    NOT NULL PRIMARY KEY,
    document   TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
