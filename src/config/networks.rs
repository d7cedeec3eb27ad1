//! The networks of data centres: a file of the operator's, one a line, read and checked when the configuration is.
//!
//! Read by `check` from `classify.networks`. Every bad line is told. Limits: [`BYTES_MAX`] for the file, [`LINES_MAX`]
//! networks, [`FAULTS_MAX`] bad lines by name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::Keys;
use super::units::{MIB, text};
use super::{Origin, Problem, file};
use crate::click::Networks;
use crate::click::address::Network;

const BYTES_MAX: u64 = 16 * MIB;
const LINES_MAX: usize = 500_000;
const FAULTS_MAX: usize = 100;
/// Longer than the longest network.
const SHOWN_CHARS_MAX: usize = 60;

impl Keys {
    /// The networks that `classify.networks` names; none where there is a problem, until it is told.
    pub(super) fn data_centres(&mut self) -> Arc<Networks> {
        let (path, content) = self.get("classify.networks", text(|path| file::text(path, BYTES_MAX)));
        match parse(&path, &content) {
            Ok(networks) => Arc::new(networks),
            Err(problems) => {
                self.layers.problems.extend(problems);
                Arc::default()
            }
        }
    }
}

fn parse(path: &Path, content: &str) -> Result<Networks, Vec<Problem>> {
    let (mut networks, mut faults, mut more) = (Vec::new(), Vec::new(), 0_usize);
    let problem = |line, message| Problem {
        key: String::new(),
        value: None,
        origin: Origin::File { path: PathBuf::from(path), line },
        message,
    };
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        match network(line) {
            Ok(_) if networks.len() == LINES_MAX => {
                faults.push(problem(number, format!("is one network too many: {LINES_MAX} at most")));
                break;
            }
            Ok(network) => networks.push(network),
            Err(message) if faults.len() < FAULTS_MAX => faults.push(problem(number, message)),
            Err(_) => more += 1,
        }
    }
    if more > 0 {
        faults.push(problem(0, format!("{more} further lines are no networks")));
    }
    if faults.is_empty() { Ok(networks.into_iter().collect()) } else { Err(faults) }
}

fn network(line: &str) -> Result<Network, String> {
    if let Some((end, _)) = line.char_indices().nth(SHOWN_CHARS_MAX) {
        return Err(format!("`{}...` is not a network such as 10.0.0.0/8", &line[..end]));
    }
    let base = line.split('/').next().and_then(|base| base.parse::<IpAddr>().ok());
    if base.is_some_and(|base| base != base.to_canonical()) {
        return Err(format!("`{line}` is an IPv4 network in IPv6 clothes; write it as IPv4"));
    }
    line.parse()
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;
    use super::*;
    use crate::config::{Config, Sources};

    fn told(content: &str) -> Vec<String> {
        parse(Path::new("dc.txt"), content).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn networks_stand_one_a_line_among_comments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dc.txt");
        let content = "# ours\n\n198.51.100.0/24   # a rack\r\n2001:db8::/32\n  203.0.113.0/24\n";
        std::fs::write(&path, content).unwrap();
        let config = Config::from_text(&Sources::default(), &format!("classify.networks = {path:?}")).unwrap();
        for (address, inside) in
            [("198.51.100.9", true), ("203.0.113.0", true), ("2001:db8:1::", true), ("192.0.2.1", false)]
        {
            assert_eq!(config.data_centres.cover(address.parse().unwrap()), inside, "{address}");
        }
        assert_eq!(Config::from_text(&Sources::default(), "").unwrap().data_centres.ranges(), 0);
    }

    #[test]
    fn every_bad_line_is_told_and_no_more_than_a_page_of_them() {
        let long = "x".repeat(100);
        let content = format!("10.0.0.0/33\n10.0.0.0/8, AWS\n\n1.2.3.0/24\n::ffff:10.0.0.0/104\n{long}\n");
        let expected = [
            "dc.txt:1: `10.0.0.0/33`: the prefix length must be 0 to 32".to_owned(),
            "dc.txt:2: `10.0.0.0/8, AWS`: the prefix length must be 0 to 32".to_owned(),
            "dc.txt:5: `::ffff:10.0.0.0/104` is an IPv4 network in IPv6 clothes; write it as IPv4".to_owned(),
            format!("dc.txt:6: `{}...` is not a network such as 10.0.0.0/8", &long[..SHOWN_CHARS_MAX]),
        ];
        assert_eq!(told(&content), expected);
        let many = told(&"bad\n".repeat(FAULTS_MAX + 7));
        assert_eq!((many.len(), &*many[FAULTS_MAX]), (FAULTS_MAX + 1, "dc.txt: 7 further lines are no networks"));
        let full = "10.0.0.0/8\n".repeat(LINES_MAX);
        assert_eq!(parse(Path::new("dc.txt"), &full).unwrap().ranges(), 1);
        assert_eq!(
            told(&format!("{full}10.0.0.0/8\n")),
            [format!("dc.txt:{}: is one network too many: {LINES_MAX} at most", LINES_MAX + 1)]
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_its_key() {
        let told = problems("classify.networks = \"/nowhere/dc.txt\"");
        let start = "1: classify.networks = \"/nowhere/dc.txt\": the file cannot be read: No such file";
        assert!(told.len() == 1 && told[0].starts_with(start), "{told:#?}");
    }
}
