//! The launch floor: with `view.rs` and `pool.rs`, all `unsafe` of this backend.
//!
//! What every launch owes the driver, and who keeps it:
//!
//! 1. **Arguments are what the kernel declares.** Every entry point takes its parameter struct by value, then a
//!    `Table` by value; the mirrors in Rust are `repr(C)` without padding, and the conformance suite runs every one.
//! 2. **Memory is where the pointers say.** A [`Pointer`] comes from a view of this context ([`Call::read`],
//!    [`Call::write`]), and a [`Checked`](crate::op::Checked) list's lengths agree with the `n` of its items. Kernels stay
//!    within the lengths that their headers state.
//! 3. **Memory lives until the work is done.** A buffer is freed in stream order, and cudarc's events, which a
//!    [`Call`] keeps until everything is queued, make its stream wait for ours where there are several.
//! 4. **What is written is borrowed mutably**, once: [`Call::write`] takes `&mut`.
//! 5. **The function belongs to the stream's context**, for both come from the same [`Cuda`].
//! 6. **Grid and parameters are within the limits**: at most 2^31 - 1 CTAs and 32,764 bytes; lists are divided.

#![expect(unsafe_code, reason = "kernel launches and uninitialised allocations are unsafe in cudarc")]

use super::Cuda;
use super::error::Driver;
use super::item::{Item, Many, One, PARAMS_BYTES, Pointer, many};
use super::memory::{Cell, Reports};
use super::modules::Module;
use super::view::{View, ViewMut};
use crate::error::{Error, Result};
use crate::op::{Element, ElementType};
use bytemuck::Pod;
use cudarc::driver::{CudaSlice, DevicePtrMut, DeviceRepr, DeviceSlice, LaunchConfig, PushKernelArg, SyncOnDrop, sys};

/// Threads of every CTA.
pub(super) const THREADS: u32 = 128;
/// Elements that most kernels give a CTA.
pub(super) const CTA_TILE: u64 = 4096;
/// Shared memory that the driver takes for itself in each CTA, and the unit it is given out in.
const RESERVED: u32 = 1024;
const UNIT: u32 = 128;
/// Shared memory that a CTA may have without asking for it.
const SHARED_UNASKED: u32 = 48 * 1024;
/// CTAs in a grid.
const GRID_MAX: u64 = (1 << 31) - 1;

/// An argument by value.
#[repr(transparent)]
struct ByValue<P>(P);

// SAFETY: plain bytes, laid out as the type says (obligation 1).
unsafe impl<P: Pod> DeviceRepr for ByValue<P> {}

/// Where the slots of some reports lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    base: Pointer,
    len: usize,
}

impl Slots {
    /// No reports.
    pub(super) const NONE: Slots = Slots { base: Pointer::NULL, len: 0 };

    /// A slot; null where it does not exist, which a [`Checked`](crate::op::Checked) list excludes.
    pub(super) fn at(self, slot: usize) -> Pointer {
        if slot < self.len { self.base.byte_add((slot * size_of::<Cell>()) as u64) } else { Pointer::NULL }
    }
}

/// The element type in a kernel's name.
pub(super) const fn suffix<T: Element>() -> &'static str {
    match T::TYPE {
        ElementType::F32 => "f32",
        ElementType::F16 => "f16",
        ElementType::Bf16 => "bf16",
    }
}

