//! Commands of VRRP, of services and of health checks that would not be run: missing, or open to changes by
//! others.
//!
//! They are looked at again before every run, so this only says it earlier.
//!
//! Must not know: how findings are shown, how commands run.

use std::collections::BTreeSet;

use crate::exec::{self, RunAs};
use crate::model::{CheckKind, Director};
use crate::notify;

/// What is wrong with each of them, in words.
pub(super) fn examine(director: &Director) -> Vec<String> {
    let vrrp = &director.vrrp;
    let scripts = vrrp.scripts.iter().map(|script| {
        let user = RunAs::User(script.user.clone());
        (format!("vrrp.scripts, {}: command", script.name), &script.command, user)
    });
    let told = vrrp.instances.iter().map(|i| ("instances", &i.name, &i.notify));
    let groups = vrrp.sync_groups.iter().map(|g| ("sync_groups", &g.name, &g.notify));
    let told = told.chain(groups).flat_map(|(list, name, notify)| {
        let commands = [&notify.master, &notify.backup, &notify.fault, &notify.stop, &notify.any];
        let written = commands.into_iter().filter(|command| !command.is_empty());
        let what = format!("vrrp.{list}, {name}: notify");
        written.map(move |command| (what.clone(), command, notify::script_user()))
    });
    let services = director.virtual_services.iter().flat_map(|service| {
        let (notify, quorum) = (&service.notify, &service.quorum);
        let commands = [
            ("notify", &notify.up),
            ("notify", &notify.down),
            ("quorum", &quorum.on_up),
            ("quorum", &quorum.on_down),
        ];
        let written = commands.into_iter().filter(|(_, command)| !command.is_empty());
        written.map(|(key, command)| {
            let what = format!("virtual_services, {}: {key}", service.name);
            (what, command, notify::script_user())
        })
    });
    let checks = director.virtual_services.iter().flat_map(|service| {
        let checks = service.real_servers.iter().flat_map(|server| &server.health_checks);
        checks.filter_map(|check| match &check.kind {
            CheckKind::Exec(exec) => {
                let user = RunAs::User(exec.user.clone());
                let what = format!("virtual_services, {}: health check", service.name);
                Some((what, &exec.command, user))
            }
            _ => None,
        })
    });
    let all = scripts.chain(told).chain(services).chain(checks);
    let refused = all.filter_map(|(what, command, user)| {
        let why = exec::check(command, &user).err()?;
        Some(format!("{what}: {why}"))
    });
    refused.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_would_not_run_is_named_by_its_place_and_what_to_do() {
        let text = "
vrrp:
  scripts: {chk: {command: [/bin/true], user: no_such_user}}
  instances:
    - name: VI_1
      interface: eth0
      virtual_router_id: 51
      addresses: [192.0.2.1]
      track: {scripts: [chk]}
      notify: {master: [/nowhere/x], backup: [/nowhere/x]}
dataplane: {interfaces: [eth0]}
virtual_services:
  - name: web
    listen: 192.0.2.1:80/tcp
    forwarding: nat
    health_check: {type: exec, command: [/nowhere/check, '{port}'], user: root}
    notify: {up: [/nowhere/x], down: [/nowhere/x]}
    quorum: {on_up: [/nowhere/x]}
    real_servers: [{address: 192.0.2.8}, {address: 192.0.2.9}]
";
        let director = config::load("f", text, "host").expect("a good file").director;
        let found = examine(&director);
        assert_eq!(found.len(), 5, "{found:?}");
        let (check, notify, script) = (&found[0], &found[3], &found[4]);
        assert!(found[1].starts_with("virtual_services, web: notify: "), "{found:?}");
        assert!(found[2].starts_with("virtual_services, web: quorum: "), "{found:?}");
        assert!(check.starts_with("virtual_services, web: health check: "), "{check}");
        assert!(notify.starts_with("vrrp.instances, VI_1: notify: "), "{notify}");
        // Without root it is told before that nothing runs as another user.
        let advice = ["put that right or name another program", "run it as root"];
        assert!(advice.iter().any(|advice| notify.ends_with(advice)), "{notify}");
        let expected = "vrrp.scripts, chk: command: there is no user \"no_such_user\" on this host: \
                        create it or name another one";
        assert_eq!(script, expected);
    }
}
