#!/usr/bin/env python3
"""What else quantizes gradients on an NVIDIA card, on the same sizes and with the same work as `benches/cuda.rs`.

    python3 benches/peers/gpu.py [--log-n 28] [--rounds 15] [--only TEXT] [--json PATH]

Work of the ternary peers: for each block of 64 elements the largest magnitude, rounded up to bf16; for each element the
decision u * scale < |x| with a fresh 16-bit (Triton) or 24-bit (PyTorch) draw; codes packed four to a byte. Peers:

- eager: PyTorch, operation by operation;
- compiled: the same function through torch.compile, mode max-autotune-no-cudagraphs;
- triton: a fused kernel, its tile and warps tuned by Triton's autotuner, one Philox call for eight elements;
- bitsandbytes: blockwise fp4 (block 64) and 8 bits (block 256), rounding to nearest, no draw;
- torchao: blockwise 4 bits of its low-bit optimizers (block 128), compiled, rounding to nearest, no draw;
- accumulate f32 and bf16: `sum.add_(gradient)`, what gradient accumulation is without this library.

Device events around each call, median of the rounds after three that warm up; random data, inputs larger than the L2
cache; the share is of a device-to-device copy in the same run. Needs PyTorch with CUDA; a peer whose package is missing is
named as missing and left out.
"""

import argparse
import json
import statistics

import torch
import triton
import triton.language as tl

BLOCK = 64


def scale_bits(largest):
    """The bit pattern of float32 maxima rounded up to bf16."""
    return (largest.view(torch.int32) + 0xFFFF) & -65536


def ternary(x):
    """Codes (0, 1 for +1, 2 for -1; four to a byte, the first lowest) and bf16 scales."""
    blocks = x.view(-1, BLOCK).float()
    magnitude = blocks.abs()
    scale = scale_bits(magnitude.amax(1)).view(torch.float32)
    keep = torch.rand_like(blocks) * scale[:, None] < magnitude
    code = torch.where(keep, torch.where(blocks < 0, 2, 1), 0).to(torch.uint8).view(-1, 4)
    packed = code[:, 0] | code[:, 1] << 2 | code[:, 2] << 4 | code[:, 3] << 6
    return packed, scale.to(torch.bfloat16)


@triton.autotune(
    configs=[triton.Config({"ROWS": rows}, num_warps=warps) for rows in (8, 16, 32, 64) for warps in (2, 4, 8)],
    key=["n"],
)
@triton.jit
def ternary_kernel(x, codes, scales, n, seed, ROWS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = row[:, None] * 64 + tl.arange(0, 64)[None, :]
    v = tl.load(x + at).to(tl.float32)
    magnitude = tl.abs(v)
    largest = tl.max(magnitude, 1).to(tl.int32, bitcast=True)
    scale = ((largest + 0xFFFF) & -65536).to(tl.float32, bitcast=True)
    call = row[:, None] * 8 + tl.arange(0, 8)[None, :]
    r0, r1, r2, r3 = tl.randint4x(seed, call.to(tl.uint32))
    words = tl.join(tl.join(r0, r1), tl.join(r2, r3)).to(tl.uint32, bitcast=True)
    halves = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (ROWS, 64))
    u = (halves.to(tl.float32) + 0.5) * 1.52587890625e-05
    keep = u * scale[:, None] < magnitude
    code = tl.where(keep, tl.where(v < 0, 2, 1), 0)
    shift = 2 * tl.arange(0, 4)
    packed = tl.sum(tl.reshape(code, (ROWS, 16, 4)) << shift[None, None, :], 2)
    tl.store(codes + row[:, None] * 16 + tl.arange(0, 16)[None, :], packed.to(tl.uint8))
    tl.store(scales + row, scale.to(tl.bfloat16))


