//! Thumbprint: an embedded personalization runtime.

pub mod curation;
pub mod engine;
pub mod gate;
pub mod store;
pub mod types;
