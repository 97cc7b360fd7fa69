use thumbprint_ggml::llama::LlamaError;

/// What can go wrong in the engine. No message holds text that a user wrote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// From llama.cpp's handles: model and adapter files, contexts, decoding, sampling parameters.
    #[error(transparent)]
    Llama(LlamaError),
    /// The model's chat template does not compile, or refused the messages.
    #[error("the model's chat template failed: {reason}")]
    Template {
        /// The template's own words if it raised an exception; else the kind and line of the error.
        reason: String,
    },
    /// There is no message, or the last one is blank, or the tokens are none.
    #[error("the prompt is empty: give at least one message with some text")]
    EmptyPrompt,
    /// The prompt leaves no room for a reply.
    #[error(
        "the prompt has {prompt_tokens} tokens, and the context holds {n_ctx} with at least one for the reply: \
         shorten it, drop old turns (Overflow::TruncateOldestTurns), or load the model with a larger n_ctx"
    )]
    PromptTooLong {
        /// Tokens of the prompt, after dropping what the policy allows.
        prompt_tokens: usize,
        /// Tokens that the context holds.
        n_ctx: u32,
    },
    /// An option is out of its range or does not go with another.
    #[error("invalid option {name}: {reason}")]
    InvalidOption {
        /// The option.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A text to score has no completion tokens, or nothing before them.
    #[error("text {index} cannot be scored: {reason}")]
    CannotScore {
        /// Index in the list that was given.
        index: usize,
        /// What is missing.
        reason: &'static str,
    },
    /// The work was cancelled by its caller.
    #[error("cancelled")]
    Cancelled,
    /// The engine was shut down, before or during the work.
    #[error("the engine is shut down")]
    Stopped,
}

impl From<LlamaError> for EngineError {
    fn from(error: LlamaError) -> Self {
        match error {
            LlamaError::Cancelled | LlamaError::LoadCancelled => Self::Cancelled,
            error => Self::Llama(error),
        }
    }
}

/// Results of the engine.
pub type Result<T> = std::result::Result<T, EngineError>;
