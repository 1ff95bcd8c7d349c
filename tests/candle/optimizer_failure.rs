//! Calls on a model's gradients that panic or fail: what is checked first leaves the window as it was, and what fails in
//! between is refused until reset, and never applied twice.
//!
//! The panics come from a gradient whose storage is shorter than its shape, which candle finds when it reads it.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};
use candle_nn::ParamsAdamW;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use trigrad::accumulator::{Config, Format, NonFinite, Scales};
use trigrad::candle::{FusedOptimizer, ModelGradients};
use trigrad::training::Options;
use trigrad::{Error, Result};

const CPU: Device = Device::Cpu;

/// A gradient of this shape whose elements are not there: reading it panics.
fn unreadable(rows: usize, cols: usize) -> Tensor {
    let storage = Storage::Cpu(CpuStorage::F32(vec![0.0]));
    Tensor::from_storage(storage, (cols, rows), BackpropOp::none(), false).t().unwrap()
}

/// Packed, packed in half width, kept in f32.
const SHAPES: [(&str, (usize, usize), DType); 4] =
    [("w", (70, 10), DType::F32), ("h", (26, 5), DType::BF16), ("b", (3, 3), DType::F32), ("c", (2, 3), DType::F32)];

fn vars() -> Vec<(String, Var)> {
    let var = |(name, shape, dtype): (&str, (usize, usize), DType)| {
        let w = Tensor::full(1.5f32, shape, &CPU).unwrap().to_dtype(dtype).unwrap();
        (name.to_owned(), Var::from_tensor(&w).unwrap())
    };
    SHAPES.map(var).into()
}

fn gradients(k: usize) -> HashMap<String, Tensor> {
    let one = |(name, (rows, cols), _): (&str, (usize, usize), DType)| {
        let x: Vec<f32> = (0..rows * cols).map(|i| ((i * 31 + k * 17) % 23) as f32 - 11.0).collect();
        (name.to_owned(), Tensor::from_vec(x, (rows, cols), &CPU).unwrap())
    };
    SHAPES.into_iter().map(one).collect()
}

fn options() -> Vec<Options> {
    let of =
        |format| Options { config: Config { format, seed: 3, ..Config::default() }, small: 16, ..Options::default() };
    vec![
        of(Format::Adaptive { bits: 4 }),
        of(Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } }),
        Options { residual_bits: Some(4), ..of(Format::Adaptive { bits: 2 }) },
    ]
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Everything that is held, as a file.
fn bytes(sum: &ModelGradients, name: &str) -> Vec<u8> {
    let at = file(name);
    sum.save(&at, None).unwrap();
    std::fs::read(&at).unwrap()
}

/// A panic where a gradient is read: all of them are read before anything is added, so the window is as it was.
#[test]
fn a_panic_in_a_gradient_leaves_the_window() -> Result<()> {
    for (o, options) in options().into_iter().enumerate() {
        for (name, (rows, cols), _) in SHAPES {
            let what = format!("options {o}, {name}");
            let mut sum = ModelGradients::from_vars(&vars(), options.clone())?;
            let mut same = ModelGradients::from_vars(&vars(), options.clone())?;
            sum.accumulate(&gradients(0), 0.5)?;
            same.accumulate(&gradients(0), 0.5)?;
            let mut bad = gradients(1);
            bad.insert(name.to_owned(), unreadable(rows, cols));
            let caught = catch_unwind(AssertUnwindSafe(|| sum.accumulate(&bad, 1.0)));
            assert!(caught.is_err(), "{what}: no panic");
            assert_eq!(sum.count(), 1, "{what}");
            for k in 2..4 {
                sum.accumulate(&gradients(k), 0.5)?;
                same.accumulate(&gradients(k), 0.5)?;
            }
            assert!(bytes(&sum, "panic-sum") == bytes(&same, "panic-same"), "{what}: the window differs");
        }
    }
    Ok(())
}

/// An error of the checks is none of the middle: the window is as it was, and goes on.
#[test]
fn an_error_of_the_checks_leaves_the_window() -> Result<()> {
    for (o, mut options) in options().into_iter().enumerate() {
        for non_finite in [NonFinite::Reject, NonFinite::Defer, NonFinite::Zero] {
            options.config.non_finite = non_finite;
            let mut sum = ModelGradients::from_vars(&vars(), options.clone())?;
            sum.accumulate(&gradients(0), 1.0)?;
            let before = bytes(&sum, "checks-before");
            let check = |e: Result<()>, sum: &mut ModelGradients, what: &str| {
                let e = e.err().unwrap_or_else(|| panic!("options {o}, {non_finite:?}: {what} was taken"));
                assert!(!matches!(e, Error::Refused { .. }), "{what}: {e}");
                assert!(bytes(sum, "checks-after") == before, "options {o}, {non_finite:?}: {what}: {e}");
            };
            let e = sum.accumulate(&gradients(1), f32::NAN);
            check(e, &mut sum, "a weight");
            let mut fewer = gradients(1);
            fewer.remove("c");
            let e = sum.accumulate(&fewer, 1.0);
            check(e, &mut sum, "a missing tensor");
            for name in ["w", "b"].iter().filter(|_| non_finite == NonFinite::Reject) {
                let mut bad = gradients(1);
                let nan = bad[*name].affine(f64::NAN, 0.0)?;
                bad.insert((*name).to_owned(), nan);
                let e = sum.accumulate(&bad, 1.0);
                check(e, &mut sum, name);
            }
            let index = sum.sums().micro_batch();
            sum.set_micro_batch(1 << 24);
            let e = sum.accumulate(&gradients(1), 1.0);
            sum.set_micro_batch(index);
            check(e, &mut sum, "the index of a micro-batch");
            sum.accumulate(&gradients(1), 1.0)?;
        }
    }
    Ok(())
}

