//! What single steps of a click's path cost, without sockets: look-up, splicing, fingerprint, frame, privacy, journal
//! write, agent and country, encoding for the store; with `--features testing` places in files of an operator. `cargo bench`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trellis::backend::clickhouse::{self, ClickHouseStore};
use trellis::catalog::agents::Agents;
use trellis::catalog::geo::{Geo, Place};
use trellis::click::address::Network;
use trellis::click::dedup::By;
use trellis::click::fingerprint::To;
use trellis::click::privacy::{Consent, Decisions, Level, Signals};
use trellis::click::template::Values;
use trellis::click::{Class, Click, ClickId, DayKey, IdSource, Marks, Networks, Privacy, Reasons, Template, Visit};
use trellis::clock::SystemClock;
use trellis::config::{Config, Sources};
use trellis::pipeline::memory::Memory;
use trellis::pipeline::{Batch, Label, Row, Store};
use trellis::segment::{Header, Kind, RealDisk, append_record, create};

const UA: &[u8] =
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

fn visit() -> Visit<'static> {
    Visit {
        host: b"go.example",
        query: "click_id=run-123456&source=load",
        head: false,
        prefetch: false,
        marks: Default::default(),
        address: [203, 0, 114, 77].into(),
        ua: UA,
        referrer: b"https://news.example/page",
        language: b"de-DE,de;q=0.9",
    }
}

fn click(id: ClickId) -> Click<'static> {
    let visit = visit();
    Click {
        id,
        fingerprint: None,
        window: None,
        head: false,
        prefetch: false,
        bound: false,
        marks: Default::default(),
        status: 302,
        route_version: 1,
        address: Some(visit.address.into()),
        country: None,
        privacy: Privacy::default(),
        org: "default",
        campaign: "sale",
        domain: "*",
        link: "spring",
        path: b"",
        rule: "",
        variant: "",
        destination: b"https://shop.example/p?id=0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        referrer: visit.referrer,
        ua: visit.ua,
        language: visit.language,
        query: visit.query,
    }
}

fn pure(c: &mut Criterion) {
    let mut ids = IdSource::new(1);
    c.bench_function("click id", |b| b.iter(|| ids.next(black_box(1_700_000_000_000))));
    let key = DayKey::new(b"secret", 1_700_000_000_000);
    c.bench_function("fingerprint by address and agent", |b| {
        b.iter(|| key.fingerprint(black_box(To::Link("spring")), By::Either, b"", black_box(&visit())));
    });
    let (template, _) = Template::parse("https://shop.example/p?id={click_id}&ext={external_click_id}").expect("valid");
    let mut out = Vec::with_capacity(4096);
    let (id, visit) = (ids.next(1), visit());
    c.bench_function("splice two macros", |b| {
        b.iter(|| {
            out.clear();
            let values = Values { click_id: Some(id), external_click_id: b"run-123456", ..Values::of(&visit) };
            template.splice(black_box(&values), false, &mut out);
            out.len()
        });
    });
    let text =
        "https://shop.example/{source}/{sub1:default=none}?c={country}&d={device}&ip={ip}&t={ts_ms}&h={click_id:hash}";
    let (template, _) = Template::parse(text).expect("valid");
    c.bench_function("splice seven macros, one in a default and one in a hash", |b| {
        b.iter(|| {
            out.clear();
            let values = Values {
                click_id: Some(id),
                address: Some(visit.address),
                country: Some(*b"DE"),
                device: "desktop",
                ..Values::of(&visit)
            };
            template.splice(black_box(&values), false, &mut out);
            out.len()
        });
    });
    let mut frame = BytesMut::with_capacity(4096);
    c.bench_function("frame encode", |b| {
        b.iter(|| {
            frame.clear();
            black_box(&click(id)).encode(&mut frame);
            frame.len()
        });
    });
    let frame = frame.freeze();
    c.bench_function("frame decode", |b| b.iter(|| Click::decode(black_box(&frame)).map(|c| c.status)));
}

