//! The report for people.

use std::fmt::Display;

use super::{Device, Folders, Generation, ModelReport, Report, System, Training, TrainingEstimate};
use crate::error::Result;
use crate::output::Output;

pub(super) fn print(report: &Report, out: &Output) -> Result<()> {
    out.line(format!("{} {}", out.bold("thumbprint"), report.version))?;
    row(out, "built with", &report.ggml)?;
    system(&report.system, out)?;
    folders(&report.folders, out)?;
    out.line(out.bold("what can be trained"))?;
    row(
        out,
        "architectures",
        report.trainable_architectures.join(" "),
    )?;
    row(out, "tensor types", report.trainable_types.join(" "))?;
    match &report.model {
        Some(model) => {
            facts(model, out)?;
            out.line(out.bold("what runs where"))?;
            generation(&model.generation, out)?;
            training(&model.training, out)
        }
        None => {
            let at = &report.folders.demo_model;
            row(out, "demo model", format!("{} {at}", out.red("is not at")))?;
            row(out, "", "run `make model`, or pass --model PATH")
        }
    }
}

fn system(system: &System, out: &Output) -> Result<()> {
    out.line(out.bold("machine"))?;
    for device in &system.devices {
        let Device {
            name,
            description,
            kind,
            free_mib,
            total_mib,
        } = device;
        let text = format!("{description} ({name}), {free_mib} of {total_mib} MiB free");
        row(out, kind, text)?;
    }
    row(out, "CPU features", system.cpu_features.join(" "))?;
    row(out, "threads", system.threads)
}

fn folders(folders: &Folders, out: &Output) -> Result<()> {
    out.line(out.bold("folders"))?;
    row(out, "cache", &folders.cache)?;
    row(out, "data", &folders.data)
}

fn facts(model: &ModelReport, out: &Output) -> Result<()> {
    out.line(format!("{} {}", out.bold("model"), model.path))?;
    row(out, "SHA-256", &model.sha256)?;
    let (size, parameters) = (model.size_mib, model.parameters);
    let is = format!("{}: {size} MiB, {parameters} parameters", model.description);
    row(out, "is", is)?;
    let (layers, width) = (model.layers, model.width);
    let shape = format!(
        "{layers} layers of width {width}, vocabulary {}",
        model.vocabulary
    );
    row(out, "shape", shape)?;
    let types = model.tensor_types.iter();
    let types: Vec<_> = types.map(|(ty, count)| format!("{count} {ty}")).collect();
    row(out, "tensors", types.join(", "))?;
    row(out, "context", format!("{} tokens", model.context))?;
    let end = model.end_of_turn.as_deref().unwrap_or("none");
    row(
        out,
        "chat template",
        format!("{}; a turn ends with {end}", model.chat_template),
    )
}

fn generation(generation: &Generation, out: &Output) -> Result<()> {
    let Generation {
        on,
        context,
        weights_mib,
        cache_mib,
        total_mib,
    } = generation;
    row(out, "generation", format!("{} on {on}", out.green("yes")))?;
    let parts = format!("{weights_mib} of weights, {cache_mib} for a context of {context} tokens");
    row(out, "", format!("about {total_mib} MiB: {parts}"))
}

fn training(training: &Training, out: &Output) -> Result<()> {
    let on = &training.on;
    let Some(estimate) = &training.estimate else {
        return row(out, "training", format!("{}: {on}", out.red("no")));
    };
    let TrainingEstimate {
        lora_parameters,
        products_in,
        tokens,
        memory_mib,
        memory_least_mib,
    } = estimate;
    row(
        out,
        "training",
        format!("{} on {on}, products in {products_in}", out.green("yes")),
    )?;
    let adapter = format!("{tokens} tokens at a time, {lora_parameters} parameters at rank 8");
    row(out, "", adapter)?;
    let memory = format!("about {memory_mib} MiB at full speed");
    let less = format!("{memory_least_mib} at least (--memory-mib)");
    row(out, "", format!("{memory}, {less}"))
}

fn row(out: &Output, label: &str, text: impl Display) -> Result<()> {
    out.line(format!("  {label:<16} {text}"))
}
