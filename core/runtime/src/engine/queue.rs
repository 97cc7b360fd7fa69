//! The engine's queue: what users wait for comes before background work, and can interrupt it
//! between two steps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Canceller, EngineError, Result};

/// Two first-in-first-out queues of commands, closed at shutdown.
pub(super) struct Queue<C> {
    state: Mutex<State<C>>,
    ready: Condvar,
}

struct State<C> {
    foreground: VecDeque<C>,
    background: VecDeque<C>,
    running: Vec<Canceller>,
    closed: bool,
}

/// Who waits for a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A person: it comes before background work, and training yields meanwhile.
    Foreground,
    /// Nobody: what people wait for comes first, also in the middle of it.
    Background,
}

impl<C> Queue<C> {
    pub(super) fn new() -> Self {
        let state = State {
            foreground: VecDeque::new(),
            background: VecDeque::new(),
            running: Vec::new(),
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            ready: Condvar::new(),
        }
    }

    pub(super) fn push(&self, priority: Priority, command: C) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::Stopped);
        }
        match priority {
            Priority::Foreground => state.foreground.push_back(command),
            Priority::Background => state.background.push_back(command),
        }
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for a command; `None` once closed.
    pub(super) fn pop(&self) -> Option<C> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(command) = state
                .foreground
                .pop_front()
                .or_else(|| state.background.pop_front())
            {
                return Some(command);
            }
            state = self
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A command that may interrupt background work, if one waits.
    pub(super) fn pop_foreground(&self) -> Option<C> {
        let mut state = self.lock();
        if state.closed {
            None
        } else {
            state.foreground.pop_front()
        }
    }

    /// Runs `work`, which `close` cancels.
    pub(super) fn cancellable<T>(&self, canceller: &Canceller, work: impl FnOnce() -> T) -> T {
        {
            let mut state = self.lock();
            if state.closed {
                canceller.cancel();
            }
            state.running.push(canceller.clone());
        }
        let result = work();
        self.lock().running.pop();
        result
    }

    /// Refuses new commands, drops those that wait and cancels what runs. Idempotent.
    pub(super) fn close(&self) {
        let (foreground, background) = {
            let mut state = self.lock();
            state.closed = true;
            state.running.iter().for_each(Canceller::cancel);
            self.ready.notify_all();
            (
                std::mem::take(&mut state.foreground),
                std::mem::take(&mut state.background),
            )
        };
        // Outside the lock: dropping a command wakes its caller.
        drop((foreground, background));
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether a user waits for the engine, so that training can yield the processor. Clones
/// share it.
#[derive(Debug, Clone, Default)]
pub struct Demand(Arc<AtomicUsize>);

impl Demand {
    /// Whether a generation is waiting or running.
    pub fn is_waiting(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Counts one generation until the guard is dropped.
    pub(super) fn begin(&self) -> DemandGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        DemandGuard(self.clone())
    }

    /// The same for what a person waits for, and nothing for the rest.
    pub(super) fn begin_at(&self, priority: Priority) -> Option<DemandGuard> {
        (priority == Priority::Foreground).then(|| self.begin())
    }
}

pub(super) struct DemandGuard(Demand);

impl Drop for DemandGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
