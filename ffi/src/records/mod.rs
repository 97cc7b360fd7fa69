//! What crosses the boundary by value.

mod adapters;
mod arena;
mod chat;
mod evaluate;
mod ids;
mod learning;
mod machine;
mod options;
mod reward;

pub use adapters::*;
pub use arena::*;
pub use chat::*;
pub use evaluate::*;
pub use learning::*;
pub use machine::*;
pub use options::*;
pub use reward::*;
