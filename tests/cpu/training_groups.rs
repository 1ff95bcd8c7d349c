//! Parameter groups and moments in 8 bits in the training object: against the operations called by hand and the oracle,
//! on every backend, through checkpoints.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use half::bf16;
use std::path::PathBuf;
use trigrad::accumulator::{Config, Floats, Format, Spec};
use trigrad::cpu::Cpu;
use trigrad::device::Device;
use trigrad::numerics::update::AdamWTerms;
use trigrad::op::Draw;
use trigrad::op::update::{Gradient, Source};
use trigrad::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use trigrad::training::{
    AdamW, Group, MomentFormat, Optimizer, OptimizerOptions, Options, Queued, Rule, Sgd, Training, WeightsMut,
};
use trigrad::{Backend, Error, Memory, Result};

/// A matrix whose moments are in 8 bits, one of bf16 weights, one that its group keeps in f32, and a bias, which is small.
const SHAPES: [(&str, &[usize]); 4] =
    [("a.weight", &[60, 80]), ("b.weight", &[83, 50]), ("embedding", &[64, 64]), ("a.bias", &[60])];

fn specs() -> Vec<Spec> {
    SHAPES.iter().map(|(name, shape)| Spec::new(*name, shape.to_vec())).collect()
}

fn noise(seed: usize, i: usize) -> f32 {
    let mut z = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn adam() -> Rule {
    Rule::AdamW(AdamW { learning_rate: 0.01, weight_decay: 0.1, ..AdamW::default() })
}

fn groups() -> OptimizerOptions {
    OptimizerOptions {
        moments: MomentFormat::Bits8,
        groups: vec![
            Group::no_decay(),
            Group::named("embedding").factor(0.5).moments(MomentFormat::F32),
            Group::named("a.").factor(2.0).weight_decay(0.2),
        ],
    }
}

struct Run<B: Backend> {
    training: Training<B>,
    optimizer: Optimizer<B>,
    wide: Vec<B::Buffer<f32>>,
    narrow: B::Buffer<bf16>,
}

impl<B: Backend + Clone> Run<B> {
    fn new(backend: &B, options: &OptimizerOptions) -> Result<Self> {
        let config = Config { format: Format::Adaptive { bits: 4 }, seed: 5, ..Config::default() };
        let options_of_sums = Options { config, clip_norm: Some(3.0), ..Options::default() };
        let training = Training::new(backend.clone(), &specs(), options_of_sums)?;
        let start = |i: usize| -> Vec<f32> { (0..specs()[i].elements().unwrap()).map(|j| noise(90 + i, j)).collect() };
        let narrow: Vec<bf16> = start(1).into_iter().map(bf16::from_f32).collect();
        Ok(Run {
            optimizer: Optimizer::with_options(&training, adam(), options)?,
            training,
            wide: [0, 2, 3].into_iter().map(|i| backend.upload(&start(i))).collect::<Result<_>>()?,
            narrow: backend.upload(&narrow)?,
        })
    }

    /// Windows of two micro-batches; the number of micro-batches may end in the middle of one.
    fn go(&mut self, micro_batches: std::ops::Range<usize>) -> Result<()> {
        let backend = self.training.backend().clone();
        for k in micro_batches {
            let make = |i: usize| -> Vec<f32> {
                (0..specs()[i].elements().unwrap()).map(|j| noise(4 * k + i, j) * 0.1).collect()
            };
            let given = (0..4).map(|i| backend.upload(&make(i))).collect::<Result<Vec<_>>>()?;
            let given: Vec<(usize, Floats<'_, B>)> =
                given.iter().enumerate().map(|(i, g)| (i, Floats::F32(B::view(g)))).collect();
            self.training.accumulate(&given, 1.0)?;
            if self.training.count() == 2 {
                let [a, embedding, bias] = &mut self.wide[..] else {
                    return Err(Error::NothingAccumulated { weights: 0.0 });
                };
                let weights = vec![
                    WeightsMut::F32(B::view_mut(a)),
                    WeightsMut::Bf16(B::view_mut(&mut self.narrow)),
                    WeightsMut::F32(B::view_mut(embedding)),
                    WeightsMut::F32(B::view_mut(bias)),
                ];
                assert!(self.training.step(&mut self.optimizer, weights)?.updated());
            }
        }
        Ok(())
    }

    fn bits(&self) -> Result<Vec<u32>> {
        let backend = self.training.backend();
        let mut bits = Vec::new();
        for w in &self.wide {
            bits.extend(backend.download(B::view(w))?.into_iter().map(f32::to_bits));
        }
        bits.extend(backend.download(B::view(&self.narrow))?.into_iter().map(|w| u32::from(w.to_bits())));
        Ok(bits)
    }

    fn save(&self, name: &str) -> Result<PathBuf> {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        self.training.save(&path, Some(&self.optimizer), &[])?;
        Ok(path)
    }
}

fn trained<B: Backend + Clone>(backend: &B, options: &OptimizerOptions, micro_batches: usize) -> Result<Vec<u32>> {
    let mut run = Run::new(backend, options)?;
    run.go(0..micro_batches)?;
    run.bits()
}

#[test]
fn same_bits_on_every_backend() -> Result<()> {
    let want = trained(&trigrad::testing::Reference, &groups(), 8)?;
    for cpu in Cpu::kinds() {
        assert!(trained(&cpu, &groups(), 8)? == want, "{}", Memory::name(&cpu));
    }
    assert!(trained(&Device::default(), &groups(), 8)? == want, "Device");
    assert!(trained(&Cpu::new(), &OptimizerOptions::default(), 8)? != want, "the groups change something");
    Ok(())
}

#[cfg(feature = "wgpu")]
#[test]
fn same_bits_on_wgpu() -> Result<()> {
    let Some(gpu) = crate::adapter::device(&trigrad::webgpu::Options::default()) else { return Ok(()) };
    assert!(trained(&gpu, &groups(), 8)? == trained(&Cpu::plain(), &groups(), 8)?);
    Ok(())
}

#[cfg(feature = "cuda-kernels")]
#[test]
fn same_bits_on_cuda() -> Result<()> {
    let Some(card) = crate::card::card() else { return Ok(()) };
    assert!(trained(&card, &groups(), 8)? == trained(&Cpu::plain(), &groups(), 8)?);
    Ok(())
}

#[test]
fn moments_and_numbers_are_those_of_the_groups() -> Result<()> {
    let run = Run::new(&Cpu::new(), &groups())?;
    let formats: Vec<_> = (0..4).filter_map(|i| run.optimizer.moments_of(i)).collect();
    let (bits8, f32) = (MomentFormat::Bits8, MomentFormat::F32);
    assert_eq!(formats, [bits8, bits8, f32, f32]);
    let numbers: Vec<_> =
        (0..4).filter_map(|i| run.optimizer.rule_of(i)).map(|r| (r.learning_rate(), r.weight_decay())).collect();
    // The bias is in `no_decay` first, which says nothing of the rate; `a.` says it.
    assert_eq!(numbers, [(0.02, 0.2), (0.01, 0.1), (0.005, 0.1), (0.02, 0.0)]);
    let bytes = |n: usize| 2 * n + 2 * n.div_ceil(64);
    assert_eq!(run.optimizer.bytes_held(), (bytes(4800) + bytes(4150) + 8 * 4096 + 8 * 60) as u64);
    Ok(())
}

#[test]
fn a_window_is_the_operation_called_by_hand() -> Result<()> {
    let cpu = Cpu::plain();
    let mut run = Run::new(&cpu, &groups())?;
    let (mut weights, mut words, mut scales) = (run.wide[0].clone(), vec![0u16; 4800], vec![0u16; 75]);
    for window in 0..3u32 {
        let at = 2 * window as usize;
        run.go(at..at + 1)?;
        let mut other = Run::new(&cpu, &groups())?;
        other.go(0..at + 1)?;
        // The last micro-batch again, to see the window full before its step.
        let given: Vec<Vec<f32>> = (0..4)
            .map(|i| (0..specs()[i].elements().unwrap()).map(|j| noise(4 * (at + 1) + i, j) * 0.1).collect())
            .collect();
        let list: Vec<(usize, Floats<'_, Cpu>)> = given.iter().map(|g| g[..].into()).enumerate().collect();
        other.training.accumulate(&list, 1.0)?;
        let trigrad::training::Ready::Step { factor, .. } = other.training.ready()? else {
            return Err(Error::NothingAccumulated { weights: 0.0 });
        };
        let tensors = other.training.sums().state()?.tensors;
        let trigrad::accumulator::TensorState::Levels { levels, scales: level_scales, .. } = &tensors[0] else {
            return Err(Error::NothingAccumulated { weights: 0.0 });
        };
        let source = Source { bits: 4, block: Config::default().block, factor, draw: Draw::new(5, window) };
        let terms = AdamWTerms::new(0.02, (0.9, 0.999), 1e-8, 0.2, window + 1);
        let mut reports = cpu.reports(1)?;
        let gradient = Gradient::Packed { levels: &levels[..], scales: &level_scales[..] };
        let mut items = [AdamW8Item {
            tensor: 0,
            first: 0,
            gradient,
            weights: &mut weights[..],
            moments: &mut words[..],
            moment_scales: &mut scales[..],
            report: 0,
        }];
        cpu.update_adamw_8bit::<f32>(&AdamW8 { source, terms }, &mut items, None, &mut reports)?;
        run.go(at + 1..at + 2)?;
        assert!(run.wide[0] == weights, "window {window}");
    }
    Ok(())
}

#[test]
fn a_checkpoint_in_the_middle_of_a_window_goes_on_to_the_same_bits() -> Result<()> {
    let mut whole = Run::new(&Cpu::new(), &groups())?;
    whole.go(0..9)?;
    let file = whole.save("groups.safetensors")?;
    let mut second = Run::new(&Cpu::new(), &groups())?;
    (second.wide, second.narrow) = (whole.wide.clone(), whole.narrow.clone());
    second.training.load(&file, Some(&mut second.optimizer), vec![])?;
    whole.go(9..14)?;
    second.go(9..14)?;
    assert!(whole.bits()? == second.bits()?);
    assert_eq!(second.optimizer.updates(), 7);
    let (a, b) = (whole.save("groups-a.safetensors")?, second.save("groups-b.safetensors")?);
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "moments too");
    Ok(())
}

#[test]
fn moments_of_another_format_are_refused_and_nothing_changes() -> Result<()> {
    let mut first = Run::new(&Cpu::new(), &groups())?;
    first.go(0..3)?;
    let file = first.save("groups-format.safetensors")?;
    let mut other = Run::new(&Cpu::new(), &OptimizerOptions::default())?;
    other.go(0..5)?;
    let before = std::fs::read(other.save("groups-before.safetensors")?).unwrap();
    let e = other.training.load(&file, Some(&mut other.optimizer), vec![]).unwrap_err().to_string();
    assert!(e.contains("a.weight") && e.contains("8 bits") && e.contains("f32") && e.contains("moments"), "{e}");
    let old = other.save("groups-after.safetensors")?;
    assert!(std::fs::read(&old).unwrap() == before);
    let e = first.training.load(&old, Some(&mut first.optimizer), vec![]).unwrap_err().to_string();
    assert!(e.contains("8 bits"), "{e}");
    // Rates and decay are the caller's.
    let mut free = groups();
    free.groups[0] = Group::named("bias").factor(3.0);
    let mut free = Run::new(&Cpu::new(), &free)?;
    free.training.load(&file, Some(&mut free.optimizer), vec![])
}

#[test]
fn what_can_not_be_is_told() -> Result<()> {
    let training = Training::new(Cpu::new(), &specs(), Options::default())?;
    let of = |group: Group| {
        let options = OptimizerOptions { groups: vec![group], ..OptimizerOptions::default() };
        Optimizer::with_options(&training, adam(), &options).map(drop)
    };
    let e = of(Group::named("layer_norm").weight_decay(0.0)).unwrap_err();
    assert!(matches!(&e, Error::NothingMatches { rule, tensors: 4, .. } if rule == "layer_norm"), "{e}");
    for bad in [-1.0, f64::NAN, f64::INFINITY, 1e39] {
        assert!(matches!(of(Group::vectors().factor(bad)), Err(Error::Parameter { .. })), "{bad}");
        assert!(matches!(of(Group::vectors().weight_decay(bad)), Err(Error::Parameter { .. })), "{bad}");
    }
    // Each of the two can be, but not their product.
    assert!(of(Group::vectors().factor(1e38).weight_decay(1e38)).is_err());
    let bits8 = OptimizerOptions { moments: MomentFormat::Bits8, ..OptimizerOptions::default() };
    let sgd = Optimizer::with_options(&training, Rule::Sgd(Sgd::default()), &bits8);
    assert!(matches!(sgd, Err(Error::Conflict { .. })));
    let no_vector = Training::new(Cpu::new(), &specs()[..2], Options::default())?;
    let options = OptimizerOptions { groups: vec![Group::no_decay()], ..OptimizerOptions::default() };
    assert!(Optimizer::with_options(&no_vector, adam(), &options).is_err());
    Ok(())
}

#[test]
fn a_schedule_follows_the_updates_and_a_checkpoint_restores_its_place() -> Result<()> {
    let rate = |t: u32| 0.01 / f64::from(t + 1);
    let mut by_hand = Run::new(&Cpu::new(), &groups())?;
    for window in 0..4 {
        by_hand.optimizer.set_learning_rate(rate(window))?;
        by_hand.go(2 * window as usize..2 * window as usize + 2)?;
    }
    let mut first = Run::new(&Cpu::new(), &groups())?;
    first.optimizer.set_schedule(rate)?;
    first.go(0..5)?;
    let file = first.save("schedule.safetensors")?;
    let mut second = Run::new(&Cpu::new(), &groups())?;
    second.optimizer.set_schedule(rate)?;
    (second.wide, second.narrow) = (first.wide, first.narrow);
    second.training.load(&file, Some(&mut second.optimizer), vec![])?;
    assert_eq!(second.optimizer.learning_rate(), rate(2));
    second.go(5..8)?;
    assert!(second.bits()? == by_hand.bits()?);
    assert!(second.optimizer.set_schedule(|_| f64::NAN).is_err());
    assert_eq!(second.optimizer.learning_rate(), rate(4), "the schedule is as it was");
    // A rate that can be none, later: the step says so, and the window goes on.
    second.optimizer.set_schedule(|t| if t == 5 { f64::INFINITY } else { 0.01 })?;
    second.go(8..10)?;
    let failed = second.go(10..12);
    assert!(matches!(failed, Err(Error::Parameter { name: "learning rate", .. })), "{failed:?}");
    second.optimizer.set_learning_rate(0.01)?;
    assert_eq!(second.training.count(), 2);
    Ok(())
}

fn one_tensor(options: Options) -> Result<Training<Cpu>> {
    Training::new(Cpu::new(), &[Spec::new("w", [300])], options)
}

#[test]
fn a_declared_window_takes_so_many_micro_batches_and_no_more() -> Result<()> {
    let g: Vec<f32> = (0..300).map(|i| noise(1, i)).collect();
    let mut training = one_tensor(Options { small: 0, ..Options::window(2) })?;
    let mut w = vec![0f32; 300];
    let mut adam = Optimizer::new(&training, adam())?;
    training.accumulate(&[("w", g[..].into())], 1.0)?;
    training.accumulate(&[("w", g[..].into())], 0.5)?;
    let before = training.sums().state()?;
    let refused = training.accumulate(&[("w", g[..].into())], 1.0);
    assert!(matches!(refused, Err(Error::WindowFull { declared: 2 })), "{refused:?}");
    assert!(matches!(training.begin_micro_batch(1.0), Err(Error::WindowFull { declared: 2 })));
    assert_eq!(training.sums().state()?, before);
    assert!(training.step(&mut adam, vec![WeightsMut::F32(&mut w[..])])?.updated());
    // Fewer may be stepped with.
    training.accumulate(&[("w", g[..].into())], 1.0)?;
    assert!(training.step(&mut adam, vec![WeightsMut::F32(&mut w[..])])?.updated());
    Ok(())
}

#[test]
fn capacity_and_width_follow_from_the_declared_window() {
    for (micro_batches, bits) in [(1, 4), (8, 4), (9, 8), (1000, 8)] {
        assert_eq!(Options::window(micro_batches).config.format, Format::Adaptive { bits });
    }
    assert!(matches!(one_tensor(Options::window(0)), Err(Error::Parameter { name: "micro-batches", .. })));
    let exact = |bits, micro_batches| {
        let format = Format::Exact { bits, scales: trigrad::accumulator::Scales::FirstLook { headroom: 2.0 } };
        let config = Config { format, ..Config::default() };
        one_tensor(Options { config, micro_batches: Some(micro_batches), small: 0, ..Options::default() }).map(drop)
    };
    assert!(exact(4, 7).is_ok() && exact(8, 127).is_ok());
    assert!(matches!(exact(4, 8), Err(Error::Limit { limit: 7, got: 8, .. })));
}

#[test]
fn the_mean_is_over_the_total_that_was_given_and_norms_are_those_of_the_tensors() -> Result<()> {
    let (a, b) = ([3f32, 4.0], [12f32]);
    let specs = [Spec::new("a", [2]), Spec::new("b", [1])];
    let mut training = Training::new(Cpu::new(), &specs, Options::default())?;
    training.accumulate(&[("a", a[..].into()), ("b", b[..].into())], 10.0)?;
    assert_eq!((training.norm()?, training.norms()?), (13.0, vec![5.0, 12.0]));
    training.set_total(40.0)?;
    assert_eq!((training.norm()?, training.norms()?), (13.0 / 4.0, vec![5.0 / 4.0, 3.0]));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(training.set_total(bad).is_err());
    }
    let mut sgd = Optimizer::sgd(&training, Sgd { learning_rate: 1.0, ..Sgd::default() })?;
    let (mut x, mut y) = ([0f32; 2], [0f32]);
    let weights = vec![WeightsMut::F32(&mut x[..]), WeightsMut::F32(&mut y[..])];
    assert!(training.step(&mut sgd, weights)?.updated());
    assert_eq!((x, y), ([-0.75, -1.0], [-3.0]));
    assert!(matches!(training.set_total(1.0), Err(Error::NothingAccumulated { .. })));
    training.accumulate(&[("a", a[..].into()), ("b", b[..].into())], 10.0)?;
    assert_eq!(training.norm()?, 13.0, "the total was the last window's");
    Ok(())
}

/// Four windows of one micro-batch by steps without a wait: the bits of all weights.
fn queued<B: Backend + Clone>(backend: &B) -> Result<Vec<f32>> {
    let Run { training, optimizer, mut wide, mut narrow } = Run::new(backend, &groups())?;
    let mut queued = Queued::new(training, optimizer)?;
    for k in 0..4 {
        let make =
            |i: usize| -> Vec<f32> { (0..specs()[i].elements().unwrap()).map(|j| noise(4 * k + i, j)).collect() };
        let given = (0..4).map(|i| backend.upload(&make(i))).collect::<Result<Vec<_>>>()?;
        let given: Vec<(usize, Floats<'_, B>)> =
            given.iter().enumerate().map(|(i, g)| (i, Floats::F32(B::view(g)))).collect();
        queued.accumulate(&given, 1.0)?;
        let [a, embedding, bias] = &mut wide[..] else { return Err(Error::NothingAccumulated { weights: 0.0 }) };
        queued.step(vec![
            WeightsMut::F32(B::view_mut(a)),
            WeightsMut::Bf16(B::view_mut(&mut narrow)),
            WeightsMut::F32(B::view_mut(embedding)),
            WeightsMut::F32(B::view_mut(bias)),
        ])?;
    }
    assert!(queued.outcome()?.updated());
    assert_eq!(queued.settle()?.1.updates(), 4);
    let mut all = Vec::new();
    for w in &wide {
        all.extend(backend.download(B::view(w))?);
    }
    Ok(all)
}

#[test]
fn groups_step_without_a_wait_too() -> Result<()> {
    let want = queued(&trigrad::testing::Reference)?;
    for cpu in Cpu::kinds() {
        assert!(queued(&cpu)? == want, "{}", Memory::name(&cpu));
    }
    // The waiting form, whose factor and terms may differ in the last place. A tensor of f32 moments and a bias without
    // decay: coded moments may round to a neighbour for that.
    let mut run = Run::new(&Cpu::new(), &groups())?;
    for k in 0..4 {
        let make =
            |i: usize| -> Vec<f32> { (0..specs()[i].elements().unwrap()).map(|j| noise(4 * k + i, j)).collect() };
        let given: Vec<Vec<f32>> = (0..4).map(make).collect();
        let given: Vec<(usize, Floats<'_, Cpu>)> = given.iter().map(|g| g[..].into()).enumerate().collect();
        run.training.accumulate(&given, 1.0)?;
        let [a, embedding, bias] = &mut run.wide[..] else {
            return Err(Error::NothingAccumulated { weights: 0.0 });
        };
        let weights = vec![
            WeightsMut::F32(&mut a[..]),
            WeightsMut::Bf16(&mut run.narrow[..]),
            WeightsMut::F32(&mut embedding[..]),
            WeightsMut::F32(&mut bias[..]),
        ];
        assert!(run.training.step(&mut run.optimizer, weights)?.updated());
    }
    let waited: Vec<f32> = run.wide[1..].iter().flatten().copied().collect();
    assert!(waited.iter().zip(&want[4800..]).all(|(a, b)| (a - b).abs() < 1e-5));
    // A schedule is a function of the host's.
    let Run { training, mut optimizer, .. } = Run::new(&Cpu::new(), &groups())?;
    optimizer.set_schedule(|_| 0.01)?;
    assert!(matches!(Queued::new(training, optimizer), Err(Error::Conflict { what: "a schedule", .. })));
    Ok(())
}

#[test]
fn formats_of_sums_by_name() -> Result<()> {
    let specs = [Spec::new("a.weight", [40, 40]), Spec::new("a.bias", [40]), Spec::new("head", [40, 40])];
    let of = |formats: &[(&str, u32)]| {
        let formats =
            formats.iter().map(|(part, bits)| ((*part).to_owned(), Format::Adaptive { bits: *bits })).collect();
        let config = Config { format: Format::Adaptive { bits: 4 }, ..Config::default() };
        Training::new(Cpu::new(), &specs, Options { config, formats, ..Options::default() })
    };
    let held = |training: &Training<Cpu>| -> Vec<String> {
        training.summary().rows.into_iter().map(|row| row.format).collect()
    };
    assert_eq!(held(&of(&[])?), ["4 bits", "f32 (small)", "4 bits"]);
    // The first part that a name contains decides, before what is small.
    let mut training = of(&[("head", 8), ("a.", 2), ("weight", 8)])?;
    assert_eq!(held(&training), ["2 bits (named)", "2 bits (named)", "8 bits (named)"]);
    let g: Vec<f32> = (0..1600).map(|i| noise(3, i)).collect();
    training.accumulate(&[("a.weight", g[..].into()), ("a.bias", g[..40].into()), ("head", g[..].into())], 1.0)?;
    let mut weights = [vec![0f32; 1600], vec![0f32; 40], vec![0f32; 1600]];
    let mut sgd = Optimizer::sgd(&training, Sgd { learning_rate: 1.0, ..Sgd::default() })?;
    let views = weights.iter_mut().map(|w| WeightsMut::F32(&mut w[..])).collect();
    assert!(training.step(&mut sgd, views)?.updated());
    let distinct = |w: &[f32]| w[..64].iter().map(|w| w.to_bits()).collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct(&weights[0]) <= 3 && distinct(&weights[2]) > 16, "levels of 2 bits and of 8");
    assert!(matches!(of(&[("tail", 8)]), Err(Error::NothingMatches { option: "formats", .. })));
    Ok(())
}
