//! A decoder-only transformer: learned positions, RMS norms before each half of a layer, no biases, ReLU.
//!
//! Activations are matrices of all positions by width: candle's products of a batch with one matrix copy that matrix.
//! In bf16 too, norms, the softmax and the loss are computed in f32.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::softmax;
use candle_nn::{Init, Module, VarBuilder, VarMap, func};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use trigrad::candle::release::Release;

/// How large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    /// Bytes it sees at once.
    pub(crate) context: usize,
    /// Windows a micro-batch.
    pub(crate) batch: usize,
}

impl Size {
    /// Trains on two cores.
    pub(crate) const SMALL: Size = Size { width: 64, heads: 2, layers: 2, context: 32, batch: 4 };
    /// About 100 million parameters.
    pub(crate) const LARGE: Size = Size { width: 768, heads: 12, layers: 14, context: 256, batch: 4 };
}

struct Layer {
    norm_attention: Tensor,
    query_key_value: Tensor,
    project: Tensor,
    norm_feed: Tensor,
    up: Tensor,
    down: Tensor,
}

pub(crate) struct Transformer {
    size: Size,
    embed: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    out: Tensor,
    mask: Tensor,
    /// Where gradients go as soon as they are there; none for candle's own way.
    release: Option<Release>,
}

impl Transformer {
    /// The same generator state gives the same weights.
    pub(crate) fn new(
        vars: &VarMap,
        symbols: usize,
        size: Size,
        rng: &mut Xoshiro256PlusPlus,
        (dtype, device): (DType, &Device),
        release: Option<Release>,
    ) -> Result<Self> {
        let vb = VarBuilder::from_varmap(vars, dtype, device);
        let w = size.width;
        let get = |name: &str, rows: usize, cols: usize| vb.get_with_hints((rows, cols), name, Init::Const(0.0));
        let norm = |name: &str| vb.get_with_hints(w, name, Init::Const(1.0));
        let layer = |i: usize| {
            Ok(Layer {
                norm_attention: norm(&format!("layer.{i}.attention.norm"))?,
                query_key_value: get(&format!("layer.{i}.attention.in"), w, 3 * w)?,
                project: get(&format!("layer.{i}.attention.out"), w, w)?,
                norm_feed: norm(&format!("layer.{i}.feed.norm"))?,
                up: get(&format!("layer.{i}.feed.up"), w, 4 * w)?,
                down: get(&format!("layer.{i}.feed.down"), 4 * w, w)?,
            })
        };
        let t = size.context;
        let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let model = Transformer {
            size,
            embed: get("embed", symbols, w)?,
            positions: get("positions", t, w)?,
            layers: (0..size.layers).map(layer).collect::<Result<_>>()?,
            norm: norm("norm")?,
            out: get("out", w, symbols)?,
            mask: Tensor::from_vec(mask, (t, t), device)?.to_dtype(dtype)?,
            release,
        };
        draw(vars, size.layers, rng, device)?;
        Ok(model)
    }

    /// Mean cross-entropy, in nats a byte, of windows of `context + 1` bytes.
    pub(crate) fn loss(&self, windows: Vec<u32>) -> Result<Tensor> {
        let (x, y) = self.split(windows)?;
        let h = (0..self.layers.len()).try_fold(self.embed(&x)?, |h, i| self.layer(i, &h))?;
        self.cross_entropy(&h, &y)
    }

    /// The same, without a way back: activations are freed layer by layer.
    pub(crate) fn evaluate(&self, windows: Vec<u32>) -> Result<f32> {
        let (x, y) = self.split(windows)?;
        let h = (0..self.layers.len()).try_fold(self.embed(&x)?, |h, i| self.layer(i, &h.detach()))?;
        self.cross_entropy(&h.detach(), &y)?.to_scalar()
    }

    /// The same in segments, the layers and what is before and after them: calls `f` with them and the first's input.
    pub(crate) fn in_segments<R>(
        &self,
        windows: Vec<u32>,
        f: impl FnOnce(&[&dyn Module], &Tensor) -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        let (x, y) = self.split(windows)?;
        let mut segments: Vec<Box<dyn Module + '_>> = vec![Box::new(func(|x| self.embed(x)))];
        for i in 0..self.layers.len() {
            segments.push(Box::new(func(move |h| self.layer(i, h))));
        }
        segments.push(Box::new(func(|h| self.cross_entropy(h, &y))));
        f(&segments.iter().map(AsRef::as_ref).collect::<Vec<_>>(), &x)
    }

