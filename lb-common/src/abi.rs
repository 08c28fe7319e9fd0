//! Names and sizes that the kernel object and user space must agree on.
//!
//! Maps are pinned below `<pin_path>/v<ABI_VERSION>/` under these names, so an object with another
//! layout never meets maps that it would misread.
//!
//! Must not know: who reads or writes.

/// Version of every layout in this crate. Raised by any change of a map's key, value or meaning.
pub const ABI_VERSION: u32 = 4;

/// Connection tables: IPv4 and IPv6, `table::Bucket` by index; capacity chosen when they are made.
pub const MAP_CONN4: &str = "conn4";
/// See [`MAP_CONN4`].
pub const MAP_CONN6: &str = "conn6";
/// Inserts into each region of the IPv4 table so far.
pub const MAP_INSERTS4: &str = "inserts4";
/// The same for IPv6.
pub const MAP_INSERTS6: &str = "inserts6";
/// What clients connect to: `ServiceKey` to `ServiceEntry`.
pub const MAP_SERVICES: &str = "services";
/// Real servers by index: `RealServer`.
pub const MAP_REAL_SERVERS: &str = "real_servers";
/// Active and inactive connections by real-server index: `ConnectionCounts`.
pub const MAP_CONNECTION_COUNTS: &str = "conn_counts";
/// Per-CPU packets and bytes by real-server index: `Traffic`.
pub const MAP_TRAFFIC: &str = "traffic";
/// Slot tables of all services, one after the other: real-server indices.
pub const MAP_SLOTS: &str = "slots";
/// Round-robin cursors by service id.
pub const MAP_CURSORS: &str = "cursors";
/// Traffic of real servers that are gone, by service id: `Traffic`, written by user space only.
pub const MAP_RETIRED: &str = "retired";
/// Timeouts by profile: `Timeouts`.
pub const MAP_TIMEOUTS: &str = "timeouts";
/// One `Config`.
pub const MAP_CONFIG: &str = "config";
/// Address filter: a bit for every virtual address, and for every real server that answers through
/// the director. Bits are only ever added: a stale one costs a lookup, a missing one a connection.
pub const MAP_FILTER: &str = "filter";
/// Virtual addresses, to tell a later fragment to one of them from one to somebody else.
pub const MAP_VIPS: &str = "vips";
/// Interfaces by index: `Interface`.
pub const MAP_INTERFACES: &str = "interfaces";
/// Virtual routers that this node is master of and whose MAC addresses are served, by
/// `wire::vrrp::index`: not 0.
pub const MAP_VIRTUAL_MACS: &str = "virtual_macs";
/// Per-CPU VRRP frames by `wire::vrrp::index`.
pub const MAP_VRRP_FRAMES: &str = "vrrp_frames";
/// Per-CPU counts by `verdict::Counter`.
pub const MAP_COUNTERS: &str = "counters";
/// Per-CPU state of the program itself: `PerCpu`.
pub const MAP_PER_CPU: &str = "per_cpu";
/// Ring buffer of `service::Event`.
pub const MAP_EVENTS: &str = "events";
/// Decisions for later fragments: `FragmentKey` to `FragmentEntry`, the least recently used out.
pub const MAP_FRAGMENTS: &str = "fragments";
/// Ring buffer of frames for user space: `DetourHead` and the frame.
pub const MAP_DETOURS: &str = "detours";
/// Per-CPU room to build such a record in.
pub const MAP_DETOUR_FRAME: &str = "detour_frame";

/// Sources that are dropped, IPv4 and IPv6: tries from `access::Prefix4|6` to `access::AccessEntry`.
pub const MAP_DENY4: &str = "deny4";
/// See [`MAP_DENY4`].
pub const MAP_DENY6: &str = "deny6";
/// Sources that reach services while `service::CONFIG_ALLOW_ONLY` is set; tries as [`MAP_DENY4`].
pub const MAP_ALLOW4: &str = "allow4";
/// See [`MAP_ALLOW4`].
pub const MAP_ALLOW6: &str = "allow6";

/// Per-CPU packet between two stages.
pub const MAP_HANDOVER: &str = "handover";
/// The programs of the stages, by `Stage`.
pub const MAP_STAGES: &str = "stages";

/// Every map, in the order in which `lb` pins them.
pub const MAPS: [&str; 30] = [
    MAP_CONN4,
    MAP_CONN6,
    MAP_INSERTS4,
    MAP_INSERTS6,
    MAP_SERVICES,
    MAP_REAL_SERVERS,
    MAP_CONNECTION_COUNTS,
    MAP_TRAFFIC,
    MAP_SLOTS,
    MAP_CURSORS,
    MAP_RETIRED,
    MAP_TIMEOUTS,
    MAP_CONFIG,
    MAP_FILTER,
    MAP_VIPS,
    MAP_INTERFACES,
    MAP_VIRTUAL_MACS,
    MAP_VRRP_FRAMES,
    MAP_COUNTERS,
    MAP_PER_CPU,
    MAP_EVENTS,
    MAP_FRAGMENTS,
    MAP_DETOURS,
    MAP_DETOUR_FRAME,
    MAP_HANDOVER,
    MAP_STAGES,
    MAP_DENY4,
    MAP_DENY6,
    MAP_ALLOW4,
    MAP_ALLOW6,
];

