//! What this machine and this build have, without loading anything.

use serde::Serialize;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml;
use thumbprint_ggml::llama::system_info;
use thumbprint_tune::model::{trainable_architectures, trainable_types};

use crate::store::DatabaseKey;

/// What computes here, and what can be learned on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Version of this library.
    pub version: &'static str,
    /// How ggml was built, in its own words.
    pub ggml: String,
    /// What the linked backends can compute on.
    pub devices: Vec<Device>,
    /// Instruction sets that the CPU backend was compiled for and found.
    pub cpu_features: Vec<String>,
    /// Processors that this process may use.
    pub processors: usize,
    /// Whether databases can be encrypted.
    pub encrypts: bool,
    /// `general.architecture` of models that can be trained.
    pub trainable_architectures: Vec<&'static str>,
    /// Types of matrices that can be trained on.
    pub trainable_types: Vec<&'static str>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The backend's name for it.
    pub name: String,
    /// The vendor's description.
    pub description: String,
    /// What kind of processor it is.
    pub kind: DeviceKind,
    /// Bytes free now; 0 where unknown.
    pub free_bytes: u64,
    /// Bytes in all; 0 where unknown.
    pub total_bytes: u64,
}

/// What kind of processor a [`Device`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The host's CPU.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that shares the host's memory.
    IntegratedGpu,
    /// A CPU-side accelerator.
    Accelerator,
}

/// Looks at the machine.
pub fn machine() -> Machine {
    Machine {
        version: env!("CARGO_PKG_VERSION"),
        ggml: system_info().trim().to_owned(),
        devices: ggml::devices().into_iter().map(Device::from).collect(),
        cpu_features: ggml::cpu_features(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        encrypts: DatabaseKey::is_supported(),
        trainable_architectures: trainable_architectures(),
        trainable_types: trainable_types().into_iter().map(GgmlType::name).collect(),
    }
}

impl From<ggml::DeviceInfo> for Device {
    fn from(device: ggml::DeviceInfo) -> Self {
        let (free, total) = device.memory;
        Self {
            name: device.name,
            description: device.description,
            kind: match device.kind {
                ggml::DeviceKind::Cpu => DeviceKind::Cpu,
                ggml::DeviceKind::Gpu => DeviceKind::Gpu,
                ggml::DeviceKind::IntegratedGpu => DeviceKind::IntegratedGpu,
                ggml::DeviceKind::Accelerator => DeviceKind::Accelerator,
            },
            free_bytes: free as u64,
            total_bytes: total as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_processor_and_every_build_something_to_train() {
        let machine = machine();
        assert!(machine.devices.iter().any(|d| d.kind == DeviceKind::Cpu));
        assert!(machine.processors > 0);
        assert!(machine.trainable_architectures.contains(&"llama"));
        assert!(machine.trainable_types.contains(&"q4_1"));
    }
}
