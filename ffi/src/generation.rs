//! A reply that is being generated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use thumbprint::engine::Canceller;

use crate::handle::Handle;
use crate::translate::{Translate, lock};
use crate::{Event, Reply, Result, ThumbprintError};

/// A reply that is being generated. Take its events with `next` until there are no more, or the whole with `wait_for_reply`. Letting
/// go of it cancels it; what was not complete is not recorded.
#[derive(uniffi::Object)]
pub struct Generation {
    state: Mutex<State>,
    canceller: Canceller,
    closed: AtomicBool,
    /// Keeps the folder open while an app holds this alone.
    _handle: Arc<Handle>,
}

enum State {
    Running(thumbprint::Generation),
    Done(Reply),
    Failed,
    Closed,
}

impl Generation {
    pub(crate) fn new(handle: &Arc<Handle>, generation: thumbprint::Generation) -> Self {
        Self {
            canceller: generation.canceller(),
            state: Mutex::new(State::Running(generation)),
            closed: AtomicBool::new(false),
            _handle: Arc::clone(handle),
        }
    }

    /// Ends it without waiting for a thread that waits for its next event: that one sees to it.
    pub(crate) fn end(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.canceller.cancel();
        if let Ok(mut state) = self.state.try_lock() {
            *state = State::Closed;
        }
    }

    /// Gives back what it holds of model and store.
    pub(crate) fn wait_until_ended(&self) {
        *lock(&self.state) = State::Closed;
    }

    fn step(&self) -> Result<Option<Event>> {
        let mut state = lock(&self.state);
        let running = match &mut *state {
            State::Running(running) => running,
            State::Done(_) | State::Failed => return Ok(None),
            State::Closed => return Err(ThumbprintError::closed()),
        };
        let next = running.next();
        if self.closed.load(Ordering::SeqCst) {
            *state = State::Closed;
            return Err(ThumbprintError::closed());
        }
        match next {
            Ok(Some(thumbprint::Event::Token(text))) => Ok(Some(Event::Token { text })),
            Ok(Some(thumbprint::Event::Done(reply))) => {
                let reply: Reply = reply.translate();
                *state = State::Done(reply.clone());
                Ok(Some(Event::Done { reply }))
            }
            Ok(None) => {
                *state = State::Failed;
                Ok(None)
            }
            Err(error) => {
                *state = State::Failed;
                Err(error.into())
            }
        }
    }
}

#[uniffi::export]
impl Generation {
    /// Waits for the next event; absent after `Done` or an error. From several threads at once, each event goes to one of them.
    pub fn next(&self) -> Result<Option<Event>> {
        let event = self.step();
        // Ended between the check in `step` and the release of its lock.
        if self.closed.load(Ordering::SeqCst) {
            self.wait_until_ended();
        }
        event
    }

    /// Waits for the complete reply, passing over its pieces. May be called again.
    pub fn wait_for_reply(&self) -> Result<Reply> {
        loop {
            match self.next()? {
                Some(Event::Done { reply }) => return Ok(reply),
                Some(Event::Token { .. }) => {}
                None => {
                    return match &*lock(&self.state) {
                        State::Done(reply) => Ok(reply.clone()),
                        State::Closed => Err(ThumbprintError::closed()),
                        State::Running(_) | State::Failed => Err(ThumbprintError::InvalidState {
                            code: "generation_failed".to_owned(),
                            reason: "the generation failed, as was told before: start another one"
                                .to_owned(),
                        }),
                    };
                }
            }
        }
    }

    /// Stops it within one token, or within one piece of the prompt. `Done` still comes, with what there is. From any thread.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }
}
