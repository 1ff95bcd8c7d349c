//! The state of a training, to one file and back: what is held of the gradients, the place in the run, the loss scale
//! and, where there is one, the fused optimizer with its moments. Weights are the model's own: `VarMap::save`.

use super::fused::Rule;
use super::{FusedOptimizer, ModelGradients, Place, Window};
use crate::accumulator::{Accumulator, BEING_WRITTEN, Floats, State};
use crate::candle::storage::with_views;
use crate::checkpoint::{
    Array, Contents, get_micro_batch, get_reports, get_state, put_config, put_reports, put_specs, put_state, read,
    same_config, same_specs, write,
};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::op::length;
use candle_core::Tensor;
use candle_nn::ParamsAdamW;
use std::path::Path;

const KIND: &str = "training";

impl ModelGradients {
    /// Writes the whole state, and that of a fused optimizer, to a file, at once or not at all; see
    /// [`crate::checkpoint`]. Weights are not in it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Refused`]; what the device reports.
    pub fn save(&self, path: impl AsRef<Path>, optimizer: Option<&FusedOptimizer>) -> Result<()> {
        self.usable()?;
        let mut c = Contents::default();
        put_config(&mut c, &self.options.config);
        put_specs(&mut c, &self.specs);
        for (i, place) in self.places.iter().enumerate() {
            c.set(format!("tensor.{i}.held"), held(*place));
        }
        c.set("residual.bits", self.options.residual_bits.unwrap_or(0));
        let (w, scale) = (&self.window, &self.options.loss_scale);
        c.set("step", w.step);
        c.set("micro_batch", w.micro_batch);
        c.set("held", w.held);
        c.set_f64("weights", w.weights);
        c.set("skipped", w.skipped);
        c.set_f64("loss_scale", scale.scale);
        c.set("loss_scale.dynamic", scale.dynamic);
        c.set("loss_scale.good", scale.good);
        if let Some(packed) = &self.packed {
            put_state(&mut c, "sum", packed.state()?);
        }
        if let Some(residual) = &self.residual {
            put_state(&mut c, "residual", residual.state()?);
        }
        let mut reports = self.device.read_reports(&self.dense_reports)?;
        reports.iter_mut().zip(&self.dense_loaded).for_each(|(r, loaded)| r.merge(*loaded));
        put_reports(&mut c, "f32.reports", &reports);
        for (d, sum) in self.dense.iter().enumerate() {
            c.set(format!("f32.{d}.there"), self.window.held > 0);
            if self.window.held > 0 {
                c.arrays.insert(format!("f32.{d}"), Array::F32(download(&self.device, sum)?));
            }
        }
        c.set("optimizer", optimizer.map_or("none", |o| o.rule.name()));
        if let Some(optimizer) = optimizer {
            optimizer.put(&self.device, &mut c)?;
        }
        write(path.as_ref(), KIND, &c)
    }

    /// Takes over the state in a file, which any device may have saved, and the fused optimizer's if it is given.
    ///
    /// # Errors
    ///
    /// As for [`Accumulator::load`]; [`Error::CheckpointMismatch`] also for other tensors kept in f32, another residual
    /// or another optimizer. Nothing is then changed.
    pub fn load(&mut self, path: impl AsRef<Path>, optimizer: Option<&mut FusedOptimizer>) -> Result<()> {
        let mut c = read(path.as_ref(), KIND)?;
        same_config(&mut c, &self.options.config)?;
        same_specs(&mut c, &self.specs)?;
        for (i, place) in self.places.iter().enumerate() {
            c.same(&format!("tensor.{i}.held"), held(*place))?;
        }
        c.same("residual.bits", self.options.residual_bits.unwrap_or(0))?;
        let window = Window {
            step: c.get("step")?,
            micro_batch: get_micro_batch(&mut c, "micro_batch")?,
            held: c.get("held")?,
            weights: c.get_f64("weights")?,
            skipped: c.get("skipped")?,
            refused: None,
        };
        let mut scale = self.options.loss_scale;
        c.same("loss_scale.dynamic", scale.dynamic)?;
        scale.scale = c.get_f64("loss_scale")?;
        scale.good = c.get("loss_scale.good")?;
        scale.validate()?;
        let sum = state(&mut c, "sum", self.packed.as_ref())?;
        let residual = state(&mut c, "residual", self.residual.as_ref())?;
        let reports = get_reports(&mut c, "f32.reports")?;
        length("reports", self.dense.len(), reports.len())?;
        let dense = self.dense_sums(&mut c)?;
        c.same("optimizer", optimizer.as_ref().map_or("none", |o| o.rule.name()))?;
        let loaded = optimizer.as_ref().map(|o| o.loaded(&self.device, &mut c)).transpose()?;
        c.empty()?;
        let cleared = self.device.reports(self.dense.len())?;
        self.take_over(sum, residual)?;
        self.window = window;
        self.options.loss_scale = scale;
        self.dense = dense;
        self.dense_reports = cleared;
        self.dense_loaded = reports;
        if let (Some(optimizer), Some(loaded)) = (optimizer, loaded) {
            *optimizer = loaded;
        }
        Ok(())
    }

