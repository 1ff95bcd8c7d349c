//! Checkpoints of version 1, as those of version 2: there, tensors kept in f32 had sums of their own, numbered apart, and
//! weights were in another file.

use crate::accumulator::Spec;
use crate::checkpoint::{Array, Contents, get_reports, put_reports};
use crate::error::Result;
use crate::op::Report;

/// The fields and arrays of version 1 under the names of version 2, for a training of these tensors.
pub(super) fn upgrade(c: &mut Contents, specs: &[Spec]) -> Result<()> {
    let (kind, bits) = (c.text("config.format")?, c.text("config.bits")?);
    let (scales, headroom) = (c.text("config.scales")?, c.text("config.headroom")?);
    c.text("config.non_finite")?; // the caller's choice, since version 2
    let tensors: usize = c.fields.keys().filter(|k| k.starts_with("tensor.") && k.ends_with(".held")).count();
    let held =
        (0..tensors).map(|i| Ok(c.text(&format!("tensor.{i}.held"))? == "packed")).collect::<Result<Vec<bool>>>()?;
    if kind != "adaptive" {
        let reason =
            format!("{kind} counts of version 1 (scales {scales}, headroom {headroom}) are held otherwise now");
        let advice = "finish the run with trigrad 0.1, or start a new one from its weights";
        return Err(c.at_fault("config.format", format!("{reason}: {advice}")));
    }
    for name in ["step", "micro_batch", "held"] {
        let value = c.text(name)?;
        c.set(format!("sum.{name}"), value);
    }
    let weights = c.text("weights")?;
    c.fields.insert("sum.weights".to_owned(), weights);
    let wide = get_reports(c, "f32.reports")?;
    let packed = if held.contains(&true) { get_reports(c, "sum.reports")? } else { Vec::new() };
    let feedback = c.fields.get("residual.bits").is_some_and(|bits| bits != "0");
    let lost = if feedback && held.contains(&true) { get_reports(c, "residual.reports")? } else { Vec::new() };
    for name in ["step", "micro_batch", "held", "weights"] {
        c.fields.remove(&format!("residual.{name}")); // those of the sums
    }
    let mut old = std::mem::take(&mut c.arrays);
    let (mut reports, mut residuals, mut p, mut d) = (Vec::new(), Vec::new(), 0, 0);
    for (i, packed_one) in held.iter().enumerate() {
        c.set(format!("tensor.{i}.reached"), true);
        let mut rename = |from: String, to: String| {
            if let Some(array) = old.remove(&from) {
                c.arrays.insert(to, array);
            }
        };
        if *packed_one {
            for part in ["levels", "scales"] {
                rename(format!("sum.{p}.{part}"), format!("sum.{i}.{part}"));
                rename(format!("residual.{p}.{part}"), format!("residual.{i}.{part}"));
            }
            reports.push(packed.get(p).copied().unwrap_or_default());
            residuals.push(lost.get(p).copied().unwrap_or_default());
            for at in ["sum", "residual"] {
                c.fields.remove(&format!("{at}.{p}.scaled"));
            }
            c.set(format!("tensor.{i}.format"), format_args!("adaptive {bits}"));
            p += 1;
        } else {
            rename(format!("f32.{d}"), format!("sum.{i}.sum"));
            if !c.get::<bool>(&format!("f32.{d}.there"))? {
                c.arrays
                    .insert(format!("sum.{i}.sum"), Array::F32(vec![0.0; specs.get(i).map_or(Ok(0), Spec::elements)?]));
            }
            reports.push(wide.get(d).copied().unwrap_or_default());
            residuals.push(Report::default());
            c.set(format!("tensor.{i}.format"), "f32");
            d += 1;
        }
    }
    c.arrays.append(&mut old); // what is left over is refused by its name
    put_reports(c, "sum.reports", &reports);
    if feedback {
        put_reports(c, "residual.reports", &residuals);
    }
    upgrade_optimizer(c)?;
    c.set("weights", "none");
    c.set("kept", 0);
    Ok(())
}

/// The numbers of the rule are the caller's, since version 2.
fn upgrade_optimizer(c: &mut Contents) -> Result<()> {
    let numbers: &[&str] = match c.fields.get("optimizer").map(String::as_str) {
        Some("sgd") => &["learning_rate", "momentum", "weight_decay", "nesterov"],
        Some("adamw") => &["learning_rate", "beta1", "beta2", "eps", "weight_decay"],
        _ => &[],
    };
    let mut buffers = if numbers.contains(&"beta1") { 2 } else { 0 };
    for name in numbers {
        let x = c.get_f64(&format!("optimizer.{name}"))?;
        if *name == "momentum" && x as f32 != 0.0 {
            buffers = 1;
        }
    }
    let updates = c.fields.get("optimizer.updates").cloned();
    c.set("updated", updates.unwrap_or_else(|| "0".to_owned()));
    if !numbers.is_empty() {
        c.set("optimizer.buffers", buffers);
    }
    Ok(())
}
