//! A model in segments, each with a backward pass of its own: for layers that are not ours, and for activations that
//! are computed again instead of kept.

use super::ModelGradients;
use super::release::{Entry, Release};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use candle_nn::Module;

/// What is kept of a segment's forward pass until its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Everything, as candle does.
    Keep,
    /// The result alone: just before its backward pass the segment runs forward again (activation checkpointing). Costs
    /// a second forward pass, and one wait for the device at the end of the micro-batch: what came out the second time
    /// must be what came out the first, bit for bit but for the sign of a zero.
    Recompute,
}

/// A segment between its forward and its backward pass.
enum Held {
    /// The input's gradient (none for the first segment) and the result, with the graph in between.
    Graph(Option<Entry>, Tensor),
    /// The input, from which the rest is computed again, and the result, to compare.
    Ends(Tensor, Tensor),
}

impl ModelGradients {
    /// One micro-batch of this weight of a model in segments, each a function of the result of the one before; the first
    /// gets `input`, the last gives the loss (which is multiplied by the loss scale here). Gives the loss, without a graph.
    ///
    /// Each segment has its own backward pass, last segment first, and its gradients are added and freed before that of
    /// the next begins. So the gradients of no more than one segment are held at a time, with what candle needs on the
    /// way three times its weights; and with [`Activations::Recompute`] the activations of no more than one. Any layers of
    /// candle will do, [release layers](super::release) among them: `release` is theirs, or a new one. The bits of the
    /// gradients are those of one backward pass over the whole model.
    ///
    /// A segment takes one tensor and gives one. What else a later segment needs (a mask, labels) its closure captures; what
    /// an earlier segment computed from variables must come by way of its input. A weight that more than one segment uses
    /// is [repeated](Release::repeated).
    ///
    /// Layers that are not the same function each time they run need [`Activations::Keep`]. Dropout is found out: its
    /// result differs. A batch norm moves its statistics each time it runs in training: those whose names end in
    /// `running_mean` and `running_var` are set back after the second time; others, of which this knows nothing, are moved
    /// twice.
    ///
    /// # Errors
    ///
    /// As for [`backward`](Self::backward), and: [`Error::SegmentDetached`] for a segment whose result does not depend on
    /// its input, [`Error::Shape`] for a loss that is not one number, [`Error::Parameter`] for no segments at all: the
    /// window is then as it was. [`Error::SegmentDiffers`] where a segment gave something else the second time: the window
    /// is refused until [`reset`](Self::reset).
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_core::{DType, Device, Result, Tensor};
    /// use candle_nn::{Module, VarBuilder, VarMap, linear};
    /// use trigrad::candle::release::Release;
    /// use trigrad::candle::{Activations, ModelGradients};
    /// use trigrad::training::Options;
    ///
    /// let vars = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    /// let layers = [linear(64, 64, vb.pp("0"))?, linear(64, 64, vb.pp("1"))?];
    /// let last = linear(64, 8, vb.pp("last"))?;
    /// let first = |x: &Tensor| -> Result<Tensor> { layers[0].forward(x)?.relu() };
    /// let second = |x: &Tensor| -> Result<Tensor> { layers[1].forward(x)?.relu() };
    /// let loss = |x: &Tensor| -> Result<Tensor> { last.forward(x)?.sqr()?.mean_all() };
    ///
    /// let mut gradients = ModelGradients::from_varmap(&vars, Options { small: 64, ..Options::default() })?;
    /// let x = Tensor::randn(0f32, 1.0, (16, 64), &Device::Cpu)?;
    /// let segments: [&dyn Module; 3] = [&first, &second, &loss];
    /// gradients.backward_in_segments(&Release::new(), &segments, &x, Activations::Recompute, 1.0)?;
    /// assert_eq!(gradients.count(), 1);
    /// # Ok::<(), trigrad::Error>(())
    /// ```
    pub fn backward_in_segments(
        &mut self,
        release: &Release,
        segments: &[&dyn Module],
        input: &Tensor,
        activations: Activations,
        weight: f32,
    ) -> Result<Tensor> {
        if segments.is_empty() {
            return Err(Error::Parameter { name: "segments", got: 0.0, requirement: "at least 1" });
        }
        self.has_variables()?;
        self.begin_micro_batch(weight)?;
        match self.segments(release, segments, input, activations) {
            Ok(loss) => self.inner.finish_micro_batch().map(|()| loss),
            Err(e) => {
                self.inner.give_up(&e);
                Err(e)
            }
        }
    }

