//! Checkpoints of an accumulator: the same bits back, and every damaged file refused.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use trigrad::accumulator::{Accumulator, Config, Format, NonFinite, Reduce, Scales, Spec, State, TensorState};
use trigrad::checkpoint::{OLDEST, VERSION};
use trigrad::cpu::Cpu;
use trigrad::{Error, Result};

mod damaged;
mod files;
mod states;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn specs() -> Vec<Spec> {
    vec![Spec::new("layer \"one\".weight", [3, 7]), Spec::new("bias", [5])]
}

/// The second tensor is kept wide, the way that goes with the format.
fn make(cpu: Cpu, format: Format) -> Accumulator<Cpu> {
    let [w, b] = <[Spec; 2]>::try_from(specs()).unwrap();
    let specs = match format {
        Format::Adaptive { bits: 8 } => [w, b.format(Format::F32)],
        Format::Exact { bits: 16, scales } => [w, b.format(Format::Exact { bits: 32, scales })],
        _ => [w, b],
    };
    Accumulator::new(cpu, &specs, Config { format, seed: u64::MAX, ..Config::default() }).unwrap()
}

/// Levels or counts and what goes with them.
fn parts(t: &mut TensorState) -> (&mut Vec<u32>, &mut Vec<u16>, &mut Option<Vec<u16>>, &mut bool) {
    match t {
        TensorState::Levels { levels, scales, seen, scaled } => (levels, scales, seen, scaled),
        TensorState::F32(_) => panic!("held in f32"),
    }
}

fn floats(t: &mut TensorState) -> &mut Vec<f32> {
    match t {
        TensorState::F32(sum) => sum,
        TensorState::Levels { .. } => panic!("held in levels"),
    }
}

/// The error without the file around it, which it must name, once.
fn in_file(e: Error, file: &Path) -> Error {
    let text = e.to_string();
    assert_eq!(text.matches(&file.display().to_string()).count(), 1, "{text}");
    match e {
        Error::InFile { path, source } if path == file => *source,
        e => e,
    }
}

fn go(sum: &mut Accumulator<Cpu>, from: usize, to: usize) -> Result<()> {
    for k in from..to {
        let w: Vec<f32> = (0..21).map(|i| ((i * 31 + k * 17) % 23) as f32 - 11.0).collect();
        let b = [k as f32, -1.0, 0.5, f32::NAN, 2.0];
        let b = if k == 2 { &b[..] } else { &[0.25f32; 5][..] };
        sum.accumulate(&[(0usize, w[..].into()), (1, b.into())], 0.5 + k as f32)?;
        if k % 5 == 4 {
            sum.reset()?;
        }
    }
    Ok(())
}

const FORMATS: [Format; 4] = [
    Format::Adaptive { bits: 2 },
    Format::Adaptive { bits: 8 },
    Format::Exact { bits: 4, scales: Scales::FirstLook { headroom: 2.0 } },
    Format::Exact { bits: 16, scales: Scales::LastWindow { headroom: 1.5 } },
];

#[test]
fn any_cut_gives_the_same_bits_and_keeps_what_was_found() -> Result<()> {
    for (f, format) in FORMATS.into_iter().enumerate() {
        for cut in 0..12 {
            let mut whole = make(Cpu::new(), format);
            go(&mut whole, 0, 12)?;
            let mut first = make(Cpu::new(), format);
            go(&mut first, 0, cut)?;
            let file = path(&format!("cut-{f}-{cut}.safetensors"));
            first.save(&file)?;
            let mut second = make(Cpu::plain(), format);
            go(&mut second, 0, 3)?;
            second.load(&file)?;
            assert_eq!(second.state()?, first.state()?);
            // The NaN of micro-batch 2 marks the window until its reset.
            let marked = second.read_out::<usize, f32>(Reduce::Sum, &mut []).is_err();
            assert_eq!(marked, (3..5).contains(&cut));
            go(&mut second, cut, 12)?;
            assert_eq!(second.state()?, whole.state()?);
            fs::remove_file(file).unwrap();
        }
    }
    Ok(())
}

