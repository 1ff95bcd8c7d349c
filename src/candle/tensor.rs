//! One tensor at 2 bits an element.

use super::storage::{Shared, float, tensor, with_views};
use crate::accumulator::Floats;
use crate::device::{Buffer, Device, View};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::numerics::pack::words;
use crate::numerics::reduce::{ExactSum, SUM_WORDS};
use crate::op::Backend;
use crate::op::dequantize::{self, Dequantize};
use crate::op::quantize::{Item, Quantize};
use crate::op::reduce::{CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormItem, read_sums};
use crate::op::{Element, Grouping, Report, length};
use candle_core::{DType, Tensor};
use half::{bf16, f16};

/// A tensor of trits, packed as planes, with its bf16 scales, on the device of the tensor it came from. Element `i`
/// stands for trit `i` times the scale of its group.
pub struct TernaryTensor {
    device: Device,
    home: candle_core::Device,
    shape: Vec<usize>,
    n: usize,
    grouping: Grouping,
    words: Buffer<u32>,
    scales: Buffer<u16>,
    report: Report,
}

/// Quantizes a tensor as tensor number 0 of its step; see [`quantize_all`].
///
/// # Errors
///
/// As for [`quantize_all`].
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use trigrad::candle::quantize;
/// use trigrad::op::{Grouping, quantize::{Quantize, Threshold}};
///
/// let x = Tensor::new(&[[3f32, -1.0, 0.1, 2.0]], &Device::Cpu)?;
/// let t = quantize(&x, &Quantize::threshold(Threshold::Given(0.5)).grouping(Grouping::Tensor))?;
/// assert_eq!(t.dequantize(DType::F32)?.to_vec2::<f32>()?, [[2.0, -2.0, 0.0, 2.0]]);
/// # Ok::<(), trigrad::Error>(())
/// ```
pub fn quantize(tensor: &Tensor, op: &Quantize) -> Result<TernaryTensor> {
    one(tensor, op, 0)
}

/// Quantizes tensors, numbered as they come: the number is part of what a stochastic draw depends on, beside the
/// seed, step and micro-batch in `op` and the element's index.
///
/// # Errors
///
/// Within the tensor's number: [`Error::ElementType`] unless it is f32, f16 or bf16; [`Error::NonFinite`] for NaN,
/// Inf or 2^126 and above; [`Error::Alignment`] where rows do not divide it. [`Error::Parameter`] and
/// [`Error::Limit`] for what `op` says; [`Error::NoDevice`].
pub fn quantize_all(tensors: &[&Tensor], op: &Quantize) -> Result<Vec<TernaryTensor>> {
    let numbered = tensors.iter().zip(0u32..);
    numbered.map(|(t, number)| one(t, op, number).map_err(|e| at(e, number))).collect()
}

fn at(e: Error, number: u32) -> Error {
    match e {
        e @ Error::InTensor { .. } => e,
        e => e.in_tensor(format!("#{number}")),
    }
}

fn one(x: &Tensor, op: &Quantize, number: u32) -> Result<TernaryTensor> {
    float(x.dtype())?;
    op.validate()?;
    let device = super::storage::device(x.device())?;
    let n = x.elem_count();
    op.grouping.validate(n)?;
    let (mut words, mut scales) = (device.zeros(words(n, 2))?, device.zeros(op.grouping.groups(n))?);
    let report = with_views(&[x], |views| match views {
        [Floats::F32(x)] => run(&device, op, number, *x, &mut words, &mut scales),
        [Floats::F16(x)] => run(&device, op, number, *x, &mut words, &mut scales),
        [Floats::Bf16(x)] => run(&device, op, number, *x, &mut words, &mut scales),
        _ => length("tensors", 1, views.len()).map(|()| Report::default()),
    })?;
    report.finite()?;
    let home = x.device().clone();
    Ok(TernaryTensor { device, home, shape: x.dims().to_vec(), n, grouping: op.grouping, words, scales, report })
}

fn run<T: Element>(
    device: &Device,
    op: &Quantize,
    tensor: u32,
    x: View<'_, T>,
    words: &mut Buffer<u32>,
    scales: &mut Buffer<u16>,
) -> Result<Report> {
    let mut reports = device.reports(1)?;
    let (x, words, scales) = (Device::shorten(x), Device::view_mut(words), Device::view_mut(scales));
    device.quantize(op, &mut [Item { tensor, first: 0, x, words, scales, report: 0 }], &mut reports)?;
    Ok(device.read_reports(&reports)?.first().copied().unwrap_or_default())
}

impl TernaryTensor {
    /// The shape.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    #[must_use]
    pub const fn elem_count(&self) -> usize {
        self.n
    }

    /// Which elements share a scale.
    #[must_use]
    pub const fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// Elements that were clipped.
    #[must_use]
    pub const fn clipped(&self) -> u64 {
        self.report.clipped
    }

