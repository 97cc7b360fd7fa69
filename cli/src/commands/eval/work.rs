//! Sharing cells out among threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cells::{Bench, Record, Shared};
use super::plan::Cell;
use crate::error::{CliError, Result};

/// What is to be run.
pub struct Work<'a> {
    pub bench: &'a Bench<'a>,
    pub shared: &'a Shared,
    /// All cells, those that are known and those of other parts too.
    pub cells: &'a [Cell],
    /// Threads.
    pub jobs: usize,
}

/// What the threads share.
struct State<'r> {
    waiting: VecDeque<Vec<usize>>,
    done: BTreeMap<usize, Record>,
    failed: Option<CliError>,
    report: &'r mut (dyn FnMut(&[&Record]) -> Result<()> + Send),
}

impl Work<'_> {
    /// Runs groups of cells, each group in order by one thread, and gives back all records in the order of the cells. `report` is called
    /// with those so far whenever one is new. After an error nothing new is begun.
    ///
    /// # Errors
    /// The first error of a cell, or of `report`.
    pub fn run(
        &self,
        groups: Vec<Vec<usize>>,
        known: BTreeMap<usize, Record>,
        mut report: impl FnMut(&[&Record]) -> Result<()> + Send,
    ) -> Result<Vec<Record>> {
        let threads = self.jobs.min(groups.len());
        let state = Mutex::new(State {
            waiting: groups.into(),
            done: known,
            failed: None,
            report: &mut report,
        });
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(&state));
            }
        });
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(error) => Err(error),
            None => Ok(state.done.into_values().collect()),
        }
    }

    fn work(&self, state: &Mutex<State<'_>>) {
        loop {
            let mut now = lock(state);
            if now.failed.is_some() {
                return;
            }
            let Some(group) = now.waiting.pop_front() else {
                return;
            };
            drop(now);
            for at in group {
                if let Err(error) = self.one(at, state) {
                    lock(state).failed.get_or_insert(error);
                    return;
                }
            }
        }
    }

    fn one(&self, at: usize, state: &Mutex<State<'_>>) -> Result<()> {
        let (bench, cell) = (self.bench, &self.cells[at]);
        bench.interrupt.check()?;
        bench
            .out
            .note(&format!("cell {} of {}: {cell}", at + 1, self.cells.len()));
        let record = bench.run(cell, self.shared)?;
        bench.tidy_after(self.cells, at)?;
        let State { done, report, .. } = &mut *lock(state);
        done.insert(at, record);
        report(&done.values().collect::<Vec<_>>())
    }
}

fn lock<'s, 'r>(state: &'s Mutex<State<'r>>) -> MutexGuard<'s, State<'r>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
