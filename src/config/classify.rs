//! The rules by which clicks are classified: `config/classify.toml`, which is built in, under a file of the operator's
//! that says what differs.
//!
//! Read by `check` from `classify.rules`, with all that is wrong with it. Knows what good rules are, never what follows
//! from them: that is [`Classifier`]. Limits: [`BYTES_MAX`] for the file, [`WORDS_MAX`] words in a list, [`SYSTEMS_MAX`]
//! autonomous systems.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::check::Keys;
use super::layers::Layers;
use super::units::{MIB, Value, list, number, text, time, word};
use super::{Problems, file};
use crate::click::class::{AgentWord, Classifier, Memory, Reasons, Rules};

/// As shipped, and the only source of defaults.
const RULES: &str = include_str!("../../config/classify.toml");

const BYTES_MAX: u64 = MIB;
const WORDS_MAX: usize = 500;
/// A binary search for each click.
const SYSTEMS_MAX: usize = 10_000;
/// Three letters stand in many an agent.
const WORD_BYTES_MIN: usize = 4;
const WORD_BYTES_MAX: usize = 64;

/// Whether a reason or a word may change a class.
const TIERS: [(&str, bool); 2] = [("enforce", true), ("shadow", false)];
const KINDS: [(&str, Reasons); 3] =
    [("monitor", Reasons::AGENT_MONITOR), ("scanner", Reasons::AGENT_SCANNER), ("preview", Reasons::AGENT_PREVIEW)];

/// By the rules that are built in.
#[must_use]
#[allow(clippy::expect_used, reason = "the file is part of the program: a test reads it")]
pub fn shipped_classifier() -> Arc<Classifier> {
    let rules = check(PathBuf::new(), "").expect("the rules that are built in are good: a test reads them");
    Arc::new(Classifier::new(rules))
}

fn check(path: PathBuf, content: &str) -> Result<Rules, Problems> {
    let mut keys = Keys { layers: Layers::of_file(RULES, &path, content)?, read: Vec::new() };
    let rules = keys.rules();
    match Problems::of(keys.layers.problems) {
        Some(problems) => Err(problems),
        None => Ok(rules),
    }
}

impl Keys {
    /// The classifier by the rules that `classify.rules` names; by the shipped ones where there is a problem, until it is
    /// told.
    pub(super) fn classify(&mut self) -> Arc<Classifier> {
        let (path, content) = self.get("classify.rules", text(|path| file::text(path, BYTES_MAX)));
        match check(path, &content) {
            Ok(rules) => Arc::new(Classifier::new(rules)),
            Err(Problems(problems)) => {
                self.layers.problems.extend(problems);
                shipped_classifier()
            }
        }
    }

    fn rules(&mut self) -> Rules {
        let (mut weights, mut enforced) = ([0; Reasons::ALL.len()], Reasons::default());
        for ((reason, name), weight) in Reasons::ALL.into_iter().zip(&mut weights) {
            *weight = self.get(&format!("reasons.{name}.weight"), number(0..=100));
            if !Reasons::OF_WORDS.has(reason) {
                let enforce = self.get(&format!("reasons.{name}.tier"), word(&TIERS, &[]));
                enforced = enforced.with(reason, enforce);
            }
        }
        let rules = Rules {
            weights,
            enforced,
            bot_from: self.get("bot_from", number(0..=100)),
            // A longer one than this is no agent of a library any more, and many a browser's would be odd.
            agent_bytes_min: self.get("agent_bytes_min", number(0..=60)),
            chrome_fetch_metadata_from: self.get("chrome_fetch_metadata_from", number(80..=100_000)),
            words: self.words(),
            data_centres: self.get("data_centres.asn", systems),
            memory: self.memory(),
        };
        self.adding_up(&rules);
        self.never_found(&rules);
        rules
    }

    fn memory(&mut self) -> Memory {
        let seconds = Duration::from_secs;
        Memory {
            // A counter holds 2^20 - 1 for half a minute.
            address_per_minute: self.get("velocity.address_per_minute", number(0..=1_000_000)),
            link_per_minute: self.get("velocity.link_per_minute", number(0..=1_000_000)),
            // 64 bytes each, for both sketches together: 64 KiB to 256 MiB.
            counters: self.get("velocity.counters", number(1_024..=4_194_304)),
            // Seven bits count them.
            heads_min: self.get("preview_pattern.heads_min", number(0..=100)),
            heads_within_ms: self.get("preview_pattern.within", time(seconds(2)..=seconds(600))).as_millis() as u64,
            // 8 bytes each.
            pairs: self.get("preview_pattern.pairs", number(1_024..=4_194_304)),
        }
    }

