//! Commands of VRRP that would not be run: missing, or open to changes by others.
//!
//! They are looked at again before every run, so this only says it earlier.
//!
//! Must not know: how findings are shown, how commands run.

use std::collections::BTreeSet;

use crate::exec;
use crate::model::Director;
use crate::notify;

/// What is wrong with each of them, in words.
pub(super) fn examine(director: &Director) -> Vec<String> {
    let vrrp = &director.vrrp;
    let scripts = vrrp.scripts.iter().map(|script| {
        (format!("vrrp.scripts.{}", script.name), &script.command, script.user.clone())
    });
    let told = vrrp.instances.iter().map(|i| (&i.name, &i.notify));
    let told = told.chain(vrrp.sync_groups.iter().map(|g| (&g.name, &g.notify)));
    let told = told.flat_map(|(name, notify)| {
        let commands = [&notify.master, &notify.backup, &notify.fault, &notify.stop, &notify.any];
        let written = commands.into_iter().filter(|command| !command.is_empty());
        written.map(move |command| {
            (format!("{name}: notify"), command, notify::script_user().to_owned())
        })
    });
    let refused = scripts.chain(told).filter_map(|(what, command, user)| {
        let why = exec::check(command, &user).err()?;
        Some(format!("{what}: {why}"))
    });
    refused.collect::<BTreeSet<_>>().into_iter().collect()
}
