//! Finds or installs the tools that the other commands need.
//!
//! A command names the groups it needs and says whether installing is allowed. Nothing happens
//! when all is there. System packages come through apt-get; cargo tools are built into
//! `target/tools`, so that nothing outside the repository changes for them.
//!
//! Must not know: what the commands do with the tools.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::bpf;
use crate::sys::{self, Cmd, step};

/// Whether missing tools may be installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    /// Install what is missing.
    Allow,
    /// Fail and say how to install it.
    Refuse,
}

/// Tools for one purpose.
pub(crate) struct Group {
    /// Programs of system packages.
    programs: &'static [Program],
    /// Tools built by cargo.
    crates: &'static [Crate],
    /// Tools that are taken out of a package which is not installed.
    taken: &'static [Taken],
    /// Whether XDP programs are compiled.
    bpf: bool,
    /// Whether they are linted too.
    lint: bool,
}

/// A program and the package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
    why: &'static str,
}

/// A tool on crates.io.
struct Crate {
    name: &'static str,
    version: &'static str,
    why: &'static str,
}

/// A tool of a package that would start a service, were it installed.
struct Taken {
    name: &'static str,
    package: &'static str,
    why: &'static str,
}

/// What building needs.
pub(crate) const BUILD: Group = Group {
    programs: &[Program { name: "cc", package: "gcc libc6-dev", why: "links host programs" }],
    crates: &[],
    taken: &[],
    bpf: true,
    lint: false,
};

/// What the lab needs: namespaces, traffic, and means to look at both.
pub(crate) const LAB: Group = Group {
    programs: &[
        Program { name: "ip", package: "iproute2", why: "makes network namespaces" },
        Program { name: "ethtool", package: "ethtool", why: "sets offloads of test interfaces" },
        Program { name: "bpftool", package: "bpftool", why: "reads maps and programs" },
        Program { name: "curl", package: "curl", why: "HTTP client" },
        Program { name: "iperf3", package: "iperf3", why: "bulk traffic" },
        Program { name: "ping", package: "iputils-ping", why: "reachability" },
        Program { name: "tcpdump", package: "tcpdump", why: "looks at frames on the wire" },
        Program { name: "sysctl", package: "procps", why: "network settings of namespaces" },
        Program { name: "chromium", package: "chromium", why: "looks at the dashboard" },
        Program { name: "chromedriver", package: "chromium-driver", why: "steers the browser" },
        Program { name: "haproxy", package: "haproxy", why: "the measure of its statistics' CSV" },
        Program { name: "nft", package: "nftables", why: "packet filters in namespaces" },
        Program { name: "keepalived", package: "keepalived", why: "the other make of VRRP router" },
        Program { name: "dnsmasq", package: "dnsmasq-base", why: "DNS server for checks" },
        Program { name: "nginx", package: "nginx-light", why: "web server for checks" },
        Program { name: "/usr/bin/python3", package: "python3", why: "gRPC server for checks" },
        // A library: its path is found like a program's.
        Program {
            name: "/usr/lib/python3/dist-packages/grpc/__init__.py",
            package: "python3-grpcio",
            why: "gRPC server for checks",
        },
        Program { name: "nsenter", package: "util-linux", why: "runs programs in namespaces" },
    ],
    crates: &[],
    taken: &[Taken {
        name: "promtool",
        package: "prometheus",
        why: "reads metrics and alert rules",
    }],
    bpf: false,
    lint: false,
};

/// What `ci` needs beyond the tests.
pub(crate) const LINT: Group = Group {
    programs: &[Program { name: "git", package: "git", why: "lists the tracked files" }],
    crates: &[
        Crate { name: "cargo-deny", version: "0.20.2", why: "licences and sources" },
        Crate { name: "cargo-machete", version: "0.9.2", why: "unused dependencies" },
    ],
    taken: &[],
    bpf: true,
    lint: true,
};

/// Debian's compiler with its library sources. rustup's stable cannot build core, and its
/// nightly only with the component rust-src.
const BPF_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// LLVM inside Debian's compiler.
const SYSTEM_LLVM: u32 = 22;

const LINKER_VERSION: &str = "0.13.0";

/// A package that is missing, and what for.
struct Wanted {
    package: String,
    why: String,
}

