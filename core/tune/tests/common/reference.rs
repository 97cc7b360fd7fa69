//! A forward pass in double precision, as plainly as it can be written: one sequence at a time, no packing, no tiles, the
//! adapter merged into the weights. It shares no code with the trainer but the reading of GGUF files.

use std::collections::HashMap;
use std::path::Path;

use thumbprint_ggml::ggml::quant::dequantize;
use thumbprint_ggml::gguf::Gguf;
use thumbprint_tune::adapter::Lora;

use super::Examples;

pub struct Reference {
    tensors: HashMap<String, Vec<f64>>,
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_rot: usize,
    freq_base: f64,
    freq_scale: f64,
    eps: f64,
    architecture: String,
    embedding_scale: f64,
    attention_scale: f64,
    residual_scale: f64,
    logit_scale: f64,
}

impl Reference {
    pub fn open(path: &Path) -> Self {
        let gguf = Gguf::open(path).unwrap();
        let architecture = gguf.architecture().unwrap().to_owned();
        let key = |name: &str| format!("{architecture}.{name}");
        let count = |name: &str| gguf.u32(&key(name)).unwrap() as usize;
        let float = |name: &str, default| f64::from(gguf.f32_or(&key(name), default).unwrap());
        let (n_embd, n_head) = (count("embedding_length"), count("attention.head_count"));
        let head_dim = gguf.u32_or(&key("attention.key_length"), (n_embd / n_head) as u32);
        let head_dim = head_dim.unwrap() as usize;
        let freq_factor = ["rope.scaling.factor", "rope.scale_linear"].map(|name| float(name, 1.0));
        let tensors = gguf.tensors().iter().map(|tensor| {
            let values = dequantize(tensor.ty, gguf.data(tensor), tensor.n_elements()).unwrap();
            (
                tensor.name.clone(),
                values.into_iter().map(f64::from).collect(),
            )
        });
        Self {
            tensors: tensors.collect(),
            n_layer: count("block_count"),
            n_embd,
            n_head,
            n_head_kv: count("attention.head_count_kv"),
            head_dim,
            n_rot: count("rope.dimension_count"),
            freq_base: float("rope.freq_base", 10_000.0),
            freq_scale: 1.0 / (freq_factor[0] * freq_factor[1]),
            eps: float("attention.layer_norm_rms_epsilon", f32::NAN),
            embedding_scale: float("embedding_scale", 1.0),
            attention_scale: float("attention.scale", 1.0 / (head_dim as f32).sqrt()),
            residual_scale: float("residual_scale", 1.0),
            logit_scale: float("logit_scale", 1.0),
            architecture,
        }
    }

    /// The model with `scale B A` added to the weights of `lora`'s layout, for parameters `values`.
    pub fn merged(&self, lora: &Lora, values: &[f64]) -> Merged<'_> {
        let mut merged = Merged {
            model: self,
            changed: HashMap::new(),
        };
        for index in 0..lora.tensors.len() {
            merged.merge(lora, values, index);
        }
        merged
    }

    /// The model itself.
    pub fn plain(&self) -> Merged<'_> {
        Merged {
            model: self,
            changed: HashMap::new(),
        }
    }
}

/// A model some of whose weights are replaced.
pub struct Merged<'a> {
    model: &'a Reference,
    changed: HashMap<String, Vec<f64>>,
}

