//! Tests of the levels and of the policy: the whole table of the decision, and that nothing of a visit gets past a level.

use super::*;
use crate::catalog::geo::continent;
use crate::click::Marks;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn policy([gpc, dnt, consent_refused, consent_missing]: [Level; 4], regions: &[(&str, Level)]) -> Policy {
    let mut table = Regions::default();
    assert!(regions.iter().all(|(region, level)| table.demand(region, *level)), "{regions:?}");
    Policy {
        gpc,
        dnt,
        parameter: "consent".into(),
        given: words(&["1", "yes"]),
        refused: words(&["0", "no"]),
        consent_refused,
        consent_missing,
        regions: table,
        parameters: words(&["click_id", "a b"]),
    }
}

#[test]
fn the_strictest_level_applies_and_consent_lifts_the_country_and_never_the_browser() {
    use Level::{Full, Limited, None as Nothing};
    let consents = [Consent::Given, Consent::Refused, Consent::Missing];
    let countries = [(Some(*b"DE"), "DE"), (Some(*b"US"), "US"), (None, "unknown")];
    let mut seen = 0;
    // Every level for every reason to have one, all signals, all consents, three kinds of countries.
    for number in 0..3_usize.pow(7) {
        let level = |place: u32| Level::ALL[number / 3_usize.pow(place) % 3];
        let levels = [level(0), level(1), level(2), level(3)];
        let regions = [("DE", level(4)), ("US", level(5)), ("unknown", level(6))];
        let policy = policy(levels, &regions);
        assert_eq!(policy.asks_for_country(), regions.iter().any(|(_, level)| *level != Full));
        for (signals, consent) in (0..4).flat_map(|signals| consents.map(|consent| (signals, consent))) {
            for (country, word) in countries {
                let (gpc, dnt) = (signals & 1 != 0, signals & 2 != 0);
                let mut applies = vec![Full];
                if gpc {
                    applies.push(levels[0]);
                }
                if dnt {
                    applies.push(levels[1]);
                }
                match consent {
                    Consent::Given => {}
                    Consent::Refused => applies.push(levels[2]),
                    Consent::Missing => applies.push(levels[3]),
                }
                if consent != Consent::Given {
                    applies.extend(regions.iter().find(|(region, _)| *region == word).map(|(_, level)| *level));
                }
                let strictest = [Nothing, Limited, Full].into_iter().find(|level| applies.contains(level));
                let decided = policy.decide(&Signals { gpc, dnt, consent, country });
                assert_eq!(Some(decided), strictest, "{signals} {consent:?} {word} {policy:?}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3_usize.pow(7) * 4 * 3 * 3);
}

#[test]
fn a_decision_is_made_once_and_remembered_for_visits_that_say_the_same() {
    let policy = policy([Level::Limited, Level::None, Level::None, Level::Full], &[("EEA", Level::Limited)]);
    let letters = b'A'..=b'Z';
    let codes = letters.clone().flat_map(|first| letters.clone().map(move |second| Some([first, second])));
    let countries: Vec<_> = codes.chain([None]).collect();
    let mut forms = Vec::new();
    for (gpc, dnt) in [(false, false), (false, true), (true, false), (true, true)] {
        for consent in [Consent::Given, Consent::Refused, Consent::Missing] {
            forms.extend(countries.iter().map(|country| Signals { gpc, dnt, consent, country: *country }));
        }
    }
    let mut decisions = Decisions::default();
    for remembered in [false, true] {
        for signals in &forms {
            assert_eq!(decisions.decide(&policy, signals), (policy.decide(signals), remembered), "{signals:?}");
        }
    }
}

#[test]
fn a_union_stands_for_its_countries_and_every_country_is_known() {
    let of = |region: &str| {
        let mut regions = Regions::default();
        assert!(regions.demand(region, Level::Limited), "{region}");
        let codes = COUNTRIES.split(' ').filter(|code| regions.of(code.as_bytes().try_into().ok()) == Level::Limited);
        (codes.collect::<Vec<_>>(), regions.of(None))
    };
    let (eu, eea) = (of("EU").0, of("EEA").0);
    assert_eq!((eu.len(), eea.len()), (27 + 7, 27 + 7 + 3));
    assert!(eu.iter().all(|code| eea.contains(code)) && !eu.contains(&"NO") && eea.contains(&"NO"));
    assert!(!eea.contains(&"GB") && !eea.contains(&"CH"));
    assert_eq!(of("unknown"), (vec![], Level::Limited));
    for code in COUNTRIES.split(' ') {
        assert_eq!(of(code), (vec![code], Level::Full));
    }
    // All of the table by which the shipped data's codes have continents, and no other.
    let letters = || b'A'..=b'Z';
    for code in letters().flat_map(|first| letters().map(move |second| [first, second])) {
        let text = String::from_utf8(code.to_vec()).unwrap();
        assert_eq!(COUNTRIES.split(' ').any(|known| known == text), continent(code).is_some(), "{text}");
        assert_eq!(Regions::default().demand(&text, Level::None), continent(code).is_some() || text == "EU", "{text}");
    }
    for bad in ["", "D", "de", "DEU", "UK", "EU EEA", "AT BE", "Unknown"] {
        assert!(!Regions::default().demand(bad, Level::None), "{bad}");
    }
}

#[test]
fn consent_is_what_the_parameter_says_and_one_refusal_is_enough() {
    let policy = policy([Level::Full; 4], &[]);
    for (query, consent) in [
        ("", Consent::Missing),
        ("a=1", Consent::Missing),
        ("consent", Consent::Missing),
        ("consent=maybe", Consent::Missing),
        ("xconsent=1&consentx=1", Consent::Missing),
        ("a=b&consent=YES", Consent::Given),
        ("con%73ent=%31", Consent::Given),
        ("consent=No", Consent::Refused),
        ("consent=1&consent=0", Consent::Refused),
        ("consent=0&consent=1", Consent::Refused),
        ("consent=maybe&consent=1", Consent::Given),
    ] {
        assert_eq!(policy.consent(query), consent, "{query}");
    }
    let without = Policy { parameter: String::new(), ..policy };
    assert_eq!((without.consent("=1"), without.consent("consent=1")), (Consent::Missing, Consent::Missing));
}

const VISIT: Visit<'_> = Visit {
    host: b"go.example",
    query: "click_id=x%20y&uid=42&a+b=1&click_id=z&&a",
    head: true,
    prefetch: true,
    marks: Marks::NO_ACCEPT,
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    ua: b"Mozilla/5.0",
    referrer: b"https://news.example/user/42?mail=a",
    language: b"de-AT,en;q=0.7",
};

#[test]
fn each_level_keeps_what_its_table_says() {
    let policy = policy([Level::Full; 4], &[]);
    for (level, query, ua, referrer, language) in [
        (Level::Full, VISIT.query, VISIT.ua, VISIT.referrer, VISIT.language),
        (Level::Limited, "click_id=x%20y&a+b=1&click_id=z", b"", b"https://news.example", b"de-AT"),
        (Level::None, "", b"", b"", b""),
    ] {
        let kept = policy.query(level, VISIT.query);
        let cut = level.cut(&VISIT, &kept);
        assert_eq!((cut.query, cut.ua, cut.referrer, cut.language), (query, ua, referrer, language), "{level:?}");
        assert_eq!((cut.head, cut.prefetch, level.name()), (true, true, Level::NAMES[level as usize]));
        let keeps = level.keeps();
        assert_eq!(keeps.address, keeps.ua, "who may not be recognised by one is not by the other");
        assert_eq!((keeps.address, keeps.facts), (level == Level::Full, level != Level::None));
    }
    assert!(Level::ALL.is_sorted());
}

proptest::proptest! {
    #[test]
    fn a_limited_click_keeps_the_listed_parameters_and_no_others(query in "([ab]?(click_id|a\\+b|%61|uid)?(=[a-z%0-9+=]{0,5})?&){0,6}") {
        let policy = policy([Level::Full; 4], &[]);
        let kept = policy.query(Level::Limited, &query);
        let listed = |(name, _): &(&str, &str)| matches!(&*decode(name), b"click_id" | b"a b");
        let expected: Vec<_> = pairs(&query).filter(listed).collect();
        proptest::prop_assert_eq!(pairs(&kept).collect::<Vec<_>>(), expected);
    }
}
