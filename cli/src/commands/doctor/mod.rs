//! `doctor`: what this machine has, what this model is, and what would run where.

mod text;

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use serde::Serialize;
use thumbprint::engine::Chat;
use thumbprint::{DeviceKind, InferenceMemory, TrainingMemory, estimate_memory, machine};
use thumbprint_ggml::gguf::Gguf;
use thumbprint_ggml::llama::{self, gpu_devices};
use thumbprint_tune::adapter::{Lora, LoraConfig};
use thumbprint_tune::model::Model;
use thumbprint_tune::trainer::lora_shapes;

use crate::base_model;
use crate::error::Result;
use crate::kernels::kernels;
use crate::options::{DataDirOption, ModelOption, Precision, ThreadsOption};
use crate::output::Output;
use crate::paths;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    data_dir: DataDirOption,
    #[command(flatten)]
    threads: ThreadsOption,
}

/// Looks and prints.
///
/// # Errors
/// The model that was asked for cannot be loaded. The demo model's absence is part of the report.
pub fn run(options: &Options, out: &Output) -> Result<()> {
    let demo = paths::demo_model();
    let path = match options.model.given() {
        Some(path) => Some(path),
        None => demo.is_file().then_some(demo.as_path()),
    };
    let machine = machine();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        ggml: machine.ggml,
        system: System {
            devices: machine.devices.into_iter().map(Device::new).collect(),
            cpu_features: machine.cpu_features,
            threads: options.threads.count(),
        },
        folders: Folders::new(options, &demo),
        model: path
            .map(|path| ModelReport::new(path, options.threads.count()))
            .transpose()?,
        trainable_architectures: machine.trainable_architectures,
        trainable_types: machine.trainable_types,
    };
    if out.is_json() {
        out.object(&report)
    } else {
        text::print(&report, out)
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// How ggml was built, in its own words.
    ggml: String,
    system: System,
    folders: Folders,
    model: Option<ModelReport>,
    trainable_architectures: Vec<&'static str>,
    /// Of a model's matrices.
    trainable_types: Vec<&'static str>,
}

#[derive(Serialize)]
struct System {
    devices: Vec<Device>,
    cpu_features: Vec<String>,
    threads: usize,
}

#[derive(Serialize)]
struct Device {
    name: String,
    description: String,
    kind: &'static str,
    free_mib: u64,
    total_mib: u64,
}

#[derive(Serialize)]
struct Folders {
    cache: String,
    data: String,
    demo_model: String,
    demo_model_present: bool,
}

#[derive(Serialize)]
struct ModelReport {
    path: String,
    sha256: String,
    description: String,
    architecture: String,
    size_mib: u64,
    parameters: u64,
    layers: u32,
    width: u32,
    vocabulary: usize,
    context: u32,
    /// Number of tensors by type.
    tensor_types: BTreeMap<&'static str, usize>,
    /// `its own`, or `none: plain 'Role: text' lines`.
    chat_template: &'static str,
    end_of_turn: Option<String>,
    generation: Generation,
    training: Training,
}

#[derive(Serialize)]
struct Generation {
    /// Where it runs.
    on: String,
    context: u32,
    weights_mib: u64,
    cache_mib: u64,
    /// With what is computed with.
    total_mib: u64,
}

#[derive(Serialize)]
struct Training {
    possible: bool,
    /// Where it runs, or why it does not.
    on: String,
    #[serde(flatten)]
    estimate: Option<TrainingEstimate>,
}

#[derive(Serialize)]
struct TrainingEstimate {
    /// Parameters of an adapter with the default settings.
    lora_parameters: usize,
    /// The format of products.
    products_in: &'static str,
    /// Tokens of a ubatch.
    tokens: usize,
    memory_mib: u64,
    /// The smallest budget that works.
    memory_least_mib: u64,
}

impl Device {
    fn new(device: thumbprint::Device) -> Self {
        Self {
            name: device.name,
            description: device.description,
            kind: match device.kind {
                DeviceKind::Cpu => "CPU",
                DeviceKind::Gpu => "GPU",
                DeviceKind::IntegratedGpu => "integrated GPU",
                DeviceKind::Accelerator => "accelerator",
            },
            free_mib: device.free_bytes >> 20,
            total_mib: device.total_bytes >> 20,
        }
    }
}

