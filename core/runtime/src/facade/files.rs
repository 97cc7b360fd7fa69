//! Feedback in and out of files.

use std::io::{self, BufRead, Write};
use std::path::Path;

use thumbprint_tune::durable;

use super::Thumbprint;
use crate::error::{Error, Result};
use crate::exchange;

impl Thumbprint {
    /// Takes in feedback from a file, all of it or nothing (see [`exchange`](crate::exchange)). What was taken in before changes nothing.
    ///
    /// # Errors
    /// The first line that cannot be used, or of the store.
    pub fn import<R: BufRead>(
        &self,
        reader: &mut exchange::Reader<R>,
    ) -> std::result::Result<exchange::Imported, exchange::ImportError> {
        let said = reader
            .by_ref()
            .map(|said| said.map_err(exchange::ImportError::from));
        let recorded = self.0.store.record_all(said)?;
        Ok(exchange::Imported {
            recorded: recorded.new,
            known: recorded.known,
            ..reader.counts().clone()
        })
    }

    /// Writes feedback in effect as lines of a format (see [`exchange::export`]).
    ///
    /// # Errors
    /// Of the store, or of the writer.
    pub fn export_feedback(
        &self,
        format: exchange::Format,
        out: &mut dyn Write,
    ) -> Result<exchange::Exported> {
        let log = self.0.store.effective_feedback()?;
        exchange::export(&log, format, out).map_err(|source| Error::Write { source })
    }

    /// The same into a file, which is replaced whole or not at all.
    ///
    /// # Errors
    /// Of the store, or [`Error::File`].
    pub fn export_feedback_to(
        &self,
        format: exchange::Format,
        path: &Path,
    ) -> Result<exchange::Exported> {
        let mut exported = exchange::Exported::default();
        let mut refused = None;
        let written = durable::replace(path, |file| match self.export_feedback(format, file) {
            Ok(written) => {
                exported = written;
                Ok(())
            }
            Err(Error::Write { source }) => Err(source),
            Err(error) => {
                refused = Some(error);
                Err(io::Error::other("the feedback cannot be read"))
            }
        });
        match refused {
            Some(error) => Err(error),
            None => Ok(written.map(|()| exported)?),
        }
    }
}
