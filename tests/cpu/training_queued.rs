//! Training that only queues, on the CPU and on wgpu: over windows that are clipped, not clipped and skipped, with a loss scale
//! that moves, it has the bits of a replay on the host by the functions of `numerics`, and the counts of the waiting form.

use half::bf16;
use trigrad::accumulator::{Config, Floats, Format, NonFinite, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad::numerics::constants::domain;
use trigrad::numerics::draw::draws;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::numerics::state::State;
use trigrad::numerics::update::{AdamWTerms, SgdTerms, adamw, sgd, to_bf16};
use trigrad::op::Draw;
use trigrad::op::state::corrections;
use trigrad::training::{AdamW, LossScale, Optimizer, Options, Outcome, Queued, Rule, Sgd, Training, WeightsMut};
use trigrad::{Backend, Error, Result};

/// More than a block in levels, in bf16 weights too, and one kept in f32.
const LENGTHS: [usize; 3] = [200, 130, 20];
const WINDOWS: usize = 6;
const WEIGHTS: [f32; 3] = [1.0, 0.5, 2.0];
/// A window with an Inf in its second tensor.
const MARKED: usize = 2;
const SEED: u64 = 99;

/// Numbers in -1..1 that are a function of their place.
fn noise(place: usize, i: usize) -> f32 {
    let mut z = (place as u64) << 32 ^ i as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The gradients of a micro-batch, of another size in each window.
fn gradients(window: usize, micro_batch: usize, scale: f32) -> Vec<Vec<f32>> {
    let size = scale * [0.05, 0.001, 0.05, 0.02, 0.002, 0.1][window];
    let of = |i: usize| (0..LENGTHS[i]).map(|j| noise(window * 100 + micro_batch * 10 + i, j) * size).collect();
    let mut all: Vec<Vec<f32>> = (0..LENGTHS.len()).map(of).collect();
    if (window, micro_batch) == (MARKED, 1) {
        (all[1][17], all[1][18]) = (f32::INFINITY, f32::NAN);
    }
    all
}

/// The weights at the start, and moments of zero.
struct Weights {
    w: Vec<Vec<f32>>,
    moments: [Vec<Vec<f32>>; 2],
}

impl Weights {
    fn new() -> Self {
        let of = |i: usize| (0..LENGTHS[i]).map(|j| noise(7 + i, j) * 0.3).collect();
        let mut w: Vec<Vec<f32>> = (0..LENGTHS.len()).map(of).collect();
        // The second tensor's are bf16.
        w[1].iter_mut().for_each(|w| *w = bf16::from_f32(*w).to_f32());
        let zeros = || LENGTHS.iter().map(|n| vec![0.0; *n]).collect();
        Weights { w, moments: [zeros(), zeros()] }
    }

    /// The update that a state decides, element by element.
    fn update(&mut self, rule: &Rule, state: &State, gradients: &[Vec<f32>]) {
        for (i, g) in gradients.iter().enumerate() {
            let at = Draw::new(SEED, state.step).position(i as u32, domain::WEIGHT);
            for (j, g) in g.iter().enumerate() {
                let (w, m, v) = (self.w[i][j], self.moments[0][i][j], self.moments[1][i][j]);
                let (w, m, v) = match rule {
                    Rule::Sgd(p) => {
                        let (momentum, weight_decay) = (p.momentum as f32, p.weight_decay as f32);
                        let terms = SgdTerms { learning_rate: 1.0, momentum, weight_decay };
                        let (w, m) = sgd(&terms.under(state), p.nesterov, *g, w, m);
                        (w, m, v)
                    }
                    Rule::AdamW(p) => {
                        let terms = AdamWTerms::new(1.0, (p.beta1, p.beta2), p.eps, p.weight_decay, 1);
                        adamw(&terms.under(state), *g, w, m, v)
                    }
                };
                let k = draws(&at, (j / 32) as u32)[j % 32];
                let narrow = || bf16::from_bits(to_bf16(w.to_bits(), k)).to_f32();
                self.w[i][j] = if i == 1 { narrow() } else { w };
                (self.moments[0][i][j], self.moments[1][i][j]) = (m, v);
            }
        }
    }
}

/// Weights on a backend.
struct Held<B: Backend> {
    wide: [B::Buffer<f32>; 2],
    narrow: B::Buffer<bf16>,
}

impl<B: Backend> Held<B> {
    fn new(b: &B) -> Result<Self> {
        let start = Weights::new().w;
        let narrow: Vec<bf16> = start[1].iter().map(|w| bf16::from_f32(*w)).collect();
        Ok(Held { wide: [b.upload(&start[0])?, b.upload(&start[2])?], narrow: b.upload(&narrow)? })
    }

    fn views(&mut self) -> Vec<WeightsMut<'_, B>> {
        let [one, three] = &mut self.wide;
        vec![
            WeightsMut::F32(B::view_mut(one)),
            WeightsMut::Bf16(B::view_mut(&mut self.narrow)),
            WeightsMut::F32(B::view_mut(three)),
        ]
    }

    fn read(&self, b: &B) -> Result<Vec<Vec<f32>>> {
        let narrow = b.download(B::view(&self.narrow))?.into_iter().map(bf16::to_f32).collect();
        Ok(vec![b.download(B::view(&self.wide[0]))?, narrow, b.download(B::view(&self.wide[1]))?])
    }
}

fn specs() -> Vec<Spec> {
    (0..LENGTHS.len()).map(|i| Spec::new(["a", "b", "c"][i], [LENGTHS[i]])).collect()
}

fn cases() -> Vec<(Options, Rule)> {
    let of = |format| Options {
        config: Config { format, seed: SEED, ..Config::default() },
        small: 64,
        clip_norm: Some(0.25),
        loss_scale: LossScale::dynamic(1024.0).growth_interval(2),
        ..Options::default()
    };
    let adam = Rule::AdamW(AdamW { learning_rate: 0.02, ..AdamW::default() });
    let sgd = Rule::Sgd(Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.01, nesterov: true });
    let zero = |o: Options| Options { config: Config { non_finite: NonFinite::Zero, ..o.config }, ..o };
    vec![
        (of(Format::Adaptive { bits: 4 }), adam),
        (of(Format::Adaptive { bits: 2 }), sgd),
        (zero(of(Format::Adaptive { bits: 8 })), adam),
        (of(Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } }), adam),
        (Options { clip_norm: None, loss_scale: LossScale::fixed(64.0), ..of(Format::F32) }, sgd),
    ]
}

