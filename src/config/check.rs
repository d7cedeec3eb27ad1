//! Every key with its range: from layered values to a [`Config`]. What keys say of each other stands in `relations`.
//!
//! Never stops at the first mistake, never guesses: a value out of its range is refused, not bent. A key that failed
//! counts as its default until the end, when the problems are told instead; relations leave it out. What is planned
//! and not built is refused by name. The limits of the whole program are the ranges below.

use std::time::Duration;

use super::layers::Layers;
use super::retention::{self, Retention};
use super::units::{
    GIB, KIB, MIB, Secret, Value, boolean, clickhouse_url, folder, header_text, identifier, journal_sync, node_name,
    number, redis_url, size, text, time, token, word,
};
use super::{
    Batch, Caps, ClickHouse, Config, DeadLetter, Dedup, DedupBackend, Journal, Ledger, Log, LogFormat, LogLevel,
    Origin, Policy, Problems, Queue, Redis, Retry, Rollup, Shutdown, Store, StoreBackend,
};

/// What is taken from the machine where the settings leave it open.
pub(super) struct Machine {
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// Host name.
    pub(super) name: String,
}

impl Machine {
    /// Asks the system.
    pub(super) fn this() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cores, name: rustix::system::uname().nodename().to_string_lossy().into_owned() }
    }
}

/// Reads every key.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn check(layers: Layers, machine: &Machine) -> Result<Config, Problems> {
    let mut keys = Keys { layers, read: Vec::new() };
    let config = keys.config(machine);
    match Problems::of(keys.layers.problems) {
        Some(problems) => Err(problems),
        None => Ok(config),
    }
}

pub(super) struct Keys {
    pub(super) layers: Layers,
    /// For the test that every key is read, once.
    pub(super) read: Vec<String>,
}

impl Keys {
    /// The value of a key; the default's when it cannot be parsed, which is noted.
    pub(super) fn get<T>(&mut self, key: &str, parse: impl Fn(&Value) -> Result<T, String>) -> T {
        self.read.push(key.to_owned());
        let setting =
            self.layers.settings.get(key).expect("the key stands in the file that is built in: a test reads them all");
        let error = match parse(&setting.value) {
            Ok(value) => return value,
            Err(error) => error,
        };
        let (value, origin) = (setting.value.clone(), setting.origin.clone());
        let fallback = parse(&setting.default).expect("the default is in range: a test reads them all");
        self.layers.problem(key, Some(&value), origin, error);
        self.layers.bad.insert(key.to_owned());
        fallback
    }

    /// A relation between keys. It is told of the first key that was written by people, and not at all when one of the
    /// keys is wrong in itself.
    pub(super) fn relation(&mut self, keys: &[&str], holds: bool, message: impl FnOnce() -> String) {
        if holds || keys.iter().any(|key| self.layers.bad.contains(*key)) {
            return;
        }
        let written = |key: &&&str| self.layers.settings.get(**key).is_some_and(|s| s.origin != Origin::Default);
        let key = keys.iter().find(written).unwrap_or(&keys[0]);
        if let Some(setting) = self.layers.settings.get(*key) {
            let (value, origin) = (setting.value.clone(), setting.origin.clone());
            self.layers.problem(key, Some(&value), origin, message());
        }
    }

