//! A SQLite connection on a thread of its own, so that no event loop ever waits for a disk.
//!
//! Calls are closures in a bounded queue and run one after the other, in order. It knows no table, opens no file and
//! retries nothing. The embedded catalog and store call in here. Bound: [`WAITING_MAX`] waiting calls; one more waits
//! for its place.

use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for the thread.
pub(super) const WAITING_MAX: usize = 64;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The handle. Dropping it lets the waiting calls end, closes the connection and joins the thread.
#[derive(Debug)]
pub(super) struct DatabaseThread {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// The thread has ended: a call on it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database thread has ended")]
pub(super) struct Gone;

impl DatabaseThread {
    /// Starts a thread of this name (15 bytes are shown by the system) that owns the connection.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub(super) fn start(name: &str, mut connection: Connection) -> std::io::Result<Self> {
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING_MAX);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(job) = waiting.blocking_recv() {
                job(&mut connection);
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `f` on the thread, behind the calls that came before. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// [`Gone`]; `f` may have run in part then, and its transaction is rolled back.
    pub(super) async fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Connection) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more: the work is done all the same.
            let _ = answer.send(f(connection));
        });
        self.jobs.as_ref().ok_or(Gone)?.send(job).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}

impl Drop for DatabaseThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread() -> DatabaseThread {
        DatabaseThread::start("test-db", Connection::open_in_memory().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn calls_run_in_their_order_on_a_named_thread() {
        let thread = thread();
        thread.call(|c| c.execute_batch("CREATE TABLE t (n INTEGER)")).await.unwrap().unwrap();
        for n in 0..100 {
            thread.call(move |c| c.execute("INSERT INTO t VALUES (?1)", [n])).await.unwrap().unwrap();
        }
        let count = |c: &mut Connection| c.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(thread.call(count).await, Ok(Ok(100)));
        let name = thread.call(|_| std::thread::current().name().map(str::to_owned)).await;
        assert_eq!(name, Ok(Some("test-db".into())));
    }

    #[tokio::test]
    async fn dropping_the_handle_waits_for_the_calls_behind_it() {
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        let thread = thread();
        let abandoned = thread.call(move |_| told.send(()));
        // Polled once, so that it is queued; then its caller goes away.
        tokio::select! { biased; _ = abandoned => {}, () = std::future::ready(()) => {} }
        drop(thread);
        assert_eq!(heard.try_recv(), Ok(()));
    }

    #[tokio::test]
    async fn a_panic_ends_the_thread_and_is_told() {
        let thread = thread();
        assert_eq!(thread.call(|_| panic!("a call that panics")).await, Err::<(), _>(Gone));
        assert_eq!(thread.call(|_| ()).await, Err(Gone));
    }
}
