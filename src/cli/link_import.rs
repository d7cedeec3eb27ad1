//! `trellis link import`: links from a file of JSON lines, in as many requests as it takes.
//!
//! Judges no field: the API does, and says of each line what is wrong. What was imported stays when the rest cannot be; to go
//! on, the same file may be imported again. Bounds: the node's for one request (`control.import_links_max` and
//! `control.import_bytes_max`), one at a time in memory; [`LINKS_MAX`] links.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::client::Api;
use super::output::{Out, Stop, cell, complain};
use crate::config::Config;

/// Above the deadline of a request.
const TIMEOUT: Duration = Duration::from_secs(40);
/// So that there is something to see of a long import.
const LINKS_MAX: usize = 5_000;
const WORDS: [&str; 4] = ["created", "changed", "unchanged", "refused"];

/// `trellis link import`
#[derive(Debug, clap::Args)]
pub(super) struct ImportLinks {
    /// One JSON object a line, with the fields of a link; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Change the fields that a line names of a link that is there; without it such a line is refused
    #[arg(long)]
    change: bool,
}

pub(super) async fn run(config: &Config, api: &Api, import: ImportLinks) -> Result<(), Stop> {
    let limits = (config.control.import_links_max.min(LINKS_MAX), config.control.import_bytes_max);
    let mut parts = Parts { lines: open(&import.file)?, limits, read: 0, next: None };
    let path = if import.change { "/links/bulk?existing=change" } else { "/links/bulk" };
    let mut counts = [0; 4];
    while let Some(part) = parts.next()? {
        let before = part.before;
        let answer = api.post_lines(TIMEOUT, path, part.text).await;
        let answer = answer.with_context(|| format!("lines from {} on were not imported", before + 1))?;
        for refused in list(&answer, "results").iter().filter(|result| result["result"] == "refused") {
            let line = before + refused["line"].as_u64().unwrap_or_default();
            complain(&format!("line {line}: {}", cell(refused["detail"].as_str().unwrap_or_default())));
            for wrong in list(refused, "errors") {
                let [place, detail] = ["pointer", "detail"].map(|key| cell(wrong[key].as_str().unwrap_or_default()));
                complain(&format!("line {line}:   {place} {detail}"));
            }
        }
        WORDS.iter().zip(&mut counts).for_each(|(word, count)| *count += answer[*word].as_u64().unwrap_or_default());
    }
    let mut out = Out::new();
    let told: Vec<_> = WORDS.iter().zip(counts).map(|(word, count)| format!("{count} {word}")).collect();
    out.line(told.join(", "))?;
    out.flush()?;
    if counts[3] > 0 { Err(Stop::Told) } else { Ok(()) }
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// A file, cut into what goes into one request.
struct Parts {
    lines: Box<dyn BufRead>,
    /// Lines and bytes of a part.
    limits: (usize, usize),
    /// Lines that were read and given out.
    read: u64,
    /// A line that had no room in the last part.
    next: Option<String>,
}

/// What goes into one request.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// Lines of the file before it.
    before: u64,
    text: String,
}

impl Parts {
    fn next(&mut self) -> anyhow::Result<Option<Part>> {
        let (lines_max, bytes_max) = self.limits;
        let mut part = Part { before: self.read, text: String::new() };
        let mut lines = 0;
        while lines < lines_max {
            let line = match self.next.take() {
                Some(line) => line,
                None => self.line()?,
            };
            if line.is_empty() {
                break;
            }
            if lines > 0 && part.text.len() + line.len() > bytes_max {
                self.next = Some(line);
                break;
            }
            part.text.push_str(&line);
            lines += 1;
        }
        self.read += lines as u64;
        Ok((lines > 0).then_some(part))
    }

    /// With its end; empty behind the last one. One that is too long for a request is no link.
    fn line(&mut self) -> anyhow::Result<String> {
        let (mut line, bytes_max) = (String::new(), self.limits.1);
        let read = (&mut self.lines).take(bytes_max as u64).read_line(&mut line);
        read.with_context(|| format!("line {} cannot be read", self.read + 1))?;
        if line.len() == bytes_max {
            anyhow::bail!("a line behind line {} is longer than control.import_bytes_max allows", self.read);
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &'static str, limits: (usize, usize)) -> Vec<(u64, String)> {
        let mut parts = Parts { lines: Box::new(text.as_bytes()), limits, read: 0, next: None };
        std::iter::from_fn(|| parts.next().unwrap().map(|part| (part.before, part.text))).collect()
    }

    #[test]
    fn a_file_is_cut_by_lines_and_by_bytes() {
        let of = |before, text: &str| (before, text.to_owned());
        assert_eq!(parts("", (2, 100)), []);
        assert_eq!(parts("a\n\nb\nc", (2, 100)), [of(0, "a\n\n"), of(2, "b\nc")]);
        assert_eq!(parts("aaa\nbbb\nc\n", (9, 6)), [of(0, "aaa\n"), of(1, "bbb\nc\n")]);
        let mut long = Parts { lines: Box::new(&b"a\nbbbbbb\n"[..]), limits: (1, 6), read: 0, next: None };
        assert!(long.next().unwrap().is_some());
        assert!(long.next().unwrap_err().to_string().contains("behind line 1 is longer"));
    }
}
