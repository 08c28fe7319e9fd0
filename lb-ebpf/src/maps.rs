//! Every map, and the constant that is set when the object is loaded. Names are those of
//! `lb_common::abi`; capacities of the connection tables are set then as well.
//!
//! Must not know: logic.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;
use lb_common::abi;
use lb_common::access::AccessEntry;
use lb_common::conn::{ConnKey4, ConnKey6, ConnectionCounts, Timeouts};
use lb_common::fragment::{FragmentEntry, FragmentKey};
use lb_common::hash::TableSeed;
use lb_common::pod::Address;
use lb_common::service::{
    Config, Interface, PerCpu, RealServer, ServiceEntry, ServiceKey, Traffic,
};
use lb_common::table::{Bucket, TableShape};
use lb_common::verdict;
use lb_common::wire::vrrp;

use crate::detour::Record;
use crate::stage::Handover;

/// User space reads the connection tables as its own memory.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map(name = "conn4")]
pub static CONN4: Array<Bucket<ConnKey4>, 65_536, MMAPABLE> = Array::new();

#[btf_map(name = "conn6")]
pub static CONN6: Array<Bucket<ConnKey6>, 65_536, MMAPABLE> = Array::new();

#[btf_map(name = "inserts4")]
pub static INSERTS4: Array<u64, 4_096, MMAPABLE> = Array::new();

#[btf_map(name = "inserts6")]
pub static INSERTS6: Array<u64, 4_096, MMAPABLE> = Array::new();

/// Where keys of the connection tables are; given when the object is loaded.
#[unsafe(no_mangle)]
static TABLE: TableShape = TableShape::zeroed();

/// Seed of the connection tables.
#[inline(always)]
pub fn table_seed() -> TableSeed {
    // SAFETY: read-only data of the object. Volatile, because the compiler knows another value.
    unsafe { core::ptr::read_volatile(&raw const TABLE.seed) }
}

/// Buckets of a connection table.
#[inline(always)]
pub fn table_buckets() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const TABLE.buckets) }
}

#[btf_map(name = "services")]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry, { abi::MAX_SERVICES as usize }> =
    HashMap::new();

#[btf_map(name = "real_servers")]
pub static REAL_SERVERS: Array<RealServer, { abi::MAX_REAL_SERVERS as usize }> = Array::new();

#[btf_map(name = "conn_counts")]
pub static CONN_COUNTS: Array<ConnectionCounts, { abi::MAX_REAL_SERVERS as usize }> = Array::new();

#[btf_map(name = "traffic")]
pub static TRAFFIC: PerCpuArray<Traffic, { abi::MAX_REAL_SERVERS as usize }> = PerCpuArray::new();

#[btf_map(name = "slots")]
pub static SLOTS: Array<u32, { abi::MAX_SLOTS as usize }> = Array::new();

#[btf_map(name = "cursors")]
pub static CURSORS: Array<u64, { abi::MAX_SERVICES as usize }> = Array::new();

#[btf_map(name = "retired")]
pub static RETIRED: Array<Traffic, { abi::MAX_SERVICES as usize }> = Array::new();

#[btf_map(name = "timeouts")]
pub static TIMEOUTS: Array<Timeouts, { abi::MAX_TIMEOUT_PROFILES as usize }> = Array::new();

#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

#[btf_map(name = "filter")]
pub static FILTER: Array<u64, { abi::FILTER_WORDS as usize }> = Array::new();

#[btf_map(name = "vips")]
pub static VIPS: HashMap<Address, u32, { abi::MAX_SERVICES as usize }> = HashMap::new();

#[btf_map(name = "interfaces")]
pub static INTERFACES: Array<Interface, { abi::MAX_INTERFACES as usize }> = Array::new();

#[btf_map(name = "virtual_macs")]
pub static VIRTUAL_MACS: Array<u32, { vrrp::VIRTUAL_ROUTERS as usize }> = Array::new();

#[btf_map(name = "vrrp_frames")]
pub static VRRP_FRAMES: PerCpuArray<u64, { vrrp::VIRTUAL_ROUTERS as usize }> = PerCpuArray::new();

#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<u64, { verdict::COUNTERS as usize }> = PerCpuArray::new();

#[btf_map(name = "per_cpu")]
pub static PER_CPU: PerCpuArray<PerCpu, 1> = PerCpuArray::new();

#[btf_map(name = "events")]
pub static EVENTS: RingBuf<(), { abi::EVENT_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, { abi::MAX_FRAGMENTED as usize }> =
    LruHashMap::new();

#[btf_map(name = "detours")]
pub static DETOURS: RingBuf<(), { abi::DETOUR_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "detour_frame")]
pub static DETOUR_FRAME: PerCpuArray<Record, 1> = PerCpuArray::new();

#[btf_map(name = "handover")]
pub static HANDOVER: PerCpuArray<Handover, 1> = PerCpuArray::new();

#[btf_map(name = "stages")]
pub static STAGES: ProgramArray<{ abi::Stage::COUNT as usize }> = ProgramArray::new();

/// A trie of IPv4 prefixes. Its keys are `lb_common::access::Prefix4`, laid out as aya's own.
pub type Trie4 = LpmTrie<[u8; 8], AccessEntry, { abi::MAX_PREFIXES as usize }>;
/// The same for IPv6: `lb_common::access::Prefix6`.
pub type Trie6 = LpmTrie<[u8; 16], AccessEntry, { abi::MAX_PREFIXES as usize }>;

#[btf_map(name = "deny4")]
pub static DENY4: Trie4 = Trie4::new();

#[btf_map(name = "deny6")]
pub static DENY6: Trie6 = Trie6::new();

#[btf_map(name = "allow4")]
pub static ALLOW4: Trie4 = Trie4::new();

#[btf_map(name = "allow6")]
pub static ALLOW6: Trie6 = Trie6::new();
