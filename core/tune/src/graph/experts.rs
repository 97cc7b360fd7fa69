//! A feed-forward part of experts: a frozen router sends each token to a few of them, and adds up what they say by its weights.
//!
//! Where tokens go is known only after the router has run, so that a block with experts takes two graphs forward: attention with the
//! router, then the experts. Going back, one graph does, for the choice is not differentiated, only the weights are.

use std::ops::Range;
use std::sync::Arc;

use thumbprint_ggml::ggml::{Graph, Storage, Tensor, TensorId};

use super::builder::Builder;
use super::fragments::{Fragments, Result};
use super::scratch::Scratch;
use crate::model::{Activation, ExpertWeights};

/// Where the tokens of a ubatch go in one block. A *row* is a token in an expert; rows are ordered by expert.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    /// Experts that a token goes to.
    n_used: usize,
    /// The token of each row.
    tokens: Vec<usize>,
    /// The weight of each row; those of a token add up to 1.
    weights: Vec<f32>,
    /// The rows of each token, `n_used` at a time.
    rows: Vec<usize>,
    /// The rows of each token's experts, the expert of each.
    experts: Vec<(usize, Range<usize>)>,
}

impl Routes {
    /// From the router's logits, `n_expert` a token: the `n_used` largest of each, weighted by their softmax.
    pub fn new(logits: &[f32], n_expert: usize, n_used: usize) -> Self {
        // Expert, token, weight, place among the token's choices.
        let mut chosen = Vec::with_capacity(logits.len() / n_expert * n_used);
        for (token, logits) in logits.chunks_exact(n_expert).enumerate() {
            let mut order: Vec<usize> = (0..n_expert).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            order.truncate(n_used);
            let max = logits[order[0]];
            let parts: Vec<f32> = order.iter().map(|e| (logits[*e] - max).exp()).collect();
            let sum: f32 = parts.iter().sum();
            for (place, (expert, part)) in order.into_iter().zip(parts).enumerate() {
                chosen.push((expert, token, part / sum, place));
            }
        }
        chosen.sort_by_key(|(expert, token, ..)| (*expert, *token));
        let mut routes = Self {
            n_used,
            tokens: Vec::with_capacity(chosen.len()),
            weights: Vec::with_capacity(chosen.len()),
            rows: vec![0; chosen.len()],
            experts: Vec::new(),
        };
        for (row, (expert, token, weight, place)) in chosen.into_iter().enumerate() {
            routes.tokens.push(token);
            routes.weights.push(weight);
            routes.rows[token * n_used + place] = row;
            match routes.experts.last_mut() {
                Some((last, rows)) if *last == expert => rows.end = row + 1,
                _ => routes.experts.push((expert, row..row + 1)),
            }
        }
        routes
    }

    fn of_token(&self, token: usize) -> &[usize] {
        &self.rows[token * self.n_used..][..self.n_used]
    }

    /// The expert of a row.
    fn expert(&self, row: usize) -> usize {
        let at = self.experts.partition_point(|(_, rows)| rows.end <= row);
        self.experts[at].0
    }
}

/// What the experts' graphs share with one another: storage for a row each, `[n_embd, n_used * max]`.
#[derive(Debug, Clone, Copy)]
pub struct ExpertMemory {
    /// The residual stream between attention and experts, `[n_embd, max]`.
    pub middle: TensorId,
    /// The router's logits, `[n_expert, max]`.
    pub logits: TensorId,
    /// What the experts say.
    pub results: TensorId,
    /// Gradients of what the experts are asked.
    pub gradients: TensorId,
}

/// Builds the experts of one block into a graph.
pub struct Experts<'g, 'a> {
    pub graph: &'g Graph<'a>,
    pub b: Builder<'g, 'a>,
    /// The model's storage.
    pub model: &'a Storage,
    pub weights: &'a ExpertWeights,
    pub activation: Activation,
    /// Where `memory` lies.
    pub storage: &'a Storage,
    pub memory: ExpertMemory,
    pub routes: Arc<Routes>,
    /// Factor on what the experts add.
    pub scale: f32,
}

