//! Which form of scratch matrix products are fastest with on this machine.

use std::time::Instant;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::Packing;
use thumbprint_ggml::ggml::{Backend, GgmlError, Graph, StorageBuilder, Workspace};

use super::builder::Builder;
use super::fragments::Fragments;
use super::scratch::Scratch;

/// Number formats that a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kernels {
    /// What frozen weights are made into before a product.
    pub scratch: Scratch,
    /// Type of activations kept for the backward pass (F32 or BF16).
    #[serde(with = "ggml_type_name")]
    pub saved: GgmlType,
}

impl Kernels {
    /// Everything in F32: for comparing with references.
    pub const EXACT: Self = Self {
        scratch: Scratch::Rows(GgmlType::F32),
        saved: GgmlType::F32,
    };
    /// BF16 products and activations, F32 sums: fast where the CPU has BF16.
    pub const BF16: Self = Self {
        scratch: Scratch::Rows(GgmlType::BF16),
        saved: GgmlType::BF16,
    };
}

/// Rows, columns and tokens of the measured product: a small model's feed-forward projection.
const SHAPE: [usize; 3] = [512, 1536, 512];
/// Rounds, in which the types take turns: a busy moment hits them all.
const ROUNDS: usize = 24;

impl Kernels {
    /// Measures products with every form of scratch matrix for some tens of milliseconds and takes the fastest. Results depend on
    /// the choice, so it belongs into a run's record.
    ///
    /// # Errors
    /// [`GgmlError`] when memory cannot be had.
    pub fn measure(n_threads: usize) -> Result<Self, GgmlError> {
        let mut forms = [GgmlType::BF16, GgmlType::F16, GgmlType::F32]
            .map(Scratch::Rows)
            .to_vec();
        let fast = Packing::ALL.into_iter().filter(|packing| packing.is_fast());
        forms.extend(fast.map(Scratch::Packed));
        let mut best = vec![f64::INFINITY; forms.len()];
        for _ in 0..ROUNDS {
            for (best, form) in best.iter_mut().zip(&forms) {
                *best = best.min(product_seconds(*form, n_threads)?);
            }
        }
        let fastest = forms
            .into_iter()
            .zip(best)
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        let scratch = fastest.map_or(Scratch::Rows(GgmlType::F32), |(form, _)| form);
        Ok(Self {
            scratch,
            saved: GgmlType::BF16,
        })
    }
}

/// Seconds of a product with a matrix that has to be made into this form first.
fn product_seconds(scratch: Scratch, n_threads: usize) -> Result<f64, GgmlError> {
    let [n_in, n_out, n] = SHAPE;
    let mut backend = Backend::cpu(n_threads)?;
    let mut workspace = Workspace::new(&backend)?;
    let mut storage = StorageBuilder::new();
    let a = storage.add(GgmlType::Q8_0, &[n_in, n_out]);
    let b = storage.add(GgmlType::F32, &[n_in, n]);
    let y = storage.add(GgmlType::F32, &[n_out, n]);
    let storage = storage.build(&backend)?;
    let graph = Graph::new(16)?;
    let builder = Builder {
        graph: &graph,
        scratch,
        n_tokens: n,
    };
    let product = builder.project(&[graph.load(&storage, a)?].into(), graph.load(&storage, b)?)?;
    graph.store(product, graph.load(&storage, y)?)?;
    // The first one pays for memory.
    workspace.compute(&mut backend, &graph)?;
    let start = Instant::now();
    workspace.compute(&mut backend, &graph)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Serialises a type by ggml's name.
mod ggml_type_name {
    use serde::{Deserialize, Deserializer, Serializer};
    use thumbprint_ggml::GgmlType;

    pub fn serialize<S: Serializer>(ty: &GgmlType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(ty.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GgmlType, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = GgmlType::ALL.iter().find(|ty| ty.name() == name);
        found
            .copied()
            .ok_or_else(|| serde::de::Error::custom(format!("unknown tensor type `{name}`")))
    }
}
