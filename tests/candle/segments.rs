//! A candle model in segments beside the same model in one backward pass: the same bits; what is wrong is a clear error.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use candle_nn::{BatchNorm, BatchNormConfig, Dropout, Linear, Module, ParamsAdamW, VarBuilder, VarMap};
use trigrad::Error;
use trigrad::accumulator::{Config, Format, NonFinite};
use trigrad::candle::release::{self, Release};
use trigrad::candle::{Activations, FusedOptimizer, ModelGradients};
use trigrad::training::{LossScale, Options};

const CPU: Device = Device::Cpu;
const BOTH: [Activations; 2] = [Activations::Keep, Activations::Recompute];
const WIDTH: usize = 48;
const SYMBOLS: usize = 20;

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 4001) as f32 / 2000.0 - 1.0;
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &CPU).unwrap()
}

/// Bits, with one zero: candle adds every gradient to +0.
fn bits(t: &Tensor) -> Vec<u32> {
    let flat: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(|x| (x + 0.0).to_bits()).collect()
}

fn sorted(vars: &VarMap) -> Vec<(String, Var)> {
    let mut named: Vec<_> = vars.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

fn weights(vars: &VarMap) -> Vec<Vec<u32>> {
    sorted(vars).iter().map(|(_, var)| bits(var)).collect()
}

/// Sums in f32, so that one micro-batch is held as it is.
fn wide() -> Options {
    Options { config: Config { format: Format::F32, ..Config::default() }, small: 0, ..Options::default() }
}

/// An embedding, two blocks with a residual each, and a loss; the first block's layers are release layers.
struct Model {
    vars: VarMap,
    release: Release,
    embed: candle_nn::Embedding,
    ours: [release::Linear; 2],
    stock: [Linear; 2],
    out: Linear,
}

impl Model {
    fn new() -> Self {
        let (vars, release) = (VarMap::new(), Release::new());
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &CPU);
        let linear = |name: &str| candle_nn::linear(WIDTH, WIDTH, vb.pp(name)).unwrap();
        let model = Model {
            embed: candle_nn::embedding(SYMBOLS, WIDTH, vb.pp("embed")).unwrap(),
            ours: ["a", "b"].map(|name| release::Linear::new(linear(name), &release)),
            stock: ["c", "d"].map(linear),
            out: candle_nn::linear(WIDTH, SYMBOLS, vb.pp("out")).unwrap(),
            vars,
            release,
        };
        for (i, (_, var)) in sorted(&model.vars).iter().enumerate() {
            var.set(&(numbers(var.dims(), i) * 0.2).unwrap()).unwrap();
        }
        model
    }

    fn ids(micro_batch: usize, rows: usize) -> Tensor {
        let id = |i: usize| ((i * 31 + micro_batch * 7) % SYMBOLS) as u32;
        Tensor::from_vec((0..rows).map(id).collect::<Vec<_>>(), rows, &CPU).unwrap()
    }

    fn block(x: &Tensor, up: &dyn Module, down: &dyn Module) -> Result<Tensor> {
        x + down.forward(&up.forward(x)?.gelu()?)?
    }

    fn loss(&self, x: &Tensor) -> Result<Tensor> {
        let target = Self::ids(3, x.dim(0)?);
        candle_nn::loss::cross_entropy(&self.out.forward(x)?, &target)
    }

    /// The whole of it, of candle's own layers, with something before the loss.
    fn whole(&self, ids: &Tensor, before: &dyn Module) -> Tensor {
        let x = self.embed.forward(ids).unwrap();
        let x = Self::block(&x, self.ours[0].layer(), self.ours[1].layer()).unwrap();
        let x = Self::block(&x, &self.stock[0], &self.stock[1]).unwrap();
        self.loss(&before.forward(&x).unwrap()).unwrap()
    }

    /// Runs it in segments, with something before the loss.
    fn run(
        &self,
        gradients: &mut ModelGradients,
        ids: &Tensor,
        before: &dyn Module,
        activations: Activations,
    ) -> trigrad::Result<Tensor> {
        let first = |x: &Tensor| -> Result<Tensor> { Self::block(x, &self.ours[0], &self.ours[1]) };
        let second =
            |x: &Tensor| -> Result<Tensor> { before.forward(&Self::block(x, &self.stock[0], &self.stock[1])?) };
        let loss = |x: &Tensor| -> Result<Tensor> { self.loss(x) };
        let segments: [&dyn Module; 4] = [&self.embed, &first, &second, &loss];
        gradients.backward_in_segments(&self.release, &segments, ids, activations, 0.5)
    }
}

