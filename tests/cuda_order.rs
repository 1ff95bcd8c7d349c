//! Who orders the work on an NVIDIA card: threads, streams, handles, context objects, and buffers dropped anywhere. Every
//! test queues a kernel of 100 ms first, so that whoever does not wait finds what was there before. `TRIGRAD_SMALL=1` is
//! for compute-sanitizer.
#![cfg(feature = "cuda-kernels")]
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(unsafe_code, reason = "a kernel that takes its time has to be launched, and events are switched off")]

#[path = "common/card.rs"]
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
use trigrad::backend::{Backend, Memory};
use trigrad::cpu::Cpu;
use trigrad::cuda::{Cuda, View};
use trigrad::numerics::pack::words;
use trigrad::op::check::{self, Check};
use trigrad::op::quantize::{self, Quantize, Threshold};
use trigrad::op::{Draw, Element, Grouping, Report};
use trigrad::{Error, Result};

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

// Threads of one handle.

#[test]
fn a_sum_filled_on_one_thread_is_read_on_another() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let (delay, own) = (Delay::new(&context), context.per_thread_stream());
    let cuda = on(&own);
    warm(&cuda);
    let x = numbers(N, 1);
    let want = expected(&[&x]);
    for _ in 0..3 {
        let gradient = cuda.upload(&x).unwrap();
        let mut sum = sum(cuda.clone(), N);
        cuda.synchronize().unwrap();
        delay.queue(&own);
        add(&mut sum, Cuda::view(&gradient)).unwrap();
        assert!(elsewhere(move || read(&sum)) == want, "another thread reads a sum before it is written");
    }
}

/// A gradient that the thread itself queued on its stream, not through this crate.
#[test]
fn a_sum_waits_for_the_stream_of_the_thread_that_made_the_gradient() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let (delay, own) = (Delay::new(&context), context.per_thread_stream());
    let cuda = on(&own);
    warm(&cuda);
    let x = numbers(N, 2);
    let want = expected(&[&x]);
    let made = own.clone_htod(&x).unwrap();
    let mut gradient = own.alloc_zeros::<f32>(N).unwrap();
    let mut ours = sum(cuda.clone(), N);
    own.synchronize().unwrap();
    delay.queue(&own);
    own.memcpy_dtod(&made, &mut gradient).unwrap();
    add(&mut ours, View::from(&gradient)).unwrap();
    // What the thread queues next comes after the sum has read.
    own.memset_zeros(&mut gradient).unwrap();
    assert!(read(&ours) == want);
    // The same from another thread, through a handle on an ordinary stream.
    let ordinary = on(&context.new_stream().unwrap());
    warm(&ordinary);
    let mut theirs = sum(ordinary.clone(), N);
    ordinary.synchronize().unwrap();
    own.synchronize().unwrap();
    delay.queue(&own);
    own.memcpy_dtod(&made, &mut gradient).unwrap();
    let theirs = elsewhere(move || {
        add(&mut theirs, View::from(&gradient)).unwrap();
        context_of(&ordinary).bind_to_thread().unwrap();
        drop(gradient);
        read(&theirs)
    });
    assert!(theirs == want);
}

fn context_of(cuda: &Cuda) -> &Arc<CudaContext> {
    cuda.stream().context()
}

#[test]
fn reports_are_read_after_what_they_guard_was_dropped_elsewhere() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let (delay, own) = (Delay::new(&context), context.per_thread_stream());
    let cuda = on(&own);
    warm(&cuda);
    let mut x = numbers(N, 3);
    x[77] = f32::NAN;
    for _ in 0..3 {
        let gradient = cuda.upload(&x).unwrap();
        let mut sum = sum(cuda.clone(), N);
        cuda.synchronize().unwrap();
        delay.queue(&own);
        add(&mut sum, Cuda::view(&gradient)).unwrap();
        let handle = cuda.clone();
        let (found, sum) = elsewhere(move || {
            let mut out = handle.zeros::<f32>(N).unwrap();
            sum.read_out_guarded(Reduce::Sum, &mut [(Id::Index(0), Cuda::view_mut(&mut out))]).unwrap();
            drop(out);
            (sum.found().unwrap(), sum)
        });
        // The sum over tensors has no first index.
        assert_eq!(found, Report { non_finite: 1, first: None, clipped: 0 });
        assert_eq!(elsewhere(move || sum.found().unwrap()), found);
    }
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

