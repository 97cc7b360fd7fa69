use std::path::PathBuf;

/// What can go wrong with a llama.cpp handle. No message holds text that a user wrote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// The file is missing, unreadable, not a GGUF, or refused by llama.cpp.
    #[error("cannot load the model {}: {reason}", path.display())]
    ModelFile {
        /// The file that was given.
        path: PathBuf,
        /// Why it was refused.
        reason: String,
    },
    /// The progress callback asked to stop.
    #[error("loading the model was cancelled")]
    LoadCancelled,
    /// A context could not be made.
    #[error("cannot make a llama.cpp context: {reason}")]
    Context {
        /// Which parameter or resource was at fault.
        reason: String,
    },
    /// A LoRA adapter could not be read, or does not fit the model.
    #[error("cannot load the adapter {origin}: {reason}")]
    Adapter {
        /// The path, or "(bytes)" for one held in memory.
        origin: String,
        /// Why it was refused.
        reason: String,
    },
    /// An adapter was set on a context of another model.
    #[error("the adapter was loaded for another model than this context's")]
    AdapterOfAnotherModel,
    /// A sampler was used on a context whose model has another vocabulary.
    #[error("the sampler was made for another vocabulary than this context's")]
    SamplerOfAnotherModel,
    /// New weights do not fit the adapter's tensors.
    #[error("cannot overwrite the adapter's tensor '{name}': {reason}")]
    AdapterTensor {
        /// The tensor's name in the adapter.
        name: String,
        /// What did not fit.
        reason: String,
    },
    /// The text does not fit llama.cpp's 32-bit lengths.
    #[error("the text to tokenize is too long ({bytes} bytes)")]
    TextTooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// A batch would have broken one of llama.cpp's assertions.
    #[error("invalid batch: {reason}")]
    Batch {
        /// What was wrong, with the numbers.
        reason: String,
    },
    /// A sequence id at or above `n_seq_max`.
    #[error("sequence {sequence} does not exist: the context has {n_seq_max}")]
    Sequence {
        /// The id that was given.
        sequence: i32,
        /// How many the context was made with.
        n_seq_max: u32,
    },
    /// This model's memory cannot drop a part of a sequence (recurrent models).
    #[error(
        "this model's memory cannot drop a part of a sequence; clear the whole sequence instead"
    )]
    PartialRemoval,
    /// No room in the key-value cache. The cache is as it was before the call.
    #[error("no room in the context for {n_tokens} more tokens (it holds {n_ctx})")]
    KvFull {
        /// Tokens in the batch.
        n_tokens: usize,
        /// Cells per sequence.
        n_ctx: u32,
    },
    /// The cancel flag was raised. Ubatches that were finished stay in the cache: ask
    /// `kv_last_position`.
    #[error("decoding was cancelled")]
    Cancelled,
    /// llama.cpp reported a failure while computing.
    #[error("llama.cpp failed to decode (code {code})")]
    Decode {
        /// `llama_decode`'s return value.
        code: i32,
    },
    /// Logits were asked for a batch entry that was not marked as an output of the last successful
    /// decode.
    #[error("batch entry {index} has no logits")]
    NoLogits {
        /// Index into the last batch.
        index: usize,
    },
    /// The last decode kept no hidden states.
    #[error(
        "the last decode kept no hidden states ({of}): they were not asked for, it failed, or the model's graph has none"
    )]
    NoStates {
        /// What llama.cpp calls them.
        of: String,
    },
    /// A sampler left no token to choose from.
    #[error("no token could be chosen: the logits are not finite")]
    NothingToChoose,
    /// A sampling parameter is out of its range.
    #[error("sampling parameter {name} = {value} is out of range: {expected}")]
    Sampling {
        /// The parameter's name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range it must be in.
        expected: &'static str,
    },
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, LlamaError>;
