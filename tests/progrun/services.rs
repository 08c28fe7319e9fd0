//! Services as the controller installs them, and what becomes of frames to them.
//!
//! [`Wanted`] says what a test needs; [`Rig::install`] writes it. An [`Installed`] service tells
//! what a request or a reply must look like on the other side.

use super::frames::{Frame, L4, Mac};
use super::rig::*;
use std::net::IpAddr;

use anyhow::Result;
use lb_common::hash;
use lb_common::service::{
    METHOD_DR, METHOD_NAT, RS_MSS_CLAMP, RS_NEXT_HOP, RS_VALID, RealServer, Region, SCHEDULER_RING,
    SERVICE_HASH_FALLBACK, SERVICE_HASH_PORT, ServiceEntry, ServiceKey,
};
use lb_common::wire::{Link, TAGS_PROVIDER};
use lb_user::plan::MapOp;

/// An address and a port.
pub(crate) type End = (IpAddr, u16);

/// A service to install.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) listen: End,
    pub(crate) protocol: u8,
    pub(crate) method: u8,
    pub(crate) servers: Vec<End>,
    /// Their weights.
    pub(crate) weights: Vec<u32>,
    /// `SCHEDULER_*`.
    pub(crate) scheduler: u32,
    /// Positions in `servers`, in the order in which new connections get them; or the members of
    /// lc and wlc.
    pub(crate) ring: Vec<usize>,
    /// The same by hash.
    pub(crate) maglev: Vec<usize>,
    pub(crate) profile: u32,
    pub(crate) hash_port: bool,
    /// Flows whose hashed server takes no new connections go to another one.
    pub(crate) hash_fallback: bool,
    /// Tags of frames to the real servers.
    pub(crate) tags: Vec<(u16, u16)>,
    /// The interface that the servers are behind.
    pub(crate) egress: u32,
    /// False: the routing table is asked.
    pub(crate) next_hop: bool,
    /// Largest packet that reaches a server, its tunnel's header taken off.
    pub(crate) mtu: u16,
    /// Our end of tunnels.
    pub(crate) tunnel_source: Option<IpAddr>,
    pub(crate) mss_clamp: bool,
}

impl Wanted {
    /// A service whose servers have equal weights.
    pub(crate) fn new(method: u8, protocol: u8, listen: End, servers: &[End]) -> Self {
        let all: Vec<usize> = (0..servers.len()).collect();
        Self {
            listen,
            protocol,
            method,
            servers: servers.to_vec(),
            weights: vec![1; servers.len()],
            scheduler: SCHEDULER_RING,
            ring: all.clone(),
            maglev: all,
            profile: 0,
            hash_port: true,
            hash_fallback: true,
            tags: Vec::new(),
            egress: SERVER_SIDE,
            next_hop: true,
            mtu: 0,
            tunnel_source: None,
            mss_clamp: false,
        }
    }
}

/// A service that is in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) wanted: Wanted,
    /// Real-server indices, in the order of `wanted.servers`.
    pub(crate) index: Vec<u32>,
    pub(crate) elements: Vec<RealServer>,
    pub(crate) entry: ServiceEntry,
}

impl Rig {
    /// Writes a service into the tables.
    pub(crate) fn install(&mut self, wanted: &Wanted) -> Result<Installed> {
        let id = self.next_service();
        let mut index = Vec::new();
        let mut elements = Vec::new();
        for (end, weight) in wanted.servers.iter().zip(&wanted.weights) {
            let at = self.next_server();
            let value = RealServer { weight: *weight, ..element(wanted, id, at, *end) };
            self.apply(&MapOp::SetRealServer { index: at, value })?;
            index.push(at);
            elements.push(value);
        }
        let entry = ServiceEntry {
            id,
            flags: if wanted.hash_port { SERVICE_HASH_PORT } else { 0 }
                | if wanted.hash_fallback { SERVICE_HASH_FALLBACK } else { 0 },
            scheduler: wanted.scheduler,
            timeouts: wanted.profile,
            slots: self.region(&wanted.ring, &index)?,
            maglev: self.region(&wanted.maglev, &index)?,
        };
        let mut installed = Installed { wanted: wanted.clone(), index, elements, entry };
        self.listen(&mut installed, wanted.listen)?;
        Ok(installed)
    }

