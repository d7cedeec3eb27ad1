//! Trellis killed under load: at random moments, and at each failpoint. Whatever the moment, the next start stores what
//! clients saw, each once.

use std::path::Path;
use std::sync::Arc;

use crate::harness::{Trellis, eventually, note, seeded, service};
use crate::live::{CLICKHOUSE, Database, REDIS};
use crate::load::{Load, Rows, Seen, Unfinished, Visits, sqlite_rows};
use crate::proxy::{Proxy, Rules};

/// Kills, and what each left unfinished.
#[derive(Default)]
struct Kills(Vec<(String, Unfinished)>);

impl Kills {
    fn note(&mut self, when: String, node: &Trellis) -> Unfinished {
        let left = Unfinished::in_folder(node.data_dir());
        note(&format!("killed {when}: {left:?}"));
        self.0.push((when, left));
        left
    }

    /// A kill that leaves nothing shows nothing.
    fn assert_worth_it(&self) {
        let with = self.0.iter().filter(|(_, left)| *left != Unfinished::default()).count();
        assert!(with * 2 >= self.0.len(), "of {} kills, {with} left something unfinished: {:?}", self.0.len(), self.0);
    }
}

/// Where a node that is killed stores, and labels.
struct Ground<'a> {
    settings: Vec<(&'a str, &'a str)>,
    database: Option<&'a Database>,
}

impl<'a> Ground<'a> {
    const EMBEDDED: Self = Self { settings: Vec::new(), database: None };

    fn far(database: &'a Database, redis: &'a str) -> Self {
        let mut settings = database.settings();
        // Long enough for a machine with other work: labels are not what is looked at here.
        settings.extend([("dedup.backend", "redis"), ("redis.url", redis), ("redis.timeout", "5s")]);
        Self { settings, database: Some(database) }
    }

    fn with(&self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        self.settings.iter().chain(more).copied().collect()
    }

    fn rows(&self, folder: &Path) -> Rows {
        self.database.map_or_else(|| sqlite_rows(folder), |database| database.rows("clicks"))
    }
}

fn kill_at_random_moments(ground: &Ground<'_>, kills: usize) {
    let mut random = seeded();
    let (mut seen, mut all) = (Seen::default(), Kills::default());
    let mut node = Trellis::start_with(&ground.settings);
    node.link("a", "https://a.example/?id={click_id}");
    for kill in 0..kills {
        let load = Load::start(node.edge(), &Visits::fast(kill.to_string()));
        let answers = random.u64(1..1_500);
        load.wait_answers(answers);
        node.kill();
        seen.add(load.finish_broken());
        all.note(format!("after {answers} answers"), &node);
        // What one run leaves meets another number of threads in the next.
        let threads = random.u32(1..=3).to_string();
        node = Trellis::start_in(node.folder(), &ground.with(&[("edge.threads", &threads)]));
    }
    let folder = node.folder();
    seen.settle(&mut node, || ground.rows(folder.path()));
    all.assert_worth_it();
}

#[test]
fn a_node_killed_again_and_again_keeps_what_it_acknowledged() {
    kill_at_random_moments(&Ground::EMBEDDED, 6);
}

#[test]
fn a_node_killed_again_and_again_before_a_clickhouse_keeps_what_it_acknowledged() {
    let test = "a_node_killed_again_and_again_before_a_clickhouse_keeps_what_it_acknowledged";
    let (Some(redis), Some(clickhouse)) = (service(REDIS, test), service(CLICKHOUSE, test)) else { return };
    kill_at_random_moments(&Ground::far(&Database::new(&clickhouse), &redis), 6);
}

