//! Checkpoints: the whole state in one safetensors file, with a checksum, written at once or not at all.
//!
//! A file holds levels, scales, counts, reports, the place in the run and the configuration. Its metadata has
//! `format` = `trigrad`, `version`, `kind`, and `checksum`: the CRC-32 of all its bytes with the checksum itself taken
//! as `00000000`. Equal states are equal files, byte for byte. Loading checks every field, and changes nothing unless all of
//! it is sound. Any backend loads what any backend saved, with the same bits.
//!
//! A file is written beside its target, flushed to the disk and renamed. Where the target is a link, the link stays and
//! the file it leads to is replaced. Permissions stay as they were. A folder, pipe or device is not replaced.
//!
//! # Examples
//!
//! ```
//! use trigrad::accumulator::{Accumulator, Config, Spec};
//! use trigrad::cpu::Cpu;
//!
//! let tensors = [Spec::new("w", [100])];
//! let mut sum = Accumulator::new(Cpu::new(), &tensors, Config::default())?;
//! let gradient = [0.5f32; 100];
//! sum.accumulate(&[("w", gradient[..].into())], 1.0)?;
//! let path = std::env::temp_dir().join(format!("trigrad-{}.safetensors", std::process::id()));
//! sum.save(&path)?;
//! let mut again = Accumulator::new(Cpu::plain(), &tensors, Config::default())?;
//! again.load(&path)?;
//! assert_eq!(again.state()?, sum.state()?);
//! # std::fs::remove_file(&path).ok();
//! # Ok::<(), trigrad::Error>(())
//! ```

mod accumulator;
mod contents;
mod file;
mod header;
mod replace;

pub(crate) use accumulator::{get_reports, get_state, put_reports, put_specs, put_state, same_specs};
pub(crate) use contents::{Array, Contents};
pub(crate) use file::{read, write};

/// The version of the format that is written.
pub const VERSION: u32 = 2;

/// The earliest version of the format that is read.
pub const OLDEST: u32 = 1;
