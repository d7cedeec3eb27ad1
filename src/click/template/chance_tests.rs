//! Destinations by chance: whatever visitors send, it stays in its place.

use proptest::prelude::*;

use super::tests::{ALL_MACROS, ID, value, values, visit, written};
use super::*;

/// What visitors try.
fn nasty() -> impl Strategy<Value = String> {
    const TRIED: [&str; 24] = [
        "",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        ".%2e",
        "...",
        "/",
        "//",
        "//evil.example",
        "%2f%2Fevil.example",
        "\\\\evil.example",
        "\\",
        "@evil.example",
        ":1",
        "#f",
        "?q",
        "%",
        "%2",
        "%25",
        "+",
        "%0d%0aX:%20y",
        "\r\nX: y",
        "%E9",
    ];
    prop_oneof![proptest::sample::select(&TRIED[..]).prop_map(str::to_owned), "\\PC{0,8}", any::<String>()]
}

/// A macro with some of the modifiers.
fn any_macro() -> impl Strategy<Value = String> {
    let default = prop_oneof![Just(""), Just(":default=d"), Just(":default=.."), Just(":default=//e@x&;#?%0a%7D")];
    let modifiers = (any::<bool>(), any::<bool>(), default);
    (proptest::sample::select(&ALL_MACROS[..]), modifiers).prop_map(|(name, (raw, hash, default))| {
        format!("{{{name}{}{}{default}}}", if raw { ":raw" } else { "" }, if hash { ":hash" } else { "" })
    })
}

fn any_text(around: &'static [&'static str]) -> impl Strategy<Value = String> {
    let text = proptest::sample::select(around).prop_map(str::to_owned);
    proptest::collection::vec(prop_oneof![text, any_macro()], 0..6).prop_map(|parts| parts.concat())
}

/// A path, a query, a fragment.
fn any_template() -> impl Strategy<Value = String> {
    let path = any_text(&["/", "/", ".", "%2e", "a", "\u{e9}"]);
    let (query, fragment) = (any_text(&["a=", "&b=", "/..//", "%", "?"]), any_text(&["a", "/..//", "#"]));
    (path, proptest::option::of(query), proptest::option::of(fragment)).prop_map(|(path, query, fragment)| {
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let fragment = fragment.map_or_else(String::new, |fragment| format!("#{fragment}"));
        format!("https://a.example:8443/{path}{query}{fragment}")
    })
}

fn any_query() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(&ALL_MACROS[..]).prop_map(|name| name.trim_start_matches("q:"));
    let pairs = proptest::collection::vec((name, nasty()).prop_map(|(name, value)| format!("{name}={value}")), 0..12);
    prop_oneof![pairs.prop_map(|pairs| pairs.join("&")), nasty()]
}

/// Ids, names, headers, and what is known of the address.
type Others = ([String; 6], [Vec<u8>; 3], Option<[u8; 16]>, bool);

fn any_others() -> impl Strategy<Value = Others> {
    let header = || prop_oneof![nasty().prop_map(String::into_bytes), any::<Vec<u8>>()];
    let names = [nasty(), nasty(), nasty(), nasty(), nasty(), nasty()];
    (names, [header(), header(), header()], any::<Option<[u8; 16]>>(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_input_changes_scheme_host_or_port_nor_leaves_its_place_nor_the_header(
        text in any_template(), query in any_query(), others in any_others(), forward: bool,
    ) {
        let Ok((template, _)) = Template::parse(&text) else {
            // A `..` of the operator, which takes a macro away.
            return Ok(());
        };
        let Part::Text(own) = &template.main[0] else { unreachable!("a host") };
        // Two slashes of the operator.
        prop_assume!(!own.starts_with("https://a.example:8443//"));
        let ([campaign, link, rule, variant, region, city], [ua, referrer, language], address, known) = &others;
        let visit = Visit { ua, referrer, language, ..visit(&query) };
        let external = query::find(&query, "click_id").unwrap_or_default();
        let values = values(&visit, &external);
        let values = Values {
            campaign, link, rule, variant, region, city,
            asn: if *known { values.asn } else { 0 },
            address: address.map(IpAddr::from),
            country: values.country.filter(|_| *known),
            local: values.local.filter(|_| *known),
            ..values
        };
        let url = written(&template, &values, forward);
        prop_assert!(url.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{url}");
        let behind = url.strip_prefix("https://a.example:8443/");
        prop_assert!(behind.is_some_and(|behind| !behind.starts_with(['/', '\\'])), "{url}");
        let parsed = url::Url::parse(&url).unwrap();
        prop_assert_eq!(parsed.origin().ascii_serialization(), "https://a.example:8443");
        prop_assert!(parsed.username().is_empty() && parsed.password().is_none(), "{url}");
        // A browser goes to the path that was written: nothing in it steps up.
        let path = behind.and_then(|behind| behind.split(['?', '#']).next()).unwrap();
        prop_assert_eq!(parsed.path().strip_prefix('/'), Some(path));
        // No value ends a parameter, the path or the query.
        let nobody = Visit { ua: b"", referrer: b"", language: b"", ..visit };
        let nobody = Visit { query: "", ..nobody };
        let ends = |url: &str| url.bytes().filter(|byte| b"&;?#".contains(byte)).count();
        let empty = written(&template, &Values::of(&nobody), false);
        prop_assert_eq!(ends(&written(&template, &values, false)), ends(&empty));
    }

    #[test]
    fn any_text_is_a_destination_or_refused_with_a_reason(
        text: String, inside in any_text(&["{", "}", ":", "q:", "/", "?"]),
    ) {
        for text in [&text, &format!("https://a.example/{text}"), &format!("https://a.example/{{{inside}}}{text}")] {
            match Template::parse(text) {
                Ok((_, url)) => prop_assert!(url.has_host()),
                Err(reason) => prop_assert!(!reason.is_empty()),
            }
        }
    }

    #[test]
    fn without_its_id_a_destination_says_nothing_of_it(text in any_template(), query in any_query()) {
        let Ok((template, _)) = Template::parse(&text) else { return Ok(()) };
        let visit = visit(&query);
        let values = values(&visit, b"");
        let with = written(&template, &values, true);
        let without = written(&template, &Values { click_id: None, ..values }, true);
        let hash = value("click_id:hash", "");
        prop_assert!(!without.contains(ID) && !without.contains(&hash), "{without}");
        if template.id_can_be_cut() {
            prop_assert_eq!(with.replace(ID, ""), without);
        }
    }
}
