//! An accumulator's state, to and from the fields and arrays of a checkpoint.

use super::contents::{Array, Contents};
use super::{read, write};
use crate::accumulator::{Accumulator, Config, Spec, State, TensorState, format_text};
use crate::error::{Error, Result};
use crate::op::{Backend, Draw, Report};
use std::path::Path;

const KIND: &str = "accumulator";

impl<B: Backend> Accumulator<B> {
    /// Writes the whole state to a file, at once or not at all; see [`crate::checkpoint`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Refused`]; what the device reports.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut contents = Contents::default();
        put_config(&mut contents, self.config());
        put_specs(&mut contents, self.specs(), self.config());
        put_state(&mut contents, "sum", self.state()?);
        write(path.as_ref(), KIND, &contents)
    }

    /// Takes over the state in a file, which any backend may have saved, of this version of the format or an earlier one.
    /// The file decides what the run has come to: sums, reports, step, micro-batch and the seed of the draws. The caller
    /// decides what happens to NaN. Tensors, their formats and the block must be the same.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NotACheckpoint`], [`Error::CheckpointTruncated`], [`Error::CheckpointCorrupted`],
    /// [`Error::CheckpointVersion`]; [`Error::CheckpointMismatch`] for another block, format or number of tensors;
    /// [`Error::CheckpointField`]; and with [`Error::InFile`] around it: [`Error::UnknownTensor`] or [`Error::Shape`] for
    /// other tensors, what [`set_state`](Self::set_state) says for a value that can not be, what the device reports.
    /// Nothing is then changed.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.load_contents(read(path, KIND)).map_err(|e| e.in_file(path))
    }

    fn load_contents(&mut self, contents: Result<Contents>) -> Result<()> {
        let mut contents = contents?;
        if contents.version < 2 {
            upgrade(&mut contents)?;
        }
        contents.same("config.block", self.config().block.get())?;
        let seed = contents.get("config.seed")?;
        // What happens to NaN is the caller's choice; the file says what it was.
        contents.text("config.non_finite")?;
        same_specs(&mut contents, self.specs(), self.config())?;
        let state = get_state(&mut contents, "sum", self.specs().len())?;
        contents.empty()?;
        self.set_state(&state)?;
        self.set_seed(seed);
        Ok(())
    }
}

/// Version 1 had one format for all tensors, among the choices; and kept the scales of a window that had no first look yet.
fn upgrade(contents: &mut Contents) -> Result<()> {
    let (kind, bits) = (contents.text("config.format")?, contents.text("config.bits")?);
    let (scales, headroom) = (contents.text("config.scales")?, contents.text("config.headroom")?);
    let format = match (kind.as_str(), scales.as_str()) {
        ("adaptive", "none") => format!("adaptive {bits}"),
        ("exact", "given") => format!("exact {bits} given"),
        ("exact", "last window" | "first look") => {
            let reason = || contents.at_fault("config.headroom", format!("`{headroom}` is not the bits of a float"));
            let headroom = u32::from_str_radix(&headroom, 16).map_err(|_| reason())?;
            format!("exact {bits} {scales} {:?}", f32::from_bits(headroom))
        }
        _ => {
            let reason = format!("`{kind}` with scales `{scales}` is none of version 1");
            return Err(contents.at_fault("config.format", reason));
        }
    };
    for i in (0..).take_while(|i| contents.fields.contains_key(&format!("tensor.{i}.name"))).collect::<Vec<usize>>() {
        contents.set(format!("tensor.{i}.format"), &format);
        let exact = contents.arrays.contains_key(&format!("sum.{i}.seen"));
        if !exact {
            contents.fields.remove(&format!("sum.{i}.scaled"));
        } else if contents.fields.get(&format!("sum.{i}.scaled")).is_some_and(|s| s == "false")
            && let Some(Array::Bf16(scales)) = contents.arrays.get_mut(&format!("sum.{i}.scales"))
        {
            scales.fill(0);
        }
    }
    Ok(())
}

fn put_config(contents: &mut Contents, config: &Config) {
    contents.set("config.block", config.block.get());
    contents.set("config.seed", config.seed);
    contents.set("config.non_finite", format!("{:?}", config.non_finite).to_lowercase());
}

pub(crate) fn put_specs(contents: &mut Contents, specs: &[Spec], config: &Config) {
    contents.set("tensors", specs.len());
    for (i, spec) in specs.iter().enumerate() {
        contents.set(format!("tensor.{i}.name"), &spec.name);
        contents.set(format!("tensor.{i}.shape"), shape_text(&spec.shape));
        contents.set(format!("tensor.{i}.format"), format_text(config.format_of(spec)));
    }
}

fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Checks that the file is of these tensors, in these formats.
pub(crate) fn same_specs(contents: &mut Contents, specs: &[Spec], config: &Config) -> Result<()> {
    contents.same("tensors", specs.len())?;
    for (i, spec) in specs.iter().enumerate() {
        let name = contents.text(&format!("tensor.{i}.name"))?;
        if name != spec.name {
            return Err(Error::UnknownTensor { name, known: specs.len() });
        }
        let field = format!("tensor.{i}.shape");
        let text = contents.text(&field)?;
        let got: Option<Vec<usize>> =
            if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(|d| d.parse().ok()).collect() };
        let got = got.ok_or_else(|| contents.at_fault(&field, format!("`{text}` is not a shape")))?;
        if got != spec.shape {
            return Err(Error::Shape { expected: spec.shape.clone(), got }.in_tensor(name));
        }
        let same = contents.same(&format!("tensor.{i}.format"), format_text(config.format_of(spec)));
        same.map_err(|e| e.in_tensor(name))?;
    }
    Ok(())
}

/// Moves a state into the contents.
pub(crate) fn put_state(contents: &mut Contents, at: &str, state: State) {
    contents.set(format!("{at}.step"), state.step);
    contents.set(format!("{at}.micro_batch"), state.micro_batch);
    contents.set(format!("{at}.held"), state.held);
    contents.set_f64(format!("{at}.weights"), state.weights);
    put_reports(contents, &format!("{at}.reports"), &state.reports);
    for (i, t) in state.tensors.into_iter().enumerate() {
        match t {
            TensorState::F32(sum) => {
                contents.arrays.insert(format!("{at}.{i}.sum"), Array::F32(sum));
            }
            TensorState::Levels { levels, scales, seen, scaled } => {
                contents.arrays.insert(format!("{at}.{i}.levels"), Array::U32(levels));
                contents.arrays.insert(format!("{at}.{i}.scales"), Array::Bf16(scales));
                if let Some(seen) = seen {
                    contents.set(format!("{at}.{i}.scaled"), scaled);
                    contents.arrays.insert(format!("{at}.{i}.seen"), Array::Bf16(seen));
                }
            }
        }
    }
}

pub(crate) fn get_state(contents: &mut Contents, at: &str, tensors: usize) -> Result<State> {
    let mut state = State {
        step: contents.get(&format!("{at}.step"))?,
        micro_batch: get_micro_batch(contents, &format!("{at}.micro_batch"))?,
        held: contents.get(&format!("{at}.held"))?,
        weights: contents.get_f64(&format!("{at}.weights"))?,
        ..State::default()
    };
    state.reports = get_reports(contents, &format!("{at}.reports"))?;
    for i in 0..tensors {
        let (sum, seen) = (format!("{at}.{i}.sum"), format!("{at}.{i}.seen"));
        state.tensors.push(if contents.arrays.contains_key(&sum) {
            TensorState::F32(contents.f32s(&sum)?)
        } else {
            let exact = contents.arrays.contains_key(&seen);
            TensorState::Levels {
                levels: contents.u32s(&format!("{at}.{i}.levels"))?,
                scales: contents.bf16s(&format!("{at}.{i}.scales"))?,
                seen: if exact { Some(contents.bf16s(&seen)?) } else { None },
                scaled: if exact { contents.get(&format!("{at}.{i}.scaled"))? } else { false },
            }
        });
    }
    Ok(state)
}

/// The next micro-batch: past the last index there is one more, where the window is full.
pub(crate) fn get_micro_batch(contents: &mut Contents, name: &str) -> Result<u32> {
    let next: u32 = contents.get(name)?;
    match Draw::default().micro_batch(next.saturating_sub(1)).validate() {
        Ok(()) => Ok(next),
        Err(e) => Err(contents.at_fault(name, e.to_string())),
    }
}

pub(crate) fn put_reports(contents: &mut Contents, name: &str, reports: &[Report]) {
    let words = reports.iter().flat_map(|r| [r.non_finite, r.first.map_or(0, |f| f + 1), r.clipped]);
    contents.arrays.insert(name.to_owned(), Array::U64(words.collect()));
}

pub(crate) fn get_reports(contents: &mut Contents, name: &str) -> Result<Vec<Report>> {
    let words = contents.u64s(name)?;
    let (rows, rest) = words.as_chunks::<3>();
    if !rest.is_empty() {
        return Err(contents.at_fault(name, format!("{} numbers, and a report is 3", words.len())));
    }
    let report = |&[non_finite, first, clipped]: &[u64; 3]| {
        let report = Report { non_finite, first: first.checked_sub(1), clipped };
        report.validate(usize::MAX).map(|()| report)
    };
    rows.iter().map(report).collect()
}
