//! How many connections each address has open: exact while they live, in memory that is fixed at the start.
//!
//! Two rows of counters, each address with a place in both by a keyed hash; it has as many connections as the lower of its
//! two says. So nobody is counted lower than he is, and higher only who shares both places with others: with 20,000
//! connections and addresses at a cap of 5,000, one address in about 70 million. Shared by all edge threads, no lock.

use std::sync::atomic::{AtomicU32, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Addresses {
    rows: [Box<[AtomicU32]>; 2],
    most: u32,
}

/// An address has as many connections as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// The two places of an address; to be given back when the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted([usize; 2]);

impl Addresses {
    /// At most `most` connections for each address, of `connections_max` in all.
    #[must_use]
    pub fn new(most: u32, connections_max: usize) -> Self {
        let places = connections_max.next_power_of_two().max(1 << 10);
        let row = || (0..places).map(|_| AtomicU32::new(0)).collect();
        Self { rows: [row(), row()], most }
    }

    /// Counts one more connection of this source; `None` when it has as many as it may.
    #[must_use]
    pub fn open(&self, source: u64) -> Option<Counted> {
        let mask = self.rows[0].len() - 1;
        let counted = Counted([source as usize & mask, (source >> 32) as usize & mask]);
        let before = [0, 1].map(|row| self.rows[row][counted.0[row]].fetch_add(1, Ordering::Relaxed));
        if before[0].min(before[1]) < self.most {
            return Some(counted);
        }
        self.close(counted);
        None
    }

    /// One of its connections has closed.
    pub fn close(&self, counted: Counted) {
        for (row, place) in self.rows.iter().zip(counted.0) {
            row[place].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_connections_and_gets_another_one_when_one_closes() {
        let addresses = Addresses::new(3, 20_000);
        let open: Vec<_> = (0..3).map(|_| addresses.open(77).unwrap()).collect();
        assert_eq!(addresses.open(77), None);
        assert!(addresses.open(78).is_some(), "another one");
        addresses.close(open[0]);
        assert!(addresses.open(77).is_some());
        assert_eq!(addresses.open(77), None, "a refused one was not counted");
    }

    #[test]
    fn who_shares_one_of_two_places_is_not_refused() {
        let addresses = Addresses::new(1, 10);
        assert!(addresses.open(5 | (6 << 32)).is_some());
        assert!(addresses.open(5 | (7 << 32)).is_some());
        assert!(addresses.open(9 | (6 << 32)).is_some());
        assert_eq!(addresses.open(5 | (6 << 32)), None);
    }

    #[test]
    fn opened_and_closed_by_many_threads_the_count_is_back_at_zero() {
        let addresses = Addresses::new(1000, 1);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let addresses = &addresses;
                scope.spawn(move || {
                    for n in 0..5000 {
                        addresses.close(addresses.open(((n * 7 + thread) << 20) | (n % 13)).unwrap());
                    }
                });
            }
        });
        assert!(addresses.rows.iter().flatten().all(|place| place.load(Ordering::Relaxed) == 0));
    }
}