    /// The accumulators' states: both are checked before either is replaced.
    fn take_over(&mut self, sum: Option<State>, residual: Option<State>) -> Result<()> {
        let before = match (&self.packed, &residual) {
            (Some(packed), Some(_)) => match packed.state() {
                Err(Error::Refused { .. }) => None, // nothing to go back to, and refused it stays
                state => Some(state?),
            },
            _ => None,
        };
        if let (Some(packed), Some(sum)) = (&mut self.packed, sum) {
            packed.set_state(&sum)?;
        }
        if let (Some(accumulator), Some(state)) = (&mut self.residual, residual) {
            // The two are out of step until both are replaced, or the first is as it was.
            let refused = self.window.refused.replace(BEING_WRITTEN.to_owned());
            if let Err(e) = accumulator.set_state(&state) {
                if let (Some(packed), Some(before)) = (&mut self.packed, before) {
                    packed.set_state(&before)?;
                    self.window.refused = refused;
                }
                return Err(e);
            }
        }
        Ok(())
    }

    fn dense_sums(&self, c: &mut Contents) -> Result<Vec<Tensor>> {
        let mut sums = self.dense.iter().map(Tensor::zeros_like).collect::<candle_core::Result<Vec<_>>>()?;
        for (place, spec) in self.places.iter().zip(&self.specs) {
            let Place::Dense(d) = *place else { continue };
            if c.get::<bool>(&format!("f32.{d}.there"))? {
                let x = c.f32s(&format!("f32.{d}"))?;
                length("elements", spec.elements()?, x.len()).map_err(|e| e.in_tensor(&*spec.name))?;
                sums[d] = Tensor::from_vec(x, spec.shape.as_slice(), &self.home)?;
            }
        }
        Ok(sums)
    }
}

fn held(place: Place) -> &'static str {
    match place {
        Place::Packed(_) => "packed",
        Place::Dense(_) => "f32",
    }
}

fn state(c: &mut Contents, at: &str, accumulator: Option<&Accumulator<Device>>) -> Result<Option<State>> {
    accumulator.map(|a| get_state(c, at, a.specs().len())).transpose()
}

fn download(device: &Device, x: &Tensor) -> Result<Vec<f32>> {
    with_views(&[x], |views| match views {
        [Floats::F32(x)] => device.download(*x),
        _ => Err(Error::ElementType { expected: "f32", got: x.dtype().as_str().to_owned() }),
    })
}

impl Rule {
    const fn name(&self) -> &'static str {
        match self {
            Rule::Sgd { .. } => "sgd",
            Rule::AdamW(_) => "adamw",
        }
    }

    fn numbers(&self) -> Vec<(&'static str, f64)> {
        match self {
            Rule::Sgd { learning_rate, momentum, weight_decay, nesterov } => vec![
                ("learning_rate", *learning_rate),
                ("momentum", *momentum),
                ("weight_decay", *weight_decay),
                ("nesterov", f64::from(u8::from(*nesterov))),
            ],
            Rule::AdamW(p) => vec![
                ("learning_rate", p.lr),
                ("beta1", p.beta1),
                ("beta2", p.beta2),
                ("eps", p.eps),
                ("weight_decay", p.weight_decay),
            ],
        }
    }

    fn of(&self, x: &[f64]) -> Option<Rule> {
        match (self, x) {
            (Rule::Sgd { .. }, &[learning_rate, momentum, weight_decay, nesterov]) => {
                Some(Rule::Sgd { learning_rate, momentum, weight_decay, nesterov: nesterov != 0.0 })
            }
            (Rule::AdamW(_), &[lr, beta1, beta2, eps, weight_decay]) => {
                Some(Rule::AdamW(ParamsAdamW { lr, beta1, beta2, eps, weight_decay }))
            }
            _ => None,
        }
    }
}

impl FusedOptimizer {
    fn put(&self, device: &Device, c: &mut Contents) -> Result<()> {
        for (name, x) in self.rule.numbers() {
            c.set_f64(format!("optimizer.{name}"), x);
        }
        c.set("optimizer.updates", self.updates);
        for (i, buffers) in self.moments.iter().enumerate() {
            for (j, buffer) in buffers.iter().enumerate() {
                let x = device.download(Device::view(buffer))?;
                c.arrays.insert(format!("optimizer.{i}.{j}"), Array::F32(x));
            }
        }
        Ok(())
    }

    /// The optimizer of the file, of the same kind and tensors as this one.
    fn loaded(&self, device: &Device, c: &mut Contents) -> Result<FusedOptimizer> {
        let numbers = self.rule.numbers();
        let read =
            numbers.iter().map(|(name, _)| c.get_f64(&format!("optimizer.{name}"))).collect::<Result<Vec<_>>>()?;
        let rule = self.rule.of(&read).ok_or_else(|| c.at_fault("optimizer", "not its numbers"))?;
        super::fused::validate(&rule)?;
        length("moments a tensor", self.rule.buffers(), rule.buffers())?;
        let updates = c.get("optimizer.updates")?;
        let mut moments: Vec<Vec<Buffer<f32>>> = Vec::with_capacity(self.moments.len());
        for (i, buffers) in self.moments.iter().enumerate() {
            let mut new = Vec::with_capacity(buffers.len());
            for (j, buffer) in buffers.iter().enumerate() {
                let x = c.f32s(&format!("optimizer.{i}.{j}"))?;
                length("moments", Device::len(&Device::view(buffer)), x.len())?;
                new.push(device.upload(&x)?);
            }
            moments.push(new);
        }
        Ok(FusedOptimizer { rule, updates, moments })
    }
}
