//! Whose stream: candle's default device has one on every thread, and sums live longer than one thread's call. Every test
//! queues a kernel of 100 ms first, so that whoever does not wait finds what was there before.

#![expect(unsafe_code, reason = "a kernel that takes its time has to be launched")]

use super::{CPU, card, flat, gradients, numbers, variables};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use trigrad::accumulator::{Accumulator, Config, Reduce, State};
use trigrad::candle::{GradientAccumulator, quantize};
use trigrad::cpu::Cpu;
use trigrad::op::quantize::Quantize;
use trigrad::op::{Draw, Grouping};
use trigrad::{Error, Result};

const TENSORS: usize = 20;
const DELAY: &str = "
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

/// Queues a kernel that takes so long on the stream that candle uses on this thread.
fn delay(device: &Device, milliseconds: u64) {
    let delay = device.as_cuda_device().unwrap().get_or_load_custom_func("delay", "delay", DELAY).unwrap();
    let nanoseconds = milliseconds * 1_000_000;
    let mut launch = delay.builder();
    launch.arg(&nanoseconds);
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel takes one integer and touches no memory.
    unsafe { launch.launch(config) }.unwrap();
}

/// Runs `work` on a thread of its own, and fails where it does not come back.
fn elsewhere<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || drop(send.send(work())));
    let result =
        receive.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|e| panic!("no answer within a minute: {e}"));
    thread.join().unwrap();
    result
}

struct Sum {
    vars: Vec<(String, Var)>,
    sum: GradientAccumulator,
}

impl Sum {
    /// An empty sum, all of whose work has run once.
    fn new(device: &Device) -> Result<Sum> {
        let vars = variables(device, TENSORS);
        let mut sum = GradientAccumulator::from_vars(&vars, Config::default())?;
        sum.accumulate(&gradients(&vars, 9), 1.0)?;
        sum.read_out_store(Reduce::Sum)?;
        sum.reset()?;
        device.synchronize()?;
        Ok(Sum { vars, sum })
    }

    fn read(&self) -> Result<(Vec<Vec<f32>>, State)> {
        let store = self.sum.read_out_store(Reduce::Sum)?;
        let dense = self.vars.iter().map(|(_, var)| flat(store.get(var).unwrap())).collect();
        Ok((dense, self.sum.inner().state()?))
    }

    /// What the sum of one micro-batch reads on the CPU.
    fn expected() -> Result<(Vec<Vec<f32>>, State)> {
        let mut cpu = Sum::new(&CPU)?;
        cpu.sum.accumulate(&gradients(&cpu.vars, 0), 1.0)?;
        cpu.read()
    }
}

#[test]
fn a_sum_filled_on_one_thread_is_read_out_on_another() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let want = Sum::expected()?;
    delay(&device, 0);
    for _ in 0..3 {
        let mut sum = Sum::new(&device)?;
        let store = gradients(&sum.vars, 0);
        device.synchronize()?;
        delay(&device, 100);
        sum.sum.accumulate(&store, 1.0)?;
        assert!(elsewhere(move || sum.read())? == want, "another thread reads a sum before it is written");
    }
    Ok(())
}

#[test]
fn a_checkpoint_saved_on_another_thread_has_what_was_added() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let (_, want) = Sum::expected()?;
    delay(&device, 0);
    let mut sum = Sum::new(&device)?;
    let store = gradients(&sum.vars, 0);
    let specs = sum.sum.inner().specs().to_vec();
    device.synchronize()?;
    delay(&device, 100);
    sum.sum.accumulate(&store, 1.0)?;
    let file = std::env::temp_dir().join(format!("trigrad-order-{}.safetensors", std::process::id()));
    let path = file.clone();
    elsewhere(move || sum.sum.inner().save(&path))?;
    let mut loaded = Accumulator::new(Cpu::new(), &specs, Config::default())?;
    loaded.load(&file)?;
    std::fs::remove_file(&file).unwrap();
    assert!(loaded.state()? == want);
    Ok(())
}

#[test]
fn reports_are_read_after_a_read_out_was_dropped_on_another_thread() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    delay(&device, 0);
    for _ in 0..3 {
        let mut sum = Sum::new(&device)?;
        let mut store = gradients(&sum.vars, 0);
        let var = &sum.vars[0].1;
        let mut bad = numbers(1, var.elem_count());
        bad[5] = f32::NAN;
        store.insert(var, Tensor::from_vec(bad, var.dims(), &device)?);
        device.synchronize()?;
        delay(&device, 100);
        sum.sum.accumulate(&store, 1.0)?;
        let (read, found) = elsewhere(move || (sum.sum.read_out_store(Reduce::Sum).map(drop), sum.sum.inner().found()));
        assert!(matches!(read.unwrap_err().root(), Error::NonFinite { count: 1, first: 5 }));
        assert_eq!(found?.non_finite, 1);
    }
    Ok(())
}

