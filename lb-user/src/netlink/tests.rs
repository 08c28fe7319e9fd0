//! Against the kernel, as root, each test in a network namespace of its own.
//!
//! Must not know: anything but this module's public face.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth};
use tokio::sync::mpsc;

use super::sysctl::Sysctls;
use super::*;

/// Runs a test on a thread in a fresh network namespace, with a runtime.
fn in_namespace<T: Send>(test: impl AsyncFnOnce() -> T + Send) -> T {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it with sudo");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (CAP_SYS_ADMIN)");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(test())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

impl Netlink {
    async fn veth(&self, near: &str, far: &str) -> (u32, u32) {
        let message = LinkVeth::new(near, far).up().build();
        self.handle.link().add(message).execute().await.expect("a veth");
        let links = self.links().await.expect("links");
        let index = |name| links.by_name(name).expect("the link").index;
        self.up(index(far)).await;
        (index(near), index(far))
    }

    async fn up(&self, index: u32) {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().change(message).execute().await.expect("up");
    }
}

fn address(ifindex: u32, text: &str, prefix_len: u8) -> Address {
    Address { ifindex, address: text.parse().expect("an address"), prefix_len }
}

#[test]
fn addresses_are_added_once_and_only_our_own_are_ours() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        let (near, _) = netlink.veth("near", "far").await;
        let v4 = address(near, "10.0.0.50", 32);
        let v6 = address(near, "2001:db8::50", 128);
        for vip in [v4, v6, v4, v6] {
            assert_eq!(netlink.add_address(vip).await.expect("added"), Ownership::Ours);
        }
        let second = Netlink::open().expect("netlink");
        let mut owned = second.owned_addresses().await.expect("owned");
        owned.sort();
        assert_eq!(owned, [v4, v6], "a later daemon finds them");

        let foreign = address(near, "10.0.0.1", 24);
        let request = netlink.handle.address().add(near, foreign.address, 24);
        request.execute().await.expect("added by others");
        assert_eq!(netlink.add_address(foreign).await.expect("present"), Ownership::Foreign);

        for vip in [v4, v6, v4, v6] {
            netlink.remove_address(vip).await.expect("removed, or gone already");
        }
        assert!(netlink.owned_addresses().await.expect("owned").is_empty());
        assert!(netlink.addresses().await.expect("all").contains(&foreign));
    });
}

#[test]
fn an_address_on_a_missing_interface_names_what_was_tried() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        let error = netlink.add_address(address(99, "10.0.0.50", 32)).await.expect_err("no link");
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.to_string().contains("add address 10.0.0.50/32 on interface 99"), "{error}");
    });
}

#[test]
fn links_tell_ethernet_and_carrier() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        let (near, far) = netlink.veth("near", "far").await;
        let links = netlink.links().await.expect("links");
        let link = links.get(near).expect("near");
        assert!(link.up && link.running && link.mtu == 1500 && link.mac.is_some(), "{link:?}");
        assert_eq!(link.kind, LinkKind::Plain, "a veth names its peer as VLANs name their parent");
        assert_eq!(links.by_name("lo").expect("lo").mac, None);

        let down = LinkUnspec::new_with_index(far).down().build();
        netlink.handle.link().change(down).execute().await.expect("down");
        eventually("no carrier", async || {
            let links = netlink.links().await.expect("links");
            (!links.get(near).expect("near").running).then_some(())
        })
        .await;
    });
}

