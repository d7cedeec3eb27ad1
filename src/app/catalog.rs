//! Opens the catalog, and keeps comparing it with its source. Bounds: those of `[catalog]`.

use std::sync::Arc;
use std::time::Duration;

use super::caps;
use super::parts::Backends;
use crate::backend::sqlite_catalog::SqliteCatalog;
use crate::catalog::releases::{Keep, Releases};
use crate::catalog::{Campaigns, Catalog, Domains, Links, Revalidation};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::AuditLog;
use crate::handoff::Orphan;
use crate::telemetry::calls::Calls;
use crate::telemetry::metrics::Metrics;

/// Loads all of it, and where it is kept. `cores`: edge threads that count caps; `orphans`: journals whose clicks they know
/// of.
pub(super) async fn open(
    backends: &Backends,
    config: &Config,
    (cores, orphans): (usize, &[Orphan]),
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Catalog, Arc<SqliteCatalog>)> {
    let (store, own, max) = (backends.catalog()?, config.edge.own_hosts(None), config.catalog);
    let keep = Keep { releases_max: max.releases_max, changes_max: max.changes_max };
    let clock = || Arc::clone(clock);
    let caps = caps::open(config, &*store, orphans, cores, &clock()).await?;
    let releases = Releases::open(Arc::clone(&store) as _, keep, clock()).await?;
    let kept = || Arc::clone(&releases);
    let domains = Domains::open(Arc::clone(&store) as _, kept(), own, max.domains_max, clock()).await?;
    let domains = Arc::new(domains);
    let links = Links::open(Arc::clone(&store) as _, kept(), Arc::clone(&domains), max.links_max, clock()).await?;
    let links = links.with_caps(Arc::clone(&caps))?;
    let campaigns =
        Campaigns::open(Arc::clone(&store) as _, kept(), Arc::clone(&domains), max.campaigns_max, clock()).await?;
    let campaigns = campaigns.with_caps(Arc::clone(&caps))?;
    Ok((Catalog { links: Arc::new(links), campaigns: Arc::new(campaigns), domains, caps, releases }, store))
}

/// Metrics that count what is in it and how long calls take, made for this many edge threads.
pub(super) fn metrics(
    (catalog, calls): (&Catalog, Arc<Calls>),
    threads: usize,
    queue_capacity: usize,
    dependencies: &[&'static str],
) -> anyhow::Result<Metrics> {
    let counted = Arc::clone(&catalog.links);
    let metrics = Metrics::new(threads, queue_capacity, dependencies, move || counted.len())?;
    metrics.show_catalog(catalog.releases.figures());
    metrics.show_calls(calls);
    Ok(metrics)
}

/// The audit log, kept beside the catalog.
pub(super) fn audit(
    store: Arc<SqliteCatalog>,
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Arc<AuditLog> {
    AuditLog::start(store, config.audit, Arc::clone(clock), metrics.api())
}

/// Compares it with its source, for ever.
pub(super) async fn revalidate(catalog: Catalog, after: Duration, clock: Arc<dyn Clock>) {
    let mut revalidation = Revalidation::new(catalog, after, clock);
    let mut pause = revalidation.pause();
    loop {
        tokio::time::sleep(pause).await;
        pause = revalidation.step().await;
    }
}
