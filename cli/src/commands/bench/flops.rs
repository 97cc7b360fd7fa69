//! The least arithmetic that a step needs, counted from shapes.

use thumbprint_tune::adapter::LoraConfig;
use thumbprint_tune::batch::Packed;
use thumbprint_tune::graph::kernels::attention::Segment;
use thumbprint_tune::model::BlockSpec;

/// Floating-point operations of a forward and backward pass over one ubatch, a multiplication and an addition counted as two. No
/// operation is counted that an implementation could leave out: the head only where a token is scored, attention only over what a
/// row sees, nothing recomputed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Frozen projections, forward and towards their inputs.
    pub linear: f64,
    /// The adapter, forward and backward.
    pub lora: f64,
    /// The head, forward and towards the hidden state.
    pub head: f64,
    /// Attention, forward and backward.
    pub attention: f64,
}

impl Work {
    /// Everything.
    pub fn total(&self) -> f64 {
        self.linear + self.lora + self.head + self.attention
    }
}

/// The work of a step over `packed`, with the default adapter on every projection.
pub fn step(spec: &BlockSpec, packed: &Packed) -> Work {
    let rows = packed.tokens.len() as f64;
    let layers = spec.n_layer as f64;
    let projections = [
        (spec.n_embd, spec.n_attn()),
        (spec.n_embd, spec.n_head_kv * spec.head_dim),
        (spec.n_embd, spec.n_head_kv * spec.head_dim),
        (spec.n_attn(), spec.n_embd),
        (spec.n_embd, spec.n_ff),
        (spec.n_embd, spec.n_ff),
        (spec.n_ff, spec.n_embd),
    ];
    let weights: usize = projections.iter().map(|(n_in, n_out)| n_in * n_out).sum();
    let lora: usize = projections
        .iter()
        .map(|(n_in, n_out)| LoraConfig::default().rank * (n_in + n_out))
        .sum();
    let seen: usize = packed.segments.iter().map(visible).sum();
    let head = spec.n_embd * spec.n_vocab * packed.targets.len();
    Work {
        linear: (2.0 + 2.0) * layers * weights as f64 * rows,
        lora: (2.0 + 4.0) * layers * lora as f64 * rows,
        head: (2.0 + 2.0) * head as f64,
        // Two products forward (scores, values), four backward.
        attention: (4.0 + 8.0) * layers * (spec.n_attn() * seen) as f64,
    }
}

/// Pairs of a row and a row that it sees.
fn visible(segment: &Segment) -> usize {
    let n = segment.tokens.len();
    n * segment.prefix.len() + n * (n + 1) / 2
}

#[cfg(test)]
mod tests {
    use thumbprint_tune::batch::Group;
    use thumbprint_tune::model::{Activation, Layout, Norm, Rope, RopeKind};

    use super::*;

    fn smollm2() -> BlockSpec {
        BlockSpec {
            architecture: "llama".to_owned(),
            n_layer: 30,
            n_embd: 576,
            n_head: 9,
            n_head_kv: 3,
            head_dim: 64,
            n_ff: 1536,
            experts: None,
            n_vocab: 49152,
            n_ctx_train: 8192,
            n_ctx_orig: 8192,
            norm: Norm::Rms { eps: 1e-5 },
            layout: Layout {
                pre_norms: true,
                post_norms: false,
                qk_norms: None,
                fused: false,
            },
            rope: Rope {
                kind: RopeKind::Interleaved,
                n_dims: 64,
                freq_base: 1e5,
                freq_scale: 1.0,
                yarn: None,
                magnitude: 1.0,
            },
            no_rope_every: None,
            window: None,
            attention_scale: 0.125,
            attention_cap: None,
            activation: Activation::SwiGlu,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
        }
    }

    // The design's own count for SmolLM2 and 512 tokens that are all scored, GFLOP: linear 108.7 forward and as much backward,
    // LoRA 2.5 + 5.0, head 29 + 29, attention 9.1 + 18.1.
    #[test]
    fn a_text_of_512_tokens_takes_310_gflop() {
        let text = [0; 513];
        let packed = Packed::new(&[Group {
            prompt: &text[..1],
            completions: &[&text[1..]],
        }]);
        let work = step(&smollm2(), &packed);
        let gflop = [work.linear, work.lora, work.head, work.attention].map(|flop| flop / 1e9);
        for (got, expected) in gflop.iter().zip([217.4, 7.5, 58.0, 27.2]) {
            assert!((got - expected).abs() < 0.1, "{gflop:?}");
        }
        assert!((work.total() / 1e9 - 310.0).abs() < 0.5, "{}", work.total());
    }

    #[test]
    fn a_completion_sees_its_prompt_and_itself() {
        let packed = Packed::new(&[Group {
            prompt: &[0; 3],
            completions: &[&[0; 3], &[0; 2]],
        }]);
        // Rows: 3 of the prompt (1 + 2 + 3), 2 (4 + 5) and 1 (4) of the completions.
        assert_eq!(packed.segments.iter().map(visible).sum::<usize>(), 19);
    }
}
