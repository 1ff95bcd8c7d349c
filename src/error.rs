//! What can go wrong, in fields.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where programs written for `vsa-optim-rs` look for the error.
#[cfg(feature = "candle")]
pub type OptimError = Error;

/// Every way a call can fail. After an error the state is as it was before the call, unless the variant says that
/// it is refused until reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error inside one tensor of a list or model.
    #[error("tensor `{tensor}`: {source}")]
    InTensor {
        /// The tensor's name, or `#` and its number where it has none.
        tensor: String,
        /// What went wrong there.
        source: Box<Error>,
    },
    /// An error in a file that was read.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: std::path::PathBuf,
        /// What went wrong there.
        source: Box<Error>,
    },
    /// A buffer or slice has the wrong length.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// The length it must have, in its own elements.
        expected: u64,
        /// The length it has.
        got: u64,
    },
    /// A tensor has the wrong shape.
    #[error("shape: expected {expected:?}, got {got:?}")]
    Shape {
        /// The shape it must have.
        expected: Vec<usize>,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// Elements that a layout places outside of their storage, or not one after the other.
    #[error("a tensor of shape {shape:?} and strides {strides:?} is not contiguous: make it so, with `contiguous()`")]
    NotContiguous {
        /// The tensor's shape.
        shape: Vec<usize>,
        /// Its strides, in elements.
        strides: Vec<usize>,
    },
    /// Two names for the same memory, which would be written twice: tied weights.
    #[error("tensors `{}` and `{}` share memory: give it once, under one name", tensors.0, tensors.1)]
    SharedMemory {
        /// The two names, in the order of the model.
        tensors: (String, String),
    },
    /// A tensor that does not divide into rows of this length.
    #[error("{elements} elements do not divide into rows of {columns}")]
    Rows {
        /// The elements of the tensor.
        elements: u64,
        /// The elements of a row.
        columns: u64,
    },
    /// An element type this operation does not take.
    #[error("element type: expected {expected}, got {got}{}", element_type_advice(got))]
    ElementType {
        /// What is taken.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// A block size that is not a power of two within the limits.
    #[error("block size {got}: must be a power of two from {min} to {max}")]
    BlockSize {
        /// The size given.
        got: u32,
        /// The smallest allowed.
        min: u32,
        /// The largest allowed.
        max: u32,
    },
    /// A bit width this operation does not offer.
    #[error("{got} bits: must be one of {allowed:?}")]
    BitWidth {
        /// The width given.
        got: u32,
        /// The widths offered.
        allowed: &'static [u32],
    },
    /// A number outside what its parameter allows.
    #[error("{name} = {got}: must be {requirement}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The value given.
        got: f64,
        /// What it must be.
        requirement: &'static str,
    },
    /// Two choices that exclude each other.
    #[error("{what} cannot be used with {with}: {advice}")]
    Conflict {
        /// The one choice.
        what: &'static str,
        /// The other.
        with: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// An index past the end of what it points into.
    #[error("{what} {index}: there are {count}, numbered from 0")]
    Index {
        /// What is numbered: a trit, a report slot.
        what: &'static str,
        /// The index given.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// A count above a limit.
    #[error("{what}: {got} is above the limit of {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The value given.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// A position or offset that is not a multiple of what it must be.
    #[error("{what}: {got} is not a multiple of {multiple}")]
    Alignment {
        /// What is misaligned.
        what: &'static str,
        /// The value given.
        got: u64,
        /// What it must be a multiple of.
        multiple: u64,
    },
    /// NaN, Inf or a magnitude of 2^126 or more in the input. Nothing was written (policy *reject*), or the window
    /// is refused until reset (policy *defer*).
    #[error("{count} non-finite elements (NaN, Inf or 2^126 and above), the first at index {first}")]
    NonFinite {
        /// How many elements.
        count: u64,
        /// The index of the first in its tensor.
        first: u64,
    },
    /// A report that no operation makes: a first element where none were counted, none where some were, or one past the
    /// end of the tensor.
    #[error(
        "a report of {non_finite} non-finite elements, {}, of {elements}: there must be a first element, within the tensor, \
         where any are counted, and none otherwise",
        first.map_or_else(|| "no first one".to_owned(), |f| format!("the first at index {f}"))
    )]
    ImpossibleReport {
        /// How many it counts.
        non_finite: u64,
        /// The first of them.
        first: Option<u64>,
        /// The elements of the tensor.
        elements: u64,
    },
    /// A level or count that no window of so many micro-batches can hold.
    #[error("element {element} has the level {got}: after {held} micro-batches, it is from -{limit} to {limit}")]
    ImpossibleLevel {
        /// Which element of the tensor; one past its end must be 0.
        element: u64,
        /// Its level or count.
        got: i64,
        /// The largest magnitude it can have.
        limit: u64,
        /// Micro-batches in the window.
        held: u32,
    },
    /// Values that are no trits: an i8 outside -1..=1, or a packed pair with both bits set.
    #[error("{count} invalid trits, the first at index {first}")]
    InvalidTrits {
        /// How many.
        count: u64,
        /// The index of the first.
        first: u64,
    },
    /// A name that the model does not have.
    #[error("unknown tensor `{name}`: the model has {known} tensors and this is none of them")]
    UnknownTensor {
        /// The name given.
        name: String,
        /// How many tensors there are.
        known: usize,
    },
    /// A tensor of the model for which nothing was given.
    #[error("missing tensor `{name}`")]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },
    /// The same name twice.
    #[error("duplicate tensor `{name}`")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A rule that was to choose tensors and chooses none: a misspelled name, most likely.
    #[error("`{rule}` in {option} matches none of the {tensors} tensors: compare it with their names")]
    NothingMatches {
        /// The option that holds the rule.
        option: &'static str,
        /// The rule, as given.
        rule: String,
        /// How many tensors there are.
        tensors: usize,
    },
    /// A variable that no gradient reached: it took no part in the loss, or a layer on the way has no backward pass.
    #[error("no gradient reached tensor `{tensor}`: {ways}")]
    NoGradient {
        /// The tensor's name.
        tensor: String,
        /// The ways out.
        ways: &'static str,
    },
    /// A model that was made from names and shapes, where its variables are needed.
    #[error(
        "tensor `{tensor}` has a name and a shape but no variable: make the model from its variables, with `from_vars`"
    )]
    NoVariable {
        /// The first tensor's name.
        tensor: String,
    },
    /// An optimizer, or a state, that belongs to another model: what it has of this tensor is not what the model has.
    #[error("{what} of another model: {}", difference(tensor.as_deref(), *expected, *got))]
    AnotherModel {
        /// What was given: the moments of an optimizer, the state of a sum.
        what: &'static str,
        /// The first tensor that differs; none where the number of tensors does.
        tensor: Option<String>,
        /// Elements of the tensor, or tensors of the model, here.
        expected: u64,
        /// The same there.
        got: u64,
    },
    /// One micro-batch more than was declared of a window; the window is as it was.
    #[error(
        "the window has all {declared} micro-batches that were declared: step with it, or declare more \
         (`Options::micro_batches`)"
    )]
    WindowFull {
        /// Micro-batches declared.
        declared: u32,
    },
    /// A call that needs whole micro-batches, while one is open of which parts come one by one.
    #[error(
        "a micro-batch is open, with gradients for {came} of {tensors} tensors so far: finish it with \
         `finish_micro_batch` first, or reset the window"
    )]
    MicroBatchOpen {
        /// Tensors that a part came for.
        came: usize,
        /// How many tensors there are.
        tensors: usize,
    },
    /// A part of a micro-batch, where none is open.
    #[error("no micro-batch is open: {advice}")]
    NoMicroBatch {
        /// What to do.
        advice: &'static str,
    },
    /// A second gradient of one tensor in a micro-batch, without a word that there are several.
    #[error("tensor `{tensor}` already has its gradient of this micro-batch: {advice}")]
    PartTwice {
        /// The tensor's name.
        tensor: String,
        /// What to do where the tensor is used more than once.
        advice: &'static str,
    },
    /// A segment of a model that gives a result which does not depend on its input: no gradient would reach what comes
    /// before it.
    #[error(
        "segment {segment} of {of} (from 0) gives a result that does not depend on its input, so that no gradient reaches \
         the segments before it: hand its input on, do not detach it, and use no layer without a backward pass"
    )]
    SegmentDetached {
        /// Its place, from 0.
        segment: usize,
        /// How many there are.
        of: usize,
    },
    /// A segment of a model that gave something else when it ran again: its gradients would be those of another function.
    #[error(
        "segment {segment} of {of} (from 0) differs in {elements} elements when it is computed again: use \
         `Activations::Keep` for layers that draw (dropout) or remember"
    )]
    SegmentDiffers {
        /// Its place, from 0.
        segment: usize,
        /// How many there are.
        of: usize,
        /// How many elements of its result differ.
        elements: u64,
    },
    /// A mean over no micro-batches was asked for.
    #[error("nothing accumulated: the sum of weights is {weights}")]
    NothingAccumulated {
        /// The sum of the micro-batches' weights.
        weights: f64,
    },
    /// Sums that merge only where they were made the same way, and were not.
    #[error("windows cannot be merged: {what} is {here} in the one and {there} in the other")]
    NotMergeable {
        /// What differs.
        what: &'static str,
        /// What it is in the window merged into.
        here: String,
        /// What it is in the window to be merged.
        there: String,
    },
    /// An operation that tensors held in this format do not have.
    #[error("{operation}: not for {format} sums: {advice}")]
    Format {
        /// What was asked.
        operation: &'static str,
        /// How the sums are held.
        format: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A state of a tensor that is held in another format here.
    #[error("the state is of a tensor held as {got}, and it is held as {expected} here")]
    StateFormat {
        /// The format here.
        expected: String,
        /// The format of the state.
        got: String,
    },
    /// What can only be set before the first micro-batch of a window.
    #[error("{what}: the window already has {held} micro-batches: reset it, or set them before the first")]
    WindowStarted {
        /// What was to be set.
        what: &'static str,
        /// Micro-batches in the window.
        held: u32,
    },
    /// Exact counts need scales before the first micro-batch, and have none.
    #[error("counts without scales, after {held} micro-batches: {advice}")]
    NoScales {
        /// Micro-batches in the window.
        held: u32,
        /// What to do.
        advice: &'static str,
    },
    /// Counts under different scales: they do not add up.
    #[error("scales differ, first in block {block}: only counts under the same scales merge")]
    ScalesDiffer {
        /// The first block whose scales differ.
        block: u64,
    },
    /// Gradients of a loss that was not multiplied by the loss scale, which they would be divided by.
    #[error(
        "the loss scale is {scale}, and the loss of these gradients was not multiplied by it: take those of \
         `scale_loss(&loss)?.backward()?`, or call `assume_scaled()` once if you multiply it yourself"
    )]
    Unscaled {
        /// The loss scale.
        scale: f64,
    },
    /// The state was left half-updated by an earlier failure on the device and is refused until reset.
    #[error("state refused until reset: {reason}")]
    Refused {
        /// What happened.
        reason: String,
    },
    /// A device failed in the middle of an update: some weights and moments have taken it, some have not, and no reset
    /// brings them back.
    #[error("weights updated in part: {source}: load the last checkpoint, weights and moments both")]
    UpdatedInPart {
        /// What failed.
        source: Box<Error>,
    },
    /// A buffer or tensor that lives on another device or context.
    #[error("device: expected {expected}, got {got}")]
    WrongDevice {
        /// The device this state lives on.
        expected: String,
        /// The device of the argument.
        got: String,
    },
    /// No such device, no driver, or a device that lacks what is needed.
    #[error("no {backend} device: {reason}")]
    NoDevice {
        /// `cuda` or `wgpu`.
        backend: &'static str,
        /// Why.
        reason: String,
    },
    /// Memory ran out on a device or the host.
    #[error("out of memory on {device}: {asked} bytes asked, {}", free.map_or_else(|| "free bytes unknown".to_owned(), |f| format!("{f} bytes free")))]
    OutOfMemory {
        /// Where.
        device: String,
        /// Bytes asked for.
        asked: u64,
        /// Bytes free, where the device tells.
        free: Option<u64>,
    },
    /// An operation that this backend does not have.
    #[error("{device} does not have the operation {operation}")]
    Unsupported {
        /// The operation.
        operation: &'static str,
        /// The device.
        device: String,
    },
    /// A call that can not be part of the graph that is being captured. It did not reach the driver, and the capture goes on.
    #[error("{call} within a graph capture: {advice}")]
    Capture {
        /// What was called.
        call: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
    /// A failure reported by a device or its driver.
    #[error("{backend}: {call} failed: {message}")]
    Backend {
        /// `cuda` or `wgpu`.
        backend: &'static str,
        /// The call that failed or reported it.
        call: &'static str,
        /// What the driver said.
        message: String,
    },
    /// A file or folder that can not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is no checkpoint of this crate, or a checkpoint of something else.
    #[error("{}: not a checkpoint of {expected}: {reason}", path.display())]
    NotACheckpoint {
        /// The file.
        path: std::path::PathBuf,
        /// What was to be loaded.
        expected: &'static str,
        /// What gave it away.
        reason: String,
    },
    /// A checkpoint that ends before its header says it does.
    #[error("{}: checkpoint cut short: {expected} bytes expected, {got} there", path.display())]
    CheckpointTruncated {
        /// The file.
        path: std::path::PathBuf,
        /// Bytes that the header asks for, at least.
        expected: u64,
        /// Bytes in the file.
        got: u64,
    },
    /// A checkpoint whose bytes are not those that were written.
    #[error("{}: checkpoint corrupted: its checksum is {expected}, its bytes give {got}", path.display())]
    CheckpointCorrupted {
        /// The file.
        path: std::path::PathBuf,
        /// The checksum in the file.
        expected: String,
        /// The checksum of the file.
        got: String,
    },
    /// A checkpoint of a version of the format that this build does not read.
    #[error("{}: checkpoint of format version {got}: this build reads {}, {}", path.display(), versions(*oldest, *known), version_advice(got, *oldest))]
    CheckpointVersion {
        /// The file.
        path: std::path::PathBuf,
        /// The version in the file.
        got: String,
        /// The earliest version that is read.
        oldest: u32,
        /// The latest version known.
        known: u32,
    },
    /// A checkpoint made with other choices than those it is loaded into.
    #[error("{}: {field} is `{got}` in the file and `{expected}` here: load it into what was made with the same choices", path.display())]
    CheckpointMismatch {
        /// The file.
        path: std::path::PathBuf,
        /// Which choice.
        field: String,
        /// What it is here.
        expected: String,
        /// What it is in the file.
        got: String,
    },
    /// A checkpoint with a field or tensor missing, or of a kind it can not be.
    #[error("{}: {field}: {reason}", path.display())]
    CheckpointField {
        /// The file.
        path: std::path::PathBuf,
        /// Which field or tensor.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An error from candle.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What to do with a type that is not taken.
fn element_type_advice(got: &str) -> &'static str {
    match got {
        "f32" => "",
        "f16" => ": keep the values in f32 or bf16, with `to_dtype(DType::BF16)`",
        _ if got.starts_with(['i', 'u']) => {
            ": integers have no gradient; leave the tensor out of the model, or convert it with `to_dtype(DType::F32)`"
        }
        _ => ": convert it with `to_dtype(DType::F32)`",
    }
}

fn versions(oldest: u32, known: u32) -> String {
    if oldest == known { format!("version {known} only") } else { format!("versions {oldest} to {known}") }
}

fn version_advice(got: &str, oldest: u32) -> &'static str {
    match got.parse::<u32>() {
        Ok(got) if got < oldest => {
            "so load it with the release of trigrad that wrote it, or start the window and the moments anew"
        }
        _ => "so load it with the release of trigrad that wrote it, or a later one",
    }
}