/// Loading `bytes` must fail and change nothing.
fn refused(sum: &mut Accumulator<Cpu>, state: &State, file: &Path, bytes: &[u8], what: &str) -> Error {
    fs::write(file, bytes).unwrap();
    let e = in_file(sum.load(file).err().unwrap_or_else(|| panic!("{what}: loaded")), file);
    assert_eq!(&sum.state().unwrap(), state, "{what}");
    e
}

fn with_fields(file: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    changed(file, fields, &[])
}

/// A file with other values of some of its fields and arrays, and a right checksum.
fn changed(file: &[u8], to: &[(&str, &str)], arrays: &[(String, Vec<u8>)]) -> Vec<u8> {
    let read = safetensors::SafeTensors::deserialize(file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(file).unwrap();
    let mut fields = metadata.metadata().clone().unwrap();
    for (name, value) in to.iter().chain(&[("checksum", "00000000")]) {
        assert!(fields.insert((*name).to_owned(), (*value).to_owned()).is_some(), "no field {name}");
    }
    let tensors = read.tensors().into_iter().map(|(name, view)| {
        let data = arrays.iter().find(|(of, _)| *of == name).map_or(view.data(), |(_, data)| &data[..]);
        let view = safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap();
        (name, view)
    });
    let mut bytes = safetensors::serialize(tensors, Some(fields)).unwrap();
    let sum_at = bytes.windows(12).position(|w| w == b"\"checksum\":\"").unwrap() + 12;
    let crc = format!("{:08x}", crc32fast::hash(&bytes));
    bytes[sum_at..sum_at + 8].copy_from_slice(crc.as_bytes());
    bytes
}

/// A file of version 1 has one format, and of a window without a first look the scales of the one before.
#[test]
fn a_file_of_version_1_loads_into_the_same_formats_only() -> Result<()> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1-exact.safetensors");
    let format = Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } };
    let specs = |wide: Option<Format>| {
        let bias = Spec { format: wide, ..Spec::new("bias", [5]) };
        [Spec::new("layer \"one\".weight", [6, 11]), bias, Spec::new("empty", [0])]
    };
    let config = Config { format, seed: u64::MAX - 1, ..Config::default() };
    let mut sum = Accumulator::new(Cpu::new(), &specs(None), config)?;
    sum.load(&file)?;
    let scales = sum.scales("bias")?;
    assert!(sum.count() == 2 && scales.iter().all(|s| s.to_f32() != 0.0));
    let wide = Format::Exact { bits: 32, scales: Scales::LastWindow { headroom: 1.5 } };
    let e = Accumulator::new(Cpu::new(), &specs(Some(wide)), config)?.load(&file).unwrap_err();
    assert!(matches!(e.root(), Error::CheckpointMismatch { field, .. } if field == "tensor.1.format"), "{e}");
    let fresh = path("v1-unscaled.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&fresh, with_fields(&bytes, &[("sum.1.scaled", "false")])).unwrap();
    // Counts that were made under them need their scales.
    assert!(matches!(sum.load(&fresh).unwrap_err().root(), Error::ImpossibleLevel { limit: 0, .. }));
    Ok(())
}

/// Equal states are equal files, whatever the process: nothing in a file depends on the order of a hash map.
#[test]
fn equal_states_are_equal_files() -> Result<()> {
    let (a, b) = (path("equal-a.safetensors"), path("equal-b.safetensors"));
    for format in FORMATS {
        let mut sum = make(Cpu::new(), format);
        go(&mut sum, 0, 3)?;
        sum.save(&a)?;
        let mut other = make(Cpu::plain(), format);
        other.load(&a)?;
        other.save(&b)?;
        let bytes = fs::read(&a).unwrap();
        assert!(bytes == fs::read(&b).unwrap());
        // Any reader of safetensors takes it.
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let names: Vec<_> = read.names().into_iter().map(String::from).collect();
        assert!(names.contains(&"sum.0.levels".to_owned()), "{names:?}");
        assert_eq!(read.tensor("sum.0.scales").unwrap().data().len(), 2);
    }
    Ok(())
}
