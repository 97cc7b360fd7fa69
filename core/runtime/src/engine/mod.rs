//! The engine: a model, ready to tokenize, generate and score. One thread owns the context and the
//! adapter in force, and takes typed commands; a user's generations come before background work,
//! and interrupt it.
//!
//! It knows nothing of the store, of feedback or of training.

mod adapter;
mod batch;
mod chat;
mod embed;
mod error;
mod load;
mod queue;
mod reply;
mod request;
mod score;
mod stream;
mod template;
mod worker;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use thumbprint_ggml::llama::{Adapter, Context, LlamaError};

pub use adapter::{AdapterSource, LoadedAdapter};
pub use chat::Chat;
pub use embed::Embedded;
pub use error::{EngineError, Result};
pub use load::{EngineOptions, ModelSource};
pub use queue::{Demand, Priority};
pub use request::{
    Batch, Canceller, Completed, Event, GenerateOptions, Generation, Overflow, Prompt, Request,
    With, fresh_seed,
};
pub use score::{Comparison, ScoreText};
pub use template::ChatTemplate;
pub use thumbprint_ggml::llama::{FlashAttention, KvType};

use batch::BatchJob;
use embed::EmbedJob;
use queue::Queue;
use reply::Reply;
use score::{CompareJob, ScoreJob};
use worker::{Command, GenerateJob, Worker};

use crate::types::Message;

/// A loaded model. Clones share it; when the last one goes, the model is unloaded.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    chat: Arc<Chat>,
    info: EngineInfo,
    queue: Arc<Queue<Command>>,
    demand: Demand,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Facts of a running engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The model's file.
    pub model_path: PathBuf,
    /// Architecture, size and quantization in words.
    pub description: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Tokens that a conversation can have, its reply included.
    pub n_ctx: u32,
    /// Tokens that the model was trained for.
    pub n_ctx_train: u32,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Compute threads.
    pub n_threads: u32,
    /// Layers on a GPU; `None` if the model came loaded.
    pub n_gpu_layers: Option<u32>,
    /// SHA-256 of the chat template.
    pub template_hash: String,
    /// What was asked for or expected and is not so: a CPU fallback, a missing chat template, a
    /// context beyond the trained length.
    pub warnings: Vec<String>,
}

impl EngineInfo {
    /// Replies that pay side by side: so many that more would gain little speed for their memory.
    pub fn side_by_side(&self) -> usize {
        match self.n_gpu_layers {
            Some(1..) => MAX_PARALLEL,
            _ => 32,
        }
    }
}

