//! Release layers beside `candle_nn`'s: results and gradients bit for bit, and what is wrong is a clear error.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Conv2dConfig, Module, ParamsAdamW, VarBuilder, VarMap};
use trigrad::Error;
use trigrad::accumulator::{Config, Format, NonFinite, Scales};
use trigrad::candle::release::{self, Release};
use trigrad::candle::{FusedOptimizer, ModelGradients};
use trigrad::training::{LossScale, Options, Outcome};

const CPU: Device = Device::Cpu;

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 4001) as f32 / 2000.0 - 1.0;
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &CPU).unwrap()
}

/// Bits, with one zero: candle adds every gradient to +0.
fn bits(t: &Tensor) -> Vec<u32> {
    let flat: Vec<f32> = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(|x| (x + 0.0).to_bits()).collect()
}

/// Sums in f32, so that one micro-batch is held as it is.
fn wide() -> Options {
    Options { config: Config { format: Format::F32, ..Config::default() }, small: 0, ..Options::default() }
}

fn sorted(vars: &VarMap) -> Vec<(String, Var)> {
    let mut named: Vec<_> = vars.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

/// Compares a model of stock layers with one of release layers over the same variables. `x` is multiplied by a variable
/// first, so that the gradient of the input counts too.
fn same(what: &str, vars: &VarMap, release: &Release, x: &Tensor, stock: &dyn Module, ours: &dyn Module) {
    let dtype = x.dtype();
    let scale = vars.get(x.dims(), "scale", candle_nn::Init::Const(1.0), dtype, &CPU).unwrap();
    for (i, (_, var)) in sorted(vars).iter().enumerate() {
        var.set(&numbers(var.dims(), 7 * i + 1).to_dtype(dtype).unwrap()).unwrap();
    }
    let mut gradients = ModelGradients::from_varmap(vars, wide()).unwrap();
    for tracked in [true, false] {
        let input = || if tracked { (x * &scale).unwrap() } else { x.clone() };
        let (want, got) = (stock.forward(&input()).unwrap(), ours.forward(&input()).unwrap());
        assert_eq!(want.dims(), got.dims(), "{what}");
        assert_eq!(bits(&want), bits(&got), "{what}: result");
        let upstream = numbers(want.dims(), 5).to_dtype(dtype).unwrap();
        let loss = |y: &Tensor| (y * &upstream).unwrap().sum_all().unwrap();
        let want = loss(&want).backward().unwrap();
        gradients.begin_micro_batch(1.0).unwrap();
        gradients.backward_part(release, &loss(&got)).unwrap();
        if !tracked {
            let zeros = [("scale".to_owned(), scale.zeros_like().unwrap())];
            gradients.add_part(&std::collections::HashMap::from(zeros)).unwrap();
        }
        gradients.finish_micro_batch().unwrap();
        let got = gradients.read_out().unwrap();
        for (name, var) in sorted(vars) {
            if let Some(want) = want.get(&var) {
                assert_eq!(want.dims(), got[&name].dims());
                assert!(bits(want) == bits(&got[&name]), "{what}: gradient of {name}, input tracked: {tracked}");
            }
        }
        gradients.reset().unwrap();
    }
}

fn builder(vars: &VarMap) -> VarBuilder<'_> {
    VarBuilder::from_varmap(vars, DType::F32, &CPU)
}

#[test]
fn linear_is_candles() {
    let shapes: [&[usize]; 10] = [
        &[1, 5],
        &[3, 5],
        &[17, 64],
        &[64, 64],
        &[700, 96],
        &[2300, 40],
        &[4, 9, 64],
        &[2, 3, 9, 64],
        &[3, 300, 33],
        &[128, 512],
    ];
    for shape in shapes {
        for outer in [1, 7, 64, 130] {
            for bias in [false, true] {
                let (vars, release) = (VarMap::new(), Release::new());
                let stock = candle_nn::linear_b(*shape.last().unwrap(), outer, bias, builder(&vars)).unwrap();
                let ours = release::Linear::new(stock.clone(), &release);
                same(&format!("linear {shape:?} to {outer}"), &vars, &release, &numbers(shape, 3), &stock, &ours);
            }
        }
    }
}

/// Multiplies a batch whose matrices do not lie one after the other.
struct Turned<M>(M);

impl<M: Module> Module for Turned<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(&x.transpose(1, 2)?)
    }
}

