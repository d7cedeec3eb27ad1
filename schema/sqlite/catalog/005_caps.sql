-- How many clicks a link takes: the JSON that was saved, and a number; NULL where there is none.
ALTER TABLE links ADD COLUMN cap TEXT;
ALTER TABLE links ADD COLUMN max_clicks INTEGER;

-- What this node has counted of each cap. `cap` is its 16 bytes, `per` is `hour`, `day` or `total`, and `run` the journal
-- whose clicks these are; empty for those of journals that are gone. `admitted` are clicks that the edge let through,
-- `processed` those of them that a worker has seen, and `counted` those of these that count.
CREATE TABLE cap_counts
(
    cap        BLOB    NOT NULL,
    period     INTEGER NOT NULL,
    run        TEXT    NOT NULL,
    per        TEXT    NOT NULL,
    admitted   INTEGER NOT NULL,
    processed  INTEGER NOT NULL,
    counted    INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (cap, period, run)
) WITHOUT ROWID;

-- Clicks of this part of a journal up to this position are in the counts.
CREATE TABLE cap_marks
(
    run      TEXT    NOT NULL,
    core     INTEGER NOT NULL,
    origin   INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (run, core, origin)
) WITHOUT ROWID;