    fn config(&mut self, machine: &Machine) -> Config {
        // "postgres" is planned; until then there is nothing to choose.
        self.get("catalog.source", word(&[("sqlite", ())], &["postgres"]));
        let edge = self.edge(machine);
        let config = Config {
            data_dir: self.get("data_dir", text(folder)),
            node: self.node(machine),
            ingress: self.ingress(&edge),
            edge,
            control: self.control(),
            shutdown: Shutdown {
                drain_delay: self.get("shutdown.drain_delay", time(ms(0)..=minutes(10))),
                // With no time at all every stop would leave clicks to the next start.
                drain_deadline: self.get("shutdown.drain_deadline", time(ms(1)..=minutes(60))),
            },
            journal: Journal {
                sync: self.get("journal.sync", text(journal_sync)),
                // Above the largest group; offsets in a segment are u32.
                segment_bytes: self.get("journal.segment_bytes", size(MIB..=GIB)),
                max_bytes: self.get("journal.max_bytes", size(MIB..=1 << 50)),
                min_free_bytes: self.get("journal.min_free_bytes", size(0..=1 << 50)),
            },
            queue: Queue {
                groups_max: self.get("queue.groups_max", number(1..=1_000_000)),
                bytes_max: self.get("queue.bytes_max", size(4 * KIB..=GIB)),
            },
            dedup: self.dedup(),
            redis: self.redis(),
            batch: self.batch(),
            retry: self.retry(),
            store: self.store(),
            dead_letter: DeadLetter {
                // All of it is read at start; some twenty bytes a row are in memory.
                max_bytes: self.get("dead_letter.max_bytes", size(64 * KIB..=GIB)),
                keep: self.get("dead_letter.keep", time(minutes(1)..=hours(366 * 24))),
            },
            ledger: Ledger {
                // A line for each minute, in memory too.
                keep: self.get("ledger.keep", time(hours(1)..=hours(366 * 24))),
                check_every: self.get("ledger.check_every", time(ms(50)..=hours(1))),
            },
            rollup: Rollup {
                every: self.get("rollup.every", time(ms(10)..=minutes(10))),
                // A statement for each hour, two for each day that they lie in.
                minutes_max: self.get("rollup.minutes_max", number(1..=1440)),
            },
            catalog: self.catalog(),
            caps: Caps { counters_max: self.get("caps.counters_max", number(1..=100_000)) },
            geo: self.geo(),
            warden: self.warden(),
            audit: self.audit(),
            classify: self.classify(),
            data_centres: self.data_centres(),
            privacy: self.privacy(),
            limits: self.limits(),
            watch: self.watch(),
            probe: self.probe(),
            slo: self.slo(),
            log: self.log(),
        };
        self.relations(&config);
        config
    }

    fn node(&mut self, machine: &Machine) -> String {
        let node = self.get("node", text(|text| if text.is_empty() { Ok(String::new()) } else { node_name(text) }));
        if !node.is_empty() {
            return node;
        }
        node_name(&machine.name).unwrap_or_else(|error| {
            let message = format!("is empty, and the host name {:?} cannot stand in: it {error}", machine.name);
            self.relation(&["node"], false, || message);
            String::new()
        })
    }

    fn dedup(&mut self) -> Dedup {
        let backends = [("memory", DedupBackend::Memory), ("redis", DedupBackend::Redis)];
        Dedup {
            backend: self.get("dedup.backend", word(&backends, &[])),
            // Fingerprints are keyed by the UTC day: none is met again after 24 h.
            window: self.get("dedup.window", time(ms(1000)..=hours(24))),
            // A mark stays in Redis for window + lag_max.
            lag_max: self.get("dedup.lag_max", time(ms(1000)..=hours(7 * 24))),
            secret: self.get("dedup.secret", text(token)),
            // All of them are in memory.
            entries_max: self.get("dedup.entries_max", number(1..=10_000_000)),
            // Each holds 512 clicks.
            checks_in_flight_max: self.get("dedup.checks_in_flight_max", number(1..=256)),
        }
    }

    fn redis(&mut self) -> Redis {
        Redis {
            url: self.get("redis.url", text(redis_url)),
            // Redis takes 10,000 clients unless told otherwise.
            pool: self.get("redis.pool", number(1..=10_000)),
            // A worker's clicks wait for timeout x retry.dedup.tries at most.
            timeout: self.get("redis.timeout", time(ms(1)..=ms(10_000))),
            // An old one is found within 30 s, and none becomes an hour old.
            lifetime_max: self.get("redis.lifetime_max", time(ms(1000)..=minutes(59))),
        }
    }

    fn batch(&mut self) -> Batch {
        Batch {
            rows_max: self.get("batch.rows_max", number(1..=1_000_000)),
            age_max: self.get("batch.age_max", time(ms(1)..=minutes(10))),
            in_flight_max: self.get("batch.in_flight_max", number(1..=64)),
        }
    }