#[test]
fn half_precision_is_candles() {
    for dtype in [DType::BF16, DType::F16] {
        let input = |shape: &[usize]| numbers(shape, 3).to_dtype(dtype).unwrap();
        for shape in [&[3, 5][..], &[17, 64], &[130, 96], &[4, 9, 64]] {
            for outer in [7, 64] {
                let (vars, release) = (VarMap::new(), Release::new());
                let vb = VarBuilder::from_varmap(&vars, dtype, &CPU);
                let stock = candle_nn::linear(*shape.last().unwrap(), outer, vb).unwrap();
                let ours = release::Linear::new(stock.clone(), &release);
                same(&format!("linear {shape:?}, {dtype:?}"), &vars, &release, &input(shape), &stock, &ours);
            }
        }
        let (vars, release) = (VarMap::new(), Release::new());
        let stock = candle_nn::embedding(20, 24, VarBuilder::from_varmap(&vars, dtype, &CPU)).unwrap();
        let ours = release::Embedding::new(stock.clone(), &release);
        let (stock, ours) = (candle_nn::func(|x| pick(&stock, x)), candle_nn::func(|x| pick(&ours, x)));
        same("embedding", &vars, &release, &input(&[90, 20]), &stock, &ours);
    }
}

#[test]
fn linear_of_turned_inputs_is_candles() {
    for shape in [[4, 24, 9], [3, 24, 40]] {
        let (vars, release) = (VarMap::new(), Release::new());
        let stock = candle_nn::linear(24, 31, builder(&vars)).unwrap();
        let ours = Turned(release::Linear::new(stock.clone(), &release));
        same("turned linear", &vars, &release, &numbers(&shape, 3), &Turned(stock), &ours);
    }
}

#[test]
fn products_and_passed_weights_are_candles() {
    let (vars, release) = (VarMap::new(), Release::new());
    let weight = vars.get((48, 56), "w", candle_nn::Init::Const(0.0), DType::F32, &CPU).unwrap();
    let norm = vars.get(56, "norm", candle_nn::Init::Const(0.0), DType::F32, &CPU).unwrap();
    let stock = candle_nn::func(|x| x.matmul(&weight)?.broadcast_mul(&norm)?.broadcast_add(&norm));
    let ours = candle_nn::func(|x| {
        let norm = release.pass(&norm)?;
        release.matmul(x, &weight)?.broadcast_mul(&norm)?.broadcast_add(&norm)
    });
    same("product", &vars, &release, &numbers(&[37, 48], 3), &stock, &ours);
}

#[test]
fn norms_of_passed_weights_are_candles() {
    for shape in [&[7, 40][..], &[3, 5, 40]] {
        let (vars, release) = (VarMap::new(), Release::new());
        let get = |name: &str| vars.get(40, name, candle_nn::Init::Const(1.0), DType::F32, &CPU).unwrap();
        let (rms, layer, bias) = (get("rms"), get("layer"), get("bias"));
        let stock = candle_nn::func(|x| {
            let x = candle_nn::RmsNorm::new(rms.clone(), 1e-5).forward_diff(x)?;
            candle_nn::LayerNorm::new_no_bias(layer.clone(), 1e-5).forward(&x)?.broadcast_add(&bias)
        });
        let ours = candle_nn::func(|x| {
            let x = candle_nn::RmsNorm::new(release.pass(&rms)?, 1e-5).forward_diff(x)?;
            let x = candle_nn::LayerNorm::new_no_bias(release.pass(&layer)?, 1e-5).forward(&x)?;
            x.broadcast_add(&release.pass(&bias)?)
        });
        same("norms", &vars, &release, &numbers(shape, 3), &stock, &ours);
    }
}

/// Rows picked by the place of the largest of each row of the input: indices, and a path of their own for the input.
fn pick(embed: &dyn Module, x: &Tensor) -> Result<Tensor> {
    embed.forward(&x.detach().argmax(1)?)?.broadcast_add(&x.sum_keepdim(1)?.sum_all()?)
}

