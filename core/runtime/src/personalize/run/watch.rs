//! Training yields to the user within one layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::Shared;
use crate::facade::Thumbprint;

/// Watches for the user and for the job's interruption while a piece of training runs.
pub struct Watch {
    over: Arc<AtomicBool>,
    abort: Arc<AtomicBool>,
    demand: Option<crate::engine::Demand>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    pub fn start(thumbprint: &Thumbprint, shared: &Shared, abort: Arc<AtomicBool>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let demand = thumbprint.demand();
        let (watch_over, watch_abort, watch_demand) =
            (Arc::clone(&over), Arc::clone(&abort), demand.clone());
        let interrupt = shared.interrupt_flag();
        let thread = std::thread::Builder::new()
            .name("thumbprint-watch".to_owned())
            .spawn(move || {
                while !watch_over.load(Ordering::Relaxed) {
                    let user = watch_demand
                        .as_ref()
                        .is_some_and(crate::engine::Demand::is_waiting);
                    watch_abort.store(user || interrupt.load(Ordering::Relaxed), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                watch_abort.store(false, Ordering::Relaxed);
            });
        Self {
            over,
            abort,
            demand,
            thread: thread.ok(),
        }
    }

    pub fn user_waits(&self) -> bool {
        let waits = self
            .demand
            .as_ref()
            .is_some_and(crate::engine::Demand::is_waiting);
        waits || self.abort.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
