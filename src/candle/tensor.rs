//! One tensor at 2 bits an element.

use super::storage::{Shared, float, tensor, with_views};
use crate::accumulator::{Floats, Typed};
use crate::device::{Buffer, Device, Reports, View};
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
    float(tensor.dtype())?;
    op.validate()?;
    op.grouping.validate(tensor.elem_count())?;
    let one = on_device(tensor.device(), &[tensor], &[0], op).map_err(|e| match e {
        Error::InTensor { source, .. } => *source,
        e => e,
    })?;
    one.into_iter().next().ok_or(Error::Length { what: "tensors", expected: 1, got: 0 })
}

/// Quantizes tensors, numbered as they come: the number is part of what a stochastic draw depends on, beside the
/// seed, step and micro-batch in `op` and the element's index. The tensors of a device are one list: a launch a type of
/// elements, and one wait.
///
/// # Errors
///
/// Within the tensor's number: [`Error::ElementType`] unless it is f32, f16 or bf16; [`Error::NonFinite`] for NaN,
/// Inf or 2^126 and above; [`Error::Alignment`] where rows do not divide it. [`Error::Parameter`] and
/// [`Error::Limit`] for what `op` says; [`Error::NoDevice`].
pub fn quantize_all(tensors: &[&Tensor], op: &Quantize) -> Result<Vec<TernaryTensor>> {
    op.validate()?;
    for (number, x) in tensors.iter().enumerate() {
        let fits = || float(x.dtype()).and_then(|()| op.grouping.validate(x.elem_count()));
        fits().map_err(|e| at(e, number))?;
    }
    let mut all: Vec<Option<TernaryTensor>> = tensors.iter().map(|_| None).collect();
    for (first, x) in tensors.iter().enumerate() {
        if all[first].is_some() {
            continue;
        }
        let here = (first..tensors.len()).filter(|i| tensors[*i].device().same_device(x.device())).collect::<Vec<_>>();
        for (i, packed) in here.iter().zip(on_device(x.device(), tensors, &here, op)?) {
            all[*i] = Some(packed);
        }
    }
    Ok(all.into_iter().flatten().collect())
}

fn at(e: Error, number: usize) -> Error {
    match e {
        e @ Error::InTensor { .. } => e,
        e => e.in_tensor(format!("#{number}")),
    }
}

/// Quantizes the tensors of a device, given by their numbers: a launch a type of elements, and one wait.
fn on_device(
    home: &candle_core::Device,
    tensors: &[&Tensor],
    numbers: &[usize],
    op: &Quantize,
) -> Result<Vec<TernaryTensor>> {
    let device = super::storage::device(home)?;
    let mut reports = device.reports(numbers.len())?;
    let make = |number: &usize| {
        let n = tensors[*number].elem_count();
        let make = || Ok((device.zeros(words(n, 2))?, device.zeros(op.grouping.groups(n))?));
        make().map_err(|e| at(e, *number))
    };
    let mut packed: Vec<(Buffer<u32>, Buffer<u16>)> = numbers.iter().map(make).collect::<Result<_>>()?;
    let here: Vec<&Tensor> = numbers.iter().map(|i| tensors[*i]).collect();
    with_views(&here, |views| {
        launch::<f32>(&device, op, numbers, views, &mut packed, &mut reports)?;
        launch::<f16>(&device, op, numbers, views, &mut packed, &mut reports)?;
        launch::<bf16>(&device, op, numbers, views, &mut packed, &mut reports)
    })?;
    let reports = device.read_reports(&reports)?;
    let mut all = Vec::with_capacity(numbers.len());
    for (((number, x), (words, scales)), report) in numbers.iter().zip(here).zip(packed).zip(reports) {
        report.finite().map_err(|e| at(e, *number))?;
        let (shape, n, grouping) = (x.dims().to_vec(), x.elem_count(), op.grouping);
        all.push(TernaryTensor {
            device: device.clone(),
            home: home.clone(),
            shape,
            n,
            grouping,
            words,
            scales,
            report,
        });
    }
    Ok(all)
}

/// Quantizes the tensors whose elements are of a type.
fn launch<T: Typed>(
    device: &Device,
    op: &Quantize,
    numbers: &[usize],
    views: &[Floats<'_, Device>],
    packed: &mut [(Buffer<u32>, Buffer<u16>)],
    reports: &mut Reports,
) -> Result<()> {
    let mut items = Vec::with_capacity(numbers.len());
    for (report, ((number, x), (words, scales))) in numbers.iter().zip(views).zip(packed).enumerate() {
        if let Some(x) = T::of(x) {
            let (words, scales) = (Device::view_mut(words), Device::view_mut(scales));
            items.push(Item { tensor: *number as u32, first: 0, x: Device::shorten(x), words, scales, report });
        }
    }
    if items.is_empty() { Ok(()) } else { device.quantize(op, &mut items, reports) }
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
