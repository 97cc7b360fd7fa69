//! A LoRA preference trainer for GGUF models.
//!
//! It knows nothing of SQL, chat, feedback or apps.

pub mod adapter;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod durable;
pub mod example;
pub mod graph;
pub mod model;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod preset;
pub mod rng;
pub mod schedule;
pub mod trainer;
