//! `bpf(2)` commands that aya 0.14 has no safe form of: batches and test runs on a bare descriptor.
//!
//! Must not know: what the maps hold.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use lb_common::pod::Pod;

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

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

/// Writes `values` to an array map from index `base` on.
///
/// # Errors
/// The kernel's.
pub fn update_array<V: Pod>(map: BorrowedFd<'_>, base: u32, values: &[V]) -> io::Result<()> {
    let keys: Vec<u32> = (base..).take(values.len()).collect();
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: values.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    if values.is_empty() {
        return Ok(());
    }
    // SAFETY: both slices hold `count` elements and are only read.
    unsafe { call(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(|_| ())
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
