//! candle tensors in and out: types, layouts, variables, and errors that change nothing.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Module, Optimizer, VarBuilder, VarMap, linear};
use std::collections::HashMap;
use trigrad::Error;
use trigrad::accumulator::{Accumulator, Config, Format, NonFinite, Reduce, Scales, Spec};
use trigrad::candle::{GradientAccumulator, quantize, quantize_all};
use trigrad::cpu::Cpu;
use trigrad::op::quantize::{Quantize, Threshold};
use trigrad::op::{BlockSize, Draw, Grouping};

const CPU: Device = Device::Cpu;

/// Numbers that f16 and bf16 hold too.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 64) as f32 - 31.5) / 16.0).collect()
}

fn matrix(rows: usize, cols: usize) -> Tensor {
    Tensor::from_vec(numbers(rows * cols), (rows, cols), &CPU).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn tensors_of_any_type_and_layout_give_the_bits_of_their_elements() {
    let x = matrix(24, 30);
    let op = Quantize::stochastic(Draw::new(5, 2));
    let want = quantize(&x, &op).unwrap();
    let want = (want.words_to_vec().unwrap(), want.scales_to_vec().unwrap());
    let apart = Tensor::cat(&[&x, &x], 0).unwrap().narrow(0, 24, 24).unwrap(); // contiguous, not at 0
    let across = x.t().unwrap().contiguous().unwrap().t().unwrap(); // not contiguous
    let strided = Tensor::cat(&[&x, &x], 1).unwrap().narrow(1, 0, 30).unwrap();
    assert!(apart.is_contiguous() && !across.is_contiguous() && !strided.is_contiguous());
    for t in [&x, &apart, &across, &strided] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let got = quantize(&t.to_dtype(dtype).unwrap(), &op).unwrap();
            assert_eq!((got.words_to_vec().unwrap(), got.scales_to_vec().unwrap()), want);
            assert_eq!(got.dims(), [24, 30]);
        }
    }
}

