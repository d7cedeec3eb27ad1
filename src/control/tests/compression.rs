//! Who accepts gzip gets gzip, and nobody else.

use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use std::io::Read as _;

use super::*;

async fn read(bench: &Bench, accepted: &str) -> (HeaderMap, Vec<u8>) {
    let request = Request::get("/api/v1/links").header(AUTHORIZATION, format!("Bearer {TOKEN}"));
    let request = request.header(ACCEPT_ENCODING, accepted).body(Body::empty()).unwrap();
    let (head, body) = bench.router.clone().call(request).await.unwrap().into_parts();
    assert_eq!(head.status, StatusCode::OK);
    (head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn an_answer_is_compressed_for_those_who_accept_gzip() {
    let bench = Bench::new().await;
    for slug in ["a", "b", "c"] {
        bench.link(slug).await;
    }
    let (headers, plain) = read(&bench, "identity").await;
    assert!(!headers.contains_key(CONTENT_ENCODING), "{headers:?}");
    let (headers, packed) = read(&bench, "gzip").await;
    assert_eq!(
        (&headers[CONTENT_ENCODING], &headers[VARY]),
        (&"gzip".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    assert!(packed.len() < plain.len(), "{} of {}", packed.len(), plain.len());
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(String::from_utf8_lossy(&unpacked), String::from_utf8_lossy(&plain));
}
