//! Compiles every `kernels/*.cu` with nvcc to a fatbin in `OUT_DIR`, with machine code for each architecture and
//! PTX for cards to come.
//!
//! | variable | meaning |
//! |---|---|
//! | `TRIGRAD_CUDA_ARCHS` | narrows the architectures: `90`, or `80,90` |
//! | `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH` | where nvcc is looked for, in this order |
//! | `TRIGRAD_KERNEL_CACHE` | a folder that keeps fatbins by what they were compiled from, for builds with other features or profiles |
//! | `DOCS_RS` | set: no compiler is needed, the fatbins are empty |

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Turing to Blackwell: data-center and consumer parts.
const ARCHS: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];

/// The architectures that kernels ask about: where instructions come in that they use. Others share the intermediate
/// code of the one below, so that the front half of the compiler, half of the time, runs three times instead of seven.
const BASES: [u32; 3] = [90, 80, 75];

/// The fatbins, one for each file in kernels/.
const SOURCES: [&str; 12] = [
    "quantize",
    "dequantize",
    "accumulate",
    "read_out",
    "check",
    "clear",
    "pack",
    "reduce",
    "state",
    "update",
    "update_adamw_8bit",
    "window",
];

pub(crate) fn build() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build/kernels.rs");
    for name in ["TRIGRAD_CUDA_ARCHS", "NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "TRIGRAD_KERNEL_CACHE", "DOCS_RS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set: run through cargo")));
    if env::var_os("DOCS_RS").is_some() {
        for name in SOURCES {
            write(&out.join(format!("{name}.fatbin")), &[]);
            // Or the next build would take the empty one for what an earlier build compiled.
            write(&out.join(format!("{name}.stamp")), &[]);
        }
        return;
    }
    let archs = architectures();
    let nvcc = compiler();
    let include = out.join("include");
    fs::create_dir_all(&include).unwrap_or_else(|e| fail(&format!("cannot create {}: {e}", include.display())));
    write(&include.join("constants.h"), constants().as_bytes());
    // Two at a time: one compilation takes one core and a few hundred megabytes.
    let mut running = Vec::new();
    for name in SOURCES {
        if running.len() == 2 {
            finish(running.remove(0));
        }
        running.push(compile(&nvcc, &archs, &include, &out, name));
    }
    running.into_iter().for_each(finish);
}

struct Compilation {
    name: &'static str,
    child: Option<std::process::Child>,
    fatbin: PathBuf,
    stamp: PathBuf,
    fingerprint: String,
}

/// Starts a compilation, unless what it reads is what the last one read.
fn compile(nvcc: &Path, archs: &[u32], include: &Path, out: &Path, name: &'static str) -> Compilation {
    let fatbin = out.join(format!("{name}.fatbin"));
    let stamp = out.join(format!("{name}.stamp"));
    let fingerprint = fingerprint(nvcc, archs, include, name);
    if fatbin.exists() && fs::read_to_string(&stamp).is_ok_and(|s| s == fingerprint) {
        return Compilation { name, child: None, fatbin, stamp, fingerprint };
    }
    if let Some(kept) = kept(name, &fingerprint).filter(|kept| kept.is_file()) {
        fs::copy(&kept, &fatbin).unwrap_or_else(|e| fail(&format!("cannot copy {}: {e}", kept.display())));
        write(&stamp, fingerprint.as_bytes());
        return Compilation { name, child: None, fatbin, stamp, fingerprint };
    }
    let mut command = Command::new(nvcc);
    // No fast math, no contraction: a fused operation stands in the source where one is meant. Subnormals are kept.
    command.args(["-fatbin", "-std=c++17", "-O3", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true"]);
    command.args(["-Werror", "all-warnings", "-t", "1", "-I"]).arg("kernels/include").arg("-I").arg(include);
    let newest = archs.iter().max().map(|arch| base(*arch));
    for from in BASES {
        let mut code: Vec<String> =
            archs.iter().filter(|arch| base(**arch) == from).map(|arch| format!("sm_{arch}")).collect();
        if newest == Some(from) {
            code.push(format!("compute_{from}"));
        }
        if !code.is_empty() {
            command.arg("-gencode").arg(format!("arch=compute_{from},code=[{}]", code.join(",")));
        }
    }
    command.arg("-o").arg(&fatbin).arg(format!("kernels/{name}.cu"));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| fail(&format!("cannot run {}: {e}", nvcc.display())));
    Compilation { name, child: Some(child), fatbin, stamp, fingerprint }
}

/// The architecture whose intermediate code one is made from.
fn base(arch: u32) -> u32 {
    BASES.into_iter().find(|base| *base <= arch).unwrap_or(arch)
}

/// Where a cache keeps a fatbin, if there is one.
fn kept(name: &str, fingerprint: &str) -> Option<PathBuf> {
    let cache = env::var_os("TRIGRAD_KERNEL_CACHE").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(cache).join(format!("{name}-{fingerprint}.fatbin")))
}