    /// Lets a service be reached under another address or port as well.
    pub(crate) fn listen(&mut self, service: &mut Installed, listen: End) -> Result<()> {
        let key = key_of(listen, service.wanted.protocol);
        self.apply(&MapOp::SetService { key, value: service.entry })?;
        self.apply(&MapOp::SetVip { address: key.address })?;
        self.let_through(listen.0)?;
        if service.wanted.method == METHOD_NAT {
            for (server, _) in service.wanted.servers.clone() {
                self.let_through(server)?;
            }
        }
        Ok(())
    }

    /// Sets an address's bit in the filter.
    fn let_through(&mut self, address: IpAddr) -> Result<()> {
        let word = match address {
            IpAddr::V4(a) => u32::from_ne_bytes(a.octets()),
            IpAddr::V6(a) => {
                let o = a.octets();
                let part = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
                hash::filter_fold(&[part(0), part(4), part(8), part(12)])
            }
        };
        let (word, bit) = hash::filter_place(word);
        self.set_filter(word, bit)
    }

    /// Writes another ring for a service; its servers stay.
    pub(crate) fn set_ring(&mut self, service: &mut Installed, ring: &[usize]) -> Result<()> {
        service.entry.slots = self.region(ring, &service.index.clone())?;
        let key = key_of(service.wanted.listen, service.wanted.protocol);
        self.apply(&MapOp::SetService { key, value: service.entry })
    }

    /// Gives a real server's index to another use: every connection of the last one is dead.
    pub(crate) fn bump(&mut self, service: &mut Installed, server: usize) -> Result<()> {
        let element = &mut service.elements[server];
        element.generation = (element.generation + 1) & 0xfff;
        let (index, value) = (service.index[server], *element);
        self.apply(&MapOp::SetRealServer { index, value })
    }

    /// Gives a real server another weight.
    pub(crate) fn set_weight(
        &mut self,
        service: &mut Installed,
        server: usize,
        weight: u32,
    ) -> Result<()> {
        service.elements[server].weight = weight;
        let (index, value) = (service.index[server], service.elements[server]);
        self.apply(&MapOp::SetRealServer { index, value })
    }

    fn region(&mut self, places: &[usize], index: &[u32]) -> Result<Region> {
        let base = self.next_slots(places.len() as u32);
        let slots: Vec<u32> = places.iter().map(|&place| index[place]).collect();
        self.apply(&MapOp::WriteSlots { base, slots: slots.into() })?;
        Ok(Region { base, len: places.len() as u32 })
    }
}

/// The key under which a service is found.
pub(crate) fn key_of(listen: End, protocol: u8) -> ServiceKey {
    ServiceKey { address: address(listen.0), port: listen.1, protocol, pad: [0; 5] }
}

fn element(wanted: &Wanted, service: u32, index: u32, end: End) -> RealServer {
    let provider = matches!(wanted.tags.first(), Some((0x88a8, _)));
    let tag = |i: usize| wanted.tags.get(i).map_or(0, |(_, control)| *control);
    let next_hop = Link {
        peer_mac: server_mac(index),
        our_mac: our_mac(wanted.egress),
        ifindex: wanted.egress,
        tags: [tag(0), tag(1)],
        tag_count: wanted.tags.len() as u8 | if provider { TAGS_PROVIDER } else { 0 },
        pad: [0; 3],
    };
    RealServer {
        address: address(end.0),
        port: end.1,
        generation: 1,
        flags: RS_VALID
            | if wanted.next_hop { RS_NEXT_HOP } else { 0 }
            | if wanted.mss_clamp { RS_MSS_CLAMP } else { 0 },
        service,
        timeouts: wanted.profile,
        next_hop: if wanted.next_hop { next_hop } else { Link::zeroed() },
        method: wanted.method,
        mtu: wanted.mtu,
        tunnel_source: wanted.tunnel_source.map_or([0; 16], address),
        ..RealServer::zeroed()
    }
}

