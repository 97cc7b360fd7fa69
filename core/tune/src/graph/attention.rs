//! Attention as custom operations.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::Work;
use thumbprint_ggml::ggml::{Graph, Tensor};

use super::builder::Builder;
use super::fragments::Result;
use super::kernels::attention::Attention;
use super::kernels::element::Element;

impl<'g, 'a: 'g> Builder<'g, 'a> {
    /// The output `[n_attn, n]`, and the log-sum-exp of scores `[n_head, n]`.
    pub(super) fn attend(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        let n = self.n_tokens;
        let (n_attn, n_head) = (geometry.n_attn(), geometry.scoring().n_head);
        let work = two_outputs("attention", geometry, n, n_attn, n_head);
        let both = self.graph.custom(
            GgmlType::F32,
            [n * (n_attn + n_head), 1, 1, 1],
            &[qkv],
            work,
            Box::new(move |unit, args, out| {
                let (attn, lse) = out.pair::<f32, f32>();
                geometry.forward(unit, args.f32(0), attn, lse);
            }),
        )?;
        split(self.graph, both, n, n_attn, n_head)
    }

    /// Gradients of queries `[n_attn, n]`, and of keys and values side by side.
    pub(super) fn attend_backward<T: Element>(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
        attn: Tensor<'g>,
        lse: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        let n = self.n_tokens;
        let scoring = geometry.scoring();
        let (n_attn, n_head) = (geometry.n_attn(), scoring.n_head);
        let work = two_outputs("attention_backward_queries", geometry, n, n_attn, n_head);
        let both = self.graph.custom(
            GgmlType::F32,
            [n * (n_attn + n_head), 1, 1, 1],
            &[qkv, attn, d_attn, lse],
            work,
            Box::new(move |unit, args, out| {
                let (qkv, attn) = (args.view::<T>(0), args.view::<T>(1));
                geometry.backward_queries(unit, qkv, attn, args.f32(2), args.f32(3), out.pair());
            }),
        )?;
        let (dq, delta) = split(self.graph, both, n, n_attn, n_head)?;

        let width = 2 * scoring.n_head_kv * scoring.head_dim;
        let work = Work {
            name: "attention_backward_keys",
            n_units: geometry.n_units(),
            regions: vec![bytes(geometry.unit_offsets(width), 0)],
        };
        let dkv = self.graph.custom(
            GgmlType::F32,
            [width, n, 1, 1],
            &[qkv, d_attn, lse, delta],
            work,
            Box::new(move |unit, args, out| {
                let (d_attn, lse, delta) = (args.f32(1), args.f32(2), args.f32(3));
                geometry.backward_keys(unit, args.view::<T>(0), d_attn, lse, delta, out.region(0));
            }),
        )?;
        Ok((dq, dkv))
    }
}

/// Work of an attention operation with `[n, first]` and behind it `[n, second]` as outputs.
fn two_outputs(
    name: &'static str,
    geometry: &Attention,
    n: usize,
    first: usize,
    second: usize,
) -> Work {
    let regions = vec![
        bytes(geometry.unit_offsets(first), 0),
        bytes(geometry.unit_offsets(second), n * first),
    ];
    Work {
        name,
        n_units: geometry.n_units(),
        regions,
    }
}

fn bytes(offsets: Vec<usize>, start: usize) -> Vec<usize> {
    offsets
        .into_iter()
        .map(|n| (start + n) * size_of::<f32>())
        .collect()
}

fn split<'g>(
    graph: &'g Graph<'_>,
    both: Tensor<'g>,
    n: usize,
    first: usize,
    second: usize,
) -> Result<(Tensor<'g>, Tensor<'g>)> {
    let view = |width: usize, start: usize| {
        let row = width * size_of::<f32>();
        graph.view(
            both,
            [width, n, 1, 1],
            [row, row * n, row * n],
            start * size_of::<f32>(),
        )
    };
    Ok((view(first, 0)?, view(second, n * first)?))
}