#[test]
fn a_next_hop_is_resolved_by_a_managed_neighbour_and_events_say_so() {
    let (to_peer, peer_done) = std::sync::mpsc::channel::<()>();
    let (peer_ready, peer) = std::sync::mpsc::channel::<(File, std::sync::mpsc::Sender<()>)>();
    std::thread::scope(|scope| {
        scope.spawn(move || in_namespace(async move || serve_as_peer(peer_ready, peer_done).await));
        in_namespace(async move || {
            let netlink = Netlink::open().expect("netlink");
            let (near, far) = netlink.veth("near", "far").await;
            let (namespace, moved) = peer.recv().expect("the peer");
            let message = LinkUnspec::new_with_index(far).setns_by_fd(namespace.as_raw_fd());
            netlink.handle.link().change(message.build()).execute().await.expect("moved");
            moved.send(()).expect("the peer waits");
            for vip in [address(near, "10.0.0.1", 24), address(near, "2001:db8::1", 64)] {
                netlink.add_address(vip).await.expect("added");
            }
            let (sender, mut events) = mpsc::channel::<NetlinkEvent>(64);
            events::spawn(sender).expect("events");
            for server in ["10.0.0.2", "2001:db8::2"] {
                resolves(&netlink, near, server.parse().expect("an address"), &mut events).await;
            }
            let absent = IpAddr::from([10, 0, 0, 9]);
            netlink.manage_neighbour(near, absent).await.expect("managed");
            let links = netlink.links().await.expect("links");
            let found = netlink.resolve(&links, absent).await.expect("asked");
            assert_eq!(found.next_hop, Err(Unresolved::NeighbourUnresolved));
            assert_eq!(netlink.owned_neighbours().await.expect("owned").len(), 3);
            // Dropped by a failure too, so that the peer always ends.
            drop(to_peer);
        });
    });
}

/// In its own namespace: gives out the namespace, waits for `far` to arrive and answers on it.
async fn serve_as_peer(
    ready: std::sync::mpsc::Sender<(File, std::sync::mpsc::Sender<()>)>,
    done: std::sync::mpsc::Receiver<()>,
) {
    let netlink = Netlink::open().expect("netlink");
    let namespace = File::open("/proc/thread-self/ns/net").expect("the namespace");
    let (moved, arrived) = std::sync::mpsc::channel();
    ready.send((namespace, moved)).expect("the test waits");
    arrived.recv().expect("the link arrives");
    let far = netlink.links().await.expect("links").by_name("far").expect("far").index;
    for own in [address(far, "10.0.0.2", 24), address(far, "2001:db8::2", 64)] {
        netlink.add_address(own).await.expect("added");
    }
    netlink.up(far).await;
    // The sender's end is the test's.
    let _ended = done.recv();
}

async fn resolves(
    netlink: &Netlink,
    near: u32,
    server: IpAddr,
    events: &mut mpsc::Receiver<NetlinkEvent>,
) {
    eventually("a route over a link with carrier", async || {
        let links = netlink.links().await.expect("links");
        let found = netlink.resolve(&links, server).await.expect("asked");
        (found.next_hop == Err(Unresolved::NeighbourUnresolved)).then_some(())
    })
    .await;
    assert_eq!(netlink.manage_neighbour(near, server).await.expect("managed"), Ownership::Ours);
    let resolved = async {
        loop {
            match events.recv().await.expect("events") {
                NetlinkEvent::NeighbourChanged(changed)
                    if changed.address == server && changed.usable_mac().is_some() =>
                {
                    return changed;
                }
                // The kernel forgot it with the carrier, which comes and goes while the peer starts.
                NetlinkEvent::NeighbourChanged(gone)
                    if gone.address == server && gone.is_gone() =>
                {
                    netlink.manage_neighbour(near, server).await.expect("managed again");
                }
                _ => {}
            }
        }
    };
    let changed = tokio::time::timeout(Duration::from_secs(10), resolved).await.expect("in time");
    assert!(changed.managed && changed.ours, "{changed:?}");
    let links = netlink.links().await.expect("links");
    let found = netlink.resolve(&links, server).await.expect("asked");
    let hop = found.next_hop.expect("resolved");
    assert_eq!((hop.ifindex, Some(hop.dmac), hop.vlan), (near, changed.mac, None));
    assert_eq!(Some(hop.smac), links.get(near).expect("near").mac);
}

