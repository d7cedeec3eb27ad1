//! Destinations by examples.

use super::*;
use crate::click::campaign::Zone;

pub(super) const ID: &str = "018bcfe5-6800-7000-8000-000000000000";
const UNIX_MS: u64 = 1_700_000_000_999;

pub(super) fn visit(query: &str) -> Visit<'_> {
    Visit {
        host: b"Go.Example:8080",
        marks: Default::default(),
        query,
        head: false,
        prefetch: false,
        address: [192, 0, 2, 1].into(),
        ua: b"Agent/1 (x; y)",
        referrer: b"https://News.Example/a%20b?c=d+e",
        language: b"de-AT,en;q=0.5",
    }
}

pub(super) fn values<'a>(visit: &'a Visit<'a>, external_click_id: &'a [u8]) -> Values<'a> {
    Values {
        click_id: Some(ClickId::new(1_700_000_000_000, &[0; 10])),
        external_click_id,
        campaign: "mail 7",
        link: "spring",
        rule: "phones & co",
        variant: "b",
        unix_ms: UNIX_MS,
        visit,
        address: Some("2001:db8:aaaa::".parse().unwrap()),
        country: Some(*b"DE"),
        region: "BW",
        city: "Bad W\u{fc}nnenberg & Co\r\nX: y",
        asn: 4_294_967_295,
        device: "mobile",
        os: "iOS",
        browser: "Samsung Internet",
        local: Some(Zone::default().local(UNIX_MS)),
    }
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).0
}

pub(super) fn written(template: &Template, values: &Values<'_>, forward: bool) -> String {
    let mut out = Vec::new();
    template.splice(values, forward, &mut out);
    String::from_utf8(out).unwrap()
}

fn spliced(text: &str, query: &str, forward: bool) -> String {
    let visit = visit(query);
    let external = query::find(query, "click_id").unwrap_or_default();
    written(&template(text), &values(&visit, &external), forward)
}

/// What stands for this macro in a query.
pub(super) fn value(of: &str, query: &str) -> String {
    let url = spliced(&format!("https://a.example/?v={{{of}}}"), query, false);
    url.strip_prefix("https://a.example/?v=").unwrap().to_owned()
}

#[test]
fn every_macro_has_its_value() {
    let query = "click_id=A%2FB+%26&source=s&sub1=1&sub10=x&sub2=&sub3=3%zz";
    for (name, expected) in [
        ("click_id", ID),
        ("external_click_id", "A%2FB%20%26"),
        ("campaign", "mail%207"),
        ("link", "spring"),
        ("slug", "spring"),
        ("rule", "phones%20%26%20co"),
        ("variant", "b"),
        ("source", "s"),
        ("sub1", "1"),
        ("sub2", ""),
        ("sub3", "3%25zz"),
        ("sub4", ""),
        ("sub10", "x"),
        ("country", "DE"),
        ("region", "BW"),
        ("city", "Bad%20W%C3%BCnnenberg%20%26%20Co%0D%0AX%3A%20y"),
        ("city:raw", "Bad%20W%C3%BCnnenberg%20%26%20Co%0D%0AX:%20y"),
        ("asn", "4294967295"),
        ("device", "mobile"),
        ("os", "iOS"),
        ("browser", "Samsung%20Internet"),
        ("language", "de"),
        ("ts", "1700000000"),
        ("ts_ms", "1700000000999"),
        ("date", "2023-11-14"),
        ("referrer", "https%3A%2F%2FNews.Example%2Fa%2520b%3Fc%3Dd%2Be"),
        ("referrer_domain", "news.example"),
        ("ip", "2001%3Adb8%3Aaaaa%3A%3A"),
        ("user_agent", "Agent%2F1%20%28x%3B%20y%29"),
        ("q:sub1", "1"),
        ("q:raw", ""),
    ] {
        assert_eq!(value(name, query), expected, "{name}");
    }
    // What messages tell people is there.
    for rest in MACROS.split('{').skip(1) {
        let name = rest.split('}').next().unwrap();
        assert!(ALL_MACROS.contains(&name) || name == "q:name", "{name}");
        template(&format!("https://a.example/{{{name}}}"));
    }
}

#[test]
fn what_is_not_known_is_empty_or_its_default() {
    let bare = Visit { ua: b"", referrer: b"", language: b"*", ..visit("") };
    let values = Values { unix_ms: UNIX_MS, ..Values::of(&bare) };
    for name in ALL_MACROS.iter().filter(|name| !name.starts_with("ts")) {
        for (modifiers, expected) in [("", ""), (":raw", ""), (":hash", ""), (":raw:hash:default=a:b", "a%3Ab")] {
            let text = format!("https://a.example/?v={{{name}{modifiers}}}#f");
            let expected = format!("https://a.example/?v={expected}#f");
            assert_eq!(written(&template(&text), &values, false), expected, "{text}");
        }
    }
}

