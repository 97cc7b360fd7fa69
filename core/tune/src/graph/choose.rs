//! Which number format products are fastest in on this machine.

use std::time::Instant;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Backend, GgmlError, Graph, StorageBuilder, Workspace};

use super::network::Kernels;

/// Rows, columns and tokens of the measured product: a small model's feed-forward projection.
const SHAPE: [usize; 3] = [512, 1536, 256];
/// Rounds, in which the types take turns: a busy moment hits them all.
const ROUNDS: usize = 24;

impl Kernels {
    /// Measures products in BF16, F16 and F32 for some tens of milliseconds and takes the fastest. Results depend on the choice, so
    /// it belongs into a run's record.
    ///
    /// # Errors
    /// [`GgmlError`] when memory cannot be had.
    pub fn measure(n_threads: usize) -> Result<Self, GgmlError> {
        const TYPES: [GgmlType; 3] = [GgmlType::BF16, GgmlType::F16, GgmlType::F32];
        let mut best = [f64::INFINITY; TYPES.len()];
        for _ in 0..ROUNDS {
            for (best, ty) in best.iter_mut().zip(TYPES) {
                *best = best.min(product_seconds(ty, n_threads)?);
            }
        }
        let fastest = TYPES.into_iter().zip(best).min_by(|(_, a), (_, b)| a.total_cmp(b));
        let scratch = fastest.map_or(GgmlType::F32, |(ty, _)| ty);
        Ok(Self { scratch, saved: GgmlType::BF16 })
    }
}

/// Seconds of a product with a matrix of type `ty`.
fn product_seconds(ty: GgmlType, n_threads: usize) -> Result<f64, GgmlError> {
    let [n_in, n_out, n] = SHAPE;
    let mut backend = Backend::cpu(n_threads)?;
    let mut workspace = Workspace::new(&backend)?;
    let mut builder = StorageBuilder::new();
    let a = builder.add(ty, &[n_in, n_out]);
    let b = builder.add(GgmlType::F32, &[n_in, n]);
    let y = builder.add(GgmlType::F32, &[n_out, n]);
    let storage = builder.build(&backend)?;
    let graph = Graph::new(16)?;
    let product = graph.mul_mat(graph.load(&storage, a)?, graph.load(&storage, b)?)?;
    graph.store(product, graph.load(&storage, y)?)?;
    // The first one pays for memory.
    workspace.compute(&mut backend, &graph)?;
    let start = Instant::now();
    workspace.compute(&mut backend, &graph)?;
    Ok(start.elapsed().as_secs_f64())
}
