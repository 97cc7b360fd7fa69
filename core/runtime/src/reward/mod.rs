//! What a reply is worth to the person: by an adapter's own reward, or by a small head that was fitted on their feedback. Pure.
//!
//! A language model that was tuned by DPO is a reward model (2305.18290, section 5): what it thinks of a reply, over what the base
//! thinks of it, is the reward that it was tuned for. The head is the usual explicit one (Bradley and Terry 1952): a linear
//! function of the base's hidden states on the reply, so that it is there before anything was trained, and cheap to fit.
//!
//! Must not know the engine, SQL, or how a number was measured.

mod head;
mod implicit;

pub use head::{CrossValidated, FOLDS, Head, HeadOptions, Judged, Judgement, L2_GRID, Unfit};
pub use implicit::{DEFAULT_BETA, Score};

pub(crate) use head::{Alike, fit};
