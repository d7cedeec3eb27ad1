//! A visit: the request as links may see it, borrowed from the request's own buffer.

use std::net::IpAddr;

use super::Marks;

/// One request for a link. Nothing in it is copied; it lives as long as the request.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The authority that was asked for, as received; may be empty. [`host`](super::domain::host) reads it.
    pub host: &'a [u8],
    /// Query part of the request target, without the `?`, as received.
    pub query: &'a str,
    /// The method was HEAD.
    pub head: bool,
    /// The browser said that it fetches ahead of a click (`Sec-Purpose` or `Purpose`).
    pub prefetch: bool,
    /// What else the headers show.
    pub marks: Marks,
    /// The full client address; privacy takes its part away only when the click is encoded.
    pub address: IpAddr,
    /// `User-Agent`, as received; may be empty and need not be UTF-8.
    pub ua: &'a [u8],
    /// `Referer`, as received.
    pub referrer: &'a [u8],
    /// `Accept-Language`, as received.
    pub language: &'a [u8],
}