    fn retry(&mut self) -> Retry {
        Retry {
            insert: self.policy(["retry.insert.tries", "retry.insert.base", "retry.insert.max", "retry.insert.jitter"]),
            dedup: self.policy(["retry.dedup.tries", "retry.dedup.base", "retry.dedup.max", "retry.dedup.jitter"]),
            warden: self.policy(["retry.warden.tries", "retry.warden.base", "retry.warden.max", "retry.warden.jitter"]),
            email: self.policy(["retry.email.tries", "retry.email.base", "retry.email.max", "retry.email.jitter"]),
            webhook: self.policy([
                "retry.webhook.tries",
                "retry.webhook.base",
                "retry.webhook.max",
                "retry.webhook.jitter",
            ]),
            report: self.policy(["retry.report.tries", "retry.report.base", "retry.report.max", "retry.report.jitter"]),
        }
    }

    fn policy(&mut self, [tries, base, max, jitter]: [&'static str; 4]) -> Policy {
        Policy {
            tries: self.get(tries, number(1..=100)),
            // With no pause what is down would be asked without end.
            base: self.get(base, time(ms(1)..=hours(1))),
            max: self.get(max, time(ms(1)..=hours(1))),
            jitter: self.get(jitter, boolean),
        }
    }

    fn store(&mut self) -> Store {
        let backends = [("sqlite", StoreBackend::Sqlite), ("clickhouse", StoreBackend::ClickHouse)];
        Store {
            backend: self.get("store.backend", word(&backends, &[])),
            migrate: self.get("store.migrate", boolean),
            retention: Retention::new(
                self.get("store.retention", time(retention::RANGE)),
                self.get("store.retention_of", retention::retention_of),
            ),
            clickhouse: ClickHouse {
                url: self.get("store.clickhouse.url", text(clickhouse_url)),
                database: self.get("store.clickhouse.database", text(identifier)),
                user: self.get("store.clickhouse.user", text(header_text)),
                password: self.get("store.clickhouse.password", text(|text| header_text(text).map(Secret::new))),
                pool: self.get("store.clickhouse.pool", number(1..=10_000)),
                insert_timeout: self.get("store.clickhouse.insert_timeout", time(ms(1)..=minutes(60))),
                query_timeout: self.get("store.clickhouse.query_timeout", time(ms(1)..=minutes(60))),
            },
        }
    }

    fn log(&mut self) -> Log {
        let levels = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        Log {
            level: self.get("log.level", word(&levels, &[])),
            format: self.get("log.format", word(&[("text", LogFormat::Text), ("json", LogFormat::Json)], &[])),
        }
    }
}

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

pub(super) const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::config::edge::THREADS_FOUND_MAX;

    fn machine() -> Machine {
        Machine { cores: 4, name: "host-1".into() }
    }

    pub(in crate::config) fn check_text(text: &str) -> Result<Config, Problems> {
        check(Layers::new(&Sources::default(), text)?, &machine())
    }

    /// The problems of a file, without its name.
    pub(in crate::config) fn problems(text: &str) -> Vec<String> {
        let problems = check_text(text).unwrap_err();
        problems.as_slice().iter().map(|problem| problem.to_string().replacen("config:", "", 1)).collect()
    }

    #[test]
    fn every_default_is_read_once_and_holds_on_any_machine() {
        for cores in [1, 4, 1000] {
            let mut keys = Keys { layers: Layers::new(&Sources::default(), "").unwrap(), read: Vec::new() };
            let config = keys.config(&Machine { cores, ..machine() });
            assert_eq!(Problems::of(keys.layers.problems), None);
            keys.read.sort_unstable();
            assert_eq!(
                keys.read,
                keys.layers.settings.keys().cloned().collect::<Vec<_>>(),
                "read by check, and in default.toml"
            );
            assert_eq!((config.edge.threads, &*config.node), (cores.min(THREADS_FOUND_MAX), "host-1"));
        }
    }

    #[test]
    fn values_that_are_planned_but_not_built_are_refused_by_name() {
        for (section, key, value) in [
            ("catalog", "source", "postgres"),
            ("store.clickhouse", "url", "https://store:8443"),
            ("redis", "url", "rediss://me:hunter2@host"),
        ] {
            let told = problems(&format!("[{section}]\n{key} = {value:?}"));
            assert!(told.len() == 1 && told[0].contains("not built yet; use"), "{told:?}");
            assert!(told[0].starts_with(&format!("2: {section}.{key} = ")) && !told[0].contains("hunter2"), "{told:?}");
        }
    }

