//! What a command says: results on standard output, line by line, and how it ends.
//!
//! Never panics when the other end of a pipe has gone, and lets no control character of a visitor reach a terminal.
//! Used by the commands. Bound: one buffer of 8 KiB.

use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write as _};
use std::process::ExitCode;

/// Exit code for a command line or a configuration that is no good (EX_USAGE of BSD's sysexits).
const EXIT_USAGE: u8 = 64;

/// Why a command ends before its time.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed.
    Failed(anyhow::Error),
    /// It failed, and has said so.
    Told,
    /// It was called in a way that makes no sense, which no parser of arguments sees.
    Usage(String),
    /// The configuration is wrong: one problem a line.
    Config(crate::config::Problems),
    /// Nobody reads any more: the end that a pager or `head` brings.
    ClosedPipe,
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    /// Says it on standard error, and gives the exit code.
    pub(super) fn tell(self) -> ExitCode {
        match self {
            Self::Failed(error) => {
                complain(&format!("{error:#}"));
                ExitCode::FAILURE
            }
            Self::Told => ExitCode::FAILURE,
            Self::Usage(why) => {
                complain(&why);
                usage()
            }
            Self::Config(problems) => {
                // As they are, for editors that jump to `FILE:LINE:`.
                let _ = writeln!(io::stderr(), "{problems}");
                usage()
            }
            Self::ClosedPipe => ExitCode::SUCCESS,
        }
    }
}

/// The exit code for bad usage or configuration.
pub(super) fn usage() -> ExitCode {
    ExitCode::from(EXIT_USAGE)
}

/// One error on standard error. It is lost where nobody reads that.
pub(super) fn complain(error: &str) {
    let _ = writeln!(io::stderr(), "trellis: {error}");
}

/// Standard output.
pub(super) struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: impl fmt::Display) -> Result<(), Stop> {
        writeln!(self.0, "{line}").map_err(stop)
    }

    /// Brings everything to whoever reads it. To be called before the end, and before a wait.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        self.0.flush().map_err(stop)
    }
}

fn stop(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::ClosedPipe,
        _ => Stop::Failed(anyhow::Error::new(error).context("standard output")),
    }
}

/// A cell of a line for people: `-` when it is empty, control characters escaped (a terminal would obey them).
pub(super) fn cell(text: &str) -> String {
    if text.is_empty() {
        return "-".into();
    }
    let mut cell = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_bidi_control(character) {
            cell.extend(character.escape_unicode());
        } else {
            cell.push(character);
        }
    }
    cell
}

/// Characters that make a terminal show the rest of the line in another order.
fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        assert_eq!(cell(""), "-");
        assert_eq!(cell("a b\u{e9}"), "a b\u{e9}");
        assert_eq!(cell("\u{1b}[2J\t\u{9b}1m\u{202e}x"), "\\u{1b}[2J\\u{9}\\u{9b}1m\\u{202e}x");
    }
}