/// As the visitor sent it; as it is written; as `:raw` writes it.
#[test]
fn values_keep_their_meaning_and_raw_ones_their_spelling() {
    for (sent, plain, raw) in [
        ("a+b", "a%20b", "a+b"),
        ("a%2Bb", "a%2Bb", "a%2Bb"),
        ("a%2bb", "a%2Bb", "a%2bb"),
        ("a%20b", "a%20b", "a%20b"),
        ("1+1%2B1", "1%201%2B1", "1+1%2B1"),
        ("%C3%A9", "%C3%A9", "%C3%A9"),
        ("é", "%C3%A9", "%C3%A9"),
        ("%e2%82%ac", "%E2%82%AC", "%e2%82%ac"),
        // No UTF-8: the bytes stay what they are.
        ("%FF%fe", "%FF%FE", "%FF%fe"),
        ("%C3", "%C3", "%C3"),
        ("%23top", "%23top", "%23top"),
        ("#top", "%23top", "%23top"),
        ("%0d%0aSet-Cookie:%20a=b", "%0D%0ASet-Cookie%3A%20a%3Db", "%0d%0aSet-Cookie:%20a=b"),
        ("\r\nX: y", "%0D%0AX%3A%20y", "%0D%0AX:%20y"),
        ("//evil.example", "%2F%2Fevil.example", "%2F%2Fevil.example"),
        ("%2f%2fevil.example", "%2F%2Fevil.example", "%2f%2fevil.example"),
        ("\\\\evil.example", "%5C%5Cevil.example", "%5C%5Cevil.example"),
        ("%5c", "%5C", "%5c"),
        ("a@b:1", "a%40b%3A1", "a@b:1"),
        ("YWI9PQ==", "YWI9PQ%3D%3D", "YWI9PQ=="),
        ("a;b?c/d", "a%3Bb%3Fc%2Fd", "a%3Bb%3Fc%2Fd"),
        ("100%", "100%25", "100%25"),
        ("%zz%4", "%25zz%254", "%25zz%254"),
        ("%2", "%252", "%252"),
        ("\"<>`{}|^", "%22%3C%3E%60%7B%7D%7C%5E", "%22%3C%3E%60%7B%7D%7C%5E"),
        ("!$'()*,", "%21%24%27%28%29%2A%2C", "!$'()*,"),
        ("\u{0}\u{7f}", "%00%7F", "%00%7F"),
        ("", "", ""),
    ] {
        let query = format!("x={sent}&x=second");
        assert_eq!((value("q:x", &query).as_str(), value("q:x:raw", &query).as_str()), (plain, raw), "{sent:?}");
        let query = format!("click_id={sent}&sub1={sent}&source={sent}");
        for name in ["external_click_id", "sub1", "source"] {
            assert_eq!(value(&format!("{name}:raw"), &query), raw, "{name}, {sent:?}");
        }
    }
}

#[test]
fn of_a_repeated_parameter_the_first_counts_also_when_it_is_empty() {
    assert_eq!(value("q:x", "a=0&x=1&x=2"), "1");
    assert_eq!(value("q:x:raw", "%78=1+&x=2"), "1+");
    assert_eq!(value("q:x", "x=&x=2"), "");
    assert_eq!(value("q:x:default=d", "x=&x=2"), "d");
    assert_eq!(value("q:x:default=d", "x&x=2"), "d");
    assert_eq!(value("sub1", "sub10=a&sub11=b&xsub1=c"), "");
}

#[test]
fn raw_values_of_headers_are_not_encoded_twice() {
    assert_eq!(value("referrer:raw", ""), "https:%2F%2FNews.Example%2Fa%20b%3Fc=d+e");
    assert_eq!(value("user_agent:raw", ""), "Agent%2F1%20(x%3B%20y)");
    assert_eq!(value("ip:raw", ""), "2001:db8:aaaa::");
    assert_eq!(value("click_id:raw", ""), ID);
}

/// `printf %s VALUE | sha256sum`
#[test]
fn a_hash_is_the_sha_256_of_the_value() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(value("q:x:hash", "x=abc"), abc);
    assert_eq!(value("q:x:raw:hash", "x=abc"), abc);
    assert_eq!(value("q:x:hash:default=none", "x=abc"), abc);
    assert_eq!(value("click_id:hash", ""), "05fac30ef4e0a90d059ebc1d30f6badcd2a43ec732aa9ac8da57d117ad156b70");
    // Of what was meant, or of what was sent: `a b`, `a+b`.
    assert_eq!(value("q:x:hash", "x=a+b"), "c8687a08aa5d6ed2044328fa6a697ab8e96dc34291e8c2034ae8c38e6fcc6d65");
    assert_eq!(value("q:x:raw:hash", "x=a+b"), "300273daf0bb57c239f83585d71ced54ce6b3b5fb81615abbeeb3f9cf5fae92f");
    assert_eq!(value("q:x:hash", "x="), "");
}

