//! candle on an NVIDIA card: tensors are used where they lie, nothing goes through the host, and the bits are the CPU's.
#![cfg(all(feature = "cuda", feature = "candle", target_os = "linux"))]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails may panic, one that is skipped says so"
)]

mod driver;
mod order;
mod release;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, linear};
use driver::counted;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use trigrad::accumulator::{Config, Format, NonFinite, Reduce, Scales, State};
use trigrad::candle::{Accumulated, AccumulatedConfig, FusedOptimizer, ModelGradients};
use trigrad::candle::{GradientAccumulator, quantize};
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::op::quantize::{Quantize, Threshold};
use trigrad::op::{Draw, Grouping};
use trigrad::training::{LossScale, Options, Outcome};
use trigrad::{Error, Result};

const CPU: Device = Device::Cpu;
/// Bytes of a report: three counters.
const REPORT: u64 = 24;

/// candle's first card, and the right to use it alone; nothing where the machine has none, unless it is demanded.
fn card() -> Option<(Device, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match Device::new_cuda(0) {
        Ok(device) => Some((device, alone)),
        Err(e) if std::env::var_os("TRIGRAD_REQUIRE_CUDA").is_none() => {
            println!("skipped: no CUDA device ({e})");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// Numbers in -1..1 from a counter.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Matrices, vectors and a bf16 tensor; those below 64 elements are kept in f32.
fn variables(device: &Device, matrices: usize) -> Vec<(String, Var)> {
    let mut all = Vec::new();
    let mut make = |name: String, shape: &[usize], dtype| {
        let w = Tensor::from_vec(numbers(all.len() as u64, shape.iter().product()), shape, device).unwrap();
        all.push((name, Var::from_tensor(&w.to_dtype(dtype).unwrap()).unwrap()));
    };
    for i in 0..matrices {
        make(format!("{i}.weight"), &[61 + i % 7, 70], DType::F32);
        make(format!("{i}.bias"), &[1 + i % 50], DType::F32);
    }
    make("half".to_owned(), &[9, 130], DType::BF16);
    all
}

fn gradient(i: usize, micro_batch: u64, var: &Var) -> Tensor {
    let x = numbers(1000 * (i as u64 + 1) + micro_batch, var.elem_count());
    let x = Tensor::from_vec(x, var.dims(), &CPU).unwrap();
    x.to_dtype(var.dtype()).unwrap().to_device(var.device()).unwrap()
}

fn gradients(vars: &[(String, Var)], micro_batch: u64) -> GradStore {
    let mut store = GradStore::default();
    for (i, (_, var)) in vars.iter().enumerate() {
        store.insert(var, gradient(i, micro_batch, var));
    }
    store
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn values(vars: &[(String, Var)]) -> Vec<Vec<f32>> {
    vars.iter().map(|(_, v)| flat(v)).collect()
}

fn bits(format: Format) -> Options {
    Options { config: Config { format, seed: 3, ..Config::default() }, small: 64, ..Options::default() }
}

fn four() -> Options {
    bits(Format::Adaptive { bits: 4 })
}

fn state(sum: &ModelGradients) -> State {
    sum.sums().state().unwrap()
}

#[test]
fn the_counters_see_candles_copies() {
    let Some((device, _alone)) = card() else { return };
    let x = numbers(1, 1000);
    let (t, counts) = counted(|| Tensor::from_vec(x.clone(), 1000, &device).unwrap());
    assert_eq!((counts.to_card, counts.to_host), (4000, 0));
    assert!(counts.largest >= 4000);
    let (back, counts) = counted(|| t.to_vec1::<f32>().unwrap());
    assert_eq!((counts.to_card, counts.to_host, back), (0, 4000, x));
    let (_, counts) = counted(|| (&t + &t).unwrap());
    assert_eq!((counts.to_host, counts.launches), (0, 1));
    let (_, counts) = counted(|| t.copy().unwrap());
    assert_eq!((counts.within, counts.to_host), (4000, 0));
}

#[test]
fn a_step_of_a_whole_model_takes_no_host_copy_and_few_kernels() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let vars = variables(&device, 150);
    let stores: Vec<GradStore> = (0..3).map(|k| gradients(&vars, k)).collect();
    let mut sum = ModelGradients::from_vars(&vars, four())?;
    let mut adam = FusedOptimizer::adamw(&sum, ParamsAdamW::default())?;
    // Once in advance: kernels are loaded on first use.
    sum.accumulate(&stores[0], 1.0)?;
    assert!(adam.step(&mut sum)?.updated());
    for store in &stores {
        device.synchronize()?;
        let (added, counts) = counted(|| sum.accumulate(store, 0.5));
        added?;
        println!("accumulate {} tensors: {counts:?}", vars.len());
        assert_eq!((counts.to_host, counts.to_card, counts.within, counts.largest), (0, 0, 0, 0));
        assert!(counts.launches <= 8, "{counts:?}");
    }
    let reports = REPORT * vars.len() as u64;
    let (store, counts) = counted(|| sum.read_out_store());
    println!("read out: {counts:?}");
    assert_eq!((counts.to_host, counts.to_card, counts.within), (reports, 0, 0), "reports alone come to the host");
    for (_, var) in &vars {
        assert!(store.as_ref().unwrap().get(var).unwrap().device().same_device(&device));
    }
    drop(store);
    let (stepped, counts) = counted(|| adam.step(&mut sum));
    println!("fused step: {counts:?}");
    assert!(stepped?.updated());
    // What the window found, its norm, and what the update found.
    let (norm, chunks) = (4 * SUM_WORDS as u64, vars.len().div_ceil(64) as u64);
    assert_eq!((counts.to_host, counts.to_card, counts.within), (2 * reports + norm, 0, 0));
    let largest = vars.iter().map(|(_, v)| v.elem_count() * 4).max().unwrap_or(0) as u64;
    // candle's variables are entered 64 at a time; packed tensors and those kept in f32 are a launch each.
    assert!(counts.launches <= 8 + 2 * chunks && counts.largest < largest, "{counts:?}");
    Ok(())
}

#[test]
fn the_accumulator_reads_and_writes_tensors_where_they_lie() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let vars = variables(&device, 20);
    let (elements, count) = (vars.iter().map(|(_, v)| v.elem_count() as u64).sum::<u64>(), vars.len() as u64);
    let mut sum = GradientAccumulator::from_vars(&vars, Config::default())?;
    let store = gradients(&vars, 0);
    sum.accumulate(&store, 1.0)?;
    let (added, counts) = counted(|| sum.accumulate(&store, 1.0));
    added?;
    assert_eq!((counts.to_host, counts.to_card, counts.within, counts.largest), (0, 0, 0, 0));
    assert!(counts.launches <= 2, "{counts:?}");
    let (read, counts) = counted(|| sum.read_out_store(Reduce::Mean));
    assert_eq!((counts.to_host, counts.to_card, counts.within), (REPORT * count, 0, 0));
    let held = read?;
    assert!(vars.iter().all(|(_, v)| held.get(v).unwrap().dtype() == v.dtype()));
    assert!(sum.inner().bytes_held() < elements);
    Ok(())
}

#[test]
fn ternary_tensors_stay_on_the_card_with_the_bits_of_the_cpu() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let x = Tensor::from_vec(numbers(5, 48 * 30), (48, 30), &CPU)?;
    let ops = [
        Quantize::stochastic(Draw::new(5, 2)),
        Quantize::stochastic(Draw::new(5, 2)).grouping(Grouping::Row(30)),
        Quantize::threshold(Threshold::TWN).grouping(Grouping::Tensor),
    ];
    for op in ops {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let on_cpu = x.to_dtype(dtype)?;
            let on_card = on_cpu.to_device(&device)?;
            let layouts: [fn(&Tensor) -> candle_core::Result<Tensor>; 3] =
                [|t| Ok(t.clone()), |t| t.narrow(0, 8, 24), |t| t.t()?.narrow(0, 3, 20)?.t()];
            for layout in layouts {
                let (cpu, card) = (layout(&on_cpu)?, layout(&on_card)?);
                let op = if let (Grouping::Row(_), false) = (op.grouping, cpu.is_contiguous()) {
                    op.grouping(Grouping::Row(20))
                } else {
                    op
                };
                let want = quantize(&cpu, &op)?;
                let (got, counts) = counted(|| quantize(&card, &op));
                let got = got?;
                if card.is_contiguous() {
                    assert_eq!((counts.to_host, counts.to_card, counts.within), (REPORT, 0, 0));
                }
                assert_eq!(counts.to_host, REPORT);
                assert_eq!(got.words_to_vec()?, want.words_to_vec()?);
                assert_eq!(got.scales_to_vec()?, want.scales_to_vec()?);
                let (dense, counts) = counted(|| got.dequantize(dtype));
                assert_eq!((counts.to_host, counts.to_card, counts.within), (0, 0, 0));
                let dense = dense?;
                assert!(dense.device().same_device(&device) && dense.dtype() == dtype);
                assert_eq!(flat(&dense), flat(&want.dequantize(dtype)?));
                assert_eq!(flat(&got.trits(dtype)?), flat(&want.trits(dtype)?));
                assert_eq!(got.squared_norm()?.to_bits(), want.squared_norm()?.to_bits());
            }
        }
    }
    Ok(())
}