/// Weights that can not be entered: all are entered before the first is updated, so nothing is.
#[test]
fn weights_that_are_not_there_leave_weights_and_window() -> Result<()> {
    let mut vars = vars();
    let storage = Storage::Cpu(CpuStorage::BF16(Vec::new()));
    vars[1].1 = Var::from_tensor(&Tensor::from_storage(storage, (26, 5), BackpropOp::none(), true))?;
    let mut sum = ModelGradients::from_vars(&vars, options()[0].clone())?;
    let mut adam = FusedOptimizer::adamw(&sum, ParamsAdamW::default())?;
    sum.accumulate(&gradients(0), 1.0)?;
    let before = vars[0].1.to_vec2::<f32>()?;
    for _ in 0..2 {
        let e = adam.step(&mut sum).unwrap_err();
        assert!(matches!(e, Error::Length { what: "storage of weights", .. }), "{e}");
        assert_eq!((vars[0].1.to_vec2::<f32>()?, sum.count(), adam.updates()), (before.clone(), 1, 0));
    }
    sum.read_out()?;
    sum.accumulate(&gradients(1), 1.0)
}

/// Hundreds of variables are entered some at a time. Where a later part can not be entered the first has been updated:
/// the error says so, and the window is not applied twice.
#[test]
fn a_failure_between_weights_refuses_the_window() -> Result<()> {
    let mut vars: Vec<(String, Var)> =
        (0..70).map(|i| Ok((format!("v{i:02}"), Var::ones(3, DType::F32, &CPU)?))).collect::<Result<_>>()?;
    let storage = Storage::Cpu(CpuStorage::F32(Vec::new()));
    vars[69].1 = Var::from_tensor(&Tensor::from_storage(storage, 3, BackpropOp::none(), true))?;
    let mut sum = ModelGradients::from_vars(&vars, Options::default())?;
    let mut sgd = FusedOptimizer::sgd(&sum, 0.5, 0.0, 0.0, false)?;
    let one = |(name, _): &(String, Var)| (name.clone(), Tensor::ones(3, DType::F32, &CPU).unwrap());
    let ones: HashMap<String, Tensor> = vars.iter().map(one).collect();
    sum.accumulate(&ones, 1.0)?;
    let e = sgd.step(&mut sum).unwrap_err();
    assert!(matches!(e, Error::UpdatedInPart { .. }), "{e}");
    assert_eq!(vars[0].1.to_vec1::<f32>()?, [0.5; 3]);
    assert!(matches!(sgd.step(&mut sum), Err(Error::Refused { .. })));
    assert!(matches!(sum.accumulate(&ones, 1.0), Err(Error::Refused { .. })));
    assert!(matches!(sum.read_out(), Err(Error::Refused { .. })));
    assert!(matches!(sum.norm(), Err(Error::Refused { .. })));
    assert_eq!(vars[0].1.to_vec1::<f32>()?, [0.5; 3], "not twice");
    sum.reset()?;
    sum.accumulate(&ones, 1.0)
}

/// What rounding lost goes on with the window that follows, the reports of the window that ends do not: in a run that
/// was loaded from a file in between as in one that was not.
#[test]
fn residuals_carry_on_and_their_reports_do_not() -> Result<()> {
    let mut options = options()[2].clone();
    options.config.non_finite = NonFinite::Zero;
    let mut whole = ModelGradients::from_vars(&vars(), options.clone())?;
    let mut bad = gradients(0);
    let inf = bad["w"].affine(f64::INFINITY, 0.0)?;
    bad.insert("w".to_owned(), inf);
    whole.accumulate(&bad, 1.0)?;
    let mut cut = ModelGradients::from_vars(&vars(), options)?;
    let first = bytes(&whole, "residual-first");
    cut.load(file("residual-first"), None)?;
    assert!(bytes(&cut, "residual-cut") == first);
    let found = |bytes: &[u8]| {
        let read = safetensors::SafeTensors::deserialize(bytes).unwrap();
        read.tensor("residual.reports").unwrap().data().iter().any(|b| *b != 0)
    };
    assert!(found(&first), "nothing was reported to begin with");
    for sum in [&mut whole, &mut cut] {
        sum.reset()?;
        assert!(!found(&bytes(sum, "residual-reset")));
        sum.accumulate(&gradients(1), 1.0)?;
    }
    assert!(bytes(&whole, "residual-whole") == bytes(&cut, "residual-cut"));
    Ok(())
}
