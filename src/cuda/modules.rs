//! The kernels: fatbins compiled by `build/kernels.rs`, loaded when first needed, once a context.

use super::error::Driver;
use super::order::Joint;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError};
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
    Clear,
    Pack,
    Reduce,
    State,
    Update,
    UpdateAdamw8bit,
    Window,
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
            Module::Clear => fatbin!("clear"),
            Module::Pack => fatbin!("pack"),
            Module::Reduce => fatbin!("reduce"),
            Module::State => fatbin!("state"),
            Module::Update => fatbin!("update"),
            Module::UpdateAdamw8bit => fatbin!("update_adamw_8bit"),
            Module::Window => fatbin!("window"),
        }
    }
}

/// What all backend objects of a context share.
#[derive(Debug)]
pub(super) struct Kernels {
    context: Arc<CudaContext>,
    loaded: Mutex<Loaded>,
    joint: Joint,
    /// An error that was noted while something was dropped.
    earlier: Mutex<Option<DriverError>>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<Module, Arc<CudaModule>>,
    functions: HashMap<String, CudaFunction>,
}

/// A context that some backend object uses or has used.
enum Known {
    /// A card's primary context: kept, for loading kernels anew takes longer than most calls.
    Kept(Arc<Kernels>),
    /// Another one, which its owner destroys.
    Lent(Weak<Kernels>),
}

impl Known {
    fn kernels(&self) -> Option<Arc<Kernels>> {
        match self {
            Known::Kept(kernels) => Some(kernels.clone()),
            Known::Lent(kernels) => kernels.upgrade(),
        }
    }
}

static CONTEXTS: Mutex<Vec<Known>> = Mutex::new(Vec::new());

impl Kernels {
    /// The kernels of a context, shared by all backend objects on it.
    pub(super) fn of(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.retain(|known| known.kernels().is_some());
        if let Some(known) = contexts.iter().filter_map(Known::kernels).find(|kernels| kernels.context == *context) {
            return Ok(known);
        }
        let (context, joint) = (context.clone(), Joint::new(context)?);
        let new = Arc::new(Kernels { context, loaded: Mutex::default(), joint, earlier: Mutex::default() });
        contexts.push(if new.context.is_primary() {
            Known::Kept(new.clone())
        } else {
            Known::Lent(Arc::downgrade(&new))
        });
        Ok(new)
    }

    /// A kernel by the name of its entry point. One that has to be loaded first is refused where it would be captured.
    pub(super) fn function(
        &self,
        module: Module,
        name: &str,
        captured: impl FnOnce() -> Result<bool>,
    ) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(name) {
            return Ok(function.clone());
        }
        if captured()? {
            let advice = "run the same call once before it: its kernels are loaded on first use";
            return Err(Error::Capture { call: "an operation that has not run yet", advice });
        }
        self.take_earlier(&self.context);
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

    /// What puts one stream of the context behind another.
    pub(super) fn joint(&self) -> &Joint {
        &self.joint
    }

    /// Takes away what cudarc has noted in a context object, for [`Cuda::synchronize`](super::Cuda::synchronize).
    pub(super) fn take_earlier(&self, context: &CudaContext) {
        self.note(context.check_err());
    }

    /// Keeps an error that is not the present call's.
    pub(super) fn note(&self, earlier: Result<(), DriverError>) {
        if let Err(e) = earlier {
            *self.earlier.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
        }
    }

    /// The last of what was taken away, once.
    pub(super) fn earlier(&self) -> Result<()> {
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner).take();
        earlier.map_or(Ok(()), Err).during("cuMemFreeAsync, or another call while something was dropped,")
    }
}
