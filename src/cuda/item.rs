//! Lists of tensors as kernels take them: a table by value. Mirrors kernels/include/item.cuh.

use super::Cuda;
use crate::error::Result;
use crate::op::{Draw, Element, ElementType};

/// Elements a CTA works on.
pub(super) const CTA_TILE: u64 = 4096;
/// Items in the large table.
const MANY: usize = 440;
/// The most CTAs of a launch.
const CTAS_MAX: u64 = (1 << 31) - 1;

/// One tensor: addresses, and where it lies in its tensor and in the grid.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Item {
    pub x: u64,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub report: u64,
    pub n: u64,
    pub first: u64,
    pub tensor: u32,
    pub begin: u32,
}

/// Items by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Table<const N: usize> {
    items: [Item; N],
    count: u32,
}

const _: () = assert!(size_of::<Item>() == 64 && size_of::<Table<MANY>>() <= 32_764 - 256);

/// A kernel's names: for each element type, with a table of one item and of many.
pub(super) type Names = [[&'static str; 2]; 3];

/// The names of a kernel that exists for every element type and both tables.
macro_rules! names {
    ($base:expr) => {
        [
            [concat!($base, "_f32_one"), concat!($base, "_f32_many")],
            [concat!($base, "_f16_one"), concat!($base, "_f16_many")],
            [concat!($base, "_bf16_one"), concat!($base, "_bf16_many")],
        ]
    };
}
pub(super) use names;

/// The pair of names for a type.
pub(super) const fn of_type<T: Element>(names: &Names) -> &[&'static str; 2] {
    match T::TYPE {
        ElementType::F32 => &names[0],
        ElementType::F16 => &names[1],
        ElementType::Bf16 => &names[2],
    }
}

/// The draws of a launch. Mirrors kernels/include/draw.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct DrawParameters {
    keys: [[u32; 2]; crate::numerics::constants::PHILOX_ROUNDS as usize],
    step: u32,
    high: u32,
    step_offset: u64,
}

impl DrawParameters {
    /// `step_offset`: the address of a counter, or 0.
    pub(super) fn new(draw: &Draw, domain: u32, step_offset: u64) -> Self {
        use crate::numerics::philox::{W0, W1};
        let at = draw.position(0, domain);
        let [mut k0, mut k1] = at.key();
        let mut keys = [[0; 2]; crate::numerics::constants::PHILOX_ROUNDS as usize];
        for key in &mut keys {
            *key = [k0, k1];
            (k0, k1) = (k0.wrapping_add(W0), k1.wrapping_add(W1));
        }
        let [_, _, step, high] = at.counter(0);
        DrawParameters { keys, step, high, step_offset }
    }
}

impl Cuda {
    /// Launches a kernel over items, one CTA for each 4096 elements, in as few launches as the tables allow: one for
    /// up to 440 items.
    pub(super) fn launch_items<P: Copy>(&self, names: &[&'static str; 2], parameters: &P, items: &[Item]) -> Result<()> {
        let mut rest = items;
        while !rest.is_empty() {
            let mut ctas = 0u64;
            let mut table = Table { items: [Item::default(); MANY], count: 0 };
            let mut taken = 0;
            for item in rest {
                let tiles = item.n.div_ceil(CTA_TILE);
                if table.count as usize == MANY || (ctas + tiles > CTAS_MAX && table.count > 0) {
                    break;
                }
                taken += 1;
                if tiles > 0 {
                    table.items[table.count as usize] = Item { begin: ctas as u32, ..*item };
                    table.count += 1;
                    ctas += tiles;
                }
            }
            match table.count {
                0 => {}
                1 => {
                    let one = Table { items: [table.items[0]], count: 1 };
                    self.launch_table(names[0], ctas as u32, parameters, &one)?;
                }
                _ => self.launch_table(names[1], ctas as u32, parameters, &table)?,
            }
            rest = &rest[taken..];
        }
        Ok(())
    }
}