impl<'g, 'a: 'g> Experts<'g, 'a> {
    /// `residual` plus what the experts make of `h`, both `[n_embd, n]`.
    pub fn forward(&self, h: Tensor<'g>, residual: Tensor<'g>) -> Result<Tensor<'g>> {
        let asked = self.gather(h)?;
        for (expert, rows) in &self.routes.experts {
            let (b, x) = (self.at(rows), self.rows(asked, rows)?);
            let gate_up = b.project(&self.gate_up(*expert)?.into(), x)?;
            let said = b.project(
                &[self.down(*expert)?].into(),
                b.activation(self.activation, gate_up)?,
            )?;
            self.graph
                .store(said, self.stored(self.memory.results, rows)?)?;
        }
        let results = self.graph.load(self.storage, self.memory.results)?;
        let (routes, scale) = (self.routes.clone(), self.scale);
        self.b.rows(
            "experts_sum",
            h.ne()[0],
            &[results, residual],
            move |token, args, y| {
                y.copy_from_slice(args.f32(1).row(token));
                for row in routes.of_token(token) {
                    let weight = scale * routes.weights[*row];
                    let said = args.f32(0).row(*row);
                    y.iter_mut().zip(said).for_each(|(y, x)| *y += weight * x);
                }
            },
        )
    }

    /// The gradient of `h` in [`forward`](Self::forward), given that of its result.
    pub fn backward(&self, h: Tensor<'g>, dy: Tensor<'g>) -> Result<Tensor<'g>> {
        let asked = self.gather(h)?;
        let (routes, scale) = (self.routes.clone(), self.scale);
        let n_embd = h.ne()[0];
        let whole = 0..self.routes.tokens.len();
        let d_said =
            self.at(&whole)
                .rows("experts_spread", n_embd, &[dy], move |row, args, d| {
                    let weight = scale * routes.weights[row];
                    let dy = args.f32(0).row(routes.tokens[row]);
                    d.iter_mut().zip(dy).for_each(|(d, dy)| *d = weight * dy);
                })?;
        for (expert, rows) in &self.routes.experts {
            let (b, x, d_said) = (
                self.at(rows),
                self.rows(asked, rows)?,
                self.rows(d_said, rows)?,
            );
            let (gate_up, down) = (self.gate_up(*expert)?, self.down(*expert)?);
            let hidden = b.project(&gate_up.into(), x)?;
            let said = b.project(&[down].into(), b.activation(self.activation, hidden)?)?;
            self.graph
                .store(said, self.stored(self.memory.results, rows)?)?;
            let d_act = b.project_backward(&[down].into(), d_said)?;
            let d_hidden = b.activation_backward(self.activation, hidden, d_act)?;
            let dx = b.project_backward(&gate_up.into(), d_hidden)?;
            self.graph
                .store(dx, self.stored(self.memory.gradients, rows)?)?;
        }

        let results = self.graph.load(self.storage, self.memory.results)?;
        let router = self.graph.load(self.model, self.weights.router)?;
        let routes = self.routes.clone();
        // A softmax over the chosen: each weight's gradient, less their weighted mean.
        let n_expert = router.ne()[1];
        let d_logits = self.b.rows(
            "router_gradient",
            n_expert,
            &[results, dy],
            move |token, args, d| {
                d.fill(0.0);
                let dy = args.f32(1).row(token);
                let rows = routes.of_token(token);
                let slope = |row: &usize| {
                    let said = args.f32(0).row(*row);
                    scale * said.iter().zip(dy).map(|(x, dy)| x * dy).sum::<f32>()
                };
                let slopes: Vec<f32> = rows.iter().map(slope).collect();
                let weight = |row: &usize| routes.weights[*row];
                let mean: f32 = rows
                    .iter()
                    .zip(&slopes)
                    .map(|(row, s)| weight(row) * s)
                    .sum();
                for (row, slope) in rows.iter().zip(&slopes) {
                    d[routes.expert(*row)] = weight(row) * (slope - mean);
                }
            },
        )?;
        let by_router = exact(&self.b).project_backward(&[router].into(), d_logits)?;
        let gradients = self.graph.load(self.storage, self.memory.gradients)?;
        let routes = self.routes.clone();
        self.b.rows(
            "experts_gradient",
            n_embd,
            &[gradients, by_router],
            move |token, args, d| {
                d.copy_from_slice(args.f32(1).row(token));
                for row in routes.of_token(token) {
                    let dx = args.f32(0).row(*row);
                    d.iter_mut().zip(dx).for_each(|(d, dx)| *d += dx);
                }
            },
        )
    }

    /// A row of `h` for each row of the routes.
    fn gather(&self, h: Tensor<'g>) -> Result<Tensor<'g>> {
        let (routes, whole) = (self.routes.clone(), 0..self.routes.tokens.len());
        self.at(&whole)
            .rows("experts_gather", h.ne()[0], &[h], move |row, args, to| {
                to.copy_from_slice(args.f32(0).row(routes.tokens[row]));
            })
    }

    fn at(&self, rows: &Range<usize>) -> Builder<'g, 'a> {
        Builder {
            n_tokens: rows.len(),
            ..self.b
        }
    }

    fn rows(&self, tensor: Tensor<'g>, rows: &Range<usize>) -> Result<Tensor<'g>> {
        self.graph.rows(tensor, rows.start, rows.len())
    }

    fn stored(&self, id: TensorId, rows: &Range<usize>) -> Result<Tensor<'g>> {
        self.rows(self.graph.load(self.storage, id)?, rows)
    }

    fn gate_up(&self, expert: usize) -> Result<[Tensor<'g>; 2]> {
        Ok([
            self.slice(self.weights.gate, expert)?,
            self.slice(self.weights.up, expert)?,
        ])
    }

    fn down(&self, expert: usize) -> Result<Tensor<'g>> {
        self.slice(self.weights.down, expert)
    }

    /// One expert's matrix out of those of all, `[n_in, n_out, n_expert]`.
    fn slice(&self, id: TensorId, expert: usize) -> Result<Tensor<'g>> {
        let all = self.graph.load(self.model, id)?;
        let (ne, nb) = (all.ne(), all.nb());
        let strides = [nb[1], nb[2], nb[2]];
        self.graph
            .view(all, [ne[0], ne[1], 1, 1], strides, expert * nb[2])
    }
}

/// Products in F32: a choice between experts that are about as good must not depend on rounding.
pub fn exact<'g, 'a>(b: &Builder<'g, 'a>) -> Builder<'g, 'a> {
    Builder {
        scratch: Scratch::Rows(thumbprint_ggml::GgmlType::F32),
        ..*b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_their_best_experts_and_rows_are_ordered_by_expert() {
        let ln = |x: f32| x.ln();
        let logits = [
            [ln(1.0), ln(3.0), ln(0.5)], // experts 1, 0
            [ln(2.0), ln(0.1), ln(6.0)], // experts 2, 0
        ];
        let routes = Routes::new(logits.as_flattened(), 3, 2);
        assert_eq!(routes.tokens, [0, 1, 0, 1]);
        assert_eq!(routes.experts, [(0, 0..2), (1, 2..3), (2, 3..4)]);
        assert_eq!(routes.rows, [2, 0, 3, 1]);
        for (weight, expected) in routes.weights.iter().zip([0.25, 0.25, 0.75, 0.75]) {
            assert!((weight - expected).abs() < 1e-6);
        }
        let experts: Vec<_> = (0..4).map(|row| routes.expert(row)).collect();
        assert_eq!(experts, [0, 0, 1, 2]);
    }
}
