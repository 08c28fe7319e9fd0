//! What the sections `vrrp` and `notifications` mean: every key, every default.
//!
//! Must not know: which message comes from which function.

use super::super::load;
use crate::model::*;
use std::net::IpAddr;
use std::time::Duration;

/// The section of `good/everything.yaml`, where no key has its default value.
pub(super) fn vrrp_of_everything() -> Vrrp {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let notify = |word| words(&["/usr/libexec/lb/notify", word]);
    let seconds = Duration::from_secs;
    let tracked = |name: &str, weight| Weighted { name: name.into(), weight };
    Vrrp {
        controller_grace: seconds(7),
        scripts: vec![Script {
            name: "chk_disk".into(),
            command: words(&["/usr/libexec/lb/chk-disk", "-v"]),
            interval: seconds(2),
            timeout: seconds(1),
            rise: 2,
            fall: 3,
            weight: -2,
            user: "lb".into(),
        }],
        instances: vec![
            VrrpInstance {
                name: "VI_1".into(),
                interface: "eth0".into(),
                virtual_router_id: 51,
                version: VrrpVersion::V2,
                priority: 150,
                advertisement_interval: seconds(2),
                initial_state: InitialState::Master,
                preempt: true,
                preempt_delay: seconds(1000),
                password: Some(Password("1111".into())),
                addresses: vec![
                    owned("192.168.20.60", 24, "eth0"),
                    owned("192.168.20.61", 32, "eth1"),
                ],
                addresses_excluded: vec![owned("2001:db8::50", 64, "eth1")],
                unicast: Some(Unicast {
                    source: ip("192.168.20.2"),
                    peers: vec![ip("192.168.20.3"), ip("192.168.20.4")],
                }),
                virtual_mac: true,
                garp: Garp { count: 3, delay: Duration::ZERO, refresh: seconds(60) },
                track: Track {
                    scripts: vec!["chk_disk".into()],
                    interfaces: vec![tracked("eth1", 0), tracked("eth2", -10)],
                    virtual_services: vec![tracked("web", 0), tracked("dns", 0)],
                },
                notify: VrrpNotify {
                    master: notify("master"),
                    backup: notify("backup"),
                    fault: notify("fault"),
                    stop: notify("stop"),
                    any: words(&["/usr/libexec/lb/notify"]),
                    email: true,
                },
            },
            VrrpInstance { preempt: false, ..plain("VI_6", "eth1", owned("fe80::51", 64, "eth1")) },
        ],
        sync_groups: vec![SyncGroup {
            name: "VG_1".into(),
            instances: words(&["VI_1", "VI_6"]),
            notify: VrrpNotify {
                master: words(&["/bin/up"]),
                backup: words(&["/bin/down"]),
                fault: words(&["/bin/fault"]),
                ..VrrpNotify::default()
            },
        }],
    }
}

