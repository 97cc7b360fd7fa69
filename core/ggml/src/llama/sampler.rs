use std::panic::resume_unwind;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::{Context, LlamaError, Model, Result, Token};

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

/// A chain of llama.cpp samplers with its own random state and memory of accepted tokens.
pub struct Sampler {
    chain: NonNull<sys::llama_sampler>,
    n_vocab: usize,
    /// The largest logit is all that counts: found here, since the chain would copy the vocabulary.
    is_argmax: bool,
    /// What the chain works on, kept from token to token.
    candidates: Vec<sys::llama_token_data>,
}

// SAFETY: a chain has no thread affinity and is only used through `&mut self`.
unsafe impl Send for Sampler {}

impl Sampler {
    /// A chain for `model`'s vocabulary.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`] names the parameter that is out of range.
    pub fn new(model: &Model, params: &SamplingParams) -> Result<Self> {
        params.check()?;
        let n_vocab = model.n_vocab();
        let penalizes = params.repeat_penalty != 1.0 && params.repeat_last_n > 0;
        // SAFETY: the parameters were checked; each `init` returns a sampler that `chain_add` takes
        // ownership of.
        unsafe {
            let mut chain_params = sys::llama_sampler_chain_default_params();
            chain_params.no_perf = true;
            let chain = sys::llama_sampler_chain_init(chain_params);
            let sampler = Self {
                chain: NonNull::new(chain).ok_or_else(|| LlamaError::Context {
                    reason: "no memory for a sampler".into(),
                })?,
                n_vocab,
                is_argmax: params.temperature == 0.0 && !penalizes,
                candidates: Vec::new(),
            };
            let add = |link| sys::llama_sampler_chain_add(chain, link);
            if penalizes {
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
                return Ok(sampler);
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
            Ok(sampler)
        }
    }

    /// Chooses a token by the logits of entry `index` of the last batch, and accepts it.
    ///
    /// # Errors
    /// [`LlamaError::NoLogits`] when that entry did not ask for them;
    /// [`LlamaError::SamplerOfAnotherModel`].
    pub fn sample(&mut self, context: &mut Context, index: usize) -> Result<Token> {
        self.choose(context.logits(index)?)
    }

    /// The same for several entries at once, each with its own sampler, on up to `n_threads` threads.
    ///
    /// # Errors
    /// As [`sample`](Self::sample); some samplers may then have accepted a token.
    pub fn sample_all(
        jobs: &mut [(&mut Self, usize)],
        context: &mut Context,
        n_threads: usize,
    ) -> Result<Vec<Token>> {
        let indices: Vec<usize> = jobs.iter().map(|(_, index)| *index).collect();
        let logits = context.logits_of(&indices)?;
        let samplers = jobs.iter_mut().map(|(sampler, _)| &mut **sampler);
        let mut jobs: Vec<(&mut Self, &[f32])> = samplers.zip(logits).collect();
        let choose = |jobs: &mut [(&mut Self, &[f32])]| -> Result<Vec<Token>> {
            jobs.iter_mut()
                .map(|(sampler, logits)| sampler.choose(logits))
                .collect()
        };
        let share = jobs.len().div_ceil(n_threads.max(1)).max(1);
        std::thread::scope(|scope| {
            let mut shares = jobs.chunks_mut(share);
            let own = shares.next();
            let others: Vec<_> = shares
                .map(|jobs| scope.spawn(move || choose(jobs)))
                .collect();
            let mut tokens = own.map_or(Ok(Vec::new()), choose)?;
            for other in others {
                tokens.extend(other.join().unwrap_or_else(|e| resume_unwind(e))?);
            }
            Ok(tokens)
        })
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Token> {
        if logits.len() != self.n_vocab {
            return Err(LlamaError::SamplerOfAnotherModel);
        }
        if self.is_argmax {
            return Ok(argmax(logits));
        }
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
            sys::llama_sampler_apply(self.chain.as_ptr(), &mut array);
            let selected = usize::try_from(array.selected).ok();
            let selected = selected.filter(|selected| *selected < array.size);
            let token = (*array.data.add(selected.ok_or(LlamaError::NothingToChoose)?)).id;
            sys::llama_sampler_accept(self.chain.as_ptr(), token);
            Ok(token)
        }
    }

    /// Counts a token as said, for the repetition penalty.
    pub fn accept(&mut self, token: Token) {
        if token >= 0 && (token as usize) < self.n_vocab {
            // SAFETY: the id is in range.
            unsafe { sys::llama_sampler_accept(self.chain.as_ptr(), token) }
        }
    }

    /// Forgets accepted tokens and restarts the random state from the seed.
    pub fn reset(&mut self) {
        // SAFETY: a live chain.
        unsafe { sys::llama_sampler_reset(self.chain.as_ptr()) }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: freed once; the chain frees its links.
        unsafe { sys::llama_sampler_free(self.chain.as_ptr()) }
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}

/// The index of the largest value, the first of several. NaN never is. The maximum is found in
/// lanes, which compilers turn into vector instructions.
fn argmax(logits: &[f32]) -> Token {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let largest = lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, larger);
    logits.iter().position(|&x| x == largest).unwrap_or(0) as Token
}

impl SamplingParams {
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
    use super::argmax;

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
}
