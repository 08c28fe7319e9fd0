//! The few bpf(2) commands that packet tables and the benchmark need: test runs, pinned maps by
//! their bytes, and small programs given as instructions.
//!
//! Every buffer is checked against the sizes that the kernel tells of a map, so that the functions
//! are safe to call with anything.
//!
//! Must not know: the product's maps and programs.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::{self, Error};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a test run gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The program's verdict.
    pub verdict: u32,
    /// Length of the frame afterwards.
    pub length: usize,
    /// Mean time of a run in nanoseconds.
    pub nanoseconds: u32,
}

/// How often, and with what around the frame, a program is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// The interface that the frame came by; 0 is the namespace's loopback.
    pub ingress: u32,
    /// Number of runs; the frame is not restored in between. 0 counts as 1.
    pub repeat: u32,
}

impl Run {
    /// Runs `program` on `frame`; what comes out is written to `output`.
    ///
    /// # Errors
    /// The kernel's. ENOSPC when `output` is too short.
    pub fn on(self, program: BorrowedFd<'_>, frame: &[u8], output: &mut [u8]) -> io::Result<Ran> {
        let context = self.context(frame.len());
        let mut attr = TestAttr {
            prog_fd: descriptor(program),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_size_out: output.len() as u32,
            data_out: output.as_mut_ptr() as u64,
            repeat: self.repeat.max(1),
            ..TestAttr::default()
        };
        if self.ingress != 0 {
            attr.ctx_in = context.as_ptr() as u64;
            attr.ctx_size_in = size_of_val(&context) as u32;
        }
        call(BPF_PROG_TEST_RUN, &mut attr)?;
        let length = attr.data_size_out as usize;
        Ok(Ran { verdict: attr.retval, length, nanoseconds: attr.duration })
    }

    /// Runs a program of traffic control on a packet of the stack that has this mark. Tells the mark
    /// that it has then.
    ///
    /// # Errors
    /// As [`Run::on`].
    pub fn on_packet(
        self,
        program: BorrowedFd<'_>,
        (frame, mark): (&[u8], u32),
        output: &mut [u8],
    ) -> io::Result<(Ran, u32)> {
        // `struct __sk_buff`: length, type, mark and more.
        let mut context = [0u32; SK_BUFF_WORDS];
        context[2] = mark;
        let mut after = [0u32; SK_BUFF_WORDS];
        let mut attr = TestAttr {
            prog_fd: descriptor(program),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_size_out: output.len() as u32,
            data_out: output.as_mut_ptr() as u64,
            repeat: self.repeat.max(1),
            ctx_in: context.as_ptr() as u64,
            ctx_size_in: size_of_val(&context) as u32,
            ctx_out: after.as_mut_ptr() as u64,
            ctx_size_out: size_of_val(&after) as u32,
            ..TestAttr::default()
        };
        call(BPF_PROG_TEST_RUN, &mut attr)?;
        let length = attr.data_size_out as usize;
        let ran = Ran { verdict: attr.retval, length, nanoseconds: attr.duration };
        Ok((ran, after[2]))
    }

    /// Runs `program` on frames that are real: what it sends is sent, what it passes goes up.
    ///
    /// # Errors
    /// The kernel's. EINVAL when it knows no live frames.
    pub fn live(self, program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
        let context = self.context(frame.len());
        let mut attr = TestAttr {
            prog_fd: descriptor(program),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: self.repeat.max(1),
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: self.repeat.clamp(1, 64),
            ctx_in: context.as_ptr() as u64,
            ctx_size_in: size_of_val(&context) as u32,
            ..TestAttr::default()
        };
        call(BPF_PROG_TEST_RUN, &mut attr).map(|_| ())
    }

    /// `struct xdp_md`: data, data_end, data_meta, ingress, receive queue, egress.
    fn context(self, length: usize) -> [u32; 6] {
        [0, length as u32, 0, self.ingress, 0, 0]
    }
}

/// A map, with the sizes that the kernel says it has.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
    entries: u32,
}