fn nothing(x: &Tensor) -> Result<Tensor> {
    Ok(x.clone())
}

#[test]
fn gradients_are_those_of_one_backward_pass() {
    let (model, ids) = (Model::new(), Model::ids(0, 24));
    // What a segment gives need not lie together, nor at the start of what holds it.
    let part = |x: &Tensor| -> Result<Tensor> { x.narrow(0, 5, 12) };
    let turned = |x: &Tensor| -> Result<Tensor> { x.t()?.contiguous()?.t() };
    let wide_rows = |x: &Tensor| -> Result<Tensor> { x.narrow(0, 2, 1)?.broadcast_as((7, WIDTH)) };
    let befores: [&dyn Module; 4] = [&nothing, &part, &turned, &wide_rows];
    for before in befores {
        let whole = model.whole(&ids, before);
        let want = whole.backward().unwrap();
        for activations in BOTH {
            let mut gradients = ModelGradients::from_varmap(&model.vars, wide()).unwrap();
            let loss = model.run(&mut gradients, &ids, before, activations).unwrap();
            assert_eq!(bits(&whole), bits(&loss));
            let got = gradients.read_out().unwrap();
            for (name, var) in sorted(&model.vars) {
                assert!(bits(want.get(&var).unwrap()) == bits(&got[&name]), "{name}, {activations:?}");
            }
        }
    }
}

#[test]
fn a_training_comes_to_the_same_bits() {
    let config = Config { format: Format::Adaptive { bits: 4 }, ..Config::default() };
    let options = Options { config, loss_scale: LossScale::fixed(1024.0), clip_norm: Some(0.01), ..Options::default() };
    let train = |how: Option<Activations>| {
        let model = Model::new();
        let mut gradients = ModelGradients::from_varmap(&model.vars, options.clone()).unwrap();
        let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
        for micro_batch in 0..6 {
            let ids = Model::ids(micro_batch, 12);
            match how {
                Some(activations) => drop(model.run(&mut gradients, &ids, &nothing, activations).unwrap()),
                None => {
                    let loss = gradients.scale_loss(&model.whole(&ids, &nothing)).unwrap();
                    gradients.consume(loss.backward().unwrap(), 0.5).unwrap();
                }
            }
            if micro_batch % 3 == 2 {
                assert!(adam.step(&mut gradients).unwrap().updated());
            }
        }
        weights(&model.vars)
    };
    let want = train(None);
    for activations in BOTH {
        assert!(train(Some(activations)) == want, "{activations:?}");
    }
}

#[test]
fn dropout_is_found_out_and_the_window_says_so() {
    let (model, ids) = (Model::new(), Model::ids(0, 24));
    let before = weights(&model.vars);
    let dropout = Dropout::new(0.5);
    let dropout = |x: &Tensor| -> Result<Tensor> { dropout.forward(x, true) };
    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
    let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
    let e = model.run(&mut gradients, &ids, &dropout, Activations::Recompute).unwrap_err();
    assert!(matches!(e, Error::SegmentDiffers { segment: 2, of: 4, elements } if elements > 0), "{e}");
    assert!(e.to_string().contains("Activations::Keep"), "{e}");
    let e = adam.step(&mut gradients).unwrap_err();
    assert!(matches!(&e, Error::Refused { reason } if reason.contains("segment 2 of 4")), "{e}");
    assert_eq!(before, weights(&model.vars));
    gradients.reset().unwrap();
    model.run(&mut gradients, &ids, &dropout, Activations::Keep).unwrap();
    assert!(adam.step(&mut gradients).unwrap().updated());
}

