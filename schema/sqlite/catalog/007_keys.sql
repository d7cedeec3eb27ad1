-- API keys, by id. `scopes` are names with spaces between; `digest` is 32 bytes, SHA-256 or HMAC-SHA-256 of the whole key;
-- `earlier_digest` is taken too up to `earlier_until_ms`. Times are Unix milliseconds.
CREATE TABLE keys
(
    id               TEXT    NOT NULL PRIMARY KEY,
    org              TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    scopes           TEXT    NOT NULL,
    rate_per_second  INTEGER,
    rate_burst       INTEGER,
    expires_ms       INTEGER,
    revoked_ms       INTEGER,
    digest           BLOB    NOT NULL,
    earlier_digest   BLOB,
    earlier_until_ms INTEGER,
    version          INTEGER NOT NULL,
    created_ms       INTEGER NOT NULL,
    updated_ms       INTEGER NOT NULL
) WITHOUT ROWID;

-- The organisation of a link, and the links of one in the order of their domains and slugs.
ALTER TABLE links ADD COLUMN org TEXT NOT NULL DEFAULT 'default';
CREATE INDEX links_by_org ON links (org, domain, slug);