    /// What is enforced and never looked for says what does not happen.
    fn never_found(&mut self, rules: &Rules) {
        let Memory { address_per_minute, link_per_minute, heads_min, .. } = rules.memory;
        for (reason, name, key, from) in [
            (Reasons::VELOCITY_ADDRESS, "velocity_address", "velocity.address_per_minute", address_per_minute),
            (Reasons::VELOCITY_LINK, "velocity_link", "velocity.link_per_minute", link_per_minute),
            (Reasons::PREVIEW_PATTERN, "preview_pattern", "preview_pattern.heads_min", heads_min.into()),
        ] {
            let tier = format!("reasons.{name}.tier");
            self.relation(&[&tier, key], from > 0 || !rules.enforced.has(reason), || {
                format!("is enforced and never found: {key} is 0 (never)")
            });
        }
    }

    fn words(&mut self) -> Vec<AgentWord> {
        let mut found: Vec<(String, AgentWord)> = Vec::new();
        for (kind, reason) in KINDS {
            for (tier, enforced) in TIERS {
                let key = format!("agents.{kind}.{tier}");
                for word in self.get(&key, words) {
                    if let Some((twin, _)) = found.iter().find(|(_, known)| known.word == word) {
                        let place = if *twin == key { "there twice".into() } else { format!("in {twin} and in {key}") };
                        self.relation(&[&key, twin], false, || format!("{word:?} stands {place}; keep one"));
                    }
                    found.push((key.clone(), AgentWord { word, reason, enforced }));
                }
            }
        }
        found.into_iter().map(|(_, word)| word).collect()
    }

    /// What is enforced and decides nothing by itself must be able to reach `bot_from`, or it says what does not happen.
    fn adding_up(&mut self, rules: &Rules) {
        let adding: Vec<_> = rules.enforced.within(Reasons::ODDITIES).names().collect();
        for name in &adding {
            let tier = format!("reasons.{name}.tier");
            self.relation(&[&tier, "bot_from"], rules.bot_from > 0, || {
                "makes a bot only together with others, from bot_from on, which is 0 (never); set it, or use \"shadow\""
                    .into()
            });
        }
        let weighed = Reasons::ALL.into_iter().zip(rules.weights).filter(|((_, name), _)| adding.contains(name));
        let sum: u16 = weighed.map(|(_, weight)| u16::from(weight)).sum();
        let weights: Vec<_> = adding.iter().map(|name| format!("reasons.{name}.weight")).collect();
        let keys: Vec<_> = ["bot_from"].into_iter().chain(weights.iter().map(String::as_str)).collect();
        self.relation(&keys, sum >= rules.bot_from.into(), || {
            format!(
                "bot_from ({}) is never reached: what is enforced and adds up weighs {sum} together",
                rules.bot_from
            )
        });
    }
}

fn words(value: &Value) -> Result<Vec<String>, String> {
    let words = list(agent_word)(value)?;
    if words.len() > WORDS_MAX { Err(format!("has more than {WORDS_MAX} words")) } else { Ok(words) }
}

/// Numbers of autonomous systems, in order.
fn systems(value: &Value) -> Result<Vec<u32>, String> {
    let Value::List(items) = value else {
        return Err("must be a list of AS numbers such as [64496, 64511]".into());
    };
    if items.len() > SYSTEMS_MAX {
        return Err(format!("has {} numbers; {SYSTEMS_MAX} at most", items.len()));
    }
    let item = |item: &Value| match item {
        Value::Integer(number) => u32::try_from(*number).ok().filter(|number| *number > 0),
        _ => None,
    };
    let read =
        |one: &Value| item(one).ok_or_else(|| format!("{one} is not an AS number: 1 to {}, without quotes", u32::MAX));
    let mut systems = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    systems.sort_unstable();
    match systems.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twins) => Err(format!("{} stands there twice; keep one", twins[0])),
        None => Ok(systems),
    }
}

