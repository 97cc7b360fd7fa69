//! Simulated people with hidden tastes.
//!
//! Each sees only text, and answers only with feedback: a thumb, an edit, or a blind choice between two replies. Who they are is
//! a file ([`population`]): a utility built from documented [`features`] of the text, the questions they ask, and what a good
//! answer to each would mention. What they like is fixed before any training and is nobody else's business: neither trainer
//! nor gate may depend on this crate, and it depends on none of theirs. They prove the mechanism, not a real person's
//! satisfaction.
//!
//! ```
//! use thumbprint_simulated_user::{Population, SimulatedUser, Thumb, demo};
//!
//! let prompt = Population::development().find("Why do cats purr?").expect("a prompt of the file");
//! let replies = ["Cats purr when they are content, and sometimes to calm themselves.", "Why do cats purr?"];
//! let usual = replies.map(|reply| (prompt, reply));
//! let mut user = SimulatedUser::new(demo(), &usual, 7, 0.0);
//! assert_eq!(user.thumb(prompt, replies[1]), Thumb::Down);
//! ```

pub mod edits;
pub mod features;
mod lesson;
pub mod population;
mod random;
pub mod taste;
mod text;
mod user;

pub use features::keyword_recall;
pub use lesson::{Act, Course, Event, WORTH_EDITING, lesson};
pub use population::{Population, Prompt, User, UsersError, demo};
pub use random::Random;
pub use taste::{LOSES, NEAR_TIE, Taste};
pub use text::{estimated_tokens, opening};
pub use user::{Chances, Choice, SELF_AGREEMENT, SimulatedUser, Thumb, self_agreement};