#[test]
fn a_node_killed_while_it_brings_a_backlog_keeps_what_it_acknowledged() {
    let test = "a_node_killed_while_it_brings_a_backlog_keeps_what_it_acknowledged";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let network = Proxy::before(clickhouse.strip_prefix("http://").expect("a URL").parse().expect("an address"));
    let url = format!("http://{}", network.address());
    let mut settings = database.settings();
    // Small batches, one at a time, so that a backlog of some segments is many of them.
    let small = [("batch.rows_max", "200"), ("batch.in_flight_max", "1"), ("edge.threads", "1")];
    settings.extend(small.iter().chain(&[("store.clickhouse.url", url.as_str())]));
    let mut random = seeded();
    let (mut seen, mut all) = (Seen::default(), Kills::default());
    let start = |folder| {
        let node = Trellis::start_in(folder, &settings);
        for text in ["did not take a batch", "does not answer", "are put behind", "cannot be made"] {
            node.expect_log(text);
        }
        node
    };
    let mut node = start(Arc::new(tempfile::tempdir().expect("a folder")));
    node.link("a", "https://a.example/");
    let visits = |name: usize| Visits {
        path: format!("/a?padding={}&click_id=", "p".repeat(3_000)),
        ..Visits::steady(name.to_string())
    };
    for kill in 0..4 {
        let load = Load::start(node.edge(), &visits(kill));
        if kill == 0 {
            network.set(Rules { refuse: true, ..Rules::default() });
            network.cut();
            // Some eight segments.
            load.wait_answers(3_000);
            network.set(Rules::default());
            eventually("the outage is put behind", || node.log().iter().any(|line| line.contains("are put behind")));
        }
        let answers = random.u64(1..100);
        load.wait_answers(answers);
        node.kill();
        seen.add(load.finish_broken());
        let left = all.note(format!("{answers} answers into the backlog"), &node);
        assert!(kill > 0 || left.clicks > 1_000, "it was not brought yet");
        node = start(node.folder());
    }
    seen.settle(&mut node, || database.rows("clicks"));
    assert_eq!(database.rows_sent_again("clicks"), 0);
    all.assert_worth_it();
}

#[cfg(feature = "failpoints")]
mod named {
    use std::os::unix::process::ExitStatusExt as _;

    use trellis::failpoint::Point;

    use super::*;

    /// Kills a node at every point, once at the first hit and once at a later one; each time, the next start makes up for
    /// it before the next kill.
    fn kill_at_every_point(ground: &Ground<'_>) {
        let mut random = seeded();
        let (mut seen, mut all) = (Seen::default(), Kills::default());
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let rows = || ground.rows(folder.path());
        let mut node = Trellis::start_in(Arc::clone(&folder), &ground.settings);
        node.link("a", "https://a.example/?id={click_id}");
        assert_eq!(node.stop().code(), Some(0));
        for point in Point::ALL {
            for at in [1, random.u64(2..=8)] {
                // A segment is removed when another follows it: with one thread and long visits, after some hundred.
                let long = point == Point::Unlink;
                let at = if long { at.min(2) } else { at };
                let when = format!("{}:{at}", point.name());
                let settings = if long { ground.with(&[("edge.threads", "1")]) } else { ground.with(&[]) };
                let mut node = Trellis::start_armed(Arc::clone(&folder), &settings, &when);
                let mut visits = Visits::steady(&when);
                if long {
                    visits.path = format!("/a?padding={}&click_id=", "p".repeat(3_000));
                }
                seen.add(Load::start(node.edge(), &visits).finish_broken());
                assert_eq!(node.wait().signal(), Some(9), "{when}");
                let said = format!("failpoint {} was hit", point.name());
                eventually("the point says so", || node.log().iter().any(|line| line.contains(&said)));
                let left = all.note(when, &node);
                if matches!(point, Point::Intent | Point::Sent | Point::Stored) {
                    assert!(left.intents > 0, "a batch was frozen");
                }
                let mut next = Trellis::start_in(Arc::clone(&folder), &ground.settings);
                if matches!(point, Point::Sent | Point::Stored) {
                    let found = r#"trellis_batch_looks_total{found="all"}"#;
                    eventually("what was stored is found, not sent again", || next.metric(found) > 0.0);
                }
                seen.settle(&mut next, rows);
            }
        }
        all.assert_worth_it();
    }

    #[test]
    fn a_node_killed_at_any_point_keeps_what_it_acknowledged() {
        kill_at_every_point(&Ground::EMBEDDED);
    }

    #[test]
    fn a_node_killed_at_any_point_before_a_clickhouse_keeps_what_it_acknowledged() {
        let test = "a_node_killed_at_any_point_before_a_clickhouse_keeps_what_it_acknowledged";
        let (Some(redis), Some(clickhouse)) = (service(REDIS, test), service(CLICKHOUSE, test)) else { return };
        kill_at_every_point(&Ground::far(&Database::new(&clickhouse), &redis));
    }
}
