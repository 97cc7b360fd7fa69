//! Ends calls that wait for something long and have no handle of their own.

use std::sync::Arc;

use thumbprint::engine;

/// Ends the calls that it was handed to. For one call, or for several that end together.
#[derive(Default, uniffi::Object)]
pub struct Canceller(engine::Canceller);

#[uniffi::export]
impl Canceller {
    /// One that has cancelled nothing yet.
    #[uniffi::constructor]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends them within one token, or one piece of a text. Those that begin later end at once. From any thread.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// The facade's form of one that may be absent.
pub(crate) fn of(canceller: Option<Arc<Canceller>>) -> engine::Canceller {
    canceller.map_or_else(engine::Canceller::default, |canceller| canceller.0.clone())
}
