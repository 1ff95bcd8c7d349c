#!/usr/bin/env bash
# Counts the instructions of the hot loops with callgrind and compares them with benches/results/callgrind.tsv.
# More than 3% up fails. Installs valgrind (a Debian package) where it is missing, unless TRIGRAD_NO_INSTALL is set.
#
#   scripts/callgrind.sh           compare
#   scripts/callgrind.sh --write   take today's counts as the ones to compare with, after a change that is meant
#
# Counts depend on the compiler a little: the file names the one it was made with.
set -euo pipefail
cd "$(dirname "$0")/.."
committed=benches/results/callgrind.tsv
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if ! command -v valgrind >/dev/null; then
  [ -z "${TRIGRAD_NO_INSTALL:-}" ] && command -v apt-get >/dev/null || { echo "no valgrind: install it" >&2; exit 1; }
  root apt-get update -qq
  root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq valgrind >/dev/null
fi

out=$(cargo bench --no-default-features --bench callgrind --no-run 2>&1) || { echo "$out" >&2; exit 1; }
program=$(sed -n 's/.*Executable .*(\(.*\))$/\1/p' <<<"$out")
[ -x "$program" ] || { echo "no program in: $out" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# One file of counts for each call of the counted function, numbered in order.
valgrind --tool=callgrind --callgrind-out-file="$folder/out" --collect-atstart=no --toggle-collect='callgrind::counted' \
  --dump-after='callgrind::counted' "$program" >"$folder/names" 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
i=0
while IFS= read -r name; do
  i=$((i + 1))
  count=$(sed -n 's/^totals: //p' "$folder/out.$i")
  [ -n "$count" ] && [ "$count" -gt 0 ] || { echo "no count for $name" >&2; exit 1; }
  printf '%s\t%s\n' "$name" "$count"
done <"$folder/names" >"$folder/counts"
[ "$i" -gt 0 ] || { echo "nothing was counted" >&2; exit 1; }

if [ "${1:-}" = --write ]; then
  { printf '# Instructions for 65536 elements, %s, %s\n' "$(rustc --version)" "$(valgrind --version)"; cat "$folder/counts"; } >"$committed"
  echo "$i counts written to $committed"
  exit
fi
head -1 "$committed"
echo "# now: $(rustc --version), $(valgrind --version)"
awk -F'\t' '
  NR == FNR { if ($0 !~ /^#/) { before[$1] = $2 } next }
  !($1 in before) { printf "%-45s %12d   new: write it with --write\n", $1, $2; bad = 1; next }
  { change = 100 * ($2 / before[$1] - 1); more = change > 3
    printf "%-45s %12d %12d %+7.2f%%%s\n", $1, before[$1], $2, change, more ? "   MORE THAN 3% UP" : ""
    bad = bad || more; delete before[$1] }
  END { for (name in before) { printf "%-45s not counted any more\n", name; bad = 1 }
        exit bad }' "$committed" "$folder/counts"