#[test]
fn threads_quantize_whole_tensors_through_one_handle() {
    let Some(_alone) = alone() else { return };
    let cuda = on(&context().per_thread_stream());
    let n = 4 * N + 33;
    let op = Quantize::stochastic(Draw::new(1, 2)).clip(2.5).grouping(Grouping::Tensor);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let cuda = cuda.clone();
            scope.spawn(move || {
                // Of another magnitude on each thread, so that no scale is another's.
                let x: Vec<f32> = numbers(n, seed).into_iter().map(|x| x * (seed as f32 + 1.0)).collect();
                let want = quantized(&Cpu::new(), &x, &op);
                let x = cuda.upload(&x).unwrap();
                for round in 0..20 {
                    assert!(quantized(&cuda, &x, &op) == want, "thread {seed}, round {round}");
                }
            });
        }
    });
}

// Several streams.

/// A context whose buffers have events, and one whose have none.
fn contexts() -> [Arc<CudaContext>; 2] {
    let (with, without) = (context(), context());
    // SAFETY: what the tests do by hand is on one stream each; the rest is this crate's to order.
    unsafe { without.disable_event_tracking() };
    [with, without]
}

#[test]
fn every_reader_is_waited_for() {
    let Some(_alone) = alone() else { return };
    for context in contexts() {
        let delay = Delay::new(&context);
        let streams = [context.default_stream(), context.new_stream().unwrap(), context.new_stream().unwrap()];
        let [home, slow, quick] = streams.each_ref().map(on);
        [&home, &slow, &quick].into_iter().for_each(warm);
        let (x, other) = (numbers(N, 4), numbers(N, 5));
        let want = expected(&[&x]);
        for what in ["overwritten by a handle", "overwritten by cudarc", "dropped"] {
            let next = home.upload(&other).unwrap();
            let mut gradient = home.upload(&x).unwrap();
            let (mut first, mut second) = (sum(slow.clone(), N), sum(quick.clone(), N));
            context.synchronize().unwrap();
            delay.queue(slow.stream());
            add(&mut first, Cuda::view(&gradient)).unwrap();
            add(&mut second, Cuda::view(&gradient)).unwrap();
            let mut kept = None;
            match what {
                "overwritten by a handle" => home.copy(Cuda::view(&next), Cuda::view_mut(&mut gradient)).unwrap(),
                "overwritten by cudarc" => home.stream().memset_zeros(&mut Cuda::view_mut(&mut gradient)).unwrap(),
                _ => {
                    drop(gradient);
                    let mut again = home.zeros::<f32>(N).unwrap();
                    home.copy(Cuda::view(&next), Cuda::view_mut(&mut again)).unwrap();
                    kept = Some(again);
                }
            }
            assert!(read(&first) == want, "{what} before the first reader had it");
            assert!(read(&second) == want, "{what} before the second reader had it");
            drop(kept);
        }
    }
}

/// A reader that cudarc knows of and this crate does not, before one of this crate's.
#[test]
fn a_reader_of_someone_elses_is_waited_for() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let delay = Delay::new(&context);
    let (own, theirs) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let cuda = on(&own);
    warm(&cuda);
    let (x, other) = (numbers(N, 6), numbers(N, 7));
    let mut buffer = cuda.upload(&x).unwrap();
    let next = cuda.upload(&other).unwrap();
    let mut copied = theirs.alloc_zeros::<f32>(N).unwrap();
    let mut ours = sum(cuda.clone(), N);
    context.synchronize().unwrap();
    delay.queue(&theirs);
    theirs.memcpy_dtod(&Cuda::view(&buffer), &mut copied).unwrap();
    add(&mut ours, Cuda::view(&buffer)).unwrap();
    cuda.copy(Cuda::view(&next), Cuda::view_mut(&mut buffer)).unwrap();
    assert!(theirs.clone_dtoh(&copied).unwrap() == x, "overwritten before cudarc's reader had it");
    assert!(read(&ours) == expected(&[&x]));
}

