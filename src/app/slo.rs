//! The objectives of a running node: a look at what is measured every ten seconds, and the history of it on the disk.
//!
//! ```text
//! every 10 s   what the registry gathers goes to the engine; its report to the control side and to /metrics; and when
//!              somebody asks and the last look is 10 s of wall time old, as after a stall or a step of the clock
//! every 1 min  what happened goes to <data_dir>/slo.history, and once more at the end of the node
//! ```
//! On the control side's runtime, never on a request thread; nobody waits for it. A history that cannot be read never stops
//! the start: it is put aside (the last such file is kept), and a new one is begun. Bounds: the engine's, and
//! [`history::BYTES_MAX`] for the file.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::slo::Slo;
use crate::control;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::slo::{Engine, LOOK, history};

/// In the data folder.
const FILE: &str = "slo.history";
/// Looks from one writing to the next.
const LOOKS: u32 = 6;

/// The objectives of a node.
pub(super) struct Objectives {
    engine: Mutex<Engine>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    path: PathBuf,
}

impl Objectives {
    /// Goes on where the history ends. To be called before anything is counted.
    pub(super) fn open(config: &Config, metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let path = config.data_dir.join(FILE);
        let mut engine = Engine::new(Arc::clone(&config.slo));
        if let Err(error) = restore(&mut engine, &path) {
            let aside = path.with_extension("damaged");
            let kept = std::fs::rename(&path, &aside).is_ok().then(|| aside.display().to_string());
            tracing::warn!(%error, kept, "the history of the objectives cannot be read; a new one is begun");
        }
        let now_ms = clock.wall_ms();
        engine.begin(&metrics.gather(now_ms), now_ms);
        let (metrics, clock) = (Arc::clone(metrics), Arc::clone(clock));
        Arc::new(Self { engine: Mutex::new(engine), metrics, clock, path })
    }

    /// Takes in what is measured now.
    pub(super) fn look(&self) {
        self.look_with(&mut self.engine(), self.clock.wall_ms());
    }

    /// The engine is held from before anything is gathered: of two looks at one time, the older figures would come last and
    /// seem to be counters that began anew.
    fn look_with(&self, engine: &mut Engine, now_ms: u64) {
        engine.look(&self.metrics.gather(now_ms), now_ms);
        engine.explain(self.metrics.board().unread());
        self.metrics.slo().show(Arc::new(engine.report(now_ms, None)));
    }

