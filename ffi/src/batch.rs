//! Replies that are being generated together.

use std::sync::{Arc, Mutex};

use thumbprint::engine::Canceller;

use crate::handle::Handle;
use crate::translate::{Translate, lock};
use crate::{Reply, Result, ThumbprintError};

/// Replies that are being generated together. Letting go of it cancels them; what was not complete is not recorded.
#[derive(uniffi::Object)]
pub struct Batch {
    handle: Arc<Handle>,
    batch: Mutex<Option<thumbprint::Batch>>,
    canceller: Canceller,
}

impl Batch {
    pub(crate) fn new(handle: &Arc<Handle>, batch: thumbprint::Batch) -> Arc<Self> {
        Arc::new(Self {
            handle: Arc::clone(handle),
            canceller: batch.canceller(),
            batch: Mutex::new(Some(batch)),
        })
    }
}

#[uniffi::export]
impl Batch {
    /// Waits for all of them, in the order of the requests. Once.
    pub fn wait_for_replies(&self) -> Result<Vec<Reply>> {
        self.handle.core()?;
        let Some(batch) = lock(&self.batch).take() else {
            return Err(ThumbprintError::InvalidState {
                code: "batch_taken".to_owned(),
                reason: "the replies of this batch were taken before: start another one".to_owned(),
            });
        };
        let replies = batch.wait_with(&mut |_| {});
        Ok(replies
            .map_err(|error| self.handle.explain(error))?
            .translate())
    }

    /// Stops those that are not complete, within one token. They still come, with the text they have. From any thread.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }
}