#[test]
fn nan_of_a_segment_is_no_difference_and_skips_the_window() {
    let (model, ids) = (Model::new(), Model::ids(0, 24));
    let nan = |x: &Tensor| -> Result<Tensor> { x * f64::NAN };
    for activations in BOTH {
        let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
        let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
        model.run(&mut gradients, &ids, &nan, activations).unwrap();
        assert!(adam.step(&mut gradients).unwrap().skipped());
    }
}

#[test]
fn a_segment_that_forgets_its_input_is_found_before_anything_is_added() {
    let (model, ids) = (Model::new(), Model::ids(0, 24));
    let mut gradients = ModelGradients::from_varmap(&model.vars, wide()).unwrap();
    let constant = |x: &Tensor| -> Result<Tensor> { x.zeros_like()?.broadcast_add(model.stock[0].bias().unwrap()) };
    let detached = |x: &Tensor| -> Result<Tensor> { Ok(x.detach()) };
    let forgets: [&dyn Module; 2] = [&constant, &detached];
    for activations in BOTH {
        for forgets in forgets {
            let e = model.run(&mut gradients, &ids, forgets, activations).unwrap_err();
            assert!(matches!(e, Error::SegmentDetached { segment: 2, of: 4 }), "{e}");
            assert!(!gradients.is_open() && gradients.count() == 0);
        }
        model.run(&mut gradients, &ids, &nothing, activations).unwrap();
        gradients.reset().unwrap();
    }
}

#[test]
fn wrong_calls_are_errors_and_nothing_is_lost() {
    let (model, ids) = (Model::new(), Model::ids(0, 24));
    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
    let run = |gradients: &mut ModelGradients, segments: &[&dyn Module]| {
        gradients.backward_in_segments(&model.release, segments, &ids, Activations::Keep, 1.0).unwrap_err()
    };
    let e = run(&mut gradients, &[]);
    assert!(matches!(e, Error::Parameter { name: "segments", .. }), "{e}");
    let e = run(&mut gradients, &[&model.embed]);
    assert!(matches!(&e, Error::Shape { expected, got } if expected.is_empty() && got[..] == [24, WIDTH]), "{e}");
    let wrong = |x: &Tensor| -> Result<Tensor> { x.reshape(7) };
    assert!(matches!(run(&mut gradients, &[&model.embed, &wrong]), Error::Candle(_)));
    gradients.begin_micro_batch(1.0).unwrap();
    assert!(matches!(run(&mut gradients, &[&model.embed]), Error::MicroBatchOpen { .. }));
    gradients.abandon_micro_batch();
    assert_eq!(gradients.count(), 0);
    model.run(&mut gradients, &ids, &nothing, Activations::Keep).unwrap();
    assert_eq!((gradients.count(), gradients.weights()), (1, 0.5));

    let config = Config { non_finite: NonFinite::Reject, ..Config::default() };
    let mut reject = ModelGradients::from_varmap(&model.vars, Options { config, ..Options::default() }).unwrap();
    let e = model.run(&mut reject, &ids, &nothing, Activations::Keep).unwrap_err();
    assert!(matches!(e, Error::Conflict { .. }), "{e}");
}

#[test]
fn a_weight_of_two_segments_says_so_or_is_refused() {
    let (model, ids) = (Model::new(), Model::ids(0, 24));
    let tied = model.stock[0].clone();
    let again = |x: &Tensor| -> Result<Tensor> { tied.forward(x) };
    let loss = |x: &Tensor| -> Result<Tensor> { tied.forward(x)?.sqr()?.mean_all() };
    let segments: [&dyn Module; 3] = [&model.embed, &again, &loss];
    let whole = segments.iter().try_fold(ids.clone(), |x, segment| segment.forward(&x)).unwrap();
    let want = whole.backward().unwrap();
    let named: Vec<_> =
        sorted(&model.vars).into_iter().filter(|(name, _)| want_has(&want, &model.vars, name)).collect();
    assert_eq!(named.len(), 3);
    let mut gradients = ModelGradients::from_vars(&named, wide()).unwrap();
    for activations in BOTH {
        let release = Release::new();
        let e = gradients.backward_in_segments(&release, &segments, &ids, activations, 1.0).unwrap_err();
        assert!(matches!(&e, Error::PartTwice { .. }) && e.to_string().contains("Release::repeated"), "{e}");
        gradients.reset().unwrap();
        named.iter().for_each(|(_, var)| release.repeated(var));
        gradients.backward_in_segments(&release, &segments, &ids, activations, 1.0).unwrap();
        let got = gradients.read_out().unwrap();
        for (name, var) in &named {
            // Two gradients, added in the same order in f32.
            assert!(bits(want.get(var).unwrap()) == bits(&got[name]), "{name}");
        }
        gradients.reset().unwrap();
    }
}

