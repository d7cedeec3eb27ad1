-- Where in its country an address is, and in whose network, by the files that the operator supplies. Empty, and 0, for clicks of
-- before, for those that keep no address, and where no file knows it.
ALTER TABLE clicks ADD COLUMN IF NOT EXISTS region LowCardinality(String) AFTER country;
ALTER TABLE clicks ADD COLUMN IF NOT EXISTS city LowCardinality(String) AFTER region;
ALTER TABLE clicks ADD COLUMN IF NOT EXISTS asn UInt32 CODEC(ZSTD(1)) AFTER city;
