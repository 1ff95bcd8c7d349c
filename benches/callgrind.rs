//! The hot loops, run once each for callgrind to count their instructions: `scripts/callgrind.sh` runs this.
//!
//! Counts do not depend on what else the machine does, so a small rise is seen where a clock would hide it. Valgrind has
//! no AVX-512: what is counted is the AVX2 code, which [`Cpu::new`] chooses there by itself.
#![expect(clippy::print_stdout, reason = "the script reads the names from here")]

#[path = "cpu/rows.rs"]
#[expect(dead_code, reason = "bytes are for the table of times")]
mod rows;

use rows::Row;
use trigrad::cpu::Cpu;

/// One tile: the calling thread does it all.
const N: usize = 1 << 16;

/// What the instructions are counted in; the script names it.
#[inline(never)]
fn counted(row: &mut Row) {
    (row.run)();
}

fn main() {
    let hot = ["quantize stochastic", "quantize threshold", "accumulate", "look", "check", "dequantize", "read out"];
    for row in &mut rows::all(&[Cpu::new()], N) {
        if hot.iter().any(|name| row.name.starts_with(name)) && !row.name.contains("rows of") {
            (row.run)(); // a first call, which may set up what later ones find
            println!("{}", row.name);
            counted(row);
        }
    }
}
