//! The kernels: fatbins compiled by `build/kernels.rs`, loaded when first needed, once a context.

use super::error::Driver;
use crate::error::Result;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A file in `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Module {
    Quantize,
    Dequantize,
    Accumulate,
    ReadOut,
    Check,
    Pack,
    Reduce,
    Update,
}

macro_rules! fatbin {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin"))
    };
}

impl Module {
    fn fatbin(self) -> &'static [u8] {
        match self {
            Module::Quantize => fatbin!("quantize"),
            Module::Dequantize => fatbin!("dequantize"),
            Module::Accumulate => fatbin!("accumulate"),
            Module::ReadOut => fatbin!("read_out"),
            Module::Check => fatbin!("check"),
            Module::Pack => fatbin!("pack"),
            Module::Reduce => fatbin!("reduce"),
            Module::Update => fatbin!("update"),
        }
    }
}

/// What a context has loaded.
#[derive(Debug)]
pub(super) struct Kernels {
    context: Arc<CudaContext>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<Module, Arc<CudaModule>>,
    functions: HashMap<String, CudaFunction>,
}

/// Every context that some backend object uses.
static CONTEXTS: Mutex<Vec<Weak<Kernels>>> = Mutex::new(Vec::new());

impl Kernels {
    /// The kernels of a context, shared by all backend objects on it.
    pub(super) fn of(context: &Arc<CudaContext>) -> Arc<Self> {
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.retain(|kernels| kernels.strong_count() > 0);
        if let Some(known) = contexts.iter().filter_map(Weak::upgrade).find(|kernels| kernels.context == *context) {
            return known;
        }
        let new = Arc::new(Kernels { context: context.clone(), loaded: Mutex::default() });
        contexts.push(Arc::downgrade(&new));
        new
    }

    /// A kernel by the name of its entry point.
    pub(super) fn function(&self, module: Module, name: &str) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(name) {
            return Ok(function.clone());
        }
        let code = match loaded.modules.get(&module) {
            Some(code) => code.clone(),
            None => {
                let image = Ptx::from_binary(module.fatbin().to_vec());
                let code = self.context.load_module(image).during("cuModuleLoadData")?;
                loaded.modules.insert(module, code.clone());
                code
            }
        };
        let function = code.load_function(name).during("cuModuleGetFunction")?;
        loaded.functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }
}
