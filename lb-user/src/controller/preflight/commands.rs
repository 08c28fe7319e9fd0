//! Commands of VRRP that would not be run: missing, or open to changes by others.
//!
//! They are looked at again before every run, so this only says it earlier.
//!
//! Must not know: how findings are shown, how commands run.

use std::collections::BTreeSet;

use crate::exec::{self, RunAs};
use crate::model::Director;
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
    let refused = scripts.chain(told).filter_map(|(what, command, user)| {
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
";
        let director = config::load("f", text, "host").expect("a good file").director;
        let found = examine(&director);
        assert_eq!(found.len(), 2, "{found:?}");
        let (notify, script) = (&found[0], &found[1]);
        assert!(notify.starts_with("vrrp.instances, VI_1: notify: "), "{notify}");
        // Without root it is told before that nothing runs as another user.
        let advice = ["put that right or name another program", "run it as root"];
        assert!(advice.iter().any(|advice| notify.ends_with(advice)), "{notify}");
        let expected = "vrrp.scripts, chk: command: there is no user \"no_such_user\" on this host: \
                        create it or name another one";
        assert_eq!(script, expected);
    }
}