    #[test]
    fn values_outside_their_range_are_refused_with_the_range() {
        for (section, setting, message) in [
            ("catalog", "releases_max = 0", "must be 1 to 1000000"),
            ("catalog", "changes_max = 0", "must be 1 to 100000000"),
            ("catalog", "revalidate_after = \"16m\"", "must be 100ms to 15m"),
            ("edge", "uri_bytes_max = \"65KiB\"", "must be 64B to 64KiB"),
            ("edge", "threads = 1025", "must be 0 to 1024"),
            ("edge", "threads = \"4\"", "must be a whole number, 0 to 1024, without quotes"),
            ("edge", "idle_timeout = 30", "must be text in quotes"),
            (
                "edge",
                "public_hosts = [\"go.example:80\"]",
                "\"go.example:80\" is not a host name alone, such as go.example",
            ),
            ("edge", "trusted_proxies = [\"ten/8\"]", "`ten/8` is not a network such as 10.0.0.0/8"),
            ("control", "token = \"short\"", "must be 16 to 256 ASCII characters without spaces, or empty"),
            ("edge", "sticky_cookie_max_age = \"401d\"", "must be 1m to 400d"),
            ("edge", "sample_every = 1000001", "must be 0 to 1000000"),
            ("shutdown", "drain_deadline = \"0s\"", "must be 1ms to 1h"),
            ("journal", "sync = \"interval:11s\"", "the interval must be 1ms to 10s"),
            ("dedup", "window = \"25h\"", "must be 1s to 1d"),
            ("warden", "keys_max = 0", "must be 1 to 100000"),
            ("warden", "pepper = \"short\"", "must be 16 to 256 ASCII characters without spaces, or empty"),
            ("store", "migrate = \"yes\"", "must be true or false, without quotes"),
            ("store", "retention_of = [\"acme=1\"]", "\"acme=1\": the time "),
            ("store", "backend = \"mysql\"", "must be \"sqlite\" or \"clickhouse\""),
            ("store.clickhouse", "url = \"http://me:pw@store\"", "holds a user or password"),
            ("store.clickhouse", "database = \"a-b\"", "must be 1 to 64 letters, digits or _"),
        ] {
            let told = problems(&format!("[{section}]\n{setting}"));
            assert!(told.len() == 1 && told[0].contains(&format!(": {message}")), "{setting}: {told:?}");
        }
    }

    #[test]
    fn every_kind_of_work_has_its_policy() {
        let retry = check_text("").unwrap().retry;
        let of = |policy: Policy| (policy.tries, policy.base.as_millis(), policy.max.as_secs(), policy.jitter);
        assert_eq!(of(retry.insert), (5, 100, 30, true));
        assert_eq!(of(retry.dedup), (5, 10, 1, true));
        assert_eq!(of(retry.warden), (5, 50, 1, true));
        // The first try is not a retry.
        assert_eq!(of(retry.email), (1 + 3, 1_000, 600, true));
        assert_eq!(of(retry.webhook), (1 + 5, 1_000, 1_800, true));
        assert_eq!(of(retry.report), (1 + 2, 300_000, 300, false), "a fixed delay");
    }

    #[test]
    fn what_is_checked_is_in_its_plain_form() {
        let config = check_text(
            "node = \"edge-1\"\nedge.public_hosts = [\"Go.Example.\", \"bücher.example\"]\n\
             edge.listen = \"[::]:0\"\nstore.clickhouse.url = \"HTTP://Store:8123/\"",
        );
        let config = config.unwrap();
        assert_eq!(config.edge.public_hosts, ["go.example", "xn--bcher-kva.example"]);
        assert_eq!((&*config.node, &*config.store.clickhouse.url), ("edge-1", "http://store:8123"));
        let bad = Machine { name: "two words".into(), ..machine() };
        let told = check(Layers::new(&Sources::default(), "").unwrap(), &bad).unwrap_err().to_string();
        assert!(told.starts_with("default: node = \"\": is empty, and the host name \"two words\" cannot"), "{told}");
    }
}