fn all_options() -> Vec<Options> {
    let residual = Options { residual_bits: Some(4), ..bits(Format::Adaptive { bits: 2 }) };
    let first_look = Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } };
    let last_window = Format::Exact { bits: 4, scales: Scales::LastWindow { headroom: 1.5 } };
    let zero = Options { config: Config { non_finite: NonFinite::Zero, ..four().config }, ..four() };
    let reject = Options { config: Config { non_finite: NonFinite::Reject, ..four().config }, ..four() };
    let scaled = Options { loss_scale: LossScale::dynamic(8.0), ..bits(Format::Adaptive { bits: 8 }) };
    vec![four(), residual, bits(first_look), bits(last_window), zero, reject, scaled]
}

struct Run {
    vars: Vec<(String, Var)>,
    sum: ModelGradients,
    optimizer: FusedOptimizer,
}

impl Run {
    fn new(device: &Device, options: &Options, adam: bool) -> Result<Run> {
        Run::of(variables(device, 5), options, adam)
    }

    fn of(vars: Vec<(String, Var)>, options: &Options, adam: bool) -> Result<Run> {
        let mut sum = ModelGradients::from_vars(&vars, options.clone())?;
        // Its gradients are made up: nobody multiplied a loss.
        sum.assume_scaled();
        let optimizer = if adam {
            FusedOptimizer::adamw(&sum, ParamsAdamW { lr: 1e-2, ..ParamsAdamW::default() })?
        } else {
            FusedOptimizer::sgd(&sum, 0.01, 0.9, 0.01, true)?
        };
        Ok(Run { vars, sum, optimizer })
    }

