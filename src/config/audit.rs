//! `[audit]`: who wrote what to the operator side, and for how long it is known.

use std::time::Duration;

use super::check::Keys;
use super::units::{MIB, number, size, time};

/// `[audit]`
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    /// From one write of gathered entries to the next.
    pub flush_every: Duration,
    /// Entries that are written at once.
    pub flush_entries: usize,
    /// An entry is kept for this long.
    pub retention: Duration,
    /// Entries kept.
    pub entries_max: u64,
    /// Bytes of all entries that are kept.
    pub bytes_max: u64,
    /// `control.idempotency_max`: requests with an `Idempotency-Key` that are remembered.
    pub idempotency_max: usize,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Keys {
    pub(super) fn audit(&mut self) -> Audit {
        Audit {
            // A request to write waits for it.
            flush_every: self.get("audit.flush_every", time(Duration::from_millis(1)..=Duration::from_secs(1))),
            flush_entries: self.get("audit.flush_entries", number(1..=1000)),
            retention: self.get("audit.retention", time(DAY..=DAY * 36_500)),
            entries_max: self.get("audit.entries_max", number(1000..=100_000_000)),
            bytes_max: self.get("audit.bytes_max", size(MIB..=1 << 40)),
            // More than may be in flight.
            idempotency_max: self.get("control.idempotency_max", number(1000..=1_000_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;

    #[test]
    fn what_is_kept_has_bounds() {
        for (setting, range) in [
            ("audit.flush_every = \"2s\"", "1ms to 1s"),
            ("audit.flush_entries = 0", "1 to 1000"),
            ("audit.retention = \"1h\"", "1d to 36500d"),
            ("audit.bytes_max = \"1KiB\"", "1MiB to 1024GiB"),
            ("control.idempotency_max = 1", "1000 to 1000000"),
        ] {
            let told = problems(setting);
            assert!(told.len() == 1 && told[0].contains(&format!(": must be {range}")), "{setting}: {told:?}");
        }
    }
}
