//! The data folder: its lock, what a running node says of itself in it, and the secrets made at the first start.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::parts::Backends;
use super::workers::Facts;
use super::{books, catalog, letters, slo};
use crate::catalog::Keys;
use crate::click::kept::{AddressKey, Keeping};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, IpPrivacy, Secret, StoreBackend};
use crate::control::{self, ImportLimits};
use crate::handoff::{Journals, Orphan};
use crate::pipeline::dead_letter::Actor;
use crate::segment::{Disk, RealDisk};
use crate::telemetry::metrics::Metrics;

/// A command holds the folder for milliseconds: a node that starts meanwhile looks again for one second.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What a running node writes into `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningNode {
    /// Its process.
    pub pid: u32,
    /// Where its control side listens, as a URL.
    pub control: String,
    /// Where its edge listens, as a URL; empty for `trellis warden`, which has none.
    pub edge: String,
}

/// The exclusive use of a data folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
    node_file: PathBuf,
}

impl FolderLock {
    /// Says where this node listens.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn announce(&self, control: SocketAddr, edge: Option<SocketAddr>) -> anyhow::Result<()> {
        let node = RunningNode {
            pid: std::process::id(),
            control: format!("http://{control}"),
            edge: edge.map_or_else(String::new, |edge| format!("http://{edge}")),
        };
        // Renamed into place: nobody reads half of it.
        let next = self.node_file.with_extension("json.next");
        std::fs::write(&next, serde_json::to_vec_pretty(&node)?)?;
        std::fs::rename(&next, &self.node_file)?;
        Ok(())
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.node_file);
    }
}

/// Makes the folder, readable by its owner alone.
pub(super) fn create(data_dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("data_dir `{}` cannot be made", data_dir.display()))
}

/// Locks the folder for this process, waiting for a command that is just done with it.
pub(super) async fn lock_patiently(data_dir: &Path) -> anyhow::Result<FolderLock> {
    for _ in 0..LOCK_TRIES {
        if let Ok(lock) = lock(data_dir) {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    lock(data_dir)
}

/// Where a restore gathers what it then moves to its place.
pub(super) fn unfinished_restore(data_dir: &Path) -> PathBuf {
    data_dir.join("restore.partial")
}

/// Locks the folder for this process.
pub(super) fn lock(data_dir: &Path) -> anyhow::Result<FolderLock> {
    create(data_dir)?;
    anyhow::ensure!(
        !unfinished_restore(data_dir).exists(),
        "a restore into `{}` was broken off, or is at work; once it has ended, empty the folder and restore again",
        data_dir.display()
    );
    let path = data_dir.join("node.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("`{}` cannot be opened", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            let lock = FolderLock { _file: file, node_file: data_dir.join("node.json") };
            // A killed node leaves it behind; whoever reads it would knock at a door that is gone.
            let _ = std::fs::remove_file(&lock.node_file);
            Ok(lock)
        }
        Err(std::fs::TryLockError::WouldBlock) => anyhow::bail!(
            "`{}` is in use by another process ({}); stop it, or give this one another --data-dir",
            data_dir.display(),
            announced(data_dir).map_or_else(|| "it is starting".into(), |node| format!("pid {}", node.pid)),
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).context(format!("`{}` cannot be locked", path.display()))
        }
    }
}

fn announced(data_dir: &Path) -> Option<RunningNode> {
    serde_json::from_slice(&std::fs::read(data_dir.join("node.json")).ok()?).ok()
}

/// The node that uses this folder now; `None` when nobody holds its lock.
///
/// # Errors
/// When somebody holds the lock and does not say where it listens: it is just starting, or a command has the folder open.
pub fn running_node(data_dir: &Path) -> anyhow::Result<Option<RunningNode>> {
    let path = data_dir.join("node.lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("`{}` cannot be opened", path.display())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(std::fs::TryLockError::WouldBlock) => match announced(data_dir) {
            Some(node) => Ok(Some(node)),
            None => anyhow::bail!(
                "`{}` is locked by a process that does not say where it listens; it is starting, or another command is \
                 at work: try again",
                data_dir.display()
            ),
        },
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).context(format!("`{}` cannot be locked", path.display()))
        }
    }
}

