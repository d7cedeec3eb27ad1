-- The host that was asked, where it is a domain in use, else `*`; and the path of a visit to no link (its `link` is `/`).
ALTER TABLE clicks ADD COLUMN IF NOT EXISTS domain LowCardinality(String) DEFAULT '*' AFTER campaign;
ALTER TABLE clicks ADD COLUMN IF NOT EXISTS path String DEFAULT '' CODEC(ZSTD(1)) AFTER link;
