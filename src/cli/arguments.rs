//! What can be typed. Only shapes and help: what a URL, a slug or a setting may be is judged where it is used, once.
//! Commands that are planned and not built are not listed, so that they are refused.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use super::audit::AuditCommand;
use super::explain::Explain;
use super::keys::KeyCommand;
use super::links::LinkCommand;
use super::privacy::PrivacyCommand;
use super::probe::Probe;
use super::releases::ReleasesCommand;
use super::slo::SloCommand;
use super::store::StoreCommand;

const EVERYWHERE: &str = "Options of every command";

const EXAMPLES: &str = "\
Examples:
  trellis                                        serve with everything under ./data
  trellis --config trellis.toml check            is the configuration good?
  trellis link add https://example.com/ --slug spring
  trellis clicks tail --follow

Settings come from the command line, then TRELLIS_SECTION__KEY in the environment, then the file,
then the defaults.
Exit codes: 0 done, 1 failed, 64 bad usage or configuration.";

/// Answers tracked links with redirects and records every click.
#[derive(Debug, Parser)]
#[command(name = "trellis", version, after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Configuration file (TRELLIS_CONFIG names one too)
    #[arg(long, value_name = "FILE", global = true, help_heading = EVERYWHERE)]
    pub(super) config: Option<PathBuf>,
    /// One setting, such as edge.listen=127.0.0.1:9000; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true, help_heading = EVERYWHERE, value_parser = setting)]
    pub(super) settings: Vec<(String, String)>,
    /// Where everything on disk lives; short for --set data_dir=DIR
    #[arg(long, value_name = "DIR", global = true, help_heading = EVERYWHERE)]
    pub(super) data_dir: Option<String>,
    /// Without one: serve.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

impl Arguments {
    /// Reads the words of a command line, the program's name first.
    pub(super) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(settings_first(words))
    }
}

/// Moves every `--set` before the command: of an option that stands both before and behind it, clap would keep one side
/// and drop the other without a word.
fn settings_first(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let mut first: Vec<_> = words.by_ref().take(1).collect();
    let mut others = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            others.push(word);
            break;
        }
        if word == "--set" {
            first.push(word);
            first.extend(words.next());
        } else if word.as_encoded_bytes().starts_with(b"--set=") {
            first.push(word);
        } else {
            others.push(word);
        }
    }
    first.into_iter().chain(others).chain(words).collect()
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node until SIGTERM or SIGINT (the default)
    Serve,
    /// Answer for the keys of a data folder over gRPC, for nodes with warden.mode = "grpc"
    #[command(after_help = "\
Its nodes need the token of DIR/warden.token, or certificates; see [warden.serve] and [warden.grpc] in the
settings. Keys are made, listed and revoked while it runs, and are live on all nodes within a second.

Examples:
  trellis warden --data-dir /var/lib/trellis-warden
  trellis key --help")]
    Warden,
    /// Check the configuration and name every mistake
    Check,
    /// Create and upgrade the store's tables
    Migrate,
    /// Add, list and remove links
    #[command(subcommand, arg_required_else_help = true)]
    Link(LinkCommand),
    /// Add, list, rotate and revoke API keys
    #[command(subcommand, arg_required_else_help = true)]
    Key(KeyCommand),
    /// Look at recorded clicks
    #[command(subcommand, arg_required_else_help = true)]
    Clicks(ClicksCommand),
    /// Look at, send again and give up what the store refused
    #[command(name = "dead-letter", subcommand, arg_required_else_help = true)]
    DeadLetter(DeadLetterCommand),
    /// Tell where a visit would go, and why
    Explain(Box<Explain>),
    /// Show what became of every visit
    Ledger(Ledger),
    /// Look at what was written to links and campaigns, and go back
    #[command(subcommand, arg_required_else_help = true)]
    Releases(ReleasesCommand),
    /// Look at who wrote what to the control API
    #[command(subcommand, arg_required_else_help = true)]
    Audit(AuditCommand),
    /// Look at what the store keeps, and merge months that are over
    #[command(subcommand, arg_required_else_help = true)]
    Store(StoreCommand),
    /// Tell whether the node keeps its objectives
    #[command(subcommand, arg_required_else_help = true)]
    Slo(SloCommand),
    /// Compare the rollups with the stored clicks, and mend them
    Verify(Verify),
    /// Show and erase what is kept of one person
    #[command(subcommand, arg_required_else_help = true)]
    Privacy(PrivacyCommand),
    /// Copy everything that a node keeps, while it runs or not
    #[command(after_help = "\
The copy holds every link, and every click that was acknowledged before the command began. It is made
under the name DIR.partial and renamed when it is whole and on the disk. It holds the node's secrets:
keep it as you keep those. With ClickHouse as the store, back that up too.

