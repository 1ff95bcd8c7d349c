//! What runs came to, as tables and as JSON.

use crate::Results;
use crate::common::stats::{mean, paired, spread};
use crate::train::Outcome;
use anyhow::{Context, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde_json::json;

pub(crate) fn table(results: &[Results]) -> Result<Table> {
    let f32s = results.first().context("no results")?.losses();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "accumulated in",
        "validation loss",
        "to f32",
        "tokens/s",
        "adding",
        "accumulator bytes",
        "a parameter",
        "peak device memory",
    ]);
    for r in results {
        let losses = r.losses();
        let bytes = mean(&r.of(|run| run.bytes as f64));
        let loss = if losses.len() > 1 {
            format!("{:.4} ± {:.4}", mean(&losses), spread(&losses))
        } else {
            format!("{:.4}", mean(&losses))
        };
        table.add_row([
            r.method.name(),
            loss,
            to_f32(&losses, &f32s),
            format!("{:.0}", mean(&r.of(|run| run.tokens_per_second))),
            r.share().map_or("-".to_owned(), |share| format!("{:.1}%", 100.0 * share)),
            format!("{bytes:.0}"),
            format!("{:.3}", bytes / mean(&r.of(|run| run.parameters as f64))),
            r.peak.map_or("-".to_owned(), |p| format!("{:.2} GB", p as f64 / 1e9)),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    Ok(table)
}

/// The mean difference of the same seed, and its standard error, in percent of the loss of f32.
fn to_f32(losses: &[f64], f32s: &[f64]) -> String {
    let (difference, error) = paired(losses, f32s);
    let percent = 100.0 / mean(f32s);
    if losses.len() > 1 {
        format!("{:+.2}% ± {:.2}%", difference * percent, error * percent)
    } else {
        format!("{:+.2}%", difference * percent)
    }
}

pub(crate) fn report(r: &Results, f32s: &Results) -> serde_json::Value {
    let losses = r.losses();
    json!({
        "method": r.method.name(), "losses": losses, "loss": mean(&losses), "spread": spread(&losses),
        "relative_to_f32": mean(&losses) / mean(&f32s.losses()) - 1.0,
        "tokens_per_second": mean(&r.of(|run| run.tokens_per_second)), "adding_share": r.share(),
        "weights_bytes": mean(&r.of(|run| run.weights as f64)), "moments_bytes": mean(&r.of(|run| run.moments as f64)),
        "accumulator_bytes": mean(&r.of(|run| run.bytes as f64)), "peak_device_bytes": r.peak, "curve": r.curve(),
    })
}

/// Memory part by part: what buffers hold, and what the peak is beyond that.
pub(crate) fn parts(results: &[Results]) -> Table {
    let mut table = Table::new();
    let header = ["accumulated in", "weights", "moments", "sum", "together, a parameter", "beyond, at the peak"];
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    let gigabytes = |bytes: f64| format!("{:.3} GB", bytes / 1e9);
    for r in results {
        let held = [|run: &Outcome| run.weights, |run: &Outcome| run.moments, |run: &Outcome| run.bytes];
        let held = held.map(|bytes| mean(&r.of(|run| bytes(run) as f64)));
        let together: f64 = held.iter().sum();
        let mut row = vec![r.method.name()];
        row.extend(held.map(gigabytes));
        row.push(format!("{:.3}", together / mean(&r.of(|run| run.parameters as f64))));
        row.push(r.peak.map_or("-".to_owned(), |peak| gigabytes(peak as f64 - together)));
        table.add_row(row);
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    table
}
