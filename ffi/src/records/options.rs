//! What an app asks for. An absent option takes the facade's default.

use std::path::PathBuf;

use thumbprint::exchange;
use thumbprint::{AdapterId, DatabaseKey, ReplyId, Sampling};

use super::{Judge, Message};
use crate::error::{ThumbprintError, invalid_option};
use crate::translate::{Translate, choice};

/// How to open a data folder.
#[derive(Clone, PartialEq, uniffi::Record)]
pub struct Options {
    /// Path of the folder where everything is kept; made if missing.
    pub data_dir: String,
    /// Path of the model that is loaded at first use.
    #[uniffi(default = None)]
    pub model: Option<String>,
    /// How it is loaded.
    #[uniffi(default = None)]
    pub engine: Option<EngineOptions>,
    /// What the database is encrypted under: 32 random bytes, kept where the platform keeps secrets. Without one it is not
    /// encrypted. Once there is a database, it opens under its key alone.
    #[uniffi(default = None)]
    pub key: Option<Vec<u8>>,
}

impl Options {
    pub(crate) fn translate(self) -> thumbprint::Result<thumbprint::Options> {
        let key = self.key.as_deref().map(DatabaseKey::try_from).transpose()?;
        Ok(thumbprint::Options {
            data_dir: PathBuf::from(self.data_dir),
            model: self.model.map(PathBuf::from),
            engine: self.engine.map_or_else(Default::default, |o| o.translate()),
            key,
        })
    }
}

/// How a model is loaded and run.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct EngineOptions {
    /// Tokens that a conversation can have, its reply included. Rounded up to a multiple of 256. Default: what the model was trained
    /// for, at most 4096.
    #[uniffi(default = None)]
    pub n_ctx: Option<u32>,
    /// Tokens of a prompt that are computed at once.
    #[uniffi(default = None)]
    pub n_batch: Option<u32>,
    /// Compute threads. Default: one for each processor, at most 8.
    #[uniffi(default = None)]
    pub n_threads: Option<u32>,
    /// Layers on a GPU. Default: all that fit.
    #[uniffi(default = None)]
    pub n_gpu_layers: Option<u32>,
    /// Whether the model's file is mapped instead of read.
    #[uniffi(default = None)]
    pub use_mmap: Option<bool>,
    /// Whether weights are rearranged for faster products, which keeps a second copy of them in memory.
    #[uniffi(default = None)]
    pub repack: Option<bool>,
    /// Whether attention is computed by the fused kernel.
    #[uniffi(default = None)]
    pub flash_attention: Option<FlashAttention>,
    /// Element type of the key-value cache.
    #[uniffi(default = None)]
    pub kv_type: Option<KvType>,
}

impl Translate<thumbprint::EngineOptions> for EngineOptions {
    fn translate(self) -> thumbprint::EngineOptions {
        let default = thumbprint::EngineOptions::default();
        thumbprint::EngineOptions {
            n_ctx: self.n_ctx,
            n_batch: self.n_batch.unwrap_or(default.n_batch),
            n_threads: self.n_threads,
            n_gpu_layers: self.n_gpu_layers,
            use_mmap: self.use_mmap.unwrap_or(default.use_mmap),
            repack: self.repack.unwrap_or(default.repack),
            flash_attention: self
                .flash_attention
                .map_or(default.flash_attention, Translate::translate),
            kv_type: self.kv_type.map_or(default.kv_type, Translate::translate),
        }
    }
}

choice! {
    /// Whether attention is computed by the fused kernel.
    FlashAttention of thumbprint::FlashAttention {
        /// Where the device has the kernel.
        Auto,
        /// Never, for comparing numbers with another implementation.
        Off,
    }
}

choice! {
    /// Element type of the key-value cache.
    KvType of thumbprint::KvType {
        /// Half precision.
        F16,
        /// Single precision, for comparing numbers with another implementation.
        F32,
    }
}