/// The whole of what compliance costs: the decision, and, for the stricter levels, taking away.
fn privacy(c: &mut Criterion) {
    let sources = Sources::default();
    let text = "privacy.consent_parameter = \"consent\"\nprivacy.regions = [\"EEA=limited\", \"GB=none\"]";
    let policy = Config::from_text(&sources, text).expect("valid").privacy.policy;
    let geo = Geo::new().expect("countries");
    let said = |country| Signals { gpc: false, dnt: false, consent: Consent::Missing, country };
    c.bench_function("privacy: decide", |b| b.iter(|| policy.decide(black_box(&said(Some(*b"DE"))))));
    let mut decisions = Decisions::default();
    c.bench_function("privacy: a decision that is remembered", |b| {
        b.iter(|| decisions.decide(&policy, black_box(&said(Some(*b"DE")))))
    });
    let mut visit = visit();
    c.bench_function("privacy: decide, with the consent in the query and the country of the address", |b| {
        b.iter(|| {
            let visit = black_box(&visit);
            let country = geo.country(visit.address);
            policy.decide(&Signals { consent: policy.consent(visit.query), ..said(country) })
        });
    });
    visit.query = "click_id=run-123456&uid=42&source=load";
    c.bench_function("privacy: cut a visit to the limited level", |b| {
        b.iter(|| {
            let query = policy.query(Level::Limited, black_box(visit.query));
            Level::Limited.cut(black_box(&visit), &query).query.len()
        });
    });
}

fn facts(c: &mut Criterion) {
    let (agents, geo) = (Agents::new().expect("agents"), Geo::new().expect("countries"));
    c.bench_function("agent without memo", |b| b.iter(|| agents.read(black_box(UA))));
    let (marks, reasons) = (Marks::NO_ACCEPT, agents.read(UA).reasons);
    let classifier = agents.classifier();
    c.bench_function("classify", |b| {
        b.iter(|| classifier.classify(false, false, black_box(marks), black_box(reasons)))
    });
    observed(c);
    let address = [81, 2, 69, 142].into();
    c.bench_function("country", |b| b.iter(|| geo.country(black_box(address))));
}

/// Files of an operator, of the shape that MaxMind's have: 65,536 networks, names in eight languages.
#[cfg(feature = "testing")]
fn places(c: &mut Criterion) {
    use serde_json::json;
    let names = |name: &str| -> serde_json::Value {
        ["de", "en", "es", "fr", "ja", "pt-BR", "ru", "zh-CN"]
            .map(|language| (language.to_owned(), serde_json::Value::from(name)))
            .into_iter()
            .collect()
    };
    let record = json!({
        "city": {"geoname_id": 2_950_159, "names": names("Berlin")},
        "continent": {"code": "EU", "geoname_id": 6_255_148, "names": names("Europe")},
        "country": {"geoname_id": 2_921_044, "iso_code": "DE", "names": names("Germany")},
        "location": {"accuracy_radius": 20, "time_zone": "Europe/Berlin"},
        "postal": {"code": "10115"},
        "registered_country": {"geoname_id": 2_921_044, "iso_code": "DE", "names": names("Germany")},
        "subdivisions": [{"geoname_id": 2_950_157, "iso_code": "BE", "names": names("Land Berlin")}],
    });
    let network = json!({"autonomous_system_number": 3320, "autonomous_system_organization": "Deutsche Telekom AG"});
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, record: &serde_json::Value| {
        let networks: Vec<_> = (0..65_536_u32).map(|n| format!("81.{}.{}.0/24", n >> 8, n & 255)).collect();
        let networks: Vec<_> = networks.iter().map(|network| (network.as_str(), record.clone())).collect();
        let path = folder.path().join(name);
        std::fs::write(&path, trellis::testing::mmdb(name, 1, &networks)).expect("a file");
        path
    };
    let (city, asn) = (path("city.mmdb", &record), path("asn.mmdb", &network));
    let text = format!("[geo]\ncity = {city:?}\nasn = {asn:?}");
    let config = Config::from_text(&Sources::default(), &text).expect("valid");
    let (none, geo) = (Geo::new().expect("countries"), Geo::with(config.geo).expect("countries"));
    let mut n = 0_u32;
    let mut next = move || {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::net::IpAddr::from([81, (n >> 24) as u8, (n >> 16) as u8, 7])
    };
    c.bench_function("places: country, of the operator's file", |b| b.iter(|| geo.country(black_box(next()))));
    c.bench_function("places: region and city", |b| b.iter(|| geo.city(black_box(next()))));
    c.bench_function("places: asn", |b| b.iter(|| geo.asn(black_box(next()))));
    c.bench_function("places: all of a click, without files", |b| b.iter(|| none.place(black_box(next()))));
}

