#!/usr/bin/env python3
"""What NumPy makes of a gradient on the CPU, with the work of `cargo bench --bench cpu`: the best ternary code one would write.

    python3 benches/peers/cpu.py [--n 10000000] [--rounds 9] [--json PATH]

For each block of 64 elements the largest magnitude, rounded up to bf16; for each element the decision u * scale < |x| with
a fresh 16-bit draw of NumPy's fastest generator (SFC64); plus and minus planes packed at 2 bits. The gradient is taken in
pieces that stay in the second-level cache, into buffers made once, so that nothing but the input and the planes moves through memory.
One thread. Times are medians; the ratio is to np.copyto of the same gradient in the same run.
"""

import argparse
import json
import statistics
import time

import numpy as np

BLOCK = 64


class Quantizer:
    """Buffers for pieces of `size` elements."""

    def __init__(self, size):
        self.size = size
        self.random = np.random.Generator(np.random.SFC64(1))
        self.magnitude = np.empty((size // BLOCK, BLOCK), np.float32)
        self.draws = np.empty((size // BLOCK, BLOCK), np.float32)
        self.keep = np.empty((size // BLOCK, BLOCK), bool)
        self.minus = np.empty((size // BLOCK, BLOCK), bool)

    def piece(self, x, planes, scales):
        x = x.reshape(-1, BLOCK)
        np.abs(x, out=self.magnitude)
        largest = self.magnitude.max(axis=1)
        scale = ((largest.view(np.int32) + 0xFFFF) & -65536).view(np.float32)
        scales[:] = (scale.view(np.uint32) >> 16).astype(np.uint16)
        draws = np.frombuffer(self.random.bytes(2 * x.size), np.uint16).reshape(-1, BLOCK)
        np.multiply(draws, scale[:, None] * np.float32(2**-16), out=self.draws, casting="unsafe")
        np.less(self.draws, self.magnitude, out=self.keep)
        np.less(x, 0, out=self.minus)
        np.logical_and(self.keep, self.minus, out=self.minus)
        np.logical_xor(self.keep, self.minus, out=self.keep)
        planes[:, 0] = np.packbits(self.keep, bitorder="little").view(np.uint32)
        planes[:, 1] = np.packbits(self.minus, bitorder="little").view(np.uint32)

    def __call__(self, x, planes, scales):
        for at in range(0, len(x), self.size):
            end = at + self.size
            self.piece(x[at:end], planes[at // 32 : end // 32], scales[at // BLOCK : end // BLOCK])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json")
    args = parser.parse_args()
    size = 1 << 14
    n = args.n // size * size
    x = np.random.default_rng(1).standard_normal(n).astype(np.float32)
    copy, total = np.zeros_like(x), np.zeros_like(x)
    planes, scales = np.zeros((n // 32, 2), np.uint32), np.zeros(n // BLOCK, np.uint16)
    quantizer = Quantizer(size)
    rows = {
        "NumPy copyto": lambda: np.copyto(copy, x),
        "NumPy quantize stochastic and pack": lambda: quantizer(x, planes, scales),
        "NumPy accumulate f32": lambda: np.add(total, x, out=total),
    }
    seconds = {name: [] for name in rows}
    for _ in range(args.rounds + 1):
        for name, run in rows.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    largest = np.abs(x.reshape(-1, BLOCK)).max(axis=1)
    kept = np.bitwise_count(planes).sum() / (np.abs(x) / np.repeat(largest, BLOCK)).sum()
    assert abs(kept - 1) < 0.01, f"the planes hold {kept:.3f} times the trits expected"
    figures = []
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times[1:], seconds["NumPy copyto"][1:]))
        ns = [1e9 * t / n for t in times[1:]]
        figures.append({"name": name, "threads": 1, "n": n, "ns_per_element": statistics.median(ns),
                        "best_ns_per_element": min(ns), "times_memcpy": ratio, "numpy": np.__version__})
        print(f"{name:<40} {statistics.median(ns):8.3f} ns/element {min(ns):8.3f} best {ratio:6.2f} x memcpy")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