/// A reply to be generated.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Request {
    /// The conversation so far, the message to be answered last.
    pub messages: Vec<Message>,
    /// Length, sampling, stop strings.
    #[uniffi(default = None)]
    pub options: Option<GenerateOptions>,
    /// The reply whose place it takes: the person pressed retry.
    #[uniffi(default = None)]
    pub replaces: Option<ReplyId>,
    /// Who answers. Default: the base model with the active adapter, if any.
    #[uniffi(default = None)]
    pub by: Option<By>,
}

impl Translate<thumbprint::Request> for Request {
    fn translate(self) -> thumbprint::Request {
        thumbprint::Request {
            options: self
                .options
                .map_or_else(Default::default, |o| o.translate()),
            replaces: self.replaces,
            by: self.by.map_or_else(Default::default, |by| by.translate()),
            ..thumbprint::Request::new(self.messages.translate())
        }
    }
}

/// Who answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum By {
    /// The base model with the active adapter, if any.
    Active,
    /// The base model alone.
    Base,
    /// The base model with this adapter at full scale, whatever its state: to look at a candidate, not to serve it.
    Adapter {
        /// The adapter.
        id: AdapterId,
    },
}

impl Translate<thumbprint::By> for By {
    fn translate(self) -> thumbprint::By {
        match self {
            Self::Active => thumbprint::By::Active,
            Self::Base => thumbprint::By::Base,
            Self::Adapter { id } => thumbprint::By::Adapter(id),
        }
    }
}

/// Length, sampling and stop conditions of a reply.
#[derive(Debug, Clone, Default, PartialEq, uniffi::Record)]
pub struct GenerateOptions {
    /// Tokens to generate at most, 1 or more.
    #[uniffi(default = None)]
    pub max_tokens: Option<u32>,
    /// Divides the logits; 0 takes the likeliest token.
    #[uniffi(default = None)]
    pub temperature: Option<f32>,
    /// Draw from the k likeliest tokens; 0: from all.
    #[uniffi(default = None)]
    pub top_k: Option<u32>,
    /// Draw from the smallest set of tokens with this much probability, in (0, 1].
    #[uniffi(default = None)]
    pub top_p: Option<f32>,
    /// Leave out tokens less likely than this share of the likeliest, in [0, 1).
    #[uniffi(default = None)]
    pub min_p: Option<f32>,
    /// Divides the logits of recent tokens; 1 is off.
    #[uniffi(default = None)]
    pub repetition_penalty: Option<f32>,
    /// How many recent tokens the penalty looks at.
    #[uniffi(default = None)]
    pub repetition_window: Option<u32>,
    /// Seed of the draw: the same gives the same reply. Default: another one each time.
    #[uniffi(default = None)]
    pub seed: Option<u64>,
    /// Strings that end the reply; they are not part of its text.
    #[uniffi(default = [])]
    pub stop: Vec<String>,
    /// What to do when the conversation is longer than the context.
    #[uniffi(default = None)]
    pub overflow: Option<Overflow>,
    /// Replies to draw side by side, 1 to 64, of which the best is recorded and comes in one piece. The i-th has the seed plus i.
    #[uniffi(default = None)]
    pub best_of: Option<u32>,
    /// Who says which is the best. Default: the active adapter.
    #[uniffi(default = None)]
    pub judge: Option<Judge>,
}

impl Translate<thumbprint::GenerateOptions> for GenerateOptions {
    fn translate(self) -> thumbprint::GenerateOptions {
        let default = thumbprint::GenerateOptions::default();
        let sampling = default.sampling;
        thumbprint::GenerateOptions {
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(sampling.temperature),
                top_k: self.top_k.unwrap_or(sampling.top_k),
                top_p: self.top_p.unwrap_or(sampling.top_p),
                min_p: self.min_p.unwrap_or(sampling.min_p),
                repetition_penalty: self
                    .repetition_penalty
                    .unwrap_or(sampling.repetition_penalty),
                repetition_window: self.repetition_window.unwrap_or(sampling.repetition_window),
                seed: self.seed.unwrap_or(sampling.seed),
            },
            stop: self.stop,
            overflow: self.overflow.map_or(default.overflow, Translate::translate),
            best_of: self.best_of.unwrap_or(default.best_of),
            judge: self.judge.map_or(default.judge, Translate::translate),
        }
    }
}

