//! A simulated person who likes short, direct answers.
//!
//! Sees only text, and answers only with feedback: a thumb, or a blind choice between two replies. What this person likes
//! is fixed in [`taste`] before any training and is nobody else's business: neither trainer nor gate may depend on this
//! crate, and it depends on none of theirs. It proves the mechanism, not a real person's satisfaction.
//!
//! ```
//! use thumbprint_simulated_user::{SimulatedUser, Thumb, prompts, utility};
//!
//! let prompt = prompts::find("Why do cats purr?").expect("a prompt of the list");
//! let replies = ["Cats purr when they are content, and sometimes to calm themselves.", "Why do cats purr?"];
//! let mut user = SimulatedUser::new(7, 0.0);
//! user.calibrate(&replies.map(|reply| utility(prompt, reply)));
//! assert_eq!(user.thumb(prompt, replies[1]), Thumb::Down);
//! ```

pub mod prompts;
mod random;
pub mod taste;
mod text;
mod user;

pub use prompts::Prompt;
pub use taste::{keyword_recall, preference, utility};
pub use text::{estimated_tokens, opening};
pub use user::{Choice, LIKED, SELF_AGREEMENT, SimulatedUser, Thumb, self_agreement};