    /// Windows as what goes in and what should come out.
    fn split(&self, windows: Vec<u32>) -> Result<(Tensor, Tensor)> {
        let t = self.size.context;
        let rows = windows.len() / (t + 1);
        let windows = Tensor::from_vec(windows, (rows, t + 1), self.embed.device())?;
        Ok((windows.narrow(1, 0, t)?.contiguous()?, windows.narrow(1, 1, t)?.flatten_all()?))
    }

    fn embed(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, t) = x.dims2()?;
        let ids = x.flatten_all()?;
        let embedded = match &self.release {
            Some(release) => release.index_select(&self.embed, &ids)?,
            None => self.embed.index_select(&ids, 0)?,
        };
        let embedded = embedded.reshape((batch, t, self.size.width))?;
        embedded.broadcast_add(&self.small(&self.positions)?)?.reshape((batch * t, self.size.width))
    }

    fn layer(&self, i: usize, h: &Tensor) -> Result<Tensor> {
        let layer = &self.layers[i];
        let h = (h + self.attend(layer, &self.rms_norm(h, &layer.norm_attention)?)?)?;
        let up = self.matmul(&self.rms_norm(&h, &layer.norm_feed)?, &layer.up)?.relu()?;
        &h + self.matmul(&up, &layer.down)?
    }

    fn cross_entropy(&self, h: &Tensor, y: &Tensor) -> Result<Tensor> {
        let logits = self.matmul(&self.rms_norm(h, &self.norm)?, &self.out)?;
        candle_nn::loss::cross_entropy(&logits.to_dtype(DType::F32)?, y)
    }

    fn matmul(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        match &self.release {
            Some(release) => release.matmul(x, weight),
            None => x.matmul(weight),
        }
    }

    /// A weight that is not worth an operation of its own.
    fn small(&self, weight: &Tensor) -> Result<Tensor> {
        match &self.release {
            Some(release) => release.pass(weight),
            None => Ok(weight.clone()),
        }
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let mean = (wide.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?;
        wide.broadcast_div(&mean.sqrt()?)?.to_dtype(x.dtype())?.broadcast_mul(&self.small(weight)?)
    }

    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let (t, width, heads) = (self.size.context, self.size.width, self.size.heads);
        let (rows, _) = x.dims2()?;
        let all = self.matmul(x, &layer.query_key_value)?.reshape((rows / t, t, 3, heads, width / heads))?;
        let part = |i: usize| all.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? / ((width / heads) as f64).sqrt())?.broadcast_add(&self.mask)?;
        let shares = softmax(&scores.to_dtype(DType::F32)?, D::Minus1)?.to_dtype(v.dtype())?;
        self.matmul(&shares.matmul(&v)?.transpose(1, 2)?.reshape((rows, width))?, &layer.project)
    }
}

/// Normal weights of deviation 0.02, less by the root of the depth where they end a residual branch (as GPT-2's): from
/// the generator on the CPU, from the card's own on a card, where there may be billions.
fn draw(vars: &VarMap, layers: usize, rng: &mut Xoshiro256PlusPlus, device: &Device) -> Result<()> {
    if !device.is_cpu() {
        device.set_seed(rng.random())?;
    }
    let data = vars.data().lock().map_err(candle_core::Error::msg)?;
    let mut named: Vec<(&String, &Var)> = data.iter().collect();
    named.sort_by(|a, b| a.0.cmp(b.0));
    for (name, var) in named {
        if name.ends_with("norm") {
            continue;
        }
        let ends = name.ends_with("attention.out") || name.ends_with("feed.down");
        let deviation = if ends { 0.02 / (2.0 * layers as f32).sqrt() } else { 0.02 };
        let w = if device.is_cpu() {
            let mut normal = || -> f32 {
                let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
                (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
            };
            let w: Vec<f32> = (0..var.elem_count()).map(|_| normal() * deviation).collect();
            Tensor::from_vec(w, var.dims(), device)?
        } else {
            Tensor::randn(0f32, deviation, var.dims(), device)?
        };
        var.set(&w.to_dtype(var.dtype())?)?;
    }
    Ok(())
}
