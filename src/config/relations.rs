//! What keys say of each other: limits that only hold together, such as the memory of all queues.
//!
//! Never judges a key by itself; that is `check`, which calls in here at its end. A relation is told at the key that
//! people wrote, and left out when one of its keys is wrong in itself.

use super::check::Keys;
use super::units::{GIB, meet, show_size, show_time};
use super::{Config, Retry, allocated_bytes};

/// Bytes of all queues together: the program promises to stay below 1 GB.
const QUEUES_BYTES_MAX: u64 = GIB;
/// Clicks of all open batches together: they are in memory.
const ROWS_MAX: u64 = 4_000_000;

impl Keys {
    pub(super) fn relations(&mut self, config: &Config) {
        let Config { edge, control, queue, batch, .. } = config;
        let (uri, head) = (show_size(edge.uri_bytes_max as u64), show_size(edge.head_bytes_max as u64));
        self.relation(&["edge.head_bytes_max", "edge.uri_bytes_max"], edge.uri_bytes_max < edge.head_bytes_max, || {
            format!("edge.head_bytes_max ({head}) must be more than edge.uri_bytes_max ({uri}), which it holds")
        });
        self.relation(&["edge.listen", "control.listen"], !meet(edge.listen, control.listen), || {
            format!("edge.listen ({}) and control.listen ({}) need different ports", edge.listen, control.listen)
        });
        self.policy_relations(&config.retry);
        self.limits_relations(config);
        self.warden_relations(config);
        let finds_systems = config.classify.rules().data_centres.is_empty() || config.geo.asn.is_some();
        self.relation(&["classify.rules", "geo.asn"], finds_systems, || {
            "the file has data_centres.asn, and geo.asn names no file that says which system an address is of".into()
        });
        let (letters, ledger) = (config.dead_letter.keep, config.ledger.keep);
        self.relation(&["dead_letter.keep", "ledger.keep"], letters >= ledger, || {
            let (letters, ledger) = (show_time(letters), show_time(ledger));
            format!(
                "dead_letter.keep ({letters}) must be at least ledger.keep ({ledger}): a dead letter says what became of \
                 its rows"
            )
        });
        let threads = edge.threads;
        let bytes = (threads as u64).saturating_mul(queue.bytes_max as u64);
        self.relation(&["queue.bytes_max", "edge.threads"], bytes <= QUEUES_BYTES_MAX, || {
            let (each, most) = (show_size(queue.bytes_max as u64), show_size(QUEUES_BYTES_MAX));
            format!("queue.bytes_max ({each}) x edge.threads ({threads}) must be at most {most} of memory")
        });
        let files = 3 * threads as u64;
        let least = files.saturating_mul(allocated_bytes(config.journal.segment_bytes));
        self.relation(
            &["journal.max_bytes", "journal.segment_bytes", "edge.threads"],
            least <= config.journal.max_bytes,
            || {
                let (max, least) = (show_size(config.journal.max_bytes), show_size(least));
                format!(
                    "journal.max_bytes ({max}) must be at least {least}: three files for each of edge.threads ({threads})"
                )
            },
        );
        let rows = (threads as u64).saturating_mul(batch.rows_max as u64).saturating_mul(batch.in_flight_max as u64);
        self.relation(&["batch.rows_max", "batch.in_flight_max", "edge.threads"], rows <= ROWS_MAX, || {
            format!(
                "batch.rows_max ({}) x batch.in_flight_max ({}) x edge.threads ({threads}) must be at most {ROWS_MAX} \
                 clicks in memory",
                batch.rows_max, batch.in_flight_max
            )
        });
    }

    fn policy_relations(&mut self, retry: &Retry) {
        for (name, policy) in [
            ("insert", retry.insert),
            ("dedup", retry.dedup),
            ("warden", retry.warden),
            ("email", retry.email),
            ("webhook", retry.webhook),
            ("report", retry.report),
        ] {
            let (base_key, max_key) = (format!("retry.{name}.base"), format!("retry.{name}.max"));
            self.relation(&[base_key.as_str(), max_key.as_str()], policy.base <= policy.max, || {
                let (base, max) = (show_time(policy.base), show_time(policy.max));
                format!("{base_key} ({base}) must be at most {max_key} ({max})")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;

    #[test]
    fn relations_between_keys_are_told_at_the_key_that_was_written() {
        let told = problems(
            "edge.uri_bytes_max = \"16KiB\"\ncontrol.listen = \"127.0.0.1:8080\"\nretry.insert.base = \"31s\"\n\
             queue.bytes_max = \"300MiB\"\nbatch.rows_max = 300000\n",
        );
        let starts = [
            "1: edge.uri_bytes_max = \"16KiB\": edge.head_bytes_max (16KiB) must be more than",
            "2: control.listen = \"127.0.0.1:8080\": edge.listen (0.0.0.0:8080) and control.listen",
            "3: retry.insert.base = \"31s\": retry.insert.base (31s) must be at most retry.insert.max (30s)",
            "4: queue.bytes_max = \"300MiB\": queue.bytes_max (300MiB) x edge.threads (4) must be at most 1GiB",
            "5: batch.rows_max = 300000: batch.rows_max (300000) x batch.in_flight_max (4) x edge.threads (4)",
        ];
        assert!(told.len() == 5 && told.iter().zip(starts).all(|(told, start)| told.starts_with(start)), "{told:#?}");
        let one = problems("edge.uri_bytes_max = \"16KiB\"\nedge.head_bytes_max = \"1KiB\"");
        assert_eq!(one, ["2: edge.head_bytes_max = \"1KiB\": must be 8KiB to 1MiB"], "no relation with a wrong value");
    }
}