fn finish(compilation: Compilation) {
    let Some(child) = compilation.child else { return };
    let name = compilation.name;
    let output = child.wait_with_output().unwrap_or_else(|e| fail(&format!("nvcc on kernels/{name}.cu: {e}")));
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        fail(&format!("nvcc refuses kernels/{name}.cu:\n{}", String::from_utf8_lossy(&text)));
    }
    write(&compilation.stamp, compilation.fingerprint.as_bytes());
    if let Some(kept) = kept(name, &compilation.fingerprint) {
        let keep = || -> std::io::Result<()> {
            // Under a name of its own until it is whole: another build may look while this one writes.
            let partial = kept.with_extension(format!("{}.partial", std::process::id()));
            kept.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::copy(&compilation.fatbin, &partial)?;
            fs::rename(&partial, &kept)
        };
        keep().unwrap_or_else(|e| fail(&format!("cannot keep {}: {e}", kept.display())));
    }
}

/// A hash of all that a compilation depends on: the compiler, the architectures, the source and every header.
fn fingerprint(nvcc: &Path, archs: &[u32], include: &Path, name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    nvcc.hash(&mut hasher);
    let version = Command::new(nvcc).arg("--version").output();
    version.unwrap_or_else(|e| fail(&format!("cannot run {}: {e}", nvcc.display()))).stdout.hash(&mut hasher);
    archs.hash(&mut hasher);
    let mut files = vec![PathBuf::from(format!("kernels/{name}.cu")), PathBuf::from("build/kernels.rs")];
    for dir in [Path::new("kernels/include"), include] {
        let entries = fs::read_dir(dir).unwrap_or_else(|e| fail(&format!("cannot read {}: {e}", dir.display())));
        let mut headers: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        headers.sort();
        files.extend(headers);
    }
    for file in files {
        fs::read(&file).unwrap_or_else(|e| fail(&format!("cannot read {}: {e}", file.display()))).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// The shared numbers as C++.
fn constants() -> String {
    let mut text = String::from(
        "// Written by build/kernels.rs from src/numerics/constants.rs.\n#pragma once\n#include <cstdint>\n",
    );
    for (name, value) in crate::constants::all() {
        writeln!(text, "constexpr uint32_t {name} = {value:#x}u;").unwrap_or_else(|e| fail(&e.to_string()));
    }
    text
}

fn architectures() -> Vec<u32> {
    let Ok(list) = env::var("TRIGRAD_CUDA_ARCHS") else { return ARCHS.to_vec() };
    let parsed: Vec<u32> = list
        .split([',', ';', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.parse().ok().filter(|arch| *arch >= 75).unwrap_or_else(|| {
                fail(&format!("TRIGRAD_CUDA_ARCHS: `{part}` is no architecture from 75 up; write a list like 80,90"))
            })
        })
        .collect();
    if parsed.is_empty() { ARCHS.to_vec() } else { parsed }
}

fn compiler() -> PathBuf {
    let nvcc = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = set("NVCC").into_iter().collect();
    candidates.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).map(|home| home.join("bin").join(nvcc)));
    if let Some(path) = env::var_os("PATH") {
        candidates.extend(env::split_paths(&path).map(|dir| dir.join(nvcc)));
    }
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        fail(
            "feature `cuda` (or `cuda-kernels`) needs nvcc 12.3 or newer, which is neither at NVCC nor under CUDA_HOME, CUDA_PATH or PATH: \
             install the CUDA toolkit, or run `eval \"$(scripts/fetch-cuda.sh)\"`, which fetches the compiler without a driver, 1.2 GB",
        )
    })
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| fail(&format!("cannot write {}: {e}", path.display())));
}

/// Ends the build with a sentence.
#[expect(clippy::print_stderr, reason = "cargo shows what a build script says there")]
fn fail(sentence: &str) -> ! {
    eprintln!("{sentence}");
    std::process::exit(1)
}
