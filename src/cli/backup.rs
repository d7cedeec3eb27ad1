//! `trellis backup` and `trellis restore`: says what was copied. What a backup is and how it is made stands in
//! [`crate::app`].

use std::collections::BTreeMap;
use std::path::Path;

use super::output::{Out, Stop, cell};
use crate::app::{self, Manifest};
use crate::config::Config;

pub(super) fn back_up(config: &Config, to: &Path) -> Result<(), Stop> {
    let (manifest, left_out) = app::backup(config, to)?;
    let mut out = Out::new();
    out.line(format_args!("node {}, as of {}, in {}", cell(&manifest.node), manifest.began, to.display()))?;
    tell(&mut out, &manifest)?;
    for name in left_out {
        out.line(format_args!("left out, as it is no part of a data folder: {}", cell(&name.to_string_lossy())))?;
    }
    out.flush()
}

pub(super) fn restore(config: &Config, from: &Path) -> Result<(), Stop> {
    let manifest = app::restore(config, from)?;
    let mut out = Out::new();
    let (node, data_dir) = (cell(&manifest.node), config.data_dir.display());
    out.line(format_args!(
        "node {node}, as of {}, made by trellis {}, in {data_dir}",
        manifest.began, manifest.trellis
    ))?;
    tell(&mut out, &manifest)?;
    out.flush()
}

/// A line for each part: name, files, bytes.
fn tell(out: &mut Out, manifest: &Manifest) -> Result<(), Stop> {
    let mut parts = BTreeMap::<_, (usize, u64)>::new();
    for file in &manifest.files {
        let part = file.path.split('/').next().unwrap_or_default();
        let (files, bytes) = parts.entry(part).or_default();
        *files += 1;
        *bytes += file.bytes;
    }
    for (part, (files, bytes)) in parts {
        out.line(format_args!("{}\t{files} files\t{bytes} bytes", cell(part)))?;
    }
    Ok(())
}
