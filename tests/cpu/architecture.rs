//! ARCHITECTURE.md, held against the sources: who imports whom, files of the same name, where `unsafe` lives.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder, with this ending, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// A source without comments, strings' contents and its tests.
fn code(path: &str) -> String {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let mut code = String::new();
    for line in text.lines() {
        // Tests stand at the end of a file, by custom.
        if line.trim_start().starts_with("#[cfg(test)]") && !code.is_empty() && text.contains("\nmod tests {") {
            break;
        }
        let line = line.split("//").next().unwrap_or("");
        let outside: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
        code.push_str(&outside);
        code.push('\n');
    }
    code
}

/// Every path of the crate that a source names, through `crate::` or enough `super::` to reach the folder `inside` (of
/// `src`; empty for the root), as its names from there on.
fn paths(path: &str, inside: &str) -> Vec<Vec<String>> {
    let code = code(path);
    let folders: Vec<&str> = path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let depth = if folders.last() == Some(&"mod") { folders.len() - 1 } else { folders.len() };
    let above = if inside.is_empty() { 0 } else { inside.split('/').count() };
    let mut found = Vec::new();
    for start in ["crate::".to_owned(), "super::".repeat(depth - above)] {
        let from_root = start == "crate::";
        for (at, _) in code.match_indices(&start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            for path in tree(&code[at + start.len()..]) {
                if !from_root {
                    found.push(path);
                } else if path.iter().take(above).map(String::as_str).eq(inside.split('/').take(above)) {
                    found.push(path[above..].to_vec());
                }
            }
        }
    }
    found
}

/// The paths of a tree of names as `use` takes it, up to its end: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn tree(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(list) = text.strip_prefix('{') {
        let (mut depth, mut start, mut found) = (0, 0, Vec::new());
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.extend(tree(&list[start..i]));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
        return found;
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return Vec::new();
    }
    match text[name.len()..].strip_prefix("::").map(tree) {
        Some(below) if !below.is_empty() => below.into_iter().map(|path| [vec![name.clone()], path].concat()).collect(),
        _ => vec![vec![name]],
    }
}

/// The rooms of the crate that a source names; a type of the root is one of `error`'s.
fn imports(path: &str) -> BTreeSet<String> {
    paths(path, "").iter().filter_map(|path| path.first()).map(|name| room(name)).collect()
}

fn room(name: &str) -> String {
    if name.starts_with(char::is_uppercase) { "error".to_owned() } else { name.to_owned() }
}

/// Who may import whom, beside itself.
const ALLOWED: &[(&str, &[&str])] = &[
    ("numerics", &[]),
    ("error", &[]),
    ("types", &["error", "numerics"]),
    ("memory", &["error", "types"]),
    ("op", &["error", "memory", "numerics", "types"]),
    ("cpu", &["error", "memory", "numerics", "op", "types"]),
    ("cuda", &["error", "memory", "numerics", "op", "types"]),
    ("webgpu", &["error", "memory", "numerics", "op", "types"]),
    ("device", &["cpu", "cuda", "error", "memory", "op", "types", "webgpu"]),
    ("accumulator", &["error", "memory", "numerics", "op", "types"]),
    ("checkpoint", &["accumulator", "error", "memory", "op", "types"]),
    ("training", &["accumulator", "checkpoint", "error", "memory", "numerics", "op", "types"]),
    ("testing", &["error", "memory", "numerics", "op", "types"]),
    // The adapter names the two devices' own types, for it shares their memory.
    (
        "candle",
        &[
            "accumulator",
            "checkpoint",
            "cuda",
            "device",
            "error",
            "memory",
            "numerics",
            "op",
            "training",
            "types",
            "webgpu",
        ],
    ),
    // The seed API's packing is plain CPU work.
    ("ternary", &["accumulator", "candle", "cpu", "device", "error", "memory", "numerics", "op", "training", "types"]),
    // Names of version 0.1.0, for this version.
    ("optimizer", &["candle", "training"]),
    ("lib", &["memory", "op", "ternary"]),
];

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let room = path.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_owned();
        let Some((_, allowed)) = ALLOWED.iter().find(|(r, _)| *r == room) else {
            wrong.push(format!("{path}: the room `{room}` has no row in ALLOWED and ARCHITECTURE.md"));
            continue;
        };
        for import in imports(&path) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{path} imports `{import}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Who may import whom of `cpu`: operations stand on the vector code, which stands on the plain code.
const ALLOWED_IN_CPU: &[(&str, &[&str])] = &[
    ("split", &[]),
    ("tile", &["split"]),
    ("measure", &["split", "tile"]),
    ("plain", &["measure", "split", "tile"]),
    ("simd", &["measure", "plain", "split", "tile"]),
];

#[test]
fn imports_within_cpu_go_one_way() {
    let mut wrong = Vec::new();
    for (part, allowed) in ALLOWED_IN_CPU {
        let folder = format!("src/cpu/{part}");
        let sources = match root().join(&folder).is_dir() {
            true => files(&folder, "rs"),
            false => vec![format!("{folder}.rs")],
        };
        assert!(!sources.is_empty(), "{folder} is empty");
        for path in sources {
            for import in paths(&path, "cpu").iter().filter_map(|path| path.first()) {
                if import != part && !allowed.contains(&import.as_str()) {
                    wrong.push(format!("{path} imports `{import}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The files of `webgpu`, each of which imports only those before it.
