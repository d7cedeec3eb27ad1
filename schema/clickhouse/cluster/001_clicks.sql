-- The tables of ../ on a cluster: each shard keeps its part, replicated, in `clicks_local`, and `clicks` is all of them. A
-- test holds columns, order, months and retention to those of the single server. The engine parses these files; no test
-- of this project runs them on a cluster.
--
-- Apply them with clickhouse-client, in a database that each server has, and give Trellis `store.migrate = false`. The macros
-- {cluster}, {shard} and {replica} must be set on each server, and in the profile of Trellis' user:
--
--     distributed_foreground_insert = 1   an acknowledged insert is on the shards, not in a queue of the server that took it
--     insert_quorum = 'auto'              ... and on most replicas of each
--     select_sequential_consistency = 1   what is looked for before it is sent again is seen when it is there
--     insert_quorum_parallel = 0          ... which that setting asks for
--
-- A click that was sent twice must meet itself on one shard: the shard follows from its id. FINAL merges within a shard.
CREATE TABLE IF NOT EXISTS clicks_local ON CLUSTER '{cluster}'
(
    click_id          UUID,
    ts                DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    org               LowCardinality(String),
    campaign          LowCardinality(String),
    domain            LowCardinality(String) DEFAULT '*',
    link              String CODEC(ZSTD(1)),
    path              String DEFAULT '' CODEC(ZSTD(1)),
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
    region            LowCardinality(String),
    city              LowCardinality(String),
    asn               UInt32 CODEC(ZSTD(1)),
    device            LowCardinality(String),
    os                LowCardinality(String),
    browser           LowCardinality(String),
    language          LowCardinality(String),
    referrer          String CODEC(ZSTD(1)),
    ua                String CODEC(ZSTD(1)),
    ip                String CODEC(ZSTD(1)),
    privacy           LowCardinality(String) DEFAULT 'full',
    query             Map(String, String) CODEC(ZSTD(1)),
    route_version     UInt64,
    node              LowCardinality(String),
    batch_id          UUID CODEC(ZSTD(1)),
    expires           DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    ingested_at       DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(DoubleDelta, ZSTD(1)),

    INDEX ts_minmax ts TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/clicks', '{replica}', ingested_at)
PARTITION BY toYYYYMM(ts)
ORDER BY (org, campaign, toDate(ts), link, click_id)
TTL expires
SETTINGS
    -- A batch sent again under its token is recognised among the last 10,000 inserts of a shard.
    replicated_deduplication_window = 10000,
    -- An acknowledged insert is on the disk.
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS clicks ON CLUSTER '{cluster}' AS clicks_local
ENGINE = Distributed('{cluster}', currentDatabase(), clicks_local, sipHash64(click_id));
