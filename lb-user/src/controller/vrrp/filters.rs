//! What drops adverts on this host: asked while an instance says that something does.
//!
//! An instance that hears adverts by its packet socket alone has a task here, which asks at once
//! and once a minute from then on, and ends when adverts get through again.
//!
//! Must not know: rules, how they are found.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::controller::event::Event;
use crate::firewall::{self, Packet};
use crate::model::{Director, VrrpInstance};
use crate::speaker::protocol::Status;

/// It was looked for what drops an instance's adverts.
#[derive(Debug)]
pub struct FiltersFound {
    /// The instance.
    pub name: String,
    /// The rules, or why they were not found; not empty.
    pub rules: Vec<String>,
}

/// The instances whose adverts are dropped.
#[derive(Default)]
pub(in crate::controller) struct Filters {
    watches: BTreeMap<String, Watch>,
}

/// An instance whose adverts are dropped.
struct Watch {
    /// Its interface and its packets' destination, by which another one is recognised.
    place: (String, IpAddr),
    /// What was found last.
    rules: Vec<String>,
    /// Asks until this is gone.
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Filters {
    /// Begins to ask for instances whose adverts are dropped by now, and ends it for others.
    pub(super) fn follow(
        &mut self,
        director: &Director,
        statuses: &[Status],
        events: &mpsc::Sender<Event>,
    ) {
        let wanted: BTreeMap<&str, Vec<Packet>> = statuses
            .iter()
            .filter(|status| status.filtered)
            .filter_map(|status| {
                let mut instances = director.vrrp.instances.iter();
                let instance = instances.find(|instance| instance.name == status.name)?;
                Some((status.name.as_str(), packets(instance, status)))
            })
            .collect();
        self.watches.retain(|name, watch| {
            wanted
                .get(name.as_str())
                .is_some_and(|packets| packets.first().map(place) == Some(watch.place.clone()))
        });
        for (name, packets) in wanted {
            let Some(place) = packets.first().map(place) else { continue };
            if !self.watches.contains_key(name) {
                let task = tokio::spawn(watch(name.to_owned(), packets, events.clone()));
                let watch = Watch { place, rules: Vec::new(), task };
                self.watches.insert(name.to_owned(), watch);
            }
        }
    }

    /// Keeps what was found, and tells of it if it is new.
    pub(in crate::controller) fn found(&mut self, found: FiltersFound) {
        let Some(watch) = self.watches.get_mut(&found.name) else { return };
        if watch.rules != found.rules {
            let rules = found.rules.join("; ");
            tracing::warn!(instance = %found.name, "what drops VRRP on this host: {rules}");
            watch.rules = found.rules;
        }
    }

    /// What drops the adverts of an instance, as far as it is known.
    pub(super) fn rules(&self, name: &str) -> Vec<String> {
        self.watches.get(name).map(|watch| watch.rules.clone()).unwrap_or_default()
    }
}

async fn watch(name: String, packets: Vec<Packet>, events: mpsc::Sender<Event>) {
    loop {
        let rules = firewall::ask(&packets).await;
        let found = FiltersFound { name: name.clone(), rules };
        if events.send(Event::Filters(found)).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The adverts that an instance should hear.
fn packets(instance: &VrrpInstance, status: &Status) -> Vec<Packet> {
    let packet =
        |source, destination| Packet { interface: instance.interface.clone(), source, destination };
    if let Some(unicast) = &instance.unicast {
        let from = |peer: &IpAddr| packet(Some(*peer), unicast.source);
        return unicast.peers.iter().map(from).collect();
    }
    // A master hears whoever believes to be one too, and that may be anybody.
    let master = status.master.filter(|master| Some(*master) != status.source);
    let is_v4 = instance.addresses.first().is_some_and(|owned| owned.address.is_ipv4());
    vec![packet(master, if is_v4 { GROUP_V4 } else { GROUP_V6 })]
}

fn place(packet: &Packet) -> (String, IpAddr) {
    (packet.interface.clone(), packet.destination)
}

/// RFC 9568 section 5.1.1.2.
const GROUP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));

/// RFC 9568 section 5.1.2.2.
const GROUP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

/// From one question to the next: whoever removes a rule sees it soon enough.
const AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::config;

    fn director(unicast: &str) -> Director {
        let text = format!(
            "node: a\ndataplane: {{interfaces: [eth0]}}\nvrrp:\n  instances:\n    - name: VI_1\n      \
             interface: eth0\n      virtual_router_id: 51\n      addresses: [192.0.2.50/24]\n{unicast}"
        );
        config::load("a.yaml", &text, "a").expect("it is valid").director
    }

    fn status(filtered: bool) -> Status {
        Status {
            name: "VI_1".into(),
            filtered,
            master: Some("192.0.2.3".parse().unwrap()),
            source: Some("192.0.2.2".parse().unwrap()),
            ..Status::default()
        }
    }

    /// Next from the queue.
    async fn next(queue: &mut mpsc::Receiver<Event>) -> FiltersFound {
        let event = tokio::time::timeout(Duration::from_secs(30), queue.recv()).await;
        match event.expect("within 30 s").expect("somebody asks") {
            Event::Filters(found) => found,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn rules_are_shown_while_adverts_are_dropped() {
        let (director, mut filters) = (director(""), Filters::default());
        let (events, mut queue) = mpsc::channel(4);
        filters.follow(&director, &[status(false)], &events);
        assert!(filters.watches.is_empty());
        filters.follow(&director, &[status(true)], &events);
        filters.follow(&director, &[status(true)], &events);
        let found = next(&mut queue).await;
        assert_eq!((found.name.as_str(), found.rules.is_empty()), ("VI_1", false));
        filters.found(FiltersFound { rules: vec!["a rule".into()], ..found });
        assert_eq!(filters.rules("VI_1"), ["a rule"]);
        filters.follow(&director, &[status(false)], &events);
        let late = FiltersFound { name: "VI_1".into(), rules: vec!["late".into()] };
        filters.found(late);
        assert_eq!(filters.rules("VI_1"), [""; 0]);
        // Nobody asks any more: every sender but this one goes.
        drop(events);
        assert!(
            tokio::time::timeout(Duration::from_secs(30), queue.recv()).await.unwrap().is_none()
        );
    }

    #[test]
    fn packets_are_those_that_should_be_heard() {
        let group = packets(&director("").vrrp.instances[0], &status(true));
        let (source, destination) = (Some("192.0.2.3".parse().unwrap()), GROUP_V4);
        assert_eq!(group, [Packet { interface: "eth0".into(), source, destination }]);
        let unicast = "      unicast: {source: 192.0.2.2, peers: [192.0.2.3, 192.0.2.4]}\n";
        let sent = packets(&director(unicast).vrrp.instances[0], &status(true));
        let ends: Vec<String> =
            sent.iter().map(|p| format!("{} {}", p.source.unwrap(), p.destination)).collect();
        assert_eq!(ends, ["192.0.2.3 192.0.2.2", "192.0.2.4 192.0.2.2"]);
    }
}