Examples:
  trellis --data-dir /var/lib/trellis backup /backup/trellis-$(date +%F)
  trellis --config trellis.toml backup /backup/trellis-$(date +%F)")]
    Backup {
        /// A new folder, outside of the data folder
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Make a data folder of a backup; no node may run on it
    #[command(after_help = "\
First every file is checked; nothing is touched when one is missing or damaged. The data folder must
be empty. The next `trellis serve` on it brings to the store what was still in the journal.

Example:
  trellis --data-dir /var/lib/trellis restore /backup/trellis-2026-11-21")]
    Restore {
        /// What `trellis backup` made
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
    /// Ask a node whether it is ready: exit code 0 or 1
    Healthcheck(Healthcheck),
    /// Follow a link, as somebody elsewhere would, and tell the times: exit code 0 or 1
    Probe(Probe),
}

/// `trellis clicks`
#[derive(Debug, Subcommand)]
pub(super) enum ClicksCommand {
    /// Show the newest clicks, oldest of them first
    #[command(after_help = "\
Each line: time, click id, link, class, label, country, device, system, browser, destination.

Examples:
  trellis clicks tail -n 100 --link spring
  trellis clicks tail --follow --json | jq .destination")]
    Tail(Tail),
}

/// `trellis clicks tail`
#[derive(Debug, clap::Args)]
pub(super) struct Tail {
    /// This many clicks
    #[arg(short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(super) number: u32,
    /// Only clicks on this link
    #[arg(long, value_name = "SLUG")]
    pub(super) link: Option<String>,
    /// Go on with new clicks until Ctrl-C
    #[arg(short, long)]
    pub(super) follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

/// `trellis dead-letter`
#[derive(Debug, Subcommand)]
pub(super) enum DeadLetterCommand {
    /// Show both shelves: how much waits, and each batch with refused rows
    #[command(after_help = "\
The first line of each shelf: rows, bytes, time of the oldest click. Then each batch, newest first: batch, rows that wait,
stored later, dropped, when it was refused, the store's code and reason.")]
    Ls(ListDeadLetters),
    /// Show the refused rows of a batch
    #[command(after_help = "Each line: time, click id, state, code, link, destination, reason.")]
    Show {
        /// Which
        batch: uuid::Uuid,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Send refused rows again; what the store has already is not sent
    Replay {
        /// Which
        #[arg(value_name = "BATCH", required_unless_present = "all")]
        batches: Vec<uuid::Uuid>,
        /// Everything that waits, oldest first
        #[arg(long, conflicts_with = "batches")]
        all: bool,
    },
    /// Give up refused rows: their clicks are in no store, and cannot be got back
    Drop {
        /// Which
        #[arg(value_name = "BATCH", required = true)]
        batches: Vec<uuid::Uuid>,
        /// Yes, drop them
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// `trellis dead-letter ls`
#[derive(Debug, clap::Args)]
pub(super) struct ListDeadLetters {
    /// Also batches of which no row waits any more
    #[arg(long)]
    pub(super) settled: bool,
    /// This many batches at most; all when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// One JSON object a line; the first one has the shelves
    #[arg(long)]
    pub(super) json: bool,
}

/// `trellis ledger`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
visits = accepted + untracked, accepted = stored + in_flight + refused + dropped + erased + damaged +
residual.
Exit code 1 when a residual is not 0: clicks that nobody knows of.

Examples:
  trellis ledger
  trellis ledger --from 2026-11-01T00:00:00Z --to 2026-11-21T00:00:00Z --by day")]
pub(super) struct Ledger {
    /// First moment, RFC 3339 or Unix milliseconds [default: an hour before the last]
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<String>,
    /// The moment behind the last one [default: now]
    #[arg(long, value_name = "TIME")]
    pub(super) to: Option<String>,
    /// What one line is of
    #[arg(long, default_value = "minute")]
    pub(super) by: LevelWord,
    /// One JSON object a line; the last one is the total
    #[arg(long)]
    pub(super) json: bool,
}

/// `--by`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LevelWord {
    /// A minute
    Minute,
    /// An hour (UTC)
    Hour,
    /// A day (UTC)
    Day,
}

impl LevelWord {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// `trellis verify`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line: beginning, level (minute, hour or day), groups that differ, clicks that are stored, clicks
that were counted. Exit code 1 when something still differs. Clicks that have expired are left out.

Examples:
  trellis verify --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z
  trellis verify --from 2026-11-20T08:00:00Z --to 2026-11-20T09:00:00Z --dry-run --json")]
pub(super) struct Verify {
    /// First moment, RFC 3339 or Unix milliseconds
    #[arg(long, value_name = "TIME")]
    pub(super) from: String,
    /// The moment behind the last one
    #[arg(long, value_name = "TIME")]
    pub(super) to: String,
    /// Only show what differs
    #[arg(long)]
    pub(super) dry_run: bool,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

/// `trellis healthcheck`
#[derive(Debug, clap::Args)]
pub(super) struct Healthcheck {
    /// What to ask [default: /health/ready of control.listen]
    #[arg(long, value_parser = http_url)]
    pub(super) url: Option<url::Url>,
    /// With https://: trust the authorities of this file (PEM), in place of those that this machine trusts
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca: Option<PathBuf>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE, such as edge.listen=127.0.0.1:9000".into()),
    }
}

fn http_url(text: &str) -> Result<url::Url, String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err("must be a URL such as http://127.0.0.1:8081/health/ready".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }

    fn read(line: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::read(line.iter().map(OsString::from))
    }

    #[test]
    fn settings_stand_before_and_behind_the_command() {
        for line in [
            &["trellis", "--data-dir", "d", "--set", "a=1", "--set", "b=x=y", "link", "ls"][..],
            &["trellis", "link", "ls", "--data-dir", "d", "--set", "a=1", "--set=b=x=y"],
            &["trellis", "--set", "a=1", "link", "--data-dir=d", "ls", "--set", "b=x=y"],
        ] {
            let arguments = read(line).unwrap();
            let settings = [("a", "1"), ("b", "x=y")].map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!((arguments.data_dir.as_deref(), arguments.settings), (Some("d"), settings.to_vec()));
        }
        let arguments = read(&["trellis", "link", "rm", "--", "--set", "a=1"]).unwrap();
        let slugs = ["--set", "a=1"].map(String::from);
        assert!(matches!(&arguments.command, Some(Command::Link(LinkCommand::Rm { slugs: s, .. })) if *s == slugs));
        for line in [&["trellis", "--set"][..], &["trellis", "link", "ls", "--set"], &["trellis", "link", "rm", ""]] {
            assert!(read(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_built_is_not_there() {
        for command in ["metrics", "capacity"] {
            assert!(read(&["trellis", command]).is_err(), "{command}");
        }
    }
}
