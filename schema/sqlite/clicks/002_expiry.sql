-- `expires` is in seconds since 1970-01-01 from now on, as an organisation may keep its clicks for any time.
UPDATE clicks SET expires = expires * 86400;

-- When clicks of a minute expire: one line for a minute and a time, kept in the transaction that stores the clicks. It
-- takes the place of an index over all of them.
CREATE TABLE click_expiry
(
    expires INTEGER NOT NULL,
    minute  INTEGER NOT NULL,
    PRIMARY KEY (expires, minute)
) WITHOUT ROWID;

INSERT INTO click_expiry (expires, minute) SELECT DISTINCT expires, ts / 60000 FROM clicks;
