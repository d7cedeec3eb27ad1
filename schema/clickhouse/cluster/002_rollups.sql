-- The rollups of ../ on a cluster: see 001_clicks.sql. All versions of a line must meet on one shard, and what is one line is
-- told by its group: the shard follows from the link.
CREATE TABLE IF NOT EXISTS rollup_1m_local ON CLUSTER '{cluster}'
(
    org      LowCardinality(String),
    campaign LowCardinality(String),
    minute   DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    link     String CODEC(ZSTD(1)),
    class    LowCardinality(String),
    dedup    LowCardinality(String),
    clicks   UInt64 CODEC(T64, ZSTD(1)),
    expires  DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    version  UInt64 CODEC(Delta, ZSTD(1)),

    INDEX minute_minmax minute TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rollup_1m', '{replica}', version)
PARTITION BY toYYYYMM(minute)
ORDER BY (org, campaign, minute, link, class, dedup)
TTL expires
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rollup_1m ON CLUSTER '{cluster}' AS rollup_1m_local
ENGINE = Distributed('{cluster}', currentDatabase(), rollup_1m_local, cityHash64(org, campaign, link));

CREATE TABLE IF NOT EXISTS rollup_1h_local ON CLUSTER '{cluster}'
(
    org      LowCardinality(String),
    campaign LowCardinality(String),
    hour     DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    link     String CODEC(ZSTD(1)),
    class    LowCardinality(String),
    dedup    LowCardinality(String),
    clicks   UInt64 CODEC(T64, ZSTD(1)),
    expires  DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    version  UInt64 CODEC(Delta, ZSTD(1)),

    INDEX hour_minmax hour TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rollup_1h', '{replica}', version)
PARTITION BY toYYYYMM(hour)
ORDER BY (org, campaign, hour, link, class, dedup)
TTL expires
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rollup_1h ON CLUSTER '{cluster}' AS rollup_1h_local
ENGINE = Distributed('{cluster}', currentDatabase(), rollup_1h_local, cityHash64(org, campaign, link));

CREATE TABLE IF NOT EXISTS rollup_1d_local ON CLUSTER '{cluster}'
(
    org      LowCardinality(String),
    campaign LowCardinality(String),
    day      DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    link     String CODEC(ZSTD(1)),
    class    LowCardinality(String),
    dedup    LowCardinality(String),
    clicks   UInt64 CODEC(T64, ZSTD(1)),
    expires  DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    version  UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rollup_1d', '{replica}', version)
PARTITION BY toYYYYMM(day)
ORDER BY (org, campaign, day, link, class, dedup)
TTL expires
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rollup_1d ON CLUSTER '{cluster}' AS rollup_1d_local
ENGINE = Distributed('{cluster}', currentDatabase(), rollup_1d_local, cityHash64(org, campaign, link));
