//! The optimizer where the adapter is: gradients are summed up and parameters updated on the device, and only numbers that steer a step
//! pass to the host.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{
    AdamW, Backend, GgmlError, Graph, Storage, StorageBuilder, TensorId, Unary,
};

use super::adapter::DeviceAdapter;
use super::network::{Network, NetworkError};
use super::runner::Runner;
use crate::optimizer::AdamWStep;

type Result<T> = std::result::Result<T, NetworkError>;

/// Tensors that the graphs here may need.
pub const GRAPH_NODES: usize = 32;

/// Values whose squares are summed up together; adapters begin their factors at multiples of it.
const ROW: usize = 64;

/// AdamW's moments, in the order of the adapter's values.
pub struct Moments {
    storage: Storage,
    first: TensorId,
    second: TensorId,
    settings: TensorId,
    /// A sum of squares.
    norm: TensorId,
}

impl Moments {
    pub fn new(n_values: usize, backend: &Backend) -> std::result::Result<Self, GgmlError> {
        let mut builder = StorageBuilder::new();
        Ok(Self {
            first: builder.add(GgmlType::F32, &[n_values.max(1)]),
            second: builder.add(GgmlType::F32, &[n_values.max(1)]),
            settings: builder.add(GgmlType::F32, &[7]),
            norm: builder.add(GgmlType::F32, &[1]),
            storage: builder.build(backend)?,
        })
    }

    pub fn n_bytes(&self) -> usize {
        self.storage.n_bytes()
    }
}

/// Of a network whose adapter is on a device.
impl Network {
    /// Whether gradients are summed up, and parameters updated, on the device.
    pub fn updates_on_device(&self) -> bool {
        self.moments.is_some()
    }

    /// Sets the summed gradient to 0.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn clear_gradient(&mut self) -> Result<()> {
        let adapter = adapter_mut(&mut self.adapter)?;
        adapter.gradients.clear();
        Ok(())
    }

    /// The 2-norm of the summed gradient, as single precision adds it up: infinite or NaN where a gradient is, or too large for it.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn gradient_norm(&mut self) -> Result<f64> {
        let adapter = adapter(&self.adapter)?;
        let of = (&adapter.gradients, adapter.gradient);
        let moments = of_device(&self.moments)?;
        norm(&mut self.runner, moments, of)
    }

    /// The same of the parameters.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn parameter_norm(&mut self) -> Result<f64> {
        let adapter = adapter(&self.adapter)?;
        let of = (&adapter.storage, adapter.values);
        let moments = of_device(&self.moments)?;
        norm(&mut self.runner, moments, of)
    }

    /// Updates the parameters with `scale` times the summed gradient.
    ///
    /// # Errors
    /// [`NetworkError`]; before anything is changed, unless the device fails at it.
    pub fn update(&mut self, step: &AdamWStep, scale: f32) -> Result<()> {
        let adapter = adapter(&self.adapter)?;
        let Some(moments) = &mut self.moments else {
            return Err(not_on_device());
        };
        let config = &step.config;
        let settings = [
            step.lr,
            config.beta1,
            config.beta2,
            config.epsilon,
            config.weight_decay,
            1.0 / step.correction1,
            1.0 / step.correction2,
        ];
        let settings = settings.map(|x| x as f32);
        moments.storage.write(moments.settings, &settings)?;
        let moments = &*moments;
        let graph = Graph::new(GRAPH_NODES)?;
        let gradient = graph.load(&adapter.gradients, adapter.gradient)?;
        let gradients = match scale {
            1.0 => gradient,
            _ => graph.scale(gradient, scale, 0.0)?,
        };
        graph.adamw(AdamW {
            parameters: graph.load(&adapter.storage, adapter.values)?,
            gradients,
            first_moment: graph.load(&moments.storage, moments.first)?,
            second_moment: graph.load(&moments.storage, moments.second)?,
            settings: graph.load(&moments.storage, moments.settings)?,
        })?;
        self.runner.compute(graph)
    }

    /// Copies the summed gradient to the host, laid out as the adapter's parameters.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn read_gradient(&self, grads: &mut [f32]) -> Result<()> {
        let adapter = adapter(&self.adapter)?;
        self.read(adapter, (&adapter.gradients, adapter.gradient), grads)
    }

    /// Copies the parameters to the host.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn read_parameters(&self, values: &mut [f32]) -> Result<()> {
        let adapter = adapter(&self.adapter)?;
        self.read(adapter, (&adapter.storage, adapter.values), values)
    }

    /// Copies AdamW's moments to the host.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn read_moments(&self, first: &mut [f32], second: &mut [f32]) -> Result<()> {
        let (adapter, moments) = (adapter(&self.adapter)?, of_device(&self.moments)?);
        self.read(adapter, (&moments.storage, moments.first), first)?;
        self.read(adapter, (&moments.storage, moments.second), second)
    }

    /// Copies AdamW's moments to the device.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn write_moments(&mut self, first: &[f32], second: &[f32]) -> Result<()> {
        let layout = &adapter(&self.adapter)?.layout;
        let Some(moments) = &mut self.moments else {
            return Err(not_on_device());
        };
        layout.write(first, (&mut moments.storage, moments.first))?;
        Ok(layout.write(second, (&mut moments.storage, moments.second))?)
    }

    fn read(
        &self,
        adapter: &DeviceAdapter,
        (storage, id): (&Storage, TensorId),
        flat: &mut [f32],
    ) -> Result<()> {
        let layout = &adapter.layout;
        let all = 0..layout.layers.len();
        Ok(layout.read(all, (storage, id, 0), flat, |to, from| *to = from)?)
    }
}

/// The 2-norm of a vector of the adapter's length.
fn norm(
    runner: &mut Runner,
    moments: &Moments,
    (storage, id): (&Storage, TensorId),
) -> Result<f64> {
    let graph = Graph::new(GRAPH_NODES)?;
    let squares = graph.unary(Unary::Square, graph.load(storage, id)?)?;
    let n_rows = squares.n_elements() / ROW;
    let sums = graph.sum_rows(graph.reshape(squares, [ROW, n_rows, 1, 1])?)?;
    let sum = graph.sum_rows(graph.reshape(sums, [n_rows, 1, 1, 1])?)?;
    graph.store(sum, graph.load(&moments.storage, moments.norm)?)?;
    runner.compute(graph)?;
    let sum = moments.storage.to_vec::<f32>(moments.norm)?;
    Ok(f64::from(sum[0]).sqrt())
}

fn adapter(adapter: &Option<DeviceAdapter>) -> Result<&DeviceAdapter> {
    adapter.as_ref().ok_or_else(not_on_device)
}

fn adapter_mut(adapter: &mut Option<DeviceAdapter>) -> Result<&mut DeviceAdapter> {
    adapter.as_mut().ok_or_else(not_on_device)
}

fn of_device(moments: &Option<Moments>) -> Result<&Moments> {
    moments.as_ref().ok_or_else(not_on_device)
}

fn not_on_device() -> NetworkError {
    NetworkError::Mismatch {
        reason: "the network has no adapter on a device".to_owned(),
    }
}