#[test]
fn ternary_tensors_know_what_they_hold() {
    let x = Tensor::new(&[[3f32, -1.0, 0.1, 2.0], [0.0, 0.0, 0.0, 0.0]], &CPU).unwrap();
    let op = Quantize::threshold(Threshold::Given(0.5)).grouping(Grouping::Row(4));
    let t = quantize(&x, &op).unwrap();
    assert_eq!(flat(&t.dequantize(DType::F32).unwrap()), [2.0, -2.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(t.dequantize(DType::BF16).unwrap().dtype(), DType::BF16);
    assert_eq!(flat(&t.trits(DType::F16).unwrap())[..4], [1.0, -1.0, 0.0, 1.0]);
    assert_eq!((t.count_nonzero().unwrap(), t.squared_norm().unwrap(), t.dot(&t).unwrap()), (3, 12.0, 12.0));
    assert_eq!((t.bytes_held(), t.elem_count(), t.grouping()), (8 + 4, 8, Grouping::Row(4)));
    let e = t.dequantize(DType::F64).unwrap_err();
    assert!(matches!(e, Error::ElementType { .. }), "{e}");
    let e = t.dot(&quantize(&matrix(4, 2), &op.grouping(Grouping::Row(2))).unwrap()).unwrap_err();
    assert!(matches!(e, Error::Shape { .. }), "{e}");
    let e = t.dot(&quantize(&x, &op.grouping(Grouping::Tensor)).unwrap()).unwrap_err();
    assert!(matches!(e, Error::Length { .. }), "{e}");
}

#[test]
fn tensors_in_a_list_draw_apart_and_errors_name_them() {
    let x = matrix(8, 8);
    let op = Quantize::stochastic(Draw::new(5, 2));
    let two = quantize_all(&[&x, &x], &op).unwrap();
    assert_ne!(two[0].words_to_vec().unwrap(), two[1].words_to_vec().unwrap());
    let nan = Tensor::new(&[0f32, 1.0, f32::NAN], &CPU).unwrap();
    let e = quantize_all(&[&x, &nan], &op).unwrap_err();
    assert!(matches!(e.root(), Error::NonFinite { count: 1, first: 2 }) && e.to_string().contains("#1"), "{e}");
    let e = quantize(&x.to_dtype(DType::I64).unwrap(), &op).unwrap_err();
    assert!(matches!(e, Error::ElementType { .. }), "{e}");
    let e = quantize(&x, &op.grouping(Grouping::Row(7))).unwrap_err();
    assert!(matches!(e, Error::Rows { .. }), "{e}");
    let e = quantize(&x, &Quantize::threshold(Threshold::Given(-1.0))).unwrap_err();
    assert!(matches!(e, Error::Parameter { .. }), "{e}");
    let empty = quantize(&Tensor::zeros((0, 4), DType::F32, &CPU).unwrap(), &op).unwrap();
    assert_eq!(empty.dequantize(DType::F32).unwrap().dims(), [0, 4]);
}

fn shapes() -> Vec<Spec> {
    vec![Spec::new("b", [20]), Spec::new("w", [20, 30])]
}

fn gradients() -> HashMap<String, Tensor> {
    let b = matrix(1, 20).reshape(20).unwrap().to_dtype(DType::BF16).unwrap();
    HashMap::from([("w".to_owned(), matrix(30, 20).t().unwrap()), ("b".to_owned(), b)])
}

#[test]
fn an_accumulator_of_tensors_has_the_bits_of_one_of_slices() {
    for format in [Format::Adaptive { bits: 2 }, Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } }]
    {
        let config = Config { format, seed: 9, block: BlockSize::new(32).unwrap(), ..Config::default() };
        let mut tensors = GradientAccumulator::new(&shapes(), config, &CPU).unwrap();
        let mut slices = Accumulator::new(Cpu::default(), &shapes(), config).unwrap();
        let g = gradients();
        let (b, w) = (flat(&g["b"]), flat(&g["w"]));
        for _ in 0..3 {
            tensors.accumulate(&g, 0.5).unwrap();
            slices.accumulate(&[("b", b[..].into()), ("w", w[..].into())], 0.5).unwrap();
        }
        let read = tensors.read_out(Reduce::Mean).unwrap();
        for name in ["b", "w"] {
            assert_eq!(flat(&read[name]), slices.to_vec::<f32>(name, Reduce::Mean).unwrap());
            assert_eq!(read[name].dims(), g[name].dims());
        }
        assert_eq!(tensors.inner().bytes_held(), slices.bytes_held());
    }
}

#[test]
fn errors_leave_an_accumulator_of_tensors_as_it_was() {
    let config = Config { non_finite: NonFinite::Reject, ..Config::default() };
    let mut acc = GradientAccumulator::new(&shapes(), config, &CPU).unwrap();
    acc.accumulate(&gradients(), 1.0).unwrap();
    let before = flat(&acc.read_out(Reduce::Sum).unwrap()["w"]);
    let mut fails = |change: &dyn Fn(&mut HashMap<String, Tensor>), weight| {
        let mut g = gradients();
        change(&mut g);
        let e = acc.accumulate(&g, weight).unwrap_err();
        assert_eq!((flat(&acc.read_out(Reduce::Sum).unwrap()["w"]), acc.inner().count()), (before.clone(), 1), "{e}");
        e
    };
    let put = |name: &'static str, t: Tensor| {
        move |g: &mut HashMap<String, Tensor>| {
            g.insert(name.to_owned(), t.clone());
        }
    };
    let e = fails(&put("v", matrix(1, 1)), 1.0);
    assert!(matches!(e, Error::UnknownTensor { .. }), "{e}");
    let e = fails(&|g| drop(g.remove("b")), 1.0);
    assert!(matches!(&e, Error::MissingTensor { name } if name == "b"), "{e}");
    let e = fails(&put("w", matrix(30, 20)), 1.0);
    assert!(matches!(e.root(), Error::Shape { .. }) && e.to_string().contains("`w`"), "{e}");
    let e = fails(&put("b", Tensor::zeros(20, DType::F64, &CPU).unwrap()), 1.0);
    assert!(matches!(e.root(), Error::ElementType { .. }) && e.to_string().contains("`b`"), "{e}");
    let e = fails(&put("b", Tensor::full(f32::INFINITY, 20, &CPU).unwrap()), 1.0);
    assert!(matches!(e.root(), Error::NonFinite { count: 20, first: 0 }), "{e}");
    let e = fails(&|_| (), f32::NAN);
    assert!(matches!(e, Error::Parameter { name: "weight", .. }), "{e}");
}

