-- To the second: an organisation may keep its clicks for any time. A `Date` of before becomes the beginning of that day.
ALTER TABLE clicks MODIFY COLUMN expires DateTime('UTC') CODEC(DoubleDelta, ZSTD(1));
