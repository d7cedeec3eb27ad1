//! Reading a file that a setting names: whole, once, and no further than it may be long.
//!
//! Knows nothing of what stands in it; `association`, `classify` and `networks` do.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;

use super::units::show_size;

/// The content of the file at this path.
pub(super) fn content(path: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("the file cannot be read: {error}");
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file".into());
    }
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut content)).map_err(unreadable)?;
    if content.len() as u64 > bytes_max {
        return Err(format!("the file has more than {}", show_size(bytes_max)));
    }
    Ok(content)
}

/// The path and its content as text; both empty where no path is given.
pub(super) fn text(path: &str, bytes_max: u64) -> Result<(PathBuf, String), String> {
    if path.is_empty() {
        return Ok(Default::default());
    }
    let content = String::from_utf8(content(path, bytes_max)?).map_err(|_| "the file is not UTF-8")?;
    Ok((path.into(), content))
}
