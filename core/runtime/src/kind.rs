//! Errors sorted by what an app can do about them, under codes that stay the same from version to version.

use thumbprint_ggml::llama::LlamaError;

use crate::engine::EngineError;
use crate::error::Error;
use crate::store::StoreError;

/// What an app can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing: it was asked for. Cancelled, or the model was unloaded meanwhile.
    Cancelled,
    /// Close the data folder elsewhere first.
    FolderInUse,
    /// See to the disk or the folder's permissions, or update the app.
    Storage,
    /// Forget the id: what it named is not there, or not any more.
    NotFound,
    /// Ask differently.
    InvalidInput,
    /// Say less, or load the model with a larger context.
    PromptTooLong,
    /// Do something else first.
    InvalidState,
    /// Take another model's file, or get it again.
    Model,
    /// Roll the adapter back, or personalize again.
    Adapter,
    /// See to the file.
    File,
    /// Allow more memory, or take a smaller model.
    OverBudget,
    /// Try again later; if it stays, report it.
    Training,
}

impl Error {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.sorted().0
    }

    /// Its name, which later versions keep: "unknown_reply", "disk_full".
    pub fn code(&self) -> &'static str {
        self.sorted().1
    }

    fn sorted(&self) -> (ErrorKind, &'static str) {
        use ErrorKind::*;
        match self {
            Self::Store(error) => of_store(error),
            Self::Engine(error) => of_engine(error),
            Self::Train(_) => (Training, "training"),
            Self::Model(_) => (Model, "untrainable_model"),
            Self::OverBudget(_) => (OverBudget, "memory_budget"),
            Self::Adapter(_) => (Adapter, "adapter_file"),
            Self::Checkpoint(_) => (Training, "checkpoint"),
            Self::NoModel => (InvalidState, "no_model"),
            Self::File { .. } => (File, "file"),
            Self::Write { .. } => (File, "write"),
            Self::WrongHash { .. } => (Model, "wrong_hash"),
            Self::AdapterChanged { .. } => (Adapter, "adapter_changed"),
            Self::ForgottenAdapter { .. } => (InvalidState, "forgotten_adapter"),
            Self::State { .. } => (InvalidState, "adapter_state"),
            Self::NoActiveAdapter => (InvalidState, "no_active_adapter"),
            Self::NoHead => (InvalidState, "no_head"),
            Self::HeadOfAnotherModel => (InvalidState, "head_of_another_model"),
            Self::Head(_) => (InvalidState, "unfit_head"),
            Self::TooLittleFeedback(_) => (InvalidState, "too_little_feedback"),
            Self::Data(_) => (File, "data"),
            Self::TooLong { .. } => (InvalidInput, "row_too_long"),
            Self::SameContestant => (InvalidInput, "same_contestant"),
            Self::NothingToRegenerate => (InvalidState, "nothing_to_regenerate"),
            Self::NothingToEdit => (InvalidState, "nothing_to_edit"),
            Self::Recipe(_) => (InvalidInput, "recipe"),
            Self::Job(_) => (Training, "job"),
        }
    }
}

