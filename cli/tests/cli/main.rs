//! The command as a user runs it: what it prints, its exit codes, what it leaves on the disk.
#![allow(clippy::unwrap_used)]

mod adapters;
mod app;
mod bad_input;
mod bench;
mod doctor;
mod eval;
mod harness;
mod judging;
mod output;
mod rankings;
mod score;
mod train;
