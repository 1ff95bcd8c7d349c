//! The launch floor: the only `unsafe` of this backend. Loads the kernels, launches them, and moves bytes.
//!
//! What makes a launch sound, and who sees to it:
//! 1. The kernel's parameters have the layout it was compiled for: each operation has one `repr(C)` struct here in
//!    Rust and one in its header, plus [`Table`]; a test on a card compares every operation with the CPU.
//! 2. Every address covers the elements that the kernel touches: an operation's `validate` fixes the lengths of all
//!    views before anything is queued, and kernels compare with `n` before they read or write.
//! 3. The memory lives until the work is done: cudarc frees it in stream order, and [`super::view::Uses`] waits for
//!    and records events where several streams are in play.
//! 4. Nothing else writes what is read, or reads what is written: Rust's borrows hold while a call queues its work,
//!    and stream order holds afterwards.
#![expect(unsafe_code, reason = "driver calls; each says why it holds")]

use super::{Cuda, item::Table};
use crate::error::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaSlice, sys};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

/// Threads of a CTA in every kernel.
pub(super) const THREADS: u32 = 128;

const FATBINS: [&[u8]; 7] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/quantize.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/dequantize.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/accumulate.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/read_out.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/check.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/pack.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/reduce.fatbin")),
];

/// Whether the driver's library can be loaded; cudarc panics where it is used without.
pub(super) fn driver_present() -> bool {
    // SAFETY: loads and unloads libcuda, whose initializers have no preconditions.
    unsafe { sys::is_culib_present() }
}

/// What to do with a driver error that call `call` returned.
pub(super) fn failed(call: &'static str) -> impl FnOnce(DriverError) -> Error {
    move |e| Error::Backend { backend: "cuda", call, message: e.to_string() }
}

/// The loaded kernels of a context.
pub(super) struct Modules {
    context: Arc<CudaContext>,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, sys::CUfunction>,
}

// SAFETY: module and function handles may be used from any thread that has made the context current, which every
// launch does first; the driver synchronizes its own state.
unsafe impl Send for Modules {}
// SAFETY: as above; nothing here changes after loading.
unsafe impl Sync for Modules {}

impl Modules {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        let mut loaded = Modules { context: context.clone(), modules: Vec::new(), functions: HashMap::new() };
        for image in FATBINS {
            // SAFETY: the image is a whole fatbin, which tells its own length; the context is current.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(failed("cuModuleLoadData"))?;
            loaded.modules.push(module);
            loaded.add_functions(module)?;
        }
        Ok(loaded)
    }

    /// Finds every kernel of a module by the names the module itself lists.
    fn add_functions(&mut self, module: sys::CUmodule) -> Result<()> {
        let mut count = 0;
        // SAFETY: the module is loaded and `count` outlives the call.
        unsafe { sys::cuModuleGetFunctionCount(&mut count, module) }
            .result()
            .map_err(failed("cuModuleGetFunctionCount"))?;
        let mut functions = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: `functions` has room for `count` handles.
        unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module) }
            .result()
            .map_err(failed("cuModuleEnumerateFunctions"))?;
        for function in functions {
            let mut name = std::ptr::null();
            // SAFETY: the function belongs to a loaded module; `name` outlives the call.
            unsafe { sys::cuFuncGetName(&mut name, function) }.result().map_err(failed("cuFuncGetName"))?;
            // SAFETY: the driver returns a string that ends in zero and lives as long as the module.
            let name = unsafe { CStr::from_ptr(name) };
            self.functions.insert(name.to_string_lossy().into_owned(), function);
        }
        Ok(())
    }

    fn function(&self, name: &str) -> Result<sys::CUfunction> {
        self.functions.get(name).copied().ok_or_else(|| Error::Backend {
            backend: "cuda",
            call: "cuModuleGetFunction",
            message: format!("no kernel `{name}`"),
        })
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            for module in self.modules.drain(..) {
                // SAFETY: loaded in this context and unloaded once. Work still queued keeps its code: unloading waits.
                self.context.record_err(unsafe { result::module::unload(module) });
            }
        }
    }
}

impl Cuda {
    /// Launches a kernel that takes its parameters and a table of items.
    pub(super) fn launch_table<P: Copy, const N: usize>(
        &self,
        name: &str,
        ctas: u32,
        parameters: &P,
        table: &Table<N>,
    ) -> Result<()> {
        self.launch_raw(name, ctas, &mut [pointer(parameters), pointer(table)])
    }

