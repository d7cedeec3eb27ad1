//! Writes small files in MaxMind's format, for tests of what reads them.
//!
//! ```text
//! nodes: two u32 each, left and right   16 zeros   data   \xab\xcd\xefMaxMind.com   metadata
//! ```
//! A number below the nodes' is the next node, theirs is nothing, and above it is a place in the data. Knows texts, whole
//! numbers, lists and maps. Bound: as small as tests are; networks must not lie in each other.

use std::net::IpAddr;

use serde_json::{Value, json};

const MARK: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// Where a branch of the tree leads.
#[derive(Clone, Copy)]
enum Branch {
    Nothing,
    Node(usize),
    /// Bytes from the beginning of the data.
    Data(usize),
}

/// A database of this type, built at this second, with the records of these networks (`192.0.2.0/24`, `2001:db8::/32`).
///
/// # Panics
/// On a network that is none, lies in another, or a value that the writer does not know.
#[must_use]
pub fn mmdb(database_type: &str, build_epoch: u32, networks: &[(&str, Value)]) -> Vec<u8> {
    let (mut nodes, mut data) = (vec![[Branch::Nothing; 2]], Vec::new());
    for (network, record) in networks {
        let (bits, length) = path(network);
        let (mut node, place) = (0, data.len());
        put(record, &mut data);
        for at in 0..length {
            let side = usize::from(bits >> (127 - at) & 1 == 1);
            let branch = match nodes[node][side] {
                Branch::Nothing if at + 1 == length => Branch::Data(place),
                Branch::Nothing => {
                    nodes.push([Branch::Nothing; 2]);
                    Branch::Node(nodes.len() - 1)
                }
                Branch::Node(next) if at + 1 < length => Branch::Node(next),
                _ => panic!("{network} lies in another network, or around one"),
            };
            nodes[node][side] = branch;
            if let Branch::Node(next) = branch {
                node = next;
            }
        }
    }
    let mut out = Vec::new();
    for branch in nodes.iter().flatten() {
        let number = match branch {
            Branch::Nothing => nodes.len(),
            Branch::Node(next) => *next,
            Branch::Data(place) => nodes.len() + 16 + place,
        };
        out.extend_from_slice(&u32::try_from(number).expect("a small file").to_be_bytes());
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&data);
    out.extend_from_slice(MARK);
    // Readers want each number in its own type: 5 is u16, 6 is u32, 9 is u64.
    let nodes = u32::try_from(nodes.len()).expect("a small file");
    let numbers = [
        ("binary_format_major_version", 5, 2),
        ("binary_format_minor_version", 5, 0),
        ("build_epoch", 9, build_epoch),
        ("ip_version", 5, 6),
        ("node_count", 6, nodes),
        ("record_size", 5, 32),
    ];
    let others = [
        ("database_type", database_type.into()),
        ("description", json!({"en": "for tests"})),
        ("languages", json!(["en"])),
    ];
    put_control(7, numbers.len() + others.len(), &mut out);
    for (name, kind, number) in numbers {
        put(&name.into(), &mut out);
        let short = number.to_be_bytes();
        let bytes = if kind == 5 { &short[2..] } else { &short[..] };
        put_control(kind, bytes.len(), &mut out);
        out.extend_from_slice(bytes);
    }
    for (name, value) in others {
        put(&name.into(), &mut out);
        put(&value, &mut out);
    }
    out
}

/// The bits of a network in a tree of IPv6, in which IPv4 is `::/96`, and how many of them count.
fn path(network: &str) -> (u128, u32) {
    let (address, length) = network.split_once('/').expect("a network has a `/`");
    let length: u32 = length.parse().expect("a length in bits");
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), length + 96),
        IpAddr::V6(v6) => (u128::from(v6), length),
    }
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => {
            put_control(2, text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Number(number) => {
            put_control(6, 4, out);
            let number = number.as_u64().and_then(|number| u32::try_from(number).ok()).expect("a number below 2^32");
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Object(fields) => {
            put_control(7, fields.len(), out);
            for (name, value) in fields {
                put(&name.as_str().into(), out);
                put(value, out);
            }
        }
        Value::Array(items) => {
            put_control(11, items.len(), out);
            items.iter().for_each(|item| put(item, out));
        }
        other => panic!("{other} cannot be written"),
    }
}

/// The type in three bits, or, above 7, in a byte of its own; the size in five bits, or in up to two bytes more.
fn put_control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (short, more) = match size {
        0..=28 => (size, None),
        29..=284 => (29, Some((size - 29).to_be_bytes()[7..].to_vec())),
        _ => (30, Some((size - 285).to_be_bytes()[6..].to_vec())),
    };
    let short = u8::try_from(short).expect("five bits");
    if kind > 7 {
        out.extend_from_slice(&[short, kind - 7]);
    } else {
        out.push(kind << 5 | short);
    }
    out.extend(more.unwrap_or_default());
}
