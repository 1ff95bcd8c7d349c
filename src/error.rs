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
    /// An element type this operation does not take.
    #[error("element type: expected {expected}, got {got}")]
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
    /// A mean over no micro-batches was asked for.
    #[error("nothing accumulated: the sum of weights is {weights}")]
    NothingAccumulated {
        /// The sum of the micro-batches' weights.
        weights: f64,
    },
    /// Counts under different scales: they do not add up.
    #[error("scales differ, first in block {block}: only counts under the same scales merge")]
    ScalesDiffer {
        /// The first block whose scales differ.
        block: u64,
    },
    /// The state was left half-updated by an earlier failure on the device and is refused until reset.
    #[error("state refused until reset: {reason}")]
    Refused {
        /// What happened.
        reason: String,
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
    #[error("not a checkpoint of {expected}: {reason}")]
    NotACheckpoint {
        /// What was to be loaded.
        expected: &'static str,
        /// What gave it away.
        reason: String,
    },
    /// A checkpoint that ends before its header says it does.
    #[error("checkpoint cut short: {expected} bytes expected, {got} there")]
    CheckpointTruncated {
        /// Bytes that the header asks for, at least.
        expected: u64,
        /// Bytes in the file.
        got: u64,
    },
    /// A checkpoint whose bytes are not those that were written.
    #[error("checkpoint corrupted: its checksum is {expected}, its bytes give {got}")]
    CheckpointCorrupted {
        /// The checksum in the file.
        expected: String,
        /// The checksum of the file.
        got: String,
    },
    /// A checkpoint of a later version of the format.
    #[error("checkpoint of format version {got}: this build knows versions up to {known}")]
    CheckpointVersion {
        /// The version in the file.
        got: String,
        /// The latest version known.
        known: u32,
    },
    /// A checkpoint made with other choices than those it is loaded into.
    #[error("checkpoint: {field} is `{got}`, and `{expected}` here")]
    CheckpointMismatch {
        /// Which choice.
        field: String,
        /// What it is here.
        expected: String,
        /// What it is in the file.
        got: String,
    },
    /// A checkpoint with a field or tensor missing, or of a kind it can not be.
    #[error("checkpoint: {field}: {reason}")]
    CheckpointField {
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

impl Error {
    /// Wraps the error with the tensor it belongs to.
    #[must_use]
    pub fn in_tensor(self, tensor: impl Into<String>) -> Error {
        Error::InTensor { tensor: tensor.into(), source: Box::new(self) }
    }

    /// The error without the tensor around it.
    #[must_use]
    pub fn root(&self) -> &Error {
        match self {
            Error::InTensor { source, .. } => source.root(),
            other => other,
        }
    }
}
