//! The state of a training, to one file and back: weights, moments, sums, residuals and the place in the run, under one
//! checksum. What the file decides and what the caller decides is said on the [module's page](super).

use super::feedback::{Feedback, Residual};
use super::moments::Moments;
use super::optimizer::Optimizer;
use super::upgrade::upgrade;
use super::weights::one_each;
use super::{Counts, LossScale, Training, WeightsMut};
use crate::accumulator::{Floats, State, valid_adaptive};
use crate::checkpoint::{
    Array, Contents, get_reports, get_state, put_reports, put_specs, put_state, read, same_specs, write,
};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::{Backend, length};
use half::{bf16, f16};
use std::path::Path;

const KIND: &str = "training";

impl<B: Backend> Training<B> {
    /// Writes weights, moments, sums and the place in the run to one file, at once or not at all; see
    /// [`crate::checkpoint`]. `weights` are those of all tensors in order, or none where you keep them elsewhere.
    ///
    /// The state of an optimizer of your own is not in it, for it can not be reached: save it beside, at the same window.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Length`] within the tensor, or [`Error::AnotherModel`], for weights or an optimizer of
    /// another model; [`Error::Refused`]; what the device reports.
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        optimizer: Option<&Optimizer<B>>,
        weights: &[Floats<'_, B>],
    ) -> Result<()> {
        let weights = weights.iter().map(|w| download(self.backend(), w)).collect::<Result<Vec<_>>>()?;
        self.save_arrays(path.as_ref(), optimizer, weights)
    }

    pub(crate) fn save_arrays(&self, path: &Path, optimizer: Option<&Optimizer<B>>, weights: Vec<Array>) -> Result<()> {
        let mut c = self.contents(optimizer)?;
        if weights.is_empty() {
            c.set("weights", "none");
        } else {
            one_each("the weights", self.specs().len(), weights.len())?;
            c.set("weights", "all");
        }
        for ((i, array), spec) in weights.into_iter().enumerate().zip(self.specs()) {
            length("weights", spec.elements()?, array.len()).map_err(|e| e.in_tensor(&*spec.name))?;
            c.set(format!("tensor.{i}.weights"), array.dtype());
            c.arrays.insert(format!("weights.{i}"), array);
        }
        write(path, KIND, &c)
    }

    fn contents(&self, optimizer: Option<&Optimizer<B>>) -> Result<Contents> {
        self.usable()?;
        let config = &self.options.config;
        let mut c = Contents::default();
        c.set("config.block", config.block.get());
        c.set("config.seed", config.seed);
        put_specs(&mut c, self.specs(), config);
        put_state(&mut c, "sum", self.sums.state()?);
        for (i, reached) in self.reached.iter().enumerate() {
            c.set(format!("tensor.{i}.reached"), reached);
        }
        c.set("updated", self.counts.updated);
        c.set("skipped", self.counts.skipped);
        c.set("kept", self.counts.kept);
        let scale = &self.options.loss_scale;
        c.set_f64("loss_scale", scale.scale);
        c.set("loss_scale.dynamic", scale.dynamic);
        c.set("loss_scale.good", scale.good);
        c.set("residual.bits", self.options.residual_bits.unwrap_or(0));
        if let Some(feedback) = &self.feedback {
            self.put_feedback(&mut c, feedback)?;
        }
        c.set("optimizer", optimizer.map_or("none", |o| o.rule().name()));
        if let Some(optimizer) = optimizer {
            optimizer.made_for(self.specs())?;
            c.set("optimizer.buffers", optimizer.rule().buffers());
            c.set("optimizer.updates", optimizer.updates);
            for (i, moments) in optimizer.moments.iter().enumerate() {
                moments.put(self.backend(), &mut c, i)?;
            }
        }
        Ok(c)
    }

    fn put_feedback(&self, c: &mut Contents, feedback: &Feedback<B>) -> Result<()> {
        put_reports(c, "residual.reports", &feedback.reports(self.backend())?);
        for (i, residual) in feedback.tensors().iter().enumerate() {
            let Some(residual) = residual else { continue };
            let levels = self.backend().download(B::view(&residual.levels))?;
            let scales = self.backend().download(B::view(&residual.scales))?;
            c.arrays.insert(format!("residual.{i}.levels"), Array::U32(levels));
            c.arrays.insert(format!("residual.{i}.scales"), Array::Bf16(scales));
        }
        Ok(())
    }