#[test]
fn embedding_is_candles() {
    let (vars, release) = (VarMap::new(), Release::new());
    let stock = candle_nn::embedding(20, 24, builder(&vars)).unwrap();
    let ours = release::Embedding::new(stock.clone(), &release);
    let (stock, ours) = (candle_nn::func(|x| pick(&stock, x)), candle_nn::func(|x| pick(&ours, x)));
    same("embedding", &vars, &release, &numbers(&[90, 20], 3), &stock, &ours);
    // Indices of two dimensions.
    let layer = release::embedding(20, 24, builder(&vars), &release).unwrap();
    let ids = Tensor::new(&[[0u32, 3, 3], [19, 0, 1]], &CPU).unwrap();
    assert_eq!(layer.forward(&ids).unwrap().dims(), [2, 3, 24]);
}

#[test]
fn conv2d_is_candles() {
    for (padding, stride, dilation, groups) in
        [(0, 1, 1, 1), (1, 1, 1, 1), (1, 2, 1, 1), (2, 1, 2, 1), (0, 3, 1, 1), (1, 1, 1, 2), (1, 2, 1, 4)]
    {
        for bias in [false, true] {
            let config = Conv2dConfig { padding, stride, dilation, groups, ..Conv2dConfig::default() };
            let (vars, release) = (VarMap::new(), Release::new());
            let make = if bias { candle_nn::conv2d } else { candle_nn::conv2d_no_bias };
            let stock = make(4, 8, 3, config, builder(&vars)).unwrap();
            let ours = release::Conv2d::new(stock.clone(), &release);
            same(&format!("{config:?}"), &vars, &release, &numbers(&[3, 4, 10, 10], 3), &stock, &ours);
        }
    }
}

/// A model of two layers of which one has its weights released, and one not.
struct Model {
    vars: VarMap,
    release: Release,
    first: release::Linear,
    last: candle_nn::Linear,
}

impl Model {
    fn new() -> Self {
        let (vars, release) = (VarMap::new(), Release::new());
        let first = release::linear(64, 64, builder(&vars).pp("first"), &release).unwrap();
        let last = candle_nn::linear(64, 8, builder(&vars).pp("last")).unwrap();
        for (i, (_, var)) in sorted(&vars).iter().enumerate() {
            var.set(&(numbers(var.dims(), i) * 0.1).unwrap()).unwrap();
        }
        Model { vars, release, first, last }
    }

    fn loss(&self, first: &dyn Module, micro_batch: usize) -> Tensor {
        let x = numbers(&[16, 64], micro_batch + 50);
        self.last.forward(&first.forward(&x).unwrap().relu().unwrap()).unwrap().sqr().unwrap().mean_all().unwrap()
    }
}

#[test]
fn a_training_comes_to_the_same_bits() {
    let adaptive = |bits| Options {
        config: Config { format: Format::Adaptive { bits }, ..Config::default() },
        ..Options::default()
    };
    let format = Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } };
    let exact = Options { config: Config { format, ..Config::default() }, ..Options::default() };
    let scaled = Options { loss_scale: LossScale::fixed(1024.0), clip_norm: Some(0.01), ..adaptive(4) };
    let feedback = Options { residual_bits: Some(4), ..adaptive(4) };
    for options in [adaptive(2), adaptive(8), exact, scaled, feedback] {
        let run = |released: bool| {
            let model = Model::new();
            let mut gradients = ModelGradients::from_varmap(&model.vars, options.clone()).unwrap();
            let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
            for micro_batch in 0..12 {
                if released {
                    let loss = model.loss(&model.first, micro_batch);
                    gradients.backward(&model.release, &loss, 0.5).unwrap();
                } else {
                    let loss = gradients.scale_loss(&model.loss(model.first.layer(), micro_batch)).unwrap();
                    gradients.consume(loss.backward().unwrap(), 0.5).unwrap();
                }
                if micro_batch % 4 == 3 {
                    assert!(adam.step(&mut gradients).unwrap().updated());
                }
            }
            sorted(&model.vars).iter().map(|(_, var)| bits(var)).collect::<Vec<_>>()
        };
        assert!(run(true) == run(false), "{options:?}");
    }
}

