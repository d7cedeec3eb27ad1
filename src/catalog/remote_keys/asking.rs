//! The task that asks the Warden and writes down what it said; there is one, so nothing here needs a lock.
//!
//! A key about which is being asked is not asked about twice: who comes later waits for the same answer. An answer to a
//! question that was asked before the Warden told of a change may be the old one; it is asked again. Bounds:
//! [`CALLS_MAX`] calls, 1024 who wait for one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::super::warden::{Checked, Unavailable};
use super::memory::Known;
use super::{Asker, News, RemoteKeys};
use crate::click::key::Digest;

/// Keys about which may be asked at one time; about one more nobody asks.
pub const CALLS_MAX: usize = 256;
/// Who may wait for one answer; one more gets none.
const WAITING_MAX: usize = 1024;

type Said = Result<Checked, Unavailable>;

/// A key to ask about.
pub(super) struct Question {
    key_id: Box<str>,
    digest: Digest,
    /// Who waits for it, if anybody does.
    answer: Option<oneshot::Sender<Said>>,
}

impl Question {
    pub(super) fn new(key_id: &str, digest: Digest, answer: Option<oneshot::Sender<Said>>) -> Self {
        Self { key_id: key_id.into(), digest, answer }
    }
}

/// A call that is under way.
struct Call {
    key_id: Box<str>,
    waiting: Vec<oneshot::Sender<Said>>,
    /// The Warden told of a change since it began.
    outdated: bool,
}

/// Asks for [`RemoteKeys`].
pub struct Asking {
    keys: Arc<RemoteKeys>,
    asker: Arc<dyn Asker>,
    questions: mpsc::Receiver<Question>,
    news: mpsc::Receiver<News>,
    calls: HashMap<[u8; 32], Call>,
    answers: JoinSet<([u8; 32], Duration, Said)>,
}

impl Asking {
    pub(super) fn new(
        keys: Arc<RemoteKeys>,
        asker: Arc<dyn Asker>,
        questions: mpsc::Receiver<Question>,
        news: mpsc::Receiver<News>,
    ) -> Self {
        Self { keys, asker, questions, news, calls: HashMap::new(), answers: JoinSet::new() }
    }

    /// Asks for ever; to be run on the runtime of the asker.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                // What has changed counts before what is said of it.
                biased;
                Some(news) = self.news.recv() => self.hear(news),
                Some(answered) = self.answers.join_next() => match answered {
                    Ok((digest, asked, said)) => self.note(digest, asked, said),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(question) = self.questions.recv() => self.take(question),
                else => return,
            }
        }
    }

    fn take(&mut self, question: Question) {
        let under_way = self.calls.len();
        match self.calls.get_mut(&question.digest.0) {
            Some(call) if call.waiting.len() < WAITING_MAX => call.waiting.extend(question.answer),
            None if under_way < CALLS_MAX => {
                self.call(&question.key_id, question.digest);
                let waiting = question.answer.into_iter().collect();
                let call = Call { key_id: question.key_id, waiting, outdated: false };
                self.calls.insert(question.digest.0, call);
            }
            _ => tell(question.answer, &Err(Unavailable::Error("too many keys are asked about at once".into()))),
        }
    }

    fn call(&mut self, key_id: &str, digest: Digest) {
        let (asked, said) = (self.keys.clock.now(), self.asker.ask(key_id, &digest));
        self.answers.spawn(async move { (digest.0, asked, said.await) });
    }

    fn note(&mut self, digest: [u8; 32], asked: Duration, said: Said) {
        let Some(mut call) = self.calls.remove(&digest) else { return };
        self.keys.away.store(said.is_err(), Ordering::Relaxed);
        call.waiting.retain(|waiting| !waiting.is_closed());
        if call.outdated && said.is_ok() {
            // Nobody is left to tell: whoever comes next asks.
            if !call.waiting.is_empty() {
                self.call(&call.key_id, Digest(digest));
                self.calls.insert(digest, Call { outdated: false, ..call });
            }
            return;
        }
        if let Ok(answer) = &said {
            let (key_id, answer) = (call.key_id, answer.clone());
            let (known, other) = match answer {
                Checked::Granted(_) => (&self.keys.granted, &self.keys.denied),
                Checked::Denied(_) => (&self.keys.denied, &self.keys.granted),
            };
            other.forget_one(&key_id, &Digest(digest));
            known.keep(Known { key_id, digest: Digest(digest), answer, asked, again_ms: AtomicU64::new(0) });
        }
        tell(call.waiting, &said);
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Changed(key_id) => {
                self.keys.granted.forget(&key_id);
                self.keys.denied.forget(&key_id);
                self.calls.values_mut().filter(|call| call.key_id == key_id).for_each(|call| call.outdated = true);
            }
            News::Reset => {
                let now_ns = u64::try_from(self.keys.clock.now().as_nanos()).unwrap_or(u64::MAX);
                self.keys.reset_ns.store(now_ns, Ordering::Release);
                self.calls.values_mut().for_each(|call| call.outdated = true);
            }
        }
    }
}

/// Who has gone meanwhile is not told.
fn tell(waiting: impl IntoIterator<Item = oneshot::Sender<Said>>, said: &Said) {
    for waiting in waiting {
        let _ = waiting.send(said.clone());
    }
}
