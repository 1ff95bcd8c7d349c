//! The launch floor: with `order.rs`, `view.rs` and `pool.rs`, all `unsafe` of this backend.
//!
//! What every launch owes the driver, and how each of these is kept:
//!
//! 1. **Arguments are what the kernel declares.** Every entry point takes its parameter struct by value, then a
//!    `Table` by value; the mirrors in Rust are `repr(C)` without padding, and the conformance suite runs every one.
//! 2. **Memory is where the pointers say.** A [`Pointer`] comes from a view of this context ([`Call::read`],
//!    [`Call::write`]), and a [`Checked`](crate::op::Checked) list's lengths agree with the `n` of its items. Kernels stay
//!    within the lengths that their headers state.
//! 3. **What a launch finds is what was queued before, by whatever thread.** Every buffer has a home: the stream that
//!    it was allocated on and is freed on. A [`Call`] on that stream needs nothing more. One on another stream first
//!    puts its own stream behind the home ([`Joint`]), and, when it is dropped, the home behind its own stream. So all
//!    uses of a buffer through a [`Cuda`] lie in the order of its home: every reader is waited for, whatever handle,
//!    stream or context object it came through, and whether these still exist. Work of others is seen where it is on
//!    the home, or where cudarc's events tell of it: they are waited for and recorded as cudarc would, and the one
//!    event that cudarc keeps of reads is recorded behind the read that it stood for until then.
//! 4. **Nothing is queued on a stream that is another one on every thread.** For it stands the context's null stream,
//!    which the driver orders with the per-thread streams of all threads ([`queue`](super::order::queue)).
//! 5. **Memory lives until the work is done.** A buffer is freed in the order of its home, and the home is behind all
//!    uses (3). It is freed with its context bound ([`Buffer`](super::Buffer)). Whoever drops a `CudaSlice` itself on
//!    a thread without the context leaks it: cudarc does not bind it.
//! 6. **Scratch memory is used in one order.** It belongs to a handle, which has one stream, and is locked while a call
//!    queues its work.
//! 7. **What is written is borrowed mutably**, once: [`Call::write`] takes `&mut`.
//! 8. **The function belongs to the stream's context**, for both come from the same [`Cuda`]; the context is bound to
//!    the calling thread when a call begins. Contexts are compared by the driver's handle: two objects of one primary
//!    context are one context, a second context of the card is [`Error::WrongDevice`].
//! 9. **Grid and parameters are within the limits**: at most 2^31 - 1 CTAs and 32,764 bytes; lists are divided.
//! 10. **A capture takes nothing that it can not replay**: what loads, allocates or waits asks first whether the stream
//!     is being captured, and is [`Error::Capture`] then, before it reaches the driver. Homes are not joined within a
//!     capture: when a graph is replayed is its owner's to order.
//! 11. **An error belongs to the call that it is returned by.** What cudarc has noted while something was dropped is
//!     taken away when a call begins, and is returned by [`Cuda::synchronize`] alone.
//!
//! With one stream this costs no call of the driver beside those that queue the work, but for candle's default device,
//! whose calls ask whether the thread's stream is being captured. A call that uses another stream's buffers asks that
//! twice and has two events to record and to wait for, for every such stream.

#![expect(unsafe_code, reason = "kernel launches and uninitialised allocations are unsafe in cudarc")]

use super::error::Driver;
use super::item::{Item, Many, One, PARAMS_BYTES, Pointer, many};
use super::modules::Module;
use super::order::{bind, event, is_capturing, queue, record, wait, wait_for};
use super::reports::{Cell, Reports};
use super::view::{View, ViewMut};
use super::{Buffer, Cuda};
use crate::error::{Error, Result};
use crate::op::{Element, ElementType};
use bytemuck::Pod;
use cudarc::driver::sys::{self, CUevent, CUstream};
use cudarc::driver::{CudaStream, DevicePtrMut, DeviceRepr, DeviceSlice, LaunchConfig, result};
use std::sync::Arc;

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

