//! What Redis says of itself: the answer to `INFO`, read line by line.
//!
//! Pure. Redis says other things from version to version: what is not there, or is no number, is told for its own figure
//! alone.

use redis::{RedisResult, Value};

use crate::telemetry::figures::{Figure, Reading};

/// What is asked for here.
const FIGURES: [Figure; 11] = [
    Figure::RedisMemory,
    Figure::RedisMemoryMax,
    Figure::RedisFragmentation,
    Figure::RedisCpu,
    Figure::RedisEvicted,
    Figure::RedisExpired,
    Figure::RedisHits,
    Figure::RedisMisses,
    Figure::RedisClients,
    Figure::RedisUptime,
    Figure::RedisLag,
];

/// Of the answers to a pipeline of one `INFO`; without one, why there are no figures.
pub(super) fn of(answers: Result<Vec<RedisResult<Value>>, String>) -> Vec<Reading> {
    let info = answers.and_then(|answers| {
        let answer = answers.into_iter().next().ok_or("Redis answered nothing")?;
        answer.and_then(|answer| Ok(redis::from_redis_value::<String>(answer)?)).map_err(|error| error.to_string())
    });
    match info {
        Ok(info) => read(&info),
        Err(why) => FIGURES.map(|figure| (figure, Err(why.clone()))).into(),
    }
}

/// Reads the answer.
///
/// ```text
/// # Memory
/// used_memory:1048576
/// slave0:ip=10.0.0.7,port=6379,state=online,offset=84,lag=1
/// ```
fn read(info: &str) -> Vec<Reading> {
    FIGURES.into_iter().map(|figure| (figure, value(info, figure))).collect()
}

fn value(info: &str, figure: Figure) -> Result<f64, String> {
    match figure {
        Figure::RedisMemory => number(info, "used_memory"),
        // 0: no limit of its own.
        Figure::RedisMemoryMax => match number(info, "maxmemory")? {
            0.0 => number(info, "total_system_memory"),
            max => Ok(max),
        },
        Figure::RedisFragmentation => number(info, "mem_fragmentation_ratio"),
        Figure::RedisCpu => Ok(number(info, "used_cpu_sys")? + number(info, "used_cpu_user")?),
        Figure::RedisEvicted => number(info, "evicted_keys"),
        Figure::RedisExpired => number(info, "expired_keys"),
        Figure::RedisHits => number(info, "keyspace_hits"),
        Figure::RedisMisses => number(info, "keyspace_misses"),
        Figure::RedisClients => number(info, "connected_clients"),
        Figure::RedisUptime => number(info, "uptime_in_seconds"),
        Figure::RedisLag => lag(info),
        other => Err(format!("Redis does not know {}", other.name())),
    }
}

fn lines(info: &str) -> impl Iterator<Item = (&str, &str)> {
    info.lines().filter_map(|line| line.trim_end().split_once(':'))
}

fn number(info: &str, name: &str) -> Result<f64, String> {
    let (_, text) = lines(info).find(|(of, _)| *of == name).ok_or_else(|| format!("INFO does not say {name}"))?;
    text.parse().map_err(|_| format!("INFO says {name}:{text}"))
}

/// Of its replicas the worst; of a replica the time since it heard of its master.
fn lag(info: &str) -> Result<f64, String> {
    if lines(info).any(|line| line == ("role", "slave")) {
        return match lines(info).any(|line| line == ("master_link_status", "up")) {
            true => number(info, "master_last_io_seconds_ago"),
            false => Err("it is a replica and does not reach its master".into()),
        };
    }
    let is_replica =
        |name: &str| name.strip_prefix("slave").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let lag_of = |text: &str| text.split(',').find_map(|part| part.strip_prefix("lag=")?.parse::<f64>().ok());
    let lags = lines(info).filter(|(name, _)| is_replica(name)).filter_map(|(_, text)| lag_of(text));
    lags.reduce(f64::max).ok_or_else(|| "it has no replica, and is none".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:86400\r\n\r\n# Clients\r\nconnected_clients:51\r\n\
        # Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\ntotal_system_memory:8000000000\r\nmaxmemory:0\r\n\
        mem_fragmentation_ratio:1.37\r\n# Stats\r\nexpired_keys:12\r\nevicted_keys:3\r\nkeyspace_hits:40\r\nkeyspace_misses:60\r\n\
        # Replication\r\nrole:master\r\nconnected_slaves:0\r\n# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.25\r\n\
        used_cpu_sys_children:9.0\r\n";

    #[test]
    fn every_figure_is_read() {
        let expected = [
            (Figure::RedisMemory, Ok(1_048_576.0)),
            (Figure::RedisMemoryMax, Ok(8e9)),
            (Figure::RedisFragmentation, Ok(1.37)),
            (Figure::RedisCpu, Ok(3.75)),
            (Figure::RedisEvicted, Ok(3.0)),
            (Figure::RedisExpired, Ok(12.0)),
            (Figure::RedisHits, Ok(40.0)),
            (Figure::RedisMisses, Ok(60.0)),
            (Figure::RedisClients, Ok(51.0)),
            (Figure::RedisUptime, Ok(86_400.0)),
            (Figure::RedisLag, Err("it has no replica, and is none".to_owned())),
        ];
        assert_eq!(read(INFO), expected);
        assert_eq!(value(&INFO.replace("maxmemory:0", "maxmemory:5000"), Figure::RedisMemoryMax), Ok(5000.0));
    }

    #[test]
    fn the_replica_that_is_furthest_behind_counts() {
        let replicas = "role:master\r\nslave0:ip=10.0.0.7,port=6379,state=online,offset=84,lag=1\r\n\
                        slave1:ip=10.0.0.8,port=6379,state=online,offset=80,lag=7\r\nslave_repl_offset:99\r\n";
        assert_eq!(lag(replicas), Ok(7.0));
        let replica = "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:2\r\n";
        assert_eq!(lag(replica), Ok(2.0));
        assert!(lag(&replica.replace(":up", ":down")).unwrap_err().contains("does not reach"));
    }

    #[test]
    fn what_is_missing_or_no_number_is_told_for_its_own_figure_alone() {
        let info = "used_memory:lots\r\nevicted_keys:4\r\nnonsense";
        assert_eq!(value(info, Figure::RedisMemory), Err("INFO says used_memory:lots".into()));
        assert_eq!(value(info, Figure::RedisHits), Err("INFO does not say keyspace_hits".into()));
        assert_eq!(value(info, Figure::RedisEvicted), Ok(4.0));
        assert_eq!(read("").len(), FIGURES.len());
    }
}
