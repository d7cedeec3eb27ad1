-- The host that was asked, where it is a domain in use, else `*`; and the path of a visit to no link (its `link` is `/`).
ALTER TABLE clicks ADD COLUMN domain TEXT NOT NULL DEFAULT '*';
ALTER TABLE clicks ADD COLUMN path TEXT NOT NULL DEFAULT '';
