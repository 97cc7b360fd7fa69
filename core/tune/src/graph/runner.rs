//! What computes graphs: the CPU alone, or a device with the CPU beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thumbprint_ggml::ggml::{Backend, GgmlError, Graph, Scheduler, Workspace};

use super::network::{DeviceOptions, NetworkError};

type Result<T> = std::result::Result<T, NetworkError>;

pub enum Runner {
    Cpu {
        backend: Backend,
        workspace: Workspace,
    },
    Device {
        scheduler: Scheduler,
        options: DeviceOptions,
        /// Operations that ran on the CPU instead, by ggml's names.
        fallbacks: BTreeSet<String>,
    },
}

impl Runner {
    pub fn cpu(n_threads: usize) -> Result<Self> {
        let backend = Backend::cpu(n_threads)?;
        Ok(Self::Cpu {
            workspace: Workspace::new(&backend)?,
            backend,
        })
    }

    /// For graphs of at most `capacity` tensors.
    pub fn device(options: &DeviceOptions, n_threads: usize, capacity: usize) -> Result<Self> {
        let backends = vec![
            Backend::open(&options.name, n_threads)?,
            Backend::cpu(n_threads)?,
        ];
        Ok(Self::Device {
            scheduler: Scheduler::new(backends, capacity)?,
            options: options.clone(),
            fallbacks: BTreeSet::new(),
        })
    }

    /// Where tensors that last belong.
    pub fn backend(&self) -> &Backend {
        match self {
            Self::Cpu { backend, .. } => backend,
            Self::Device { scheduler, .. } => &scheduler.backends()[0],
        }
    }

    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        self.backend().abort_flag()
    }

    /// Bytes of scratch memory.
    pub fn n_bytes(&self) -> usize {
        match self {
            Self::Cpu { workspace, .. } => workspace.n_bytes(),
            Self::Device { scheduler, .. } => {
                let backends = 0..scheduler.backends().len();
                backends.map(|backend| scheduler.n_bytes(backend)).sum()
            }
        }
    }

    pub fn fallbacks(&self) -> Vec<String> {
        match self {
            Self::Cpu { .. } => Vec::new(),
            Self::Device { fallbacks, .. } => fallbacks.iter().cloned().collect(),
        }
    }

    /// Computes a graph. What it stored is there when this returns.
    pub fn compute(&mut self, graph: Graph<'_>) -> Result<()> {
        // A device does not look at the flag while it computes.
        if self.abort_flag().load(Ordering::Relaxed) {
            return Err(GgmlError::Aborted.into());
        }
        match self {
            Self::Cpu { backend, workspace } => Ok(workspace.compute(backend, &graph)?),
            Self::Device {
                scheduler,
                options,
                fallbacks,
            } => {
                if options.strict
                    && let Err(op) = scheduler.backends()[0].supports(&graph)
                {
                    let device = options.name.clone();
                    return Err(NetworkError::Fallback { device, op });
                }
                let placements = scheduler.compute(graph)?;
                let elsewhere = placements.into_iter().filter(|p| p.backend > 0);
                fallbacks.extend(elsewhere.map(|placement| placement.op));
                Ok(())
            }
        }
    }
}