#[test]
fn wrong_uses_are_clear_errors() {
    let model = Model::new();
    let loss = || model.loss(&model.first, 0);
    let e = loss().backward().unwrap_err();
    assert!(e.to_string().contains("no micro-batch is open: a release layer"), "{e}");

    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
    let e = gradients.backward_part(&model.release, &loss()).unwrap_err();
    assert!(matches!(e, Error::NoMicroBatch { .. }), "{e}");
    // Another release than the layers'.
    let e = gradients.backward(&Release::new(), &loss(), 1.0).unwrap_err();
    assert!(e.to_string().contains("with the release that the layers were made with"), "{e}");
    assert_eq!(gradients.count(), 0);
    gradients.backward(&model.release, &loss(), 1.0).unwrap(); // nothing was written: it goes on
    assert_eq!(gradients.count(), 1);

    let reject =
        Options { config: Config { non_finite: NonFinite::Reject, ..Config::default() }, ..Options::default() };
    let mut reject = ModelGradients::from_varmap(&model.vars, reject).unwrap();
    let e = reject.backward(&model.release, &loss(), 1.0).unwrap_err();
    assert!(matches!(e, Error::Conflict { .. }), "{e}");
}

#[test]
fn a_weight_used_twice_says_so_or_is_refused() {
    let model = Model::new();
    let twice = candle_nn::func(|x| model.first.forward(&model.first.forward(x)?.relu()?));
    let mut gradients = ModelGradients::from_varmap(&model.vars, wide()).unwrap();
    let e = gradients.backward(&model.release, &model.loss(&twice, 0), 1.0).unwrap_err();
    assert!(matches!(&e, Error::PartTwice { .. }) && e.to_string().contains("Release::repeated"), "{e}");
    let e = gradients.backward(&model.release, &model.loss(&model.first, 0), 1.0).unwrap_err();
    assert!(matches!(e, Error::Refused { .. }), "{e}");
    gradients.reset().unwrap();
    for (name, var) in sorted(&model.vars) {
        if name.starts_with("first") {
            model.release.repeated(&var);
        }
    }
    gradients.backward(&model.release, &model.loss(&twice, 0), 1.0).unwrap();
    let got = gradients.read_out().unwrap();
    let stock = model.first.layer();
    let stock = candle_nn::func(|x| stock.forward(&stock.forward(x)?.relu()?));
    let want = model.loss(&stock, 0).backward().unwrap();
    for (name, var) in sorted(&model.vars) {
        // Two gradients, added in the same order in f32.
        assert!(bits(want.get(&var).unwrap()) == bits(&got[&name]), "{name}");
    }
}

#[test]
fn a_loss_that_fails_half_way_refuses_the_window_and_the_next_goes_on() {
    let model = Model::new();
    let before: Vec<_> = sorted(&model.vars).iter().map(|(_, v)| bits(v)).collect();
    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
    let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
    gradients.backward(&model.release, &model.loss(&model.first, 0), 1.0).unwrap();
    let other = Release::new();
    let stranger = release::Linear::new(candle_nn::Linear::new(model.first.layer().weight().clone(), None), &other);
    let both = candle_nn::func(|x| model.first.forward(&stranger.forward(x)?));
    let e = gradients.backward(&model.release, &model.loss(&both, 1), 1.0).unwrap_err();
    assert!(e.to_string().contains("no micro-batch is open"), "{e}");
    let e = adam.step(&mut gradients).unwrap_err();
    assert!(matches!(&e, Error::Refused { reason } if reason.contains("given up")), "{e}");
    assert_eq!(before, sorted(&model.vars).iter().map(|(_, v)| bits(v)).collect::<Vec<_>>());
    gradients.reset().unwrap();
    gradients.backward(&model.release, &model.loss(&model.first, 0), 1.0).unwrap();
    assert!(adam.step(&mut gradients).unwrap().updated());
}

#[test]
fn nan_of_a_layer_skips_the_window() {
    let model = Model::new();
    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
    let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
    let loss = model.loss(&model.first, 0).affine(f64::NAN, 0.0).unwrap();
    gradients.backward(&model.release, &loss, 1.0).unwrap();
    assert!(matches!(adam.step(&mut gradients).unwrap(), Outcome::Skipped { .. }));
}

#[test]
fn frozen_and_left_out_weights_take_no_part() {
    let model = Model::new();
    let options = Options { leave_out: vec!["first.weight".into()], ..wide() };
    let mut gradients = ModelGradients::from_varmap(&model.vars, options).unwrap();
    gradients.backward(&model.release, &model.loss(&model.first, 0), 1.0).unwrap();
    assert_eq!(gradients.read_out().unwrap().len(), 3);
    let frozen = candle_nn::Linear::new(numbers(&[64, 64], 1), None);
    let frozen = release::Linear::new(frozen, &model.release);
    assert!(model.loss(&frozen, 0).backward().is_ok());
}
