//! Frames: what was encoded decodes to itself, whatever the version, and nothing else does.

use super::*;

const MARKS_AT: usize = CLICK_ID_AT + 16;
/// Of a click with a fingerprint and without address and country.
const PRIVACY_AT: usize = MARKS_AT + 1 + 16;

fn click<'a>(ua: &'a [u8], query: &'a str, address: Option<Kept>) -> Click<'a> {
    Click {
        id: ClickId::new(1_700_000_000_000, &[9; 10]),
        fingerprint: Some(Fingerprint([3; 16])),
        window: None,
        head: true,
        prefetch: false,
        bound: true,
        marks: Marks::NO_ACCEPT.with(Marks::TLS, true),
        status: 302,
        route_version: 4,
        address,
        country: None,
        privacy: Privacy::default(),
        org: "default",
        campaign: "",
        domain: "go.example",
        link: "spring",
        path: b"/x",
        rule: "phones",
        variant: "b",
        destination: b"https://a.example/",
        referrer: b"\xff",
        ua,
        language: b"de",
        query,
    }
}

#[test]
fn a_frame_that_is_cut_anywhere_is_refused() {
    let mut frame = Vec::new();
    click(b"ua", "a=1", None).encode(&mut frame);
    for end in 0..frame.len() {
        assert!(Click::decode(&frame[..end]).is_err(), "cut at {end}");
    }
    assert_eq!((unix_ms(&frame), unix_ms(&frame[..27])), (Some(1_700_000_000_000), None));
    frame.push(0);
    assert_eq!(Click::decode(&frame), Err(BadFrame::Length));
    frame[0] = 5;
    assert_eq!(Click::decode(&frame), Err(BadFrame::Version(5)));
}

#[test]
fn a_frame_says_what_privacy_took_away_and_an_unknown_level_is_refused() {
    let (found, enforced) = (Reasons::AGENT_CRAWLER.and(Reasons::AGENT_ODD), Reasons::AGENT_CRAWLER);
    let reasons = AgentReasons { found, enforced, sends_fetch_metadata: true };
    let agent = Agent { device: "mobile", os: "iOS", browser: "", reasons };
    let plain = click(b"", "", None);
    for level in Level::ALL {
        for agent in [None, Some(agent), Some(Agent::default())] {
            let click = Click { privacy: Privacy { level, agent }, ..plain };
            let mut frame = Vec::new();
            click.encode(&mut frame);
            assert_eq!(Click::decode(&frame), Ok(click));
        }
    }
    let mut frame = Vec::new();
    plain.encode(&mut frame);
    assert_eq!(frame[PRIVACY_AT], 0);
    for bad in [3, 7, 8, 16, 20, 32, 36, 128] {
        frame[PRIVACY_AT] = bad;
        assert_eq!(Click::decode(&frame), Err(BadFrame::Privacy(bad)));
    }
}

#[test]
fn the_longest_frame_fits() {
    let long = "x".repeat(usize::from(u16::MAX));
    let (text, name) = (long.as_bytes(), &long[..usize::from(u8::MAX)]);
    let agent = Agent { device: name, os: name, browser: name, reasons: AgentReasons::default() };
    let click = Click {
        window: Window::of_seconds(1),
        country: Some(*b"DE"),
        privacy: Privacy { level: Level::Limited, agent: Some(agent) },
        org: &long,
        campaign: &long,
        domain: &long,
        link: &long,
        path: text,
        rule: &long,
        variant: &long,
        destination: text,
        referrer: text,
        language: text,
        ..click(text, &long, Some(Ipv6Addr::LOCALHOST.into()))
    };
    let mut frame = Vec::new();
    click.encode(&mut frame);
    let cut_before = 4 * usize::from(u16::MAX) - REFERRER_BYTES_MAX - 2 * UA_BYTES_MAX - PATH_BYTES_MAX;
    assert_eq!(frame.len() + cut_before, FRAME_BYTES_MAX);
}

/// The frames that version 1 and 2 wrote of one click, byte for byte.
const OF_VERSION_1: &[u8] = b"\x01\x05\x2e\x01\x04\0\0\0\0\0\0\0\x01\x8b\xcf\xe5\x68\0\x79\x09\x89\x09\x09\x09\x09\x09\x09\x09\
    \x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x07\0default\0\0\x06\0spring\x12\0https://a.example/\
    \x01\0\xff\x02\0ua\x02\0de\x03\0a=1";