    /// Takes over the state in a file, which any backend may have saved: see the [module's page](super) for what the file
    /// decides and what the caller decides. Weights are written in place; give none where the file has none.
    ///
    /// # Errors
    ///
    /// As for [`crate::accumulator::Accumulator::load`]; [`Error::CheckpointMismatch`] also for another residual, kind of
    /// optimizer, kind of loss scale, or type of weights. Nothing is then changed. What the device reports while weights
    /// are written: [`Error::UpdatedInPart`], and the window is refused.
    pub fn load(
        &mut self,
        path: impl AsRef<Path>,
        optimizer: Option<&mut Optimizer<B>>,
        weights: Vec<WeightsMut<'_, B>>,
    ) -> Result<()> {
        let path = path.as_ref();
        let types: Vec<&'static str> = weights.iter().map(|w| array_dtype(w.dtype())).collect();
        for (weights, spec) in weights.iter().zip(self.specs()) {
            let accepted = weights.accepted(self.backend(), spec.elements()?);
            accepted.map_err(|e| e.in_tensor(&*spec.name))?;
        }
        let mut loaded = self.loaded(path, optimizer.as_deref(), &types)?;
        let backend = self.backend();
        let arrays = std::mem::take(&mut loaded.weights);
        let staged = arrays.iter().map(|array| Staged::new(backend, array)).collect::<Result<Vec<_>>>()?;
        self.take_over(loaded, optimizer)?;
        self.being_written();
        let written = staged.iter().zip(weights).try_for_each(|(from, to)| from.copy(self.sums.backend(), to));
        self.refuse_on_error(written).map_err(|e| Error::UpdatedInPart { source: Box::new(e) })
    }

