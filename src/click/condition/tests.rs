//! The subset by examples, and held equal to the interpreter of the `cel` crate.

use std::collections::HashMap;
use std::sync::Arc;

use cel::extractors::This;
use proptest::prelude::*;

use super::names::{Meaning, NAMES};
use super::*;

/// A visit whose facts a test sets.
#[derive(Clone, Debug)]
struct Fake {
    texts: HashMap<&'static str, String>,
    hour: i64,
    weekday: i64,
    asn: i64,
    entries: Vec<(Map, String, String)>,
    is_bot: bool,
    address: IpAddr,
    tags: Vec<String>,
}

impl Facts for Fake {
    fn text(&self, name: Text) -> Cow<'_, str> {
        let known = NAMES.iter().find(|(_, meaning, _)| *meaning == Meaning::Text(name)).unwrap().0;
        self.texts.get(known).map_or("".into(), |text| text.into())
    }

    fn number(&self, name: Number) -> i64 {
        match name {
            Number::Hour => self.hour,
            Number::Weekday => self.weekday,
            Number::Asn => self.asn,
        }
    }

    fn entry(&self, of: Map, key: &str) -> Option<Cow<'_, str>> {
        self.entries.iter().find(|(map, known, _)| *map == of && known == key).map(|(_, _, value)| value.into())
    }

    fn is_bot(&self) -> bool {
        self.is_bot
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }
}

fn fake() -> Fake {
    Fake {
        texts: [
            ("country", "DE"),
            ("device", "mobile"),
            ("date", "2026-11-21"),
            ("slug", "spring"),
            ("domain", "go.example"),
        ]
        .map(|(name, text)| (name, text.to_owned()))
        .into(),
        hour: 9,
        weekday: 6,
        asn: 3320,
        entries: vec![
            (Map::Query, "utm_source".into(), "newsletter".into()),
            (Map::Header, "x-app".into(), "7".into()),
            (Map::Cookie, "seen".into(), String::new()),
        ],
        is_bot: false,
        address: "192.0.2.7".parse().unwrap(),
        tags: vec!["vip".into()],
    }
}

