//! A two-instruction XDP program that passes everything.
//!
//! veth delivers frames sent by XDP_TX or a redirect only when the peer end runs XDP (or, for a
//! redirect, GRO). The lab attaches this stub to every bridge port that faces a director; a real
//! NIC needs nothing of the kind. Raw bpf(2), so that the lab does not share code with the product.
//!
//! Must not know: topologies.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use nix::net::if_::if_nametoindex;
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The stub on one interface; detached when dropped.
#[derive(Debug)]
pub struct Stub {
    _link: OwnedFd,
}

impl Stub {
    /// Loads the program and attaches it to `interface` of the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn attach(interface: &str) -> Result<Self> {
        let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
        let program = load()?;
        let attr = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let link = bpf(BPF_LINK_CREATE, &attr)
            .with_context(|| format!("attach the stub to {interface}"))?;
        Ok(Self { _link: link })
    }
}

fn load() -> Result<OwnedFd> {
    // r0 = XDP_PASS; exit
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"MIT";
    let mut name = [0; 16];
    name[..8].copy_from_slice(b"lab_pass");
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: name,
        prog_ifindex: 0,
        expected_attach_type: BPF_XDP,
    };
    bpf(BPF_PROG_LOAD, &attr).context("load the stub")
}

fn bpf<T>(command: libc::c_int, attr: &T) -> Result<OwnedFd> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a live, padding-free repr(C) prefix of `union bpf_attr` of `size` bytes,
    // and the memory that it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    if fd < 0 {
        bail!(Error::last_os_error());
    }
    let fd = i32::try_from(fd).context("the kernel returned no descriptor")?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `BPF_PROG_LOAD`'s part of `union bpf_attr`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `BPF_LINK_CREATE`'s part of `union bpf_attr`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;