#[test]
fn two_context_objects_of_a_card_are_one_context() {
    let Some(_alone) = alone() else { return };
    // Each with no other stream, and with one: cudarc has its own opinion on both.
    for (a, b) in [(true, true), (true, false), (false, true)] {
        let contexts = [context(), context()];
        let delay = Delay::new(&contexts[0]);
        let stream = |i: usize, new: bool| {
            if new { contexts[i].new_stream().unwrap() } else { contexts[i].default_stream() }
        };
        let (a, b) = (on(&stream(0, a)), on(&stream(1, b)));
        [&a, &b].into_iter().for_each(warm);
        let (x, other) = (numbers(N, 8), numbers(N, 9));
        let want = expected(&[&x]);
        // Written there, read here.
        let made = a.upload(&x).unwrap();
        let mut gradient = a.zeros::<f32>(N).unwrap();
        let mut ours = sum(b.clone(), N);
        a.synchronize().unwrap();
        b.synchronize().unwrap();
        delay.queue(a.stream());
        a.copy(Cuda::view(&made), Cuda::view_mut(&mut gradient)).unwrap();
        add(&mut ours, Cuda::view(&gradient)).unwrap();
        assert!(read(&ours) == want, "read before it was written");
        // Read here, freed there.
        let next = a.upload(&other).unwrap();
        let mut ours = sum(b.clone(), N);
        a.synchronize().unwrap();
        b.synchronize().unwrap();
        delay.queue(b.stream());
        add(&mut ours, Cuda::view(&gradient)).unwrap();
        drop(gradient);
        let mut again = a.zeros::<f32>(N).unwrap();
        a.copy(Cuda::view(&next), Cuda::view_mut(&mut again)).unwrap();
        assert!(read(&ours) == want, "read after it was freed");
    }
}

#[test]
fn what_a_handle_wrote_is_there_when_it_is_gone() {
    let Some(_alone) = alone() else { return };
    for context in contexts() {
        let delay = Delay::new(&context);
        let first = on(&context.default_stream());
        warm(&first);
        let x = numbers(N, 10);
        let made = first.upload(&x).unwrap();
        let mut held = first.zeros::<f32>(N).unwrap();
        let mut reports = first.reports(1).unwrap();
        let nan = first.upload(&[1.0, f32::NAN]).unwrap();
        first
            .check(&Check { weight: 1.0 }, &[check::Item { x: Cuda::view(&nan), first: 0, report: 0 }], &mut reports)
            .unwrap();
        first.clear_reports(&mut reports).unwrap();
        let second = on(&context.new_stream().unwrap());
        context.synchronize().unwrap();
        delay.queue(second.stream());
        second.copy(Cuda::view(&made), Cuda::view_mut(&mut held)).unwrap();
        let item = check::Item { x: Cuda::view(&nan), first: 0, report: 0 };
        second.check(&Check { weight: 1.0 }, &[item], &mut reports).unwrap();
        drop(second);
        assert!(first.download(Cuda::view(&held)).unwrap() == x, "read before it was written");
        let found = first.read_reports(&reports).unwrap();
        assert_eq!(found, [Report { non_finite: 1, first: Some(1), clipped: 0 }]);
    }
}

