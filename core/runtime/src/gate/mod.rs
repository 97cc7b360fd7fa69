//! Decides what becomes of an adapter: pure functions over measured numbers.
//!
//! Two tiers. The *offline* tier ([`offline`]) looks at what the trained candidate does on prompts that it did not learn
//! from; it can reject, never confirm. What passes goes on *trial*: active, unconfirmed, and frozen. The *online* tier
//! ([`decide`]) watches blind votes against the base through an e-process, and promotes the trial or rolls it back.
//!
//! ```text
//! Candidate ──offline──▶ Trial ──votes──▶ Promoted
//!     │                    │                  │
//!     └──▶ Rejected        └──▶ RolledBack ◀──┘
//! ```
//!
//! Owns the limits, the statistics and the texts of the neutral guards. Must not know the engine, SQL, or how a number
//! was measured; it never sees what a person wrote.

mod cholesky;
mod eprocess;
mod evidence;
mod folds;
mod guards;
pub(crate) mod logistic;
mod measurements;
pub mod neutral;
mod offline;
pub mod replay;
mod state;
pub mod stats;
mod strength;
pub mod text;

pub use eprocess::{
    BLIND_SHARE, Decision, EProcess, FAMILY_ALPHA, Fate, MIN_VOTES_TO_PROMOTE, ROLL_BACK_AT,
    TRIAL_DAYS, TRIAL_VOTES, Verdict, Vote, decide, fate, promotion_threshold,
    trial_may_be_replaced,
};
pub use evidence::{Evidence, Opinion, evidence};
pub use folds::{FoldResults, Judged, TELLING_ITEMS, held_out, level};
pub use guards::{Bounds, Guard, GuardResult, Limits, guards};
pub use measurements::{AppFile, BaseMeasurements, Measurements, Rate, ScaleMeasurements};
pub use offline::{
    FEW_THUMBS, FEW_THUMBS_SCALE, Offline, OfflineReport, ScaleReport, next_scale, offline,
};
pub use state::{AdapterState, Event, IllegalTransition};
pub use strength::{STRENGTHS, TARGET_KL, WITH_EDITS, distance, strength};
