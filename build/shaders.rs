//! Flattens shaders/ and validates the variants of each with naga, so that a bad shader ends the build and never a run.
//!
//! What run time needs goes to OUT_DIR/shaders.rs: the flattened text (constants first, `#if` and `#for` still in
//! it), the access of every binding, the workgroup size, and each struct of parameters as a Rust struct, read from the
//! WGSL one.

use crate::constants;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

#[path = "../src/webgpu/expand.rs"]
#[expect(dead_code, reason = "run time uses more of it")]
mod expand;
#[path = "variants.rs"]
mod variants;

/// A line of flattened text with the file and line it came from.
type Line = (String, String, usize);

pub(crate) fn build() {
    for path in ["shaders", "build/shaders.rs", "build/variants.rs", "src/webgpu/expand.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=TRIGRAD_ALL_SHADERS");
    let mut generated = String::new();
    let mut structs = BTreeMap::new();
    for (name, axes) in variants::SHADERS {
        let lines = flatten(name);
        let mut interface = None;
        for flags in combinations(axes) {
            let found = validate(name, &lines, &flags, &mut structs);
            match &interface {
                None => interface = Some(found),
                Some(first) if *first == found => {}
                Some(_) => fail(&format!(
                    "shaders/{name}.wgsl: bindings, parameters or the workgroup size differ between variants, here {flags:?}; they must be the same in all"
                )),
            }
        }
        let Some(Interface { read_only, params, workgroup }) = interface else {
            fail(&format!("shaders/{name}.wgsl has no variant"))
        };
        let text: String = lines.iter().map(|(text, ..)| format!("{text}\n")).collect();
        let constant = name.to_uppercase();
        let axes: String = axes.iter().map(|axis| format!("&{axis:?}, ")).collect();
        let _ = writeln!(
            generated,
            "/// shaders/{name}.wgsl.\npub(crate) static {constant}: Shader<{params}> = Shader::new(Program {{ name: {name:?}, source: {text:?}, axes: &[{axes}], read_only: &{read_only:?}, params: size_of::<{params}>() as u64, workgroup: {workgroup} }});"
        );
    }
    let programs: String =
        variants::SHADERS.iter().map(|(name, _)| format!("&{}.program, ", name.to_uppercase())).collect();
    let _ = writeln!(generated, "/// All of them.\npub(crate) static PROGRAMS: &[&Program] = &[{programs}];");
    for (name, fields) in structs {
        let _ = write!(
            generated,
            "/// What shaders/ declares by this name.\n#[repr(C)]\n#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]\npub(crate) struct {name} {{\n{fields}}}\n"
        );
    }
    let out = std::env::var("OUT_DIR").unwrap_or_else(|_| fail("OUT_DIR is not set: run this through cargo"));
    let path = Path::new(&out).join("shaders.rs");
    if let Err(e) = std::fs::write(&path, generated) {
        fail(&format!("cannot write {}: {e}", path.display()));
    }
}

/// The text of a shader with its includes in place and the shared constants before it.
fn flatten(name: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = constants::all()
        .into_iter()
        .map(|(name, value)| (format!("const {name}: u32 = {value}u;"), "src/numerics/constants.rs".to_owned(), 0))
        .collect();
    include(&format!("shaders/{name}.wgsl"), &mut BTreeSet::new(), &mut lines);
    lines
}

fn include(path: &str, seen: &mut BTreeSet<String>, lines: &mut Vec<Line>) {
    if !seen.insert(path.to_owned()) {
        return;
    }
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("cannot read {path}: {e}")));
    for (at, line) in text.lines().enumerate() {
        match line.strip_prefix("#include ") {
            Some(shared) => include(&format!("shaders/shared/{}.wgsl", shared.trim()), seen, lines),
            None => {
                // Comments explain the file to its readers and mean nothing to a driver.
                let code = line.split("//").next().unwrap_or("").trim_end();
                if !code.is_empty() {
                    lines.push((code.to_owned(), path.to_owned(), at + 1));
                }
            }
        }
    }
}

/// The combinations of flags that are validated: each flag with the other axes at their first choice, or, where
/// `TRIGRAD_ALL_SHADERS` is set, every combination, which takes minutes in an unoptimized build script.
fn combinations(axes: &[variants::Axis]) -> BTreeSet<Vec<&'static str>> {
    let base: Vec<&'static str> = axes.iter().filter_map(|axis| axis.first().copied()).collect();
    let mut all = BTreeSet::from([base.clone()]);
    let every = std::env::var_os("TRIGRAD_ALL_SHADERS").is_some();
    for (i, axis) in axes.iter().enumerate() {
        let from: Vec<_> = if every { all.iter().cloned().collect() } else { vec![base.clone()] };
        for flags in from {
            for flag in *axis {
                let mut flags = flags.clone();
                flags[i] = flag;
                all.insert(flags);
            }
        }
    }
    all.into_iter().map(|flags| flags.into_iter().filter(|f| !f.is_empty()).collect()).collect()
}