#[test]
fn conditions_mean_what_they_say() {
    for (condition, expected) in [
        (r#"country == "DE" && device == "mobile""#, true),
        (r#"country == 'DE' && device in ["desktop", "tablet"]"#, false),
        (r#"!(device in ["desktop", "tablet"])"#, true),
        (r#"query["utm_source"].startsWith("news") || is_bot"#, true),
        (r#"query.utm_source.matches("^news.*r$")"#, true),
        (r#"has(query.utm_source) && "x-app" in header && !has(cookie.other) && has(cookie.seen)"#, true),
        (r#"ip.in_cidr("192.0.2.0/24") && !ip.in_cidr("10.0.0.0/8")"#, true),
        (r#""vip" in tags && hour >= 9 && hour < 17 && weekday in [6, 7]"#, true),
        (r#"date >= "2026-11-01" && date < "2026-12-01""#, true),
        (r#"is_bot == false && (country == "FR") != true"#, true),
        (r#"slug.endsWith("ing") && slug.contains("pri") && slug != """#, true),
        (r#"domain == "go.example" && domain.endsWith(".example") && domain != "GO.example""#, true),
        (r#"hour == -9"#, false),
        ("true\n  && // a comment\n  region_is_none", false),
    ] {
        match Condition::parse(condition) {
            Ok(parsed) => assert_eq!(parsed.holds(&fake()), expected, "{condition}"),
            Err(faults) => assert!(condition.contains("region_is_none"), "{condition}: {faults:?}"),
        }
    }
}

#[test]
fn a_key_that_is_not_there_leaves_a_condition_undecided() {
    for (condition, expected) in [
        (r#"query.none == "x""#, false),
        (r#"query.none != "x""#, false),
        (r#"!(query.none == "x")"#, false),
        (r#"query.none == "x" || country == "DE""#, true),
        (r#"country == "DE" || query.none == "x""#, true),
        (r#"!(query.none == "x" && country == "FR")"#, true),
        (r#"(query.none == "x") == false"#, false),
    ] {
        assert_eq!(Condition::parse(condition).unwrap().holds(&fake()), expected, "{condition}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (condition, place, told) in [
        (r#"contry == "DE""#, (1, 1), "`contry` is unknown; there are country"),
        ("country == \"DE\" &&\n  hour == \"9\"", (2, 8), "compares a number with a text"),
        ("\"é\" == country && citty", (1, 19), "`citty` is unknown"),
        (r#"country"#, (1, 1), "is a text; a condition is true or false"),
        (r#"hour + 1 == 2"#, (1, 6), "`+` is not part of conditions"),
        (r#"country == "DE" ? true : false"#, (1, 17), "is not part of conditions"),
        (r#"tags.exists(t, t == "x")"#, (1, 12), "loops"),
        (r#"size(country) == 2"#, (1, 5), "`size` is not part"),
        (r#"country.lowerAscii() == "de""#, (1, 19), "`lowerAscii` is not part"),
        (r#"country in []"#, (1, 12), "is empty"),
        (r#"country in ["DE", 3]"#, (1, 12), "write one list for each"),
        (r#"country in [device]"#, (1, 13), "a list holds texts in quotes"),
        (r#"country in [1]"#, (1, 9), "looks for a text in a list"),
        (r#"query[country] == "x""#, (1, 7), "must be a key in quotes"),
        (r#"header["X-App"] == "7""#, (1, 8), "lower case here: `x-app`"),
        (r#"country["x"] == "x""#, (1, 1), "is a text; query, header and cookie have keys"),
        (r#"ip == "192.0.2.7""#, (1, 4), "ip.in_cidr"),
        (r#"ip.in_cidr("ten/8")"#, (1, 12), "is not a network"),
        (r#"country.in_cidr("10.0.0.0/8")"#, (1, 1), "only `ip` has in_cidr"),
        (r#"slug.matches("(")"#, (1, 14), "is no regular expression: unclosed group"),
        (r#"slug.matches("(a{1000}){1000}")"#, (1, 14), "is no regular expression"),
        (r#"is_bot < true"#, (1, 8), "have no order"),
        (r#"hour == 1.5"#, (1, 9), "no whole number"),
        (r#"country == null"#, (1, 12), "is no text"),
        (r#"country == "#, (1, 12), "is no CEL"),
        ("true &&\n  country === \"DE\"", (2, 13), "is no CEL"),
        ("country == 'DE' $", (1, 17), "is no CEL"),
        ("", (1, 1), "is empty"),
    ] {
        let faults = Condition::parse(condition).map(|_| ()).expect_err(condition);
        let first = &faults[0];
        assert_eq!((first.line, first.column), place, "{condition}: {first}");
        assert!(first.detail.contains(told), "{condition}: {first}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let faults = Condition::parse(r#"contry == "DE" && hour == "9" || ip.in_cidr("x")"#).unwrap_err();
    let places: Vec<_> = faults.iter().map(|fault| fault.column).collect();
    assert_eq!(places, [1, 24, 45], "{faults:?}");
}

#[test]
fn what_is_too_long_too_large_or_too_deep_is_refused() {
    let long = format!("country == \"{}\"", "x".repeat(SOURCE_BYTES_MAX));
    assert!(Condition::parse(&long).unwrap_err()[0].detail.contains("4096 at most"));
    let large = vec!["is_bot"; NODES_MAX / 2 + 1].join("||");
    let faults = Condition::parse(&large).unwrap_err();
    assert!(faults.len() == 1 && faults[0].detail.contains("one too many"), "{faults:?}");
    assert!(Condition::parse(&vec!["is_bot"; NODES_MAX / 2].join("||")).is_ok());
    for (open, close) in
        [("(", ")"), ("!(", ")"), ("[", "]"), ("has(", ")"), ("query[", "]"), ("{1:", "}"), ("-(", ")")]
    {
        let deep = format!("{}is_bot{}", open.repeat(400), close.repeat(400));
        assert!(!Condition::parse(&deep).unwrap_err().is_empty(), "{open}");
    }
    let nested = |levels: usize| format!("{}is_bot{}", "!(".repeat(levels), ")".repeat(levels));
    assert!(Condition::parse(&nested(8)).is_ok());
}

#[test]
fn a_condition_says_what_it_needs() {
    let needs = |condition: &str| Condition::parse(condition).unwrap().needs();
    assert_eq!(needs("query.a == slug"), Needs::default());
    assert!(needs("is_bot || hour == 1").has(Needs::AGENT.and(Needs::TIME)));
    assert!(!needs("is_bot || hour == 1").has(Needs::PLACE));
    assert_eq!([needs("asn == 3320"), needs("region == city")], [Needs::ASN, Needs::CITY]);
    assert!(!needs("country == 'DE' && continent == 'EU'").has(Needs::CITY));
}

#[test]
fn each_comparison_is_told_with_what_was_found() {
    let condition = r#"country == "DE" && (device in ["desktop", "tablet"] || query.utm != 'x') && !(hour < 9)
        && is_bot == false && !is_bot && has(cookie.seen) && ip.in_cidr("10.0.0.0/8")"#;
    let explained = Condition::parse(condition).unwrap().explain(&fake());
    let told: Vec<_> = explained
        .parts
        .iter()
        .map(|part| {
            let found: Vec<_> = part.found.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            (part.text.as_str(), found.join(", "), part.truth, part.decides)
        })
        .collect();
    let part = |text, found: &str, truth, decides| (text, found.to_owned(), truth, decides);
    let expected = [
        part(r#"country == "DE""#, r#"country: "DE""#, Some(true), false),
        part(r#"device in ["desktop", "tablet"]"#, r#"device: "mobile""#, Some(false), false),
        part(r#"query["utm"] != "x""#, r#"query["utm"]: null"#, None, false),
        part("!(hour < 9)", "hour: 9", Some(true), false),
        part("is_bot == false", "is_bot: false", Some(true), false),
        part("!is_bot", "is_bot: false", Some(true), false),
        part(r#""seen" in cookie"#, r#"cookie["seen"]: """#, Some(true), false),
        part(r#"ip.in_cidr("10.0.0.0/8")"#, r#"ip: "192.0.2.7""#, Some(false), true),
    ];
    assert_eq!((explained.truth, told), (Some(false), expected.to_vec()));
    // Without the network it is the missing key that leaves it undecided.
    let undecided = Condition::parse(condition.rsplit_once(" && ").unwrap().0).unwrap().explain(&fake());
    let deciding: Vec<_> = undecided.parts.iter().filter(|part| part.decides).map(|part| part.text.as_str()).collect();
    assert_eq!((undecided.truth, deciding), (None, vec![r#"query["utm"] != "x""#]));
}

#[test]
fn a_long_value_is_cut() {
    let mut visit = fake();
    visit.texts.insert("referrer", "é".repeat(explain::FOUND_CHARS_MAX + 1));
    let explained = Condition::parse("referrer == slug").unwrap().explain(&visit);
    let cut = format!("{}…", "é".repeat(explain::FOUND_CHARS_MAX));
    assert_eq!(explained.parts[0].found, [("referrer".to_owned(), cut.into()), ("slug".to_owned(), "spring".into())]);
}

#[test]
fn every_name_of_one_value_is_known_of_a_visit() {
    let known: Vec<_> = explain::known(&fake()).map(|(name, _)| name).collect();
    let values = NAMES.iter().filter(|(_, meaning, _)| !matches!(meaning, Meaning::Map(_) | Meaning::Tags));
    assert_eq!(known, values.map(|(name, ..)| *name).collect::<Vec<_>>());
}

/// Few words, so that they often meet.
const WORDS: [&str; 6] = ["", "a", "ab", "ba", "é\"", "A"];
const KEYS: [&str; 3] = ["a", "b", "c"];

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}

fn texts() -> impl Strategy<Value = String> {
    let names: Vec<_> = NAMES.iter().filter(|(_, m, _)| matches!(m, Meaning::Text(_))).map(|(n, ..)| *n).collect();
    prop_oneof![
        proptest::sample::select(names).prop_map(str::to_owned),
        proptest::sample::select(&WORDS[..]).prop_map(quoted),
        (
            proptest::sample::select(&["query", "header", "cookie"][..]),
            proptest::sample::select(&KEYS[..]),
            any::<bool>()
        )
            .prop_map(|(map, key, dot)| if dot { format!("{map}.{key}") } else { format!("{map}[\"{key}\"]") }),
    ]
}

fn numbers() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(&["hour", "weekday", "asn"][..]).prop_map(str::to_owned);
    prop_oneof![2 => name, 1 => (-1..4_i64).prop_map(|n| n.to_string())]
}

fn leaves() -> impl Strategy<Value = String> {
    let compare = || proptest::sample::select(&["==", "!=", "<", "<=", ">", ">="][..]);
    let list = proptest::collection::vec(proptest::sample::select(&WORDS[..]).prop_map(quoted), 1..4);
    let method = proptest::sample::select(&["startsWith", "endsWith", "contains"][..]);
    prop_oneof![
        (texts(), compare(), texts()).prop_map(|(l, c, r)| format!("{l} {c} {r}")),
        (numbers(), compare(), numbers()).prop_map(|(l, c, r)| format!("{l} {c} {r}")),
        (texts(), list).prop_map(|(text, list)| format!("{text} in [{}]", list.join(", "))),
        (numbers(), proptest::collection::vec(-1..4_i64, 1..4)).prop_map(|(n, list)| format!("{n} in {list:?}")),
        (texts(), method, texts()).prop_map(|(text, method, part)| format!("{text}.{method}({part})")),
        (texts(), proptest::sample::select(&["^a", "b$", "^$", "[ab]+", "."][..]))
            .prop_map(|(text, pattern)| format!("{text}.matches({})", quoted(pattern))),
        proptest::sample::select(&["192.0.2.0/24", "10.0.0.0/8", "::/0", "192.0.2.7"][..])
            .prop_map(|network| format!("ip.in_cidr({})", quoted(network))),
        proptest::sample::select(&KEYS[..]).prop_map(|key| format!("has(query.{key})")),
        proptest::sample::select(&KEYS[..]).prop_map(|key| format!("{} in cookie", quoted(key))),
        texts().prop_map(|text| format!("{text} in tags")),
        proptest::sample::select(&["is_bot", "true", "false"][..]).prop_map(str::to_owned),
    ]
}

fn conditions() -> impl Strategy<Value = String> {
    leaves().prop_recursive(4, 24, 2, |inner| {
        let operator = proptest::sample::select(&["&&", "||", "&&", "||", "==", "!="][..]);
        prop_oneof![
            inner.clone().prop_map(|one| format!("!({one})")),
            (inner.clone(), operator, inner).prop_map(|(l, o, r)| format!("({l}) {o} ({r})")),
        ]
    })
}

fn visits() -> impl Strategy<Value = Fake> {
    let word = || proptest::sample::select(&WORDS[..]).prop_map(str::to_owned);
    let entry = (0..3_usize, proptest::sample::select(&KEYS[..]), word());
    let names: Vec<_> = NAMES.iter().filter(|(_, m, _)| matches!(m, Meaning::Text(_))).map(|(n, ..)| *n).collect();
    (
        proptest::collection::vec(word(), names.len()),
        (-1..4_i64, -1..4_i64, -1..4_i64),
        proptest::collection::vec(entry, 0..5),
        any::<bool>(),
        proptest::sample::select(&["192.0.2.7", "10.1.2.3", "2001:db8::1"][..]),
        proptest::collection::vec(word(), 0..3),
    )
        .prop_map(move |(words, (hour, weekday, asn), entries, is_bot, address, tags)| {
            let mut known: Vec<(Map, String, String)> = Vec::new();
            for (map, key, value) in entries {
                let map = [Map::Query, Map::Header, Map::Cookie][map];
                if !known.iter().any(|(of, name, _)| *of == map && name == key) {
                    known.push((map, key.to_owned(), value));
                }
            }
            let texts = names.iter().copied().zip(words).collect();
            Fake { texts, hour, weekday, asn, entries: known, is_bot, address: address.parse().unwrap(), tags }
        })
}

/// What the interpreter of the `cel` crate says; an error does not hold.
fn interpreted(condition: &str, visit: &Fake) -> bool {
    let mut context = cel::Context::default();
    for (name, text) in &visit.texts {
        context.add_variable_from_value(*name, text.clone());
    }
    context.add_variable_from_value("hour", visit.hour);
    context.add_variable_from_value("weekday", visit.weekday);
    context.add_variable_from_value("asn", visit.asn);
    context.add_variable_from_value("is_bot", visit.is_bot);
    context.add_variable_from_value("ip", visit.address.to_string());
    context.add_variable_from_value("tags", visit.tags.clone());
    for (name, map) in [("query", Map::Query), ("header", Map::Header), ("cookie", Map::Cookie)] {
        let of = visit.entries.iter().filter(|(of, ..)| *of == map);
        let entries: HashMap<String, String> = of.map(|(_, key, value)| (key.clone(), value.clone())).collect();
        context.add_variable_from_value(name, entries);
    }
    let within = |This(ip): This<Arc<String>>, network: Arc<String>| {
        network.parse::<Network>().unwrap().contains(ip.parse().unwrap())
    };
    context.add_function("in_cidr", within).unwrap();
    let program = cel::Program::compile(condition).unwrap();
    program.execute(&context).is_ok_and(|value| value == cel::Value::Bool(true))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn conditions_hold_exactly_where_cel_says_so(condition in conditions(), visit in visits()) {
        let parsed = Condition::parse(&condition).map_err(|faults| TestCaseError::fail(format!("{faults:?}")))?;
        prop_assert_eq!(parsed.holds(&visit), interpreted(&condition, &visit), "{}", condition);
    }

    #[test]
    fn what_is_explained_is_what_holds(condition in conditions(), visit in visits()) {
        let parsed = Condition::parse(&condition).map_err(|faults| TestCaseError::fail(format!("{faults:?}")))?;
        let explained = parsed.explain(&visit);
        prop_assert_eq!(explained.truth == Some(true), parsed.holds(&visit));
        prop_assert!(explained.parts.iter().any(|part| part.decides), "{}", condition);
        // Each part is a condition that says of itself what was told of it.
        for part in &explained.parts {
            let alone = Condition::parse(&part.text).map_err(|faults| TestCaseError::fail(format!("{faults:?}")))?;
            prop_assert_eq!(alone.explain(&visit).truth, part.truth, "{}", &part.text);
        }
        // And so is the whole, however deep.
        let whole = Condition::parse(&parsed.root.to_string()).map_err(|faults| TestCaseError::fail(format!("{faults:?}")))?;
        prop_assert_eq!(whole.root.truth(&visit), explained.truth, "{}", condition);
        // Those that decide are of one mind with the whole, where nothing turns them round.
        if !condition.contains("!(") && !condition.contains(") == (") && !condition.contains(") != (") {
            let of_one_mind = |part: &explain::Part| !part.decides || part.truth == explained.truth;
            prop_assert!(explained.parts.iter().all(of_one_mind), "{}", condition);
        }
    }

    #[test]
    fn no_text_breaks_the_parser(text in "[a-z\\[\\]().\"'=!&|<>?:0-9{}`\\\\é \n-]{0,40}") {
        if let Err(faults) = Condition::parse(&text) {
            prop_assert!(!faults.is_empty());
        }
    }
}