/// The constant of the programs that says where the connection tables' keys are: `TableShape`.
pub const GLOBAL_TABLE: &str = "TABLE";

/// A program that another one leaves for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Reads every kind of frame.
    Unusual = 0,
    /// Follows the connection of an unusual IPv4 frame.
    Known4 = 1,
    /// The same for IPv6.
    Known6 = 2,
    /// Finds a service and a real server for an IPv4 packet without a connection.
    Admit4 = 3,
    /// The same for IPv6.
    Admit6 = 4,
    /// Wraps an IPv4 packet for its real server.
    Tunnel4 = 5,
    /// The same for IPv6.
    Tunnel6 = 6,
    /// Tells the sender of an IPv4 packet that it is too big.
    TooBig4 = 7,
    /// The same for IPv6.
    TooBig6 = 8,
    /// Finds whose packet an ICMP error is about.
    Icmp4 = 9,
    /// The same for ICMPv6.
    Icmp6 = 10,
    /// The first stage, where the guard stands before it.
    Forward = 11,
    /// Leads a later IPv4 fragment where its first one went.
    Fragment4 = 12,
    /// The same for IPv6.
    Fragment6 = 13,
    /// Answers an IPv4 segment of a connection whose server was removed with an RST.
    Reset4 = 14,
    /// The same for IPv6.
    Reset6 = 15,
}

impl Stage {
    /// How many there are.
    pub const COUNT: u32 = 16;

    /// Each stage and its program.
    pub const PROGRAMS: [(Self, &'static str); Self::COUNT as usize] = [
        (Self::Unusual, PROGRAM_UNUSUAL),
        (Self::Known4, "lb_known4"),
        (Self::Known6, "lb_known6"),
        (Self::Admit4, "lb_admit4"),
        (Self::Admit6, "lb_admit6"),
        (Self::Tunnel4, "lb_tunnel4"),
        (Self::Tunnel6, "lb_tunnel6"),
        (Self::TooBig4, "lb_too_big4"),
        (Self::TooBig6, "lb_too_big6"),
        (Self::Icmp4, "lb_icmp4"),
        (Self::Icmp6, "lb_icmp6"),
        (Self::Forward, PROGRAM_FORWARD),
        (Self::Fragment4, "lb_fragment4"),
        (Self::Fragment6, "lb_fragment6"),
        (Self::Reset4, "lb_reset4"),
        (Self::Reset6, "lb_reset6"),
    ];
}

/// The program that is attached while no access list has an entry: the first stage.
pub const PROGRAM_FORWARD: &str = "lb_forward";
/// The program that is attached while one has: it asks the lists and goes on to the first stage.
pub const PROGRAM_GUARD: &str = "lb_guard";
/// The stage that reads every kind of frame: where held frames are sent in again.
pub const PROGRAM_UNUSUAL: &str = "lb_unusual";
/// The program that closes expired connections, run by user space.
pub const PROGRAM_EXPIRE: &str = "lb_expire";
/// The program that stamps the heartbeat and tells the kernel's time, run by user space.
pub const PROGRAM_CLOCK: &str = "lb_clock";

/// Virtual services that can exist at once (listen keys; ids are bounded by the same number).
pub const MAX_SERVICES: u32 = 65_536;
/// Real servers over all services; an index must fit the 20 bits that a connection's word has.
pub const MAX_REAL_SERVERS: u32 = 131_072;
/// Entries of all slot tables together.
pub const MAX_SLOTS: u32 = 1 << 22;
/// Timeout profiles; profile 0 is the director's own.
pub const MAX_TIMEOUT_PROFILES: u32 = 1024;
/// Interface indices that have flags; higher ones are taken to be up.
pub const MAX_INTERFACES: u32 = 65_536;
/// Prefixes of one family in one access list. Memory is taken by entries that exist only.
pub const MAX_PREFIXES: u32 = 262_144;
/// Words of 64 bits in the address filter.
pub const FILTER_WORDS: u32 = 1024;
/// Bytes of the event ring.
pub const EVENT_BYTES: u32 = 64 * 1024;
/// Packets whose fragments are known at once. An entry takes some 150 bytes.
pub const MAX_FRAGMENTED: u32 = 65_536;
/// Bytes of the ring of held frames.
pub const DETOUR_BYTES: u32 = 2 * 1024 * 1024;