    /// Bytes of the packed trits and scales, from the buffers themselves.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        let (words, scales) = (Device::len(&self.words()), Device::len(&self.scales()));
        words * size_of::<u32>() + scales * size_of::<u16>()
    }

    /// Planes: pairs of u32, plus then minus, 32 elements each.
    #[must_use]
    pub fn words(&self) -> View<'_, u32> {
        Device::view(&self.words)
    }

    /// bf16 scales, one a group.
    #[must_use]
    pub fn scales(&self) -> View<'_, u16> {
        Device::view(&self.scales)
    }

    /// The planes, on the host.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn words_to_vec(&self) -> Result<Vec<u32>> {
        self.device.download(self.words())
    }

    /// The scales, on the host.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn scales_to_vec(&self) -> Result<Vec<bf16>> {
        Ok(self.device.download(self.scales())?.into_iter().map(bf16::from_bits).collect())
    }

    /// Trits times scales: a tensor of f32, f16 or bf16 of the same shape on the same device.
    ///
    /// # Errors
    ///
    /// [`Error::ElementType`] for another type, or what the device reports.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        self.dequantize_with(self.scales(), dtype)
    }

    /// The trits themselves, -1, 0 and 1, in a tensor of f32, f16 or bf16.
    ///
    /// # Errors
    ///
    /// As for [`dequantize`](Self::dequantize).
    pub fn trits(&self, dtype: DType) -> Result<Tensor> {
        let ones = vec![bf16::ONE.to_bits(); Device::len(&self.scales())];
        let ones = self.device.upload(&ones)?;
        self.dequantize_with(Device::view(&ones), dtype)
    }

    /// Trits that are not 0.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn count_nonzero(&self) -> Result<u64> {
        let mut sums = self.device.zeros(SUM_WORDS)?;
        let item = CountNonzeroItem { words: self.words(), sum: 0 };
        self.device.count_nonzero(&CountNonzero, &mut [item], Device::view_mut(&mut sums))?;
        Ok(self.sum(&sums)?.to_count())
    }

    /// The dot product with a tensor of the same shape and grouping, without unpacking: the exact sum, rounded once.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`], [`Error::Length`] where groupings differ, [`Error::WrongDevice`], or what the device reports.
    pub fn dot(&self, other: &TernaryTensor) -> Result<f64> {
        if self.shape != other.shape {
            return Err(Error::Shape { expected: self.shape.clone(), got: other.shape.clone() });
        }
        length("elements under one scale", self.grouping.size(self.n), other.grouping.size(other.n))?;
        let (words_b, scales_b) = (other.words(), other.scales());
        let (words_a, scales_a) = (self.words(), self.scales());
        let item = DotItem { n: self.n, words_a, scales_a, words_b, scales_b, sum: 0 };
        let mut sums = self.device.zeros(SUM_WORDS)?;
        self.device.dot(&Dot { grouping: self.grouping }, &mut [item], Device::view_mut(&mut sums))?;
        Ok(self.sum(&sums)?.to_f64())
    }

    /// The sum of squares, without unpacking: the exact sum, rounded once.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn squared_norm(&self) -> Result<f64> {
        let item = SquaredNormItem { n: self.n, levels: self.words(), scales: self.scales(), sum: 0 };
        let op = SquaredNorm { bits: 2, grouping: self.grouping };
        let mut sums = self.device.zeros(SUM_WORDS)?;
        self.device.squared_norm(&op, &mut [item], Device::view_mut(&mut sums))?;
        Ok(self.sum(&sums)?.to_f64())
    }

    fn sum(&self, sums: &Buffer<u32>) -> Result<ExactSum> {
        Ok(read_sums(&self.device, Device::view(sums))?.into_iter().next().unwrap_or_default())
    }

    fn dequantize_with(&self, scales: View<'_, u16>, dtype: DType) -> Result<Tensor> {
        match dtype {
            DType::F32 => self.dequantize_to::<f32>(scales),
            DType::F16 => self.dequantize_to::<f16>(scales),
            DType::BF16 => self.dequantize_to::<bf16>(scales),
            other => float(other).and_then(|()| self.dequantize_to::<f32>(scales)),
        }
    }

    fn dequantize_to<T: Element + Shared>(&self, scales: View<'_, u16>) -> Result<Tensor> {
        let mut out = self.device.zeros::<T>(self.n)?;
        let (words, scales) = (self.words(), Device::shorten(scales));
        let item = dequantize::Item { words, scales, out: Device::view_mut(&mut out) };
        self.device.dequantize(&Dequantize { grouping: self.grouping }, &mut [item])?;
        tensor(out, &self.shape, &self.home)
    }
}

impl std::fmt::Debug for TernaryTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TernaryTensor({:?}, {:?}, {} bytes)", self.shape, self.grouping, self.bytes_held())
    }
}
