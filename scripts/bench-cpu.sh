#!/usr/bin/env bash
# The benchmark of the CPU, in one run: every operation and type against a memcpy on one thread, on two, and on all cores
# where there are more, then the peers beside it (vsa-optim-rs 0.1.1, NumPy). Prints tables, writes
# benches/results/cpu-DATE.json and peers-cpu-DATE.json, and brings BENCHMARKS.md up to date where matplotlib is installed.
#
#   scripts/bench-cpu.sh [ROUNDS]
#
# Leave the machine alone meanwhile: the load average before and after goes into the file.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-31}
date=$(date +%F)
cores=$(nproc)
threads=1
if [ "$cores" -ge 2 ]; then threads=1,2; fi
if [ "$cores" -gt 2 ]; then threads=1,2,$cores; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Nothing is built once the clock runs.
cargo bench --no-default-features --bench cpu --no-run
cargo build --release --manifest-path benches/peers/cpu/Cargo.toml --target-dir target/peers

cargo bench --no-default-features --bench cpu -- --rounds "$rounds" --threads "$threads" --json "benches/results/cpu-$date.json"
target/peers/release/trigrad-peers --json "$folder/rust.json"
if python3 -c 'import numpy' 2>/dev/null; then
  python3 benches/peers/cpu.py --json "$folder/numpy.json"
else
  echo "no NumPy: its rows are left out" >&2
fi
python3 - "$folder" "benches/results/cpu-$date.json" "benches/results/peers-cpu-$date.json" <<'PY'
import json, pathlib, sys
folder, own, out = map(pathlib.Path, sys.argv[1:])
facts = {k: v for k, v in json.loads(own.read_text()).items() if k in ("cpu", "code", "cores")}
figures = [f for name in ("rust", "numpy") for p in [folder / f"{name}.json"] if p.exists() for f in json.loads(p.read_text())]
facts["numpy"] = next((f.pop("numpy") for f in figures if "numpy" in f), "not installed")
for f in figures:
    f.pop("numpy", None)
out.write_text(json.dumps({**facts, "vsa_optim_rs": "0.1.1", "figures": figures}, indent=1) + "\n")
PY
if python3 -c 'import matplotlib' 2>/dev/null; then scripts/benchmarks.py; fi