#[test]
fn a_managed_neighbour_is_gone_after_a_loss_of_carrier_and_can_be_managed_again() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        let (near, far) = netlink.veth("near", "far").await;
        netlink.add_address(address(near, "10.0.0.1", 24)).await.expect("added");
        let (sender, mut events) = mpsc::channel::<NetlinkEvent>(64);
        events::spawn(sender).expect("events");
        let server = IpAddr::from([10, 0, 0, 9]);
        assert_eq!(netlink.manage_neighbour(near, server).await.expect("managed"), Ownership::Ours);
        let down = LinkUnspec::new_with_index(far).down().build();
        netlink.handle.link().change(down).execute().await.expect("down");
        let gone = async {
            while let Some(event) = events.recv().await {
                if matches!(event, NetlinkEvent::NeighbourChanged(gone)
                    if gone.address == server && gone.is_gone())
                {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("told in time");
        assert_eq!(netlink.neighbour(near, server).await.expect("asked"), None);
        netlink.up(far).await;
        eventually("managed again", async || {
            netlink.manage_neighbour(near, server).await.expect("managed");
            let entry = netlink.neighbour(near, server).await.expect("asked")?;
            (entry.managed && entry.ours).then_some(())
        })
        .await;
    });
}

#[test]
fn a_destination_without_a_route_and_one_of_our_own_say_so() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        let (near, _) = netlink.veth("near", "far").await;
        netlink.up(1).await;
        netlink.add_address(address(near, "10.0.0.1", 24)).await.expect("added");
        let links = netlink.links().await.expect("links");
        for (destination, expected) in [
            ("192.0.2.1", Unresolved::NoRoute),
            ("2001:db8::1", Unresolved::NoRoute),
            ("10.0.0.1", Unresolved::LocalAddress),
        ] {
            let ip = destination.parse().expect("an address");
            let found = netlink.resolve(&links, ip).await.expect("asked");
            assert_eq!(found.next_hop, Err(expected), "{destination}");
        }
    });
}

#[test]
fn an_operators_permanent_neighbour_is_left_alone() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        let (near, _) = netlink.veth("near", "far").await;
        let ip = IpAddr::from([10, 0, 0, 2]);
        let request = netlink.handle.neighbours().add(near, ip);
        request.link_layer_address(&[2, 0, 0, 0, 0, 9]).execute().await.expect("permanent");
        let outcome = netlink.manage_neighbour(near, ip).await.expect("asked");
        assert_eq!(outcome, Ownership::Foreign);
        let entry = netlink.neighbour(near, ip).await.expect("asked").expect("an entry");
        assert_eq!(entry.usable_mac(), Some([2, 0, 0, 0, 0, 9]));
        netlink.remove_neighbour(near, ip).await.expect("removed");
        netlink.remove_neighbour(near, ip).await.expect("gone already");
        assert_eq!(netlink.neighbour(near, ip).await.expect("asked"), None);
    });
}

#[test]
fn sysctls_of_a_real_kernel_are_set_and_restored() {
    in_namespace(async || {
        let netlink = Netlink::open().expect("netlink");
        netlink.veth("near", "far").await;
        let read = |key: &str| {
            let path = format!("/proc/sys/net/{key}");
            std::fs::read_to_string(path).expect("readable").trim().to_owned()
        };
        let keys = [
            "ipv4/conf/near/forwarding",
            "ipv6/conf/near/forwarding",
            "ipv6/conf/near/accept_ra",
            "ipv6/conf/far/accept_ra",
            "ipv4/conf/near/send_redirects",
            "ipv4/conf/all/send_redirects",
        ];
        let before = keys.map(read);
        let mut sysctls = Sysctls::new();
        assert!(sysctls.prepare(["near"]).is_empty());
        assert_eq!(read(keys[0]), "1");
        assert_eq!(read(keys[1]), "1");
        assert_eq!(read(keys[3]), before[3]);
        assert_eq!(read(keys[4]), "0");
        assert!(sysctls.restore().is_empty());
        assert_eq!(keys.map(read), before);
    });
}
