-- One row a click. `click_id` is unique after FINAL: a row that was sent twice is merged away, the newest stays.
--
-- Order: the organisation first (its questions read its rows only), then campaign and day, as people ask. A month is a
-- partition, so a month can be dropped or backed up whole. No materialised view hangs on this table: it would count a
-- re-sent batch twice, for good.
CREATE TABLE IF NOT EXISTS clicks
(
    click_id          UUID,
    ts                DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    org               LowCardinality(String),
    campaign          LowCardinality(String),
    link              String CODEC(ZSTD(1)),
    rule              LowCardinality(String),
    variant           LowCardinality(String),
    destination       String CODEC(ZSTD(1)),
    status            UInt16,
    external_click_id String CODEC(ZSTD(1)),
    source            LowCardinality(String),
    class             LowCardinality(String),
    reasons           Array(LowCardinality(String)),
    dedup             LowCardinality(String),
    fraud_score       UInt8,
    country           LowCardinality(String),
    device            LowCardinality(String),
    os                LowCardinality(String),
    browser           LowCardinality(String),
    language          LowCardinality(String),
    referrer          String CODEC(ZSTD(1)),
    ua                String CODEC(ZSTD(1)),
    ip                String CODEC(ZSTD(1)),
    query             Map(String, String) CODEC(ZSTD(1)),
    route_version     UInt64,
    node              LowCardinality(String),
    batch_id          UUID CODEC(ZSTD(1)),
    expires           Date,
    ingested_at       DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(DoubleDelta, ZSTD(1)),

    INDEX ts_minmax ts TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYYYYMM(ts)
ORDER BY (org, campaign, toDate(ts), link, click_id)
TTL expires
SETTINGS
    -- A batch sent again under its token is recognised among the last 10,000 inserts.
    non_replicated_deduplication_window = 10000,
    -- An acknowledged insert is on the disk.
    fsync_after_insert = 1,
    fsync_part_directory = 1;
