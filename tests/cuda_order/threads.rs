//! Threads of one handle.

use super::*;

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
