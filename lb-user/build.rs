//! Builds the BPF programs and hands their ELF files to the crate: the director's as
//! `env!("LB_EBPF_OBJECT")`, the real servers' as `env!("LB_DECAP_OBJECT")`, those of probes by way
//! of a service as `env!("LB_VIA_OBJECT")`.
//!
//! The programs need another compiler and linker than the host's crates, so this calls a second
//! cargo with a target folder of its own; all profiles of the host share that folder.
//!
//! Must not know: what the programs do, how missing tools are installed (`cargo xtask setup`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "../xtask/src/bpf.rs"]
mod bpf;

fn main() -> ExitCode {
    match build() {
        Ok(objects) => {
            for (variable, object) in objects {
                println!("cargo::rustc-env={variable}={}", object.display());
            }
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the programs and returns the paths of the ELF files inside `OUT_DIR`.
fn build() -> Result<Vec<(&'static str, PathBuf)>, String> {
    let root = folder("CARGO_MANIFEST_DIR")?.join("..");
    let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
    let out_dir = folder("OUT_DIR")?;
    watch(&root);

    let missing = |what: &str| format!("{what} is missing: run `cargo xtask setup`");
    let compiler = bpf::compiler()
        .ok_or_else(|| missing("a Rust compiler with library sources for the BPF target"))?;
    let linker = bpf::linker(&root).ok_or_else(|| missing("bpf-linker"))?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH")
        .map_err(|error| format!("CARGO_CFG_TARGET_ARCH: {error}"))?;
    let target_dir = target_dir(&out_dir).join("bpf");

    let mut cargo = compiler.cargo("build", &root, &linker, &arch, &target_dir);
    let status =
        cargo.status().map_err(|error| format!("cannot run {:?}: {error}", cargo.get_program()))?;
    if !status.success() {
        return Err(format!(
            "the XDP programs (lb-ebpf) do not build: cargo ended with {status}, see above (compiler with LLVM {}, linker {})",
            compiler.llvm,
            linker.display()
        ));
    }
    let mut objects = Vec::new();
    for (variable, name) in OBJECTS {
        let built = target_dir.join(bpf::TARGET).join("release").join(name);
        let object = out_dir.join(name);
        fs::copy(&built, &object).map_err(|error| format!("copy {}: {error}", built.display()))?;
        objects.push((variable, object));
    }
    Ok(objects)
}

/// The variable that names each object, and its binary target in lb-ebpf.
const OBJECTS: [(&str, &str); 3] =
    [("LB_EBPF_OBJECT", "lb-ebpf"), ("LB_DECAP_OBJECT", "lb-decap"), ("LB_VIA_OBJECT", "lb-via")];

/// Names everything that the ELF depends on.
fn watch(root: &Path) {
    let files = ["lb-ebpf/src", "lb-ebpf/Cargo.toml", "lb-common/src", "lb-common/Cargo.toml"];
    for file in files.into_iter().chain([
        "Cargo.toml",
        "Cargo.lock",
        "xtask/src/bpf.rs",
        "lb-user/build.rs",
    ]) {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    for name in bpf::VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

/// The host's target folder, seen from `TARGET/PROFILE/build/PACKAGE/out`.
fn target_dir(out_dir: &Path) -> &Path {
    let build = out_dir.ancestors().find(|folder| folder.ends_with("build"));
    build.and_then(|build| build.parent()?.parent()).unwrap_or(out_dir)
}

fn folder(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{variable} is not set: run this by cargo"))
}