impl Wanted {
    fn new(package: impl Into<String>, why: impl Into<String>) -> Self {
        Self { package: package.into(), why: why.into() }
    }
}

/// Sees to it that every tool of the groups is there.
pub(crate) fn run(groups: &[Group], install: Install) -> Result<()> {
    let mut wanted = Vec::new();
    for program in groups.iter().flat_map(|group| group.programs) {
        if sys::find(program.name).is_none() {
            wanted.extend(
                program.package.split(' ').map(|package| Wanted::new(package, program.why)),
            );
        }
    }
    if groups.iter().any(|group| group.bpf) {
        let lint = groups.iter().any(|group| group.lint);
        install_bpf(wanted, lint, install)?;
    } else {
        install_packages(&wanted, install)?;
    }
    for tool in groups.iter().flat_map(|group| group.crates) {
        install_crate(tool, install)?;
    }
    for tool in groups.iter().flat_map(|group| group.taken) {
        take(tool, install)?;
    }
    Ok(())
}

/// Installs `wanted` with the BPF compiler and its LLVM, then bpf-linker.
fn install_bpf(mut wanted: Vec<Wanted>, lint: bool, install: Install) -> Result<()> {
    let root = sys::root()?;
    let found = bpf::compiler();
    let linker = bpf::linker(&root);
    let why = "builds core for the BPF target";
    if found.is_none() {
        wanted.extend(BPF_PACKAGES.map(|package| Wanted::new(package, why)));
    }
    if linker.is_none() {
        wanted.extend(llvm_package(found.as_ref().map_or(SYSTEM_LLVM, |compiler| compiler.llvm)));
    }
    let system = found.as_ref().is_none_or(bpf::Compiler::is_system);
    if lint && system && !Path::new("/usr/bin/clippy-driver").exists() {
        wanted.push(Wanted::new("rust-web-clippy", "lints the XDP programs"));
    }
    if found.is_none() && install == Install::Allow {
        wanted = packages_or_nightly(wanted)?;
    }
    install_packages(&wanted, install)?;
    let Some(compiler) = bpf::compiler() else {
        bail!(
            "no compiler for the BPF target: install {} or run `rustup toolchain install nightly \
             --component rust-src`",
            BPF_PACKAGES.join(" ")
        );
    };
    if linker.is_none() {
        install_packages(&Vec::from_iter(llvm_package(compiler.llvm)), install)?;
        install_linker(compiler.llvm, install)?;
    }
    Ok(())
}

/// Where the system has no such compiler, rustup's nightly takes its place.
fn packages_or_nightly(mut wanted: Vec<Wanted>) -> Result<Vec<Wanted>> {
    let known = |package: &str| Cmd::new("apt-cache").args(["show", package]).capture().is_ok();
    if !known(BPF_PACKAGES[0]) && sys::is_root() && sys::find("apt-get").is_some() {
        update_lists()?;
    }
    if known(BPF_PACKAGES[0]) {
        return Ok(wanted);
    }
    // LLVM follows once nightly's version is known.
    wanted
        .retain(|wanted| !wanted.package.contains("-web") && !wanted.package.starts_with("llvm-"));
    ensure!(
        sys::find("rustup").is_some(),
        "no compiler for the BPF target: this system has no package {} and there is no rustup",
        BPF_PACKAGES[0]
    );
    step("install Rust nightly with library sources, for the BPF target", || {
        let args = ["toolchain", "install", "nightly", "--profile", "minimal"];
        Cmd::new("rustup").args(args).args(["--component", "rust-src,clippy"]).run()
    })?;
    Ok(wanted)
}

/// The package with LLVM's libraries, unless they are there.
fn llvm_package(version: u32) -> Option<Wanted> {
    let present = Path::new(&llvm_folder(version)).join("bin/llvm-config").exists();
    let why = "bpf-linker is made of LLVM, of the compiler's own version";
    (!present).then(|| Wanted::new(format!("llvm-{version}-dev"), why))
}

fn llvm_folder(version: u32) -> String {
    format!("/usr/lib/llvm-{version}")
}

