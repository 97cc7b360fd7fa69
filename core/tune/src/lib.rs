//! A LoRA preference trainer for GGUF models.
//!
//! It knows nothing of SQL, chat, feedback or apps.

pub mod adapter;
pub mod batch;
pub mod checkpoint;
pub mod data;
pub mod graph;
pub mod model;
pub mod durable;
pub mod objective;
pub mod optimizer;
pub mod rng;
pub mod schedule;