/// The secret as configured, or the one in this file, which is made (mode 0600) if it is not there.
pub(super) fn secret(configured: &Secret, path: &Path) -> anyhow::Result<Secret> {
    if !configured.is_empty() {
        return Ok(configured.clone());
    }
    match File::open(path) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text).with_context(|| format!("`{}` cannot be read", path.display()))?;
            let text = text.trim();
            anyhow::ensure!(!text.is_empty(), "`{}` is empty; remove it, and a new one is made", path.display());
            Ok(Secret::new(text))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = random_text()?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let mut file = file.with_context(|| format!("`{}` cannot be made", path.display()))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok(Secret::new(text))
        }
        Err(error) => Err(error).context(format!("`{}` cannot be read", path.display())),
    }
}

/// What clicks keep of an address. `derived_from`: the secret of the fingerprints.
pub(super) fn addresses(privacy: &config::Privacy, derived_from: &Secret) -> Keeping {
    match privacy.ip {
        IpPrivacy::Truncate => Keeping::Truncate,
        IpPrivacy::None => Keeping::Nothing,
        IpPrivacy::Hmac => {
            let secret = if privacy.ip_secret.is_empty() { derived_from } else { &privacy.ip_secret };
            Keeping::Hmac(Box::new(AddressKey::new(secret.expose().as_bytes())))
        }
    }
}

/// What clicks keep of an address, as text; `None` when it is nothing. Takes no lock and makes no secret.
///
/// # Errors
/// The secret is not there, or cannot be read.
pub fn kept_of(config: &Config, address: std::net::IpAddr) -> anyhow::Result<Option<String>> {
    let path = config.data_dir.join("dedup.secret");
    let privacy = &config.privacy;
    let is_needed = privacy.ip == IpPrivacy::Hmac && privacy.ip_secret.is_empty() && config.dedup.secret.is_empty();
    anyhow::ensure!(
        !is_needed || path.exists(),
        "`{}` is not there: no node has run on this data folder",
        path.display()
    );
    let derived_from = if is_needed { secret(&config.dedup.secret, &path)? } else { config.dedup.secret.clone() };
    Ok(addresses(privacy, &derived_from).keep(address).map(|kept| kept.to_string()))
}

/// 32 random bytes as hex digits.
pub(super) fn random_text() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A data folder without a node: locked, and its control API ready to be called in this process.
pub struct OpenFolder {
    /// The control API.
    pub router: axum::Router,
    /// Its token.
    pub token: Secret,
    /// Its keys.
    pub(super) keys: Arc<Keys>,
    /// What `/metrics` shows.
    pub(super) metrics: Arc<Metrics>,
    /// What the control API says of its state.
    pub(super) status: Arc<control::Status>,
    _orphans: Vec<Orphan>,
    lock: FolderLock,
}

impl OpenFolder {
    /// Says where this process listens, which is no node.
    pub(super) fn announce(&self, control: SocketAddr) -> anyhow::Result<()> {
        self.lock.announce(control, None)
    }
}

