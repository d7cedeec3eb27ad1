//! Whether the rollups say what is stored; where they do not, they are computed anew.
//!
//! Changes nothing but lines of rollups, and believes nothing: what was mended is compared again. What has expired is
//! left out by the store. The operator side calls in here. Bound: one stretch of minutes a call, which the caller limits.

use std::collections::BTreeSet;
use std::ops::Range;

use super::store::{Difference, Store, StoreError};

/// What a comparison found, and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In the order of time.
    pub found: Vec<Difference>,
    /// How many differ now.
    pub left: usize,
}

/// Compares these minutes (whole minutes since 1970), and mends what differs when it is told to. Clicks that come in
/// meanwhile may differ until their own rolling up: the verdict is about minutes that are over.
///
/// # Errors
/// The store's; what was mended until then stays mended.
pub async fn verify(store: &dyn Store, minutes: Range<u64>, mend: bool) -> Result<Verdict, StoreError> {
    let found = store.compare(minutes.clone()).await?;
    if found.is_empty() || !mend {
        return Ok(Verdict { left: found.len(), found });
    }
    let wrong: BTreeSet<u64> = found.iter().map(|difference| difference.minute).collect();
    store.roll_up(&Vec::from_iter(wrong)).await?;
    let left = store.compare(minutes).await?.len();
    Ok(Verdict { found, left })
}
