//! What a backup says of itself: every file with its length and checksum, and a checksum of that page.
//!
//! ```text
//! manifest.json     version, trellis, node, began, ended, files [{path, bytes, sha256}]
//! manifest.sha256   "<sha256 of manifest.json>  manifest.json": `sha256sum -c manifest.sha256` reads it too
//! ```
//! Both are written last, so a folder without them is no backup.

use std::io::{Read as _, Write as _};
use std::path::{Component, Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::copy;

/// The form of backups that this program writes and reads.
const VERSION: u32 = 1;
const PAGE: &str = "manifest.json";
const CHECKSUM: &str = "manifest.sha256";
/// A page of a million files.
const PAGE_BYTES_MAX: u64 = 256 << 20;

/// The contents of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The program that made it.
    pub trellis: String,
    /// The node that it is of.
    pub node: String,
    /// When it was begun, RFC 3339: what was acknowledged before is in it.
    pub began: String,
    /// When everything was copied.
    pub ended: String,
    /// In the order of their paths.
    pub files: Vec<Entry>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Inside the data folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// In hex digits.
    pub sha256: String,
}

impl Manifest {
    pub(super) fn new(node: &str, began_ms: u64, ended_ms: u64, files: Vec<Entry>) -> Self {
        let (began, ended) = (time(began_ms), time(ended_ms));
        Self { version: VERSION, trellis: crate::VERSION.into(), node: node.into(), began, ended, files }
    }

    /// Writes it into the folder and forces it to the disk.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let page = serde_json::to_vec_pretty(self)?;
        let checksum = format!("{}  {PAGE}\n", copy::hex(&Sha256::digest(&page)));
        for (name, bytes) in [(PAGE, page.as_slice()), (CHECKSUM, checksum.as_bytes())] {
            let mut file = copy::create(&folder.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// Reads it, and refuses one that is not whole, or of another form.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let (page, checksum) = (folder.join(PAGE), folder.join(CHECKSUM));
        let (page_bytes, checksum_bytes) = (small(&page)?, small(&checksum)?);
        let expected = format!("{}  {PAGE}\n", copy::hex(&Sha256::digest(&page_bytes)));
        anyhow::ensure!(
            checksum_bytes == expected.as_bytes(),
            "`{}` is not as it was written, or `{}` is not: the backup is damaged",
            page.display(),
            checksum.display()
        );
        let version = serde_json::from_slice::<serde_json::Value>(&page_bytes)
            .with_context(|| format!("`{}` is not understood", page.display()))?["version"]
            .clone();
        anyhow::ensure!(
            version == VERSION,
            "`{}` has version {version}, and this program knows {VERSION}: use the trellis that made it, or a newer one",
            page.display()
        );
        let manifest: Self =
            serde_json::from_slice(&page_bytes).with_context(|| format!("`{}` is not understood", page.display()))?;
        for entry in &manifest.files {
            let mut components = Path::new(&entry.path).components().peekable();
            let is_ours =
                components.peek().is_some_and(|first| super::PARTS.iter().any(|part| first.as_os_str() == *part))
                    && components.all(|component| matches!(component, Component::Normal(_)));
            anyhow::ensure!(is_ours, "`{}` names `{}`, which is no part of a data folder", page.display(), entry.path);
        }
        Ok(manifest)
    }
}

fn small(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => anyhow::bail!(
            "`{}` is missing: this is no backup, or one that was broken off while it was made",
            path.display()
        ),
        Err(error) => return Err(error).context(format!("`{}` cannot be read", path.display())),
    };
    let mut bytes = Vec::new();
    file.take(PAGE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(|| format!("`{}` cannot be read", path.display()))?;
    Ok(bytes)
}

fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str) -> Manifest {
        Manifest::new("n", 0, 1, vec![Entry { path: path.into(), bytes: 3, sha256: "abc".into() }])
    }

    #[test]
    fn a_flipped_bit_in_either_page_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let written = manifest("journal/1/0-0.seg");
        written.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), written);
        for name in [PAGE, CHECKSUM] {
            let path = folder.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            for byte in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[byte] ^= 1 << (byte % 8);
                std::fs::write(&path, &bytes).unwrap();
                let error = Manifest::read(folder.path()).unwrap_err().to_string();
                assert!(error.contains(name), "byte {byte} of {name}: {error}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(Manifest::read(folder.path()).unwrap_err().to_string().contains("is missing"));
            std::fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn another_version_and_paths_that_lead_elsewhere_are_refused() {
        for path in ["../x", "/etc/passwd", "journal/../../x", "node.lock", "", "./journal"] {
            let folder = tempfile::tempdir().unwrap();
            manifest(path).write(folder.path()).unwrap();
            assert!(Manifest::read(folder.path()).unwrap_err().to_string().contains("no part"), "{path}");
        }
        let folder = tempfile::tempdir().unwrap();
        Manifest { version: 2, ..manifest("ledger") }.write(folder.path()).unwrap();
        assert!(Manifest::read(folder.path()).unwrap_err().to_string().contains("version 2"));
    }
}