/// The address of the real server with this index.
pub(crate) fn server_mac(index: u32) -> Mac {
    let [_, b, c, d] = index.to_be_bytes();
    [0x02, 0, 0x05, b, c, d]
}

/// The director's address on an interface.
pub(crate) fn our_mac(ifindex: u32) -> Mac {
    if ifindex == CLIENT_SIDE { CLIENT_SIDE_MAC } else { SERVER_SIDE_MAC }
}

impl Installed {
    /// A client's frame to this service.
    pub(crate) fn request(&self, l4: L4, client: End) -> Frame {
        let mut frame = Frame::new(l4, client, self.wanted.listen);
        (frame.to, frame.from) = (CLIENT_SIDE_MAC, CLIENT_MAC);
        frame
    }

    /// What a request must be when it leaves for a server.
    pub(crate) fn sent(&self, request: &Frame, server: usize) -> Frame {
        let mut frame = request.clone();
        frame.to = server_mac(self.index[server]);
        frame.from = our_mac(self.wanted.egress);
        frame.tags = self.wanted.tags.clone();
        frame.ttl -= 1;
        if self.wanted.method == METHOD_NAT {
            (frame.destination, frame.ports.1) = self.wanted.servers[server];
        }
        frame
    }

    /// A server's answer to a client (nat), as it comes to the director.
    pub(crate) fn reply(&self, l4: L4, server: usize, client: End) -> Frame {
        let mut frame = Frame::new(l4, self.wanted.servers[server], client);
        (frame.to, frame.from) = (our_mac(self.wanted.egress), server_mac(self.index[server]));
        frame.tags = self.wanted.tags.clone();
        frame
    }

    /// What a reply must be when it leaves for the client that sent `request`.
    pub(crate) fn returned(&self, reply: &Frame, request: &Frame) -> Frame {
        let mut frame = reply.clone();
        (frame.to, frame.from) = (request.from, request.to);
        frame.tags = request.tags.clone();
        frame.ttl -= 1;
        (frame.source, frame.ports.0) = self.wanted.listen;
        frame
    }

    /// The verdict for a frame that came by `ingress` and leaves for a server.
    pub(crate) fn verdict(&self, ingress: u32) -> u32 {
        if ingress == self.wanted.egress { TX } else { REDIRECT }
    }
}

/// The address and port of the `n`th client of a family.
pub(crate) fn client(v6: bool, n: u16) -> End {
    let ip = if v6 { "2001:db8:c::7" } else { "198.51.100.7" };
    (ip.parse().expect("an address"), 40_000 + n)
}

/// `text` as an address with a port: `10.0.0.1:80`, `[2001:db8::1]:80`.
pub(crate) fn end(text: &str) -> End {
    let end: std::net::SocketAddr = text.parse().expect("an address with a port");
    (end.ip(), end.port())
}

/// A virtual address of a family.
pub(crate) fn vip(v6: bool, port: u16) -> End {
    end(&if v6 { format!("[2001:db8:f::1]:{port}") } else { format!("203.0.113.1:{port}") })
}

/// The first `count` real servers of a family.
pub(crate) fn servers(v6: bool, count: u16, port: u16) -> Vec<End> {
    let name = |n: u16| match v6 {
        true => format!("[2001:db8:5::{n}]:{port}"),
        false => format!("10.5.{}.{}:{port}", n >> 8, n & 0xff),
    };
    (1..=count).map(|n| end(&name(n))).collect()
}

/// Every combination of method and family.
pub(crate) const KINDS: [(u8, bool); 4] =
    [(METHOD_DR, false), (METHOD_DR, true), (METHOD_NAT, false), (METHOD_NAT, true)];
