//! Loading a model with an app's listener.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use crate::handle::Handle;
use crate::{Result, ThumbprintError};

/// Is told how far the loading of a model is.
#[uniffi::export(rust, foreign)]
pub trait LoadListener: Send + Sync {
    /// Called on the thread that loads, with 0.0 to 1.0 and no lock held. False cancels, and so does an error; at the very
    /// end that may come too late, and the model be loaded.
    fn on_progress(&self, fraction: f32) -> std::result::Result<bool, ThumbprintError>;
}

/// Loads on a thread of its own, and calls the listener on this one: the facade holds its model's lock while it loads, and a listener
/// may call whatever it likes.
pub(crate) fn load(
    handle: &Handle,
    model: String,
    listener: Option<&Arc<dyn LoadListener>>,
) -> Result<()> {
    let core = handle.core()?;
    let stop = AtomicBool::new(false);
    let (progress, reports) = channel();
    thread::scope(|scope| {
        let (core, stop) = (&core, &stop);
        let loading = thread::Builder::new()
            .name("thumbprint-load".to_owned())
            .spawn_scoped(scope, move || {
                core.load(PathBuf::from(model), &mut |fraction| {
                    // Nobody reads any more once the listener has refused.
                    let _ = progress.send(fraction);
                    match stop.load(Ordering::Relaxed) || handle.is_closed() {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                })
            })
            .map_err(|error| ThumbprintError::internal(format!("no thread: {error}")))?;
        let refused = listener.and_then(|listener| {
            // Reports wait in line while a listener takes its time: after the end nobody wants them.
            reports
                .iter()
                .take_while(|_| !handle.is_closed())
                .find_map(|fraction| match listener.on_progress(fraction) {
                    Ok(true) => None,
                    Ok(false) => Some(ThumbprintError::cancelled()),
                    Err(error) => Some(error),
                })
        });
        stop.store(refused.is_some(), Ordering::Relaxed);
        let loaded = loading
            .join()
            .map_err(|_| ThumbprintError::internal("the loading thread panicked".to_owned()))?;
        match refused {
            // Shut down at the very end of loading: what was loaded is gone again.
            None if handle.is_closed() => Err(ThumbprintError::closed()),
            None => Ok(loaded?),
            // It may be loaded by now. Unloading it here could hit one that another thread has loaded since.
            Some(error) => Err(error),
        }
    })
}
