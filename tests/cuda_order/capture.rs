//! Captures into graphs: what is refused, and that a replay gives the same bits.

use super::*;

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
    cuda.synchronize().unwrap();
    begin(&stream);
    refused("upload", cuda.upload(&[1u32]));
    refused("zeros", cuda.zeros::<u32>(1));
    work.run(&cuda).unwrap();
    refused("reports", cuda.reports(1));
    refused("download", cuda.download(Cuda::view(&work.planes)));
    refused("read_reports", cuda.read_reports(&work.reports));
    refused("synchronize", cuda.synchronize());
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