#[cfg(not(feature = "testing"))]
fn places(_: &mut Criterion) {}

/// What the worker remembers: as shipped, with as many networks of data centres as a long list has, and clicks of 100,000
/// networks on 1,000 links, 10,000 a second.
fn observed(c: &mut Criterion) {
    let limits = trellis::config::shipped_classifier().rules().memory;
    let networks = || (0..100_000_u32).map(|n| Ipv4Addr::from(n << 9).to_string() + "/24");
    let networks: Networks = networks().filter_map(|text| text.parse::<Network>().ok()).collect();
    let address = |n: u32| Ipv4Addr::from((n.wrapping_mul(2_654_435_761) % 100_000) << 8).into();
    c.bench_function("data centres: look a network up", |b| {
        let mut n = 0;
        b.iter(|| {
            n += 1;
            networks.cover(black_box(address(n)))
        });
    });
    let memory = Memory::new(limits, Arc::new(networks));
    let links: Vec<_> = (0..1_000).map(|n| format!("link-{n}")).collect();
    c.bench_function("observe a click", |b| {
        let mut n = 0_u32;
        b.iter(|| {
            n += 1;
            let id = ClickId::new(1_700_000_000_000 + u64::from(n) / 10, &[0; 10]);
            let link = &*links[(n.wrapping_mul(40_503) >> 4) as usize % links.len()];
            memory.observe(black_box(&Click {
                address: Some(address(n).into()),
                link,
                head: n.is_multiple_of(50),
                ..click(id)
            }))
        });
    });
}

fn journal(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let header = Header { core: 0, seq: 0, created_ms: 0, node: "bench".into() };
    let writer = create(&RealDisk, folder.path(), &header, 64 << 20).expect("a segment");
    let mut ids = IdSource::new(1);
    let mut group = c.benchmark_group("journal");
    for clicks in [1_u64, 16, 64] {
        group.throughput(Throughput::Elements(clicks));
        group.bench_function(format!("encode and write a group of {clicks}"), |b| {
            let mut records = BytesMut::with_capacity(1 << 20);
            b.iter(|| {
                records.clear();
                for _ in 0..clicks {
                    let click = click(ids.next(1));
                    append_record(&mut records, writer.end(), Kind::Click, |out| click.encode(out));
                }
                writer.write(&records).bytes
            });
        });
    }
    group.finish();
}

fn store(c: &mut Criterion) {
    let config = Config::load(&Sources::default()).expect("the defaults are good");
    let parts = clickhouse::Parts { clock: Arc::new(SystemClock::new()), metrics: Arc::default() };
    let store = ClickHouseStore::new(&config.store.clickhouse, config.store.retention.clone(), 1, parts);
    let (agents, mut ids) = (Agents::new().expect("agents"), IdSource::new(1));
    let row = |id| {
        let mut frame = BytesMut::new();
        click(id).encode(&mut frame);
        Row {
            frame: Bytes::from(frame),
            country: Some(*b"DE"),
            place: Place::default(),
            class: Class::Human,
            reasons: Reasons::default(),
            fraud_score: 0,
            dedup: Label::Unique,
            agent: agents.read(UA),
        }
    };
    let rows: Vec<_> = (0..10_000).map(|n| row(ids.next(1_700_000_000_000 + n))).collect();
    let batch = Batch { id: uuid::Uuid::nil(), part: 0, node: Arc::from("bench"), rows };
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(10_000)).sample_size(20);
    group.bench_function("encode and compress a batch of 10,000", |b| b.iter(|| store.seal(batch.clone()).rows));
    group.finish();
}

criterion_group!(path, pure, privacy, facts, places, journal, store);
criterion_main!(path);