fn agent_word(text: &str) -> Result<String, String> {
    let fits = (WORD_BYTES_MIN..=WORD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let error = || format!("{text:?} is not a word of {WORD_BYTES_MIN} to {WORD_BYTES_MAX} printable ASCII characters");
    fits.then(|| text.to_owned()).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;
    use super::*;

    fn told(content: &str) -> Vec<String> {
        let problems = check("my.toml".into(), content).unwrap_err();
        problems.as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shipped_rules_are_good_and_every_key_of_them_is_read_once() {
        let layers = Layers::of_file(RULES, &PathBuf::new(), "").unwrap();
        let mut keys = Keys { layers, read: Vec::new() };
        let rules = keys.rules();
        assert_eq!(Problems::of(keys.layers.problems), None);
        keys.read.sort_unstable();
        assert_eq!(keys.read, keys.layers.settings.keys().cloned().collect::<Vec<_>>());
        let certain = ["method_head", "purpose_prefetch", "agent_crawler", "agent_missing"];
        assert_eq!(rules.enforced.names().collect::<Vec<_>>(), certain, "what is only odd is in the shadow");
        assert_eq!((rules.bot_from, shipped_classifier().rules()), (0, &rules));
    }

    #[test]
    fn a_file_says_only_what_differs() {
        let rules = check(
            "my.toml".into(),
            "bot_from = 50\nreasons.accept_missing = { weight = 50, tier = \"enforce\" }\n\
             agents.scanner = { enforce = [\"OurScanner/\"], shadow = [\"Theirs/\"] }\n",
        );
        let rules = rules.unwrap();
        let shipped = shipped_classifier();
        let scanners: Vec<_> = rules.words.iter().filter(|known| known.reason == Reasons::AGENT_SCANNER).collect();
        assert_eq!((scanners.len(), &*scanners[0].word, scanners[0].enforced), (2, "OurScanner/", true));
        assert_eq!((&*scanners[1].word, scanners[1].enforced), ("Theirs/", false));
        let others = |rules: &Rules| {
            let others = rules.words.iter().filter(|known| known.reason != Reasons::AGENT_SCANNER);
            others.map(|known| known.word.clone()).collect::<Vec<_>>()
        };
        assert_eq!(others(&rules), others(shipped.rules()));
        assert_eq!((rules.bot_from, rules.weights[8], rules.weights[0]), (50, 50, shipped.rules().weights[0]));
        assert!(rules.enforced.has(Reasons::ACCEPT_MISSING) && rules.enforced.has(Reasons::METHOD_HEAD));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_its_line() {
        let content = "bot_from = 101\n[reasons]\nmethod_haed.weight = 1\nmethod_head = { weight = -1, tier = \"on\" }\n\
                       agent_monitor.tier = \"shadow\"\nhttp_1_0 = 5\n[agents.preview]\nenforce = [\"abc\"]\n\
                       shadow = [\"Caf\u{e9}\"]\n[agents.human]\nenforce = []\n";
        let starts = [
            "my.toml:1: bot_from = 101: must be 0 to 100",
            "my.toml:3: reasons.method_haed: is not a section; did you mean reasons.method_head?",
            "my.toml:4: reasons.method_head.weight = -1: must be 0 to 100",
            "my.toml:4: reasons.method_head.tier = \"on\": must be \"enforce\" or \"shadow\"",
            "my.toml:5: reasons.agent_monitor.tier: is not a setting",
            "my.toml:6: reasons.http_1_0: is a section: write [reasons.http_1_0] and its keys below",
            "my.toml:8: agents.preview.enforce = [\"abc\"]: \"abc\" is not a word of 4 to 64",
            "my.toml:9: agents.preview.shadow = [\"Caf\u{e9}\"]: \"Caf\u{e9}\" is not a word of 4 to 64",
            "my.toml:10: agents.human: is not a section",
        ];
        let told = told(content);
        let alike = told.len() == starts.len() && starts.iter().all(|start| told.iter().any(|t| t.starts_with(start)));
        assert!(alike, "{told:#?}");
    }

    #[test]
    fn systems_of_data_centres_are_numbers_each_once_and_kept_in_order() {
        let systems = |list: &str| {
            check("my.toml".into(), &format!("\n[data_centres]\nasn = {list}\n")).map(|rules| rules.data_centres)
        };
        assert_eq!(systems("[64511, 4294967295, 1]").unwrap(), [1, 64_511, u32::MAX]);
        assert_eq!(systems("[]").unwrap(), [0; 0]);
        let full: Vec<_> = (1..=SYSTEMS_MAX).collect();
        assert_eq!(systems(&format!("{full:?}")).unwrap().len(), SYSTEMS_MAX);
        for (list, expected) in [
            ("[1, 0]", "0 is not an AS number: 1 to 4294967295, without quotes"),
            ("[-1]", "-1 is not an AS number"),
            ("[4294967296]", "4294967296 is not an AS number"),
            ("[\"AS64496\"]", "\"AS64496\" is not an AS number"),
            ("[7, 5, 7]", "7 stands there twice; keep one"),
            ("64496", "must be a list of AS numbers such as"),
        ] {
            let told = told(&format!("\n[data_centres]\nasn = {list}\n"));
            let expected = format!("my.toml:3: data_centres.asn = {list}: {expected}");
            assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
        }
        let many: Vec<_> = (1..=SYSTEMS_MAX + 1).collect();
        let told = told(&format!("data_centres.asn = {many:?}\n"));
        assert!(told.len() == 1 && told[0].ends_with("has 10001 numbers; 10000 at most"), "{told:?}");
    }

    #[test]
    fn systems_without_a_file_to_find_them_by_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.toml");
        std::fs::write(&path, "data_centres.asn = [64496]\n").unwrap();
        let told = problems(&format!("\nclassify.rules = {path:?}\n"));
        let expected =
            format!("2: classify.rules = {path:?}: the file has data_centres.asn, and geo.asn names no file");
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
    }

    #[test]
    fn rules_that_would_do_nothing_or_two_things_are_refused() {
        for (content, expected) in [
            (
                "reasons.http_1_0.tier = \"enforce\"",
                "1: reasons.http_1_0.tier = \"enforce\": makes a bot only together",
            ),
            ("bot_from = 1", "1: bot_from = 1: bot_from (1) is never reached: what is enforced and adds up weighs 0"),
            (
                "bot_from = 60\nreasons.http_1_0 = { weight = 59, tier = \"enforce\" }",
                "1: bot_from = 60: bot_from (60) is never reached: what is enforced and adds up weighs 59",
            ),
            (
                "agents.monitor.shadow = [\"Slackbot\", \"Slackbot\"]\nagents.preview.enforce = []",
                "1: agents.monitor.shadow = [\"Slackbot\", \"Slackbot\"]: \"Slackbot\" stands there twice; keep one",
            ),
            (
                "agents.preview.shadow = [\"Discordbot/\"]",
                "1: agents.preview.shadow = [\"Discordbot/\"]: \"Discordbot/\" stands in agents.preview.enforce and in agents.preview.shadow; keep one",
            ),
            (
                "agents.scanner.enforce = [\"a123\",\"b123\",\"c123\",\"d123\",\"e123\",\"f123\",\"g123\",\"h123\",\"i\"]",
                "1: agents.scanner.enforce = [\"a123\", \"b123\", \"c123\", \"d123\", \"e123\", \"f123\", \"g123\", \"h123\", ...]: \
                 \"i\" is not a word",
            ),
            (
                "reasons.preview_pattern.tier = \"enforce\"\npreview_pattern.heads_min = 0",
                "1: reasons.preview_pattern.tier = \"enforce\": is enforced and never found: preview_pattern.heads_min is 0",
            ),
            (
                "bot_from = 30\nreasons.velocity_link = { weight = 30, tier = \"enforce\" }\nvelocity.link_per_minute = 0",
                "2: reasons.velocity_link.tier = \"enforce\": is enforced and never found: velocity.link_per_minute is 0",
            ),
            ("velocity.counters = 1000", "1: velocity.counters = 1000: must be 1024 to 4194304"),
            ("preview_pattern.within = \"1s\"", "1: preview_pattern.within = \"1s\": must be 2s to 10m"),
            ("= 1", "1: is not TOML: "),
        ] {
            let told = told(content);
            assert!(told.len() == 1 && told[0].starts_with(&format!("my.toml:{expected}")), "{content}: {told:#?}");
        }
    }

    #[test]
    fn the_file_is_told_beside_what_else_is_wrong_with_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.toml");
        std::fs::write(&path, "\nbot_from = \"x\"\n").unwrap();
        let all = problems(&format!("classify.rules = {path:?}\nedge.threads = 2000\n"));
        assert!(all.len() == 2 && all.iter().any(|told| told.contains("edge.threads = 2000")), "{all:#?}");
        let place = format!("{}:2: bot_from = \"x\": must be a whole number", path.display());
        assert!(all.iter().any(|told| told.contains(&place)), "{all:#?}");
        for (path, reason) in [("/nowhere/rules.toml", "the file cannot be read: No such file"), ("/", "is not a file")]
        {
            let told = problems(&format!("classify.rules = {path:?}"));
            let start = format!("1: classify.rules = {path:?}: {reason}");
            assert!(told.len() == 1 && told[0].starts_with(&start), "{told:#?}");
        }
    }
}
