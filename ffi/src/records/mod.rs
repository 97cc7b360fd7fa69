//! What crosses the boundary by value.

mod adapters;
mod chat;
mod ids;
mod learning;
mod machine;
mod options;

pub use adapters::*;
pub use chat::*;
pub use learning::*;
pub use machine::*;
pub use options::*;
