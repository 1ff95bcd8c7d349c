//! Layers whose weights' gradients leave the backward pass as soon as they are there.
//!
//! candle's `backward()` keeps the gradient of every weight, with temporaries of the same size, until it returns. The
//! layers here compute the gradient of their weight in the backward pass, add it to the sum of the window and free it:
//! at no time is there more than one. Results and gradients are those of `candle_nn`'s layers, bit for bit on the
//! CPU: the same products of the same matrices.
//!
//! A [`Release`] connects the layers with the training: made first, given to each layer, and then to
//! [`ModelGradients::backward`](super::ModelGradients::backward), which runs one micro-batch. Outside of it a backward
//! pass through such a layer is an error; a forward pass is not. Variables of other layers (norms, for instance) take
//! part as ever: their gradients are added when the backward pass ends, or at once through [`Release::pass`].
//!
//! A weight that is no variable (frozen, or computed from one) goes candle's own way. One that the training leaves out
//! gets no gradient. Second derivatives are not supported.
//!
//! # Examples
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Module, ParamsAdamW, VarBuilder, VarMap};
//! use trigrad::candle::release::{self, Release};
//! use trigrad::candle::{FusedOptimizer, ModelGradients};
//! use trigrad::training::Options;
//!
//! let (vars, release) = (VarMap::new(), Release::new());
//! let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
//! let first = release::linear(64, 64, vb.pp("first"), &release)?;
//! let last = release::linear(64, 8, vb.pp("last"), &release)?;
//! let mut gradients = ModelGradients::from_varmap(&vars, Options { small: 64, ..Options::default() })?;
//! let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default())?;
//! for _ in 0..8 {
//!     let x = Tensor::randn(0f32, 1.0, (16, 64), &Device::Cpu)?;
//!     let loss = last.forward(&first.forward(&x)?.relu()?)?.sqr()?.mean_all()?;
//!     gradients.backward(&release, &loss, 1.0)?;
//! }
//! adam.step(&mut gradients)?;
//! # Ok::<(), trigrad::Error>(())
//! ```

mod entry;
mod gradient;
mod graft;
mod layers;
mod sink;

pub(super) use entry::Entry;
pub use layers::{Conv2d, Embedding, Linear, conv2d, conv2d_no_bias, embedding, linear, linear_no_bias};
pub(super) use sink::Lent;
pub use sink::Release;

use candle_core::{Result, Tensor};
use graft::graft;

impl Release {
    /// The product of a matrix and a weight of shape (in, out).
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn matmul(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        if !weight.is_variable() || x.rank() != 2 {
            return x.matmul(weight);
        }
        let y = x.detach().matmul(&weight.detach())?;
        let release = self.clone();
        let id = weight.id();
        let backward = move |x: &Tensor, w: &Tensor, g: &Tensor| {
            release.hand_over(id, || x.detach().t()?.matmul(g))?;
            if x.track_op() { g.matmul(&w.t()?).map(Some) } else { Ok(None) }
        };
        graft("release matmul", x, weight, &y, Box::new(backward))
    }

    /// Rows of a weight, at these indices.
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn index_select(&self, weight: &Tensor, indices: &Tensor) -> Result<Tensor> {
        if !weight.is_variable() {
            return weight.index_select(indices, 0);
        }
        let y = weight.detach().index_select(indices, 0)?;
        let release = self.clone();
        let id = weight.id();
        let backward = move |indices: &Tensor, w: &Tensor, g: &Tensor| {
            // `index_add` needs indices one after the other, as candle's own backward pass does.
            release.hand_over(id, || w.zeros_like()?.index_add(&indices.contiguous()?, g, 0))?;
            Ok(None)
        };
        // Detached: candle would walk on to what they were computed from, with no gradient to bring.
        graft("release index-select", &indices.detach(), weight, &y, Box::new(backward))
    }

    /// The weight itself, copied: for anything small, such as norms and biases of layers that have no form here. Pass
    /// it once a forward pass and use the result as often as you like; its gradient is handed over when it is whole.
    ///
    /// # Errors
    ///
    /// What candle reports.
    ///
    /// # Examples
    ///
    /// A norm, of which candle has a form with a backward pass and one without:
    ///
    /// ```
    /// use candle_core::{DType, Device, Result, Tensor, Var};
    /// use candle_nn::RmsNorm;
    /// use trigrad::candle::release::Release;
    ///
    /// let (release, weight) = (Release::new(), Var::ones(64, DType::F32, &Device::Cpu)?);
    /// let norm = |x: &Tensor| -> Result<Tensor> { RmsNorm::new(release.pass(&weight)?, 1e-5).forward_diff(x) };
    /// assert!(norm(&Tensor::ones((8, 64), DType::F32, &Device::Cpu)?)?.track_op());
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn pass(&self, weight: &Tensor) -> Result<Tensor> {
        if !weight.is_variable() {
            return Ok(weight.clone());
        }
        let y = weight.detach().copy()?;
        let release = self.clone();
        let id = weight.id();
        let backward = move |_: &Tensor, _: &Tensor, g: &Tensor| {
            release.hand_over(id, || Ok(g.clone()))?;
            Ok(None)
        };
        graft("release pass", &weight.detach(), weight, &y, Box::new(backward))
    }
}
