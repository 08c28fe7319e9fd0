//! What most scenarios set up: servers on every real server, one service, its file.
//!
//! Must not know: what a scenario does with it.

use anyhow::Result;
use harness::config::{Config, RealServer, Service};
use harness::counters::ChecksumErrors;
use harness::peer;
use harness::process::Tool;
use harness::topology::{Family, address, endpoint, server_address};
use harness::{Lab, Shape};

/// Forwarding method, with the topology and the VIP that suit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Nat,
    Dr,
    Tunnel,
}

impl Method {
    /// The key's value.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
        }
    }

    /// The smallest topology in which it works.
    pub(crate) fn shape(self, servers: usize) -> Shape {
        match self {
            Self::Nat => Shape::TwoArms { servers },
            Self::Dr | Self::Tunnel => Shape::OneLan { servers },
        }
    }

    /// The VIP that its clients use.
    pub(crate) fn vip(self, family: Family) -> &'static str {
        let vips = match self {
            Self::Nat => address::VIP_WAN,
            Self::Dr => address::VIP_LAN,
            Self::Tunnel => address::VIP_TUNNEL,
        };
        match family {
            Family::V4 => vips[0],
            Family::V6 => vips[1],
        }
    }

    /// The director's interface on the clients' side.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Nat => "wan0",
            Self::Dr | Self::Tunnel => "lan0",
        }
    }

    /// The address on which a real server receives: its own, or the VIP.
    pub(crate) fn target(self, family: Family, n: usize) -> String {
        match self {
            Self::Nat => server_address(family, n),
            Self::Dr | Self::Tunnel => self.vip(family).to_string(),
        }
    }

    /// Where clients connect to.
    pub(crate) fn endpoint(self, family: Family, port: u16) -> String {
        endpoint(self.vip(family), port)
    }

    /// `http://VIP:PORT/`.
    pub(crate) fn url(self, family: Family, port: u16) -> String {
        peer::url(&self.endpoint(family, port))
    }
}

/// One HTTP server on every real server, `rs1`, `rs2`, ...
pub(crate) fn http_servers(lab: &Lab) -> Result<Vec<Tool>> {
    let names = (1..).map(|n| format!("rs{n}"));
    lab.servers.iter().zip(names).map(|(ns, name)| peer::http_server(ns, &name, WEB)).collect()
}

/// Every server of the lab, with weight 1.
pub(crate) fn all_servers(lab: &Lab, family: Family) -> Vec<RealServer> {
    (1..=lab.servers.len()).map(|n| RealServer::new(server_address(family, n))).collect()
}

/// A service named `web` over every server of the lab, rr, without a check.
pub(crate) fn web(lab: &Lab, method: Method, family: Family) -> Service {
    let listen = (method.vip(family), WEB, "tcp");
    Service::new("web", listen, method.name(), all_servers(lab, family))
}

/// A file with the VIP and one service.
pub(crate) fn file(lab: &Lab, method: Method, family: Family, service: Service) -> Config {
    Config::new(&lab.director_interfaces())
        .vip(method.vip(family), method.interface())
        .service(service)
}

/// Fails if the client or a real server has counted a checksum error.
pub(crate) fn no_checksum_errors(lab: &Lab) -> Result<()> {
    ChecksumErrors::of(&lab.client)?.none("the client")?;
    for server in &lab.servers {
        ChecksumErrors::of(server)?.none(server.name())?;
    }
    Ok(())
}

/// The port of the HTTP servers.
pub(crate) const WEB: u16 = 80;