#[test]
fn a_default_is_written_for_what_is_empty_and_encoded_as_a_value() {
    for (default, expected) in [
        ("none", "none"),
        ("a:b=c", "a%3Ab%3Dc"),
        ("é/?#&", "%C3%A9%2F%3F%23%26"),
        ("a%20b%7d+", "a%20b%7D%2B"),
        ("100%", "100%25"),
        ("raw:hash", "raw%3Ahash"),
    ] {
        assert_eq!(value(&format!("sub1:default={default}"), ""), expected, "{default}");
        assert_eq!(value(&format!("sub1:raw:hash:default={default}"), "sub1="), expected, "{default}");
        assert_eq!(value(&format!("sub1:default={default}"), "sub1=1"), "1", "{default}");
    }
    // A name with a colon or a brace is written with escapes, as in a query.
    assert_eq!(value("q:a%3Ab%7D:default=d", "a:b%7D=1"), "1");
    assert_eq!(value("q:a+b", "a%2Bb=1"), "1");
}

#[test]
fn a_forwarded_query_goes_behind_the_own_one_and_before_the_fragment() {
    assert_eq!(spliced("https://a.example/#f", "b=2&c=%20", true), "https://a.example/?b=2&c=%20#f");
    assert_eq!(spliced("https://a.example/?a=1", "b=2", true), "https://a.example/?a=1&b=2");
    assert_eq!(spliced("https://a.example/?a=1", "", true), "https://a.example/?a=1");
    assert_eq!(spliced("https://a.example/", "b=\"<{é", true), "https://a.example/?b=%22%3C%7B%C3%A9");
    assert_eq!(spliced("https://a.example/{q:a}", "a=..&b=/..//", true), "https://a.example/?a=..&b=/..//");
}

#[test]
fn text_is_normalised_once_and_stays_ascii() {
    assert_eq!(spliced("https://bücher.example/ü?q=ü", "", false), "https://xn--bcher-kva.example/%C3%BC?q=%C3%BC");
}

#[test]
fn a_value_cannot_step_up_in_the_path_nor_begin_it_with_two_slashes() {
    for (path, query, expected) in [
        ("{q:a}/x", "", "x"),
        ("{q:a}", "a=//evil.example", "%2F%2Fevil.example"),
        ("{q:a:raw}", "a=//evil.example", "%2F%2Fevil.example"),
        ("{q:a}/{q:b}/x", "a=..", "x"),
        ("{q:a}/{q:b}/x", "b=..", "x"),
        ("{q:a}/{q:b}", "", ""),
        ("p/{q:a}/x", "", "p//x"),
        ("p/{q:a}/x", "a=..", "p//x"),
        ("p/{q:a:raw}", "a=%2e%2E", "p/"),
        ("p/{q:a:raw}/", "a=.%2e", "p//"),
        ("p/.{q:a}", "", "p/"),
        ("p/{q:a}{q:b}", "a=.&b=.", "p/"),
        ("p/{q:a}", "a=...", "p/..."),
        ("p/{q:a}", "a=..%2F..", "p/..%2F.."),
        ("p/x{q:a}", "a=..", "p/x.."),
        // What the operator wrote stays.
        ("/p/{q:a}", "a=.", "/p/"),
        ("/{q:a}/x", "", "/x"),
        ("{q:a:default=d}/x?{q:a}=/..//{q:a}#//{q:a}", "", "d/x?=/..//#//"),
    ] {
        let url = spliced(&format!("https://a.example/{path}"), query, false);
        assert_eq!(url, format!("https://a.example/{expected}"), "{path} {query}");
    }
}

