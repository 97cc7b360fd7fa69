//! Options that several commands share. Each command takes those that mean something to it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use thumbprint_ggml::ggml::{DeviceKind, devices};
use thumbprint_tune::graph::DeviceOptions;

use crate::error::{CliError, Result};
use crate::paths;

/// Which model.
#[derive(Args, Debug, Clone)]
pub struct ModelOption {
    /// The model, a GGUF file [default: the demo model, where `make model` puts it]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

impl ModelOption {
    /// The file to use.
    ///
    /// # Errors
    /// None was given, and the demo model is not there.
    pub fn path(&self) -> Result<PathBuf> {
        self.model
            .clone()
            .map_or_else(paths::require_demo_model, Ok)
    }

    /// The file that was asked for.
    pub fn given(&self) -> Option<&Path> {
        self.model.as_deref()
    }
}

/// Where an app's data lies.
#[derive(Args, Debug, Clone)]
pub struct DataDirOption {
    /// The data folder [default: $XDG_DATA_HOME/thumbprint, else ~/.local/share/thumbprint]
    #[arg(long, value_name = "PATH", global = true)]
    data_dir: Option<PathBuf>,
}

impl DataDirOption {
    /// The folder to use.
    pub fn path(&self) -> PathBuf {
        self.data_dir
            .clone()
            .unwrap_or_else(paths::default_data_folder)
    }
}

/// How many threads compute.
#[derive(Args, Debug, Clone)]
pub struct ThreadsOption {
    /// Compute threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl ThreadsOption {
    /// The number of threads.
    pub fn count(&self) -> usize {
        let all = || std::thread::available_parallelism().ok();
        self.threads.or_else(all).map_or(1, NonZeroUsize::get)
    }

    /// Those of an engine, which otherwise has a number of its own.
    pub fn of_engine(&self) -> Option<u32> {
        self.threads.map(|threads| threads.get() as u32)
    }
}

/// Where training computes.
#[derive(Args, Debug, Clone)]
pub struct DeviceOption {
    /// Where to train: cpu, gpu (the first one), or a device's name as `doctor` lists it
    #[arg(long, value_name = "NAME", default_value = CPU)]
    device: String,
    /// Refuse what the GPU has no kernel for, instead of computing that on the CPU
    #[arg(long)]
    require_gpu: bool,
}

const CPU: &str = "cpu";
const GPU: &str = "gpu";

impl DeviceOption {
    /// The device; none for the CPU.
    ///
    /// # Errors
    /// There is no such device.
    pub fn device(&self) -> Result<Option<DeviceOptions>> {
        if self.device == CPU {
            return match self.require_gpu {
                true => Err(CliError::Usage(
                    "--require-gpu needs a GPU: give one with --device".to_owned(),
                )),
                false => Ok(None),
            };
        }
        let there = devices();
        let is_gpu = |kind| matches!(kind, DeviceKind::Gpu | DeviceKind::IntegratedGpu);
        let found = there.iter().find(|device| match self.device.as_str() {
            GPU => is_gpu(device.kind),
            name => device.name == name,
        });
        let Some(found) = found else {
            let names: Vec<_> = there.iter().map(|device| device.name.as_str()).collect();
            return Err(CliError::Failed(format!(
                "no device `{}` here; there are: {CPU}, {} (GPUs need a build with the feature cuda, metal or vulkan)",
                self.device,
                names.join(", ")
            )));
        };
        Ok(Some(DeviceOptions {
            name: found.name.clone(),
            strict: self.require_gpu,
        }))
    }
}

/// Seed of everything that is drawn.
#[derive(Args, Debug, Clone)]
pub struct SeedOption {
    /// Seeds everything that is drawn: the same seed gives the same result
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// How exactly to compute.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// F32 throughout
    Exact,
    /// Products in the format that is fastest here, with F32 sums
    Fast,
}