impl Folders {
    fn new(options: &Options, demo: &Path) -> Self {
        let text = |path: &Path| path.display().to_string();
        Self {
            cache: text(&paths::cache_folder()),
            data: text(&options.data_dir.path()),
            demo_model: text(demo),
            demo_model_present: demo.is_file(),
        }
    }
}

impl ModelReport {
    fn new(path: &Path, threads: usize) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let model = base_model::load(path)?;
        let chat = Chat::new(model.clone())?;
        let estimate = estimate_memory(path, usual_context(&model), USUAL_EXAMPLE)?;
        let mut tensor_types = BTreeMap::new();
        for tensor in gguf.tensors() {
            *tensor_types.entry(tensor.ty.name()).or_insert(0) += 1;
        }
        let end_of_turn = chat
            .end_of_turn()
            .map(|token| model.token_to_piece(token, true));
        Ok(Self {
            path: path.display().to_string(),
            sha256: thumbprint::hash_file(path)?,
            description: model.description(),
            architecture: model.architecture(),
            size_mib: model.size_bytes() >> 20,
            parameters: model.n_params(),
            layers: model.n_layer(),
            width: model.n_embd(),
            vocabulary: model.n_vocab(),
            context: model.n_ctx_train(),
            tensor_types,
            chat_template: if chat.template().is_fallback() {
                "none: plain 'Role: text' lines"
            } else {
                "its own"
            },
            end_of_turn: end_of_turn.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            generation: Generation::new(&model, estimate.inference),
            training: Training::new(path, threads, estimate.training),
        })
    }
}

/// The engine's default.
fn usual_context(model: &llama::Model) -> u32 {
    model.n_ctx_train().clamp(256, 4096)
}

/// Tokens of an example that memory is told for.
const USUAL_EXAMPLE: usize = 512;

impl Generation {
    fn new(model: &llama::Model, memory: InferenceMemory) -> Self {
        // The engine's defaults: all layers on a GPU if twice the weights fit, a context of at most 4096.
        let size = model.size_bytes();
        let gpus = gpu_devices();
        let free: u64 = gpus.iter().map(|gpu| gpu.free_bytes).sum();
        let on = match gpus.first() {
            Some(gpu) if 2 * size <= free => gpu.name.clone(),
            Some(gpu) => format!("CPU: {} has too little memory free", gpu.name),
            None => "CPU: this build has no GPU backend, or finds no GPU".to_owned(),
        };
        Self {
            on,
            context: usual_context(model),
            weights_mib: memory.weights >> 20,
            cache_mib: memory.cache >> 20,
            total_mib: memory.total() >> 20,
        }
    }
}

impl Training {
    fn new(path: &Path, threads: usize, memory: Option<TrainingMemory>) -> Self {
        let estimate = |model| TrainingEstimate::new(&model, threads, memory);
        match base_model::open(path).and_then(estimate) {
            Ok(estimate) => Self {
                possible: true,
                on: "CPU".to_owned(),
                estimate: Some(estimate),
            },
            Err(error) => Self {
                possible: false,
                on: error.to_string(),
                estimate: None,
            },
        }
    }
}

impl TrainingEstimate {
    fn new(model: &Model, threads: usize, memory: Option<TrainingMemory>) -> Result<Self> {
        let lora = Lora::new(LoraConfig::default(), &lora_shapes(model))?;
        let kernels = kernels(Precision::Fast, threads)?;
        let mib = |of: fn(&TrainingMemory) -> u64| memory.as_ref().map_or(0, of) >> 20;
        Ok(Self {
            lora_parameters: lora.values.len(),
            products_in: kernels.scratch.name(),
            tokens: USUAL_EXAMPLE,
            memory_mib: mib(|memory| memory.full_speed),
            memory_least_mib: mib(|memory| memory.least),
        })
    }
}
