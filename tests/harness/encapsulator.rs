//! A director of a few lines: frames to a virtual address go to one real server, wrapped in an
//! outer header made by hand. What real servers do with tunnelled packets is seen by it alone.
//!
//! It stands in the director's namespace on `lan0`. Clients are told its MAC address for the
//! virtual address, so nothing answers for that by ARP. Frames have to leave room for the outer
//! header: [`Lab::widen_lan`] before.
//!
//! Must not know: the product.

use crate::frame::{Mac, Wire, checksum, mac_of};
use crate::topology::{Lab, address};
use crate::wait::millis;
use anyhow::{Context, Result, anyhow};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A running one; ends when dropped.
pub struct Encapsulator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Encapsulator {
    /// From now on the client's packets to `vip` reach server 1, tunnelled to its address `server`.
    ///
    /// # Errors
    /// When the client or the director cannot be prepared.
    pub fn start(lab: &Lab, vip: &str, server: &str) -> Result<Self> {
        // Merged segments do not fit any outer header.
        lab.director.run("ethtool -K lan0 gro off")?;
        let mut wire = Wire::open(&lab.director, "lan0")?;
        let own = wire.mac();
        let hex: Vec<String> = own.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.join(":");
        lab.client.ip(&format!("neigh replace {vip} lladdr {hex} nud permanent dev lan0\n"))?;
        let [vip, server]: [IpAddr; 2] = [vip.parse()?, server.parse()?];
        let director = address::DIRECTOR_LAN[usize::from(server.is_ipv6())].parse()?;
        let to = mac_of(lab.server(1)?, "lan0")?;
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let wanted = |frame: &[u8]| frame[..6] == own && is_to(frame, vip);
                // A while without a frame is no failure.
                if let Ok(frame) = wire.receive(millis(100), "a packet", wanted) {
                    // A frame that does not fit is lost, as on any wire.
                    let _lost = wire.send(&encapsulate(&frame, [own, to], director, server));
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had panicked.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow!("the encapsulator panicked"))
    }
}

impl Drop for Encapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic is reported by whoever misses its packets.
            let _ = thread.join();
        }
    }
}

/// Whether an untagged frame is for this address.
fn is_to(frame: &[u8], vip: IpAddr) -> bool {
    match vip {
        IpAddr::V4(vip) => {
            frame.len() >= 34 && frame[12..14] == [8, 0] && frame[30..34] == vip.octets()
        }
        IpAddr::V6(vip) => {
            frame.len() >= 54 && frame[12..14] == [0x86, 0xdd] && frame[38..54] == vip.octets()
        }
    }
}

/// The frame in an outer packet; over IPv6 with the encapsulation limit that Linux adds.
fn encapsulate(frame: &[u8], [from, to]: [Mac; 2], source: IpAddr, target: IpAddr) -> Vec<u8> {
    let inner = &frame[14..];
    let protocol = if frame[12] == 8 { 4 } else { 41 };
    let mut out = [&to[..], &from].concat();
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let length = (20 + inner.len()) as u16;
            let mut head = [&[0x45, 0][..], &length.to_be_bytes()].concat();
            head.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            head.extend(source.octets());
            head.extend(target.octets());
            let sum = checksum(&head).to_be_bytes();
            head[10..12].copy_from_slice(&sum);
            out.extend([8, 0]);
            out.extend(head);
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend(((8 + inner.len()) as u16).to_be_bytes());
            out.extend([60, 64]);
            out.extend(source.octets());
            out.extend(target.octets());
            out.extend([protocol, 0, 4, 1, 4, 1, 1, 0]);
        }
        _ => {}
    }
    out.extend(inner);
    out
}
