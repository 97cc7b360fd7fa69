//! Learning from the log, in the background.

use std::sync::Arc;

use thumbprint::Job;

use crate::handle::Handle;
use crate::translate::Translate;
use crate::{Outcome, Progress, Result, ThumbprintError};

/// Is told how far a job is.
#[uniffi::export(rust, foreign)]
pub trait JobListener: Send + Sync {
    /// Called on the thread that waits, whenever progress changes, with no lock held. An error ends the waiting; the job goes on.
    fn on_progress(&self, progress: Progress) -> std::result::Result<(), ThumbprintError>;
}

/// A running or resting job.
#[derive(uniffi::Object)]
pub struct PersonalizeJob {
    handle: Arc<Handle>,
    job: Job,
}

impl PersonalizeJob {
    pub(crate) fn new(handle: &Arc<Handle>, job: Job) -> Arc<Self> {
        Arc::new(Self {
            handle: Arc::clone(handle),
            job,
        })
    }
}

#[uniffi::export]
impl PersonalizeJob {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.job.progress().translate()
    }

    /// Waits for progress that differs from `last`, or without one takes what there is; absent once the job is over or rests. For
    /// iterators and streams.
    #[uniffi::method(default(last = None))]
    pub fn next_progress(&self, last: Option<Progress>) -> Option<Progress> {
        let last = last.map(Translate::translate);
        self.job.next_progress(last.as_ref()).translate()
    }

    /// Waits until it is over or rests, telling `listener` about progress. What it failed with is told once in full; later calls get
    /// the same words.
    #[uniffi::method(default(listener = None))]
    pub fn wait_for_outcome(&self, listener: Option<Arc<dyn JobListener>>) -> Result<Outcome> {
        if let Some(listener) = listener {
            let mut last = None;
            while let Some(progress) = self.job.next_progress(last.as_ref()) {
                listener.on_progress(progress.clone().translate())?;
                last = Some(progress);
            }
        }
        Outcome::of(self.job.wait()?)
    }

    /// Rests within one layer, and gives its memory back. What was learned so far is kept, also if the process ends.
    pub fn pause(&self) {
        self.job.pause();
    }

    /// Goes on after a pause.
    pub fn resume(&self) -> Result<()> {
        self.handle.core()?;
        Ok(self.job.resume()?)
    }

    /// Gives up and cleans up.
    pub fn cancel(&self) -> Result<()> {
        self.handle.core()?;
        self.job.cancel();
        Ok(())
    }

    /// Whether it is over for good.
    pub fn is_finished(&self) -> bool {
        self.job.is_finished()
    }
}
