//! What a run prints: TRL's names, a line a step.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use thumbprint_tune::config::TrainConfig;
use thumbprint_tune::example::Example;
use thumbprint_tune::plan::Plan;
use thumbprint_tune::trainer::StepMetrics;

use super::RunResult;
use crate::base_model::Base;
use crate::error::Result;
use crate::output::Output;

/// What is about to happen, for people.
pub fn beginning(
    out: &Output,
    base: &Base,
    examples: &[Example],
    config: &TrainConfig,
    plan: &Plan,
) -> Result<()> {
    if out.is_json() {
        return Ok(());
    }
    let TrainConfig {
        lora,
        max_steps,
        batch_size,
        ..
    } = config;
    let device = plan.device.as_ref();
    out.line(format!(
        "{}: {} examples, {max_steps} steps of {}, rank {}, {}{}",
        base.path.display(),
        examples.len(),
        batch_size.min(&examples.len()),
        lora.rank,
        device.map_or(format!("{} threads", plan.n_threads), |device| format!(
            "on {}",
            device.name
        )),
        match (plan.recomputed_layers, plan.recompute_gate_up) {
            (0, false) => String::new(),
            (0, true) => ", gate and up recomputed".into(),
            (n, false) => format!(", {n} blocks recomputed"),
            (n, true) => format!(", {n} blocks recomputed, and gate and up of the others"),
        }
    ))
}

/// Columns, and how wide each is.
const COLUMNS: [(&str, usize); 12] = [
    ("step", 5),
    ("epoch", 6),
    ("loss", 8),
    ("rewards/chosen", 14),
    ("rewards/rejected", 16),
    ("rewards/margins", 15),
    ("rewards/accuracies", 18),
    ("logps/chosen", 12),
    ("logps/rejected", 14),
    ("grad_norm", 9),
    ("learning_rate", 13),
    ("seconds", 7),
];

/// The names of the columns.
pub fn header(out: &Output) -> Result<()> {
    if out.is_json() {
        return Ok(());
    }
    out.line(out.bold(&row(COLUMNS.map(|(name, _)| name.to_owned()))))
}

/// One step.
pub fn step(out: &Output, metrics: &StepMetrics, time: Duration) -> Result<()> {
    if out.is_json() {
        return out.object(metrics);
    }
    let m = &metrics.metrics;
    let optional =
        |value: Option<f64>, digits| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
    out.line(row([
        metrics.step.to_string(),
        format!("{:.2}", metrics.epoch),
        format!("{:.4}", metrics.loss),
        optional(m.rewards_chosen, 4),
        optional(m.rewards_rejected, 4),
        optional(m.rewards_margins, 4),
        optional(m.rewards_accuracies, 3),
        optional(m.logps_chosen, 2),
        optional(m.logps_rejected, 2),
        format!("{:.4}", metrics.grad_norm),
        format!("{:.3e}", metrics.learning_rate),
        format!("{:.2}", time.as_secs_f64()),
    ]))
}

/// What came of it.
pub fn end(
    out: &Output,
    adapter: &Path,
    result: &RunResult,
    same_bytes: Option<bool>,
) -> Result<()> {
    let RunResult {
        seconds,
        steps,
        resumed_from,
        mean_loss,
    } = result;
    if out.is_json() {
        let mut object = json!({
            "train_runtime": seconds,
            "train_steps_per_second": *steps as f64 / seconds,
            "train_loss": mean_loss,
            "total_steps": steps + resumed_from,
            "resumed_from_step": resumed_from,
            "adapter": adapter,
        });
        if let Some(same) = same_bytes {
            object["same_bytes"] = json!(same);
        }
        return out.object(&object);
    }
    out.line(format!(
        "wrote {} after {} steps in {seconds:.1} s{}",
        adapter.display(),
        steps + resumed_from,
        match same_bytes {
            Some(true) => ", the first run's bit for bit",
            _ => "",
        }
    ))
}

fn row(cells: [String; COLUMNS.len()]) -> String {
    let cells = cells
        .iter()
        .zip(COLUMNS)
        .map(|(cell, (_, width))| format!("{cell:>width$}"));
    cells.collect::<Vec<_>>().join("  ")
}