    /// Everything that a file holds, checked; nothing is changed. `types` are those of the weights, none for no weights.
    pub(crate) fn loaded(
        &self,
        path: &Path,
        optimizer: Option<&Optimizer<B>>,
        types: &[&'static str],
    ) -> Result<Loaded<B>> {
        let load = || {
            let mut c = read(path, KIND)?;
            if c.version < 2 {
                upgrade(&mut c, self.specs())?;
            }
            let loaded = self.read_contents(&mut c, optimizer, types)?;
            c.empty()?;
            Ok(loaded)
        };
        load().map_err(|e: Error| e.in_file(path))
    }

    fn read_contents(
        &self,
        c: &mut Contents,
        optimizer: Option<&Optimizer<B>>,
        types: &[&'static str],
    ) -> Result<Loaded<B>> {
        let (config, specs) = (&self.options.config, self.specs());
        c.same("config.block", config.block.get())?;
        let seed = c.get("config.seed")?;
        same_specs(c, specs, config)?;
        let reached = (0..specs.len()).map(|i| c.get(&format!("tensor.{i}.reached"))).collect::<Result<Vec<bool>>>()?;
        let state = get_state(c, "sum", specs.len())?;
        let counts = Counts { updated: c.get("updated")?, skipped: c.get("skipped")?, kept: c.get("kept")? };
        let loss_scale = self.get_loss_scale(c, state.held)?;
        c.same("residual.bits", self.options.residual_bits.unwrap_or(0))?;
        let feedback = self.feedback.as_ref().map(|f| self.get_feedback(c, f)).transpose()?;
        let optimizer = self.get_optimizer(c, optimizer)?;
        let weights = self.get_weights(c, types)?;
        Ok(Loaded { state, seed, reached, counts, loss_scale, feedback, optimizer, weights })
    }

    /// A dynamic scale stands where the file says. A fixed one is the caller's choice, but not where sums are in its unit.
    fn get_loss_scale(&self, c: &mut Contents, held: u32) -> Result<LossScale> {
        let mut scale = self.options.loss_scale;
        c.same("loss_scale.dynamic", scale.dynamic)?;
        let (value, good) = (c.get_f64("loss_scale")?, c.get("loss_scale.good")?);
        if scale.dynamic {
            (scale.scale, scale.good) = (value, good);
            scale.validate()?;
        } else if value != scale.scale && (held > 0 || self.feedback.is_some()) {
            let (expected, got) = (scale.scale.to_string(), value.to_string());
            return Err(c.mismatch("loss_scale", expected, got));
        }
        Ok(scale)
    }

    fn get_feedback(&self, c: &mut Contents, feedback: &Feedback<B>) -> Result<Feedback<B>> {
        let reports = get_reports(c, "residual.reports")?;
        length("residual reports", self.specs().len(), reports.len())?;
        let block = self.options.config.block;
        let mut tensors = Vec::with_capacity(self.specs().len());
        for ((i, held), (spec, report)) in feedback.tensors().iter().enumerate().zip(self.specs().iter().zip(&reports))
        {
            let n = spec.elements()?;
            report.validate(n).map_err(|e| e.in_tensor(&*spec.name))?;
            tensors.push(match held {
                None => None,
                Some(_) => {
                    let levels = c.u32s(&format!("residual.{i}.levels"))?;
                    let scales = c.bf16s(&format!("residual.{i}.scales"))?;
                    let valid = valid_adaptive(n, feedback.bits(), block, &levels, &scales);
                    valid.map_err(|e| e.in_tensor(&*spec.name))?;
                    let (levels, scales) = (self.backend().upload(&levels)?, self.backend().upload(&scales)?);
                    Some(Residual { levels, scales })
                }
            });
        }
        feedback.of(self.backend(), tensors, reports)
    }

    fn get_optimizer(&self, c: &mut Contents, optimizer: Option<&Optimizer<B>>) -> Result<Option<Progress<B>>> {
        c.same("optimizer", optimizer.map_or("none", |o| o.rule().name()))?;
        let Some(optimizer) = optimizer else { return Ok(None) };
        optimizer.made_for(self.specs())?;
        let buffers: usize = c.get("optimizer.buffers")?;
        if buffers != optimizer.rule().buffers() {
            let momentum = |buffers| if buffers == 0 { "none" } else { "a number above 0" }.to_owned();
            let (expected, got) = (momentum(optimizer.rule().buffers()), momentum(buffers));
            return Err(c.mismatch("optimizer.momentum", expected, got));
        }
        let updates = c.get("optimizer.updates")?;
        let mut moments = Vec::with_capacity(self.specs().len());
        for (i, (spec, held)) in self.specs().iter().zip(&optimizer.moments).enumerate() {
            let at = (i, spec.elements()?);
            let got = Moments::get(self.backend(), c, at, held.format(), buffers);
            moments.push(got.map_err(|e| e.in_tensor(&*spec.name))?);
        }
        Ok(Some(Progress { updates, moments }))
    }

    fn get_weights(&self, c: &mut Contents, types: &[&'static str]) -> Result<Vec<Array>> {
        // Version 1 had them in a file of their own: whoever loads one has loaded that too.
        let none = types.is_empty() || c.version < 2;
        c.same("weights", if none { "none" } else { "all" })?;
        if none {
            return Ok(Vec::new());
        }
        one_each("the weights", self.specs().len(), types.len())?;
        let get = |(i, (spec, dtype)): (usize, (&crate::accumulator::Spec, &&'static str))| {
            let of = |c: &mut Contents| {
                c.same(&format!("tensor.{i}.weights"), dtype)?;
                let array = c.array(&format!("weights.{i}"), dtype)?;
                length("weights", spec.elements()?, array.len())?;
                Ok(array)
            };
            of(c).map_err(|e: Error| e.in_tensor(&*spec.name))
        };
        self.specs().iter().zip(types).enumerate().map(get).collect()
    }

    /// Takes over what was [loaded](Self::loaded). The weights are the caller's to write.
    pub(crate) fn take_over(&mut self, loaded: Loaded<B>, optimizer: Option<&mut Optimizer<B>>) -> Result<()> {
        self.sums.set_state(&loaded.state)?;
        self.sums.set_seed(loaded.seed);
        self.options.config.seed = loaded.seed;
        self.options.loss_scale = loaded.loss_scale;
        self.reached = loaded.reached;
        self.counts = loaded.counts;
        self.feedback = loaded.feedback;
        self.refused = None;
        self.total = None;
        if let (Some(optimizer), Some(progress)) = (optimizer, loaded.optimizer) {
            optimizer.updates = progress.updates;
            optimizer.moments = progress.moments;
            optimizer.follow();
        }
        Ok(())
    }
}

/// What a file holds, checked.
pub(crate) struct Loaded<B: Backend> {
    state: State,
    seed: u64,
    reached: Vec<bool>,
    counts: Counts,
    loss_scale: LossScale,
    feedback: Option<Feedback<B>>,
    optimizer: Option<Progress<B>>,
    /// Weights in host memory; none where the file has none.
    pub(crate) weights: Vec<Array>,
}

/// What an optimizer has come to.
struct Progress<B: Backend> {
    updates: u32,
    moments: Vec<Moments<B>>,
}

/// Weights of one tensor on the backend, before they are taken over.
enum Staged<B: Backend> {
    F32(B::Buffer<f32>),
    Bf16(B::Buffer<bf16>),
}

impl<B: Backend> Staged<B> {
    fn new(backend: &B, array: &Array) -> Result<Self> {
        match array {
            Array::F32(x) => backend.upload(x).map(Staged::F32),
            Array::Bf16(x) => {
                let x: Vec<bf16> = x.iter().copied().map(bf16::from_bits).collect();
                backend.upload(&x).map(Staged::Bf16)
            }
            other => Err(Error::ElementType { expected: "f32 or bf16 weights", got: other.dtype().to_lowercase() }),
        }
    }

    fn copy(&self, backend: &B, to: WeightsMut<'_, B>) -> Result<()> {
        match (self, to) {
            (Staged::F32(from), WeightsMut::F32(to)) => backend.copy(B::view(from), to),
            (Staged::Bf16(from), WeightsMut::Bf16(to)) => backend.copy(B::view(from), to),
            (_, to) => Err(Error::ElementType { expected: "the type in the file", got: to.dtype().to_owned() }),
        }
    }
}

/// A type of weights as safetensors names it.
fn array_dtype(dtype: &str) -> &'static str {
    match dtype {
        "f32" => "F32",
        _ => "BF16",
    }
}

/// Floats on the host.
pub(crate) fn download<M: Memory>(memory: &M, x: &Floats<'_, M>) -> Result<Array> {
    Ok(match *x {
        Floats::F32(x) => Array::F32(memory.download(x)?),
        Floats::F16(x) => Array::F16(memory.download(x)?.into_iter().map(f16::to_bits).collect()),
        Floats::Bf16(x) => Array::Bf16(memory.download(x)?.into_iter().map(bf16::to_bits).collect()),
    })
}
