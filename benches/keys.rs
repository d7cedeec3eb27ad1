//! What the check of an API key costs, of one that is asked for again and again and of one among 10,000 that nobody asked
//! for lately; and of bad ones, which must cost the same; and of one that a Warden elsewhere told of. `cargo bench --bench keys`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use trellis::BoxFuture;
use trellis::catalog::remote_keys::Asker;
use trellis::catalog::{CatalogError, Checked, KeyStore, Keys, Peek, RemoteKeys, Unavailable, Warden, Why};
use trellis::click::Key;
use trellis::click::key::{Digest, RawKey};
use trellis::clock::{Clock as _, SystemClock};
use trellis::config::{Config, Secret, Sources};

const KEYS: usize = 10_000;

/// Keeps nothing: what is checked is in memory.
struct Nowhere;

impl KeyStore for Nowhere {
    fn load_keys(&self) -> BoxFuture<'_, Result<Vec<Key>, CatalogError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn put_key<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn delete_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), CatalogError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Keys, and what their holders send.
fn keys(runtime: &tokio::runtime::Runtime, pepper: &str, number: usize) -> (Keys, Vec<String>) {
    runtime.block_on(async {
        let pepper = Secret::new(pepper);
        let keys = Keys::open(Arc::new(Nowhere), &pepper, number, Arc::new(SystemClock::new()));
        let keys = keys.await.expect("keys");
        let mut secrets = Vec::new();
        for _ in 0..number {
            let raw = RawKey { scopes: Some(vec!["ingress".into()]), ..RawKey::default() };
            secrets.push(keys.create(raw).await.expect("a key").secret.expose().to_owned());
        }
        (keys, secrets)
    })
}

fn check(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let now_ms = SystemClock::new().wall_ms();
    let mut group = c.benchmark_group("key");
    for (name, pepper) in [("SHA-256", ""), ("HMAC-SHA-256", "a pepper of some length")] {
        let (keys, secrets) = keys(&runtime, pepper, 100);
        let key = secrets[0].as_bytes();
        assert!(matches!(keys.peek(key, now_ms), Peek::Granted(_)));
        group.bench_function(format!("the same again and again, {name}"), |b| {
            b.iter(|| keys.peek(black_box(key), now_ms))
        });
    }
    let (keys, secrets) = keys(&runtime, "", KEYS);
    // Far apart in memory, and each of them long ago.
    let mut turn = 0;
    group.bench_function(format!("another one of {KEYS} each time"), |b| {
        b.iter(|| {
            turn = (turn + 7919) % KEYS;
            keys.peek(black_box(secrets[turn].as_bytes()), now_ms)
        })
    });
    let good = &secrets[0];
    let secret = good.rsplit('_').next().expect("a secret");
    let wrong = format!("{}_{}", good.rsplit_once('_').expect("an id").0, "x".repeat(32));
    for (kind, bad) in [
        ("malformed", good.replace("wdn_sk_", "wdn_xx_")),
        ("unknown", format!("wdn_sk_000000000000_{secret}")),
        ("wrong secret", wrong),
    ] {
        assert!(matches!(keys.peek(bad.as_bytes(), now_ms), Peek::Denied(_)));
        group.bench_function(kind, |b| b.iter(|| keys.peek(black_box(bad.as_bytes()), now_ms)));
    }
    group.finish();
}

/// Grants what its keys grant, at once.
struct Near(Arc<Keys>);

impl Asker for Near {
    fn ask(&self, key_id: &str, digest: &Digest) -> BoxFuture<'static, Result<Checked, Unavailable>> {
        let checked = self.0.check_digest(key_id, *digest).map_or_else(Checked::Denied, Checked::Granted);
        Box::pin(std::future::ready(Ok(checked)))
    }
}

/// From the memory of what a Warden elsewhere said.
fn remote(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (keys, secrets) = keys(&runtime, "", KEYS);
    let text = "[warden.grpc]\nentries_max = 20000\nfresh = \"1h\"\nstale = \"1h\"\ndenied = \"10m\"";
    let settings = Config::from_text(&Sources::default(), text).expect("valid").warden.grpc;
    let clock = Arc::new(SystemClock::new());
    let now_ms = clock.wall_ms();
    let bad = secrets[0].replace("wdn_sk_", "wdn_sk_0");
    let remote = runtime.block_on(async {
        let (remote, asking, _news) = RemoteKeys::new(settings, Arc::new(Near(Arc::new(keys))), clock, Arc::default());
        tokio::spawn(asking.run());
        for key in secrets.iter().chain([&bad]) {
            remote.load(key.as_bytes()).await.expect("an answer");
        }
        remote
    });
    let mut group = c.benchmark_group("key of a Warden elsewhere");
    assert!(matches!(remote.peek(secrets[0].as_bytes(), now_ms), Peek::Granted(_)));
    group.bench_function("the same again and again", |b| {
        b.iter(|| remote.peek(black_box(secrets[0].as_bytes()), now_ms))
    });
    let mut turn = 0;
    group.bench_function(format!("another one of {KEYS} each time"), |b| {
        b.iter(|| {
            turn = (turn + 7919) % KEYS;
            remote.peek(black_box(secrets[turn].as_bytes()), now_ms)
        })
    });
    assert!(matches!(remote.peek(bad.as_bytes(), now_ms), Peek::Denied(Why::Unknown)));
    group.bench_function("a bad one", |b| b.iter(|| remote.peek(black_box(bad.as_bytes()), now_ms)));
    group.finish();
}

criterion_group!(benches, check, remote);
criterion_main!(benches);
