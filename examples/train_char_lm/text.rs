//! Moby-Dick as numbers: one for each byte that occurs.

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use std::path::Path;

/// The text that comes with this example.
const BOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/moby-dick/moby-dick.txt");

/// A text, its last tenth held back.
pub(crate) struct Text {
    train: Vec<u32>,
    validation: Vec<u32>,
    /// Different bytes in it.
    pub(crate) symbols: usize,
}

impl Text {
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let path = path.unwrap_or(Path::new(BOOK));
        let bytes = std::fs::read(path).with_context(|| format!("can not read {}", path.display()))?;
        ensure!(bytes.len() >= 10_000, "{} has only {} bytes", path.display(), bytes.len());
        let mut number = [u32::MAX; 256];
        let mut symbols = 0;
        for &b in &bytes {
            let n = &mut number[usize::from(b)];
            if *n == u32::MAX {
                *n = symbols;
                symbols += 1;
            }
        }
        let mut train: Vec<u32> = bytes.iter().map(|&b| number[usize::from(b)]).collect();
        let validation = train.split_off(train.len() / 10 * 9);
        Ok(Text { train, validation, symbols: symbols as usize })
    }

    /// Bytes to train on.
    pub(crate) fn len(&self) -> usize {
        self.train.len()
    }

    /// Windows of `length + 1` bytes at places drawn anew.
    pub(crate) fn batch(&self, rng: &mut Xoshiro256PlusPlus, count: usize, length: usize) -> Vec<u32> {
        let last = self.train.len() - length - 1;
        (0..count)
            .flat_map(|_| {
                let at = rng.random_range(0..=last);
                &self.train[at..=at + length]
            })
            .copied()
            .collect()
    }

    /// `count` windows spread evenly over what was held back: the same for every run.
    pub(crate) fn held_back(&self, count: usize, length: usize) -> Vec<u32> {
        let stride = (self.validation.len() - length - 1) / count.max(1);
        (0..count).flat_map(|i| &self.validation[i * stride..=i * stride + length]).copied().collect()
    }
}