    /// Micro-batches `from..to` of a recording, three a step, of uneven weights.
    fn go(&mut self, from: u64, to: u64) -> Result<()> {
        for k in from..to {
            let weight = [1.0, 0.5, 0.75][(k % 3) as usize];
            self.sum.consume(gradients(&self.vars, k), weight)?;
            if self.sum.count() == 3 {
                assert!(self.optimizer.step(&mut self.sum)?.updated());
            }
        }
        Ok(())
    }
}

#[test]
fn the_same_gradients_give_the_bits_of_the_cpu() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    for options in all_options() {
        for adam in [true, false] {
            let (mut cpu, mut card) = (Run::new(&CPU, &options, adam)?, Run::new(&device, &options, adam)?);
            cpu.go(0, 11)?;
            card.go(0, 11)?;
            assert_eq!(state(&cpu.sum), state(&card.sum), "{options:?}");
            assert_eq!(values(&cpu.vars), values(&card.vars), "{options:?}");
            let (a, b) = (cpu.sum.read_out()?, card.sum.read_out()?);
            for (name, _) in &cpu.vars {
                assert_eq!(flat(&a[name]), flat(&b[name]), "{name} {options:?}");
            }
            assert_eq!(cpu.sum.norm()?.to_bits(), card.sum.norm()?.to_bits(), "{options:?}");
        }
    }
    Ok(())
}

/// Variables of millions of elements, none a multiple of what a CTA takes, among small ones.
fn large_variables(device: &Device) -> Vec<(String, Var)> {
    let mut all = variables(device, 3);
    for (name, n, dtype) in [("table", 5_000_011, DType::F32), ("half table", 3_000_017, DType::BF16)] {
        let w = Tensor::from_vec(numbers(n as u64, n), n, device).unwrap().to_dtype(dtype).unwrap();
        all.push((name.to_owned(), Var::from_tensor(&w).unwrap()));
    }
    all
}