/// The call of one operation: turns views into pointers, launches, and when dropped puts what comes later behind it.
/// Build it before the first launch and keep it past the last (obligation 3).
pub(super) struct Call<'a> {
    cuda: &'a Cuda,
    /// The handle's stream, or the thread's own while that is being captured.
    stream: &'a CudaStream,
    /// Whether it is being captured, once somebody asked.
    captured: Option<bool>,
    /// Whether cudarc orders uses by events in the context of some buffer.
    noted: bool,
    /// These events, of what is read and of what is written.
    reads: Vec<CUevent>,
    writes: Vec<CUevent>,
    /// Other streams whose buffers are used.
    homes: Vec<Arc<CudaStream>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(cuda: &'a Cuda) -> Result<Self> {
        let context = cuda.stream().context();
        cuda.kernels().take_earlier(context);
        bind(context).during("cuCtxSetCurrent")?;
        let (stream, captured) = match cuda.per_thread() {
            Some(own) if is_capturing(own.cu_stream())? => (own, Some(true)),
            Some(_) => (cuda.stream(), Some(false)),
            None => (cuda.stream(), None),
        };
        let (reads, writes, homes) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Call { cuda, stream, captured, noted: false, reads, writes, homes })
    }

    /// Memory that the launches read.
    pub(super) fn read<T>(&mut self, view: View<'a, T>) -> Result<Pointer> {
        self.enter(view.stream())?;
        let (address, note) = view.native().view_ptr(self.stream);
        let event = self.waited(event(note))?;
        self.reads.extend(event);
        Ok(Pointer::new(address))
    }

    /// Memory that the launches write, and may read.
    pub(super) fn write<T>(&mut self, view: &'a mut ViewMut<'_, T>) -> Result<Pointer> {
        self.enter(view.stream())?;
        let (address, note) = view.device_ptr_mut(self.stream);
        let event = self.waited(event(note))?;
        self.writes.extend(event);
        Ok(Pointer::new(address))
    }

    /// Reports that the launches add to.
    pub(super) fn reports(&mut self, reports: &'a mut Reports) -> Result<Slots> {
        self.enter(reports.0.stream())?;
        let len = reports.0.len();
        let (address, note) = reports.0.device_ptr_mut(self.stream);
        let event = self.waited(event(note))?;
        self.writes.extend(event);
        Ok(Slots { base: Pointer::new(address), len })
    }

    /// The words of a state that the launches follow; null where they follow none.
    pub(super) fn state(&mut self, state: Option<View<'a, u32>>) -> Result<Pointer> {
        state.map_or(Ok(Pointer::NULL), |view| self.read(view))
    }

    /// Reports that the launches read.
    pub(super) fn guards(&mut self, reports: &'a Reports) -> Result<Slots> {
        let len = reports.0.len();
        Ok(Slots { base: self.read(View::from(&reports.0))?, len })
    }

    /// Puts this call behind everything on the stream that a buffer lives on (obligation 3).
    fn enter(&mut self, home: &Arc<CudaStream>) -> Result<()> {
        self.cuda.holds(home)?;
        if home.context().is_managing_stream_synchronization() {
            if self.captured()? {
                let advice = "turn the context's event tracking off before it: a graph can not wait for outside events";
                return Err(Error::Capture { call: "an operation on buffers with events", advice });
            }
            self.noted = true;
        }
        let (own, of) = (queue(self.stream), queue(home));
        if own == of || self.homes.iter().any(|home| queue(home) == of) || self.captured()? {
            return Ok(());
        }
        if is_capturing(of)? {
            let advice =
                "end the capture first: a buffer that lives on the stream being captured is used on another one";
            return Err(Error::Capture { call: "an operation on another stream's buffer", advice });
        }
        self.cuda.kernels().joint().put_behind(own, of).during("cuStreamWaitEvent")?;
        self.homes.push(home.clone());
        Ok(())
    }

    /// Passes on a buffer's event, unless cudarc has noted that it could not wait for it.
    fn waited(&self, event: Option<CUevent>) -> Result<Option<CUevent>> {
        if self.noted {
            self.stream.context().check_err().during("cuStreamWaitEvent")?;
        }
        Ok(event)
    }

    /// Whether the stream is being captured.
    fn captured(&mut self) -> Result<bool> {
        match self.captured {
            Some(known) => Ok(known),
            None => Ok(*self.captured.insert(is_capturing(self.stream.cu_stream())?)),
        }
    }

    /// The stream that this call's work is queued on.
    pub(super) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    /// Ends the call and waits for its stream.
    pub(super) fn wait(self) -> Result<()> {
        let stream = self.stream;
        drop(self);
        wait(stream.cu_stream()).during("cuStreamSynchronize")
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
        let function = self.cuda.kernels().function(module, name, || is_capturing(self.stream()))?;
        if config.shared_mem_bytes > SHARED_UNASKED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let asked = config.shared_mem_bytes as i32;
            function.set_attribute(attribute, asked).during("cuFuncSetAttribute")?;
        }
        let params = ByValue(*params);
        let mut arguments = [(&raw const params).cast_mut().cast(), std::ptr::from_ref(table).cast_mut().cast()];
        let (grid, block, shared) = (config.grid_dim, config.block_dim, config.shared_mem_bytes);
        let kernel = function.cu_function();
        // SAFETY: obligations 1 to 10 above; the driver has copied the arguments when it returns.
        unsafe { result::launch_kernel(kernel, grid, block, shared, self.stream(), &mut arguments) }
            .during("cuLaunchKernel")
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let stream = self.stream();
        let mut done = Ok(());
        if self.noted || self.stream.context().is_managing_stream_synchronization() {
            for event in &self.reads {
                // cudarc keeps one event of reads: it must stand for the read before this one too.
                done = done.and(wait_for(stream, *event)).and(record(*event, stream));
            }
            for event in &self.writes {
                done = done.and(record(*event, stream));
            }
        }
        for home in &self.homes {
            done = done.and(self.cuda.kernels().joint().put_behind(queue(home), stream));
        }
        if done.is_err() {
            // Nothing that comes later would wait for this call, so it is waited for here. A context that has lost its
            // work to a fault gives the same error for every call after it.
            let _ = wait(stream);
        }
    }
}