fn install_packages(wanted: &[Wanted], install: Install) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = wanted.iter().map(|wanted| wanted.package.as_str()).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    for Wanted { package, why } in wanted {
        eprintln!("missing: {package} ({why})");
    }
    ensure!(
        install == Install::Allow,
        "packages are missing and --no-install forbids to install them; run: {line}"
    );
    ensure!(
        sys::find("apt-get").is_some(),
        "packages are missing and there is no apt-get; the Debian names are: {}",
        packages.join(" ")
    );
    ensure!(
        sys::is_root(),
        "packages are missing and installing them needs root; run as root: {line}"
    );
    update_lists()?;
    step(&format!("install {}", packages.join(" ")), || {
        // --no-remove: a package that conflicts with an installed one must not replace it.
        let args = ["install", "-y", "--no-install-recommends", "--no-remove"];
        apt_get().args(args).args(&packages).run().context(
            "apt-get could not install them; see above (no network, or a conflict with an installed package)",
        )
    })
}

fn update_lists() -> Result<()> {
    step("update the package lists", || apt_get().args(["update"]).run())
        .context("the package lists cannot be fetched: is there a network?")
}

fn apt_get() -> Cmd {
    Cmd::new("apt-get").args(["-q"]).env("DEBIAN_FRONTEND", "noninteractive")
}

fn install_linker(llvm: u32, install: Install) -> Result<()> {
    let (feature, folder) = (format!("llvm-{llvm}"), llvm_folder(llvm));
    let line = format!(
        "LLVM_PREFIX={folder} cargo install bpf-linker --version {LINKER_VERSION} --locked \
         --no-default-features --features {feature} --root target/tools"
    );
    ensure!(
        install == Install::Allow,
        "bpf-linker is missing and --no-install forbids to build it; run: {line}"
    );
    step("build bpf-linker (links the XDP programs; one to three minutes)", || {
        cargo_install("bpf-linker", LINKER_VERSION)
            .args(["--no-default-features", "--features", &feature])
            .env(&format!("LLVM_SYS_{llvm}1_PREFIX"), &folder)
            .env("LLVM_PREFIX", &folder)
            .run()
    })
}

fn install_crate(tool: &Crate, install: Install) -> Result<()> {
    let Crate { name, version, why } = tool;
    if Path::new("target/tools/bin").join(name).exists() || sys::find(name).is_some() {
        return Ok(());
    }
    ensure!(
        install == Install::Allow,
        "{name} is missing and --no-install forbids to build it; run: cargo install {name} --version {version} \
         --locked --root target/tools"
    );
    step(&format!("build {name} ({why}; some minutes)"), || cargo_install(name, version).run())
}

/// Puts one program of a package into target/tools/bin.
fn take(tool: &Taken, install: Install) -> Result<()> {
    let Taken { name, package, why } = tool;
    let folder = Path::new("target/tools/bin");
    if folder.join(name).exists() || sys::find(name).is_some() {
        return Ok(());
    }
    eprintln!("missing: {name} of {package} ({why})");
    ensure!(
        install == Install::Allow,
        "{name} is missing and --no-install forbids to fetch it; run: apt-get download {package} && \
         dpkg-deb --extract {package}_*.deb x && cp x/usr/bin/{name} target/tools/bin/"
    );
    let root = sys::root()?;
    let unpacked = root.join("target/tools").join(package);
    std::fs::create_dir_all(&unpacked)?;
    std::fs::create_dir_all(root.join(folder))?;
    if sys::is_root() {
        update_lists()?;
    }
    step(&format!("fetch {name} from the package {package}, which is not installed"), || {
        let line = format!(
            "cd '{0}' && apt-get -q download {package} && dpkg-deb --extract {package}_*.deb . && \
             cp usr/bin/{name} '{1}'",
            unpacked.display(),
            root.join(folder).display()
        );
        Cmd::new("sh").args(["-c", &line]).run()
    })?;
    std::fs::remove_dir_all(&unpacked).context("remove what was unpacked")
}

fn cargo_install(name: &str, version: &str) -> Cmd {
    Cmd::cargo().args(["install", name, "--version", version, "--locked", "--root", "target/tools"])
}

/// The path of a cargo tool: the repository's own or the one in `PATH`.
pub(crate) fn tool(name: &str) -> Result<std::path::PathBuf> {
    let own = sys::root()?.join("target/tools/bin").join(name);
    if own.exists() {
        Ok(own)
    } else {
        sys::find(name).with_context(|| format!("{name} is missing"))
    }
}
