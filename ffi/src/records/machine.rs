//! What there is: the machine, the model, the data folder.

use thumbprint::engine;
use thumbprint::store;

use crate::translate::{choice, record};

record! {
    /// What computes here, and what can be learned on.
    Machine of thumbprint::Machine {
        /// Version of this library.
        version: String,
        /// How ggml was built, in its own words.
        ggml: String,
        /// What the linked backends can compute on.
        devices: Vec<Device>,
        /// Instruction sets that the CPU backend was compiled for and found.
        cpu_features: Vec<String>,
        /// Processors that this process may use.
        processors: u64,
        /// Whether databases can be encrypted.
        encrypts: bool,
        /// `general.architecture` of models that can be trained.
        trainable_architectures: Vec<String>,
        /// Types of matrices that can be trained on.
        trainable_types: Vec<String>,
    }
}

record! {
    /// One device.
    Device of thumbprint::Device {
        /// The backend's name for it.
        name: String,
        /// The vendor's description.
        description: String,
        /// What kind of processor it is.
        kind: DeviceKind,
        /// Bytes free now; 0 where unknown.
        free_bytes: u64,
        /// Bytes in all; 0 where unknown.
        total_bytes: u64,
    }
}

choice! {
    /// What kind of processor a device is.
    DeviceKind of thumbprint::DeviceKind {
        /// The host's CPU.
        Cpu,
        /// A GPU with memory of its own.
        Gpu,
        /// A GPU that shares the host's memory.
        IntegratedGpu,
        /// A CPU-side accelerator.
        Accelerator,
    }
}

record! {
    /// Facts of the loaded model.
    ModelInfo of engine::EngineInfo {
        /// The model's file.
        model_path: String,
        /// Architecture, size and quantization in words.
        description: String,
        /// `general.architecture`.
        architecture: String,
        /// Tokens that a conversation can have, its reply included.
        n_ctx: u32,
        /// Tokens that the model was trained for.
        n_ctx_train: u32,
        /// Tokens in the vocabulary.
        n_vocab: u64,
        /// Compute threads.
        n_threads: u32,
        /// Layers on a GPU.
        n_gpu_layers: Option<u32>,
        /// SHA-256 of the chat template.
        template_hash: String,
        /// What was asked for or expected and is not so, to be shown: a CPU fallback, a missing chat template.
        warnings: Vec<String>,
    }
}

record! {
    /// Bytes of resident memory, on the CPU.
    MemoryEstimate of thumbprint::MemoryEstimate {
        /// To generate.
        inference: InferenceMemory,
        /// To learn beside that; absent where the model cannot be trained.
        training: Option<TrainingMemory>,
    }
}

record! {
    /// What generation takes, in bytes.
    InferenceMemory of thumbprint::InferenceMemory {
        /// The mapped model.
        weights: u64,
        /// Keys and values of a whole context.
        cache: u64,
        /// What is computed with.
        compute: u64,
    }
}

record! {
    /// What training takes, in bytes.
    TrainingMemory of thumbprint::TrainingMemory {
        /// Without a budget.
        full_speed: u64,
        /// The smallest budget that works.
        least: u64,
    }
}

record! {
    /// What opening a folder found.
    OpenReport of store::OpenReport {
        /// There was no database; an empty one was created.
        created: bool,
        /// The folder was open in this process already; this is the same instance.
        already_open: bool,
        /// The database was brought here from this older version.
        migrated_from: Option<u32>,
        /// The database was damaged. It lies here now, untouched, and an empty one took its place.
        moved_aside: Option<String>,
    }
}