choice! {
    /// What to do when a conversation and its reply do not fit the context.
    Overflow of thumbprint::Overflow {
        /// Refuse, with both numbers.
        Error,
        /// Drop the oldest turns, keeping system messages and the last turn.
        TruncateOldestTurns,
    }
}

/// What a job may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, uniffi::Record)]
pub struct Budget {
    /// Most resident memory of training, MiB, the mapped model included. Default: as much as is fastest.
    #[uniffi(default = None)]
    pub memory_mib: Option<u64>,
    /// The job pauses after this many seconds of work. It never shortens what is learned.
    #[uniffi(default = None)]
    pub seconds: Option<u64>,
    /// Threads. Default: as many as there are processors.
    #[uniffi(default = None)]
    pub n_threads: Option<u32>,
    /// Seeds the adapter, the order of examples and what is sampled.
    #[uniffi(default = None)]
    pub seed: Option<u64>,
    /// Longest example that is learned from, tokens of prompt and replies together. Longer ones are left out and counted.
    #[uniffi(default = None)]
    pub max_example_tokens: Option<u32>,
    /// Whether a new candidate may take the place of one whose trial is undecided.
    #[uniffi(default = None)]
    pub replace_trial: Option<bool>,
    /// Whether to train on the first GPU of a build with a GPU feature; a job fails where there is none. Off where the system ends
    /// processes for using the GPU in the background.
    #[uniffi(default = None)]
    pub gpu: Option<bool>,
    /// Whether to train on the GPU, and to fail rather than compute on the CPU what the GPU has no kernel for.
    #[uniffi(default = None)]
    pub require_gpu: Option<bool>,
    /// Rounds, 3 at most, in which the new adapter answers the feedback's prompts again, its own reward labels the answers, and training
    /// goes on with them; each is braked. What a model thinks of its own words is no feedback: by default there are none.
    #[uniffi(default = None)]
    pub online_rounds: Option<u32>,
}

impl Translate<thumbprint::Budget> for Budget {
    fn translate(self) -> thumbprint::Budget {
        let default = thumbprint::Budget::default();
        thumbprint::Budget {
            // More than there can be is as good as no limit.
            memory_mib: self
                .memory_mib
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            seconds: self.seconds,
            n_threads: self.n_threads.map(|n| n as usize),
            seed: self.seed.unwrap_or(default.seed),
            max_example_tokens: self
                .max_example_tokens
                .map_or(default.max_example_tokens, |n| n as usize),
            replace_trial: self.replace_trial.unwrap_or(default.replace_trial),
            gpu: self.gpu.unwrap_or(default.gpu),
            require_gpu: self.require_gpu.unwrap_or(default.require_gpu),
            online: self.online_rounds.and_then(thumbprint::Online::rounds),
        }
    }
}

/// A way of learning other than the product's.
#[derive(Debug, Clone, Default, PartialEq, uniffi::Record)]
pub struct Recipe {
    /// Multiple-choice questions of which a candidate must not get many fewer right than the base.
    #[uniffi(default = None)]
    pub choices: Option<GuardFile>,
    /// Harmless prompts of which a candidate must not refuse many more than the base.
    #[uniffi(default = None)]
    pub refusals: Option<GuardFile>,
    /// For comparing with the product: settings that replace its own, as JSON with the names of the Rust crate's `Recipe`:
    /// `{"learn_from": "thumbs", "train": {"unpaired": {"loss_type": "kto"}}}`.
    #[uniffi(default = None)]
    pub settings_json: Option<String>,
}

