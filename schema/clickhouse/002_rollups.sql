-- Clicks counted by minute, hour and day. Recomputed from `clicks`, never added to: a line says how many clicks its group
-- had when it was computed last, and the newest version of a line wins. So counting again mends whatever was wrong, and a
-- row that was sent twice is counted once. Ask with FINAL. A group that is empty by now has a line with zero clicks.
--
-- `clicks` is the truth; hours and days are made from minutes. By country or agent is asked of `clicks`: here it would
-- make as many lines as there are clicks. A line expires with the last of its clicks.
CREATE TABLE IF NOT EXISTS rollup_1m
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
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(minute)
ORDER BY (org, campaign, minute, link, class, dedup)
TTL expires
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rollup_1h
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
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(hour)
ORDER BY (org, campaign, hour, link, class, dedup)
TTL expires
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rollup_1d
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
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(day)
ORDER BY (org, campaign, day, link, class, dedup)
TTL expires
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1;
