//! A shader as the build script hands it over.

use std::marker::PhantomData;

/// A flattened shader, validated at build time.
#[derive(Debug)]
pub(crate) struct Program {
    /// The file's name in shaders/.
    pub(crate) name: &'static str,
    /// Its text, `#if` and `#for` still in it.
    pub(crate) source: &'static str,
    /// Its variants: one flag of each axis, the empty one left out.
    pub(crate) axes: &'static [&'static [&'static str]],
    /// Whether storage binding 1, 2, ... is only read.
    pub(crate) read_only: &'static [bool],
    /// Bytes of its parameters.
    pub(crate) params: u64,
    /// Threads a workgroup.
    pub(crate) workgroup: u32,
}

/// A program with the type of its parameters.
#[derive(Debug)]
pub(crate) struct Shader<P> {
    pub(crate) program: Program,
    params: PhantomData<fn(P)>,
}

impl<P> Shader<P> {
    pub(crate) const fn new(program: Program) -> Self {
        Shader { program, params: PhantomData }
    }
}
