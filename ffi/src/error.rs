//! The one error that crosses the boundary.

use thumbprint::engine::EngineError;
use thumbprint::exchange::ImportError;
use thumbprint::store::StoreError;
use thumbprint::{Error, ErrorKind};

/// Why a call failed. The variant says what an app can do about it; `code` names the cause and stays the same from version to
/// version; `reason` says to people what was wrong, where, and what to do. None holds text that a person wrote.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Error)]
pub enum ThumbprintError {
    /// The object was shut down before.
    Closed {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// It was asked for: cancelled, or the model was unloaded meanwhile.
    Cancelled {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// A listener of the app's failed; what it listened to was given up.
    Listener {
        /// Stable name of the cause.
        code: String,
        /// What the app's code said.
        reason: String,
    },
    /// Another process has the data folder.
    FolderInUse {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
        /// The other process, where it is known.
        pid: Option<u32>,
    },
    /// The data folder or its database: a full disk, no permission, damage, a newer version.
    Storage {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// What an id named is not there, or not any more.
    NotFound {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// What was asked for makes no sense: an empty prompt, an option out of range.
    InvalidInput {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// The prompt leaves no room for a reply.
    PromptTooLong {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// Tokens that the context holds.
        n_ctx: u32,
    },
    /// Something else has to be done first: a model named, an adapter activated.
    InvalidState {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// The model's file cannot be used, or not for this.
    Model {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// An adapter's file cannot be used.
    Adapter {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// A file could not be read or written.
    File {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// A line of a file of feedback cannot be used; nothing of the file was.
    Import {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
        /// From 1; 0 where the file itself is at fault.
        line: u64,
    },
    /// No way of training fits the memory that was allowed.
    OverBudget {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
        /// MiB that would be enough.
        needed_mib: u64,
        /// MiB that were allowed.
        budget_mib: u64,
    },
    /// A run of training failed; what was in use before still is.
    Training {
        /// Stable name of the cause.
        code: String,
        /// For people.
        reason: String,
    },
    /// A bug in this library.
    Internal {
        /// Stable name of the cause.
        code: String,
        /// What is known.
        reason: String,
    },
}

/// An option that names nothing.
pub(crate) fn invalid_option(reason: String) -> ThumbprintError {
    ThumbprintError::InvalidInput {
        code: "invalid_option".to_owned(),
        reason,
    }
}

impl ThumbprintError {
    pub(crate) fn closed() -> Self {
        Self::Closed {
            code: "closed".to_owned(),
            reason: "this object was shut down: open the data folder again".to_owned(),
        }
    }

    pub(crate) fn cancelled() -> Self {
        Self::Cancelled {
            code: "cancelled".to_owned(),
            reason: "cancelled".to_owned(),
        }
    }

    pub(crate) fn internal(reason: String) -> Self {
        Self::Internal {
            code: "internal".to_owned(),
            reason,
        }
    }

    fn parts(&self) -> (&str, &str) {
        match self {
            Self::Closed { code, reason }
            | Self::Cancelled { code, reason }
            | Self::Listener { code, reason }
            | Self::FolderInUse { code, reason, .. }
            | Self::Storage { code, reason }
            | Self::NotFound { code, reason }
            | Self::InvalidInput { code, reason }
            | Self::PromptTooLong { code, reason, .. }
            | Self::InvalidState { code, reason }
            | Self::Model { code, reason }
            | Self::Adapter { code, reason }
            | Self::File { code, reason }
            | Self::Import { code, reason, .. }
            | Self::OverBudget { code, reason, .. }
            | Self::Training { code, reason }
            | Self::Internal { code, reason } => (code, reason),
        }
    }

    /// The stable name of the cause.
    pub fn code(&self) -> &str {
        self.parts().0
    }

    /// The sentence for people.
    pub fn reason(&self) -> &str {
        self.parts().1
    }
}

impl std::fmt::Display for ThumbprintError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ThumbprintError {}

impl From<Error> for ThumbprintError {
    fn from(error: Error) -> Self {
        let (code, reason) = (error.code().to_owned(), error.to_string());
        match error.kind() {
            ErrorKind::Cancelled => Self::Cancelled { code, reason },
            ErrorKind::FolderInUse => Self::FolderInUse {
                code,
                reason,
                pid: match error {
                    Error::Store(StoreError::InUse { pid, .. }) => pid,
                    _ => None,
                },
            },
            ErrorKind::Storage => Self::Storage { code, reason },
            ErrorKind::NotFound => Self::NotFound { code, reason },
            ErrorKind::InvalidInput => Self::InvalidInput { code, reason },
            ErrorKind::PromptTooLong => {
                let (prompt_tokens, n_ctx) = match &error {
                    Error::Engine(EngineError::PromptTooLong {
                        prompt_tokens,
                        n_ctx,
                    }) => (*prompt_tokens, *n_ctx),
                    _ => (0, 0),
                };
                Self::PromptTooLong {
                    code,
                    reason,
                    prompt_tokens: prompt_tokens as u64,
                    n_ctx,
                }
            }
            ErrorKind::InvalidState => Self::InvalidState { code, reason },
            ErrorKind::Model => Self::Model { code, reason },
            ErrorKind::Adapter => Self::Adapter { code, reason },
            ErrorKind::File => Self::File { code, reason },
            ErrorKind::OverBudget => {
                let (needed, budget) = match &error {
                    Error::OverBudget(over) => (over.needed_mib, over.budget_mib),
                    _ => (0, 0),
                };
                Self::OverBudget {
                    code,
                    reason,
                    needed_mib: needed as u64,
                    budget_mib: budget as u64,
                }
            }
            ErrorKind::Training => Self::Training { code, reason },
            other => Self::internal(format!("{other:?}: {reason}")),
        }
    }
}

impl From<ImportError> for ThumbprintError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Data(error) => Self::Import {
                code: "import".to_owned(),
                reason: error.to_string(),
                line: error.line as u64,
            },
            ImportError::Store(error) => Error::from(error).into(),
            other => Self::internal(other.to_string()),
        }
    }
}

/// What a listener threw. Without this the call of it would panic.
impl From<uniffi::UnexpectedUniFFICallbackError> for ThumbprintError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Listener {
            code: "listener".to_owned(),
            reason: error.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use thumbprint::ReplyId;

    use super::*;

    #[test]
    fn an_error_keeps_code_words_and_numbers() {
        let error = EngineError::PromptTooLong {
            prompt_tokens: 300,
            n_ctx: 256,
        };
        let words = error.to_string();
        let crossed = ThumbprintError::from(Error::from(error));
        assert_eq!(
            crossed,
            ThumbprintError::PromptTooLong {
                code: "prompt_too_long".to_owned(),
                reason: words,
                prompt_tokens: 300,
                n_ctx: 256,
            }
        );
        let crossed = ThumbprintError::from(Error::from(StoreError::UnknownReply(ReplyId(7))));
        assert_eq!(
            (crossed.code(), crossed.reason()),
            ("unknown_reply", "there is no reply 7")
        );
    }

    #[test]
    fn what_a_listener_threw_is_told() {
        let thrown = uniffi::UnexpectedUniFFICallbackError::new("ValueError('no')");
        let crossed = ThumbprintError::from(thrown);
        assert_eq!(crossed.code(), "listener");
        assert!(crossed.reason().contains("ValueError('no')"));
    }
}
