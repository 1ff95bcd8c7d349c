//! Who orders the work on an NVIDIA card: threads, streams, handles, context objects, and buffers dropped anywhere. Every
//! test queues a kernel of 100 ms first, so that whoever does not wait finds what was there before. `TRIGRAD_SMALL=1` is
//! for compute-sanitizer.
#![cfg(feature = "cuda-kernels")]
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(unsafe_code, reason = "a kernel that takes its time has to be launched, and events are switched off")]

#[path = "../common/card.rs"]
mod card;

use card::card;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::f16;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use trigrad::accumulator::{Accumulator, Config, Floats, Id, Reduce, Spec};
use trigrad::cpu::Cpu;
use trigrad::cuda::{Cuda, View};
use trigrad::numerics::pack::words;
use trigrad::op::check::{self, Check};
use trigrad::op::quantize::{self, Quantize, Threshold};
use trigrad::types::{Draw, Element, Grouping, Report};
use trigrad::{Backend, Error, Memory, Result};

mod capture;
mod dropped;
mod kept;
mod streams;
mod threads;

const MILLISECONDS: u64 = 100;
const N: usize = 1 << 20;

/// The right to use the card alone, or nothing where there is none: times and memory in use are measured here.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    card().map(|_| alone)
}

/// Under compute-sanitizer, where times are not those of the card.
fn small() -> bool {
    std::env::var_os("TRIGRAD_SMALL").is_some()
}

fn context() -> Arc<CudaContext> {
    CudaContext::new(0).unwrap()
}

fn on(stream: &Arc<CudaStream>) -> Cuda {
    Cuda::with_stream(stream.clone()).unwrap()
}

/// A kernel that takes its time.
struct Delay(CudaFunction);

impl Delay {
    fn new(context: &Arc<CudaContext>) -> Self {
        let text = "
            .version 7.0
            .target sm_75
            .address_size 64
            .visible .entry delay(.param .u64 nanoseconds)
            {
                .reg .u64 %limit, %begin, %now;
                .reg .pred %before;
                ld.param.u64 %limit, [nanoseconds];
                mov.u64 %begin, %globaltimer;
            again:
                mov.u64 %now, %globaltimer;
                sub.u64 %now, %now, %begin;
                setp.lt.u64 %before, %now, %limit;
                @%before bra again;
                ret;
            }
        ";
        let delay = Delay(context.load_module(Ptx::from_src(text)).unwrap().load_function("delay").unwrap());
        // Once at once: what the driver loads on first use is there.
        delay.milliseconds(&context.default_stream(), 0);
        context.synchronize().unwrap();
        delay
    }

    /// Queues 100 ms.
    fn queue(&self, stream: &CudaStream) {
        self.milliseconds(stream, MILLISECONDS);
    }

    fn milliseconds(&self, stream: &CudaStream, milliseconds: u64) {
        let nanoseconds = milliseconds * 1_000_000;
        let mut launch = stream.launch_builder(&self.0);
        launch.arg(&nanoseconds);
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel takes one integer and touches no memory.
        unsafe { launch.launch(config) }.unwrap();
    }
}

/// Between -1 and 1, with no structure.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_add(seed.wrapping_mul(7919))).wrapping_mul(2_654_435_769).cast_signed() as f32 / 2e9)
        .collect()
}

fn sum<B: Backend>(backend: B, n: usize) -> Accumulator<B> {
    Accumulator::new(backend, &[Spec::new("w", [n])], Config::default()).unwrap()
}

fn add<'v, B: Backend>(sum: &mut Accumulator<B>, x: B::View<'v, f32>) -> Result<()> {
    sum.accumulate(&[(Id::Index(0), Floats::F32(x))], 1.0)
}

fn read<B: Backend>(sum: &Accumulator<B>) -> Vec<u32> {
    sum.to_vec::<f32>(Id::Index(0), Reduce::Sum).unwrap().into_iter().map(f32::to_bits).collect()
}

/// What a sum of these gradients reads on the CPU.
fn expected(gradients: &[&[f32]]) -> Vec<u32> {
    let mut sum = sum(Cpu::new(), gradients[0].len());
    for x in gradients {
        add(&mut sum, x).unwrap();
    }
    read(&sum)
}

/// Everything that sums do has run once, so that nothing is loaded behind a delay.
fn warm(cuda: &Cuda) {
    let x = cuda.upload(&numbers(N, 0)).unwrap();
    let mut sum = sum(cuda.clone(), N);
    add(&mut sum, Cuda::view(&x)).unwrap();
    read(&sum);
    cuda.synchronize().unwrap();
}

/// Runs `work` on a thread that has made no call of the driver, and fails where it does not come back.
fn elsewhere<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || drop(send.send(work())));
    let result =
        receive.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|e| panic!("no answer within a minute: {e}"));
    thread.join().unwrap();
    result
}

fn quantized<B: Backend, T: Element>(backend: &B, x: &B::Buffer<T>, op: &Quantize) -> (Vec<u32>, Vec<u16>) {
    let n = B::len(&B::view(x));
    let mut planes = backend.zeros::<u32>(words(n, 2)).unwrap();
    let mut scales = backend.zeros::<u16>(op.grouping.groups(n)).unwrap();
    let mut reports = backend.reports(1).unwrap();
    let (words, to) = (B::view_mut(&mut planes), B::view_mut(&mut scales));
    let item = quantize::Item { tensor: 0, first: 0, x: B::view(x), words, scales: to, report: 0 };
    backend.quantize(op, &mut [item], &mut reports).unwrap();
    (backend.download(B::view(&planes)).unwrap(), backend.download(B::view(&scales)).unwrap())
}

/// A context whose buffers have events, and one whose have none.
fn contexts() -> [Arc<CudaContext>; 2] {
    let (with, without) = (context(), context());
    // SAFETY: what the tests do by hand is on one stream each; the rest is this crate's to order.
    unsafe { without.disable_event_tracking() };
    [with, without]
}