impl Map {
    /// Opens a pinned map.
    ///
    /// # Errors
    /// When there is none at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = ObjectAttr { pathname: name.as_ptr() as u64, ..ObjectAttr::default() };
        Self::describe(call_for_fd(BPF_OBJ_GET, &mut attr)?)
    }

    /// Makes an array of one element, or a table of programs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(kind: Kind, value: u32, entries: u32) -> io::Result<Self> {
        let mut attr = CreateAttr { kind: kind as u32, key: 4, value, entries, flags: 0 };
        Self::describe(call_for_fd(BPF_MAP_CREATE, &mut attr)?)
    }

    /// Makes a hash table, with the memory of all its entries.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hash(key: u32, value: u32, entries: u32) -> io::Result<Self> {
        let mut attr = CreateAttr { kind: BPF_MAP_TYPE_HASH, key, value, entries, flags: 0 };
        Self::describe(call_for_fd(BPF_MAP_CREATE, &mut attr)?)
    }

    fn describe(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        let mut attr = InfoAttr {
            fd: fd.as_raw_fd() as u32,
            length: size_of::<MapInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        call(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        let value = match info.kind {
            // A per-CPU value is that of every possible CPU, each rounded up to eight bytes.
            BPF_MAP_TYPE_PERCPU_HASH | BPF_MAP_TYPE_PERCPU_ARRAY => {
                (info.value as usize).next_multiple_of(8) * possible_cpus()?
            }
            _ => info.value as usize,
        };
        Ok(Self { fd, key: info.key as usize, value, entries: info.entries })
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Bytes of a value, over all CPUs for a per-CPU map.
    pub fn value_size(&self) -> usize {
        self.value
    }

    /// Its capacity.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Copies the value under `key` to `value`; false when there is none.
    ///
    /// # Errors
    /// EINVAL when a length is not the map's; else the kernel's.
    pub fn read(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        let mut attr = self.element(key, value.as_mut_ptr() as u64, value.len())?;
        found(call(BPF_MAP_LOOKUP_ELEM, &mut attr))
    }

    /// Sets the value under `key`.
    ///
    /// # Errors
    /// As [`Map::read`].
    pub fn write(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attr = self.element(key, value.as_ptr() as u64, value.len())?;
        call(BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
    }

    /// Deletes the element under `key`; false when there is none.
    ///
    /// # Errors
    /// As [`Map::read`].
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.element(key, 0, self.value)?;
        found(call(BPF_MAP_DELETE_ELEM, &mut attr))
    }

    /// The first `count` values of an array, one after the other, in one call.
    ///
    /// # Errors
    /// As [`Map::read`].
    pub fn read_array(&self, count: u32, values: &mut [u8]) -> io::Result<()> {
        if self.key != 4 || count > self.entries || values.len() != count as usize * self.value {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        let mut keys = vec![0u32; count as usize];
        let mut cursor = 0u64;
        let mut attr = BatchAttr {
            in_batch: 0,
            out_batch: (&raw mut cursor) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count,
            map_fd: self.fd.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        found(call(BPF_MAP_LOOKUP_BATCH, &mut attr)).map(|_| ())
    }

    fn element(&self, key: &[u8], value: u64, length: usize) -> io::Result<ElementAttr> {
        if key.len() != self.key || length != self.value {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        let map_fd = self.fd.as_raw_fd() as u32;
        Ok(ElementAttr { map_fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 })
    }
}

/// Kinds of maps that can be made.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Values by index.
    Array = 2,
    /// Programs by index.
    Programs = 3,
}

/// Loads an XDP program; `frags` as the programs that it leaves for have it.
///
/// # Errors
/// The kernel's; the verifier's words go to stderr.
pub fn load_xdp(name: &str, code: &[u64], frags: bool) -> io::Result<OwnedFd> {
    let license = c"MIT";
    let mut log = vec![0u8; 65_536];
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        kern_version: 0,
        prog_flags: if frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: BPF_XDP,
    };
    call_for_fd(BPF_PROG_LOAD, &mut attr).inspect_err(|_| {
        eprintln!("{}", String::from_utf8_lossy(&log).trim_end_matches('\0'));
    })
}

/// CPUs that a per-CPU value has room for.
///
/// # Errors
/// When the kernel does not tell.
pub fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    last.map(|n| n + 1).ok_or_else(|| Error::from_raw_os_error(libc::EINVAL))
}

/// Ties the calling thread to one CPU.
///
/// # Errors
/// When there is no such CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: a set of CPUs is a bit field, for which zero is a value; CPU_SET checks its bounds.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Turns "no such element" into false.
fn found(result: io::Result<libc::c_long>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn call_for_fd<T: Attr>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: these commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn call<T: Attr>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    loop {
        // SAFETY: `attr` is a repr(C) prefix of `union bpf_attr`; whoever filled it in this file
        // gave pointers to live memory of the lengths beside them.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>())
        };
        if result >= 0 {
            return Ok(result);
        }
        let error = Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

/// A command's part of `union bpf_attr`.
trait Attr {}

macro_rules! attributes {
    ($($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Default)]
            struct $name { $($field: $type),* }
            impl Attr for $name {}
            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);
        )*
    };
}

attributes! {
    struct TestAttr {
        prog_fd: u32, retval: u32, data_size_in: u32, data_size_out: u32,
        data_in: u64, data_out: u64, repeat: u32, duration: u32,
        ctx_size_in: u32, ctx_size_out: u32, ctx_in: u64, ctx_out: u64,
        flags: u32, cpu: u32, batch_size: u32, pad: u32,
    }
    struct ElementAttr { map_fd: u32, pad: u32, key: u64, value: u64, flags: u64 }
    struct BatchAttr {
        in_batch: u64, out_batch: u64, keys: u64, values: u64,
        count: u32, map_fd: u32, elem_flags: u64, flags: u64,
    }
    struct ObjectAttr { pathname: u64, bpf_fd: u32, file_flags: u32 }
    struct CreateAttr { kind: u32, key: u32, value: u32, entries: u32, flags: u32 }
    struct InfoAttr { fd: u32, length: u32, info: u64 }
    struct LoadAttr {
        prog_type: u32, insn_cnt: u32, insns: u64, license: u64,
        log_level: u32, log_size: u32, log_buf: u64, kern_version: u32, prog_flags: u32,
        prog_name: [u8; 16], prog_ifindex: u32, expected_attach_type: u32,
    }
}

/// Room for `struct __sk_buff`, with some to spare for what later kernels add.
const SK_BUFF_WORDS: usize = 64;

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_PERCPU_HASH: u32 = 5;
const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