#[test]
fn gradients_of_variables_come_from_backward_and_go_to_the_optimizer() {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &CPU);
    let (first, second) = (linear(6, 5, vb.pp("first")).unwrap(), linear(5, 1, vb.pp("second")).unwrap());
    let loss = |x: &Tensor| second.forward(&first.forward(x)?.relu()?)?.sqr()?.mean_all();
    let mut acc =
        GradientAccumulator::from_varmap(&vars, Config { format: Format::Adaptive { bits: 8 }, ..Config::default() })
            .unwrap();
    let names: Vec<&str> = acc.inner().specs().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["first.bias", "first.weight", "second.bias", "second.weight"]);
    let x = matrix(16, 6);
    let dense = loss(&x).unwrap().backward().unwrap();
    for _ in 0..4 {
        acc.accumulate(&loss(&x).unwrap().backward().unwrap(), 2.0).unwrap();
    }
    let store = acc.read_out_store(Reduce::Mean).unwrap();
    for var in vars.all_vars() {
        let (got, want) = (flat(store.get(&var).unwrap()), flat(dense.get(&var).unwrap()));
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= largest / 50.0), "{got:?} {want:?}");
    }
    let before = loss(&x).unwrap().to_scalar::<f32>().unwrap();
    let mut adam = AdamW::new_lr(vars.all_vars(), 1e-2).unwrap();
    adam.step(&store).unwrap();
    assert!(loss(&x).unwrap().to_scalar::<f32>().unwrap() < before);
    // A variable that the loss does not reach has no gradient, and that is said.
    let partial = first.forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
    let e = acc.accumulate(&partial, 1.0).unwrap_err();
    assert!(matches!(&e, Error::MissingTensor { name } if name == "second.bias"), "{e}");
    assert_eq!(acc.inner().count(), 4);
}

#[test]
fn read_outs_have_the_types_of_their_variables() {
    let vars = [DType::BF16, DType::F32, DType::F16].map(|d| Var::zeros(40, d, &CPU).unwrap());
    let named: Vec<(String, Var)> = vars.iter().enumerate().map(|(i, v)| (format!("v{i}"), v.clone())).collect();
    let mut acc = GradientAccumulator::from_vars(&named, Config::default()).unwrap();
    let g: HashMap<String, Tensor> = named
        .iter()
        .map(|(name, var)| (name.clone(), Tensor::full(1.5f32, 40, &CPU).unwrap().to_dtype(var.dtype()).unwrap()))
        .collect();
    acc.accumulate(&g, 1.0).unwrap();
    let store = acc.read_out_store(Reduce::Mean).unwrap();
    for var in &vars {
        let t = store.get(var).unwrap();
        assert_eq!(t.dtype(), var.dtype());
        assert!(flat(t).iter().all(|x| (x - 1.5).abs() <= 1.5 / 7.0));
    }
    let integers = [("i".to_owned(), Var::zeros(4, DType::U32, &CPU).unwrap())];
    let e = GradientAccumulator::from_vars(&integers, Config::default()).map(|_| ()).unwrap_err();
    assert!(matches!(e.root(), Error::ElementType { .. }), "{e}");
    let shapes_only = GradientAccumulator::new(&shapes(), Config::default(), &CPU).unwrap();
    assert!(matches!(shapes_only.read_out_store(Reduce::Sum).unwrap_err(), Error::NoVariable { .. }));
}
