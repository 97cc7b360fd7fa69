//! How far a long phase is: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::output::Output;

/// Time between lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// One phase.
pub struct Watch<'a> {
    out: &'a Output,
    what: &'static str,
    bar: ProgressBar,
    told: Cell<Instant>,
}

impl<'a> Watch<'a> {
    /// A phase of so many parts.
    pub fn new(out: &'a Output, parts: usize, what: &'static str) -> Self {
        if !stderr().is_terminal() {
            out.note(&format!("{what} ..."));
        }
        Self {
            out,
            what,
            bar: out.progress(parts as u64, what),
            told: Cell::new(Instant::now()),
        }
    }

    /// One part is done.
    pub fn step(&self) {
        self.set(self.bar.position() + 1, self.bar.length().unwrap_or(0));
    }

    /// So many of so many parts are done.
    pub fn set(&self, done: u64, of: u64) {
        self.bar.set_length(of);
        self.bar.set_position(done);
        if !stderr().is_terminal() && self.told.get().elapsed() > EVERY {
            self.told.set(Instant::now());
            self.out.note(&format!("{}: {done} of {of}", self.what));
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
