-- One row a click: the columns of ClickHouse's table, without `ingested_at`.
--
-- `click_id` is a UUID of version 7 in its usual text form, which sorts as its time does. So the table itself is in the
-- order of time: newest first needs no index, and a range of times is a range of ids. `ts` is Unix milliseconds, `expires`
-- days since 1970-01-01, `reasons` a JSON array and `query` a JSON object of texts.
CREATE TABLE clicks
(
    click_id          TEXT    NOT NULL PRIMARY KEY,
    ts                INTEGER NOT NULL,
    org               TEXT    NOT NULL,
    campaign          TEXT    NOT NULL,
    link              TEXT    NOT NULL,
    rule              TEXT    NOT NULL,
    variant           TEXT    NOT NULL,
    destination       TEXT    NOT NULL,
    status            INTEGER NOT NULL,
    external_click_id TEXT    NOT NULL,
    source            TEXT    NOT NULL,
    class             TEXT    NOT NULL,
    reasons           TEXT    NOT NULL,
    dedup             TEXT    NOT NULL,
    fraud_score       INTEGER NOT NULL,
    country           TEXT    NOT NULL,
    device            TEXT    NOT NULL,
    os                TEXT    NOT NULL,
    browser           TEXT    NOT NULL,
    language          TEXT    NOT NULL,
    referrer          TEXT    NOT NULL,
    ua                TEXT    NOT NULL,
    ip                TEXT    NOT NULL,
    query             TEXT    NOT NULL,
    route_version     INTEGER NOT NULL,
    node              TEXT    NOT NULL,
    batch_id          TEXT    NOT NULL,
    expires           INTEGER NOT NULL
) WITHOUT ROWID;

-- Clicks of each minute (whole minutes since 1970), kept in the transaction that stores the clicks, so both always agree.
-- It takes the place of indexes by link and campaign: an index by link is written at another place for every click, and
-- costs more than the clicks themselves; this one is written where the minute is.
CREATE TABLE click_counts
(
    minute   INTEGER NOT NULL,
    link     TEXT    NOT NULL,
    campaign TEXT    NOT NULL,
    class    TEXT    NOT NULL,
    dedup    TEXT    NOT NULL,
    clicks   INTEGER NOT NULL,
    PRIMARY KEY (minute, link, campaign, class, dedup)
) WITHOUT ROWID;
