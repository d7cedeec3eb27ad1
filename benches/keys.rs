//! What the check of an API key costs, of one that is asked for again and again and of one among 10,000 that nobody asked
//! for lately; and of bad ones, which must cost the same. `cargo bench --bench keys`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use trellis::BoxFuture;
use trellis::catalog::{CatalogError, KeyStore, Keys, Peek, Warden};
use trellis::click::Key;
use trellis::click::key::RawKey;
use trellis::clock::{Clock as _, SystemClock};
use trellis::config::Secret;

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

criterion_group!(benches, check);
criterion_main!(benches);