const ORDER_IN_WEBGPU: &[&str] = &[
    "error",
    "expand",
    "options",
    "raw",
    "shader",
    "shaders",
    "limits",
    "adapter",
    "link",
    "pipeline",
    "staging",
    "device",
    "view",
    "follow",
    "launch",
    "transfer",
    "reports",
    "memory",
    "probe",
    "open",
    "layout",
    "accumulate",
    "check",
    "dequantize",
    "pack",
    "quantize",
    "read_out",
    "reduce",
    "state",
    "update",
    "update_adamw_8bit",
    "window",
];

#[test]
fn imports_within_webgpu_go_one_way() {
    let place = |name: &str| ORDER_IN_WEBGPU.iter().position(|n| *n == name);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in files("src/webgpu", "rs").iter().filter(|path| !path.ends_with("/mod.rs")) {
        let name = Path::new(path).file_stem().unwrap().to_str().unwrap();
        let Some(own) = place(name) else {
            wrong.push(format!("{path} has no place in ORDER_IN_WEBGPU"));
            continue;
        };
        for import in paths(path, "webgpu").iter().filter_map(|path| path.first()) {
            seen += 1;
            // A type of the room's root would hide the file that it comes from.
            if place(import).is_none_or(|other| other >= own) {
                wrong.push(format!("{path} imports `{import}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 50, "{seen} imports were found: does the search work?");
}

#[test]
fn the_parser_sees_imports() {
    assert!(imports("src/op/quantize.rs").contains("memory"));
    assert!(imports("src/cpu/quantize.rs").contains("numerics"));
    assert!(imports("src/cpu/quantize.rs").contains("error"));
    assert!(imports("src/testing/cases/quantize.rs").contains("testing"));
    assert!(imports("src/numerics/trit.rs").iter().all(|i| i == "numerics"));
    let found: Vec<String> =
        tree("{op::{self, Element}, backend::{a, b::C}, Error}; x").iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["op::self", "op::Element", "backend::a", "backend::b::C", "Error"]);
    let in_cpu =
        |path| paths(path, "cpu").into_iter().filter_map(|path| path.first().cloned()).collect::<BTreeSet<_>>();
    assert!(in_cpu("src/cpu/quantize.rs").contains("simd"));
    assert!(in_cpu("src/cpu/simd/mod.rs").contains("tile"));
    assert!(in_cpu("src/cpu/plain/quantize.rs").contains("measure"));
}

#[test]
fn an_operation_has_the_same_file_name_everywhere() {
    let mut wrong = Vec::new();
    for path in files("src/op", "rs") {
        let verb = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        // What all operations share.
        if ["mod", "backend", "checked", "item", "side"].contains(&verb) {
            continue;
        }
        let twins = [
            format!("src/cpu/{verb}.rs"),
            format!("src/cuda/{verb}.rs"),
            format!("src/webgpu/{verb}.rs"),
            format!("kernels/{verb}.cu"),
            format!("shaders/{verb}.wgsl"),
        ];
        for twin in twins {
            if !root().join(&twin).exists() {
                wrong.push(format!("{twin} is missing"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table of operations names the functions of `Backend`, in their order; that each has cases is held by
/// `tests/cpu/conformance.rs`.
#[test]
fn the_table_of_operations_is_the_trait() {
    let code = code("src/op/backend.rs");
    let (_, backend) = code.split_once("pub trait Backend").unwrap();
    let operations: Vec<&str> = backend
        .lines()
        .filter_map(|l| l.strip_prefix("    fn "))
        .map(|l| l.split(['<', '(']).next().unwrap())
        .collect();
    assert_eq!(operations, trigrad::op::OPERATIONS);
}

/// `unsafe` is at home in the CUDA room and in the CPU's vector code, and each block says why it holds.
#[test]
fn unsafe_stays_at_home() {
    let mut wrong = Vec::new();
    let mut homes = 0;
    for path in files("src", "rs") {
        let words = |l: &str| l.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == "unsafe");
        if !code(&path).lines().any(words) {
            continue;
        }
        homes += 1;
        if !(path.starts_with("src/cpu/simd/") || path.starts_with("src/cuda/")) {
            wrong.push(format!("{path} holds unsafe code"));
        } else if !fs::read_to_string(root().join(&path)).unwrap().contains("SAFETY:") {
            wrong.push(format!("{path} does not say why its unsafe code holds"));
        }
    }
    assert!(homes > 0, "no unsafe code was found at all: does the search work?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A kernel or shader starts with what it is for.
#[test]
fn device_code_has_headers() {
    for path in files("kernels", "cu").into_iter().chain(files("shaders", "wgsl")) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        assert!(text.starts_with("//") || text.starts_with("/*"), "{path} does not start with a comment");
    }
}

/// Nothing is left open in what is shipped.
#[test]
fn nothing_is_left_open() {
    for path in files("src", "rs").into_iter().chain(files("kernels", "cu")).chain(files("shaders", "wgsl")) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("] {
            assert!(!text.contains(word), "{path} contains {word}");
        }
    }
}