impl Merged<'_> {
    /// Computes the weight anew that tensor `index` of the adapter changes.
    pub fn merge(&mut self, lora: &Lora, values: &[f64], index: usize) {
        let tensor = &lora.tensors[index];
        let (rank, n_in) = (lora.config.rank, tensor.n_in);
        let scale = f64::from(lora.config.alpha) / rank as f64;
        let (a, b) = (&values[tensor.a.clone()], &values[tensor.b.clone()]);
        let mut weight = self.model.tensors[&tensor.base].clone();
        for (row, weight) in weight.chunks_exact_mut(n_in).enumerate() {
            for r in 0..rank {
                let factor = scale * b[row * rank + r];
                for (w, a) in weight.iter_mut().zip(&a[r * n_in..]) {
                    *w += factor * a;
                }
            }
        }
        self.changed.insert(tensor.base.clone(), weight);
    }

    /// Log-probabilities of each completion's tokens given all before them, nats.
    pub fn logps(&self, examples: &Examples) -> Vec<Vec<f64>> {
        examples
            .sequences()
            .map(|(prompt, completion)| {
                let logits = self.logits(prompt, completion);
                let rows = logits.iter().zip(completion);
                rows.map(|(logits, &label)| log_softmax(logits, label as usize))
                    .collect()
            })
            .collect()
    }

    /// The logits that predict each token of the completion.
    pub fn logits(&self, prompt: &[i32], completion: &[i32]) -> Vec<Vec<f64>> {
        let tokens = [prompt, &completion[..completion.len() - 1]].concat();
        let n_embd = self.model.n_embd;
        let embedding = self.weight("token_embd.weight");
        let mut x: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&token| {
                let row = &embedding[token as usize * n_embd..][..n_embd];
                row.iter().map(|x| x * self.model.embedding_scale).collect()
            })
            .collect();
        for layer in 0..self.model.n_layer {
            self.layer(layer, &mut x);
        }
        let head = self.tensor("output.weight").unwrap_or(embedding);
        x[prompt.len() - 1..]
            .iter()
            .map(|x| {
                let logits = multiply(head, &self.norm("output_norm", x));
                logits.iter().map(|x| x / self.model.logit_scale).collect()
            })
            .collect()
    }

    fn layer(&self, layer: usize, x: &mut [Vec<f64>]) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (d, group) = (
            self.model.head_dim,
            self.model.n_head / self.model.n_head_kv,
        );
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for (position, x) in x.iter_mut().enumerate() {
            let h = self.norm(&name("attn_norm"), x);
            let mut q = self.linear(&name("attn_q"), &h);
            let mut k = self.linear(&name("attn_k"), &h);
            if self.model.architecture != "smollm3" || layer % 4 != 3 {
                q.chunks_exact_mut(d)
                    .for_each(|head| self.rotate(head, position));
                k.chunks_exact_mut(d)
                    .for_each(|head| self.rotate(head, position));
            }
            keys.push(k);
            values.push(self.linear(&name("attn_v"), &h));
            let mut attention = vec![0.0; q.len()];
            for head in 0..self.model.n_head {
                let kv = head / group * d..(head / group + 1) * d;
                let q = &q[head * d..(head + 1) * d];
                let scores = keys
                    .iter()
                    .map(|k| dot(q, &k[kv.clone()]) * self.model.attention_scale);
                let scores: Vec<f64> = scores.collect();
                let out = &mut attention[head * d..(head + 1) * d];
                for (key, value) in values.iter().enumerate() {
                    let p = log_softmax(&scores, key).exp();
                    out.iter_mut()
                        .zip(&value[kv.clone()])
                        .for_each(|(o, v)| *o += p * v);
                }
            }
            let scaled = |y: Vec<f64>| -> Vec<f64> {
                y.iter().map(|y| y * self.model.residual_scale).collect()
            };
            add(x, &scaled(self.linear(&name("attn_output"), &attention)));
            let h = self.norm(&name("ffn_norm"), x);
            let gate = self.linear(&name("ffn_gate"), &h);
            let up = self.linear(&name("ffn_up"), &h);
            let product = |(g, u): (&f64, &f64)| g / (1.0 + (-g).exp()) * u;
            let act: Vec<f64> = gate.iter().zip(&up).map(product).collect();
            add(x, &scaled(self.linear(&name("ffn_down"), &act)));
        }
    }

    fn linear(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let mut y = multiply(self.weight(&format!("{stem}.weight")), x);
        if let Some(bias) = self.tensor(&format!("{stem}.bias")) {
            add(&mut y, bias);
        }
        y
    }

    fn norm(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.weight(&format!("{stem}.weight"));
        let scale = 1.0 / (dot(x, x) / x.len() as f64 + self.model.eps).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    /// Rotates pairs of dimensions: neighbours, or with `qwen2` the halves.
    fn rotate(&self, head: &mut [f64], position: usize) {
        let n_rot = self.model.n_rot;
        let factors = self.tensor("rope_freqs.weight");
        for i in 0..n_rot / 2 {
            let (first, second) = match self.model.architecture.as_str() {
                "qwen2" => (i, i + n_rot / 2),
                _ => (2 * i, 2 * i + 1),
            };
            let frequency = self.model.freq_base.powf(-2.0 * i as f64 / n_rot as f64);
            let factor = factors.map_or(1.0, |factors| factors[i]);
            let angle = position as f64 * self.model.freq_scale * frequency / factor;
            let (a, b) = (head[first], head[second]);
            head[first] = a * angle.cos() - b * angle.sin();
            head[second] = a * angle.sin() + b * angle.cos();
        }
    }

    fn weight(&self, name: &str) -> &[f64] {
        self.tensor(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
    }

    fn tensor(&self, name: &str) -> Option<&[f64]> {
        let found = self
            .changed
            .get(name)
            .or_else(|| self.model.tensors.get(name));
        found.map(Vec::as_slice)
    }
}

/// Rows of `weight` times `x`.
fn multiply(weight: &[f64], x: &[f64]) -> Vec<f64> {
    weight
        .chunks_exact(x.len())
        .map(|row| dot(row, x))
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums, so that the compiler may use vectors.
    let mut sums = [0.0; 4];
    let (a, a_rest) = a.as_chunks::<4>();
    let (b, b_rest) = b.as_chunks::<4>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..4 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

fn add(to: &mut [f64], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

fn log_softmax(logits: &[f64], label: usize) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    logits[label] - max - sum.ln()
}
