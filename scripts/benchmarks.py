#!/usr/bin/env python3
"""Turns the figures in benches/results into BENCHMARKS.md's tables and into plots.

    scripts/benchmarks.py [--results benches/results] [--page BENCHMARKS.md] [--plots docs/plots]

Of each kind (cuda-*.json, wgpu-*.json, peers-gpu-*.json, cpu-*.json, peers-cpu-*.json) the file with the latest date in
its name is taken. Text between `<!-- KIND -->` and `<!-- end KIND -->` in the page is replaced, the rest is left alone.
Needs matplotlib.
"""

import argparse
import json
import pathlib
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend has to be chosen first)

KINDS = ("cuda", "wgpu", "peers-gpu", "cpu", "peers-cpu")


def newest(results, kind):
    """The figures of a kind and the name of their file; None where there are none."""
    dated = [(re.search(r"\d{4}-\d\d-\d\d[a-z]?", path.name), path) for path in results.glob(f"{kind}-*.json")]
    dated = sorted((date.group(), path) for date, path in dated if date)
    return (json.loads(dated[-1][1].read_text()), dated[-1][1].name) if dated else None


def rows(data):
    """The figures of any kind as dictionaries with `name`, whatever a bench calls it."""
    figures = data if isinstance(data, list) else data["figures"]
    return [{**f, "name": f.get("name") or f.get("operation")} for f in figures]


def columns(figures):
    """What a table of these figures shows: heading, key, format; only what they have."""
    known = [
        ("threads", "threads", "{:.0f}"), ("ps an element", "ps_per_element", "{:.3f}"), ("ns an element", "ns_per_element", "{:.3f}"), ("fastest", "best_ns_per_element", "{:.3f}"),
        ("bytes an element", "bytes_per_element", "{:.3f}"), ("GB/s", "gb_per_second", "{:.0f}"), ("GB/s", "gb_per_s", "{:.0f}"),
        ("share of copy", "share_of_copy", "{:.1%}"), ("times memcpy", "ratio", "{:.2f}"), ("times memcpy", "times_memcpy", "{:.2f}"),
        ("fastest to fastest", "best_times_memcpy", "{:.2f}"), ("times trigrad's time", "times_trigrad", "{:.1f}"),
        ("ms, fastest", "fastest", "{:.4f}"), ("ms, slowest", "slowest", "{:.4f}"),
    ]
    return [c for c in known if any(c[1] in f for f in figures)]


