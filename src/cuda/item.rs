//! The tensors of a launch as kernels see them: an item an operation, declared beside it, and the table that carries a list of
//! them in a kernel's parameters. Mirrors `kernels/include/item.cuh`.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceRepr;
use std::marker::PhantomData;

/// An address in device memory. Only the launch floor makes one that is not null, from a view.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Pointer(u64);

impl Pointer {
    pub(super) const NULL: Pointer = Pointer(0);

    pub(super) const fn new(address: u64) -> Self {
        Pointer(address)
    }

    pub(super) const fn address(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on.
    pub(super) const fn byte_add(self, bytes: u64) -> Self {
        Pointer(self.0 + bytes)
    }
}

/// One tensor of a launch: plain data, laid out as the struct of the same name in `kernels/`.
pub(super) trait Item: Pod {
    /// Units of work: elements where the item says nothing else.
    fn n(&self) -> u64;
    /// The grid's first CTA for this item.
    fn begin(&self) -> u32;
    /// Sets it.
    fn set_begin(&mut self, begin: u32);
}

/// Declares an item with the fields given, and `n` and `begin`, which every item has.
macro_rules! item {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
        struct $name { $($(#[$field_meta])* $field: $ty),* }

        impl $crate::cuda::item::Item for $name {
            fn n(&self) -> u64 {
                self.n
            }

            fn begin(&self) -> u32 {
                self.begin
            }

            fn set_begin(&mut self, begin: u32) {
                self.begin = begin;
            }
        }
    };
}
pub(super) use item;

/// Bytes of the table of a `_many` kernel, of the 32,764 that parameters may take.
const TABLE_BYTES: usize = 32_504;
/// Runs of CTAs for which a table says where their items begin.
const HINTS: usize = 1024;
/// Bytes before a table's items: how many there are, log2 of the CTAs in a run, and the hints.
const HEAD_BYTES: usize = 8 + 2 * (HINTS + 4);

/// Bytes that the parameter struct of a kernel may have.
pub(super) const PARAMS_BYTES: usize = 256;

/// Items in the table of a `_many` kernel.
pub(super) const fn many<I>() -> usize {
    (TABLE_BYTES - HEAD_BYTES) / size_of::<I>()
}

/// What a `_one` kernel takes by value.
#[repr(transparent)]
pub(super) struct One<I>(pub(super) I);

/// What a `_many` kernel takes by value.
#[repr(C)]
pub(super) struct Many<I> {
    count: u32,
    /// log2 of the CTAs in a run.
    shift: u32,
    /// The item of each run's first CTA; after the last run the last item.
    hints: [u16; HINTS + 4],
    items: [u64; (TABLE_BYTES - HEAD_BYTES) / 8],
    of: PhantomData<I>,
}

impl<I: Item> Many<I> {
    /// A table of the first [`many`] items, which take `ctas` CTAs, at least 1.
    pub(super) fn new(of: &[I], ctas: u64) -> Self {
        const { assert!(size_of::<I>().is_multiple_of(8) && many::<I>() <= u16::MAX as usize) };
        let mut table = Many {
            count: 0,
            shift: 0,
            hints: [0; HINTS + 4],
            items: [0; (TABLE_BYTES - HEAD_BYTES) / 8],
            of: PhantomData,
        };
        let items = &of[..of.len().min(many::<I>())];
        let bytes: &[u8] = bytemuck::cast_slice(items);
        bytemuck::cast_slice_mut::<u64, u8>(&mut table.items)[..bytes.len()].copy_from_slice(bytes);
        table.count = items.len() as u32;
        let last = ctas.saturating_sub(1);
        while last >> table.shift >= HINTS as u64 {
            table.shift += 1;
        }
        let runs = (last >> table.shift) as usize + 1;
        let mut item = 0;
        for (run, hint) in table.hints[..runs].iter_mut().enumerate() {
            let first = (run as u64) << table.shift;
            while items.get(item + 1).is_some_and(|next| u64::from(next.begin()) <= first) {
                item += 1;
            }
            *hint = item as u16;
        }
        table.hints[runs] = items.len().saturating_sub(1) as u16;
        table
    }
}

#[expect(unsafe_code, reason = "the table is plain data, as the launch floor requires")]
// SAFETY: an item is plain data, laid out as its struct in the kernels, and `One<I>` in item.cuh is one item.
unsafe impl<I: Item> DeviceRepr for One<I> {}

#[expect(unsafe_code, reason = "the table is plain data, as the launch floor requires")]
// SAFETY: `repr(C)`, plain integers only without padding, and the same fields as `Many<I>` in item.cuh, whose items fill as
// much of the last one as there are whole ones.
unsafe impl<I: Item> DeviceRepr for Many<I> {}

const _: () = assert!(TABLE_BYTES + PARAMS_BYTES <= 32_764 && HEAD_BYTES.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    item! {
        /// As small as one may be.
        struct Small { n: u64, begin: u32, pad: u32 }
    }

    item! {
        /// One of a size that divides no table.
        struct Large { rest: [u64; 7], n: u64, begin: u32, pad: u32 }
    }

    /// The kernels' search, `item_of` in item.cuh.
    fn item_of<I: Item>(table: &Many<I>, cta: u64) -> usize {
        let items: &[I] = bytemuck::cast_slice(&table.items[..many::<I>() * size_of::<I>() / 8]);
        let run = (cta >> table.shift) as usize;
        let (mut low, mut high) = (usize::from(table.hints[run]), usize::from(table.hints[run + 1]) + 1);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if u64::from(items[middle].begin()) <= cta { low = middle } else { high = middle }
        }
        low
    }

    fn hints_lead<I: Item>() {
        let full = many::<I>();
        for (count, most) in [(2, 1), (3, 5000), (full, 1), (full, 7), (300, 40_000), (full, 4_000_000)] {
            let sizes: Vec<u64> = (0..count as u64).map(|i| 1 + (i * i * 7919) % most).collect();
            let mut begin = 0;
            let items: Vec<I> = sizes
                .iter()
                .map(|size| {
                    let mut item = I::zeroed();
                    item.set_begin(begin as u32);
                    begin += size;
                    item
                })
                .collect();
            let table = Many::new(&items, begin);
            for (i, (item, size)) in items.iter().zip(&sizes).enumerate() {
                let first = u64::from(item.begin());
                for cta in [first, first + size / 2, first + size - 1] {
                    assert_eq!(item_of(&table, cta), i, "CTA {cta} of {count} items");
                }
            }
        }
    }

    #[test]
    fn hints_lead_every_cta_to_its_item() {
        hints_lead::<Small>();
        hints_lead::<Large>();
    }

    #[test]
    fn tables_hold_what_fits() {
        assert_eq!((many::<Small>(), many::<Large>()), (1902, 422));
        assert_eq!(size_of::<Many<Small>>(), TABLE_BYTES);
    }
}
