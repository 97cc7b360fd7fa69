//! A forward pass in double precision, as plainly as it can be written: one sequence at a time, no packing, no tiles, the
//! adapter merged into the weights. It shares no code with the trainer but the reading of GGUF files.

use std::collections::HashMap;
use std::path::Path;

use thumbprint_ggml::ggml::quant::dequantize;
use thumbprint_ggml::gguf::Gguf;
use thumbprint_tune::adapter::Lora;

use super::{Examples, ModelFile};

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
    attention_cap: f64,
    logit_cap: f64,
    window: usize,
    /// Whether GELU is looked up in half precision, as llama.cpp does.
    rounded_gelu: bool,
    full_every: usize,
    windowed: Option<Vec<bool>>,
    n_used: usize,
    magnitude: f64,
    yarn: Option<[f64; 3]>,
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
            eps: float("attention.layer_norm_rms_epsilon", 0.0)
                .max(float("attention.layer_norm_epsilon", 0.0)),
            embedding_scale: match architecture.starts_with("gemma") {
                true => f64::from((n_embd as f32).sqrt()),
                false => float("embedding_scale", 1.0),
            },
            attention_cap: float("attn_logit_softcapping", f32::INFINITY),
            logit_cap: float("final_logit_softcapping", f32::INFINITY),
            window: gguf
                .u32_or(&key("attention.sliding_window"), u32::MAX)
                .unwrap() as usize,
            rounded_gelu: false,
            n_used: gguf.u32_or(&key("expert_used_count"), 0).unwrap() as usize,
            full_every: gguf
                .get(&key("attention.sliding_window_pattern"))
                .map_or(6, |value| value.as_u32().unwrap_or(6)) as usize,
            windowed: gguf
                .array(&key("attention.sliding_window_pattern"))
                .ok()
                .map(|array| match array.values::<bool>() {
                    Some(values) => values.collect(),
                    None => array.values::<u32>().unwrap().map(|x| x != 0).collect(),
                }),
            magnitude: float("rope.scaling.attn_factor", 1.0),
            yarn: (gguf.str_or(&key("rope.scaling.type"), "").unwrap() == "yarn").then(|| {
                let n_ctx = count("rope.scaling.original_context_length") as f64;
                [
                    n_ctx,
                    float("rope.scaling.yarn_beta_fast", 32.0),
                    float("rope.scaling.yarn_beta_slow", 1.0),
                ]
            }),
            attention_scale: float("attention.scale", 1.0 / (head_dim as f32).sqrt()),
            residual_scale: float("residual_scale", 1.0),
            logit_scale: float("logit_scale", 1.0),
            architecture,
        }
    }

    /// The same with llama.cpp's table in place of GELU; nothing else where there is no GELU.
    pub fn with_rounded_gelu(self) -> Self {
        Self {
            rounded_gelu: true,
            ..self
        }
    }

    /// Whether the model has a GELU.
    pub fn has_gelu(&self) -> bool {
        self.architecture.starts_with("gemma")
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
                let scaled = logits.iter().map(|x| x / self.model.logit_scale);
                scaled.map(|x| cap(x, self.model.logit_cap)).collect()
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
        let windowed = match self.model.architecture.as_str() {
            _ if self.model.windowed.is_some() => self.model.windowed.as_ref().unwrap()[layer],
            "gemma2" => layer.is_multiple_of(2),
            "gemma3" => !(layer + 1).is_multiple_of(self.model.full_every),
            "olmo2" => layer % 4 != 3,
            _ => false,
        };
        let windowed = windowed && self.model.window != u32::MAX as usize;
        let window = if windowed {
            self.model.window
        } else {
            usize::MAX
        };
        for (position, x) in x.iter_mut().enumerate() {
            let h = self.norm(&name("attn_norm"), x);
            let (n_q, n_kv) = (self.model.n_head * d, self.model.n_head_kv * d);
            let (mut q, mut k, v) = match self.tensor(&name("attn_qkv.weight")) {
                Some(_) => {
                    let mut q = self.linear(&name("attn_qkv"), &h);
                    let mut k = q.split_off(n_q);
                    let v = k.split_off(n_kv);
                    (q, k, v)
                }
                None => (
                    self.linear(&name("attn_q"), &h),
                    self.linear(&name("attn_k"), &h),
                    self.linear(&name("attn_v"), &h),
                ),
            };
            q = self.norm_parts(&name("attn_q_norm"), q);
            k = self.norm_parts(&name("attn_k_norm"), k);
            if self.model.architecture != "smollm3" || layer % 4 != 3 {
                q.chunks_exact_mut(d)
                    .for_each(|head| self.rotate(head, position, windowed));
                k.chunks_exact_mut(d)
                    .for_each(|head| self.rotate(head, position, windowed));
            }
            keys.push(k);
            values.push(v);
            let first = (position + 1).saturating_sub(window);
            let mut attention = vec![0.0; q.len()];
            for head in 0..self.model.n_head {
                let kv = head / group * d..(head / group + 1) * d;
                let q = &q[head * d..(head + 1) * d];
                let scores = keys[first..].iter().map(|k| {
                    let score = dot(q, &k[kv.clone()]) * self.model.attention_scale;
                    cap(score, self.model.attention_cap)
                });
                let scores: Vec<f64> = scores.collect();
                let out = &mut attention[head * d..(head + 1) * d];
                for (key, value) in values[first..].iter().enumerate() {
                    let p = log_softmax(&scores, key).exp();
                    out.iter_mut()
                        .zip(&value[kv.clone()])
                        .for_each(|(o, v)| *o += p * v);
                }
            }
            let scaled = |y: Vec<f64>| -> Vec<f64> {
                y.iter().map(|y| y * self.model.residual_scale).collect()
            };
            let result = self.linear(&name("attn_output"), &attention);
            add(x, &scaled(self.norm(&name("post_attention_norm"), &result)));
            let h = self.norm(&name("ffn_norm"), x);
            let result = match self.tensor(&name("ffn_gate_inp.weight")) {
                Some(router) => self.experts(layer, router, &h),
                None => self.feed_forward(layer, &h),
            };
            add(x, &scaled(self.norm(&name("post_ffw_norm"), &result)));
        }
    }

    fn feed_forward(&self, layer: usize, h: &[f64]) -> Vec<f64> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let mut up = self.linear(&name("ffn_up"), h);
        let gate = match self.tensor(&name("ffn_gate.weight")) {
            Some(_) => self.linear(&name("ffn_gate"), h),
            None => {
                let gate = up.clone();
                up.drain(..gate.len() / 2);
                gate[..gate.len() / 2].to_vec()
            }
        };
        self.linear(&name("ffn_down"), &self.gated(&gate, &up))
    }

    fn experts(&self, layer: usize, router: &[f64], h: &[f64]) -> Vec<f64> {
        let logits = multiply(router, h);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(self.model.n_used);
        let best: Vec<f64> = order.iter().map(|expert| logits[*expert]).collect();
        let mut sum = vec![0.0; h.len()];
        for (place, expert) in order.into_iter().enumerate() {
            let part = |part: &str| {
                let all = self.weight(&format!("blk.{layer}.{part}.weight"));
                let n = all.len() / logits.len();
                &all[expert * n..(expert + 1) * n]
            };
            let act = self.gated(
                &multiply(part("ffn_gate_exps"), h),
                &multiply(part("ffn_up_exps"), h),
            );
            let weight = log_softmax(&best, place).exp();
            let said = multiply(part("ffn_down_exps"), &act);
            let said: Vec<f64> = said.iter().map(|x| weight * x).collect();
            add(&mut sum, &said);
        }
        sum
    }

    fn gated(&self, gate: &[f64], up: &[f64]) -> Vec<f64> {
        let gelu = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        let activation = |x: f64| match (self.model.has_gelu(), self.model.rounded_gelu) {
            (false, _) => x / (1.0 + (-x).exp()),
            (true, true) if x.abs() < 10.0 => to_half(gelu(to_half(x))),
            (true, true) => x.max(0.0),
            (true, false) => gelu(x),
        };
        let product = |(g, u): (&f64, &f64)| activation(*g) * u;
        gate.iter().zip(up).map(product).collect()
    }

    fn linear(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let mut y = multiply(self.weight(&format!("{stem}.weight")), x);
        if let Some(bias) = self.tensor(&format!("{stem}.bias")) {
            add(&mut y, bias);
        }
        y
    }

    /// `x` itself where the model has no such norm; with a bias, a layer norm.
    fn norm(&self, stem: &str, x: &[f64]) -> Vec<f64> {
        let Some(weight) = self.tensor(&format!("{stem}.weight")) else {
            return x.to_vec();
        };
        let bias = self.tensor(&format!("{stem}.bias"));
        let mean = match bias {
            Some(_) => x.iter().sum::<f64>() / x.len() as f64,
            None => 0.0,
        };
        let centred: Vec<f64> = x.iter().map(|x| x - mean).collect();
        let scale = 1.0 / (dot(&centred, &centred) / x.len() as f64 + self.model.eps).sqrt();
        let mut y: Vec<f64> = centred
            .iter()
            .zip(weight)
            .map(|(x, w)| x * scale * w)
            .collect();
        if let Some(bias) = bias {
            add(&mut y, bias);
        }
        y
    }

    /// A norm of heads: of each, or of all, as the weights are wide.
    fn norm_parts(&self, stem: &str, x: Vec<f64>) -> Vec<f64> {
        match self.tensor(&format!("{stem}.weight")) {
            Some(weight) => {
                let parts = x.chunks_exact(weight.len());
                parts.flat_map(|part| self.norm(stem, part)).collect()
            }
            None => x,
        }
    }

    /// Rotates pairs of dimensions: neighbours or halves.
    fn rotate(&self, head: &mut [f64], position: usize, windowed: bool) {
        let model = self.model;
        let n_rot = model.n_rot;
        let factors = self
            .tensor("rope_freqs.weight")
            .or_else(|| self.tensor("rope_factors_short.weight"));
        let plain = windowed && model.architecture != "gemma2";
        let base = match (plain, model.architecture.as_str()) {
            (true, "gemma3") => 10_000.0,
            _ => model.freq_base,
        };
        let scale = if plain { 1.0 } else { model.freq_scale };
        let mut magnitude = model.magnitude;
        for i in 0..n_rot / 2 {
            let (first, second) = match model.architecture.as_str() {
                "llama" | "smollm3" | "granite" => (2 * i, 2 * i + 1),
                _ => (i, i + n_rot / 2),
            };
            let frequency = base.powf(-2.0 * i as f64 / n_rot as f64);
            let factor = factors.map_or(1.0, |factors| factors[i]);
            let mut angle = position as f64 * frequency / factor;
            match model.yarn.filter(|_| !plain) {
                None => angle *= scale,
                Some([n_ctx, fast, slow]) => {
                    let pair = |turns: f64| {
                        let ratio = n_ctx / (turns * 2.0 * std::f64::consts::PI);
                        n_rot as f64 * ratio.ln() / (2.0 * base.ln())
                    };
                    let (low, high) = (pair(fast).floor().max(0.0), pair(slow).ceil());
                    let high = high.min(n_rot as f64 - 1.0);
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    angle = angle * scale * ramp + angle * (1.0 - ramp);
                    magnitude = model.magnitude * (1.0 - 0.1 * scale.ln());
                }
            }
            let (a, b) = (head[first], head[second]);
            head[first] = magnitude * (a * angle.cos() - b * angle.sin());
            head[second] = magnitude * (a * angle.sin() + b * angle.cos());
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

/// `x` rounded to half precision, below its largest number.
fn to_half(x: f64) -> f64 {
    const SMALLEST_NORMAL: i32 = -14;
    let exponent = (x.abs().log2().floor() as i32).max(SMALLEST_NORMAL);
    let step = f64::from(exponent - 10).exp2();
    (x / step).round_ties_even() * step
}

/// `x` itself where the cap is infinite.
fn cap(x: f64, cap: f64) -> f64 {
    match cap.is_finite() {
        true => cap * (x / cap).tanh(),
        false => x,
    }
}

fn log_softmax(logits: &[f64], label: usize) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    logits[label] - max - sum.ln()
}

/// What llama.cpp's logits are to be compared with, and how far they may lie from it. Ours; but llama.cpp looks GELU up in a table of
/// half precision, and ours are exact (see docs/trainable.md), so that with a GELU the comparison is with a reference that looks it up, too. What
/// lies near the edge of two entries falls to either side, so that this is less sharp.
pub fn expectation(
    file: &ModelFile,
    lora: Option<&Lora>,
    examples: &Examples,
    ours: &[f32],
) -> (Vec<f32>, f64) {
    let reference = Reference::open(&file.path).with_rounded_gelu();
    if !reference.has_gelu() {
        return (ours.to_vec(), 1e-4);
    }
    let merged = match lora {
        Some(lora) => {
            let values: Vec<f64> = lora.values.iter().map(|x| f64::from(*x)).collect();
            reference.merged(lora, &values)
        }
        None => reference.plain(),
    };
    (logits_of(&merged, examples), 6e-3)
}

pub fn logits_of(model: &Merged<'_>, examples: &Examples) -> Vec<f32> {
    let logits = |(prompt, completion)| model.logits(prompt, completion).concat();
    let all = examples.sequences().flat_map(logits);
    all.map(|x| x as f32).collect()
}
