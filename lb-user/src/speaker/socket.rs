//! The speaker's sockets: frames of one interface, membership in VRRP's groups, unicast adverts.
//!
//! Adverts are read from a packet socket, which hears them before a filter of this host can drop
//! them. A raw socket beside it is the member of the group, and shows what the filters leave.
//! Nothing here ever waits.
//!
//! Must not know: what frames mean, states.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::vrrp::packet::{GROUP_V4, GROUP_V6, PROTOCOL, TTL};

/// A packet socket on one interface.
#[derive(Debug)]
pub(super) struct Ear(Socket);

impl Ear {
    /// Hears VRRP, ARP and neighbour advertisements that come in on an interface.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter())?;
        set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // Beyond what the host lets others have; without the right to that, as much as it does.
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
            .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER as usize))?;
        socket.bind(&link_address(ifindex)?)?;
        Ok(Self(socket))
    }

    /// The next frame; `None` when there is none.
    pub(super) fn hear<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        Ok(read(&self.0, buffer)?.map(|length| &buffer[..length]))
    }

    /// Sends a frame by this interface.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A member of VRRP's group on one interface, of one family.
#[derive(Debug)]
pub(super) struct Member(Socket);

impl Member {
    /// Joins the group.
    pub(super) fn join(ifindex: u32, interface: &str, v4: bool) -> io::Result<Self> {
        let socket = raw(v4)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        if v4 {
            socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(ifindex))?;
        } else {
            socket.join_multicast_v6(&GROUP_V6, ifindex)?;
        }
        Ok(Self(socket))
    }

    /// How many packets came through since the last call.
    pub(super) fn drain(&self) -> u64 {
        let mut buffer = [0; 64];
        let mut count = 0;
        // What is longer than the buffer is cut off, and no part of it comes later. A flood is left
        // for the next time.
        while count < MOST_DRAINED
            && let Ok(Some(_)) = read(&self.0, &mut buffer)
        {
            count += 1;
        }
        count
    }
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Adverts from one address to others.
#[derive(Debug)]
pub(super) struct Voice(Socket);

impl Voice {
    /// Speaks from this address, which is on this host.
    pub(super) fn open(source: IpAddr) -> io::Result<Self> {
        let socket = raw(source.is_ipv4())?;
        if source.is_ipv4() {
            socket.set_ttl_v4(u32::from(TTL))?;
            socket.set_tos_v4(CONTROL)?;
        } else {
            socket.set_unicast_hops_v6(u32::from(TTL))?;
            socket.set_tclass_v6(CONTROL)?;
        }
        // Nothing is read from it, so nothing is kept for it.
        socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        Ok(Self(socket))
    }

    /// Sends a message to a peer.
    pub(super) fn send(&self, peer: IpAddr, message: &[u8]) -> io::Result<()> {
        self.0.send_to(message, &SocketAddr::new(peer, 0).into()).map(drop)
    }
}

fn raw(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let protocol = Protocol::from(i32::from(PROTOCOL));
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn read(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match socket.read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

fn link_address(ifindex: u32) -> io::Result<SockAddr> {
    // SAFETY: the storage is zeroed and large enough for a sockaddr_ll, which is all that is
    // written, and the length is set to its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            (*address).sll_ifindex = ifindex.cast_signed();
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

fn set(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the options that are set here take an int, which is live for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Frames of interest: without a VLAN (those belong to another interface; VLAN 0 is none, only a
/// priority), VRRP over either family, ARP, and neighbour advertisements.
fn filter() -> [SockFilter; 16] {
    let jump = |value, yes, no| SockFilter::new(JUMP_IF_EQUAL, yes, no, value);
    [
        SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG),
        SockFilter::new(AND, 0, 0, VLAN_ID),
        jump(0, 0, 12),
        SockFilter::new(LOAD_HALF, 0, 0, ETHERTYPE_AT),
        jump(ETHERTYPE_ARP, 9, 0),
        jump(ETHERTYPE_IPV4, 0, 2),
        SockFilter::new(LOAD_BYTE, 0, 0, PROTOCOL_AT),
        jump(u32::from(PROTOCOL), 6, 7),
        jump(ETHERTYPE_IPV6, 0, 6),
        SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER_AT),
        jump(u32::from(PROTOCOL), 3, 0),
        jump(ICMPV6, 0, 3),
        SockFilter::new(LOAD_BYTE, 0, 0, ICMPV6_TYPE_AT),
        jump(NEIGHBOUR_ADVERTISEMENT, 0, 1),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Places in a frame, and what is there.
const ETHERTYPE_AT: u32 = 12;
const PROTOCOL_AT: u32 = 23;
const NEXT_HEADER_AT: u32 = 20;
const ICMPV6_TYPE_AT: u32 = 54;
const ETHERTYPE_ARP: u32 = 0x0806;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const ICMPV6: u32 = 58;
const NEIGHBOUR_ADVERTISEMENT: u32 = 136;
/// Instructions of classic BPF (linux/filter.h).
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;
/// SKF_AD_OFF + SKF_AD_VLAN_TAG; 0 without a tag.
const VLAN_TAG: u32 = 0xffff_f000 + 44;
const VLAN_ID: u32 = 0xfff;
/// linux/if_packet.h, since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const CONTROL: u32 = 0xc0;
/// Packets that are counted at a time.
const MOST_DRAINED: u64 = 4096;
/// Room for a burst while the process does not run.
const RECEIVE_BUFFER: libc::c_int = 1 << 20;
