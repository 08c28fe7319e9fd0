//! The address follows what a node can serve: a virtual service without a real server is a fault.
//!
//! Must not know: how the health of a service reaches its instance.

use crate::vrrp::handover::is_goodbye;
use crate::vrrp::stage::{VIP, instance, owns, setups};
use harness::config::{Config, RealServer, Service};
use harness::pair::{self, INTERFACE};
use harness::peer;
use harness::topology::{Family, server_address};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::router::Make::{Keepalived, Lb};
use harness::vrrp::router::Router;
use harness::wait::seconds;

#[test]
fn a_service_that_stops_moves_the_address() {
    pair::scenario(1, |pair| {
        let capture = Capture::start(pair)?;
        let listens = peer::hold_server(pair.server(1)?, PORT)?;
        let [mut a, b] = setups(&instance());
        a.instances[0].track_services.push("web".into());
        let servers = vec![RealServer::new(server_address(Family::V4, 1))];
        let service = Service::new("web", (VIP, PORT, "tcp"), "dr", servers)
            .check("type: tcp, interval: 200ms, timeout: 200ms, rise: 1, fall: 2");
        let config = Config::new(&[INTERFACE]).service(service);
        let _a = Router::start_director(Lb, &pair.a, &a, config)?;
        let _b = Router::start(Keepalived, &pair.b, &b)?;
        owns(&pair.a, &pair.b, VIP)?;
        let since = now();
        drop(listens);
        capture.wait_advert(&pair.a, since, seconds(3), "a goodbye", is_goodbye)?;
        owns(&pair.b, &pair.a, VIP)?;
        let _listens = peer::hold_server(pair.server(1)?, PORT)?;
        owns(&pair.a, &pair.b, VIP)
    });
}

const PORT: u16 = 90;
