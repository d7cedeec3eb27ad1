//! What samples of a window amount to: quantiles, shares, budgets.

use std::time::Duration;

use super::sample::{Events, Observed};

/// The time over which budgets are kept.
const BUDGET: Duration = Duration::from_secs(30 * 86_400);

/// A quantile of observations in buckets with these upper bounds, linear within its bucket; of what lies beyond the last
/// bound that bound, which is then the least that it can be. `None` of nothing.
pub(super) fn quantile<'s>(
    samples: impl Iterator<Item = &'s Observed>,
    bounds: &[f64],
    quantile: f64,
) -> Option<(f64, u64)> {
    let mut counts = vec![0_u64; bounds.len() + 1];
    for (place, count) in samples.flat_map(|sample| &sample.0) {
        counts[usize::from(*place).min(bounds.len())] += count;
    }
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = quantile * total as f64;
    let mut below = 0.0;
    for (at, count) in counts.iter().enumerate() {
        let up_to = below + *count as f64;
        // 0.007 x 1000 is a little more than 7.
        if *count > 0 && up_to >= rank * (1.0 - 1e-12) {
            let lower = if at == 0 { 0.0 } else { bounds[at - 1] };
            let share = ((rank - below) / *count as f64).min(1.0);
            let value = bounds.get(at).map_or(lower, |upper| lower + (upper - lower) * share);
            return Some((value, total));
        }
        below = up_to;
    }
    // The last one, by rounding.
    bounds.last().map(|bound| (*bound, total))
}

/// Events of a window, together.
pub(super) fn events<'s>(samples: impl Iterator<Item = &'s Events>) -> Events {
    samples.fold(Events::default(), |sum, one| Events { bad: sum.bad + one.bad, all: sum.all + one.all })
}

/// How fast a budget is burnt: 1 uses it up in just its time. Without events none of it is.
pub(super) fn burn_rate(events: Events, target: f64) -> f64 {
    if events.all > 0.0 { events.bad / events.all / target } else { 0.0 }
}

/// The budget of 30 days in minutes, and what of it is left: less than nothing when more was burnt than there was.
pub(super) fn budget_minutes(target: f64, burn_rate_of_30_days: f64) -> (f64, f64) {
    let minutes = BUDGET.as_secs_f64() / 60.0 * target;
    (minutes, minutes * (1.0 - burn_rate_of_30_days))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_budget_of_three_nines_has_43_2_minutes() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        let (minutes, left) = budget_minutes(0.001, 0.0);
        near(minutes, 43.2);
        near(left, 43.2);
        near(budget_minutes(0.0001, 0.0).0, 4.32);
        // A quarter of what may fail has failed.
        let burnt = burn_rate(Events { bad: 25.0, all: 100_000.0 }, 0.001);
        near(burnt, 0.25);
        near(budget_minutes(0.001, burnt).1, 32.4);
        // Of the budget nothing is left, and more is gone: 14.4 times as much.
        near(burn_rate(Events { bad: 144.0, all: 10_000.0 }, 0.001), 14.4);
        near(budget_minutes(0.001, 14.4).1, -578.88);
        near(burn_rate(Events::default(), 0.001), 0.0);
    }

    #[test]
    fn quantiles_are_linear_within_their_bucket() {
        let bounds = [0.01, 0.02, 0.04];
        let of = |counts: &[(u16, u64)], q| quantile([Observed(counts.to_vec())].iter(), &bounds, q);
        for (counts, q, expected) in [
            (&[(1, 10)][..], 0.5, 0.015),
            (&[(0, 50), (2, 50)], 0.5, 0.01),
            (&[(0, 50), (2, 50)], 0.75, 0.03),
            (&[(0, 50), (2, 50)], 1.0, 0.04),
        ] {
            assert!((of(counts, q).unwrap().0 - expected).abs() < 1e-12, "{counts:?} {q}");
        }
        assert_eq!(of(&[(0, 1), (3, 1)], 1.0), Some((0.04, 2)), "beyond the last bound");
        assert_eq!(of(&[], 0.5), None);
    }

    proptest! {
        /// Of any values, in any buckets, the quantile lies in the bucket of the value that has this place among the sorted
        /// ones; so it is on the same side of every bound.
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_value_that_it_stands_for(
            mut values in proptest::collection::vec(1_u64..100_000, 1..300),
            mut bounds in proptest::collection::btree_set(1_u64..90_000, 1..40),
            per_mille in 1_u64..=1000,
        ) {
            bounds.insert(99_999);
            let bounds: Vec<_> = bounds.into_iter().collect();
            let place = |value: u64| bounds.iter().position(|bound| value <= *bound).unwrap();
            let mut samples = Vec::new();
            for value in &values {
                samples.push(Observed(vec![(place(*value) as u16, 1)]));
            }
            values.sort_unstable();
            let rank = (per_mille * values.len() as u64).div_ceil(1000).max(1);
            let exact = values[rank as usize - 1];
            let upper: Vec<_> = bounds.iter().map(|bound| *bound as f64).collect();
            let (found, total) = quantile(samples.iter(), &upper, per_mille as f64 / 1000.0).unwrap();
            prop_assert_eq!(total as usize, values.len());
            let at = place(exact);
            let lower = if at == 0 { 0.0 } else { upper[at - 1] };
            prop_assert!(found > lower - 1e-9 && found <= upper[at] + 1e-9, "{} is not in {}..={}", found, lower, upper[at]);
        }
    }
}
