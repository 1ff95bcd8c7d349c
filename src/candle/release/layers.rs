//! The layers of `candle_nn` that have a weight of some size.

use super::Release;
use super::gradient::{self, Conv};
use super::graft::graft;
use candle_core::{Result, Tensor};
use candle_nn::{Conv2dConfig, Module, VarBuilder};

/// [`candle_nn::Linear`], whose gradients are handed over.
#[derive(Clone, Debug)]
pub struct Linear {
    layer: candle_nn::Linear,
    release: Release,
}

impl Linear {
    /// From a layer over variables.
    #[must_use]
    pub fn new(layer: candle_nn::Linear, release: &Release) -> Self {
        Linear { layer, release: release.clone() }
    }

    /// candle's own layer.
    #[must_use]
    pub const fn layer(&self) -> &candle_nn::Linear {
        &self.layer
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.layer.weight(), self.layer.bias());
        if !released(weight, bias) {
            return self.layer.forward(x);
        }
        let y = candle_nn::Linear::new(weight.detach(), bias.map(Tensor::detach)).forward(&x.detach())?;
        let (id, bias, release) = (weight.id(), bias.map(Tensor::id), self.release.clone());
        let backward = move |x: &Tensor, w: &Tensor, g: &Tensor| {
            if let Some(bias) = bias {
                release.hand_over(bias, || gradient::bias(g, g.rank() - 1))?;
            }
            release.hand_over(id, || gradient::linear(&x.detach(), g))?;
            if x.track_op() { gradient::linear_input(x, w, g).map(Some) } else { Ok(None) }
        };
        graft("release linear", x, weight, &y, Box::new(backward))
    }
}

/// [`candle_nn::linear()`], whose gradients are handed over.
///
/// # Errors
///
/// What candle reports.
pub fn linear(inner: usize, outer: usize, vb: VarBuilder<'_>, release: &Release) -> Result<Linear> {
    Ok(Linear::new(candle_nn::linear(inner, outer, vb)?, release))
}

/// [`candle_nn::linear_no_bias`], whose gradient is handed over.
///
/// # Errors
///
/// What candle reports.
pub fn linear_no_bias(inner: usize, outer: usize, vb: VarBuilder<'_>, release: &Release) -> Result<Linear> {
    Ok(Linear::new(candle_nn::linear_no_bias(inner, outer, vb)?, release))
}

/// [`candle_nn::Embedding`], whose gradient is handed over.
#[derive(Clone, Debug)]
pub struct Embedding {
    layer: candle_nn::Embedding,
    release: Release,
}

impl Embedding {
    /// From a layer over a variable.
    #[must_use]
    pub fn new(layer: candle_nn::Embedding, release: &Release) -> Self {
        Embedding { layer, release: release.clone() }
    }

    /// candle's own layer.
    #[must_use]
    pub const fn layer(&self) -> &candle_nn::Embedding {
        &self.layer
    }
}

impl Module for Embedding {
    fn forward(&self, indices: &Tensor) -> Result<Tensor> {
        let mut shape = indices.dims().to_vec();
        shape.push(self.layer.hidden_size());
        self.release.index_select(self.layer.embeddings(), &indices.flatten_all()?)?.reshape(shape)
    }
}

/// [`candle_nn::embedding()`], whose gradient is handed over.
///
/// # Errors
///
/// What candle reports.
pub fn embedding(rows: usize, width: usize, vb: VarBuilder<'_>, release: &Release) -> Result<Embedding> {
    Ok(Embedding::new(candle_nn::embedding(rows, width, vb)?, release))
}

/// [`candle_nn::Conv2d`], whose gradients are handed over.
#[derive(Clone, Debug)]
pub struct Conv2d {
    layer: candle_nn::Conv2d,
    release: Release,
}

impl Conv2d {
    /// From a layer over variables.
    #[must_use]
    pub fn new(layer: candle_nn::Conv2d, release: &Release) -> Self {
        Conv2d { layer, release: release.clone() }
    }

    /// candle's own layer.
    #[must_use]
    pub const fn layer(&self) -> &candle_nn::Conv2d {
        &self.layer
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias, config) = (self.layer.weight(), self.layer.bias(), *self.layer.config());
        if !released(weight, bias) {
            return self.layer.forward(x);
        }
        let y = candle_nn::Conv2d::new(weight.detach(), bias.map(Tensor::detach), config).forward(&x.detach())?;
        let (id, bias, release) = (weight.id(), bias.map(Tensor::id), self.release.clone());
        let Conv2dConfig { padding, stride, dilation, groups, .. } = config;
        let conv = Conv { padding, stride, dilation, groups };
        let backward = move |x: &Tensor, w: &Tensor, g: &Tensor| {
            let values = x.detach();
            if let Some(bias) = bias {
                release.hand_over(bias, || gradient::bias(g, 1))?;
            }
            release.hand_over(id, || conv.kernel(&values, w, g))?;
            if x.track_op() { conv.input(&values, w, g).map(Some) } else { Ok(None) }
        };
        graft("release conv2d", x, weight, &y, Box::new(backward))
    }
}

/// [`candle_nn::conv2d`], whose gradients are handed over.
///
/// # Errors
///
/// What candle reports.
pub fn conv2d(
    inner: usize,
    outer: usize,
    kernel: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
    release: &Release,
) -> Result<Conv2d> {
    Ok(Conv2d::new(candle_nn::conv2d(inner, outer, kernel, config, vb)?, release))
}

/// [`candle_nn::conv2d_no_bias`], whose gradient is handed over.
///
/// # Errors
///
/// What candle reports.
pub fn conv2d_no_bias(
    inner: usize,
    outer: usize,
    kernel: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
    release: &Release,
) -> Result<Conv2d> {
    Ok(Conv2d::new(candle_nn::conv2d_no_bias(inner, outer, kernel, config, vb)?, release))
}

/// Whether the gradients of a layer can be handed over: candle ends its way back at variables only.
fn released(weight: &Tensor, bias: Option<&Tensor>) -> bool {
    weight.is_variable() && bias.is_none_or(|b| b.is_variable() || !b.track_op())
}
