//! What becomes of a packet, and what is counted on the way.
//!
//! Every drop has a [`Counter`]; `name()` gives the reason in `lb stats`, in metrics and in logs.
//!
//! Must not know: Prometheus, maps.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $index:literal, $text:literal, $kind:ident;)*) => {
        /// Index into the per-CPU counter array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $name = $index),* }

        impl Counter {
            /// Every counter.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];

            /// Its name in `lb stats`, metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text),* }
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
    /// The packet was forwarded by the fallback without an entry for its connection.
    WithoutEntry,
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
    /// A fragment to a virtual address.
    Fragment = 5, "fragment", Drop;
    /// Time to live or hop limit used up.
    TtlExceeded = 6, "ttl_exceeded", Drop;
    /// The frame ended where a header had to be changed, or had no room for a VLAN tag.
    NotRewritable = 7, "not_rewritable", Drop;
    /// A nat reply of a connection that is over, or whose real server has failed.
    ReplyWithoutConnection = 8, "reply_without_connection", Drop;
    /// Both buckets of the connection table where the flow belongs are full.
    TableFull = 16, "table_full", WithoutEntry;
    /// Another CPU was making an entry of the same flow at the same time.
    TableBusy = 17, "table_busy", WithoutEntry;
    /// Another CPU made the entry first, and it is gone already or not whole yet.
    TableExists = 18, "table_exists", WithoutEntry;
    /// More new connections than `new_connections_per_second`.
    Flood = 20, "flood", WithoutEntry;
    /// Connections closed because their time was up or their real server is gone.
    Expired = 32, "connections_expired", Note;
    /// Connections picked up in their middle.
    PickedUp = 33, "connections_picked_up", Note;
    /// Next hops asked from the routing table by the program itself.
    RouteLookups = 34, "route_lookups", Note;
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
            for b in &Counter::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert_ne!(*a as u32, *b as u32);
            }
        }
    }
}