fn of_store(error: &StoreError) -> (ErrorKind, &'static str) {
    use ErrorKind::*;
    match error {
        StoreError::Folder { .. } => (Storage, "folder"),
        StoreError::ReadOnly { .. } => (Storage, "read_only"),
        StoreError::InUse { .. } => (FolderInUse, "folder_in_use"),
        StoreError::NewerVersion { .. } => (Storage, "newer_version"),
        StoreError::KeyLength { .. } => (InvalidInput, "key_length"),
        StoreError::CannotEncrypt => (Storage, "cannot_encrypt"),
        StoreError::KeyNeeded { .. } => (Storage, "key_needed"),
        StoreError::NotEncrypted { .. } => (Storage, "not_encrypted"),
        StoreError::WrongKey { .. } => (Storage, "wrong_key"),
        StoreError::Corrupt => (Storage, "damaged"),
        StoreError::DiskFull => (Storage, "disk_full"),
        StoreError::Abandoned => (Storage, "nothing_recorded"),
        StoreError::Unreadable { .. } => (Storage, "unreadable_row"),
        StoreError::UnknownReply(_) => (NotFound, "unknown_reply"),
        StoreError::UnknownFeedback(_) => (NotFound, "unknown_feedback"),
        StoreError::UnknownConversation(_) => (NotFound, "unknown_conversation"),
        StoreError::UnknownMessage(_) => (NotFound, "unknown_message"),
        StoreError::UnknownAdapter(_) => (NotFound, "unknown_adapter"),
        StoreError::UnknownMatch(_) => (NotFound, "unknown_match"),
        StoreError::AlreadyVoted(_) => (InvalidState, "already_voted"),
        StoreError::UnknownRun(_) => (NotFound, "unknown_run"),
        StoreError::ForgottenRun(_) => (InvalidState, "forgotten_run"),
        StoreError::ForgottenItem(_) => (InvalidState, "forgotten_item"),
        StoreError::OtherPrompt(_) => (InvalidInput, "other_prompt"),
        StoreError::SameReply(_) => (InvalidInput, "same_reply"),
        StoreError::Empty { .. } => (InvalidInput, "empty_text"),
        StoreError::NotServable { .. } => (InvalidState, "adapter_not_servable"),
        StoreError::OtherBase { .. } => (InvalidState, "adapter_of_another_model"),
        StoreError::Sqlite(_) => (Storage, "database"),
    }
}

fn of_engine(error: &EngineError) -> (ErrorKind, &'static str) {
    use ErrorKind::*;
    match error {
        EngineError::Llama(error) => of_llama(error),
        EngineError::Template { .. } => (Model, "chat_template"),
        EngineError::EmptyPrompt => (InvalidInput, "empty_prompt"),
        EngineError::PromptTooLong { .. } => (PromptTooLong, "prompt_too_long"),
        EngineError::InvalidOption { .. } => (InvalidInput, "invalid_option"),
        EngineError::CannotScore { .. } => (InvalidInput, "cannot_score"),
        EngineError::Cancelled => (Cancelled, "cancelled"),
        EngineError::Stopped => (Cancelled, "unloaded"),
    }
}

fn of_llama(error: &LlamaError) -> (ErrorKind, &'static str) {
    use ErrorKind::*;
    match error {
        LlamaError::ModelFile { .. } => (Model, "model_file"),
        LlamaError::Sampling { .. } => (InvalidInput, "invalid_option"),
        LlamaError::TextTooLong { .. } => (InvalidInput, "text_too_long"),
        LlamaError::Adapter { .. }
        | LlamaError::AdapterOfAnotherModel
        | LlamaError::AdapterTensor { .. } => (Adapter, "adapter_file"),
        LlamaError::LoadCancelled | LlamaError::Cancelled => (Cancelled, "cancelled"),
        _ => (Model, "inference"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReplyId;

    #[test]
    fn errors_of_every_layer_keep_their_kinds_and_codes() {
        let cases = [
            (Error::NoModel, ErrorKind::InvalidState, "no_model"),
            (StoreError::DiskFull.into(), ErrorKind::Storage, "disk_full"),
            (
                StoreError::UnknownReply(ReplyId(1)).into(),
                ErrorKind::NotFound,
                "unknown_reply",
            ),
            (
                EngineError::Stopped.into(),
                ErrorKind::Cancelled,
                "unloaded",
            ),
            (
                EngineError::from(LlamaError::LoadCancelled).into(),
                ErrorKind::Cancelled,
                "cancelled",
            ),
            (
                EngineError::from(LlamaError::NothingToChoose).into(),
                ErrorKind::Model,
                "inference",
            ),
        ];
        for (error, kind, code) in cases {
            assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
        }
    }
}