impl Recipe {
    /// # Errors
    /// Settings that are none.
    pub(crate) fn of(self) -> thumbprint::Result<thumbprint::Recipe> {
        let settings = self.settings_json.as_deref().unwrap_or("{}");
        let named: thumbprint::Recipe = serde_json::from_str(settings)
            .map_err(|error| thumbprint::Error::Recipe(error.to_string()))?;
        Ok(thumbprint::Recipe {
            choices: self.choices.translate().or(named.choices),
            refusals: self.refusals.translate().or(named.refusals),
            ..named
        })
    }
}

/// A file that the app brings, as a guard of the gate.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct GuardFile {
    /// The file. It is read before anything is learned, and again when a candidate is judged.
    pub path: String,
    /// By how much the share may worsen, in [0, 1]: 0.02 is two points.
    pub tolerated: f64,
}

impl Translate<thumbprint::GuardFile> for GuardFile {
    fn translate(self) -> thumbprint::GuardFile {
        thumbprint::GuardFile {
            path: PathBuf::from(self.path),
            tolerated: self.tolerated,
        }
    }
}

choice! {
    /// What the lines of a file of feedback hold.
    FeedbackFormat of exchange::Format {
        /// TRL's preference form: `prompt`, `chosen`, `rejected`.
        Preference,
        /// TRL's unpaired form: `prompt`, `completion`, `label`.
        Unpaired,
        /// Rankings: `prompt`, `ranked`, the best answer first.
        Ranking,
        /// ShareGPT's conversations.
        ShareGpt,
        /// Transcripts as in HH-RLHF.
        HhRlhf,
        /// Rated completions as in UltraFeedback.
        UltraFeedback,
        /// Ranked answers as in Nectar.
        Nectar,
        /// Trees as in OASST.
        Oasst,
    }
}

/// What an import passes over. By default nothing.
#[derive(Debug, Clone, Default, PartialEq, uniffi::Record)]
pub struct ImportFilters {
    /// Rows whose answer has fewer characters. Here and below, of several answers the liked or best one.
    #[uniffi(default = None)]
    pub min_chars: Option<u32>,
    /// Rows whose prompt and longest answer have more characters.
    #[uniffi(default = None)]
    pub max_chars: Option<u32>,
    /// Rows whose answer begins as refusals do (English phrases).
    #[uniffi(default = false)]
    pub refusals: bool,
    /// Rows whose answer has a phrase that assistants put into any answer (English phrases).
    #[uniffi(default = false)]
    pub boilerplate: bool,
    /// Rows whose answer matches one of these regular expressions, in the syntax of the Rust crate regex-lite.
    #[uniffi(default = [])]
    pub patterns: Vec<String>,
    /// Rows that differ from an earlier one in case, spaces and punctuation at most.
    #[uniffi(default = false)]
    pub duplicates: bool,
    /// Rows that have this share, in (0, 1], of runs of four letters in common with an earlier one; estimated, within 0.04.
    #[uniffi(default = None)]
    pub near_duplicates: Option<f64>,
}

impl ImportFilters {
    /// # Errors
    /// A pattern that is none, or a share that is none.
    pub(crate) fn of(self) -> Result<exchange::Filters, ThumbprintError> {
        let patterns = self.patterns.iter().map(|pattern| {
            let parsed = pattern.parse::<exchange::Pattern>();
            parsed.map_err(|why| invalid_option(format!("no regular expression: {why}")))
        });
        let share = self.near_duplicates;
        if share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(invalid_option(
                "near_duplicates must be in (0, 1]".to_owned(),
            ));
        }
        Ok(exchange::Filters {
            min_chars: self.min_chars.map(|n| n as usize),
            max_chars: self.max_chars.map(|n| n as usize),
            refusals: self.refusals,
            boilerplate: self.boilerplate,
            patterns: patterns.collect::<Result<_, _>>()?,
            duplicates: self.duplicates,
            near_duplicates: share,
        })
    }
}