/// A step counter that another stream writes: a call draws by the step that was set before it, throughout.
#[test]
fn a_step_counter_of_another_stream_is_ordered() {
    let Some(_alone) = alone() else { return };
    let n = if small() { N } else { 32 * N };
    let x = numbers(n, 11);
    let op = Quantize::stochastic(Draw::new(3, 10)).grouping(Grouping::Tensor);
    let want = |offset: u32| {
        quantized(&Cpu::new(), &x, &Quantize::stochastic(Draw::new(3, 10 + offset)).grouping(op.grouping))
    };
    let (one, two) = (want(1), want(2));
    assert!(one != two);
    for context in contexts() {
        let delay = Delay::new(&context);
        let (cuda, other) = (on(&context.new_stream().unwrap()), on(&context.new_stream().unwrap()));
        let x = cuda.upload(&x).unwrap();
        quantized(&cuda, &x, &op);
        let steps = [1u32, 2].map(|step| other.upload(&[step]).unwrap());
        let mut counter = other.zeros::<u32>(1).unwrap();
        let mut planes = cuda.zeros::<u32>(words(n, 2)).unwrap();
        let mut scale = cuda.zeros::<u16>(1).unwrap();
        let mut reports = cuda.reports(1).unwrap();
        for _ in 0..5 {
            context.synchronize().unwrap();
            // Set behind a delay there, read here; then read behind a delay here, and set there.
            delay.queue(other.stream());
            other.copy(Cuda::view(&steps[0]), Cuda::view_mut(&mut counter)).unwrap();
            cuda.set_step_offset(Some(counter)).unwrap();
            let (to, scales) = (Cuda::view_mut(&mut planes), Cuda::view_mut(&mut scale));
            let item = quantize::Item { tensor: 0, first: 0, x: Cuda::view(&x), words: to, scales, report: 0 };
            cuda.quantize(&op, &mut [item], &mut reports).unwrap();
            counter = cuda.set_step_offset(None).unwrap().unwrap();
            other.copy(Cuda::view(&steps[1]), Cuda::view_mut(&mut counter)).unwrap();
            assert!(cuda.download(Cuda::view(&planes)).unwrap() == one.0, "not all drawn by the step that was set");
            assert_eq!(other.download(Cuda::view(&counter)).unwrap(), [2]);
        }
    }
}

/// Streams that share nothing do not wait for each other, and nothing waits on the host that does not say so.
#[test]
fn what_shares_nothing_does_not_wait() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let delay = Delay::new(&context);
    let (busy, free) = (on(&context.new_stream().unwrap()), on(&context.new_stream().unwrap()));
    [&busy, &free].into_iter().for_each(warm);
    let x = numbers(N, 12);
    let there = busy.upload(&x).unwrap();
    let here = free.upload(&x).unwrap();
    let (mut theirs, mut ours) = (sum(busy.clone(), N), sum(free.clone(), N));
    context.synchronize().unwrap();
    let begin = Instant::now();
    delay.milliseconds(busy.stream(), 2000);
    add(&mut theirs, Cuda::view(&there)).unwrap();
    add(&mut ours, Cuda::view(&here)).unwrap();
    let got = read(&ours);
    let took = begin.elapsed();
    assert!(small() || took < Duration::from_millis(1500), "{took:?}: waits for a stream that it shares nothing with");
    assert!(got == expected(&[&x]) && read(&theirs) == got);
    assert!(begin.elapsed() >= Duration::from_millis(1900), "the delay was none");
}

// What is dropped, and what went wrong meanwhile.

#[test]
fn a_buffer_is_freed_on_any_thread() {
    let Some(_alone) = alone() else { return };
    let context = context();
    for stream in [context.default_stream(), context.per_thread_stream(), context.new_stream().unwrap()] {
        let cuda = on(&stream);
        warm(&cuda);
        context.synchronize().unwrap();
        let before = cuda.in_use().unwrap().now;
        let (buffer, reports) = (cuda.zeros::<u8>(1 << 28).unwrap(), cuda.reports(1 << 20).unwrap());
        assert!(cuda.in_use().unwrap().now >= before + (1 << 28));
        elsewhere(move || drop((buffer, reports)));
        let x = cuda.upload(&numbers(N, 13)).unwrap();
        let mut sum = sum(cuda.clone(), N);
        add(&mut sum, Cuda::view(&x)).unwrap();
        elsewhere(move || drop((sum, x)));
        cuda.synchronize().unwrap();
        assert_eq!(cuda.in_use().unwrap().now, before);
    }
}

