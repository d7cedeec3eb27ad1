//! The buckets of histograms: where they end, and into which one a value falls.
//!
//! ```text
//! durations  8 buckets an octave, each at most 12.5 % wide, from 64 ns to 60 s; cut in two where a threshold lies inside:
//!    ..|-------|-------|--:----|-------|-------|..        `:` 50 ms, one of THRESHOLDS_NS
//! ```
//! So whatever an objective asks for is the end of a bucket, and the counts below it are exact. A value finds its bucket by
//! its leading zeros and one look into a table. Objectives read all buckets; the text of `/metrics` has those that end at a
//! threshold: what is left out there takes nothing from the counts, which are cumulative.

/// What the objectives, the alerts and the budgets of phases ask for, in nanoseconds: the durations of which `/metrics`
/// says how many took at most so long. At most one in a bucket of the octaves.
pub const THRESHOLDS_NS: [u64; 51] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    200_000,
    300_000,
    350_000,
    500_000,
    800_000,
    1_000_000,
    2_000_000,
    3_000_000,
    3_500_000,
    5_000_000,
    7_500_000,
    10_000_000,
    15_000_000,
    20_000_000,
    25_000_000,
    30_000_000,
    40_000_000,
    50_000_000,
    60_000_000,
    75_000_000,
    100_000_000,
    120_000_000,
    150_000_000,
    180_000_000,
    200_000_000,
    220_000_000,
    250_000_000,
    300_000_000,
    350_000_000,
    500_000_000,
    550_000_000,
    800_000_000,
    1_000_000_000,
    2_000_000_000,
    3_000_000_000,
    5_000_000_000,
    10_000_000_000,
    15_000_000_000,
    30_000_000_000,
    45_000_000_000,
    60_000_000_000,
];

const LAST_NS: u64 = THRESHOLDS_NS[THRESHOLDS_NS.len() - 1];
/// The first octave begins at 64 ns; what is shorter shares one bucket.
const FIRST_OCTAVE: u32 = 6;
/// Eight buckets an octave.
const PARTS_LOG2: u32 = 3;
/// Buckets before thresholds cut them; the last one holds [`LAST_NS`].
const WHOLE: usize = whole(LAST_NS) + 1;
/// Ends of buckets: of the whole ones, but for the last, and of the thresholds inside.
const ENDS: usize = WHOLE - 1 + inside();

/// Upper ends of the buckets for durations, nanoseconds.
static DURATIONS: [u64; ENDS] = ends();
/// For each whole bucket.
static CUTS: [Cut; WHOLE] = cuts();
/// Where the thresholds stand in [`DURATIONS`].
pub(super) static SHOWN: [usize; THRESHOLDS_NS.len()] = shown();

/// Upper bounds of buckets for numbers of rows.
const ROWS: &[u64] = &[1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];
/// Upper bounds of buckets for scores of 0 to 100.
const SCORES: &[u64] = &[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];

/// Which bucket a whole one begins with, and the threshold inside that ends it, if there is one.
#[derive(Clone, Copy)]
struct Cut {
    first: u16,
    at: u64,
}

/// What a histogram counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Nanoseconds; shown in seconds.
    #[default]
    Durations,
    /// Numbers of rows.
    Rows,
    /// 0 to 100.
    Scores,
}

impl Scale {
    /// Upper ends of its buckets, inclusive, ascending. What lies beyond the last one has a bucket too.
    #[must_use]
    pub fn bounds(self) -> &'static [u64] {
        match self {
            Self::Durations => &DURATIONS,
            Self::Rows => ROWS,
            Self::Scores => SCORES,
        }
    }

    /// So many of its bounds' unit are one of the unit that is shown.
    pub(super) const fn unit(self) -> f64 {
        match self {
            Self::Durations => 1e9,
            Self::Rows | Self::Scores => 1.0,
        }
    }

    /// The place of a value's bucket among the bounds; their number when it lies beyond the last.
    #[inline]
    pub(super) fn bucket(self, value: u64) -> usize {
        match self {
            Self::Durations => {
                // Beyond the last one, it is behind the cut that ends it.
                let Cut { first, at } = CUTS[whole(value).min(WHOLE - 1)];
                usize::from(first) + usize::from(value > at)
            }
            Self::Rows | Self::Scores => {
                let bounds = self.bounds();
                bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len())
            }
        }
    }
}

