//! Generation: llama.cpp's own loop, and the engine around it.

use std::sync::Arc;
use std::time::Instant;

use thumbprint::engine::{
    AdapterSource, Chat, Completed, Engine, EngineOptions, GenerateOptions, LoadedAdapter,
    ModelSource, Prompt, Request, With,
};
use thumbprint::types::Sampling;
use thumbprint_ggml::llama::{
    Batch, Context, ContextParams, Model, Products, Sampler, SamplingParams, Token,
};

use super::Times;
use super::batch::{BenchBatch, UBATCH};
use crate::error::Result;

/// Tokens generated: llama-bench's tg64.
const GENERATED: usize = 64;

/// Both loops over one loaded model.
pub struct Inference {
    bare: Bare,
    engine: Engine,
    adapter: LoadedAdapter,
    text: Vec<Token>,
    prompt: Vec<Token>,
    n_vocab: usize,
}

impl Inference {
    /// # Errors
    /// A context cannot be made, or the adapter not be loaded.
    pub fn new(chat: Chat, batch: &BenchBatch, adapter: Vec<u8>, n_threads: usize) -> Result<Self> {
        let model = Arc::clone(chat.model());
        let n_threads = n_threads as u32;
        let n_ctx = 2 * UBATCH as u32;
        let options = EngineOptions {
            n_ctx: Some(n_ctx),
            n_threads: Some(n_threads),
            ..EngineOptions::default()
        };
        let engine = Engine::start(
            ModelSource::Loaded(Arc::clone(&model)),
            &options,
            &mut |_| std::ops::ControlFlow::Continue(()),
        )?;
        let adapter = engine.load_adapter(AdapterSource::Bytes(adapter), "bench", 1.0)?;
        Ok(Self {
            bare: Bare::new(&model, n_ctx, n_threads)?,
            engine,
            adapter,
            text: batch.packed().tokens,
            prompt: batch.prompt().to_vec(),
            n_vocab: model.n_vocab(),
        })
    }

    /// The model in words.
    pub fn description(&self) -> String {
        self.engine.info().description.clone()
    }

    /// Times both loops, reading 512 tokens and writing 64, and a swap of adapters.
    ///
    /// # Errors
    /// A computation failed.
    pub fn measure(&mut self, round: u32, times: &mut Times) -> Result<()> {
        // Another beginning each round: the engine would find the text in its cache.
        self.text[0] = (round as usize * 31 % self.n_vocab) as Token;
        // Who goes first changes from round to round.
        for turn in 0..2 {
            if (round + turn).is_multiple_of(2) {
                times.add("bare pp", self.bare.read(&self.text)?);
                if let Some(rate) = self.bare.write(&self.prompt)? {
                    times.add("bare tg", rate);
                }
            } else {
                times.add(
                    "engine pp",
                    f64::from(self.engine_run(&self.text, 1)?.usage.first_token_ms) / 1000.0,
                );
                let written = self.engine_run(&self.prompt, GENERATED as u32)?;
                if written.tokens.len() > 1 {
                    times.add("engine tg", f64::from(written.tokens_per_second()));
                }
            }
        }
        self.swap(Some(self.adapter.clone()), times)?;
        self.swap(None, times)
    }

    fn swap(&self, adapter: Option<LoadedAdapter>, times: &mut Times) -> Result<()> {
        let started = Instant::now();
        self.engine.set_adapter(adapter)?;
        self.engine_run(&self.prompt[..1], 1)?;
        times.add("swap", started.elapsed().as_secs_f64());
        Ok(())
    }

    fn engine_run(&self, prompt: &[Token], max_tokens: u32) -> Result<Completed> {
        let options = GenerateOptions {
            max_tokens,
            sampling: Sampling::greedy(),
            ..GenerateOptions::default()
        };
        let request = Request {
            prompt: Prompt::Tokens(prompt.to_vec()),
            options,
            with: With::Active,
        };
        Ok(self.engine.generate(&request)?.wait()?)
    }
}

/// What one would write over llama.cpp by hand.
pub struct Bare {
    context: Context,
    sampler: Sampler,
}

impl Bare {
    /// # Errors
    /// The context cannot be made.
    pub fn new(model: &Arc<Model>, n_ctx: u32, n_threads: u32) -> Result<Self> {
        let ubatch = UBATCH as u32;
        let params = ContextParams {
            n_ctx,
            n_batch: ubatch,
            n_ubatch: ubatch,
            n_threads,
            products: Products::Stock,
            ..ContextParams::default()
        };
        Ok(Self {
            context: Context::new(model, &params)?,
            sampler: Sampler::new(model, &SamplingParams::greedy())?,
        })
    }

    /// Seconds to read a text from nothing and choose the token after it.
    ///
    /// # Errors
    /// A computation failed.
    pub fn read(&mut self, text: &[Token]) -> Result<f64> {
        let started = Instant::now();
        self.context.kv_clear();
        self.decode(text, 0)?;
        self.sampler.sample(&mut self.context, text.len() - 1)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Tokens per second after the first one. As the engine, it ends where the model does.
    fn write(&mut self, prompt: &[Token]) -> Result<Option<f64>> {
        self.context.kv_clear();
        self.decode(prompt, 0)?;
        let mut token = self.sampler.sample(&mut self.context, prompt.len() - 1)?;
        let started = Instant::now();
        let mut n = 0;
        while n + 1 < GENERATED && !self.context.model().is_eog(token) {
            self.decode(&[token], prompt.len() + n)?;
            token = self.sampler.sample(&mut self.context, 0)?;
            n += 1;
        }
        Ok((n > 0).then(|| n as f64 / started.elapsed().as_secs_f64()))
    }

    /// Logits for the last token, as llama-bench.
    fn decode(&mut self, tokens: &[Token], position: usize) -> Result<()> {
        let mut batch = Batch::new();
        for (i, &token) in tokens.iter().enumerate() {
            batch.push(token, (position + i) as i32, 0, i + 1 == tokens.len());
        }
        Ok(self.context.decode(&batch, None)?)
    }
}
