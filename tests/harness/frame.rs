//! Raw Ethernet frames in and out of a namespace, for what sockets cannot send or hide.
//!
//! [`Wire`] is a packet socket on one interface. [`arp_request`] and [`Segment`] build the few
//! frames that scenarios need, with correct checksums.
//!
//! Must not know: the product.
#![allow(unsafe_code)]

use crate::netns::Netns;
use anyhow::{Context, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Wire {
    // A File gives read and write without further unsafe code.
    socket: std::fs::File,
    mac: Mac,
}

impl Wire {
    /// Opens `interface` of `ns`; frames are kept from now on.
    ///
    /// # Errors
    /// When the interface does not exist or the socket is refused.
    pub fn open(ns: &Netns, interface: &str) -> Result<Self> {
        let mac = mac_of(ns, interface)?;
        let socket = ns.enter(|| packet_socket(interface))?;
        Ok(Self { socket: socket.into(), mac })
    }

    /// The same for an interface of the calling thread's namespace, whose address is known.
    ///
    /// # Errors
    /// As [`Wire::open`].
    pub fn here(interface: &str, mac: Mac) -> Result<Self> {
        Ok(Self { socket: packet_socket(interface)?.into(), mac })
    }

    /// The interface's own address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends one frame as it is.
    ///
    /// # Errors
    /// When the interface refuses it.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.write(frame).context("send a frame")?;
        ensure!(sent == frame.len(), "only {sent} of {} bytes were sent", frame.len());
        Ok(())
    }

    /// The next frame that `wanted` accepts.
    ///
    /// # Errors
    /// At the deadline.
    pub fn receive(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let start = Instant::now();
        let mut buffer = [0; 65_536];
        while start.elapsed() < limit {
            match self.socket.read(&mut buffer) {
                Ok(length) if wanted(&buffer[..length]) => return Ok(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
        bail!("no frame within {:.1} s: {what}", limit.as_secs_f64())
    }
}

/// The Ethernet address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn mac_of(ns: &Netns, interface: &str) -> Result<Mac> {
    let text = ns.run(&format!("ip -brief link show dev {interface}"))?;
    let word = text.split_whitespace().find(|word| word.matches(':').count() == 5);
    let word = word.with_context(|| format!("{interface} has no address"))?;
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(word.split(':')) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(mac)
}

/// A broadcast ARP request (RFC 826).
pub fn arp_request(from: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &from, &[0x08, 0x06]].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Whether `frame` is the ARP reply of `target`.
pub fn is_arp_reply(frame: &[u8], target: Ipv4Addr) -> bool {
    frame.len() >= 42
        && frame[12..14] == [0x08, 0x06]
        && frame[20..22] == [0, 2]
        && frame[28..32] == target.octets()
}

/// One TCP segment without payload over IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sender and receiver on the link.
    pub macs: [Mac; 2],
    /// Source and destination.
    pub addresses: [Ipv4Addr; 2],
    /// Source and destination port.
    pub ports: [u16; 2],
    /// The flags byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// The sequence number.
    pub sequence: u32,
}

impl Segment {
    /// The frame, with correct checksums.
    pub fn frame(&self) -> Vec<u8> {
        let [source, destination] = self.addresses.map(|address| address.octets());
        let mut tcp = Vec::new();
        tcp.extend(self.ports[0].to_be_bytes());
        tcp.extend(self.ports[1].to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend([0, 0, 0, 0, 5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = [&source[..], &destination, &[0, 6, 0, 20]].concat();
        let sum = checksum(&[&pseudo[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
        ip.extend(source);
        ip.extend(destination);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let [from, to] = self.macs;
        [&to[..], &from, &[0x08, 0x00], &ip, &tcp].concat()
    }
}

/// The internet checksum (RFC 1071) over an even number of bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A packet socket bound to an interface of the calling thread's namespace; reads end after 50 ms.
fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(every_protocol)) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("open a packet socket");
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: every_protocol,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let patience = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    // SAFETY: both structures are live for their calls and the given sizes are theirs.
    let (bound, limited) = unsafe {
        (
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            ),
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                size_of_val(&patience) as libc::socklen_t,
            ),
        )
    };
    if bound < 0 || limited < 0 {
        return Err(io::Error::last_os_error()).context("bind the packet socket");
    }
    Ok(socket)
}

/// A packet socket as above that keeps nothing but what VRRP routers say: VRRP, ARP and ICMPv6.
///
/// # Errors
/// When the interface does not exist or the socket is refused.
pub(crate) fn announcement_socket(interface: &str) -> Result<OwnedFd> {
    // Classic BPF over the frame: jumps count instructions from the next one on.
    let code = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let (half, byte) =
        (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, libc::BPF_LD | libc::BPF_B | libc::BPF_ABS);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = [
        code(half, 0, 0, 12),
        code(equal, 7, 0, 0x0806),
        code(equal, 0, 2, 0x0800),
        code(byte, 0, 0, 14 + 9),
        code(equal, 4, 5, 112),
        code(equal, 0, 4, 0x86dd),
        code(byte, 0, 0, 14 + 6),
        code(equal, 1, 0, 112),
        code(equal, 0, 1, 58),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let socket = packet_socket(interface)?;
    // SAFETY: the program and the filter that it points to are live for the call; the size is its.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if attached < 0 {
        return Err(io::Error::last_os_error()).context("attach a filter to the packet socket");
    }
    Ok(socket)
}

/// Frames that the kernel had no room for in a packet socket, since the last question.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn lost_frames(socket: &OwnedFd) -> Result<u32> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut size = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the structure is live for the call, and `size` is its size.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut size,
        )
    };
    if asked < 0 {
        return Err(io::Error::last_os_error()).context("ask for lost frames");
    }
    Ok(stats.tp_drops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let segment = Segment {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            addresses: [Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 15)],
            ports: [4000, 80],
            flags: 2,
            sequence: 7,
        };
        let frame = segment.frame();
        assert_eq!(frame.len(), 54);
        assert_eq!(checksum(&frame[14..34]), 0);
        let pseudo = [&frame[26..34], &[0, 6, 0, 20], &frame[34..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn a_request_is_no_reply() {
        let [a, b] = [Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 15)];
        let request = arp_request([2, 0, 0, 0, 0, 1], a, b);
        assert!(!is_arp_reply(&request, a));
        assert!(!is_arp_reply(&request, b));
    }
}
