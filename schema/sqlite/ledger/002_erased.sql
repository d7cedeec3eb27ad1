-- Clicks that were stored and that a person had erased, by the minute of the click.
CREATE TABLE erased
(
    minute INTEGER NOT NULL PRIMARY KEY,
    clicks INTEGER NOT NULL
);

-- Clicks that are being erased: the store may have them or not. Empty when every erase has ended.
CREATE TABLE erasing
(
    click_id BLOB    NOT NULL PRIMARY KEY,
    minute   INTEGER NOT NULL
) WITHOUT ROWID;