    /// Launches a kernel that takes one struct.
    pub(super) fn launch<P: Copy>(&self, name: &str, ctas: u32, parameters: &P) -> Result<()> {
        self.launch_raw(name, ctas, &mut [pointer(parameters)])
    }

    fn launch_raw(&self, name: &str, ctas: u32, parameters: &mut [*mut c_void]) -> Result<()> {
        if ctas == 0 {
            return Ok(());
        }
        let function = self.modules.function(name)?;
        self.stream.context().bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: the four points at the top of this file.
        unsafe {
            result::launch_kernel(function, (ctas, 1, 1), (THREADS, 1, 1), 0, self.stream.cu_stream(), parameters)
        }
        .map_err(failed("cuLaunchKernel"))
    }

    /// Uninitialized device memory for `len` elements.
    fn allocate<T: Pod>(&self, len: usize) -> Result<CudaSlice<T>> {
        let asked = (len as u64).saturating_mul(size_of::<T>() as u64);
        let context = self.stream.context();
        context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        let bytes = usize::try_from(asked).unwrap_or(usize::MAX).max(16); // the driver refuses allocations of nothing
        let allocated = if context.has_async_alloc() {
            // SAFETY: the stream belongs to the current context. The contents are unset: callers fill them.
            unsafe { result::malloc_async(self.stream.cu_stream(), bytes) }
        } else {
            // SAFETY: as above.
            unsafe { result::malloc_sync(bytes) }
        };
        let address = allocated.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory {
                device: self.name.clone(),
                asked,
                free: context.mem_get_info().ok().map(|(free, _)| free as u64),
            },
            _ => failed("cuMemAllocAsync")(e),
        })?;
        // SAFETY: just allocated on this stream, with room for `len` elements; any bytes are a valid `T: Pod`.
        Ok(unsafe { self.stream.upgrade_device_ptr(address, len) })
    }

    /// A buffer of zeros.
    pub(super) fn allocate_zeros<T: Pod>(&self, len: usize) -> Result<CudaSlice<T>> {
        let mut buffer = self.allocate::<T>(len)?;
        let mut uses = super::view::Uses::new(self);
        let mut view = (&mut buffer).into();
        let address = uses.write(&mut view)?;
        self.fill_zeros(address, len * size_of::<T>())?;
        drop(uses);
        Ok(buffer)
    }

    /// A buffer with the host's data.
    pub(super) fn allocate_from<T: Pod>(&self, data: &[T]) -> Result<CudaSlice<T>> {
        let mut buffer = self.allocate::<T>(data.len())?;
        if !data.is_empty() {
            let mut uses = super::view::Uses::new(self);
            let mut view = (&mut buffer).into();
            let address = uses.write(&mut view)?;
            // SAFETY: the buffer was allocated for `data.len()` elements. From pageable memory the driver has taken
            // the bytes when the call returns; from pinned memory it may not have, so the stream is waited for.
            unsafe { result::memcpy_htod_async(address, data, self.stream.cu_stream()) }
                .map_err(failed("cuMemcpyHtoDAsync"))?;
            drop(uses);
            self.synchronize()?;
        }
        Ok(buffer)
    }

    /// Zeroes `bytes` bytes at an address that a [`super::view::Uses`] gave for at least that many.
    pub(super) fn fill_zeros(&self, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.stream.context().bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: the caller's view covers the bytes; points 3 and 4 at the top of this file.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }.map_err(failed("cuMemsetD8Async"))
    }

    /// Copies `bytes` bytes on the device, between addresses of views that cover them.
    pub(super) fn copy_bytes(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.stream.context().bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        // SAFETY: both views cover the bytes; points 3 and 4 at the top of this file.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("cuMemcpyDtoDAsync"))
    }

    /// Copies `len` elements to the host and waits.
    pub(super) fn read_back<T: Pod>(&self, from: u64, len: usize) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); len];
        if len > 0 {
            self.stream.context().bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
            // SAFETY: the caller's view covers `len` elements, any bytes are a valid `T: Pod`, and the wait below
            // comes before `data` is touched or dropped.
            let queued = unsafe { result::memcpy_dtoh_async(&mut data, from, self.stream.cu_stream()) };
            self.synchronize()?;
            queued.map_err(failed("cuMemcpyDtoHAsync"))?;
        } else {
            self.synchronize()?;
        }
        Ok(data)
    }
}

fn pointer<P>(parameters: &P) -> *mut c_void {
    std::ptr::from_ref(parameters).cast_mut().cast()
}
