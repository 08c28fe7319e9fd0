//! Requests and replies of every method, family and protocol, as whole frames.

use anyhow::{Context, Result, ensure};
use lb_common::service::METHOD_NAT;
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, flag};
use crate::rig::*;
use crate::services::*;

/// Runs `body` for every method, family and protocol, each with a service of two servers.
fn each_kind(mut body: impl FnMut(&mut Rig, &Installed, bool, L4) -> Result<()> + Send) {
    with(1000, |rig| {
        for (n, (method, v6)) in KINDS.into_iter().enumerate() {
            for (protocol, l4) in [(TCP, L4::Tcp(flag::SYN)), (UDP, L4::Udp)] {
                let port = 80 + n as u16;
                let listen = vip(v6, port);
                let wanted = Wanted::new(method, protocol, listen, &servers(v6, 2, 8000 + port));
                let service = rig.install(&wanted)?;
                body(rig, &service, v6, l4)
                    .with_context(|| format!("method {method} v6 {v6} {l4:?}"))?;
            }
        }
        Ok(())
    });
}

/// The flags of a packet in the middle of a connection.
fn later(l4: L4) -> L4 {
    if matches!(l4, L4::Tcp(_)) { L4::Tcp(flag::ACK) } else { l4 }
}

#[test]
fn requests_reach_the_real_server_of_their_connection() {
    each_kind(|rig, service, v6, l4| {
        for (n, server) in [(0, 0), (1, 1), (2, 0)] {
            let first = service.request(l4, client(v6, n));
            rig.becomes(&first, CLIENT_SIDE, &service.sent(&first, server), REDIRECT);
            let next = Frame { payload: b"more".to_vec(), ..service.request(later(l4), client(v6, n)) };
            for _ in 0..2 {
                rig.becomes(&next, CLIENT_SIDE, &service.sent(&next, server), REDIRECT);
            }
        }
        Ok(())
    });
}