    /// Looks for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once.
        tick.tick().await;
        let (mut looks, mut said) = (0_u32, false);
        loop {
            tick.tick().await;
            self.look();
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                let this = Arc::clone(&self);
                let kept = tokio::task::spawn_blocking(move || this.keep()).await;
                match kept {
                    Ok(Err(error)) if !said => {
                        said = true;
                        tracing::warn!(%error, path = %self.path.display(), "the history of the objectives cannot be written");
                    }
                    Ok(Ok(())) => said = false,
                    _ => {}
                }
            }
        }
    }

    /// A last look, and all of it on the disk.
    pub(super) fn close(&self) {
        self.look();
        if let Err(error) = self.keep() {
            tracing::warn!(%error, path = %self.path.display(), "the history of the objectives cannot be written");
        }
    }

    /// Writes the history; nobody reads half of it.
    fn keep(&self) -> std::io::Result<()> {
        let bytes = self.engine().history();
        let next = self.path.with_extension("history.next");
        let mut file = File::create(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&next, &self.path)
    }

    /// For the control side: of the last look, which is never older than [`LOOK`]; of many who ask at one time, one looks.
    pub(super) fn asked(self: &Arc<Self>) -> control::Objectives {
        let this = Arc::clone(self);
        Arc::new(move |since| {
            let (mut engine, now_ms) = (this.engine(), this.clock.wall_ms());
            let last_ms = engine.last_ms().unwrap_or(now_ms);
            // Before the first look of its own the node has not asked what it depends on.
            let has_looked = this.metrics.slo().report().is_some();
            if has_looked && u128::from(now_ms.saturating_sub(last_ms)) >= LOOK.as_millis() {
                this.look_with(&mut engine, now_ms);
            }
            engine.report(engine.last_ms().unwrap_or(now_ms), since)
        })
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        // A look that was broken off left out some of what happened, at worst.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports of a folder in which no node runs: as of the last look of the last node. Reads when it is asked, and changes
/// nothing.
pub(super) fn asked_of_history(slo: &Arc<Slo>, data_dir: &Path, clock: &Arc<dyn Clock>) -> control::Objectives {
    let (slo, path, clock) = (Arc::clone(slo), data_dir.join(FILE), Arc::clone(clock));
    Arc::new(move |since| {
        let mut engine = Engine::new(Arc::clone(&slo));
        if let Err(error) = restore(&mut engine, &path) {
            tracing::warn!(%error, path = %path.display(), "the history of the objectives cannot be read");
        }
        engine.report(engine.last_ms().unwrap_or_else(|| clock.wall_ms()), since)
    })
}

/// What the file says; nothing where there is none.
fn restore(engine: &mut Engine, path: &Path) -> anyhow::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(history::BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() <= history::BYTES_MAX, "it has more than {} bytes", history::BYTES_MAX);
    Ok(engine.restore(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Sources;
    use crate::telemetry::metrics::Outcome;
    use crate::telemetry::slo::{Report, Verdict};
    use crate::testing::ManualClock;

    const NOON_MS: u64 = 20_000 * 86_400_000;

    fn open(folder: &Path, clock: &Arc<ManualClock>) -> (Arc<Metrics>, Arc<Objectives>) {
        let flags = vec![("data_dir".to_owned(), folder.display().to_string())];
        let config = Config::from_text(&Sources { flags, ..Sources::default() }, "").unwrap();
        let metrics = Arc::new(Metrics::new(1, 1, &["store"], || 0).unwrap());
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let objectives = Objectives::open(&config, &metrics, &clock);
        (metrics, objectives)
    }

    fn errors(objectives: &Arc<Objectives>) -> (Option<f64>, Option<u64>) {
        let report = objectives.asked()(None);
        let errors = report.objectives.into_iter().find(|one| one.id == "edge-errors").unwrap();
        (errors.windows[5].value, errors.windows[5].events)
    }

    #[test]
    fn what_happened_is_there_after_a_restart_and_a_damaged_file_is_put_aside() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(NOON_MS)));
        let (metrics, objectives) = open(folder.path(), &clock);
        metrics.set_dependency("store", true);
        (0..99).for_each(|_| metrics.edge(0).count(Outcome::Redirected));
        metrics.edge(0).count(Outcome::Untracked);
        clock.advance(LOOK);
        objectives.look();
        assert_eq!(errors(&objectives), (Some(0.01), Some(100)));
        assert_eq!(metrics.slo().report().unwrap().overall, Verdict::Breach);
        objectives.close();
        drop(objectives);
        // Two hours later.
        clock.advance(Duration::from_secs(7_200));
        let (metrics, objectives) = open(folder.path(), &clock);
        assert_eq!(errors(&objectives), (Some(0.01), Some(100)));
        metrics.edge(0).count(Outcome::Redirected);
        clock.advance(LOOK);
        objectives.close();
        assert_eq!(errors(&objectives), (Some(1.0 / 101.0), Some(101)), "and it goes on");
        // A command, with no node.
        let dynamic: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let config = Config::from_text(&Sources::default(), "").unwrap();
        let asked = asked_of_history(&config.slo, folder.path(), &dynamic);
        let known = objectives.asked()(None);
        clock.advance(Duration::from_secs(86_400));
        let told = asked(None);
        assert_eq!((&told.at, &told.measured_since, told.overall), (&known.at, &known.measured_since, known.overall));
        let windows = |report: &Report| report.objectives.iter().map(|one| one.windows.clone()).collect::<Vec<_>>();
        assert_eq!(windows(&told), windows(&known), "as of the last look");
        drop(objectives);

        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(asked(None).overall, Verdict::NoData);
        let (_, objectives) = open(folder.path(), &clock);
        assert_eq!(errors(&objectives), (None, Some(0)));
        assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), bytes);
        objectives.close();
        let (_, objectives) = open(folder.path(), &clock);
        assert!(!objectives.asked()(None).measured_since.is_empty());
    }

    #[test]
    fn what_is_counted_between_the_start_and_the_first_look_counts_and_no_gauge_does() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(NOON_MS)));
        let (metrics, objectives) = open(folder.path(), &clock);
        metrics.edge(0).count(Outcome::Redirected);
        metrics.set_dependency("store", true);
        objectives.look();
        assert_eq!(errors(&objectives), (Some(0.0), Some(1)));
        let report = metrics.slo().report().unwrap();
        let store = report.objectives.iter().find(|one| one.id == "store-up").unwrap();
        assert_eq!((store.value, store.verdict), (Some(1.0), Verdict::Ok), "it was asked after the start");
    }

    #[test]
    fn who_asks_hears_of_the_last_ten_seconds_and_many_at_one_time_look_once() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(NOON_MS)));
        let (metrics, objectives) = open(folder.path(), &clock);
        let count = || metrics.edge(0).count(Outcome::Redirected);
        clock.advance(LOOK);
        count();
        assert_eq!(errors(&objectives), (None, Some(0)), "the node itself looks first");
        objectives.look();
        assert_eq!(errors(&objectives), (Some(0.0), Some(1)));
        count();
        clock.advance(LOOK - Duration::from_millis(1));
        assert_eq!(errors(&objectives), (Some(0.0), Some(1)), "as of the last look");
        clock.advance(Duration::from_millis(1));
        let asked = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..8).map(|_| scope.spawn(|| errors(&objectives))).collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(asked, [(Some(0.0), Some(2)); 8]);
        assert_eq!(
            *metrics.slo().report().unwrap(),
            objectives.asked()(None),
            "the page and the metrics show the same"
        );
        count();
        assert_eq!(errors(&objectives), (Some(0.0), Some(2)), "it was looked just now");
        // A clock that was set back is no reason to look.
        clock.set_wall_ms(NOON_MS - 86_400_000);
        assert_eq!(errors(&objectives), (Some(0.0), Some(2)));
    }
}
