//! Who has a data folder open. Opening it again gives another handle to the same instance; the last one to be shut down closes it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use thumbprint::Thumbprint;

use crate::translate::lock;
use crate::{Generation, Options, Result, ThumbprintError};

/// Handles to each data folder. Held while one is opened or closed, so that neither happens in the middle of the other.
static OPEN: Mutex<Option<HashMap<PathBuf, usize>>> = Mutex::new(None);

/// One opening of a data folder, shared by the objects that came of it.
pub(crate) struct Handle {
    core: Mutex<Option<Thumbprint>>,
    closed: AtomicBool,
    generations: Mutex<Vec<Weak<Generation>>>,
}

impl Handle {
    pub fn open(options: Options) -> Result<Arc<Self>> {
        let mut open = lock(&OPEN);
        let core = Thumbprint::open(options.translate()?)?;
        let handles = open.get_or_insert_default();
        *handles.entry(core.store().dir().to_owned()).or_default() += 1;
        Ok(Arc::new(Self {
            core: Mutex::new(Some(core)),
            closed: AtomicBool::new(false),
            generations: Mutex::default(),
        }))
    }

    /// The facade, unless this was shut down. No lock is held while it is used.
    pub fn core(&self) -> Result<Thumbprint> {
        lock(&self.core).clone().ok_or_else(ThumbprintError::closed)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Starts a generation that `shutdown` ends.
    pub fn generation(
        self: &Arc<Self>,
        start: impl FnOnce(&Thumbprint) -> thumbprint::Result<thumbprint::Generation>,
    ) -> Result<Arc<Generation>> {
        let started = start(&self.core()?).map_err(|error| self.explain(error))?;
        let generation = Arc::new(Generation::new(self, started));
        let mut generations = lock(&self.generations);
        generations.retain(|other| other.strong_count() > 0);
        generations.push(Arc::downgrade(&generation));
        drop(generations);
        if self.is_closed() {
            generation.end();
            return Err(ThumbprintError::closed());
        }
        Ok(generation)
    }

    /// What was cut off by a shutdown failed because of that.
    pub fn explain(&self, error: thumbprint::Error) -> ThumbprintError {
        match self.is_closed() {
            true => ThumbprintError::closed(),
            false => error.into(),
        }
    }

    /// Ends what runs through this handle. The last handle to a folder also pauses its job, unloads the model and releases every
    /// lock. Whoever calls it meanwhile returns when that is done, too.
    pub fn shutdown(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let generations: Vec<_> = lock(&self.generations)
            .drain(..)
            .filter_map(|generation| generation.upgrade())
            .collect();
        generations.iter().for_each(|generation| generation.end());
        // Before the facade is taken: a second caller waits here for the first.
        let mut open = lock(&OPEN);
        let Some(core) = lock(&self.core).take() else {
            return;
        };
        let handles = open.get_or_insert_default();
        let dir = core.store().dir();
        if let Some(others) = handles.get_mut(dir).filter(|count| **count > 1) {
            *others -= 1;
            return;
        }
        handles.remove(dir);
        if let Err(error) = core.suspend() {
            tracing::warn!(%error, "the data folder could not be closed properly");
        }
        // The engine has stopped, so none of them waits; one may have recorded its reply just now, which opened the store again.
        generations
            .iter()
            .for_each(|generation| generation.wait_until_ended());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.shutdown();
        }
    }
}