fn difference(tensor: Option<&str>, expected: u64, got: u64) -> String {
    match tensor {
        Some(tensor) => format!("tensor `{tensor}` has {expected} elements here and {got} there"),
        None => format!("{expected} tensors here and {got} there"),
    }
}

impl Error {
    /// Wraps the error with the tensor it belongs to.
    #[must_use]
    pub fn in_tensor(self, tensor: impl Into<String>) -> Error {
        Error::InTensor { tensor: tensor.into(), source: Box::new(self) }
    }

    /// Wraps the error with the file it was found in; one that names its file already stays as it is.
    #[must_use]
    pub fn in_file(self, path: impl Into<std::path::PathBuf>) -> Error {
        match self.root() {
            Error::Io { .. }
            | Error::NotACheckpoint { .. }
            | Error::CheckpointTruncated { .. }
            | Error::CheckpointCorrupted { .. }
            | Error::CheckpointVersion { .. }
            | Error::CheckpointMismatch { .. }
            | Error::CheckpointField { .. } => self,
            _ => Error::InFile { path: path.into(), source: Box::new(self) },
        }
    }

    /// The error without the tensor or file around it.
    #[must_use]
    pub fn root(&self) -> &Error {
        match self {
            Error::InTensor { source, .. } | Error::InFile { source, .. } => source.root(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message says what to do about a type that is not taken.
    #[test]
    fn types_that_are_not_taken_say_what_to_do() {
        let text = |got: &str| Error::ElementType { expected: "f32 or bf16", got: got.to_owned() }.to_string();
        assert_eq!(text("f64"), "element type: expected f32 or bf16, got f64: convert it with `to_dtype(DType::F32)`");
        assert!(text("i64").contains("integers have no gradient; leave the tensor out"));
        assert_eq!(text("u8").split_once(": integers"), text("u32").replace("u32", "u8").split_once(": integers"));
        assert!(text("f16").ends_with("`to_dtype(DType::BF16)`"));
        assert!(text("f8e4m3").ends_with("`to_dtype(DType::F32)`"));
    }

    /// Fields of a message are all in it, and no limit is made up.
    #[test]
    fn messages_say_what_happened() {
        let report = |first| Error::ImpossibleReport { non_finite: 2, first, elements: 7 }.to_string();
        assert!(report(None).starts_with("a report of 2 non-finite elements, no first one, of 7: "));
        assert!(report(Some(9)).starts_with("a report of 2 non-finite elements, the first at index 9, of 7: "));
        let model = |tensor: Option<&str>| {
            let tensor = tensor.map(ToOwned::to_owned);
            Error::AnotherModel { what: "moments", tensor, expected: 3, got: 4 }.to_string()
        };
        assert_eq!(model(None), "moments of another model: 3 tensors here and 4 there");
        assert_eq!(model(Some("w")), "moments of another model: tensor `w` has 3 elements here and 4 there");
        let version = |got: &str, oldest, known| {
            Error::CheckpointVersion { path: "a".into(), got: got.to_owned(), oldest, known }.to_string()
        };
        assert!(
            version("3", 1, 2).starts_with("a: checkpoint of format version 3: this build reads versions 1 to 2, ")
        );
        assert!(version("3", 2, 2).ends_with("or a later one"));
        assert!(version("1", 2, 2).contains("version 2 only") && version("1", 2, 2).ends_with("the moments anew"));
        let shared = Error::SharedMemory { tensors: ("a".to_owned(), "b".to_owned()) };
        assert_eq!(shared.to_string(), "tensors `a` and `b` share memory: give it once, under one name");
    }
}
