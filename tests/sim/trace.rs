//! What happened in a world, line by line, with what the node logged in between: made only for a world that is looked at.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Once;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

thread_local! {
    /// The trace of the world that this thread runs.
    static CURRENT: RefCell<Option<Rc<RefCell<Vec<String>>>>> = const { RefCell::new(None) };
}

/// Runs a world, and gives its trace.
pub(crate) fn traced<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    take_log();
    let lines = Rc::new(RefCell::new(Vec::new()));
    CURRENT.set(Some(Rc::clone(&lines)));
    let done = run();
    CURRENT.set(None);
    (done, lines.take())
}

/// Adds a line, if anybody wants to know.
pub(crate) fn say(line: impl FnOnce() -> String) {
    if is_traced() {
        let line = line();
        CURRENT.with_borrow(|lines| lines.iter().for_each(|lines| lines.borrow_mut().push(line.clone())));
    }
}

fn is_traced() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// For the whole process, and for good: threads that log and threads that do not must not share a subscriber that comes
/// and goes.
fn take_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let layer =
            tracing_subscriber::fmt::layer().with_writer(|| Log).without_time().with_ansi(false).with_target(false);
        let registry = tracing_subscriber::registry().with(layer.with_filter(dynamic_filter_fn(|_, _| is_traced())));
        tracing::subscriber::set_global_default(registry).expect("the only one");
    });
}

/// Puts log lines into the trace.
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(|| format!("        {}", String::from_utf8_lossy(bytes).trim()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
