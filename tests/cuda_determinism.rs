//! The same training on a card, twice, and on the CPU: equal bits after every step.
#![cfg(feature = "cuda-kernels")]

#[path = "common/card.rs"]
mod card;
#[path = "common/training.rs"]
mod training;

use card::card;
use training::{FORMATS, sound, train};
use trigrad::Result;
use trigrad::cpu::Cpu;

#[test]
fn a_training_on_a_card_is_the_one_on_the_cpu() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    for format in FORMATS {
        for adam in [true, false] {
            let expected = train(&Cpu::new(), format, adam)?;
            assert!(sound(&expected));
            assert_eq!(train(&cuda, format, adam)?, expected, "{format:?}, AdamW: {adam}");
            assert_eq!(train(&cuda, format, adam)?, expected, "{format:?}, AdamW: {adam}, the second time");
        }
    }
    Ok(())
}