/// What the host must know of a shader.
#[derive(PartialEq)]
struct Interface {
    /// Which storage bindings are read-only.
    read_only: Vec<bool>,
    /// The struct of its parameters.
    params: String,
    workgroup: u32,
}

/// Parses and validates one variant; adds the structs of its parameters.
fn validate(name: &str, lines: &[Line], flags: &[&str], structs: &mut BTreeMap<String, String>) -> Interface {
    let texts: Vec<&str> = lines.iter().map(|(text, ..)| text.as_str()).collect();
    let at = |origin: usize| lines.get(origin).map_or_else(String::new, |(_, file, line)| format!("{file}:{line}"));
    let expanded = expand::expand(&texts, flags).unwrap_or_else(|(o, e)| fail(&format!("{}: {e}", at(o))));
    let text: String = expanded.iter().map(|(line, _)| format!("{line}\n")).collect();
    let place = |line: usize| {
        let expanded = expanded.get(line.saturating_sub(1));
        format!(
            "{} (variant {flags:?}): {}",
            expanded.map_or_else(String::new, |(_, o)| at(*o)),
            expanded.map_or("", |(t, _)| t)
        )
    };
    let module = match naga::front::wgsl::parse_str(&text) {
        Ok(module) => module,
        Err(e) => {
            let line = e.location(&text).map_or(0, |l| l.line_number as usize);
            fail(&format!("{}\n{}\n{}", place(line), e.message(), e.emit_to_string(&text)))
        }
    };
    let mut capabilities = naga::valid::Capabilities::empty();
    if flags.contains(&"INT64") {
        capabilities |= naga::valid::Capabilities::SHADER_INT64;
    }
    if flags.contains(&"SUBGROUP") {
        capabilities |= naga::valid::Capabilities::SUBGROUP;
    }
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    if let Err(e) = validator.validate(&module) {
        let line = e.location(&text).map_or(0, |l| l.line_number as usize);
        fail(&format!("{}\n{}", place(line), e.emit_to_string(&text)));
    }
    let (mut read_only, mut params) = (Vec::new(), None);
    for (_, variable) in module.global_variables.iter() {
        match (&variable.binding, variable.space) {
            (Some(binding), naga::AddressSpace::Storage { access }) => {
                read_only.push((binding.binding, !access.contains(naga::StorageAccess::STORE)));
            }
            (Some(_), naga::AddressSpace::Uniform) => {
                params = Some(rust(name, &module, variable.ty, structs));
            }
            _ => {}
        }
    }
    read_only.sort_unstable();
    if read_only.iter().enumerate().any(|(i, (binding, _))| *binding != i as u32 + 1) {
        fail(&format!("shaders/{name}.wgsl: storage bindings must be numbered from 1 on, without gaps"));
    }
    let Some(entry) = module.entry_points.first() else { fail(&format!("shaders/{name}.wgsl has no entry point")) };
    let Some(params) = params else { fail(&format!("shaders/{name}.wgsl has no parameters")) };
    Interface { read_only: read_only.into_iter().map(|(_, r)| r).collect(), params, workgroup: entry.workgroup_size[0] }
}

/// The name of a type in Rust; the fields of a struct, those of structs in it, and the gaps that WGSL leaves, are noted.
fn rust(
    shader: &str,
    module: &naga::Module,
    ty: naga::Handle<naga::Type>,
    structs: &mut BTreeMap<String, String>,
) -> String {
    let (naga::TypeInner::Struct { members, span }, Some(name)) = (&module.types[ty].inner, &module.types[ty].name)
    else {
        return "u32".to_owned();
    };
    if *span > 256 {
        fail(&format!("shaders/{shader}.wgsl: {name} takes {span} bytes; a dispatch has 256 for its parameters"));
    }
    let (mut fields, mut at) = (String::new(), 0);
    let gap = |fields: &mut String, at: u32, to: u32| {
        for word in (at..to).step_by(4) {
            let _ = writeln!(fields, "    pub(crate) gap{word}: u32,");
        }
    };
    for member in members {
        gap(&mut fields, at, member.offset);
        let inner = rust(shader, module, member.ty, structs);
        let _ = writeln!(fields, "    pub(crate) {}: {inner},", member.name.clone().unwrap_or_default());
        at = member.offset + module.types[member.ty].inner.size(module.to_ctx());
    }
    gap(&mut fields, at, *span);
    if structs.get(name).is_some_and(|known| *known != fields) {
        fail(&format!("shaders/{shader}.wgsl: struct {name} has other fields than in another shader"));
    }
    structs.insert(name.clone(), fields);
    name.clone()
}

#[expect(clippy::print_stderr, reason = "how a build script says why it fails")]
fn fail(message: &str) -> ! {
    eprintln!("shader build failed: {message}");
    std::process::exit(1)
}
