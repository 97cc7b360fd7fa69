//! What the library logs, handed to the app.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::translate::lock;
use crate::{Result, ThumbprintError};

/// How important a [`LogRecord`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, uniffi::Enum)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something happened.
    Info,
    /// For people who look into it.
    Debug,
}

/// One line of the log. It never holds what a person wrote.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct LogRecord {
    /// How important it is.
    pub level: LogLevel,
    /// The part of the library that logs.
    pub target: String,
    /// What is to be said, and its numbers.
    pub text: String,
}

/// Is handed what the library logs.
#[uniffi::export(rust, foreign)]
pub trait LogSink: Send + Sync {
    /// Called on a thread of its own, one record after the other, with no lock held. Its errors are ignored.
    fn on_log(&self, record: LogRecord) -> std::result::Result<(), ThumbprintError>;
}

static SINK: Mutex<Option<Arc<dyn LogSink>>> = Mutex::new(None);

/// Hands what the library logs to `sink` from now on, instead of to the one before; without one it is dropped. For the whole process.
#[uniffi::export]
pub fn set_log_sink(sink: Option<Arc<dyn LogSink>>) -> Result<()> {
    // What is set is let go of outside the lock: that calls into the app.
    let before = std::mem::replace(&mut *lock(&SINK), sink);
    drop(before);
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(start)
        .clone()
        .map_err(ThumbprintError::internal)
}

/// Records go through a channel, since whoever logs may hold locks of the library's.
fn start() -> std::result::Result<(), String> {
    let (records, waiting) = channel::<LogRecord>();
    let deliver = move || {
        for record in waiting {
            let sink = lock(&SINK).clone();
            if let Some(sink) = sink {
                // There is nobody to tell.
                let _ = sink.on_log(record);
            }
        }
    };
    thread::Builder::new()
        .name("thumbprint-log".to_owned())
        .spawn(deliver)
        .map_err(|error| format!("no thread: {error}"))?;
    let forward = Forward {
        records,
        spans: AtomicU64::new(0),
    };
    tracing::subscriber::set_global_default(forward).map_err(|error| error.to_string())
}

/// Takes events of this library's crates; spans mean nothing to it.
struct Forward {
    records: Sender<LogRecord>,
    spans: AtomicU64,
}

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("thumbprint") && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let record = LogRecord {
            level: match *metadata.level() {
                Level::ERROR => LogLevel::Error,
                Level::WARN => LogLevel::Warn,
                Level::INFO => LogLevel::Info,
                _ => LogLevel::Debug,
            },
            target: metadata.target().to_owned(),
            text: text.0,
        };
        // The receiver lives as long as the process.
        let _ = self.records.send(record);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, then `name = value` for each field.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name} = {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    struct Keep(Mutex<Sender<LogRecord>>);

    impl LogSink for Keep {
        fn on_log(&self, record: LogRecord) -> Result<()> {
            lock(&self.0).send(record).unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_warning_reaches_the_sink_with_its_fields_and_another_crates_does_not() {
        let (sender, records) = channel();
        set_log_sink(Some(Arc::new(Keep(Mutex::new(sender))))).unwrap();
        tracing::warn!(target: "other", "not ours");
        tracing::warn!(target: "thumbprint::store", pages = 3, "a page is damaged");
        let record = records.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(record.level, LogLevel::Warn);
        assert_eq!(record.text, "a page is damaged pages = 3");
        set_log_sink(None).unwrap();
    }
}
