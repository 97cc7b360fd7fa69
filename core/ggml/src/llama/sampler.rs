use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::draw::Draw;
use super::{Context, LlamaError, Model, Result, Token};
use crate::math;

/// How the next token is chosen from the logits. Applied in this order: repetition penalty, top-k,
/// top-p, min-p, temperature, draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token (then `top_k`, `top_p`, `min_p` and `seed`
    /// have no effect).
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities sum to this; 1 keeps all. Holtzman et
    /// al. 2020.
    pub top_p: f32,
    /// Drop tokens less likely than this times the likeliest; 0 drops none. Nguyen et al. 2024.
    pub min_p: f32,
    /// Divides (or multiplies, where negative) the logits of recent tokens; 1 is off. Keskar et al.
    /// 2019.
    pub repeat_penalty: f32,
    /// How many accepted tokens count as recent; 0 turns the penalty off.
    pub repeat_last_n: u32,
    /// Of the draw. The same seed and logits give the same tokens. (`u32::MAX` is taken as one
    /// less: llama.cpp reads it as "random".)
    pub seed: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// The likeliest token each time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }
}

/// Chooses tokens one after another, with its own random state and memory of accepted tokens.
#[derive(Debug)]
pub struct Sampler {
    n_vocab: usize,
    choice: Choice,
}

/// How a token is chosen. The first two give what a chain would, without copying the vocabulary.
#[derive(Debug)]
enum Choice {
    /// The largest logit is all that counts.
    Argmax,
    /// Nothing but the temperature changes the distribution.
    Draw(Box<Draw>),
    Chain(Chain),
}

/// A chain of llama.cpp samplers.
struct Chain {
    raw: NonNull<sys::llama_sampler>,
    /// What the chain works on, kept from token to token.
    candidates: Vec<sys::llama_token_data>,
}

// SAFETY: a chain has no thread affinity and is only used through `&mut self`.
unsafe impl Send for Chain {}

impl Sampler {
    /// A sampler for `model`'s vocabulary.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`] names the parameter that is out of range.
    pub fn new(model: &Model, params: &SamplingParams) -> Result<Self> {
        params.check()?;
        let n_vocab = model.n_vocab();
        let choice = if params.penalizes() || params.filters() {
            Choice::Chain(Chain::new(n_vocab, params)?)
        } else if params.temperature == 0.0 {
            Choice::Argmax
        } else {
            Choice::Draw(Box::new(Draw::new(
                params.temperature,
                params.seed.min(u32::MAX - 1),
            )))
        };
        Ok(Self { n_vocab, choice })
    }

    /// Chooses a token by the logits of entry `index` of the last batch, and accepts it.
    ///
    /// # Errors
    /// [`LlamaError::NoLogits`] when that entry did not ask for them; [`LlamaError::NothingToChoose`] when they are not finite;
    /// [`LlamaError::SamplerOfAnotherModel`].
    pub fn sample(&mut self, context: &mut Context, index: usize) -> Result<Token> {
        self.choose(context.logits(index)?)
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Token> {
        if logits.len() != self.n_vocab {
            return Err(LlamaError::SamplerOfAnotherModel);
        }
        match &mut self.choice {
            Choice::Argmax => Ok(argmax(logits)),
            Choice::Draw(draw) => draw.choose(logits),
            Choice::Chain(chain) => chain.choose(logits),
        }
    }

    /// Counts a token as said, for the repetition penalty.
    pub fn accept(&mut self, token: Token) {
        if let Choice::Chain(chain) = &mut self.choice
            && usize::try_from(token).is_ok_and(|token| token < self.n_vocab)
        {
            // SAFETY: a live chain, and the id is in range.
            unsafe { sys::llama_sampler_accept(chain.raw.as_ptr(), token) }
        }
    }

    /// Forgets accepted tokens and restarts the random state from the seed.
    pub fn reset(&mut self) {
        match &mut self.choice {
            Choice::Argmax => {}
            Choice::Draw(draw) => draw.reset(),
            // SAFETY: a live chain.
            Choice::Chain(chain) => unsafe { sys::llama_sampler_reset(chain.raw.as_ptr()) },
        }
    }
}

impl Chain {
    /// For parameters that were checked.
    fn new(n_vocab: usize, params: &SamplingParams) -> Result<Self> {
        // SAFETY: the parameters were checked; each `init` returns a sampler that `chain_add` takes
        // ownership of.
        unsafe {
            let mut chain_params = sys::llama_sampler_chain_default_params();
            chain_params.no_perf = true;
            let raw = sys::llama_sampler_chain_init(chain_params);
            let chain = Self {
                raw: NonNull::new(raw).ok_or_else(|| LlamaError::Context {
                    reason: "no memory for a sampler".into(),
                })?,
                candidates: Vec::new(),
            };
            let add = |link| sys::llama_sampler_chain_add(raw, link);
            if params.penalizes() {
                let last_n = params.repeat_last_n.min(1 << 20) as i32;
                add(sys::llama_sampler_init_penalties(
                    n_vocab as i32,
                    last_n,
                    params.repeat_penalty,
                    0.0,
                    0.0,
                ));
            }
            if params.temperature == 0.0 {
                add(sys::llama_sampler_init_greedy());
                return Ok(chain);
            }
            if params.top_k > 0 {
                add(sys::llama_sampler_init_top_k(
                    params.top_k.min(n_vocab as u32) as i32,
                ));
            }
            if params.top_p < 1.0 {
                add(sys::llama_sampler_init_top_p(params.top_p, 1));
            }
            if params.min_p > 0.0 {
                add(sys::llama_sampler_init_min_p(params.min_p, 1));
            }
            add(sys::llama_sampler_init_temp(params.temperature));
            add(sys::llama_sampler_init_dist(params.seed.min(u32::MAX - 1)));
            Ok(chain)
        }
    }

