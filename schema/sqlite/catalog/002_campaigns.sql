-- Campaigns, by name. `document` is the JSON that was saved; times are Unix milliseconds.
CREATE TABLE campaigns
(
    id         TEXT    NOT NULL PRIMARY KEY,
    document   TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