fn want_has(store: &candle_core::backprop::GradStore, vars: &VarMap, name: &str) -> bool {
    sorted(vars).iter().any(|(n, var)| n == name && store.get(var).is_some())
}

#[test]
fn statistics_of_a_batch_norm_move_once() {
    let run = |activations: Activations| {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &CPU);
        let norm: BatchNorm = candle_nn::batch_norm(8, BatchNormConfig::default(), vb.pp("norm")).unwrap();
        let (first, last) =
            (candle_nn::linear(8, 8, vb.pp("a")).unwrap(), candle_nn::linear(8, 4, vb.pp("b")).unwrap());
        for (i, (name, var)) in sorted(&vars).iter().enumerate() {
            if !name.contains("norm") {
                var.set(&numbers(var.dims(), i)).unwrap();
            }
        }
        let normed = |x: &Tensor| -> Result<Tensor> { norm.forward_train(x)?.relu() };
        let loss = |x: &Tensor| -> Result<Tensor> { last.forward(x)?.sqr()?.mean_all() };
        let options = Options { leave_out: vec!["running".into()], ..wide() };
        let mut gradients = ModelGradients::from_varmap(&vars, options).unwrap();
        for micro_batch in 0..3 {
            let x = numbers(&[16, 8], micro_batch);
            let segments: [&dyn Module; 3] = [&first, &normed, &loss];
            gradients.backward_in_segments(&Release::new(), &segments, &x, activations, 1.0).unwrap();
        }
        let mut found = gradients.read_out().unwrap().into_iter().map(|(n, t)| (n, bits(&t))).collect::<Vec<_>>();
        found.sort();
        (found, weights(&vars))
    };
    let (keep, again) = (run(Activations::Keep), run(Activations::Recompute));
    assert!(keep == again);
}

/// Says in its backward pass that memory ran out, unless the batch is small.
struct RunsOut;

impl CustomOp1 for RunsOut {
    fn name(&self) -> &'static str {
        "runs out"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage.clone(), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if x.dim(0)? > 12 { candle_core::bail!("out of memory") } else { Ok(Some(gradient.clone())) }
    }
}

#[test]
fn memory_that_runs_out_half_way_refuses_the_window_and_a_smaller_batch_goes_on() {
    let model = Model::new();
    let before = weights(&model.vars);
    let runs_out = |x: &Tensor| -> Result<Tensor> { x.apply_op1(RunsOut) };
    for activations in BOTH {
        let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default()).unwrap();
        let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default()).unwrap();
        model.run(&mut gradients, &Model::ids(0, 12), &runs_out, activations).unwrap();
        let e = model.run(&mut gradients, &Model::ids(1, 24), &runs_out, activations).unwrap_err();
        assert!(e.to_string().contains("out of memory"), "{e}");
        let refused = |e: Error| {
            let said = matches!(&e, Error::Refused { reason } if reason.contains("out of memory"));
            assert!(said, "{e}");
        };
        refused(model.run(&mut gradients, &Model::ids(1, 12), &runs_out, activations).unwrap_err());
        refused(adam.step(&mut gradients).unwrap_err());
        assert_eq!((before.clone(), adam.updates()), (weights(&model.vars), 0));
        gradients.reset().unwrap();
        model.run(&mut gradients, &Model::ids(1, 12), &runs_out, activations).unwrap();
        assert!(adam.step(&mut gradients).unwrap().updated());
        for ((_, var), bits) in sorted(&model.vars).iter().zip(&before) {
            let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
            var.set(&Tensor::from_vec(x, var.dims(), &CPU).unwrap()).unwrap();
        }
    }
}