    /// `logits` are as many as the chain was made for.
    fn choose(&mut self, logits: &[f32]) -> Result<Token> {
        let candidate = |(id, logit): (usize, &f32)| sys::llama_token_data {
            id: id as Token,
            logit: *logit,
            p: 0.0,
        };
        self.candidates.clear();
        self.candidates
            .extend(logits.iter().enumerate().map(candidate));
        let mut array = sys::llama_token_data_array {
            data: self.candidates.as_mut_ptr(),
            size: self.candidates.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the array describes the candidates, and the chain is of a vocabulary of this size. It may reorder and shorten
        // them, and says which of those left it selected.
        unsafe {
            sys::llama_sampler_apply(self.raw.as_ptr(), &mut array);
            let selected = usize::try_from(array.selected).ok();
            let selected = selected.filter(|selected| *selected < array.size);
            let token = (*array.data.add(selected.ok_or(LlamaError::NothingToChoose)?)).id;
            sys::llama_sampler_accept(self.raw.as_ptr(), token);
            Ok(token)
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // SAFETY: freed once; the chain frees its links.
        unsafe { sys::llama_sampler_free(self.raw.as_ptr()) }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").finish_non_exhaustive()
    }
}

/// The index of the largest value, the first of several. NaN never is.
fn argmax(logits: &[f32]) -> Token {
    let largest = math::max(logits);
    logits.iter().position(|&x| x == largest).unwrap_or(0) as Token
}

impl SamplingParams {
    /// Whether what was said changes what is said next.
    fn penalizes(&self) -> bool {
        self.repeat_penalty != 1.0 && self.repeat_last_n > 0
    }

    /// Whether some tokens can never be drawn.
    fn filters(&self) -> bool {
        self.temperature > 0.0 && (self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0)
    }

    /// Whether every parameter is in its range.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`] names the first that is not.
    pub fn check(&self) -> Result<()> {
        let ranges: [(&'static str, f32, bool, &'static str); 4] = [
            (
                "temperature",
                self.temperature,
                (0.0..=100.0).contains(&self.temperature),
                "0 to 100",
            ),
            (
                "top_p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "above 0, at most 1",
            ),
            (
                "min_p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "0 to 1",
            ),
            (
                "repeat_penalty",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0,
                "above 0, at most 100",
            ),
        ];
        match ranges.into_iter().find(|&(_, _, ok, _)| !ok) {
            None => Ok(()),
            Some((name, value, _, expected)) => Err(LlamaError::Sampling {
                name,
                value: f64::from(value),
                expected,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::math::tests::numbers;

    #[test]
    fn argmax_is_the_first_of_the_largest_wherever_it_is() {
        for n in [1, 15, 16, 17, 40] {
            for at in 0..n {
                let mut logits: Vec<f32> = (0..n).map(|i| -1.0 - i as f32).collect();
                logits[at] = 2.0;
                logits[n - 1] = 2.0;
                assert_eq!(argmax(&logits), at as i32);
            }
        }
        assert_eq!(argmax(&[f32::NAN, 1.0, 3.0, f32::NAN]), 2);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
    }

    #[test]
    fn draws_are_those_of_llama_cpps_chain() {
        for (temperature, n_vocab) in [(0.3, 700), (0.7, 1000), (1.0, 49_152), (1.7, 511)] {
            let params = SamplingParams {
                temperature,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                seed: 42,
                ..SamplingParams::default()
            };
            let mut chain = Chain::new(n_vocab, &params).unwrap();
            let mut draw = Draw::new(temperature, params.seed);
            let mut seen = std::collections::HashSet::new();
            for step in 0..200 {
                let logits = numbers(n_vocab, step, 10.0);
                let token = draw.choose(&logits).unwrap();
                assert_eq!(
                    token,
                    chain.choose(&logits).unwrap(),
                    "{temperature}, draw {step}"
                );
                seen.insert(token);
            }
            assert!(
                seen.len() > 100,
                "{} different tokens in 200 draws",
                seen.len()
            );
        }
    }
}
