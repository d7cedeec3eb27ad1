//! L0: named places at which a test lets the process kill itself, in the middle of what it does, or plants a fault.
//!
//! With the feature `failpoints`, `TRELLIS_TEST_FAILPOINT=intent:3` sends SIGKILL to the own process when [`hit`] is
//! called for [`Point::Intent`] the third time, right after a line on standard error that says so. `TRELLIS_TEST_FAULTS` names
//! a folder in which the test puts faults, and takes them away, while the process runs: a file with the name of a point.
//! `sleep 20` in it makes every hit there take 20 ms longer, and `fail 50` lets every 50th of what is done there fail, where
//! [`fails`] is asked. Without the feature nothing happens and the variables mean nothing; no default feature turns it on,
//! so no build that people use has it.
//!
//! They are called where the life of a click goes on, from every layer; but for what a test plants, they change nothing of
//! what is done. Bounds: one point a process at which it is killed; one look at a cell for each call, and at a file where
//! there is a folder of faults.

/// Where the process may end, in the order of a click's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The group is written; no ticket knows it, and the queue has not got it.
    Journal,
    /// The group was offered to the queue; no ticket knows that it is kept.
    Queue,
    /// The click is kept; the visitor has no answer.
    Respond,
    /// The worker has taken clicks up from the queue or the journal.
    Claim,
    /// The intent is forced to the disk; nothing of the batch was sent.
    Intent,
    /// The store has answered; nothing knows it.
    Sent,
    /// The worker knows that the batch is stored; the checkpoint does not.
    Stored,
    /// The checkpoint is forced to the disk; what lies below it is still there.
    Checkpoint,
    /// A segment below the checkpoint was removed.
    Unlink,
}

impl Point {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Journal,
        Self::Queue,
        Self::Respond,
        Self::Claim,
        Self::Intent,
        Self::Sent,
        Self::Stored,
        Self::Checkpoint,
        Self::Unlink,
    ];

    /// How the variable names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Queue => "queue",
            Self::Respond => "respond",
            Self::Claim => "claim",
            Self::Intent => "intent",
            Self::Sent => "sent",
            Self::Stored => "stored",
            Self::Checkpoint => "checkpoint",
            Self::Unlink => "unlink",
        }
    }
}

/// The process has come to this point. Without the feature `failpoints`: nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn hit(_: Point) {}

/// Whether what is to be done at this point is to fail this time. Without the feature `failpoints`: never.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub const fn fails(_: Point) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use armed::hit;
#[cfg(feature = "failpoints")]
pub use planted::fails;

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Point, planted};

    const VARIABLE: &str = "TRELLIS_TEST_FAILPOINT";

    struct Armed {
        point: Point,
        /// The hit that kills, counted from 1.
        at: u64,
        hits: AtomicU64,
    }

    impl Armed {
        /// `intent:3`, or `intent` for the first hit.
        fn parse(text: &str) -> Option<Self> {
            let (name, at) = text.split_once(':').unwrap_or((text, "1"));
            let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
            Some(Self { point, at: at.parse().ok().filter(|at| *at > 0)?, hits: AtomicU64::new(0) })
        }

        /// Reads the variable.
        #[allow(clippy::disallowed_methods, reason = "for tests only; every layer calls it, and none can pass it down")]
        fn from_environment() -> Option<Self> {
            let text = std::env::var_os(VARIABLE)?.to_string_lossy().into_owned();
            let armed = Self::parse(&text);
            if armed.is_none() {
                refuse(&format!("{VARIABLE}={text}: no point with a count such as intent:3"));
            }
            armed
        }

        /// Whether this hit is the one.
        fn counts(&self, point: Point) -> bool {
            self.point == point && self.hits.fetch_add(1, Ordering::Relaxed) + 1 == self.at
        }
    }

    /// The process has come to this point; it ends here, or takes its time, if it was told to.
    pub fn hit(point: Point) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        if let Some(armed) = ARMED.get_or_init(Armed::from_environment)
            && armed.counts(point)
        {
            say(&format!("failpoint {} was hit, time {}", point.name(), armed.at));
            // The signal is delivered before the call returns; the process has no say in it, as with `kill -9`.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        planted::sleep(point);
    }

    fn say(line: &str) {
        // With nobody to read it, there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// What cannot be read ends the process, as any bad setting does: a test would else wait for what never comes.
    pub(super) fn refuse(line: &str) -> ! {
        say(line);
        std::process::exit(64);
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_and_its_count_are_read() {
            for point in Point::ALL {
                let armed = Armed::parse(&format!("{}:3", point.name())).unwrap();
                assert_eq!((armed.point, armed.at), (point, 3));
            }
            assert_eq!(Armed::parse("sent").unwrap().at, 1);
            for bad in ["", "intend", "intent:", "intent:0", "intent:-1", ":1"] {
                assert!(Armed::parse(bad).is_none(), "{bad}");
            }
        }

        #[test]
        fn the_hit_that_was_named_counts_and_no_other() {
            let armed = Armed::parse("sent:3").unwrap();
            let points = [Point::Sent, Point::Stored, Point::Sent, Point::Sent, Point::Sent];
            assert_eq!(points.map(|point| armed.counts(point)), [false, false, false, true, false]);
        }
    }
}

#[cfg(feature = "failpoints")]
mod planted {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::{Point, armed};

    const VARIABLE: &str = "TRELLIS_TEST_FAULTS";

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        /// Every hit takes so much longer.
        Sleep(Duration),
        /// One in so many fails.
        Fail(u64),
    }

    impl Fault {
        /// `sleep 20`, in milliseconds, or `fail 50`.
        fn parse(text: &str) -> Option<Self> {
            let (name, number) = text.split_once(' ')?;
            let number = number.parse().ok().filter(|number| *number > 0)?;
            match name {
                "sleep" => Some(Self::Sleep(Duration::from_millis(number))),
                "fail" => Some(Self::Fail(number)),
                _ => None,
            }
        }

        /// What is planted at this point now.
        #[allow(clippy::disallowed_methods, reason = "for tests only; every layer calls it, and none can pass it down")]
        fn at(point: Point) -> Option<Self> {
            static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
            let folder = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)).as_ref()?;
            let text = std::fs::read_to_string(folder.join(point.name())).ok()?;
            let fault = Self::parse(&text);
            if fault.is_none() {
                armed::refuse(&format!("{VARIABLE}: {}: {text}: no fault such as sleep 20 or fail 50", point.name()));
            }
            fault
        }
    }

    /// Takes the time that is planted at this point.
    #[allow(clippy::disallowed_methods, reason = "that it sleeps is the fault")]
    pub(super) fn sleep(point: Point) {
        if let Some(Fault::Sleep(time)) = Fault::at(point) {
            std::thread::sleep(time);
        }
    }

    /// Whether what is to be done at this point is to fail this time.
    pub fn fails(point: Point) -> bool {
        static DONE: AtomicU64 = AtomicU64::new(0);
        match Fault::at(point) {
            Some(Fault::Fail(every)) => (DONE.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every),
            _ => false,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_are_read() {
            assert_eq!(Fault::parse("sleep 20"), Some(Fault::Sleep(Duration::from_millis(20))));
            assert_eq!(Fault::parse("fail 50"), Some(Fault::Fail(50)));
            for bad in ["", "sleep", "sleep 0", "sleep 20ms", "fail -1", "burn 1", "sleep 20\n"] {
                assert_eq!(Fault::parse(bad), None, "{bad:?}");
            }
        }
    }
}
