//! What a node says when it is up.

use std::io::Write as _;
use std::net::SocketAddr;

use super::http::dialled;
use crate::config::Config;

/// Says on standard output where the node listens, and what to do first.
pub(super) fn greet(config: &Config, edge: SocketAddr, control: SocketAddr) -> anyhow::Result<()> {
    let (edge, control) = (dialled(edge), dialled(control));
    let public =
        config.edge.public_hosts.first().map_or_else(|| format!("http://{edge}"), |host| format!("https://{host}"));
    let token = config.data_dir.join("control.token");
    let token = if config.control.token.is_empty() {
        format!("$(cat {})", token.display())
    } else {
        "$TRELLIS_CONTROL__TOKEN".to_owned()
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "Trellis {} is up.\n", crate::VERSION)?;
    writeln!(out, "edge    http://{edge}")?;
    writeln!(out, "control http://{control}\n")?;
    writeln!(out, "Create a link and follow it:\n")?;
    writeln!(
        out,
        "  curl -s http://{control}/api/v1/links -H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' \
         -d '{{\"slug\":\"hello\",\"url\":\"https://example.com/?id={{click_id}}\"}}'"
    )?;
    writeln!(out, "  curl -si {public}/hello\n")?;
    out.flush()?;
    Ok(())
}
