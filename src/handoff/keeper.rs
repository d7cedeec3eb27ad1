//! The keeper: one thread that does for the journals what a request thread must not: see [`Upkeep`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::Upkeep;

/// The running keeper; stops, after a last sync, when dropped.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(mut upkeep: Upkeep) -> std::io::Result<Self> {
        let shared: Vec<_> = upkeep.shared().cloned().collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            loop {
                // Ends early when an edge thread has something to force, or to write anew.
                std::thread::park_timeout(upkeep.pause());
                let stopping = stopped.load(Ordering::Acquire);
                upkeep.turn(stopping);
                if stopping {
                    return;
                }
            }
        })?;
        for shared in shared {
            // Set once: each run has one keeper.
            let _ = shared.keeper.set(thread.thread().clone());
        }
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