/// candle's own order between threads is not ours to give; but a sum reads what was queued before, whoever queued it.
#[test]
fn gradients_made_on_one_thread_are_added_and_dropped_on_another() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let want = Sum::expected()?;
    delay(&device, 0);
    for _ in 0..3 {
        let mut sum = Sum::new(&device)?;
        let halves: Vec<Tensor> =
            gradients_of(&sum.vars).iter().map(|g| g * 0.5).collect::<candle_core::Result<_>>()?;
        device.synchronize()?;
        delay(&device, 100);
        let mut store = GradStore::default();
        for ((_, var), half) in sum.vars.iter().zip(&halves) {
            store.insert(var, (half * 2.0)?);
        }
        let got = elsewhere(move || {
            sum.sum.accumulate(&store, 1.0)?;
            drop(store);
            // In the memory that has just become free, if it has.
            let ones: Vec<Tensor> = sum.vars.iter().map(|(_, v)| v.ones_like()).collect::<candle_core::Result<_>>()?;
            let got = sum.read();
            drop(ones);
            got
        });
        assert!(got? == want);
    }
    Ok(())
}

fn gradients_of(vars: &[(String, Var)]) -> Vec<Tensor> {
    let store = gradients(vars, 0);
    vars.iter().map(|(_, var)| store.get(var).unwrap().clone()).collect()
}

#[test]
fn threads_quantize_whole_tensors() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let op = Quantize::stochastic(Draw::new(5, 2)).clip(2.5).grouping(Grouping::Tensor);
    let n = 3_000_017;
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let device = &device;
            scope.spawn(move || {
                let x: Vec<f32> = numbers(seed, n).into_iter().map(|x| x * (seed as f32 + 1.0)).collect();
                let x = Tensor::from_vec(x, n, &CPU).unwrap();
                let want = quantize(&x, &op).unwrap();
                let (words, scales) = (want.words_to_vec().unwrap(), want.scales_to_vec().unwrap());
                let x = x.to_device(device).unwrap();
                for round in 0..10 {
                    let got = quantize(&x, &op).unwrap();
                    assert!(got.scales_to_vec().unwrap() == scales, "thread {seed}, round {round}: scales");
                    assert!(got.words_to_vec().unwrap() == words, "thread {seed}, round {round}: words");
                }
            });
        }
    });
    Ok(())
}

/// A second device of candle's, on a stream of its own: what both hold is used together, in order.
#[test]
fn a_device_with_a_stream_of_its_own() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let other = Device::new_cuda_with_stream(0)?;
    let want = Sum::expected()?;
    for device in [&device, &other] {
        delay(device, 0);
    }
    let mut sum = Sum::new(&device)?;
    let mut theirs = Sum::new(&other)?;
    let store = gradients(&sum.vars, 0);
    // A gradient that the other stream has yet to make.
    let mut joined = Sum::new(&device)?;
    let (mut mixed, foreign) = (gradients(&joined.vars, 0), gradients_of(&theirs.vars));
    delay(&other, 100);
    mixed.insert(&joined.vars[0].1, (&foreign[0] * 1.0)?);
    joined.sum.accumulate(&mixed, 1.0)?;
    assert!(elsewhere(move || joined.read())? == want);
    // Both at once, each on its own thread and stream.
    let store_of_theirs = gradients(&theirs.vars, 0);
    device.synchronize()?;
    other.synchronize()?;
    delay(&device, 100);
    delay(&other, 100);
    sum.sum.accumulate(&store, 1.0)?;
    theirs.sum.accumulate(&store_of_theirs, 1.0)?;
    assert!(elsewhere(move || theirs.read())? == want);
    assert!(elsewhere(move || sum.read())? == want);
    // What two devices of one card hold is used together, in order.
    let x = numbers(3, 200_000);
    let on = |device: &Device| Tensor::from_vec(x.clone(), x.len(), device);
    let op = Quantize::stochastic(Draw::new(5, 2));
    let dot = quantize(&on(&device)?, &op)?.dot(&quantize(&on(&other)?, &op)?)?;
    let cpu = quantize(&on(&CPU)?, &op)?;
    assert_eq!(dot.to_bits(), cpu.dot(&cpu)?.to_bits());
    Ok(())
}

/// Kernels stay loaded where no sum and no packed tensor of the device lives.
#[test]
fn quantizing_one_tensor_costs_no_loading() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let x = Tensor::from_vec(numbers(1, 10_000), 10_000, &device)?;
    let op = Quantize::stochastic(Draw::new(5, 2));
    drop(quantize(&x, &op)?);
    let begin = Instant::now();
    for _ in 0..100 {
        drop(quantize(&x, &op)?);
    }
    let each = begin.elapsed() / 100;
    assert!(each < Duration::from_micros(300), "{each:?} a call");
    Ok(())
}
