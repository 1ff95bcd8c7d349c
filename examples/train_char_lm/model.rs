//! A decoder-only transformer: learned positions, RMS norms before each half of a layer, no biases, ReLU.
//!
//! Activations are matrices of all positions by width: candle's products of a batch with one matrix copy that matrix.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::softmax;
use candle_nn::{Init, VarBuilder, VarMap};
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
        device: &Device,
        release: Option<Release>,
    ) -> Result<Self> {
        let vb = VarBuilder::from_varmap(vars, DType::F32, device);
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
            mask: Tensor::from_vec(mask, (t, t), device)?,
            release,
        };
        draw(vars, size.layers, rng)?;
        Ok(model)
    }

    /// Mean cross-entropy, in nats a byte, of windows of `context + 1` bytes.
    pub(crate) fn loss(&self, windows: Vec<u32>) -> Result<Tensor> {
        let t = self.size.context;
        let rows = windows.len() / (t + 1);
        let windows = Tensor::from_vec(windows, (rows, t + 1), self.embed.device())?;
        let x = windows.narrow(1, 0, t)?.contiguous()?;
        let y = windows.narrow(1, 1, t)?.flatten_all()?;
        let logits = self.forward(&x)?;
        candle_nn::loss::cross_entropy(&logits, &y)
    }

    /// Logits, a row for each position of each window.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, t) = x.dims2()?;
        let width = self.size.width;
        let ids = x.flatten_all()?;
        let embedded = match &self.release {
            Some(release) => release.index_select(&self.embed, &ids)?,
            None => self.embed.index_select(&ids, 0)?,
        };
        let positions = self.small(&self.positions)?;
        let embedded = embedded.reshape((batch, t, width))?;
        let mut h = embedded.broadcast_add(&positions)?.reshape((batch * t, width))?;
        for layer in &self.layers {
            h = (&h + self.attend(layer, &self.rms_norm(&h, &layer.norm_attention)?, batch)?)?;
            let up = self.matmul(&self.rms_norm(&h, &layer.norm_feed)?, &layer.up)?.relu()?;
            h = (h + self.matmul(&up, &layer.down)?)?;
        }
        self.matmul(&self.rms_norm(&h, &self.norm)?, &self.out)
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
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(&self.small(weight)?)
    }

    fn attend(&self, layer: &Layer, x: &Tensor, batch: usize) -> Result<Tensor> {
        let (t, width, heads) = (self.size.context, self.size.width, self.size.heads);
        let all = self.matmul(x, &layer.query_key_value)?.reshape((batch, t, 3, heads, width / heads))?;
        let part = |i: usize| all.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? / ((width / heads) as f64).sqrt())?;
        let mixed = softmax(&scores.broadcast_add(&self.mask)?, D::Minus1)?.matmul(&v)?;
        self.matmul(&mixed.transpose(1, 2)?.reshape((batch * t, width))?, &layer.project)
    }
}

/// Normal weights of deviation 0.02, less by the root of the depth where they end a residual branch (as GPT-2's).
fn draw(vars: &VarMap, layers: usize, rng: &mut Xoshiro256PlusPlus) -> Result<()> {
    let data = vars.data().lock().map_err(candle_core::Error::msg)?;
    let mut named: Vec<(&String, &Var)> = data.iter().collect();
    named.sort_by(|a, b| a.0.cmp(b.0));
    for (name, var) in named {
        if name.ends_with("norm") {
            continue;
        }
        let ends = name.ends_with("attention.out") || name.ends_with("feed.down");
        let deviation = if ends { 0.02 / (2.0 * layers as f32).sqrt() } else { 0.02 };
        let mut normal = || -> f32 {
            let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
            (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
        };
        let w: Vec<f32> = (0..var.elem_count()).map(|_| normal() * deviation).collect();
        var.set(&Tensor::from_vec(w, var.dims(), var.device())?)?;
    }
    Ok(())
}
