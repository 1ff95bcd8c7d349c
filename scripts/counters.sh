#!/usr/bin/env bash
# Hardware counters of the kernels behind one row of the CUDA bench: what bounds it. Needs a card, Nsight Compute
# (ncu), and the right to read counters.
#
#   scripts/counters.sh KERNEL ROW [BENCH]     KERNEL: a regular expression; ROW: as the bench's --only; BENCH: its binary
#   scripts/counters.sh "^read_out_4_f32_one" "read out, 4 bits, f32"
set -euo pipefail
kernel=$1 row=$2 bench=${3:-}
if [ -z "$bench" ]; then
  cd "$(dirname "$0")/.."
  bench=$(cargo bench --no-default-features --features cuda --no-run --bench cuda --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
fi
metrics=gpu__time_duration.sum # the clocks are left as they are
metrics+=,dram__bytes_read.sum,dram__bytes_write.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,lts__t_sectors_op_read.sum,lts__t_sectors_op_write.sum,lts__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,l1tex__throughput.avg.pct_of_peak_sustained_active,sm__warps_active.avg.pct_of_peak_sustained_active
metrics+=,smsp__inst_executed.sum,smsp__issue_active.avg.pct_of_peak_sustained_active
metrics+=,sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active,sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active
for stall in long_scoreboard short_scoreboard lg_throttle mio_throttle math_pipe_throttle barrier wait no_instruction; do
  metrics+=,smsp__average_warps_issue_stalled_${stall}_per_issue_active.ratio
done
ncu --clock-control none --metrics "$metrics" --kernel-name-base function --kernel-name "regex:$kernel" \
  --launch-skip 2 --launch-count 1 "$bench" --rounds 1 --only "$row" | grep -E '^ +[a-z]|__|==(ERROR|WARNING)'
