-- Counts by organisation too, so that each is told of its own. Every click of before is of the only one that there was.
CREATE TABLE click_counts_of_org
(
    minute   INTEGER NOT NULL,
    link     TEXT    NOT NULL,
    campaign TEXT    NOT NULL,
    org      TEXT    NOT NULL,
    class    TEXT    NOT NULL,
    dedup    TEXT    NOT NULL,
    clicks   INTEGER NOT NULL,
    PRIMARY KEY (minute, link, campaign, org, class, dedup)
) WITHOUT ROWID;
INSERT INTO click_counts_of_org SELECT minute, link, campaign, 'default', class, dedup, clicks FROM click_counts;
DROP TABLE click_counts;
ALTER TABLE click_counts_of_org RENAME TO click_counts;
