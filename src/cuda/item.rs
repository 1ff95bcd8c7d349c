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

    pub(super) const fn address(self) -> u64 {
        self.0
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

/// Items in the table of a `_many` kernel: with the hints 30,224 bytes of the 32,764 that parameters may take.
pub(super) const MANY: usize = 440;
/// Runs of CTAs for which a table says where their items begin.
const HINTS: usize = 1024;

/// What a `_one` kernel takes by value.
#[repr(C)]
pub(super) struct One {
    item: Item,
    count: u32,
    pad: u32,
}

impl One {
    pub(super) fn new(item: Item) -> Self {
        One { item, count: 1, pad: 0 }
    }
}

/// What a `_many` kernel takes by value.
#[repr(C)]
pub(super) struct Many {
    items: [Item; MANY],
    count: u32,
    /// log2 of the CTAs in a run.
    shift: u32,
    /// The item of each run's first CTA; after the last run the last item.
    hints: [u16; HINTS + 4],
}

impl Many {
    /// A table of the first [`MANY`] items, which take `ctas` CTAs, at least 1.
    pub(super) fn new(of: &[Item], ctas: u64) -> Self {
        let mut table = Many { items: [Item::default(); MANY], count: 0, shift: 0, hints: [0; HINTS + 4] };
        let count = of.len().min(MANY);
        let items = &mut table.items[..count];
        items.copy_from_slice(&of[..count]);
        table.count = count as u32;
        let last = ctas.saturating_sub(1);
        while last >> table.shift >= HINTS as u64 {
            table.shift += 1;
        }
        let runs = (last >> table.shift) as usize + 1;
        let mut item = 0;
        for (run, hint) in table.hints[..runs].iter_mut().enumerate() {
            let first = (run as u64) << table.shift;
            while items.get(item + 1).is_some_and(|next| u64::from(next.begin) <= first) {
                item += 1;
            }
            *hint = item as u16;
        }
        table.hints[runs] = count.saturating_sub(1) as u16;
        table
    }
}

#[expect(unsafe_code, reason = "the table is plain data, as the launch floor requires")]
// SAFETY: `repr(C)`, plain integers only without padding, and the same fields as `Table<1>` in item.cuh.
unsafe impl DeviceRepr for One {}

#[expect(unsafe_code, reason = "the table is plain data, as the launch floor requires")]
// SAFETY: `repr(C)`, plain integers only without padding, and the same fields as `Table<MANY>` in item.cuh.
unsafe impl DeviceRepr for Many {}

const _: () = assert!(size_of::<Item>() == 64 && size_of::<One>() == 72 && size_of::<Many>() == 30_224);

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels' search, `item_of` in item.cuh.
    fn item_of(table: &Many, cta: u64) -> usize {
        let run = (cta >> table.shift) as usize;
        let (mut low, mut high) = (usize::from(table.hints[run]), usize::from(table.hints[run + 1]) + 1);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if u64::from(table.items[middle].begin) <= cta { low = middle } else { high = middle }
        }
        low
    }

    #[test]
    fn hints_lead_every_cta_to_its_item() {
        for (count, most) in [(2, 1), (3, 5000), (MANY, 1), (MANY, 7), (300, 40_000), (MANY, 4_000_000)] {
            let sizes: Vec<u64> = (0..count as u64).map(|i| 1 + (i * i * 7919) % most).collect();
            let mut begin = 0;
            let items: Vec<Item> = sizes
                .iter()
                .map(|size| {
                    let item = Item { begin: begin as u32, ..Item::default() };
                    begin += size;
                    item
                })
                .collect();
            let table = Many::new(&items, begin);
            for (i, (item, size)) in items.iter().zip(&sizes).enumerate() {
                let first = u64::from(item.begin);
                for cta in [first, first + size / 2, first + size - 1] {
                    assert_eq!(item_of(&table, cta), i, "CTA {cta} of {count} items");
                }
            }
        }
    }
}
