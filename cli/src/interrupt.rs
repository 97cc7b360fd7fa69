//! Ctrl-C: the first one asks the command to end in order, the second one ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{CliError, Result};

/// Whether the user asked to stop.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C (and SIGTERM) only raise a flag; once it is up, they end the process.
    ///
    /// # Errors
    /// The system refused.
    pub fn install() -> Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: at the first signal the flag is not up yet when the first of the two looks.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&raised))
                .map_err(refused)?;
            flag::register(signal, Arc::clone(&raised)).map_err(refused)?;
        }
        Ok(Self(raised))
    }

    /// Raises `flag` too, at once if it was asked for before.
    ///
    /// # Errors
    /// The system refused.
    pub fn also_raise(&self, flag: Arc<AtomicBool>) -> Result<()> {
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&flag)).map_err(refused)?;
        }
        if self.is_raised() {
            flag.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether to end.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`CliError::Interrupted`] once the flag is up.
    pub fn check(&self) -> Result<()> {
        if self.is_raised() {
            Err(CliError::Interrupted(String::new()))
        } else {
            Ok(())
        }
    }
}

fn refused(error: std::io::Error) -> CliError {
    CliError::Failed(format!("cannot handle Ctrl-C: {error}"))
}
