//! System calls that have no safe form elsewhere: `bpf(2)` batches, test runs and entries of our own
//! types, and sending whole frames.
//!
//! Must not know: what the maps hold.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use lb_common::pod::Pod;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// `struct { ... } batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The anonymous struct of `union bpf_attr` for `BPF_MAP_*_ELEM`.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct { ... } test` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Where a batched walk stands. The kernel's cursor is opaque and smaller than this.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(Option<[u64; 8]>);

impl Cursor {
    /// A walk over an array map that begins with this element.
    pub fn of_array(first: u32) -> Self {
        // The kernel's cursor of an array is the element before.
        Self(first.checked_sub(1).map(|before| {
            let [a, b, c, d] = before.to_ne_bytes();
            let mut cursor = [0; 8];
            cursor[0] = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
            cursor
        }))
    }
}

/// Reads the next elements of a map into `keys` and `values`, which are equally long. Gives
/// how many there are, and whether the walk is over. Entries that come and go meanwhile may be
/// missed; none is given twice unless it was made anew.
///
/// # Errors
/// The kernel's.
pub fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, bool)> {
    let mut out = [0u64; 8];
    let mut attr = BatchAttr {
        in_batch: cursor.0.as_ref().map_or(0, |c| c.as_ptr() as u64),
        out_batch: out.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: keys and values have room for `count` elements of the map's own sizes (callers name
    // the types that the map was made with), and the cursor buffers outlive the call.
    let result = unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    match result {
        Ok(_) => {
            cursor.0 = Some(out);
            Ok((attr.count as usize, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count as usize, true)),
        Err(error) => Err(error),
    }
}

/// Reads one entry; of a trie, that of the longest prefix that matches.
///
/// # Errors
/// The kernel's, other than that there is none.
pub fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = std::mem::MaybeUninit::<V>::uninit();
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: std::ptr::from_ref(key) as u64,
        value: value.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: key and value have the map's own sizes (callers name the types that it was made with).
    match unsafe { call(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        // SAFETY: the kernel wrote all of it, and any bytes are a value.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `values` to an array map from index `base` on.
///
/// # Errors
/// The kernel's.
pub fn update_array<V: Pod>(map: BorrowedFd<'_>, base: u32, values: &[V]) -> io::Result<()> {
    let keys: Vec<u32> = (base..).take(values.len()).collect();
    update_batch(map, &keys, values)
}

/// Writes entries, new or not; each key has the value at its place.
///
/// # Errors
/// The kernel's; those before the one that failed are written.
pub fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    if attr.count == 0 {
        return Ok(());
    }
    // SAFETY: both slices hold at least `count` elements and are only read.
    unsafe { call(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(|_| ())
}

/// Deletes entries. Gives how many it deleted before it met one that it could not.
pub fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> (usize, io::Result<()>) {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    if keys.is_empty() {
        return (0, Ok(()));
    }
    // SAFETY: the slice holds `count` keys and is only read.
    let result = unsafe { call(BPF_MAP_DELETE_BATCH, &mut attr) };
    (attr.count as usize, result.map(|_| ()))
}

/// Runs a program once on `data` as its packet; gives what it returned.
///
/// # Errors
/// The kernel's: EINVAL for less than an Ethernet header or more than a page.
pub fn test_run(program: BorrowedFd<'_>, data: &[u8]) -> io::Result<u32> {
    let mut attr = TestAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: data.len() as u32,
        data_in: data.as_ptr() as u64,
        repeat: 1,
        ..TestAttr::default()
    };
    // SAFETY: the packet is copied from `data`, and nothing is written back.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.retval)
}

/// What a test run on a frame gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The program's verdict.
    pub verdict: u32,
    /// Bytes that were written to the output, metadata first.
    pub length: usize,
}

/// Runs a program on a frame that came in by `ingress`. `input` is `meta` bytes of metadata and
/// the frame; what comes out, in the same form, goes to `output`.
///
/// # Errors
/// The kernel's: ENOSPC when `output` is too short, EINVAL or ENODEV without such an interface.
pub fn test_run_frame(
    program: BorrowedFd<'_>,
    input: &[u8],
    meta: u32,
    ingress: u32,
    output: &mut [u8],
) -> io::Result<Ran> {
    let context = xdp_md(input, meta, ingress);
    let mut attr = frame_attr(program, input, &context);
    attr.data_size_out = output.len() as u32;
    attr.data_out = output.as_mut_ptr() as u64;
    // SAFETY: the packet and the context are copied in, and at most `output.len()` bytes out.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(Ran { verdict: attr.retval, length: attr.data_size_out as usize })
}

/// The same with a frame that is real: what the program passes goes to the stack. The kernel sets a
/// memory pool up and down for it, which takes milliseconds.
///
/// # Errors
/// The kernel's: EINVAL for a frame that does not fit a page, or from a kernel before 5.18.
pub fn test_run_live(
    program: BorrowedFd<'_>,
    input: &[u8],
    meta: u32,
    ingress: u32,
) -> io::Result<()> {
    let context = xdp_md(input, meta, ingress);
    let mut attr = frame_attr(program, input, &context);
    attr.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    attr.batch_size = 1;
    // SAFETY: the packet and the context are copied in, and nothing is written back.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attr) }.map(|_| ())
}

/// `struct xdp_md`: data, data_end, data_meta, ingress, receive queue, egress. What lies before
/// `data` is metadata.
fn xdp_md(input: &[u8], meta: u32, ingress: u32) -> [u32; 6] {
    [meta, input.len() as u32, 0, ingress, 0, 0]
}

fn frame_attr(program: BorrowedFd<'_>, input: &[u8], context: &[u32; 6]) -> TestAttr {
    TestAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: input.len() as u32,
        data_in: input.as_ptr() as u64,
        repeat: 1,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestAttr::default()
    }
}

/// Sends whole frames by any interface.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// Opens a packet socket that receives nothing.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// The kernel's: ENXIO without such an interface, EMSGSIZE when the frame exceeds its MTU,
    /// ENOBUFS when its queue is full.
    pub fn send(&self, frame: &[u8], ifindex: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: ifindex.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: both buffers are live for the call, and the given sizes are theirs.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// # Safety
/// The attribute belongs to the command, and its pointers are valid for what the command does.
unsafe fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    loop {
        // SAFETY: the caller's promise.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>())
        };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted && error.raw_os_error() != Some(libc::EAGAIN)
        {
            return Err(error);
        }
    }
}
