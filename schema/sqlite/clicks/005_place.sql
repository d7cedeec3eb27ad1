-- Where in its country an address is, and in whose network, by the files that the operator supplies. Empty, and 0, for clicks of
-- before, for those that keep no address, and where no file knows it.
ALTER TABLE clicks ADD COLUMN region TEXT NOT NULL DEFAULT '';
ALTER TABLE clicks ADD COLUMN city TEXT NOT NULL DEFAULT '';
ALTER TABLE clicks ADD COLUMN asn INTEGER NOT NULL DEFAULT 0;
