//! Thumbprint: an embedded personalization runtime.
//!
//! An app opens a data folder, talks to a model, and passes on what its user says about the replies; from that the device
//! tunes a small adapter, checks that it helps, and swaps it in.
//!
//! ```no_run
//! use thumbprint::{Budget, Feedback, Message, Options, Request, Thumbprint};
//!
//! # fn main() -> thumbprint::Result<()> {
//! let tp = Thumbprint::open(Options::new("data").model("model.gguf"))?;
//! let reply = tp.generate(Request::new(vec![Message::user("Why is the sky blue?")]))?.wait()?;
//! tp.record(reply.id, &Feedback::Up)?;
//! let outcome = tp.personalize(Budget::default())?.wait()?;
//! println!("{outcome:?}");
//! # Ok(())
//! # }
//! ```
//!
//! The library has no network, and no text of the user's is in its errors or logs.

pub mod arena;
mod best_of;
mod conversation;
pub mod curation;
pub mod engine;
mod error;
pub mod evaluate;
pub mod exchange;
mod facade;
pub mod gate;
mod generation;
mod kind;
mod machine;
mod memory;
pub mod personalize;
pub mod reward;
pub mod store;
pub mod types;

pub use best_of::BestOf;
pub use conversation::Conversation;
pub use engine::{EngineOptions, FlashAttention, GenerateOptions, KvType, Overflow};
pub use error::{Error, Result};
pub use facade::{
    AdapterDetails, AdapterFormat, Contest, Match, Options, Part, Side, Thumbprint, Voted,
    hash_file, verify_model,
};
pub use generation::{Batch, By, Event, Generation, Reply, Request};
pub use kind::ErrorKind;
pub use machine::{Device, DeviceKind, Machine, machine};
pub use memory::{InferenceMemory, MemoryEstimate, TrainingMemory, estimate_memory};
pub use personalize::{
    Budget, GuardFile, Job, NOTHING_TO_LEARN, Online, Outcome, Phase, Progress, Recipe, WestOfN,
};
pub use store::{DatabaseKey, Target};
pub use thumbprint_tune::adapter::{Merged, matrix_type};
pub use types::{
    AdapterId, ConversationId, Feedback, FeedbackId, Judge, MatchId, Message, ReplyId, Role,
    Sampling, StopReason, Usage,
};
