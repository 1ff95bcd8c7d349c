//! The moments of one tensor, as they are held.

use super::{MomentFormat, Rule};
use crate::checkpoint::{Array, Contents};
use crate::error::Result;
use crate::op::update_adamw_8bit::AdamW8;
use crate::op::{Backend, length};

/// The moments of one tensor.
pub(super) enum Moments<B: Backend> {
    /// Buffers in f32: none, the momentum, or the first and second moment.
    Wide(Vec<B::Buffer<f32>>),
    /// Both moments of AdamW: a word an element, and the scales of blocks of 64.
    Bytes { words: B::Buffer<u16>, scales: B::Buffer<u16> },
}

impl<B: Backend> Moments<B> {
    pub(super) fn zeros(backend: &B, rule: &Rule, format: MomentFormat, n: usize) -> Result<Self> {
        Ok(match format {
            MomentFormat::F32 => Moments::Wide((0..rule.buffers()).map(|_| backend.zeros(n)).collect::<Result<_>>()?),
            MomentFormat::Bits8 => {
                Moments::Bytes { words: backend.zeros(n)?, scales: backend.zeros(AdamW8::scales(n))? }
            }
        })
    }

    pub(super) const fn format(&self) -> MomentFormat {
        match self {
            Moments::Wide(_) => MomentFormat::F32,
            Moments::Bytes { .. } => MomentFormat::Bits8,
        }
    }

    /// Bytes of the buffers.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match self {
            Moments::Wide(buffers) => buffers.iter().map(|b| B::len(&B::view(b)) * size_of::<f32>()).sum(),
            Moments::Bytes { words, scales } => (B::len(&B::view(words)) + B::len(&B::view(scales))) * size_of::<u16>(),
        };
        bytes as u64
    }

    /// Puts those of tensor `i` into a checkpoint. Moments in f32 are written as they always were.
    pub(super) fn put(&self, backend: &B, c: &mut Contents, i: usize) -> Result<()> {
        match self {
            Moments::Wide(buffers) => {
                for (j, buffer) in buffers.iter().enumerate() {
                    c.arrays.insert(format!("optimizer.{i}.{j}"), Array::F32(backend.download(B::view(buffer))?));
                }
            }
            Moments::Bytes { words, scales } => {
                c.set(field(i), MomentFormat::Bits8.name());
                c.arrays.insert(format!("optimizer.{i}.words"), Array::U16(backend.download(B::view(words))?));
                c.arrays.insert(format!("optimizer.{i}.scales"), Array::Bf16(backend.download(B::view(scales))?));
            }
        }
        Ok(())
    }

    /// Moments of this format from a checkpoint, checked.
    pub(super) fn get(
        backend: &B,
        c: &mut Contents,
        (i, n): (usize, usize),
        format: MomentFormat,
        buffers: usize,
    ) -> Result<Self> {
        let got = c.fields.remove(&field(i)).unwrap_or_else(|| MomentFormat::F32.name().to_owned());
        if got != format.name() {
            return Err(c.mismatch("format of the moments", format.name().to_owned(), got));
        }
        if format == MomentFormat::F32 {
            let get = |j| Self::wide(backend, c, &format!("optimizer.{i}.{j}"), n);
            return Ok(Moments::Wide((0..buffers).map(get).collect::<Result<_>>()?));
        }
        let words = c.u16s(&format!("optimizer.{i}.words"))?;
        length("moments", n, words.len())?;
        let name = format!("optimizer.{i}.scales");
        let scales = c.bf16s(&name)?;
        length("moment scales", AdamW8::scales(n), scales.len())?;
        if let Some(at) = scales.iter().position(|s| !valid_scale(*s)) {
            let reason =
                format!("scale {at} is {:#06x}: it must be 0 or a power of two from 2^-95 to 2^127", scales[at]);
            return Err(c.at_fault(&name, reason));
        }
        Ok(Moments::Bytes { words: backend.upload(&words)?, scales: backend.upload(&scales)? })
    }

    fn wide(backend: &B, c: &mut Contents, name: &str, n: usize) -> Result<B::Buffer<f32>> {
        let x = c.f32s(name)?;
        length("moments", n, x.len())?;
        if let Some(at) = x.iter().position(|x| !x.is_finite()) {
            return Err(c.at_fault(name, format!("element {at} is {}, which no update writes", x[at])));
        }
        backend.upload(&x)
    }
}

/// Where a checkpoint says that the moments of a tensor are not f32.
fn field(i: usize) -> String {
    format!("optimizer.{i}.moments")
}

/// What a scale of second moments can be: 0, or a power of two as bf16, of biased exponent 32 to 254.
const fn valid_scale(scale: u16) -> bool {
    let exponent = scale >> 7;
    scale == 0 || (scale & 0x7f == 0 && exponent >= 32 && exponent <= 254)
}

#[cfg(test)]
mod tests {
    use super::{Moments, valid_scale};
    use crate::checkpoint::{Array, Contents};
    use crate::cpu::Cpu;
    use crate::error::{Error, Result};
    use crate::training::{AdamW, MomentFormat, Rule};

    #[test]
    fn scales_that_can_be() {
        assert!([0, 32 << 7, 127 << 7, 254 << 7].into_iter().all(valid_scale));
        let bad = [1, 31 << 7, 255 << 7, (127 << 7) | 1, 0x8000, 0x8000 | 127 << 7, u16::MAX];
        assert!(!bad.into_iter().any(valid_scale));
    }

    #[test]
    fn forged_moments_are_refused_by_name() -> Result<()> {
        let (cpu, n) = (Cpu::new(), 4100);
        let rule = Rule::AdamW(AdamW::default());
        let mut good = Contents::default();
        Moments::zeros(&cpu, &rule, MomentFormat::Bits8, n)?.put(&cpu, &mut good, 3)?;
        let load = |change: &dyn Fn(&mut Contents), format| {
            let mut c = good.clone();
            change(&mut c);
            Moments::get(&cpu, &mut c, (3, n), format, 2).map(drop)
        };
        load(&|_| {}, MomentFormat::Bits8)?;
        assert!(matches!(load(&|_| {}, MomentFormat::F32), Err(Error::CheckpointMismatch { .. })));
        let scales = |at: usize, to: u16, len: usize| {
            move |c: &mut Contents| {
                let mut scales = vec![0u16; len];
                scales[at] = to;
                c.arrays.insert("optimizer.3.scales".to_owned(), Array::Bf16(scales));
            }
        };
        load(&scales(64, 127 << 7, 65), MomentFormat::Bits8)?;
        for bad in [1, 31 << 7, 255 << 7, 0x3f81, 0x8000] {
            let refused = load(&scales(64, bad, 65), MomentFormat::Bits8);
            assert!(matches!(&refused, Err(Error::CheckpointField { field, .. }) if field == "optimizer.3.scales"));
        }
        assert!(load(&scales(0, 0, 64), MomentFormat::Bits8).is_err());
        let words = |c: &mut Contents| drop(c.arrays.insert("optimizer.3.words".to_owned(), Array::U16(vec![0; 4099])));
        assert!(load(&words, MomentFormat::Bits8).is_err());
        let text = |c: &mut Contents| c.set("optimizer.3.moments", "7 bits");
        assert!(load(&text, MomentFormat::Bits8).is_err());
        Ok(())
    }
}
