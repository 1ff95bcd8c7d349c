//! The tensors of a launch as kernels see them. Mirrors `kernels/include/item.cuh`.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceRepr;

/// An address in device memory. Only the launch floor makes one that is not null, from a view.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Pointer(u64);

impl Pointer {
    pub(super) const NULL: Pointer = Pointer(0);

    pub(super) const fn new(address: u64) -> Self {
        Pointer(address)
    }

    /// The address `bytes` further on.
    pub(super) const fn byte_add(self, bytes: u64) -> Self {
        Pointer(self.0 + bytes)
    }
}

/// One tensor. What the pointers mean is said by each kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct Item {
    pub(super) x: Pointer,
    pub(super) a: Pointer,
    pub(super) b: Pointer,
    pub(super) c: Pointer,
    pub(super) report: Pointer,
    pub(super) n: u64,
    /// Index of element 0 in the tensor.
    pub(super) first: u64,
    pub(super) tensor: u32,
    /// The grid's first CTA for this item; set when it is launched.
    pub(super) begin: u32,
}

/// Items in the table of a `_many` kernel: 28,160 bytes of the 32,764 that parameters may take.
pub(super) const MANY: usize = 440;

/// The table that a kernel takes by value.
#[repr(C)]
pub(super) struct Table<const N: usize> {
    pub(super) items: [Item; N],
    pub(super) count: u32,
}

#[expect(unsafe_code, reason = "the table is plain data, as the launch floor requires")]
// SAFETY: `repr(C)`, plain integers only, and the same fields as `Table` in item.cuh.
unsafe impl<const N: usize> DeviceRepr for Table<N> {}

impl<const N: usize> Table<N> {
    /// A table of the first `N` items.
    pub(super) fn new(of: &[Item]) -> Self {
        let mut items = [Item::default(); N];
        let count = of.len().min(N);
        items[..count].copy_from_slice(&of[..count]);
        Table { items, count: count as u32 }
    }
}

const _: () = assert!(size_of::<Item>() == 64 && size_of::<Table<MANY>>() == 64 * MANY + 8);