/// What somebody else's drop left behind is no error of a sum, and is told once to who asks.
#[test]
fn an_earlier_error_of_someone_elses_refuses_nothing() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let cuda = on(&context.default_stream());
    let x = numbers(N, 14);
    let gradient = cuda.upload(&x).unwrap();
    let mut sum = sum(cuda.clone(), N);
    let went_wrong = || context.record_err(Err::<(), _>(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
    for _ in 0..3 {
        went_wrong();
        add(&mut sum, Cuda::view(&gradient)).unwrap();
    }
    went_wrong();
    assert!(read(&sum) == expected(&[&x, &x, &x]));
    went_wrong();
    drop(on(&context.default_stream()));
    match cuda.synchronize() {
        Err(Error::Backend { message, .. }) => assert!(message.contains("INVALID_VALUE"), "{message}"),
        other => panic!("{other:?}"),
    }
    cuda.synchronize().unwrap();
}

// Captures.

fn begin(stream: &CudaStream) {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
}

fn end(stream: &Arc<CudaStream>) -> CudaGraph {
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap()
}

/// That a call was refused for the capture, and said what to do.
fn refused<T>(what: &str, result: Result<T>) {
    let said = match result {
        Err(e) => e.to_string(),
        Ok(_) => panic!("{what} is taken within a capture"),
    };
    assert!(said.contains("within a graph capture: "), "{what}: {said}");
}

/// What a capture of `op` on 16-bit floats needs: the buffers, and what it comes to.
struct Captured {
    x: <Cuda as Memory>::Buffer<f16>,
    planes: <Cuda as Memory>::Buffer<u32>,
    scales: <Cuda as Memory>::Buffer<u16>,
    reports: <Cuda as Memory>::Reports,
    op: Quantize,
    want: (Vec<u32>, Vec<u16>),
}

impl Captured {
    fn new(cuda: &Cuda, op: Quantize) -> Self {
        let n = 100_003;
        let x: Vec<f16> = numbers(n, 15).into_iter().map(f16::from_f32).collect();
        Captured {
            x: cuda.upload(&x).unwrap(),
            planes: cuda.zeros(words(n, 2)).unwrap(),
            scales: cuda.zeros(op.grouping.groups(n)).unwrap(),
            reports: cuda.reports(1).unwrap(),
            op,
            want: quantized(&Cpu::new(), &x, &op),
        }
    }

    fn run(&mut self, cuda: &Cuda) -> Result<()> {
        let (words, scales) = (Cuda::view_mut(&mut self.planes), Cuda::view_mut(&mut self.scales));
        let item = quantize::Item { tensor: 0, first: 0, x: Cuda::view(&self.x), words, scales, report: 0 };
        cuda.quantize(&self.op, &mut [item], &mut self.reports)
    }

    fn clear(&mut self, cuda: &Cuda) {
        cuda.clear(Cuda::view_mut(&mut self.planes)).unwrap();
        cuda.clear(Cuda::view_mut(&mut self.scales)).unwrap();
    }

    fn check(&self, cuda: &Cuda) {
        let got = (cuda.download(Cuda::view(&self.planes)).unwrap(), cuda.download(Cuda::view(&self.scales)).unwrap());
        assert!(got == self.want, "a replay gives other bits");
    }
}

fn without_events() -> Arc<CudaContext> {
    let [_, without] = contexts();
    without
}

#[test]
fn a_cold_capture_is_refused_and_a_warm_one_replays() {
    let Some(_alone) = alone() else { return };
    let context = without_events();
    let stream = context.new_stream().unwrap();
    let cuda = on(&stream);
    // Used nowhere else in this file: its kernel is not there yet.
    let op = Quantize::threshold(Threshold::TWN);
    let mut work = Captured::new(&cuda, op);
    cuda.synchronize().unwrap();
    begin(&stream);
    refused("an operation whose kernel is not loaded", work.run(&cuda));
    drop(end(&stream));
    work.run(&cuda).unwrap();
    work.check(&cuda);

    // Kernels are the context's, scratch memory is a handle's.
    let op = Quantize::stochastic(Draw::new(5, 6)).clip(3.5).grouping(Grouping::Tensor);
    Captured::new(&cuda, op).run(&cuda).unwrap();
    let stream = context.new_stream().unwrap();
    let cuda = on(&stream);
    let mut work = Captured::new(&cuda, op);
    cuda.synchronize().unwrap();
    begin(&stream);
    refused("an operation whose scratch memory is not there", work.run(&cuda));
    drop(end(&stream));
    for _ in 0..2 {
        work.run(&cuda).unwrap();
        cuda.synchronize().unwrap();
        begin(&stream);
        work.run(&cuda).unwrap();
        let graph = end(&stream);
        work.clear(&cuda);
        graph.launch().unwrap();
        graph.launch().unwrap();
        work.check(&cuda);
    }
}

#[test]
fn what_waits_or_allocates_is_refused_within_a_capture_which_goes_on() {
    let Some(_alone) = alone() else { return };
    let stream = without_events().new_stream().unwrap();
    let cuda = on(&stream);
    let mut work = Captured::new(&cuda, Quantize::stochastic(Draw::new(7, 8)));
    work.run(&cuda).unwrap();
    cuda.count_nonzero(Cuda::view(&work.planes)).unwrap();
    cuda.synchronize().unwrap();
    begin(&stream);
    refused("upload", cuda.upload(&[1u32]));
    refused("zeros", cuda.zeros::<u32>(1));
    work.run(&cuda).unwrap();
    refused("reports", cuda.reports(1));
    refused("download", cuda.download(Cuda::view(&work.planes)));
    refused("read_reports", cuda.read_reports(&work.reports));
    refused("synchronize", cuda.synchronize());
    refused("count_nonzero", cuda.count_nonzero(Cuda::view(&work.planes)));
    let graph = end(&stream);
    work.clear(&cuda);
    graph.launch().unwrap();
    work.check(&cuda);
}

#[test]
fn a_capture_of_buffers_with_events_is_refused() {
    let Some(_alone) = alone() else { return };
    let stream = context().new_stream().unwrap();
    let cuda = on(&stream);
    let mut work = Captured::new(&cuda, Quantize::stochastic(Draw::new(7, 8)));
    work.run(&cuda).unwrap();
    cuda.synchronize().unwrap();
    begin(&stream);
    refused("an operation on buffers with events", work.run(&cuda));
    drop(end(&stream));
    work.run(&cuda).unwrap();
    work.check(&cuda);
}

/// A buffer whose stream is being captured by somebody is not used on another.
#[test]
fn a_stream_is_not_drawn_into_a_capture() {
    let Some(_alone) = alone() else { return };
    let context = without_events();
    let (captured, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let (cuda, ours) = (on(&captured), on(&other));
    warm(&ours);
    let x = numbers(N, 16);
    let gradient = cuda.upload(&x).unwrap();
    let mut sum = sum(ours.clone(), N);
    let mut to = ours.zeros::<f32>(N).unwrap();
    context.synchronize().unwrap();
    begin(&captured);
    let taken = ours.copy(Cuda::view(&gradient), Cuda::view_mut(&mut to));
    drop(end(&captured));
    refused("a copy from a buffer of the stream being captured", taken);
    add(&mut sum, Cuda::view(&gradient)).unwrap();
    assert!(read(&sum) == expected(&[&x]));
}

/// A thread's own stream is captured where it is the one that the handle was made from.
#[test]
fn the_stream_of_a_thread_is_captured() {
    let Some(_alone) = alone() else { return };
    let own = without_events().per_thread_stream();
    let cuda = on(&own);
    let mut work = Captured::new(&cuda, Quantize::stochastic(Draw::new(9, 10)));
    work.run(&cuda).unwrap();
    cuda.synchronize().unwrap();
    begin(&own);
    work.run(&cuda).unwrap();
    refused("zeros", cuda.zeros::<u32>(1));
    refused("download", cuda.download(Cuda::view(&work.planes)));
    let graph = end(&own);
    work.clear(&cuda);
    graph.launch().unwrap();
    work.check(&cuda);
}

/// Rows that are no blocks need scratch memory for each: they are quantized in rounds, and what is kept is bounded.
#[test]
fn scratch_memory_of_rows_is_bounded() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let cuda = on(&context.default_stream());
    // No multiple of a word, of a tile, or of a round; the last of a list that takes several rounds starts amid one.
    let (row, lengths) = (10, [30 * 700_001, 30 * 5, 30 * 300_007]);
    let tensors: Vec<Vec<f32>> = (0..).zip(lengths).map(|(seed, n)| numbers(n, 20 + seed)).collect();
    let on_card: Vec<_> = tensors.iter().map(|x| cuda.upload(x).unwrap()).collect();
    let rules = [
        Quantize::stochastic(Draw::new(1, 2)),
        Quantize::stochastic(Draw::new(1, 2)).clip(1.5),
        Quantize::threshold(Threshold::TWN),
    ];
    for op in rules.map(|op| op.grouping(Grouping::Row(row))) {
        let want = quantized_list(&Cpu::new(), &tensors, &op);
        context.synchronize().unwrap();
        let before = cuda.in_use().unwrap().now;
        let got = quantized_list(&cuda, &on_card, &op);
        assert!(got == want, "{op:?}");
        let kept = cuda.in_use().unwrap().now - before;
        assert!(kept < 70 << 20, "{kept} bytes are kept");
    }
}

fn quantized_list<B: Backend>(backend: &B, list: &[B::Buffer<f32>], op: &Quantize) -> Vec<(Vec<u32>, Vec<u16>)> {
    let mut out = Vec::new();
    for x in list {
        let n = B::len(&B::view(x));
        let planes = backend.zeros::<u32>(words(n, 2)).unwrap();
        out.push((planes, backend.zeros::<u16>(op.grouping.groups(n)).unwrap()));
    }
    let mut reports = backend.reports(list.len()).unwrap();
    let mut items = Vec::new();
    for (i, (x, (planes, scales))) in list.iter().zip(&mut out).enumerate() {
        let (words, scales) = (B::view_mut(planes), B::view_mut(scales));
        items.push(quantize::Item { tensor: i as u32, first: 0, x: B::view(x), words, scales, report: i });
    }
    backend.quantize(op, &mut items, &mut reports).unwrap();
    drop(items);
    let download = |(planes, scales): &(B::Buffer<u32>, B::Buffer<u16>)| {
        (backend.download(B::view(planes)).unwrap(), backend.download(B::view(scales)).unwrap())
    };
    out.iter().map(download).collect()
}

/// Kernels stay loaded when the last handle goes.
#[test]
fn a_handle_is_made_anew_at_little_cost() {
    let Some(_alone) = alone() else { return };
    let stream = context().default_stream();
    // Memory in use keeps the driver's pool: what it takes to fill that is not measured here.
    let _kept = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    let x = numbers(1000, 17);
    let op = Quantize::stochastic(Draw::new(1, 2));
    let want = quantized(&Cpu::new(), &x, &op);
    let once = || {
        let cuda = on(&stream);
        let x = cuda.upload(&x).unwrap();
        assert!(quantized(&cuda, &x, &op) == want);
    };
    once();
    let begin = Instant::now();
    for _ in 0..100 {
        once();
    }
    let each = begin.elapsed() / 100;
    assert!(small() || each < Duration::from_micros(300), "{each:?} a call");
}