/// The whole bucket of a duration.
const fn whole(ns: u64) -> usize {
    // Ends belong to the bucket that they end.
    let below = ns.saturating_sub(1);
    if below < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = u64::BITS - 1 - below.leading_zeros();
    let part = (below >> (octave - PARTS_LOG2)) & ((1 << PARTS_LOG2) - 1);
    1 + (((octave - FIRST_OCTAVE) as usize) << PARTS_LOG2) + part as usize
}

/// Where a whole bucket ends.
const fn whole_end(place: usize) -> u64 {
    if place == 0 {
        return 1 << FIRST_OCTAVE;
    }
    let octave = FIRST_OCTAVE + ((place - 1) >> PARTS_LOG2) as u32;
    let part = (place - 1) as u64 & ((1 << PARTS_LOG2) - 1);
    ((1 << PARTS_LOG2) + part + 1) << (octave - PARTS_LOG2)
}

/// Thresholds that do not end a whole bucket.
const fn inside() -> usize {
    let (mut count, mut i) = (0, 0);
    while i < THRESHOLDS_NS.len() {
        count += (whole_end(whole(THRESHOLDS_NS[i])) != THRESHOLDS_NS[i]) as usize;
        i += 1;
    }
    count
}

const fn cuts() -> [Cut; WHOLE] {
    let mut cuts = [Cut { first: 0, at: u64::MAX }; WHOLE];
    let (mut place, mut next, mut threshold) = (0, 0, 0);
    while place < WHOLE {
        cuts[place].first = next;
        next += 1;
        if threshold < THRESHOLDS_NS.len() && whole(THRESHOLDS_NS[threshold]) == place {
            if THRESHOLDS_NS[threshold] != whole_end(place) {
                cuts[place].at = THRESHOLDS_NS[threshold];
                next += 1;
            }
            threshold += 1;
        }
        place += 1;
    }
    assert!(threshold == THRESHOLDS_NS.len(), "thresholds ascend, and no two are in one whole bucket");
    cuts
}

const fn ends() -> [u64; ENDS] {
    let cuts = cuts();
    let mut ends = [0; ENDS];
    let mut place = 0;
    while place < WHOLE {
        let mut next = cuts[place].first as usize;
        if cuts[place].at != u64::MAX {
            ends[next] = cuts[place].at;
            next += 1;
        }
        // The last one ends where the last threshold cuts it.
        if next < ENDS {
            ends[next] = whole_end(place);
        }
        place += 1;
    }
    ends
}

const fn shown() -> [usize; THRESHOLDS_NS.len()] {
    let ends = ends();
    let mut shown = [0; THRESHOLDS_NS.len()];
    let (mut at, mut i) = (0, 0);
    while i < THRESHOLDS_NS.len() {
        while ends[at] != THRESHOLDS_NS[i] {
            at += 1;
        }
        shown[i] = at;
        i += 1;
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_search(scale: Scale, value: u64) -> usize {
        scale.bounds().iter().position(|bound| value <= *bound).unwrap_or(scale.bounds().len())
    }

    /// Of any magnitude.
    fn value() -> impl Strategy<Value = u64> {
        (0..64_u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
    }

    proptest! {
        #[test]
        fn a_bucket_is_found_as_a_search_would_find_it(value in value()) {
            for scale in [Scale::Durations, Scale::Rows, Scale::Scores] {
                prop_assert_eq!(scale.bucket(value), by_search(scale, value));
            }
        }
    }

    #[test]
    fn at_each_bound_and_beside_it_a_bucket_is_found_as_a_search_would_find_it() {
        for scale in [Scale::Durations, Scale::Rows, Scale::Scores] {
            assert!(scale.bounds().is_sorted_by(|a, b| a < b));
            for value in scale.bounds().iter().flat_map(|bound| [bound.saturating_sub(1), *bound, bound + 1]) {
                assert_eq!(scale.bucket(value), by_search(scale, value), "{value}");
            }
            assert_eq!(scale.bucket(u64::MAX), scale.bounds().len());
        }
    }

    #[test]
    fn no_bucket_for_durations_is_wider_than_an_eighth_and_every_threshold_ends_one() {
        let bounds = Scale::Durations.bounds();
        for ends in bounds.windows(2) {
            assert!((ends[1] - ends[0]) * 8 <= ends[0], "{ends:?}");
        }
        assert_eq!((bounds[0], bounds.last()), (64, Some(&60_000_000_000)));
        assert_eq!(SHOWN.map(|place| bounds[place]), THRESHOLDS_NS);
    }
}