impl Engine {
    /// Loads a model and starts its thread. `on_progress` is called with 0.0 to 1.0 on this thread;
    /// `Break` cancels.
    ///
    /// # Errors
    /// [`EngineError::Llama`] when the file is no model or a size is out of range;
    /// [`EngineError::Cancelled`]; [`EngineError::Template`] when the model's chat template does
    /// not compile.
    pub fn start(
        source: ModelSource,
        options: &EngineOptions,
        on_progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let load::Loaded {
            model,
            n_gpu_layers,
            mut warnings,
        } = load::load(source, options, on_progress)?;
        let sizes = load::Sizes::new(options, &model);
        let context = Context::new(&model, &sizes.context_params())?;
        let chat = Arc::new(Chat::new(Arc::clone(&model))?);
        if chat.template().is_fallback() {
            warnings.push("the model carries no chat template: conversations are rendered as plain 'Role: text' lines".into());
        }
        if context.n_ctx() > model.n_ctx_train() {
            let (n_ctx, trained) = (context.n_ctx(), model.n_ctx_train());
            warnings.push(format!(
                "n_ctx = {n_ctx} is beyond the {trained} tokens that the model was trained for"
            ));
        }
        let info = EngineInfo {
            model_path: model.path().to_owned(),
            description: model.description(),
            architecture: model.architecture(),
            n_ctx: context.n_ctx(),
            n_ctx_train: model.n_ctx_train(),
            n_vocab: model.n_vocab(),
            n_threads: sizes.n_threads,
            n_gpu_layers,
            template_hash: chat.template().hash().to_owned(),
            warnings,
        };
        let queue = Arc::new(Queue::new());
        let worker = Worker::new(Arc::clone(&chat), sizes, Arc::clone(&queue), context);
        let closing = CloseOnDrop(Arc::clone(&queue));
        let thread = std::thread::Builder::new()
            .name("thumbprint-engine".into())
            .spawn(move || {
                let _closing = closing;
                worker.run();
            })
            .map_err(|e| LlamaError::Context {
                reason: format!("no thread: {e}"),
            })?;
        Ok(Self(Arc::new(Inner {
            chat,
            info,
            queue,
            demand: Demand::default(),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Facts of this engine, with warnings to show.
    pub fn info(&self) -> &EngineInfo {
        &self.0.info
    }

    /// Tokenizing and templates; works without waiting for the engine's thread.
    pub fn chat(&self) -> &Arc<Chat> {
        &self.0.chat
    }

    /// Tells whether a generation is waiting or running.
    pub fn demand(&self) -> Demand {
        self.0.demand.clone()
    }

    /// Starts a reply. Returns at once; events come through the handle.
    ///
    /// # Errors
    /// At once: [`EngineError::EmptyPrompt`], [`EngineError::PromptTooLong`],
    /// [`EngineError::InvalidOption`], [`EngineError::Template`], [`EngineError::Llama`] for a
    /// sampling parameter, [`EngineError::Stopped`].
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        self.generate_with(request, Canceller::default())
    }

    /// The same, cancelled by somebody else's canceller.
    pub(crate) fn generate_with(
        &self,
        request: &Request,
        canceller: Canceller,
    ) -> Result<Generation> {
        let reply = Reply::new(&self.0.chat, request, self.0.info.n_ctx)?;
        let (events, receiver) = channel();
        let job = GenerateJob {
            reply,
            with: request.with.clone(),
            canceller: canceller.clone(),
            events,
            demand: self.0.demand.begin(),
        };
        self.0
            .queue
            .push(Priority::Foreground, Command::Generate(Box::new(job)))?;
        Ok(Generation {
            events: receiver,
            canceller,
            ended: false,
        })
    }

    /// Starts several replies at once, `max_parallel` at a time, in a context of their own that
    /// lives as long as they do (its cache holds `max_parallel` times the longest prompt and
    /// reply). As background work: [`Engine::generate`] interrupts it. The requests must share one
    /// adapter. Each has its own sampler and seed.
    ///
    /// # Errors
    /// As [`Engine::generate`], for any of the requests; [`EngineError::InvalidOption`] when
    /// adapters differ.
    pub fn generate_batch(&self, requests: &[Request], max_parallel: usize) -> Result<Batch> {
        self.generate_batch_at(Priority::Background, requests, max_parallel)
    }

    /// The same for somebody who waits, or for nobody.
    ///
    /// # Errors
    /// As [`Engine::generate_batch`].
    pub fn generate_batch_at(
        &self,
        priority: Priority,
        requests: &[Request],
        max_parallel: usize,
    ) -> Result<Batch> {
        let (events, receiver) = channel();
        let canceller = Canceller::default();
        let batch = Batch {
            events: receiver,
            canceller: canceller.clone(),
            left: requests.len(),
        };
        let Some(first) = requests.first() else {
            return Ok(batch);
        };
        if max_parallel == 0 || max_parallel > MAX_PARALLEL {
            let reason = format!("{max_parallel}, where 1 to {MAX_PARALLEL} are allowed");
            return Err(EngineError::InvalidOption {
                name: "max_parallel",
                reason,
            });
        }
        if requests
            .iter()
            .any(|request| !first.with.same(&request.with))
        {
            return Err(EngineError::InvalidOption {
                name: "with",
                reason: "a batch has one adapter for all".into(),
            });
        }
        let replies = requests
            .iter()
            .map(|request| Reply::new(&self.0.chat, request, self.0.info.n_ctx))
            .collect::<Result<_>>()?;
        let job = BatchJob {
            replies,
            max_parallel,
            with: first.with.clone(),
            canceller,
            events,
            demand: self.0.demand.begin_at(priority),
        };
        self.0.queue.push(priority, Command::Batch(job))?;
        Ok(batch)
    }

    /// Natural log-probability of each completion token, in nats. Waits; as background work. Texts
    /// in a row that begin alike share the work for that beginning.
    ///
    /// # Errors
    /// [`EngineError::CannotScore`] names the text; [`EngineError::Cancelled`];
    /// [`EngineError::Llama`]; [`EngineError::Stopped`].
    pub fn score(
        &self,
        texts: Vec<ScoreText>,
        with: With,
        canceller: &Canceller,
    ) -> Result<Vec<Vec<f64>>> {
        self.score_at(Priority::Background, texts, with, canceller)
    }

    /// The same for somebody who waits, or for nobody.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn score_at(
        &self,
        priority: Priority,
        texts: Vec<ScoreText>,
        with: With,
        canceller: &Canceller,
    ) -> Result<Vec<Vec<f64>>> {
        self.check_texts(&texts)?;
        let (done, receiver) = channel();
        let job = ScoreJob {
            texts,
            with,
            canceller: canceller.clone(),
            done,
            demand: self.0.demand.begin_at(priority),
        };
        self.0.queue.push(priority, Command::Score(job))?;
        answer(&receiver)
    }

    /// What each completion is like after its prompt: means of its hidden states. Waits. Texts in a row whose prompts begin alike share
    /// the work for that beginning.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn embed(
        &self,
        priority: Priority,
        texts: Vec<ScoreText>,
        with: With,
        canceller: &Canceller,
    ) -> Result<Vec<Embedded>> {
        self.check_rows(&texts, self.0.info.n_ctx_train as usize)?;
        let (done, receiver) = channel();
        let job = EmbedJob {
            texts,
            with,
            canceller: canceller.clone(),
            done,
            demand: self.0.demand.begin_at(priority),
        };
        self.0.queue.push(priority, Command::Embed(job))?;
        answer(&receiver)
    }

    /// Log-probabilities under `p` and under `q`, and both divergences, at each completion token.
    /// Waits; as background work. Holds logits for one piece of text at a time.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn compare(
        &self,
        texts: Vec<ScoreText>,
        p: With,
        q: With,
        canceller: &Canceller,
    ) -> Result<Vec<Comparison>> {
        self.check_texts(&texts)?;
        let (done, receiver) = channel();
        let job = CompareJob {
            texts,
            p,
            q,
            canceller: canceller.clone(),
            done,
        };
        self.0
            .queue
            .push(Priority::Background, Command::Compare(job))?;
        answer(&receiver)
    }

    /// Loads an adapter, without putting it in force. `version` is the name that replies will tell.
    ///
    /// # Errors
    /// [`EngineError::Llama`] when it is malformed or made for another base.
    pub fn load_adapter(
        &self,
        source: AdapterSource,
        version: impl Into<String>,
        scale: f32,
    ) -> Result<LoadedAdapter> {
        if !scale.is_finite() {
            return Err(EngineError::InvalidOption {
                name: "scale",
                reason: format!("{scale} is not a number"),
            });
        }
        let model = self.0.chat.model();
        let adapter = match source {
            AdapterSource::File(path) => Adapter::load(model, &path)?,
            AdapterSource::Bytes(bytes) => Adapter::from_bytes(model, bytes)?,
        };
        Ok(LoadedAdapter {
            adapter,
            version: version.into(),
            scale,
        })
    }

    /// Puts an adapter in force, or none. Waits until generations that were asked for earlier are
    /// done. What was cached under the old one is dropped.
    ///
    /// # Errors
    /// [`EngineError::Llama`] for an adapter of another engine; [`EngineError::Stopped`].
    pub fn set_adapter(&self, adapter: Option<LoadedAdapter>) -> Result<()> {
        self.ask(|done| Command::SetAdapter { adapter, done })
    }

    /// Computes the beginning of a conversation ahead of time, so that the next reply to it begins
    /// sooner: say, a system message and what is known of the conversation. Returns the number of
    /// tokens that are now cached.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn prewarm(&self, messages: &[Message]) -> Result<usize> {
        let n_ctx = self.0.info.n_ctx;
        let prompt = self
            .0
            .chat
            .fit(
                &Prompt::Messages(messages.to_vec()),
                Overflow::Error,
                1,
                n_ctx,
            )?
            .tokens;
        self.ask(|done| Command::Prewarm { prompt, done })
    }