def ternary_triton(x, codes, scales):
    blocks = x.numel() // BLOCK
    ternary_kernel[lambda meta: (blocks // meta["ROWS"],)](x, codes, scales, x.numel(), 42)


def check(x, codes, scales):
    """That a peer does the work it is timed on: mean error within the standard error, every scale the right one."""
    shifts = torch.tensor([0, 2, 4, 6], device=x.device, dtype=torch.uint8)
    code = (codes[:, None] >> shifts & 3).view(-1, BLOCK).float()
    trit = torch.where(code == 2, -1.0, code)
    value = x.view(-1, BLOCK).float()
    right = scale_bits(value.abs().amax(1)).view(torch.float32)
    assert torch.equal(scales.float(), right), "a scale is not the block's maximum rounded up"
    error = trit * right[:, None] - value
    bound = 6 * (error.var() / error.numel()).sqrt()
    assert error.mean().abs() < bound, (error.mean().item(), bound.item())
    assert (trit * value >= 0).all(), "a sign is wrong"


class Bench:
    def __init__(self, args):
        self.args = args
        self.figures = []
        self.missing = []
        n = 1 << args.log_n
        a, b = (torch.empty(n, device="cuda", dtype=torch.float32) for _ in range(2))
        a.normal_()
        self.copy = 8 * n / self.time(lambda: b.copy_(a))[0] * 1e3

    def time(self, call):
        times = []
        for round in range(self.args.rounds + 3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if round >= 3:
                times.append(start.elapsed_time(end))
        return statistics.median(times), min(times), max(times)

    def row(self, name, n, bytes_per_element, call):
        if self.args.only not in name:
            return
        ms, fastest, slowest = self.time(call)
        rate = n * bytes_per_element / ms * 1e3
        self.figures.append({
            "name": name, "elements": n, "bytes_per_element": bytes_per_element, "milliseconds": ms, "fastest": fastest,
            "slowest": slowest, "ps_per_element": ms * 1e9 / n, "gb_per_second": rate / 1e9, "share_of_copy": rate / self.copy,
        })
        f = self.figures[-1]
        print(f"{name:56} {f['ps_per_element']:9.3f} ps/element  {100 * f['share_of_copy']:6.1f}% of copy", flush=True)


def run(bench, dtype):
    name = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    size = torch.finfo(dtype).bits // 8
    n = 1 << bench.args.log_n
    x = torch.randn(n, device="cuda", dtype=torch.float32).mul_(1e-3).to(dtype)
    codes = torch.empty(n // 4, device="cuda", dtype=torch.uint8)
    scales = torch.empty(n // BLOCK, device="cuda", dtype=torch.bfloat16)
    quantized = size + 0.25 + 2 / BLOCK

    ternary_triton(x, codes, scales)
    check(x[: 1 << 22], codes[: 1 << 20], scales[: (1 << 22) // BLOCK])
    bench.row(f"triton, ternary block 64, {name}", n, quantized, lambda: ternary_triton(x, codes, scales))
    compiled = torch.compile(ternary, mode="max-autotune-no-cudagraphs", dynamic=False)
    check(x[: 1 << 22], *compiled(x[: 1 << 22]))
    bench.row(f"torch.compile, ternary block 64, {name}", n, quantized, lambda: compiled(x))
    torch.cuda.empty_cache()
    bench.row(f"PyTorch eager, ternary block 64, {name}", n, quantized, lambda: ternary(x))
    torch.cuda.empty_cache()

    total = torch.zeros_like(x)
    bench.row(f"PyTorch accumulate (sum.add_), {name}", n, 3.0 * size, lambda: total.add_(x))
    del total

    try:
        import bitsandbytes.functional as bnb
        bench.row(f"bitsandbytes, fp4 block 64, {name}", n, size + 0.5 + 4 / 64, lambda: bnb.quantize_4bit(x, blocksize=64))
        bench.row(f"bitsandbytes, 8 bits block 256, {name}", n, size + 1 + 4 / 256, lambda: bnb.quantize_blockwise(x, blocksize=256))
    except Exception as e:  # a peer that cannot run here is named, not hidden
        bench.missing.append(f"bitsandbytes: {type(e).__name__}: {e}")

    try:
        from torchao.optim.quant_utils import create_dynamic_map, quantize_4bit_with_qmap, scale_tensor
        table = torch.tensor(create_dynamic_map(True, 3, 4), device="cuda")

        @torch.compile(dynamic=False)
        def torchao(x):
            scaled, scale = scale_tensor(x.float(), 128)
            return quantize_4bit_with_qmap(scaled, table), scale

        bench.row(f"torchao, 4 bits block 128, {name}", n, size + 0.5 + 4 / 128, lambda: torchao(x))
    except Exception as e:
        bench.missing.append(f"torchao: {type(e).__name__}: {e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-n", type=int, default=28, help="elements: 2 to this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--json", help="where to write the figures")
    args = parser.parse_args()
    bench = Bench(args)
    card = torch.cuda.get_device_name()
    print(f"{card}, PyTorch {torch.__version__}, Triton {triton.__version__}; copy {bench.copy / 1e9:.0f} GB/s, n = 2^{args.log_n}")
    for dtype in (torch.float32, torch.bfloat16):
        run(bench, dtype)
    for line in bench.missing:
        print(f"missing: {line}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({
                "device": card, "torch": torch.__version__, "triton": triton.__version__, "rounds": args.rounds,
                "copy_gb_per_second": bench.copy / 1e9, "missing": bench.missing, "figures": bench.figures,
            }, file, indent=2)


if __name__ == "__main__":
    main()