#[test]
fn bad_destinations_are_refused_with_the_reason() {
    for (url, reason) in [
        ("ftp://a.example/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("/relative", "absolute"),
        ("https://", "absolute"),
        ("https://user:pw@a.example/", "user information"),
        ("https://@a.example/", "user information"),
        ("https://a.example/\u{7}", "character"),
        ("https://a.example\\@b.example/", "character"),
        ("https://a.example/{nope}", "unknown macro {nope}; there are {click_id}, "),
        ("https://a.example/{nope:raw}", "unknown macro {nope}"),
        ("https://a.example/{sub0}", "unknown macro"),
        ("https://a.example/{sub11}", "unknown macro"),
        ("https://a.example/{sub01}", "unknown macro"),
        ("https://a.example/{}", "unknown macro"),
        ("https://a.example/{:raw}", "unknown macro"),
        ("https://a.example/{Click_id}", "unknown macro"),
        ("https://a.example/{q}", "unknown macro {q}"),
        ("https://a.example/{q:}", "the name of a parameter is 1 to 64 bytes"),
        ("https://a.example/{q::raw}", "the name of a parameter is 1 to 64 bytes"),
        ("https://a.example/{q:%ff}", "UTF-8"),
        ("https://a.example/{sub1:upper}", "unknown modifier `:upper` in {sub1:upper}; there are `:raw`, `:hash`"),
        ("https://a.example/{sub1:}", "unknown modifier `:`"),
        ("https://a.example/{sub1:Raw}", "unknown modifier `:Raw`"),
        ("https://a.example/{q:a:b}", "unknown modifier `:b` in {q:a:b}"),
        ("https://a.example/{sub1:default}", "unknown modifier `:default` in {sub1:default}"),
        ("https://a.example/{sub1:hash:raw}", "with `:raw` twice or in the wrong place"),
        ("https://a.example/{sub1:raw:raw}", "with `:raw` twice or in the wrong place"),
        ("https://a.example/{sub1:hash:hash}", "with `:hash` twice"),
        ("https://a.example/{sub1:default=}", "whose default is empty"),
        ("https://a.example/{sub1:default={click_id}}", "no macro"),
        ("https://a.example/{", "no macro"),
        ("https://a.example/}", "no macro"),
        ("https://{slug}.example/", "host"),
        ("https://a.example:{ts}/", "host"),
        ("{q:x}", "host"),
        ("https://{slug}", "host"),
        ("https://{slug:default=/}", "host"),
        ("https://a.example/{slug}/../{ts}", "`..` takes away"),
    ] {
        let error = Template::parse(url).expect_err(url);
        assert!(error.contains(reason), "{url}: {error}");
    }
    let many = |number| format!("https://a.example/?{}", "{ts}".repeat(number));
    assert!(Template::parse(&many(MACROS_MAX)).is_ok());
    assert!(Template::parse(&many(MACROS_MAX + 1)).unwrap_err().contains("51 macros; 50 at most"));
    assert!(Template::parse(&format!("https://a.example/?{{q:{}}}", "x".repeat(64))).is_ok());
    assert!(Template::parse(&format!("https://a.example/?{{q:{}}}", "x".repeat(65))).is_err());
}

#[test]
fn only_a_template_without_macros_is_constant() {
    let constant = |text: &str| template(text).constant();
    assert_eq!(constant("https://a.example/x#y").as_deref(), Some("https://a.example/x#y"));
    assert_eq!(constant("https://a.example/{ts}"), None);
    assert_eq!(constant("https://a.example/{ts:hash}"), None);
}

#[test]
fn a_template_says_what_it_needs_and_no_more() {
    let needs = |text: &str| template(&format!("https://a.example/{text}")).needs();
    assert_eq!(needs(""), Needs::NOTHING);
    assert_eq!(needs("{click_id}{ts}{ip}{user_agent}{referrer}{language}{rule}{q:country}"), Needs::NOTHING);
    assert_eq!(needs("?{country:hash}"), Needs::PLACE);
    for text in ["{device}", "?{os:raw}", "#{browser:default=x}"] {
        assert_eq!(needs(text), Needs::AGENT, "{text}");
    }
    assert_eq!(needs("{ts}?{date}#{os}"), Needs::TIME.and(Needs::AGENT));
}

#[test]
fn an_id_can_be_cut_out_where_it_stands_as_it_is_behind_the_path() {
    let can = |text: &str| template(&format!("https://a.example/{text}")).id_can_be_cut();
    for text in ["", "{ts}/{sub1:hash}", "?{click_id}", "{ts}?a={click_id}&{click_id}#{click_id}"] {
        assert!(can(text), "{text}");
    }
    for text in ["{click_id}", "?{click_id:hash}", "?{click_id}#{click_id:default=x}", "{ts}/{click_id}/x?{click_id}"] {
        assert!(!can(text), "{text}");
    }
}

/// All of them, as the table of the README must have them.
pub(super) const ALL_MACROS: [&str; 34] = [
    "region",
    "city",
    "asn",
    "click_id",
    "external_click_id",
    "campaign",
    "link",
    "slug",
    "rule",
    "variant",
    "source",
    "sub1",
    "sub2",
    "sub3",
    "sub4",
    "sub5",
    "sub6",
    "sub7",
    "sub8",
    "sub9",
    "sub10",
    "country",
    "device",
    "os",
    "browser",
    "language",
    "ts",
    "ts_ms",
    "date",
    "referrer",
    "referrer_domain",
    "ip",
    "user_agent",
    "q:x",
];
