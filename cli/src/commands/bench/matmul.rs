//! How fast ggml multiplies matrices here: what a step's speed is measured by.

use std::collections::BTreeMap;
use std::time::Instant;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::quant::quantize;
use thumbprint_ggml::ggml::{Backend, Graph, Storage, StorageBuilder, TensorId, Workspace};
use thumbprint_tune::model::Model;
use thumbprint_tune::rng::Rng;

use super::Times;
use super::batch::UBATCH;
use crate::error::Result;

/// Types that activations or dequantized weights come in.
const TYPES: [GgmlType; 4] = [GgmlType::BF16, GgmlType::F16, GgmlType::F32, GgmlType::Q8_0];
/// Products of one measurement, of which the fastest counts.
const REPEATS: usize = 5;

/// Products of 512 tokens with weights of the model's two commonest shapes, in each type.
pub struct MulMats {
    backend: Backend,
    workspace: Workspace,
    products: Vec<Product>,
}

struct Product {
    name: String,
    ty: GgmlType,
    flop: f64,
    storage: Storage,
    weight: TensorId,
    input: TensorId,
}

impl MulMats {
    /// On the CPU, or on a device.
    ///
    /// # Errors
    /// Memory cannot be had.
    pub fn new(model: &Model, n_threads: usize, device: Option<&str>) -> Result<Self> {
        let backend = match device {
            Some(name) => Backend::open(name, n_threads)?,
            None => Backend::cpu(n_threads)?,
        };
        let workspace = Workspace::new(&backend)?;
        let mut products = Vec::new();
        for shape in commonest_shapes(model) {
            // Rows must be whole blocks.
            for ty in TYPES
                .into_iter()
                .filter(|ty| shape[0].is_multiple_of(ty.block_size()))
            {
                products.push(Product::new(ty, shape, &backend)?);
            }
        }
        Ok(Self {
            backend,
            workspace,
            products,
        })
    }

    /// Times each product: GFLOP per second.
    ///
    /// # Errors
    /// ggml failed.
    pub fn measure(&mut self, times: &mut Times) -> Result<()> {
        for product in &self.products {
            let mut best = f64::INFINITY;
            for _ in 0..REPEATS {
                let graph = Graph::new(8)?;
                let weight = graph.load(&product.storage, product.weight)?;
                let input = graph.load(&product.storage, product.input)?;
                graph.expand(graph.mul_mat(weight, input)?)?;
                let started = Instant::now();
                self.workspace.compute(&mut self.backend, &graph)?;
                best = best.min(started.elapsed().as_secs_f64());
            }
            times.add(&product.name, product.flop / best / 1e9);
        }
        Ok(())
    }

    /// The rate of each type on the shape that suits it best, GFLOP per second.
    pub fn by_type(&self, times: &Times) -> BTreeMap<&'static str, f64> {
        let mut rates = BTreeMap::new();
        for product in &self.products {
            let rate = times.median(&product.name).unwrap_or(0.0);
            let best: &mut f64 = rates.entry(product.ty.name()).or_insert(0.0);
            *best = best.max(rate);
        }
        rates
    }
}

impl Product {
    fn new(ty: GgmlType, [n_in, n_out]: [usize; 2], backend: &Backend) -> Result<Self> {
        let mut builder = StorageBuilder::new();
        let weight = builder.add(ty, &[n_in, n_out]);
        let input = builder.add(GgmlType::F32, &[n_in, UBATCH]);
        let mut storage = builder.build(backend)?;
        let mut rng = Rng::new(0);
        let mut values = |n| {
            (0..n)
                .map(|_| rng.uniform_in(-1.0, 1.0) as f32)
                .collect::<Vec<f32>>()
        };
        storage.write(weight, &quantize(ty, &values(n_in * n_out), n_in)?)?;
        storage.write(input, &values(n_in * UBATCH))?;
        Ok(Self {
            name: format!("mul_mat {} {n_in}x{n_out}", ty.name()),
            ty,
            flop: 2.0 * (n_in * n_out * UBATCH) as f64,
            storage,
            weight,
            input,
        })
    }
}

/// The two shapes `[n_in, n_out]` that hold most of the projections' weights.
fn commonest_shapes(model: &Model) -> Vec<[usize; 2]> {
    let mut weights = BTreeMap::new();
    for (_, part, n_in) in model.parts() {
        *weights.entry([n_in, part.n_out]).or_insert(0) += n_in * part.n_out;
    }
    let mut shapes: Vec<_> = weights.into_iter().collect();
    shapes.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    shapes.into_iter().take(2).map(|(shape, _)| shape).collect()
}