#[test]
fn large_tensors_have_the_bits_of_the_cpu() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let first_look = Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } };
    let adaptive = [8, 4, 2].map(|bits| Format::Adaptive { bits });
    for options in adaptive.into_iter().chain([first_look]).map(bits) {
        let mut cpu = Run::of(large_variables(&CPU), &options, true)?;
        let mut card = Run::of(large_variables(&device), &options, true)?;
        cpu.go(0, 4)?;
        card.go(0, 4)?;
        assert!(state(&cpu.sum) == state(&card.sum), "{options:?}: accumulators differ");
        let (a, b) = (cpu.sum.read_out()?, card.sum.read_out()?);
        for ((name, on_cpu), (_, on_card)) in cpu.vars.iter().zip(&card.vars) {
            assert!(flat(&a[name]) == flat(&b[name]), "{name} {options:?}: read-out differs");
            assert!(flat(on_cpu) == flat(on_card), "{name} {options:?}: weights differ");
        }
    }
    let x = Tensor::from_vec(numbers(9, 5_000_011), 5_000_011, &CPU)?;
    for op in [Quantize::stochastic(Draw::new(5, 2)), Quantize::threshold(Threshold::TWN)] {
        for grouping in [Grouping::default(), Grouping::Tensor] {
            for dtype in [DType::F32, DType::BF16] {
                let op = op.grouping(grouping);
                let want = quantize(&x.to_dtype(dtype)?, &op)?;
                let got = quantize(&x.to_dtype(dtype)?.to_device(&device)?, &op)?;
                assert!(got.words_to_vec()? == want.words_to_vec()?, "{op:?} {dtype:?}: codes differ");
                assert!(got.scales_to_vec()? == want.scales_to_vec()?, "{op:?} {dtype:?}: scales differ");
                assert!(flat(&got.dequantize(dtype)?) == flat(&want.dequantize(dtype)?), "{op:?} {dtype:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_checkpoint_goes_on_on_the_other_device() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    for (i, options) in all_options().iter().enumerate() {
        for (from, to) in [(&CPU, &device), (&device, &CPU)] {
            let adam = i % 2 == 0;
            let mut whole = Run::new(&CPU, options, adam)?;
            whole.go(0, 41)?;
            let mut first = Run::new(from, options, adam)?;
            first.go(0, 22)?;
            let file = std::env::temp_dir().join(format!("trigrad-{}-{i}.safetensors", std::process::id()));
            first.sum.save(&file, Some(&first.optimizer))?;
            let mut second = Run::new(to, options, adam)?;
            for ((_, to), (_, from)) in second.vars.iter().zip(&first.vars) {
                to.set(&from.to_device(to.device())?)?;
            }
            second.sum.load(&file, Some(&mut second.optimizer))?;
            remove(&file);
            second.go(22, 41)?;
            assert_eq!(values(&whole.vars), values(&second.vars), "{options:?}");
            assert_eq!(state(&whole.sum), state(&second.sum), "{options:?}");
        }
    }
    Ok(())
}

fn remove(file: &PathBuf) {
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_window_with_inf_is_skipped_on_the_card() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    for place in [0, 1] {
        let options = Options { loss_scale: LossScale::dynamic(1024.0), clip_norm: Some(1.0), ..four() };
        let mut run = Run::new(&device, &options, true)?;
        let before = values(&run.vars);
        let mut store = gradients(&run.vars, 0);
        let (name, var) = run.vars[place].clone();
        let mut bad = vec![1.0f32; var.elem_count()];
        bad[0] = f32::INFINITY;
        store.insert(&var, Tensor::from_vec(bad, var.dims(), &device)?);
        run.sum.consume(store, 1.0)?;
        assert!(matches!(run.sum.read_out().unwrap_err().root(), Error::NonFinite { count: 1, first: 0 }));
        assert_eq!(run.optimizer.step(&mut run.sum)?, Outcome::Skipped { tensor: name, non_finite: 1 });
        assert_eq!((values(&run.vars), run.sum.options().loss_scale.value()), (before, 512.0));
        run.go(0, 3)?;
        assert_eq!(run.optimizer.updates(), 1);
    }
    Ok(())
}

/// What comes of a window whose second micro-batch has a NaN and an Inf, in a packed tensor or one kept in f32.
fn under(policy: NonFinite, device: &Device, place: usize) -> Result<(Vec<String>, Vec<Vec<f32>>, State)> {
    let options = Options { config: Config { non_finite: policy, ..four().config }, ..four() };
    let mut run = Run::new(device, &options, true)?;
    let mut said = Vec::new();
    for k in 0..3 {
        let mut store = gradients(&run.vars, k);
        if k == 1 {
            let var = &run.vars[place].1;
            let mut bad = flat(store.get(var).unwrap());
            let last = bad.len() - 1;
            (bad[0], bad[last]) = (f32::NAN, f32::INFINITY);
            let bad = Tensor::from_vec(bad, var.dims(), device)?.to_dtype(var.dtype())?;
            store.insert(var, bad);
        }
        said.push(format!("{:?}", run.sum.consume(store, 1.0)));
    }
    said.push(format!("{:?}", run.sum.read_out().map(drop)));
    said.push(format!("{:?}", run.optimizer.step(&mut run.sum)?));
    Ok((said, values(&run.vars), state(&run.sum)))
}

#[test]
fn non_finite_gradients_under_every_policy_are_what_they_are_on_the_cpu() -> Result<()> {
    let policies = [NonFinite::Defer, NonFinite::Zero, NonFinite::Reject];
    let places = [0, 1];
    let all = || policies.into_iter().flat_map(|policy| places.map(|place| (policy, place)));
    let expected: Vec<_> = all().map(|(policy, place)| under(policy, &CPU, place)).collect::<Result<_>>()?;
    for ((policy, place), (said, ..)) in all().zip(&expected) {
        let refused = said.iter().map(|s| s.starts_with("Err")).collect::<Vec<_>>();
        let first = policy == NonFinite::Reject;
        assert_eq!(refused, [false, first, false, policy == NonFinite::Defer, false], "{policy:?} {place}: {said:?}");
        assert_eq!(said[4].contains("Skipped"), policy == NonFinite::Defer, "{said:?}");
    }
    let Some((device, _alone)) = card() else { return Ok(()) };
    for ((policy, place), expected) in all().zip(expected) {
        assert_eq!(under(policy, &device, place)?, expected, "{policy:?} {place}");
    }
    Ok(())
}

#[test]
fn a_tensor_elsewhere_is_an_error_and_changes_nothing() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let mut run = Run::new(&device, &four(), true)?;
    run.go(0, 1)?;
    let before = state(&run.sum);
    let mut store = gradients(&run.vars, 1);
    store.insert(&run.vars[0].1, gradient(0, 1, &run.vars[0].1).to_device(&CPU)?);
    let e = run.sum.accumulate(&store, 1.0).unwrap_err();
    assert!(matches!(e.root(), Error::WrongDevice { .. }), "{e}");
    let named: HashMap<String, Tensor> =
        run.vars.iter().map(|(n, v)| Ok((n.clone(), v.to_device(&CPU)?))).collect::<candle_core::Result<_>>()?;
    assert!(run.sum.accumulate(&named, 1.0).is_err());
    assert_eq!(before, state(&run.sum));
    Ok(())
}

#[test]
fn a_model_trains_behind_candles_trait() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let (first, second) = (linear(64, 48, vb.pp("first"))?, linear(48, 8, vb.pp("second"))?);
    let x = Tensor::from_vec(numbers(1, 32 * 64), (32, 64), &device)?;
    let loss = || second.forward(&first.forward(&x)?.relu()?)?.sqr()?.mean_all();
    let config = AccumulatedConfig {
        inner: ParamsAdamW { lr: 1e-2, ..ParamsAdamW::default() },
        micro_batches: 4,
        options: Options { clip_norm: Some(1.0), ..four() },
    };
    let mut adam = Accumulated::<AdamW>::new(vars.all_vars(), config)?;
    let before = loss()?.to_scalar::<f32>()?;
    for _ in 0..40 {
        adam.backward_step(&loss()?)?;
    }
    let after = loss()?.to_scalar::<f32>()?;
    assert!(after < 0.5 * before, "{before} {after}");
    println!("{}", adam.gradients().summary());
    assert_eq!(adam.gradients().bytes_held(), adam.gradients().summary().bytes());
    Ok(())
}

/// candle's default device has a stream on every thread: the null stream, which is ordered with all of them, stands for it.
#[test]
fn the_device_shares_candles_context_and_stream() -> Result<()> {
    let Some((default, _alone)) = card() else { return Ok(()) };
    for (device, own) in [(Device::new_cuda_with_stream(0)?, true), (default, false)] {
        let trigrad::device::Device::Cuda(cuda) = trigrad::candle::device(&device)? else { panic!("not CUDA") };
        let stream = device.as_cuda_device()?.cuda_stream();
        assert_eq!(cuda.stream().cu_stream(), if own { stream.cu_stream() } else { std::ptr::null_mut() });
        assert_eq!(cuda.stream().context(), stream.context());
    }
    Ok(())
}