    fn segments(
        &mut self,
        release: &Release,
        segments: &[&dyn Module],
        input: &Tensor,
        activations: Activations,
    ) -> Result<Tensor> {
        let (mut held, loss) = forward(segments, input, activations)?;
        let statistics = self.statistics.iter().map(|var| var.copy()).collect::<candle_core::Result<Vec<_>>>()?;
        let mut differing = Vec::new();
        let mut upstream: Option<Tensor> = None;
        while let Some(segment) = held.pop() {
            let i = held.len();
            let (entry, result) = match segment {
                Held::Graph(entry, result) => (entry, result),
                Held::Ends(input, before) => {
                    let (entry, result) = run(segments, i, &input)?;
                    self.statistics.iter().zip(&statistics).try_for_each(|(var, before)| var.set(before))?;
                    differing.push((i, difference(&before, &result, i, segments.len())?));
                    (entry, result)
                }
            };
            // Its gradient is the upstream gradient, whatever the products come to.
            let root = match upstream.take() {
                Some(upstream) => (result * upstream)?.sum_all()?,
                None => self.scaled_loss(&result)?,
            };
            if root.track_op() {
                self.backward_from(release, &root)?;
            }
            if let Some(entry) = entry {
                upstream = Some(entry.gradient().ok_or(Error::SegmentDetached { segment: i, of: segments.len() })?);
            }
        }
        same_again(&differing, segments.len())?;
        Ok(loss)
    }
}

/// Runs a segment on the result of the one before.
fn run(segments: &[&dyn Module], i: usize, input: &Tensor) -> Result<(Option<Entry>, Tensor)> {
    if i == 0 {
        return Ok((None, segments[i].forward(input)?));
    }
    let (input, entry) = Entry::new(input)?;
    let result = segments[i].forward(&input)?;
    drop(input);
    if entry.reached() {
        return Ok((Some(entry), result));
    }
    Err(Error::SegmentDetached { segment: i, of: segments.len() })
}

/// All segments, with what is held of each; and the loss.
fn forward(segments: &[&dyn Module], input: &Tensor, activations: Activations) -> Result<(Vec<Held>, Tensor)> {
    let mut held = Vec::with_capacity(segments.len());
    let mut x = input.clone();
    for i in 0..segments.len() {
        let (entry, result) = run(segments, i, &x)?;
        let before = std::mem::replace(&mut x, result.detach());
        // The last one's backward pass comes next: nothing is freed by running it again.
        let last = i + 1 == segments.len();
        held.push(match activations {
            Activations::Recompute if !last => Held::Ends(before, x.clone()),
            Activations::Keep | Activations::Recompute => Held::Graph(entry, result),
        });
    }
    if x.elem_count() != 1 {
        return Err(Error::Shape { expected: Vec::new(), got: x.dims().to_vec() });
    }
    Ok((held, x))
}

/// How many elements of a result differ, as a number on the device; two NaN do not.
fn difference(before: &Tensor, again: &Tensor, segment: usize, of: usize) -> Result<Tensor> {
    let again = again.detach();
    if before.dims() != again.dims() || before.dtype() != again.dtype() {
        return Err(Error::SegmentDiffers { segment, of, elements: again.elem_count() as u64 });
    }
    let nan = (before.ne(before)? * again.ne(&again)?)?;
    let differ = before.ne(&again)?.gt(&nan)?;
    Ok(differ.to_dtype(DType::F32)?.sum_all()?)
}

/// Checks that no segment gave something else the second time; waits for the device once.
fn same_again(differing: &[(usize, Tensor)], of: usize) -> Result<()> {
    if differing.is_empty() {
        return Ok(());
    }
    let counts: Vec<&Tensor> = differing.iter().map(|(_, count)| count).collect();
    let counts = Tensor::stack(&counts, 0)?.to_vec1::<f32>()?;
    match differing.iter().zip(counts).rev().find(|(_, count)| *count > 0.0) {
        Some(((segment, _), count)) => Err(Error::SegmentDiffers { segment: *segment, of, elements: count as u64 }),
        None => Ok(()),
    }
}