    /// Cancels everything and unloads the model, once what runs has stopped. Idempotent. Later
    /// calls get [`EngineError::Stopped`].
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    fn check_texts(&self, texts: &[ScoreText]) -> Result<()> {
        // The last token predicts nothing, so that it is not read.
        self.check_rows(texts, self.0.info.n_ctx_train as usize + 1)
    }

    fn check_rows(&self, texts: &[ScoreText], longest: usize) -> Result<()> {
        score::check(texts, self.0.info.n_vocab, longest)
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<Result<T>>) -> Command) -> Result<T> {
        let (done, receiver) = channel();
        self.0.queue.push(Priority::Foreground, command(done))?;
        answer(&receiver)
    }
}

/// Replies side by side at most. llama.cpp's limit is 256; beyond this the cache is larger than the model.
pub const MAX_PARALLEL: usize = 64;

impl Inner {
    fn shutdown(&self) {
        self.queue.close();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic there has been printed, and callers got `Stopped`.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Engine").field(&self.0.info).finish()
    }
}

/// Closes the queue when the engine's thread ends, also by a panic: nobody waits for it then.
struct CloseOnDrop(Arc<Queue<Command>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn answer<T>(receiver: &Receiver<Result<T>>) -> Result<T> {
    receiver.recv().unwrap_or(Err(EngineError::Stopped))
}
