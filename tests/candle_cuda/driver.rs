//! Counts what reaches the driver, from candle and from this crate alike. With candle, cudarc is linked to libcuda by
//! name, so in this test the definitions below take the place of the driver's: they count, and pass on.

#![expect(unsafe_code, reason = "the driver's functions, under their own names")]

use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUresult, CUstream};
use libloading::Library;
use std::ffi::{c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What was asked of the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes copied from the card to the host.
    pub(crate) to_host: u64,
    /// Bytes copied from the host to the card.
    pub(crate) to_card: u64,
    /// Bytes copied within the card.
    pub(crate) within: u64,
    /// Kernels launched.
    pub(crate) launches: u64,
    /// The largest allocation on the card, in bytes.
    pub(crate) largest: u64,
}

static TO_HOST: AtomicU64 = AtomicU64::new(0);
static TO_CARD: AtomicU64 = AtomicU64::new(0);
static WITHIN: AtomicU64 = AtomicU64::new(0);
static LAUNCHES: AtomicU64 = AtomicU64::new(0);
static LARGEST: AtomicU64 = AtomicU64::new(0);

/// Calls `f`, and what it asked of the driver. One test at a time: the counters are the process's.
pub(crate) fn counted<R>(f: impl FnOnce() -> R) -> (R, Counts) {
    let all = [&TO_HOST, &TO_CARD, &WITHIN, &LAUNCHES, &LARGEST];
    all.iter().for_each(|c| c.store(0, Relaxed));
    let result = f();
    let [to_host, to_card, within, launches, largest] = all.map(|c| c.load(Relaxed));
    (result, Counts { to_host, to_card, within, launches, largest })
}

fn driver() -> &'static Library {
    static DRIVER: OnceLock<Library> = OnceLock::new();
    // SAFETY: the driver is loaded already; its initialisers have no preconditions.
    DRIVER.get_or_init(|| unsafe { Library::new("libcuda.so.1") }.unwrap())
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) counts $counter:ident.$how:ident($by:expr);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> CUresult {
            type Function = unsafe extern "C" fn($($type),*) -> CUresult;
            static REAL: OnceLock<Function> = OnceLock::new();
            $counter.$how($by as u64, Relaxed);
            // SAFETY: the driver's own function of this name has this signature.
            let real = REAL.get_or_init(|| unsafe { *driver().get::<Function>(stringify!($name).as_bytes()).unwrap() });
            // SAFETY: what the caller owes is passed on as it came.
            unsafe { real($($arg),*) }
        }
    )*};
}

pass_on! {
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream) counts TO_HOST.fetch_add(bytes);
    cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize) counts TO_HOST.fetch_add(bytes);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream) counts TO_CARD.fetch_add(bytes);
    cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize) counts TO_CARD.fetch_add(bytes);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) counts WITHIN.fetch_add(bytes);
    cuMemcpyDtoD_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) counts WITHIN.fetch_add(bytes);
    cuMemAllocAsync(at: *mut CUdeviceptr, bytes: usize, stream: CUstream) counts LARGEST.fetch_max(bytes);
    cuMemAlloc_v2(at: *mut CUdeviceptr, bytes: usize) counts LARGEST.fetch_max(bytes);
    cuLaunchKernel(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: CUstream, arguments: *mut *mut c_void, extra: *mut *mut c_void
    ) counts LAUNCHES.fetch_add(1);
}