const OF_VERSION_2: &[u8] =
    b"\x02\x05\x2e\x01\x04\0\0\0\0\0\0\0\x01\x8b\xcf\xe5\x68\0\x79\x09\x89\x09\x09\x09\x09\x09\x09\x09\x41\
    \x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\0\x07\0default\0\0\x06\0spring\x06\0phones\x01\0b\
    \x12\0https://a.example/\x01\0\xff\x02\0ua\x02\0de\x03\0a=1";

#[test]
fn frames_of_earlier_versions_are_clicks_of_any_domain() {
    let second = Click { bound: false, domain: "*", path: b"", ..click(b"ua", "a=1", None) };
    assert_eq!(Click::decode(OF_VERSION_2), Ok(second));
    // Of which all was kept.
    let first = Click { rule: "", variant: "", marks: Marks::default(), ..second };
    assert_eq!(Click::decode(OF_VERSION_1), Ok(first));
    for old in [OF_VERSION_1, OF_VERSION_2] {
        for end in 0..old.len() {
            assert!(Click::decode(&old[..end]).is_err(), "cut at {end}");
        }
    }
}

/// The frames of a click without and with a window of its own.
const OF_VERSION_3: &[u8] =
    b"\x03\x45\x2e\x01\x04\0\0\0\0\0\0\0\x01\x8b\xcf\xe5\x68\0\x79\x09\x89\x09\x09\x09\x09\x09\x09\x09\x41\
    \x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\0\x07\0default\0\0\x0a\0go.example\x06\0spring\
    \x02\0/x\x06\0phones\x01\0b\x12\0https://a.example/\x01\0\xff\x02\0ua\x02\0de\x03\0a=1";
const OF_VERSION_4: &[u8] =
    b"\x04\x45\x2e\x01\x04\0\0\0\0\0\0\0\x01\x8b\xcf\xe5\x68\0\x79\x09\x89\x09\x09\x09\x09\x09\x09\x09\x41\
    \x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x10\x0e\0\0\0\x07\0default\0\0\x0a\0go.example\
    \x06\0spring\x02\0/x\x06\0phones\x01\0b\x12\0https://a.example/\x01\0\xff\x02\0ua\x02\0de\x03\0a=1";

#[test]
fn only_a_click_with_a_window_of_its_own_is_of_the_newest_version() {
    let plain = click(b"ua", "a=1", None);
    let own = Click { window: Window::of_seconds(3_600), ..plain };
    for (click, expected) in [(plain, OF_VERSION_3), (own, OF_VERSION_4)] {
        let mut frame = Vec::new();
        click.encode(&mut frame);
        assert_eq!(frame, expected);
        assert_eq!(Click::decode(expected), Ok(click));
        assert!((0..expected.len()).all(|end| Click::decode(&expected[..end]).is_err()));
    }
    let at = PRIVACY_AT;
    for bad in [0, 86_401, u32::MAX] {
        let mut frame = OF_VERSION_4.to_vec();
        frame[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        assert_eq!(Click::decode(&frame), Err(BadFrame::Window(bad)));
    }
}

proptest::proptest! {
    #[test]
    fn what_was_encoded_decodes_to_itself(ua in proptest::collection::vec(0_u8.., 0..600), query in ".{0,80}", v4: bool, v6: bool, hash: Option<[u8; 16]>, marks: u8, window in 0_u32..3) {
        let address = match (v4, v6) {
            (true, _) => Some(Ipv4Addr::new(192, 0, 2, 0).into()),
            (_, true) => Some(Ipv6Addr::LOCALHOST.into()),
            _ => hash.map(Kept::Hash),
        };
        let marks = Marks::from_bits(marks);
        let window = Window::of_seconds(window);
        let click = Click { window, marks, country: address.and_then(|a| a.network()).is_none().then_some(*b"DE"), ..click(&ua, &query, address) };
        let mut frame = Vec::new();
        click.encode(&mut frame);
        proptest::prop_assert_eq!(Click::decode(&frame).unwrap(), Click { ua: &ua[..ua.len().min(UA_BYTES_MAX)], ..click });
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Click::decode(&bytes);
    }
}
