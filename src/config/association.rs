//! The files by which apps claim links of this host: read and checked when the configuration is.
//!
//! Read by `check` from `edge.apple_app_site_association` and `edge.assetlinks`; the edge answers with them from memory.
//! Limits: [`BYTES_MAX`] each.

use bytes::Bytes;
use serde_json::Value;

use super::file;
use super::units::KIB;

/// Apple's devices take no more of theirs.
const BYTES_MAX: u64 = 128 * KIB;

/// The content of the file at this path, which is an object as JSON; `None` where no path is given.
pub(super) fn object(path: &str) -> Result<Option<Bytes>, String> {
    read(path, "an object ({...})", Value::is_object)
}

/// The content of the file at this path, which is a list as JSON; `None` where no path is given.
pub(super) fn list(path: &str) -> Result<Option<Bytes>, String> {
    read(path, "a list ([...])", Value::is_array)
}

fn read(path: &str, wanted: &str, fits: impl Fn(&Value) -> bool) -> Result<Option<Bytes>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let content = file::content(path, BYTES_MAX)?;
    let value = serde_json::from_slice(&content).map_err(|error| format!("the file is no JSON: {error}"))?;
    if fits(&value) { Ok(Some(content.into())) } else { Err(format!("the file must be {wanted} as JSON")) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::check::tests::problems;
    use super::*;

    #[test]
    fn a_good_file_is_kept_as_it_is_and_no_path_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, "{ \"applinks\": {} }\n").unwrap();
        assert_eq!(object(path.to_str().unwrap()), Ok(Some(Bytes::from_static(b"{ \"applinks\": {} }\n"))));
        assert_eq!((object(""), list("")), (Ok(None), Ok(None)));
    }

    #[test]
    fn a_missing_or_bad_file_is_told_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            fs::write(folder.path().join(name), content).unwrap();
        };
        file("cut.json", b"{\"a\": ");
        file("list.json", b"[]");
        file("object.json", b"{}");
        file("latin.json", b"{\"a\": \"\xe9\"}");
        let long = |bytes: u64| format!("\"{}\"", "x".repeat(usize::try_from(bytes).unwrap() - 2));
        file("full.json", long(BYTES_MAX).as_bytes());
        file("long.json", long(BYTES_MAX + 1).as_bytes());
        for (key, name, reason) in [
            ("apple_app_site_association", "none.json", "the file cannot be read: No such file"),
            ("apple_app_site_association", ".", "is not a file"),
            ("apple_app_site_association", "cut.json", "the file is no JSON: EOF"),
            ("apple_app_site_association", "latin.json", "the file is no JSON: "),
            ("apple_app_site_association", "list.json", "the file must be an object"),
            ("assetlinks", "object.json", "the file must be a list"),
            ("assetlinks", "full.json", "the file must be a list"),
            ("assetlinks", "long.json", "the file has more than 128KiB"),
        ] {
            let path = folder.path().join(name);
            let told = problems(&format!("edge.{key} = {path:?}"));
            assert!(told.len() == 1 && told[0].starts_with(&format!("1: edge.{key} = {path:?}")), "{told:?}");
            assert!(told[0].contains(reason), "{told:?}");
        }
    }
}