def table(figures):
    shown = columns(figures)
    lines = ["| operation | " + " | ".join(c[0] for c in shown) + " |", "|---|" + "---:|" * len(shown)]
    for f in figures:
        cells = [c[2].format(f[c[1]]) if isinstance(f.get(c[1]), (int, float)) else "" for c in shown]
        lines.append(f"| {f['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def facts(data):
    """A line on the machine: every short text and number that stands beside the figures."""
    if isinstance(data, list):
        return ""
    parts = []
    for key, value in data.items():
        if isinstance(value, (str, int, float)) and value != "":
            text = f"{value:.1f}" if isinstance(value, float) else str(value).replace("\n", "; ")
            parts.append(f"{key.replace('_', ' ')}: {text}")
        elif isinstance(value, list) and key == "missing" and value:
            parts.append("missing: " + ", ".join(value))
    return ". ".join(parts) + "." if parts else ""


def bars(path, title, labels, values, limit=None, unit="%"):
    figure, axes = plt.subplots(figsize=(9, 0.5 + 0.24 * len(labels)), layout="constrained")
    axes.barh(range(len(labels)), values, color="#3b6ea5")
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    for i, value in enumerate(values):
        axes.text(value, i, f" {value:.1f}{unit}" if unit == "%" else f" {value:.2f}{unit}", va="center", fontsize=6)
    if limit is not None:
        axes.axvline(limit, color="#b03030", linewidth=1)
    axes.set_title(title, fontsize=9)
    axes.margins(y=0.01)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_cuda(data, plots):
    figures = rows(data)
    large = [f for f in figures if not re.search(r"sweep|tensors|waits", f["name"])]
    bars(plots / "cuda_share.png", "Share of a device-to-device copy (line: the copy itself)",
         [f["name"] for f in large], [100 * f["share_of_copy"] for f in large], 100)
    lists = [f for f in figures if "tensors" in f["name"]]
    if lists:
        bars(plots / "cuda_lists.png", "Lists of tensors in one call: microseconds a call",
             [f["name"] for f in lists], [1000 * f["milliseconds"] for f in lists], unit="")
    series = {}
    for f in figures:
        if m := re.match(r"sweep (.*), 2\^(\d+)", f["name"]):
            series.setdefault(m[1], []).append((2 ** int(m[2]), f["milliseconds"] * 1e3))
    if series:
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        for name, points in series.items():
            axes.loglog(*zip(*sorted(points)), marker="o", markersize=3, label=name)
        axes.set_xlabel("elements")
        axes.set_ylabel("microseconds a call, cold cache")
        axes.grid(True, which="both", alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(plots / "cuda_sizes.png", dpi=130)
        plt.close(figure)


def plot_peers(own, peers, plots):
    """Time an element of the ternary quantizers, ours first."""
    for kind in ("f32", "bf16"):
        chosen = [f for f in rows(own) if f["name"] == f"quantize stochastic, block 64, {kind}"]
        chosen += [f for f in rows(peers) if f["name"].endswith(f", {kind}") and "accumulate" not in f["name"]]
        labels = ["trigrad" if f["name"].startswith("quantize") else f["name"] for f in chosen]
        bars(plots / f"peers_{kind}.png", f"Quantize a gradient, {kind}: ps an element", labels,
             [f["ps_per_element"] for f in chosen], unit="")


def versus(own, peers):
    """How many times longer than ours each peer takes."""
    ours = {f["name"].rsplit(", ", 1)[1]: f["ps_per_element"] for f in rows(own) if f["name"].startswith("quantize stochastic, block 64, ")}
    lines = ["| peer | ps an element | times trigrad's |", "|---|---:|---:|"]
    for f in rows(peers):
        kind = f["name"].rsplit(", ", 1)[1]
        if kind in ours and "accumulate" not in f["name"]:
            lines.append(f"| {f['name']} | {f['ps_per_element']:.3f} | {f['ps_per_element'] / ours[kind]:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default="benches/results")
    parser.add_argument("--page", type=pathlib.Path, default="BENCHMARKS.md")
    parser.add_argument("--plots", type=pathlib.Path, default="docs/plots")
    args = parser.parse_args()
    args.plots.mkdir(parents=True, exist_ok=True)
    found = {kind: newest(args.results, kind) for kind in KINDS}
    page = args.page.read_text()
    for kind, entry in found.items():
        if entry is None:
            continue
        data, name = entry
        block = f"From `{args.results / name}`. {facts(data)}\n\n{table([f for f in rows(data) if 'sweep' not in f['name']])}"
        if kind == "peers-gpu" and found["cuda"]:
            block += "\n\n" + versus(found["cuda"][0], data)
        marked = re.compile(f"(<!-- {kind} -->\n).*?(<!-- end {kind} -->)", re.S)
        if not marked.search(page):
            raise SystemExit(f"{args.page} has no lines `<!-- {kind} -->` and `<!-- end {kind} -->` for benches/results/{name}")
        page = marked.sub(lambda m: m[1] + block + "\n" + m[2], page)
    if found["cuda"]:
        plot_cuda(found["cuda"][0], args.plots)
        if found["peers-gpu"]:
            plot_peers(found["cuda"][0], found["peers-gpu"][0], args.plots)
    args.page.write_text(page)


if __name__ == "__main__":
    main()
