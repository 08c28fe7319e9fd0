//! Keys of the sections `vrrp` and `notifications`.
//!
//! Must not know: types of values, positions, defaults.

use super::Inside::{Map, Named, Value};
use super::{Key, Words, built, later};
use crate::model;

pub(in crate::config) static INITIAL_STATES: Words<model::InitialState> = Words {
    what: "initial_state",
    built: &[("master", model::InitialState::Master), ("backup", model::InitialState::Backup)],
    later: &[],
};
pub(in crate::config) static AUTHENTICATION_TYPES: Words<()> =
    Words { what: "authentication type", built: &[("pass", ())], later: &[] };

pub(super) static VRRP: &[Key] = &[
    built("controller_grace", Value),
    built("scripts", Named(SCRIPT)),
    built("instances", Map(INSTANCE)),
    built("sync_groups", Map(SYNC_GROUP)),
];
static SCRIPT: &[Key] = &[
    built("command", Value),
    built("interval", Value),
    built("timeout", Value),
    built("rise", Value),
    built("fall", Value),
    built("weight", Value),
    built("user", Value),
];
static INSTANCE: &[Key] = &[
    built("name", Value),
    built("interface", Value),
    built("virtual_router_id", Value),
    built("version", Value),
    built("priority", Value),
    built("advertisement_interval", Value),
    built("initial_state", Value),
    built("preempt", Value),
    built("preempt_delay", Value),
    built("authentication", Map(&[built("type", Value), built("password", Value)])),
    built("addresses", Value),
    built("addresses_excluded", Value),
    built("accept", Value),
    built("unicast", Map(&[built("source", Value), built("peers", Value)])),
    built("virtual_mac", Value),
    built("garp", Map(&[built("count", Value), built("delay", Value), built("refresh", Value)])),
    built("track", Map(TRACK)),
    built(
        "notify",
        Map(&[
            built("master", Value),
            built("backup", Value),
            built("fault", Value),
            built("stop", Value),
            built("any", Value),
            built("email", Value),
        ]),
    ),
];
static TRACK: &[Key] = &[
    built("scripts", Value),
    built("interfaces", Map(WEIGHTED)),
    built("virtual_services", Map(WEIGHTED_SERVICE)),
    later("frontends", Value),
];
static WEIGHTED: &[Key] = &[built("name", Value), built("weight", Value)];
static WEIGHTED_SERVICE: &[Key] = &[built("name", Value), built("weight", Value)];
static SYNC_GROUP: &[Key] = &[
    built("name", Value),
    built("instances", Value),
    built("notify", Map(&[built("master", Value), built("backup", Value), built("fault", Value)])),
];

pub(super) static NOTIFICATIONS: &[Key] = &[built(
    "email",
    Map(&[
        built("smtp", Value),
        built("from", Value),
        built("to", Value),
        built("starttls", Value),
        built("username", Value),
        built("password_file", Value),
        built("timeout", Value),
    ]),
)];
