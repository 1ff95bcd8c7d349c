//! What to use of an adapter.

/// What to use of an adapter. The bits that come out never depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// A part of the adapter's name, in any case, or `#` and its place among [`super::Wgpu::adapters`]; `None`:
    /// [`super::ADAPTER_VARIABLE`], else `WGPU_ADAPTER_NAME`, and without either the first discrete GPU, else an
    /// integrated, a virtual, any other one, and a software adapter only if there is no other:
    /// [`super::Wgpu::adapter`] says which it is.
    pub adapter: Option<String>,
    /// Use 64-bit integers in shaders where the adapter has them.
    pub int64: bool,
    /// Use subgroup operations where the adapter has them.
    pub subgroups: bool,
    /// Estimate decisions in floats, and decide in integers only where the estimate is too close to call.
    pub estimates: bool,
    /// Use the adapter's f32 sums and products where they round as IEEE 754 asks.
    pub floats: bool,
    /// The most elements a dispatch may cover: a multiple of 65,536, lowered to what bindings hold.
    pub piece: u64,
    /// The most workgroups in one dimension of a dispatch, lowered to the device's limit.
    pub workgroups: u32,
    /// Ask for timestamp queries where the adapter has them; for measuring.
    pub timestamps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            adapter: None,
            int64: true,
            subgroups: true,
            estimates: true,
            floats: true,
            piece: 1 << 31,
            workgroups: u32::MAX,
            timestamps: false,
        }
    }
}
