//! L5: the command line, for people and scripts.
//!
//! Commands that touch data are requests to the control API: that of the running node, or, when none runs, that of the
//! data folder, locked and opened in this process. No command knows a database, and none writes to a folder that a node
//! holds, but `restore`, to one that is empty. `main` calls [`main`]. Exit codes: 0 done, 1 failed, 64 bad usage or
//! configuration. Bounds: pages of 1000.

mod arguments;
mod audit;
mod backup;
mod clicks;
mod client;
mod dead_letters;
mod explain;
mod keys;
mod ledger;
mod link_import;
mod links;
mod output;
mod privacy;
mod probe;
mod releases;
mod slo;
mod store;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use url::Url;

use self::arguments::{Arguments, Command, Healthcheck};
use self::output::{Out, Stop};
use crate::app;
use crate::app::http::{self, Trust};
use crate::config::{Config, Sources};

/// For a health check: below the 3 s that container runtimes are told to wait.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Does what the process was called for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody may be reading; then there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { output::usage() } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.tell(),
    }
}

fn run(arguments: Arguments) -> Result<(), Stop> {
    let Arguments { config, mut settings, data_dir, command } = arguments;
    settings.extend(data_dir.map(|data_dir| ("data_dir".to_owned(), data_dir)));
    let config = load(config, settings)?;
    match command.unwrap_or(Command::Serve) {
        Command::Serve => app::serve(config).map_err(Stop::from),
        Command::Warden => app::serve_warden(config).map_err(Stop::from),
        Command::Check => {
            let mut out = Out::new();
            out.line("configuration is good")?;
            out.flush()
        }
        Command::Migrate => on_runtime(migrate(&config)),
        Command::Link(command) => on_runtime(links::run(&config, command)),
        Command::Key(command) => on_runtime(keys::run(&config, command)),
        Command::Clicks(command) => on_runtime(clicks::run(&config, command)),
        Command::DeadLetter(command) => on_runtime(dead_letters::run(&config, command)),
        Command::Explain(command) => on_runtime(explain::run(&config, *command)),
        Command::Ledger(command) => on_runtime(ledger::run(&config, command)),
        Command::Audit(command) => on_runtime(audit::run(&config, command)),
        Command::Releases(command) => on_runtime(releases::run(&config, command)),
        Command::Store(command) => on_runtime(store::run(&config, command)),
        Command::Slo(command) => on_runtime(slo::run(&config, command)),
        Command::Verify(command) => on_runtime(verify::run(&config, command)),
        Command::Privacy(command) => on_runtime(privacy::run(&config, command)),
        Command::Probe(command) => on_runtime(probe::run(command)),
        Command::Backup { to } => backup::back_up(&config, &to),
        Command::Restore { from } => backup::restore(&config, &from),
        Command::Healthcheck(command) => on_runtime(healthcheck(&config, command)),
    }
}

fn load(file: Option<PathBuf>, settings: Vec<(String, String)>) -> Result<Config, Stop> {
    Config::load(&Sources::from_process(file, settings)).map_err(Stop::Config)
}

fn on_runtime(command: impl Future<Output = Result<(), Stop>>) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be made")?;
    let done = runtime.block_on(command);
    // Looking a name up may take minutes, and a thread that does cannot be stopped.
    runtime.shutdown_background();
    done
}

async fn migrate(config: &Config) -> Result<(), Stop> {
    let applied = app::migrate(config).await?;
    let mut out = Out::new();
    for name in &applied {
        out.line(format_args!("applied {name}"))?;
    }
    if applied.is_empty() {
        out.line("nothing to do: the tables are up to date")?;
    }
    out.flush()
}

async fn healthcheck(config: &Config, Healthcheck { url, ca }: Healthcheck) -> Result<(), Stop> {
    let trust = trust(ca.as_deref(), url.as_slice())?;
    let url = match url {
        Some(url) => url,
        None => default_health_url(config)?,
    };
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let request = Request::get(target).body(Full::<Bytes>::default()).context("the URL cannot be asked for")?;
    let (status, body) = http::exchange(&url, &trust, request, HEALTH_TIMEOUT).await?;
    if !status.is_success() {
        return Err(anyhow::anyhow!("{url}: {}", not_ready(status, &body)).into());
    }
    let mut out = Out::new();
    out.line("ready")?;
    out.flush()
}

/// Whom to believe: `--ca`, or this machine. A file that nothing would look at is refused.
fn trust(ca: Option<&Path>, urls: &[Url]) -> Result<Trust, Stop> {
    match ca {
        Some(_) if urls.iter().all(|url| url.scheme() != "https") => Err(Stop::Usage(
            "--ca is for https://, and no URL here begins with it: leave it out, or write https://".into(),
        )),
        Some(file) => Ok(Trust::of_file(file).context("--ca")?),
        None => Ok(Trust::default()),
    }
}

/// As configured; the running node is asked only where the configuration leaves the port open, because that looks at
/// the lock of the data folder.
fn default_health_url(config: &Config) -> anyhow::Result<Url> {
    let listen = config.control.listen;
    let base = if listen.port() != 0 {
        format!("http://{}", http::dialled(listen))
    } else {
        app::running_node(&config.data_dir)?.context("no node is running on this data folder")?.control
    };
    Ok(Url::parse(&format!("{base}/health/ready"))?)
}

/// The state, where the answer names one.
fn not_ready(status: StatusCode, body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    answer["state"].as_str().map_or_else(|| status.to_string(), |state| format!("not ready: {}", output::cell(state)))
}
