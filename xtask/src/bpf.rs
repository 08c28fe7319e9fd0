//! Finds the compiler and the linker for the BPF target and forms their cargo command.
//!
//! A build script (`lb-user/build.rs`) and xtask both include this file, so that building and
//! linting the XDP programs cannot drift apart. core is built from source for `bpfel-unknown-none`,
//! therefore a compiler counts only together with the library sources of its own release.
//!
//! Must not know: how missing parts are installed (`setup`), anything outside std.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target triple of the XDP programs.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Environment variables that choose the tools; a build script must be run again when they change.
pub(crate) const VARIABLES: [&str; 3] = ["LB_BPF_CARGO", "LB_BPF_RUSTC", "LB_BPF_LINKER"];

/// A cargo and a rustc that can build core for the BPF target.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// The cargo command and its leading arguments.
    cargo: Vec<OsString>,
    /// The rustc to name in `RUSTC`; `None` when the cargo command brings its own.
    rustc: Option<PathBuf>,
    /// Major version of the LLVM inside, which decides the bpf-linker that can read its output.
    pub(crate) llvm: u32,
}

/// Finds a compiler: what the environment names, else Debian's, else rustup's nightly.
pub(crate) fn compiler() -> Option<Compiler> {
    named().or_else(system).or_else(nightly)
}

/// `LB_BPF_CARGO` and `LB_BPF_RUSTC`, taken as they are: who sets them knows why.
fn named() -> Option<Compiler> {
    let (cargo, rustc) = (env::var_os(VARIABLES[0]), env::var_os(VARIABLES[1]));
    if cargo.is_none() && rustc.is_none() {
        return None;
    }
    let rustc = rustc.unwrap_or_else(|| "rustc".into());
    let (_, llvm) = versions(Command::new(&rustc))?;
    let cargo = vec![cargo.unwrap_or_else(|| "cargo".into())];
    Some(Compiler { cargo, rustc: Some(rustc.into()), llvm })
}

/// The distribution's compiler, if it is new enough for edition 2024 and has its sources.
fn system() -> Option<Compiler> {
    let (cargo, rustc) = ("/usr/bin/cargo", "/usr/bin/rustc");
    let (minor, llvm) = versions(Command::new(rustc))?;
    let usable = minor >= 95 && Path::new(cargo).exists() && has_library(Command::new(rustc));
    usable.then(|| Compiler { cargo: vec![cargo.into()], rustc: Some(rustc.into()), llvm })
}

/// rustup's nightly, if it has the component rust-src.
fn nightly() -> Option<Compiler> {
    let rustc = || {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "rustc"]).env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    let (_, llvm) = versions(rustc())?;
    let cargo = ["rustup", "run", "nightly", "cargo"].map(OsString::from).to_vec();
    has_library(rustc()).then_some(Compiler { cargo, rustc: None, llvm })
}

/// Rust's minor version and LLVM's major version as `rustc -vV` tells them.
fn versions(rustc: Command) -> Option<(u32, u32)> {
    let text = output(rustc, &["-vV"])?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let minor = field("release")?.split('.').nth(1)?.parse().ok()?;
    let llvm = field("LLVM version")?.split('.').next()?.parse().ok()?;
    Some((minor, llvm))
}

/// Whether the sources of core lie where `-Z build-std` looks for them.
fn has_library(rustc: Command) -> bool {
    output(rustc, &["--print", "sysroot"]).is_some_and(|sysroot| {
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    })
}

fn output(mut command: Command, args: &[&str]) -> Option<String> {
    let output = command.args(args).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds bpf-linker: what the environment names, else the workspace's own, else the one in `PATH`.
pub(crate) fn linker(root: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os(VARIABLES[2]) {
        return Some(named.into());
    }
    let own = own_linker(root);
    if own.exists() {
        return Some(own);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("bpf-linker")).find(|file| file.exists())
}

/// Where `cargo xtask setup` puts bpf-linker.
fn own_linker(root: &Path) -> PathBuf {
    root.join("target/tools/bin/bpf-linker")
}

impl Compiler {
    /// Whether this is the distribution's.
    #[allow(dead_code, reason = "the build script has no use for it")]
    pub(crate) fn is_system(&self) -> bool {
        self.cargo[0] == "/usr/bin/cargo"
    }

    /// `cargo SUBCOMMAND` for the package lb-ebpf on the BPF target, in the folder `root`.
    ///
    /// `arch` is the host architecture, which decides the layout of the kernel's registers;
    /// `target_dir` must not be one that an outer cargo holds locked.
    pub(crate) fn cargo(
        &self,
        subcommand: &str,
        root: &Path,
        linker: &Path,
        arch: &str,
        target_dir: &Path,
    ) -> Command {
        let mut command = self.subcommand(subcommand);
        for (name, _) in env::vars_os() {
            if is_leftover(&name) {
                command.env_remove(name);
            }
        }
        if let Some(rustc) = &self.rustc {
            // A release compiler takes -Z options only so.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env("CARGO", &self.cargo[0]);
        }
        // The memory option inlines memset and memcpy, which otherwise become byte loops
        // that cost the verifier three times the instructions.
        let flags = [
            "-Cdebuginfo=2".into(),
            "-Ctarget-cpu=v3".into(),
            format!("-Clinker={}", linker.display()),
            "-Clink-arg=--btf".into(),
            "-Clink-arg=--disable-expand-memcpy-in-order".into(),
            format!("--cfg=bpf_target_arch=\"{arch}\""),
        ];
        command
            .current_dir(root)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args(["--release", "--locked", "-Z", "build-std=core", "--target", TARGET])
            .args(["--package", "lb-ebpf", "--target-dir"])
            .arg(target_dir);
        command
    }

    /// The command without options. A clippy beside the compiler is called by its path, because
    /// cargo would prefer the one in `~/.cargo/bin`, which belongs to another compiler.
    fn subcommand(&self, name: &str) -> Command {
        let beside = Path::new(&self.cargo[0]).with_file_name(format!("cargo-{name}"));
        let mut command = if beside.is_absolute() && beside.exists() {
            Command::new(beside)
        } else {
            let mut command = Command::new(&self.cargo[0]);
            command.args(&self.cargo[1..]);
            command
        };
        command.arg(name);
        command
    }
}

/// Whether a variable was set by an outer cargo for its own compiler and would mislead an inner one.
fn is_leftover(name: &OsStr) -> bool {
    const KEEP: [&str; 5] =
        ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_HTTP_", "CARGO_NET_", "CARGO_TERM_"];
    let Some(name) = name.to_str() else { return false };
    let of_cargo = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CLIPPY_"];
    of_cargo.iter().any(|start| name.starts_with(start))
        && !KEEP.iter().any(|start| name.starts_with(start))
}
