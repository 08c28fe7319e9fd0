//! `lb detach`: removes what a daemon that is gone left on this host.
//!
//! Addresses and neighbours are found by the mark that they were added with, XDP links and maps by
//! their pins: a link ends with its last reference, which is its pin.
//!
//! Must not know: what is in the maps.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::args::Detach;
use crate::cli::{output, runtime};
use crate::controller::preflight;
use crate::netlink::Netlink;

pub(super) fn detach(arguments: &Detach) -> anyhow::Result<()> {
    let socket = arguments.daemon.socket();
    anyhow::ensure!(
        UnixStream::connect(&socket).is_err(),
        "a daemon serves {}: stop it first; a stop without --keep-dataplane leaves nothing behind",
        socket.display()
    );
    let mut removed = runtime()?.block_on(detach_netlink())?;
    removed.extend(detach_pins(&arguments.pin_path)?);
    if arguments.daemon.wants_json() {
        let document = serde_json::json!({ "removed": removed });
        return output::print(format!("{document}\n").as_bytes());
    }
    if removed.is_empty() {
        return output::print(b"nothing was left\n");
    }
    let lines: String = removed.iter().map(|thing| format!("removed {thing}\n")).collect();
    output::print(lines.as_bytes())
}

/// Addresses go first: they attract packets.
async fn detach_netlink() -> anyhow::Result<Vec<String>> {
    let netlink = Netlink::open()?;
    let links = netlink.links().await?;
    let name = |index| links.get(index).map_or_else(|| index.to_string(), |link| link.name.clone());
    let mut removed = Vec::new();
    for address in netlink.owned_addresses().await? {
        netlink.remove_address(address).await?;
        let text = format!("{}/{}", address.address, address.prefix_len);
        removed.push(format!("address {text} dev {}", name(address.ifindex)));
    }
    for neighbour in netlink.owned_neighbours().await? {
        netlink.remove_neighbour(neighbour.ifindex, neighbour.address).await?;
        removed.push(format!("neighbour {} dev {}", neighbour.address, name(neighbour.ifindex)));
    }
    Ok(removed)
}

/// Only directories named like a table layout's version, and only on a bpffs.
fn detach_pins(pin_path: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match std::fs::read_dir(pin_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("read {}", pin_path.display()))?,
    };
    anyhow::ensure!(
        preflight::on_bpffs(pin_path),
        "{} is not on a BPF file system: nothing there is removed",
        pin_path.display()
    );
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if is_layout(&path) {
            std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
            removed.push(format!("pins {}", path.display()));
        }
    }
    // Stays when it is not empty or is the mount point itself.
    let _stays = std::fs::remove_dir(pin_path);
    Ok(removed)
}

fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digits = name.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layout_directories_are_ours() {
        assert!(is_layout(Path::new("/sys/fs/bpf/lb/v1")));
        for other in ["v", "v1x", "1", "tc", "vault"] {
            assert!(!is_layout(&Path::new("/sys/fs/bpf/lb").join(other)), "{other}");
        }
    }

    #[test]
    fn a_directory_that_is_no_bpffs_is_not_touched() {
        let path = std::env::temp_dir().join(format!("lb-detach-{}", std::process::id()));
        std::fs::create_dir_all(path.join("v1")).expect("a directory");
        let error = detach_pins(&path).expect_err("refused").to_string();
        assert!(path.join("v1").exists());
        std::fs::remove_dir_all(&path).expect("removed");
        assert!(error.contains("not on a BPF file system"), "{error}");
        assert!(detach_pins(&path).expect("nothing there").is_empty());
    }
}
