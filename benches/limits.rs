//! What the limits cost a request: with few sources, whose words are in the cache, and with a million of them, asked for
//! in no order, so that every look-up waits for memory. `cargo bench --bench limits`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use trellis::config::{Config, Sources};
use trellis::edge::limits::Limits;

const SOURCES: usize = 1 << 20;

fn limits(settings: &str) -> Limits {
    let config = Config::from_text(&Sources::default(), settings).expect("valid");
    Limits::new(&config.limits, b"a secret of the node", config.edge.connections_max)
}

/// As many networks, in no order.
fn addresses(count: usize) -> Vec<IpAddr> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..count).map(|_| Ipv4Addr::from_bits(random.u32(0x0b00_0000..0x6400_0000)).into()).collect()
}

fn all(c: &mut Criterion) {
    let every = "[limits.network]\nrate = 1000000\nburst = 1000000\n[limits.link]\nrate = 1000000\nburst = 1000000\n\
                 [limits.global]\nrate = 1000000\nburst = 1000000000\n";
    for (name, settings) in [
        ("by default", ""),
        ("all switched on", every),
        ("all, 1 M words", &*format!("limits.entries_max = 1048576\n{every}")),
    ] {
        for (sources, addresses) in [("100 sources", addresses(100)), ("1 M sources", addresses(SOURCES))] {
            let limits = limits(settings);
            let (mut n, mut now) = (0_usize, Duration::from_secs(1));
            c.bench_function(&format!("limits {name}, {sources}"), |b| {
                b.iter(|| {
                    n += 1;
                    // 20,000 a second.
                    now += Duration::from_micros(50);
                    let address = addresses[n % addresses.len()];
                    let admitted =
                        limits.admit(black_box(Some(address)), now).and_then(|()| limits.link("", "spring", now));
                    admitted.is_ok()
                });
            });
        }
    }
    let limits = limits("[limits.network]\nrate = 1\nburst = 1\n");
    let (address, now) = (addresses(1)[0], Duration::from_secs(1));
    c.bench_function("limits: a request that is refused", |b| {
        b.iter(|| limits.admit(black_box(Some(address)), now).is_err())
    });
    c.bench_function("limits: one that is exempt or not", |b| b.iter(|| limits.is_exempt(black_box(address))));
    c.bench_function("limits: a connection opened and closed", |b| {
        b.iter(|| {
            let counted = limits.connect(black_box(address)).expect("room").expect("counted");
            limits.disconnect(counted);
        });
    });
}

criterion_group!(benches, all);
criterion_main!(benches);
