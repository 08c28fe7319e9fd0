//! `lb detach`: removes what a daemon that is gone left on this host.
//!
//! Addresses and neighbours are found by the mark that they were added with, XDP links and maps by
//! their pins: a link ends with its last reference, which is its pin. A speaker that still waits for
//! a controller is asked to resign.
//!
//! Must not know: what is in the maps.

use std::os::unix::net::UnixStream;

use crate::cli::args::Detach;
use crate::cli::{output, runtime};
use crate::dataplane::bpf;
use crate::netlink::Netlink;
use crate::speaker;

pub(super) fn detach(arguments: &Detach) -> anyhow::Result<()> {
    let socket = arguments.daemon.socket();
    anyhow::ensure!(
        UnixStream::connect(&socket).is_err(),
        "a daemon serves {}: stop it first; a stop without --keep-dataplane leaves nothing behind",
        socket.display()
    );
    // First, because it is refused while a daemon holds the pin path.
    let mut removed = bpf::remove(&arguments.pin_path)?;
    // A speaker that outlived its controller would put its addresses back.
    let beside = speaker::socket_beside(&socket);
    if speaker::end(&beside)? {
        removed.push(format!("speaker {}", beside.display()));
    }
    removed.extend(speaker::clear()?);
    removed.extend(runtime()?.block_on(detach_netlink())?);
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