/// Locks and opens a data folder in which no node runs.
///
/// # Errors
/// When it is in use, or cannot be opened.
pub async fn open_folder(config: &Config) -> anyhow::Result<OpenFolder> {
    let lock = lock(&config.data_dir)?;
    let token = secret(&config.control.token, &config.data_dir.join("control.token"))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let backends = Backends::new(config, Arc::clone(&clock));
    let store = backends.store(1, Arc::default())?;
    if config.store.migrate && config.store.backend == StoreBackend::Sqlite {
        // A remote store has its tables from the node; a command does not wait for it.
        store.migrate().await.map_err(|error| anyhow::anyhow!("{}: {error}", store.name()))?;
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    // Their locks are held by this process as long as the folder is open.
    let orphans = Orphan::find(&disk, &config.data_dir).context("the journal folder cannot be read")?;
    // Without edge threads: it shows what caps count, and counts nothing.
    let (catalog, audit_store) = catalog::open(&backends, config, (0, &orphans), &clock).await?;
    let (pepper, keys_max) = (&config.warden.pepper, config.warden.keys_max);
    let keys = Arc::new(Keys::open(backends.catalog()?, pepper, keys_max, Arc::clone(&clock)).await?);
    let metrics = Arc::new(catalog::metrics((&catalog, backends.calls()), 0, 0, &[])?);
    let shelf = letters::shelf(config, &clock, &metrics)?;
    let counted = (&*metrics, backends.calls());
    let ledger = books::open(config, &shelf, &orphans, &clock, counted).context("the ledger cannot be used")?;
    // Most commands need no facts about clicks.
    let (classifier, files) = (Arc::clone(&config.classify), config.geo);
    let enricher = Box::new(move || {
        Facts::load(&classifier, &files).map(|facts| facts.enricher()).map_err(|error| error.to_string())
    });
    let classifier = Arc::clone(&config.classify);
    let explained = (config.dedup.secret.clone(), config.data_dir.join("dedup.secret"), Arc::clone(&clock));
    let privacy = config.privacy.clone();
    let explainer = move || -> anyhow::Result<control::Explainer> {
        let (configured, path, clock) = &explained;
        let (Facts { agents, geo }, secret) = (Facts::load(&classifier, &files)?, secret(configured, path)?);
        let addresses = addresses(&privacy, &secret);
        let secret = secret.expose().as_bytes().into();
        Ok(control::Explainer { agents, geo, addresses, secret, clock: Arc::clone(clock) })
    };
    let dead_letters = letters::letters(&shelf, &store, &clock, enricher, Actor::CommandLine);
    let fingerprints = secret(&config.dedup.secret, &config.data_dir.join("dedup.secret"))?;
    let addresses = addresses(&config.privacy, &fingerprints);
    let journals = Journals::at_rest(disk, &config.data_dir);
    let persons = letters::persons(&dead_letters, &store, &ledger, journals, addresses, (&clock, Actor::CommandLine));
    let (status, rendered) = (Arc::new(control::Status::new()), Arc::clone(&metrics));
    let router = control::router(control::Parts {
        domains: catalog.domains,
        links: catalog.links,
        campaigns: catalog.campaigns,
        caps: catalog.caps,
        releases: catalog.releases,
        node: config.node.as_str().into(),
        warden: Arc::clone(&keys) as _,
        keys: Arc::clone(&keys),
        warden_at: super::warden::elsewhere(config),
        auth: metrics.auth(),
        audit: catalog::audit(audit_store, config, &clock, &metrics),
        api: metrics.api(),
        clock: Arc::clone(&clock),
        explainer: Arc::new(move || explainer().map_err(|error| format!("{error:#}"))),
        dead_letters,
        persons,
        actor: Actor::CommandLine,
        backlog: None,
        store,
        ledger,
        token: token.clone(),
        status: Arc::clone(&status),
        slo: slo::asked_of_history(&config.slo, &config.data_dir, &clock),
        metrics: Arc::new(move || rendered.render(clock.wall_ms())),
        running: None,
        body_bytes_max: config.control.body_bytes_max,
        import: import_limits(&config.control),
    });
    Ok(OpenFolder { router, token, keys, metrics, status, _orphans: orphans, lock })
}

/// How much one import of links may bring.
pub(super) const fn import_limits(config: &config::Control) -> ImportLimits {
    ImportLimits { bytes_max: config.import_bytes_max, links_max: config.import_links_max }
}

impl std::fmt::Debug for OpenFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFolder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.token");
        let made = secret(&Secret::default(), &path).unwrap();
        assert_eq!(made.expose().len(), 64);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(secret(&Secret::default(), &path).unwrap().expose(), made.expose());
        assert_eq!(secret(&Secret::new("mine"), &path).unwrap().expose(), "mine");
        std::fs::write(&path, " \n").unwrap();
        assert!(secret(&Secret::default(), &path).is_err());
    }

    #[test]
    fn a_folder_is_used_by_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running_node(folder.path()).unwrap(), None);
        let held = lock(folder.path()).unwrap();
        assert!(lock(folder.path()).unwrap_err().to_string().contains("in use"));
        assert!(running_node(folder.path()).is_err());
        held.announce("127.0.0.1:2".parse().unwrap(), "127.0.0.1:1".parse().ok()).unwrap();
        let node = running_node(folder.path()).unwrap().unwrap();
        assert_eq!((node.pid, node.edge.as_str()), (std::process::id(), "http://127.0.0.1:1"));
        drop(held);
        assert_eq!(running_node(folder.path()).unwrap(), None);
    }
}
