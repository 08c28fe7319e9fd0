//! What becomes of a packet, and what is counted on the way.
//!
//! Every drop has a [`Counter`]; `name()` gives the reason in `lb stats`, in metrics and in logs.
//!
//! Must not know: Prometheus, maps.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $index:literal, $text:literal, $kind:ident;)*) => {
        /// Index into the per-CPU counter array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])* $name = $index),* }

        impl Counter {
            /// Every counter.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];

            /// Its name in `lb stats`, metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text),* }
            }

            /// What it means, in words.
            pub const fn meaning(self) -> &'static str {
                match self { $(Counter::$name => concat!($($doc),*).trim_ascii()),* }
            }

            /// What it counts.
            pub const fn kind(self) -> CounterKind {
                match self { $(Counter::$name => CounterKind::$kind),* }
            }
        }
    };
}

/// What a counter says about the packets that it counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// The packet was dropped for this reason.
    Drop,
    /// The packet was dropped and its sender was told why.
    Answered,
    /// The packet was forwarded by the fallback without an entry for its connection.
    WithoutEntry,
    /// The frame went to user space, which counts what became of it.
    Detour,
    /// Something to know about; no packet suffered.
    Note,
}

counters! {
    /// A TCP RST of a connection that is not known.
    RstWithoutConnection = 0, "rst_without_connection", Drop;
    /// The service has no real server that may get it.
    NoRealServer = 1, "no_real_server", Drop;
    /// The next hop's MAC address is not known; the controller is told.
    NeighbourUnresolved = 2, "neighbour_unresolved", Drop;
    /// The routing table has no way to the next hop.
    NoRoute = 3, "no_route", Drop;
    /// Every real server that was tried has a connection from the same client address and port.
    NatTupleInUse = 4, "nat_tuple_in_use", Drop;
    /// A later fragment whose first one was dropped, or whose real server is gone.
    FragmentRefused = 5, "fragment_refused", Drop;
    /// Time to live or hop limit used up.
    TtlExceeded = 6, "ttl_exceeded", Drop;
    /// The frame ended where a header had to be changed, or had no room for a VLAN tag.
    NotRewritable = 7, "not_rewritable", Drop;
    /// A nat reply of a connection that is over, or whose real server has failed.
    ReplyWithoutConnection = 8, "reply_without_connection", Drop;
    /// Larger than the path MTU, and the sender was not told: it is told often enough already, or it
    /// must not be (RFC 1122 3.2.2).
    TooBig = 10, "too_big", Drop;
    /// Larger than the path MTU, and it could be neither split nor its sender told to send less.
    TooBigUnfragmented = 11, "too_big_unfragmented", Drop;
    /// The controller does not know the tunnel's own address.
    NoTunnelSource = 12, "no_tunnel_source", Drop;
    /// The source is on the deny list: in the file, or banned.
    Denied = 14, "denied", Drop;
    /// To a virtual address, from a source that is not on the allow list.
    NotAllowed = 15, "not_allowed", Drop;
    /// Both buckets of the connection table where the flow belongs are full.
    TableFull = 16, "table_full", WithoutEntry;
    /// Another CPU was making an entry of the same flow at the same time.
    TableBusy = 17, "table_busy", WithoutEntry;
    /// Another CPU made the entry first, and it is gone already or not whole yet.
    TableExists = 18, "table_exists", WithoutEntry;
    /// More new connections than `new_connections_per_second`.
    Flood = 20, "flood", WithoutEntry;
    /// Larger than the path MTU; the sender was told the MTU.
    PathMtuTold = 24, "path_mtu_told", Answered;
    /// The same, for a sender that leaves fragmenting to routers: user space, which splits its packets,
    /// was behind or not there.
    PathMtuToldUnfragmented = 25, "path_mtu_told_unfragmented", Answered;
    /// Connections closed because their time was up or their real server is gone.
    Expired = 32, "connections_expired", Note;
    /// Connections picked up in their middle.
    PickedUp = 33, "connections_picked_up", Note;
    /// Connections of a removed nat server of which an end was told by an RST (`reset_on_removal`).
    Reset = 35, "connections_reset", Note;
    /// Next hops asked from the routing table by the program itself.
    RouteLookups = 34, "route_lookups", Note;
    /// ICMP errors brought to the real server or client that they are about.
    IcmpForwarded = 40, "icmp_errors_forwarded", Note;
    /// ICMP errors about our own tunnel packets, from which the controller learns the path MTU.
    PathMtuHeard = 41, "path_mtu_heard", Note;
    /// SYNs whose MSS was lowered.
    MssClamped = 42, "mss_clamped", Note;
    /// A fragment that ends in the transport header, or reaches into it from behind.
    FragmentShort = 48, "fragment_short", Drop;
    /// A later fragment that waited a second for its first (counted by user space).
    FragmentTimeout = 49, "fragment_timeout", Drop;
    /// A later fragment that made room for newer ones, or was too much of one packet (user space).
    FragmentOverflow = 50, "fragment_overflow", Drop;
    /// A later fragment whose decision was gone again when its turn came.
    FragmentUndecided = 51, "fragment_undecided", Drop;
    /// No room in the ring to user space: too many at once, or no daemon.
    DetourFull = 52, "detour_full", Drop;
    /// A held frame that could not be run again or sent (user space), or is too long to be held.
    DetourFailed = 53, "detour_failed", Drop;
    /// A held frame for the stack, of which only so many a second are given to it (user space).
    DetourPassLimit = 54, "detour_pass_limit", Drop;
    /// Frames that were handed to user space. Each ends as one of `detour_reruns` or as a drop that
    /// user space counts.
    Detoured = 55, "detoured", Detour;
    /// Held frames that user space ran again (user space).
    DetourReruns = 56, "detour_reruns", Note;
    /// IPv4 packets without Don't Fragment that were larger than the path MTU and went on in fragments
    /// (user space).
    Split = 57, "packets_split", Note;
}

/// Length of the counter array.
pub const COUNTERS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_are_unique_and_in_range() {
        for (i, a) in Counter::ALL.iter().enumerate() {
            assert!((*a as u32) < COUNTERS);
            assert!(a.meaning().len() > 10 && a.meaning().trim() == a.meaning(), "{a:?}");
            for b in &Counter::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert_ne!(*a as u32, *b as u32);
            }
        }
    }
}