/// An uninitialised buffer; an empty one takes a byte.
pub(super) fn allocate<T: Pod>(cuda: &Cuda, len: usize) -> Result<Buffer<T>> {
    let asked = (len as u64).saturating_mul(size_of::<T>() as u64);
    let stream = cuda.stream();
    let context = stream.context();
    cuda.kernels().take_earlier(context);
    bind(context).during("cuCtxSetCurrent")?;
    cuda.not_captured("an allocation", "make buffers and reports before it")?;
    // SAFETY: the device is the context's.
    let total = unsafe { result::device::total_mem(context.cu_device()) }.during("cuDeviceTotalMem")?;
    if asked > total as u64 {
        return Err(cuda.out_of_memory(asked));
    }
    let bytes = (asked as usize).max(1);
    // Nothing reads the memory before it is written: `zeros` and `upload` fill it at once, scratch is written by the
    // kernels before they read it.
    let address = if context.has_async_alloc() {
        // SAFETY: the stream lives in the handle, and the memory is used in its order (obligation 3).
        unsafe { result::malloc_async(stream.cu_stream(), bytes) }
    } else {
        // SAFETY: at least one byte, in the context that was bound.
        unsafe { result::malloc_sync(bytes) }
    }
    .map_err(|e| cuda.allocation(e, asked))?;
    // SAFETY: the allocation has `len * size_of::<T>()` bytes and is aligned to 256; any bytes are a valid `T: Pod`.
    Ok(Buffer::from(unsafe { stream.upgrade_device_ptr(address, len) }))
}

/// Queues a copy from the host. From pageable memory the driver has taken the bytes when this returns; the rest is for
/// the caller to wait for ([`pinned`]).
pub(super) fn copy_from_host(call: &Call<'_>, from: &[u8], to: Pointer) -> Result<()> {
    // SAFETY: `to` is a view's of this call, of as many bytes (obligations 2 and 3).
    unsafe { result::memcpy_htod_async(to.address(), from, call.stream()) }.during("cuMemcpyHtoDAsync")
}

/// Copies to the host, and waits.
pub(super) fn copy_to_host(call: Call<'_>, from: Pointer, to: &mut [u8]) -> Result<()> {
    // SAFETY: `from` is a view's of this call, of as many bytes (obligations 2 and 3); `to` is borrowed until the stream
    // was waited for below.
    let queued = unsafe { result::memcpy_dtoh_async(to, from.address(), call.stream()) }.during("cuMemcpyDtoHAsync");
    let waited = call.wait();
    queued.and(waited)
}

/// Queues a copy within the card.
pub(super) fn copy_within(call: &Call<'_>, from: Pointer, to: Pointer, bytes: usize) -> Result<()> {
    // SAFETY: both are views' of this call, of `bytes` bytes, and `to` is borrowed mutably (obligations 2, 3 and 7).
    unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, call.stream()) }.during("cuMemcpyDtoDAsync")
}

/// Queues a fill with zeros.
pub(super) fn fill_with_zeros(call: &Call<'_>, at: Pointer, bytes: usize) -> Result<()> {
    // SAFETY: a view's of this call, of `bytes` bytes, borrowed mutably (obligations 2, 3 and 7).
    unsafe { result::memset_d8_async(at.address(), 0, bytes, call.stream()) }.during("cuMemsetD8Async")
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
