//! Who checks keys: this process, or a Warden elsewhere; and `trellis warden`, which is one.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::folder;
use super::http::dialled;
use super::serve::{LAST_MOMENT, Signals};
use crate::backend::warden::client::WardenClient;
use crate::backend::warden::server;
use crate::catalog::{Keys, RemoteKeys, Warden};
use crate::clock::Clock;
use crate::config::{Config, WardenMode};
use crate::control::{self, State};
use crate::pipeline::breaker::Breaker;
use crate::telemetry::calls::Calls;
use crate::telemetry::log;
use crate::telemetry::metrics::{Guarded, Metrics};

/// How long a look at the Warden waits for the connection, and how often it looks.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(20);

/// Who checks the keys of requests, and the Warden elsewhere, if it is one.
type Chosen = (Arc<dyn Warden>, Option<Arc<WardenClient>>);

/// As configured; the tasks of a Warden elsewhere run on this runtime.
pub(super) fn choose(
    config: &Config,
    keys: &Arc<Keys>,
    clock: &Arc<dyn Clock>,
    (metrics, calls): (&Metrics, Arc<Calls>),
) -> anyhow::Result<Chosen> {
    if config.warden.mode == WardenMode::Embedded {
        return Ok((Arc::clone(keys) as _, None));
    }
    let (settings, policy) = (&config.warden.grpc, config.retry.warden);
    let shard = metrics.breaker(Guarded::Warden);
    let breaker = Arc::new(Breaker::new(Guarded::Warden.name(), policy, Arc::clone(clock), shard));
    let client = Arc::new(WardenClient::new(settings, policy, breaker, calls).map_err(anyhow::Error::msg)?);
    let asker = Arc::new(Arc::clone(&client));
    let (remote, asking, news) = RemoteKeys::new(settings.clone(), asker, Arc::clone(clock), metrics.recall());
    tokio::spawn(asking.run());
    tokio::spawn(Arc::clone(&client).listen(news));
    Ok((remote, Some(client)))
}

/// Where keys are kept, when that is elsewhere.
pub(super) fn elsewhere(config: &Config) -> Option<String> {
    (config.warden.mode == WardenMode::Grpc).then(|| config.warden.grpc.url.clone())
}

/// Whether the Warden answers; a connection that is being made is waited for.
pub(super) async fn ping(client: Option<&WardenClient>) -> Result<(), String> {
    let Some(client) = client else { return Ok(()) };
    for _ in 0..LOOKS {
        if client.ping().is_ok() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    client.ping()
}

/// Serves the keys of a data folder to other nodes until it is told to stop. Blocks.
///
/// # Errors
/// What keeps it from starting, or a listener that ended on its own.
pub fn serve_warden(config: Config) -> anyhow::Result<()> {
    log::init(config.log);
    anyhow::ensure!(
        config.warden.mode == WardenMode::Embedded,
        "`trellis warden` serves the keys of its own data folder, so warden.mode must be \"embedded\""
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run(config));
    runtime.shutdown_timeout(LAST_MOMENT);
    ended
}

async fn run(config: Config) -> anyhow::Result<()> {
    let folder = folder::open_folder(&config).await?;
    let mut signals = Signals::install()?;
    let (serve, data_dir) = (config.warden.serve.clone(), &config.data_dir);
    let token = match &serve.client_ca {
        // The certificate is enough.
        Some(_) => serve.token.clone(),
        None => folder::secret(&serve.token, &data_dir.join("warden.token"))?,
    };
    let listener = TcpListener::bind(serve.listen)
        .with_context(|| format!("warden.serve.listen: {} cannot be used", serve.listen))?;
    let control_listener = TcpListener::bind(config.control.listen)
        .with_context(|| format!("control.listen: {} cannot be used", config.control.listen))?;
    let (address, control_address) = (listener.local_addr()?, control_listener.local_addr()?);
    let (end_warden, warden_ended) = tokio::sync::oneshot::channel::<()>();
    let scheme = if serve.tls.is_some() { "https" } else { "http" };
    let (keys, served) = (Arc::clone(&folder.keys), folder.metrics.served());
    let stopped = async move { drop(warden_ended.await) };
    let mut warden = tokio::spawn(async move { server::serve(listener, keys, &serve, &token, served, stopped).await });
    let (end_control, control_ended) = tokio::sync::oneshot::channel::<()>();
    let router = folder.router.clone();
    let mut control = tokio::spawn(control::serve(control_listener, router, async move { drop(control_ended.await) }));
    folder.status.enter(State::Serving);
    folder.announce(control_address)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Trellis {} answers for the keys of {}.\n", crate::VERSION, data_dir.display())?;
    writeln!(out, "warden  {scheme}://{}", dialled(address))?;
    writeln!(out, "control http://{}\n", dialled(control_address))?;
    out.flush()?;
    drop(out);
    let lost = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            None
        }
        ended = &mut warden => Some(ended.map_err(anyhow::Error::from).and_then(|ended| ended)),
        ended = &mut control => Some(ended.map_err(anyhow::Error::from).and_then(|ended| Ok(ended?))),
    };
    if let Some(lost) = lost {
        return lost.and_then(|()| anyhow::bail!("a listener ended on its own"));
    }
    folder.status.enter(State::Draining);
    tokio::time::sleep(config.shutdown.drain_delay).await;
    let _ = end_warden.send(());
    let in_time = tokio::select! {
        ended = tokio::time::timeout(config.shutdown.drain_deadline, &mut warden) => ended.is_ok(),
        name = signals.next() => {
            tracing::warn!(signal = name, "stopping at once");
            false
        }
    };
    if !in_time {
        tracing::warn!("calls in flight are cut off");
    }
    folder.status.enter(State::Stopped);
    let _ = end_control.send(());
    let _ = tokio::time::timeout(LAST_MOMENT, &mut control).await;
    Ok(())
}
