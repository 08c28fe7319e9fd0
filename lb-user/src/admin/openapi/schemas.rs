//! The table of documents: every key with its type and meaning.
//!
//! Must not know: OpenAPI, how a document comes about.

/// Name, type and meaning of a key; types as in [`super::schema`].
pub(super) type Field = (&'static str, &'static str, &'static str);

/// One document, or a part of one.
pub(super) struct Schema {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) description: &'static str,
    /// Its keys.
    pub(super) fields: &'static [Field],
}

const fn schema(name: &'static str, description: &'static str, fields: &'static [Field]) -> Schema {
    Schema { name, description, fields }
}

/// Every document and its parts.
pub(super) static SCHEMAS: &[Schema] = &[
    schema(
        "Error",
        "Why a request was not done.",
        &[
            ("error", "text", "What is wrong, in one line."),
            ("errors", "[text]", "FILE:LINE:COL: PATH: message each, when a file is wrong."),
        ],
    ),
    schema(
        "Status",
        "What is.",
        &[
            ("node", "text", "Name of the node."),
            ("version", "text", "Version of the daemon."),
            ("config_path", "text", "The configuration file that it was started with."),
            ("dataplane", "Dataplane", "The XDP plane."),
            ("health", "HealthSummary", "Health checks as a whole."),
            ("virtual_services", "[VirtualService]", "L4 services in file order."),
            ("vrrp", "[VrrpInstance]", "VRRP instances in file order."),
            ("frontends", "[any]", "L7 frontends."),
            ("backends", "[any]", "L7 backends."),
        ],
    ),
    schema(
        "Dataplane",
        "The XDP plane.",
        &[
            ("mode", "text", "native or generic; empty when there is none."),
            ("interfaces", "[text]", "Interfaces that XDP is attached to."),
            ("connections", "Capacity", "Fill of the connection table."),
            ("warnings", "[text]", "What is not as it should be, in words."),
        ],
    ),
    schema(
        "Capacity",
        "How full a table is.",
        &[("used", "count", "Entries in use."), ("capacity", "count", "Entries that fit.")],
    ),
    schema(
        "HealthSummary",
        "Health checks as a whole.",
        &[("targets", "count", "Targets that are probed; equal ones are one.")],
    ),
    schema(
        "VirtualService",
        "An L4 service.",
        &[
            ("name", "text", "Its name."),
            ("listen", "[text]", "ip:port/proto each."),
            ("scheduler", "text", "ipvsadm's name of the scheduler."),
            ("scheduler_flags", "[text]", "ipvsadm's names of its options; absent without any."),
            ("forwarding", "text", "dr, nat, fullnat or tunnel."),
            ("state", "text", "up while a real server takes new connections, else down."),
            ("connections", "count", "Connections since it was added."),
            (
                "live_weight",
                "count",
                "Weights of the servers that could take connections, added up.",
            ),
            ("quorum", "Quorum", "How much of it makes the service up."),
            ("sorry_server", "SorryServer", "Where connections go without quorum; absent if none."),
            ("real_servers", "[RealServer]", "In file order."),
        ],
    ),
    schema(
        "Quorum",
        "The quorum of a service.",
        &[
            ("up", "count", "The live weight that is wanted."),
            ("hysteresis", "count", "By how much it may be missed, and has to be passed."),
        ],
    ),
    schema(
        "SorryServer",
        "The sorry server of a service.",
        &[
            ("address", "text", "Its address."),
            ("port", "count", "Its port."),
            ("in_use", "flag", "It gets the new connections now."),
            ("active_connections", "count", "Connections that IPVS counts as active."),
            ("inactive_connections", "count", "The others."),
            ("connections", "count", "Connections since it was added."),
        ],
    ),
    schema(
        "RealServer",
        "A real server.",
        &[
            ("address", "text", "Its address."),
            ("port", "count", "Its port."),
            ("weight", "count", "Weight of the configuration."),
            ("effective_weight", "count", "Weight after health and admin state."),
            ("state", "text", "up, down, drain, disabled or unchecked."),
            ("active_connections", "count", "Connections that IPVS counts as active."),
            ("inactive_connections", "count", "The others."),
            ("connections", "count", "Connections since it was added."),
            ("packets_in", "count", "Packets from clients."),
            ("bytes_in", "count", "Bytes from clients."),
            ("packets_out", "count", "Packets to clients, where the data plane sees them."),
            ("bytes_out", "count", "Bytes to clients, where the data plane sees them."),
            (
                "slow_start_percent",
                "count",
                "Its share of its weight while it comes back; else absent.",
            ),
            ("check", "Check?", "The last probe, of several one that fails; null without a check."),
            ("checks", "[Check]", "The last probe of every check; absent when there is only one."),
        ],
    ),
    schema(
        "Steered",
        "A server that was changed.",
        &[
            ("target", "text", "service/address:port."),
            ("protocol", "text", "tcp or udp; tcp when the service has both."),
            ("state", "text", "Its state by now; removed when it is not there any more."),
            ("weight", "count", "Its weight by now."),
            ("effective_weight", "count", "Its share of new connections by now."),
            ("active_connections", "count", "Connections that IPVS counts as active."),
            ("inactive_connections", "count", "The others."),
            ("kept", "flag", "It holds over reloads and restarts."),
        ],
    ),
    schema(
        "Reopened",
        "Log files were opened anew.",
        &[("targets", "[text]", "Every target of the log.")],
    ),
    schema(
        "Rates",
        "Counters per second; what is not known has no key.",
        &[
            ("connections", "number", "Connections."),
            ("packets_in", "number", "Packets from clients."),
            ("packets_out", "number", "Packets to clients, where the data plane sees them."),
            ("bytes_in", "number", "Bytes from clients."),
            ("bytes_out", "number", "Bytes to clients, where the data plane sees them."),
        ],
    ),
    schema(
        "History",
        "Rates of the last five minutes.",
        &[
            ("interval_s", "count", "Seconds between two samples."),
            ("services", "[ServiceHistory]", "In file order."),
        ],
    ),
    schema(
        "ServiceHistory",
        "Rates per second of a service, oldest first, at most sixty.",
        &[
            ("name", "text", "Its name."),
            ("connections", "[number]", "Connections."),
            ("packets_in", "[number]", "Packets from clients."),
            ("bytes_in", "[number]", "Bytes from clients."),
            ("bytes_out", "[number]", "Bytes to clients, where the data plane sees them."),
        ],
    ),
    schema(
        "Events",
        "The last things that happened.",
        &[("events", "[Event]", "At most 256, oldest first.")],
    ),
    schema(
        "Event",
        "Something that happened.",
        &[
            ("time", "text", "When, as RFC 3339."),
            ("kind", "text", "real_server, virtual_service, vrrp or config."),
            ("name", "text", "Of what."),
            ("state", "text", "The state that it entered."),
            ("reason", "text", "Why, for people."),
        ],
    ),
    schema(
        "Check",
        "The last probe of a real server.",
        &[
            ("status", "text", "HAProxy's name of the result, such as L7OK or L4TOUT."),
            ("code", "count?", "Status code of the protocol, where it has one."),
            ("duration_ms", "count", "How long it took."),
            ("detail", "text", "Why."),
            ("last_change", "count?", "When the state last changed, in seconds since 1970."),
            ("count", "count", "Up: failures left until it is down; down: successes so far."),
            ("of", "count", "`fall` of a server that is up, `rise` of one that is down."),
            ("probes", "count", "Probes that have ended."),
        ],
    ),
    schema(
        "Stats",
        "What was counted.",
        &[
            ("services", "[ServiceStats]", "L4 services in file order."),
            ("drops", "{count}", "Dropped packets by reason."),
            ("without_entry", "{count}", "Packets forwarded without an entry, by reason."),
            ("notes", "{count}", "What else the data plane counts."),
            ("drift", "count", "Differences that recounting the table found; 0 is right."),
        ],
    ),
    schema(
        "ServiceStats",
        "Counters of a service; they only grow while it exists.",
        &[
            ("name", "text", "Its name."),
            ("connections", "count", "Connections."),
            ("packets_in", "count", "Packets from clients."),
            ("packets_out", "count", "Packets to clients, where the data plane sees them."),
            ("bytes_in", "count", "Bytes from clients."),
            ("bytes_out", "count", "Bytes to clients, where the data plane sees them."),
            ("rates", "Rates", "The counters' change per second; without what is not known."),
            ("real_servers", "[RealServerStats]", "In file order."),
        ],
    ),
    schema(
        "RealServerStats",
        "Counters of a real server.",
        &[
            ("address", "text", "Its address."),
            ("port", "count", "Its port."),
            ("connections", "count", "Connections."),
            ("packets_in", "count", "Packets from clients."),
            ("packets_out", "count", "Packets to clients, where the data plane sees them."),
            ("bytes_in", "count", "Bytes from clients."),
            ("bytes_out", "count", "Bytes to clients, where the data plane sees them."),
            ("rates", "Rates", "The counters' change per second; without what is not known."),
        ],
    ),
    schema(
        "Connections",
        "The connection table.",
        &[
            ("connections", "[Connection]", "At most as many as were asked for."),
            ("total", "count", "How many there are."),
        ],
    ),
    schema(
        "Connection",
        "One entry of the connection table.",
        &[
            ("service", "text", "Name of the service."),
            ("protocol", "text", "tcp or udp."),
            ("client", "text", "ip:port."),
            ("virtual", "text", "ip:port."),
            ("real", "text", "ip:port."),
            ("state", "text", "IPVS's name of the state."),
            ("flags", "[text]", "What is special about it."),
            ("expires_s", "count", "Seconds until it is forgotten."),
        ],
    ),
    schema(
        "Reload",
        "A reload that was applied.",
        &[
            ("changes", "count", "Changes that were made; 0 when the file asks for what is there."),
            ("warnings", "[text]", "What the file asks for that deserves attention."),
        ],
    ),
    schema(
        "Bans",
        "The deny list by address; of a new ban, that one.",
        &[("bans", "[Ban]", "Prefixes.")],
    ),
    schema(
        "Ban",
        "A prefix whose packets are dropped.",
        &[
            ("prefix", "text", "IP/LEN."),
            ("reason", "text", "config: it is in the file; manual: it was banned at run time."),
            ("expires_s", "count", "Seconds until it ends; 0 is never."),
            ("packets", "count", "Packets that it dropped."),
        ],
    ),
    schema(
        "Lifted",
        "A ban that was lifted.",
        &[("prefix", "text", "IP/LEN."), ("denied_by", "text?", "What denies it all the same.")],
    ),
    schema(
        "Explanation",
        "What would become of a packet.",
        &[
            ("verdict", "text", "forward, drop or pass (to the stack)."),
            ("service", "text", "Name of the service; empty when there is none."),
            ("scheduler", "text", "ipvsadm's name of its scheduler."),
            ("steps", "[text]", "What happened, in order."),
            ("real_server", "text", "ip:port; empty when there is none."),
            ("packet", "text", "The frame afterwards, in hexadecimal digits; empty when dropped."),
        ],
    ),
    schema(
        "Vrrp",
        "VRRP in detail.",
        &[
            ("speaker", "text", "The process that owns the addresses: running, absent or none."),
            ("instances", "[VrrpInstance]", "In file order."),
            ("scripts", "[VrrpScript]", "In file order."),
        ],
    ),
    schema(
        "VrrpInstance",
        "A VRRP instance.",
        &[
            ("name", "text", "Its name."),
            ("state", "text", "master, backup, fault or init."),
            ("priority", "count", "The configured priority."),
            ("effective_priority", "count", "The priority by now."),
            ("addresses", "[text]", "The virtual addresses, those that are not advertised too."),
            ("master", "text", "The master's address; empty while it is not known."),
            ("interface", "text", "The interface."),
            ("virtual_router_id", "count", "VRID."),
            ("version", "count", "2 or 3."),
            ("sync_group", "text", "Its sync group; empty without one."),
            ("source", "text", "Where its adverts leave from."),
            ("reasons", "[VrrpReason]", "Why the effective priority differs, or there is a fault."),
            ("held", "[text]", "Addresses that are on this node by now."),
            ("contested", "[text]", "Addresses that somebody else claims too."),
            ("filtered", "flag", "A packet filter of this host drops VRRP."),
            ("filters", "[text]", "The rules that do, as far as they were found."),
            ("unheard", "flag", "VRRP frames reach XDP and not the speaker."),
            ("transitions", "[VrrpTransition]", "The last transitions, the newest first."),
            ("counters", "VrrpCounters", "What the speaker counted."),
        ],
    ),
    schema(
        "VrrpReason",
        "A tracked object that has an effect.",
        &[
            ("name", "text", "What it is: `script chk_disk`."),
            ("effect", "text", "+20, -2, fault or pending."),
        ],
    ),
    schema(
        "VrrpTransition",
        "A change of state.",
        &[
            ("at", "text", "RFC 3339, UTC."),
            ("from", "text", "The state before."),
            ("to", "text", "The state after."),
            ("cause", "text", "Why."),
        ],
    ),
    schema(
        "VrrpCounters",
        "Counters of an instance; they begin with the speaker.",
        &[
            ("sent", "count", "Adverts sent."),
            ("send_errors", "count", "Adverts that could not be sent."),
            ("received", "count", "Adverts accepted."),
            (
                "plain_checksums",
                "count",
                "Of these, version 3 over IPv4 without the pseudo header.",
            ),
            ("refused", "{count}", "Adverts refused, by reason."),
            ("announcements", "count", "Frames that announce an address."),
            ("masters", "count", "Times that it became master."),
            ("duplicate_masters", "count", "Times that a second master was heard."),
            ("contests", "count", "Times that an address began to be contested."),
            ("put_back", "count", "Times that an address was put back."),
            ("late", "count", "Times that the speaker came to a deadline too late."),
        ],
    ),
    schema(
        "VrrpScript",
        "A tracked script.",
        &[
            ("name", "text", "Its name."),
            ("state", "text", "up, down, or init before its first result."),
            ("last", "text", "How its last run ended, in words."),
            ("duration_ms", "count", "How long that took."),
        ],
    ),
    schema("Resigned", "A mastership that was given up.", &[("resigned", "text", "The instance.")]),
];