/// The section of the same file.
pub(super) fn notifications_of_everything() -> Notifications {
    let email = Email {
        host: "mail.example.com".into(),
        port: 587,
        from: "lb@example.com".into(),
        to: vec!["ops@example.com".into(), "noc@example.com".into()],
        starttls: true,
        username: Some("u".into()),
        password_file: Some("/etc/lb/smtp.pass".into()),
        timeout: Duration::from_secs(20),
    };
    Notifications { email: Some(email) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn owned(address: &str, prefix_len: u8, interface: &str) -> OwnedAddress {
    OwnedAddress { address: ip(address), prefix_len, interface: interface.into() }
}

/// An instance of id 51 with every default of the reference.
fn plain(name: &str, interface: &str, address: OwnedAddress) -> VrrpInstance {
    VrrpInstance {
        name: name.into(),
        interface: interface.into(),
        virtual_router_id: 51,
        version: if address.address.is_ipv4() { VrrpVersion::V2 } else { VrrpVersion::V3 },
        priority: 100,
        advertisement_interval: Duration::from_secs(1),
        initial_state: InitialState::Backup,
        preempt: true,
        preempt_delay: Duration::ZERO,
        password: None,
        addresses: vec![address],
        addresses_excluded: Vec::new(),
        unicast: None,
        virtual_mac: false,
        garp: Garp { count: 5, delay: Duration::from_secs(5), refresh: Duration::ZERO },
        track: Track::default(),
        notify: VrrpNotify::default(),
    }
}

fn director(text: &str) -> Director {
    let errors = |errors: Vec<super::super::ConfigError>| format!("{errors:#?}");
    load("f", text, "host").map_err(errors).unwrap().director
}

#[test]
fn what_an_instance_does_not_say_has_the_defaults_of_the_reference() {
    let text = "vrrp: {instances: [\n\
        {name: a, interface: eth0, virtual_router_id: 51, addresses: [192.0.2.1]},\n\
        {name: b, interface: eth0, virtual_router_id: 51, addresses: ['fe80::1']}]}\n";
    let vrrp = director(text).vrrp;
    assert_eq!(vrrp.controller_grace, Duration::from_secs(5));
    assert_eq!(
        vrrp.instances,
        [
            plain("a", "eth0", owned("192.0.2.1", 32, "eth0")),
            plain("b", "eth0", owned("fe80::1", 128, "eth0")),
        ]
    );
}

#[test]
fn a_script_and_mail_have_the_defaults_of_the_reference() {
    let text = "vrrp: {scripts: {chk: {command: [/bin/true], interval: 3s}}}\n\
        notifications: {email: {smtp: mail, from: a@b, to: [c@d]}}\n";
    let director = director(text);
    let script = &director.vrrp.scripts[0];
    assert_eq!((script.interval, script.timeout), (Duration::from_secs(3), script.interval));
    assert_eq!((script.rise, script.fall, script.weight), (1, 1, 0));
    assert_eq!(script.user, "nobody");
    let email = director.notifications.email.unwrap();
    assert_eq!((email.host.as_str(), email.port), ("mail", 25));
    assert_eq!((email.starttls, email.timeout), (false, Duration::from_secs(30)));
    assert_eq!((email.username, email.password_file), (None, None));
}

#[test]
fn addresses_of_another_family_are_owned_and_not_advertised() {
    let text = "vrrp: {instances: [{name: a, interface: eth0, virtual_router_id: 1,\n\
        addresses: [192.0.2.1/24, '2001:db8::1/64 dev eth1', 192.0.2.2], addresses_excluded: [192.0.2.3]}]}\n";
    let instance = director(text).vrrp.instances.remove(0);
    let list = |addresses: &[OwnedAddress]| -> Vec<String> {
        addresses
            .iter()
            .map(|a| format!("{}/{} {}", a.address, a.prefix_len, a.interface))
            .collect()
    };
    assert_eq!(list(&instance.addresses), ["192.0.2.1/24 eth0", "192.0.2.2/32 eth0"]);
    assert_eq!(list(&instance.addresses_excluded), ["2001:db8::1/64 eth1", "192.0.2.3/32 eth0"]);
}

#[test]
fn sections_without_anything_are_no_sections() {
    for text in ["vrrp:\nnotifications:\n", "vrrp: {}\n", "notifications: {email: off}\n", "{}"] {
        let director = director(text);
        assert_eq!(director.vrrp, Vrrp::default(), "{text}");
        assert_eq!(director.notifications, Notifications::default(), "{text}");
    }
}

#[test]
fn no_message_holds_a_password() {
    for written in ["secret99secret99", "'secret99\\n'", "[secret99]", "{secret99: 1}", "5537"] {
        let text = format!(
            "vrrp: {{instances: [{{name: a, interface: eth0, virtual_router_id: 1,\n\
             addresses: [192.0.2.1], authentication: {{type: pass, password: {written}}}}}]}}\n"
        );
        let said = match load("f", &text, "host") {
            Ok(loaded) => format!("{:?} {:?}", loaded.warnings, loaded.director),
            Err(errors) => format!("{errors:?}"),
        };
        assert!(!said.contains("secret99") && !said.contains("5537"), "{said}");
    }
}