fn train<B: Backend + Clone>(backend: &B, options: &Options, rule: Rule) -> Result<()> {
    let made = Training::new(backend.clone(), &specs(), options.clone())?;
    let optimizer = Optimizer::new(&made, rule)?;
    let mut queued = Queued::new(made, optimizer)?;
    let mut weights = Held::new(backend)?;
    // The waiting form, whose sums the replay reads.
    let mut eager = Training::new(Cpu::plain(), &specs(), options.clone())?;
    let mut eager_optimizer = Optimizer::new(&eager, rule)?;
    let mut eager_weights = Held::new(&Cpu::plain())?;

    let mut host = Weights::new();
    let mut state = State::new(rule.learning_rate() as f32, options.loss_scale.value() as f32);
    let (limit, zero) =
        (options.clip_norm.map_or(f32::INFINITY, |l| l as f32), options.config.non_finite == NonFinite::Zero);
    let table = match &rule {
        Rule::AdamW(p) => corrections((p.beta1, p.beta2))?,
        Rule::Sgd(_) => Vec::new(),
    };
    let interval = if options.loss_scale.is_dynamic() { 2 } else { 0 };
    for window in 0..WINDOWS {
        for (micro_batch, weight) in WEIGHTS.into_iter().enumerate() {
            let g = gradients(window, micro_batch, state.loss_scale);
            let held: Vec<B::Buffer<f32>> = g.iter().map(|g| backend.upload(g)).collect::<Result<_>>()?;
            let list: Vec<(usize, Floats<'_, B>)> = held.iter().map(|x| Floats::F32(B::view(x))).enumerate().collect();
            queued.accumulate(&list, weight)?;
            let list: Vec<(usize, Floats<'_, Cpu>)> = g.iter().map(|x| x[..].into()).enumerate().collect();
            eager.accumulate(&list, weight)?;
            state.advance_micro_batch(weight);
        }
        let mut sum = [0; SUM_WORDS];
        eager.sums().queue_squared_norm(&mut sum[..])?;
        let reports = eager.reports()?;
        let slot = reports.iter().position(|r| r.non_finite > 0).filter(|_| !zero);
        state.decide(&sum, limit, slot.map(|slot| (slot as u32, reports[slot].non_finite)), &table);
        if !state.skipped() {
            let mut g: Vec<Vec<f32>> = LENGTHS.iter().map(|n| vec![0.0; *n]).collect();
            let mut outputs: Vec<(usize, &mut [f32])> = g.iter_mut().map(|g| &mut g[..]).enumerate().collect();
            eager.sums().read_out(Reduce::Times(state.factor), &mut outputs)?;
            host.update(&rule, &state, &g);
        }
        state.advance_step(interval);

        queued.step(weights.views())?;
        let bits =
            |w: &[Vec<f32>]| -> Vec<Vec<u32>> { w.iter().map(|w| w.iter().map(|x| x.to_bits()).collect()).collect() };
        assert_eq!(bits(&weights.read(backend)?), bits(&host.w), "weights after window {window}");
        let words = backend.download(queued.state())?;
        assert_eq!(State::from_words(&words), Some(state), "window {window}");
        assert_eq!(queued.loss_scale()?, f64::from(state.loss_scale));

        let (got, want) = (queued.outcome()?, eager.step(&mut eager_optimizer, eager_weights.views())?);
        match (got, want) {
            (Outcome::Updated { norm: a, clip: c, kept }, Outcome::Updated { norm: b, clip: d, .. }) => {
                assert!((a / b - 1.0).abs() < 1e-6 && (c / d - 1.0).abs() < 1e-6 && kept.is_empty(), "{a} {b}");
                assert_eq!((a, c), (f64::from(state.norm), f64::from(state.clip)));
            }
            (got, want) => assert_eq!(got, want, "window {window}"),
        }
        assert_eq!(queued.counts()?, eager.counts());
    }
    assert_eq!(state.skips, u32::from(!zero));
    let (settled, optimizer) = queued.settle()?;
    assert_eq!((settled.counts(), settled.window()), (eager.counts(), eager.window()));
    assert_eq!((settled.loss_scale(), optimizer.updates()), (eager.loss_scale(), eager_optimizer.updates()));
    Ok(())
}

fn equals_the_replay<B: Backend + Clone>(backend: &B) -> Result<()> {
    cases().iter().try_for_each(|(options, rule)| train(backend, options, *rule))
}

#[test]
fn on_the_cpu() -> Result<()> {
    equals_the_replay(&Cpu::new())
}

#[cfg(feature = "wgpu")]
#[test]
fn on_wgpu_buffers() -> Result<()> {
    let Some(gpu) = crate::adapter::device(&trigrad::webgpu::Options::default()) else { return Ok(()) };
    equals_the_replay(&gpu)
}

#[cfg(feature = "cuda-kernels")]
#[test]
fn on_cuda_buffers() -> Result<()> {
    let Some(card) = crate::card::card() else { return Ok(()) };
    equals_the_replay(&card)
}

/// Windows of both kinds are met: clipped and not.
#[test]
fn windows_are_clipped_and_not() -> Result<()> {
    let (options, rule) = cases().remove(0);
    let training = Training::new(Cpu::new(), &specs(), options)?;
    let optimizer = Optimizer::new(&training, rule)?;
    let (mut queued, mut weights) = (Queued::new(training, optimizer)?, Held::new(&Cpu::new())?);
    assert_eq!(queued.outcome()?, Outcome::Nothing);
    let mut clips = Vec::new();
    for window in [0, 1] {
        let g = gradients(window, 0, queued.loss_scale()? as f32);
        let list: Vec<(usize, Floats<'_, Cpu>)> = g.iter().map(|x| x[..].into()).enumerate().collect();
        queued.accumulate(&list, 1.0)?;
        queued.step(weights.views())?;
        let Outcome::Updated { clip, .. } = queued.outcome()? else {
            return Err(Error::NothingAccumulated { weights: 0.0 });
        };
        clips.push(clip < 1.0);
    }
    assert_eq!(clips, [true, false]);
    Ok(())
}

/// What steps without a wait cannot do is refused, and a window that was dropped leaves nothing behind.
#[test]
fn what_is_refused_and_what_a_reset_leaves() -> Result<()> {
    let (options, rule) = cases().remove(0);
    let refused = |options: Options, rule: Rule| {
        let training = Training::new(Cpu::new(), &specs(), options)?;
        let optimizer = Optimizer::new(&training, rule)?;
        Queued::new(training, optimizer).map(drop)
    };
    let feedback = Options { residual_bits: Some(4), ..options.clone() };
    assert!(matches!(refused(feedback, rule), Err(Error::Conflict { what: "error feedback", .. })));
    let reject = Config { non_finite: NonFinite::Reject, ..options.config };
    assert!(matches!(refused(Options { config: reject, ..options.clone() }, rule), Err(Error::Conflict { .. })));
    let slow = Rule::AdamW(AdamW { beta2: 0.999_999, ..AdamW::default() });
    assert!(matches!(refused(options.clone(), slow), Err(Error::Parameter { name: "beta", .. })));

    let training = Training::new(Cpu::new(), &specs(), options)?;
    let optimizer = Optimizer::new(&training, rule)?;
    let (mut queued, mut weights) = (Queued::new(training, optimizer)?, Held::new(&Cpu::new())?);
    assert!(matches!(queued.step(weights.views()), Err(Error::NothingAccumulated { .. })));
    let g = gradients(0, 0, 1024.0);
    let list: Vec<(usize, Floats<'_, Cpu>)> = g.iter().map(|x| x[..].into()).enumerate().collect();
    queued.accumulate(&list, 3.0)?;
    queued.reset()?;
    let state = State::from_words(queued.state()).unwrap();
    assert_eq!((state.step, state.micro_batch, state.weights), (1, 0, 0.0));
    queued.accumulate(&list, 1.0)?;
    queued.set_learning_rate(0.0)?;
    let before = weights.read(&Cpu::new())?;
    queued.step(weights.views())?;
    assert!(queued.outcome()?.updated() && weights.read(&Cpu::new())? == before);
    assert_eq!(queued.counts()?.updated, 1);
    Ok(())
}