/// The call of one operation: turns views into pointers, launches, and when dropped records what was read and
/// written. Build it before the first launch and keep it past the last (obligation 3).
pub(super) struct Call<'a> {
    cuda: &'a Cuda,
    guards: Vec<SyncOnDrop<'a>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(cuda: &'a Cuda) -> Result<Self> {
        // Also reports what failed where no error could be returned, such as in a drop.
        cuda.stream().context().bind_to_thread().during("cuCtxSetCurrent")?;
        Ok(Call { cuda, guards: Vec::new() })
    }

    /// Memory that the launches read.
    pub(super) fn read<T>(&mut self, view: View<'a, T>) -> Result<Pointer> {
        self.cuda.holds(view.stream())?;
        let (address, guard) = view.native().view_ptr(self.cuda.stream());
        self.guards.push(guard);
        Ok(Pointer::new(address))
    }

    /// Memory that the launches write, and may read.
    pub(super) fn write<T>(&mut self, view: &'a mut ViewMut<'_, T>) -> Result<Pointer> {
        self.cuda.holds(view.stream())?;
        let (address, guard) = view.device_ptr_mut(self.cuda.stream());
        self.guards.push(guard);
        Ok(Pointer::new(address))
    }

    /// Reports that the launches add to.
    pub(super) fn reports(&mut self, reports: &'a mut Reports) -> Result<Slots> {
        self.cuda.holds(reports.0.stream())?;
        let len = reports.0.len();
        let (address, guard) = reports.0.device_ptr_mut(self.cuda.stream());
        self.guards.push(guard);
        Ok(Slots { base: Pointer::new(address), len })
    }

    /// Reports that the launches read.
    pub(super) fn guards(&mut self, reports: &'a Reports) -> Result<Slots> {
        let len = reports.0.len();
        Ok(Slots { base: self.read(View::from(&reports.0))?, len })
    }

    /// The backend object that is called.
    pub(super) fn cuda(&self) -> &'a Cuda {
        self.cuda
    }

    /// Launches a kernel over a list of items: `<kernel>_one` for one, `<kernel>_many` for tables of as many as fit.
    ///
    /// `ctas`: CTAs that an item takes; items that take none are left out.
    pub(super) fn launch<P: Pod, I: Item>(
        &self,
        module: Module,
        kernel: &str,
        params: &P,
        items: &[I],
        ctas: impl Fn(&I) -> u64,
        shared: u32,
    ) -> Result<()> {
        let mut rows: Vec<I> = Vec::with_capacity(items.len().min(many::<I>()));
        let mut total = 0;
        for item in items {
            let own = ctas(item);
            if own == 0 {
                continue;
            }
            if own > GRID_MAX {
                return Err(Error::Limit { what: "CTAs of a launch", got: own, limit: GRID_MAX });
            }
            if rows.len() == many::<I>() || total + own > GRID_MAX {
                self.submit(module, kernel, params, &rows, total, shared)?;
                rows.clear();
                total = 0;
            }
            let mut row = *item;
            row.set_begin(total as u32);
            rows.push(row);
            total += own;
        }
        if rows.is_empty() { Ok(()) } else { self.submit(module, kernel, params, &rows, total, shared) }
    }

    /// One CTA for each 4096 elements of each item.
    pub(super) fn launch_tiles<P: Pod, I: Item>(
        &self,
        module: Module,
        kernel: &str,
        params: &P,
        items: &[I],
    ) -> Result<()> {
        self.launch(module, kernel, params, items, |item| item.n().div_ceil(CTA_TILE), 0)
    }

    /// The same for kernels that write several times what they read: with all CTAs that fit on an SM, the places that are
    /// written at a time lie too far apart for the memory. So shared memory that no CTA uses keeps others away: 4 run at
    /// once, or 9 with elements of 16 bits, which take longer to make (measured on an H200: docs/kernel-log.md).
    pub(super) fn launch_writers<T: Element, P: Pod, I: Item>(
        &self,
        module: Module,
        kernel: &str,
        params: &P,
        items: &[I],
    ) -> Result<()> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR;
        let whole = self.cuda.stream().context().attribute(attribute).during("cuDeviceGetAttribute")? as u32;
        let ctas = if T::TYPE == ElementType::F32 { 4 } else { 9 };
        let shared = (whole / ctas / UNIT * UNIT).saturating_sub(RESERVED);
        self.launch(module, kernel, params, items, |item| item.n().div_ceil(CTA_TILE), shared)
    }

    fn submit<P: Pod, I: Item>(
        &self,
        module: Module,
        kernel: &str,
        params: &P,
        rows: &[I],
        ctas: u64,
        shared: u32,
    ) -> Result<()> {
        let config =
            LaunchConfig { grid_dim: (ctas as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: shared };
        if let [row] = rows {
            self.start(module, &format!("{kernel}_one"), params, &One(*row), config)
        } else {
            self.start(module, &format!("{kernel}_many"), params, &Many::new(rows, ctas), config)
        }
    }

    fn start<P: Pod, T: DeviceRepr>(
        &self,
        module: Module,
        name: &str,
        params: &P,
        table: &T,
        config: LaunchConfig,
    ) -> Result<()> {
        const { assert!(size_of::<P>() <= PARAMS_BYTES) };
        let function = self.cuda.kernels().function(module, name)?;
        if config.shared_mem_bytes > SHARED_UNASKED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let asked = config.shared_mem_bytes as i32;
            function.set_attribute(attribute, asked).during("cuFuncSetAttribute")?;
        }
        let params = ByValue(*params);
        let mut launch = self.cuda.stream().launch_builder(&function);
        launch.arg(&params).arg(table);
        // SAFETY: obligations 1 to 6 above.
        unsafe { launch.launch(config) }.during("cuLaunchKernel")?;
        Ok(())
    }
}

/// An uninitialised buffer; an empty one takes a byte.
pub(super) fn allocate<T: Pod>(cuda: &Cuda, len: usize) -> Result<CudaSlice<T>> {
    let asked = (len as u64).saturating_mul(size_of::<T>() as u64);
    let stream = cuda.stream();
    if asked > stream.context().total_mem().during("cuDeviceTotalMem")? as u64 {
        return Err(cuda.out_of_memory(asked));
    }
    // SAFETY: nothing reads the memory before it is written: `zeros` and `upload` fill it at once, scratch is written
    // by the kernels before they read it.
    let bytes = unsafe { stream.alloc::<u8>((asked as usize).max(1)) }.map_err(|e| cuda.allocation(e, asked))?;
    let address = bytes.leak();
    // SAFETY: the allocation has `len * size_of::<T>()` bytes and is aligned to 256; any bytes are a valid `T: Pod`.
    Ok(unsafe { stream.upgrade_device_ptr(address, len) })
}

/// Whether host memory is pinned, so that a copy from it may go on after the call that queued it. From other memory the
/// driver has taken the bytes when the call returns.
pub(super) fn pinned<T>(data: &[T]) -> bool {
    let mut kind = 0u32;
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    // SAFETY: the attribute is written as 32 bits, and the address is only looked up.
    let found =
        unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, data.as_ptr() as sys::CUdeviceptr) };
    found == sys::CUresult::CUDA_SUCCESS && kind == sys::CUmemorytype::CU_MEMORYTYPE_HOST as u32
}

/// Whether the driver's library can be loaded; cudarc would panic without it.
pub(super) fn driver_present() -> bool {
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    // SAFETY: loading NVIDIA's driver library runs its initialisers, which have no preconditions.
    names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
}
