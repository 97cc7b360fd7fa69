//! Thumbprint for other languages: the facade of the `thumbprint` crate, translated and nothing more. uniffi generates Kotlin, Swift
//! and Python from it.
//!
//! What other languages impose:
//!
//! - Calls block, listeners are synchronous, and what takes long has a handle with `cancel()`. Each language's wrapper makes its own
//!   async of that.
//! - Objects are shared and their methods take `&self`. [`Thumbprint::shutdown`] ends one early; after it every call fails with
//!   [`ThumbprintError::Closed`].
//! - Listeners are called with no lock held, so they may call anything, `shutdown` included.
//! - No method is named `close` or `wait`, and no field of an error `message` or `cause`: Kotlin has its own.
//! - Events cross one by one, which does not matter beside the 13 milliseconds that a token of the smallest model takes: 12 to 32
//!   microseconds to Python, 7 to 16 to Swift (a debug build), and 120 to 400 to Kotlin on a JVM that has just started, all beside
//!   other work. A test in each language prints its own.
//! - An option that is absent takes the facade's default; no default is written down twice.

mod batch;
mod canceller;
mod conversation;
mod error;
mod facade;
mod functions;
mod generation;
mod handle;
mod job;
mod load;
mod log;
mod records;
mod translate;

pub use batch::Batch;
pub use canceller::Canceller;
pub use conversation::Conversation;
pub use error::ThumbprintError;
pub use facade::{EvaluationListener, Thumbprint};
pub use functions::*;
pub use generation::Generation;
pub use job::{JobListener, PersonalizeJob};
pub use load::LoadListener;
pub use log::{LogLevel, LogRecord, LogSink, set_log_sink};
pub use records::*;

uniffi::setup_scaffolding!();

/// Results across the boundary.
type Result<T> = std::result::Result<T, ThumbprintError>;
