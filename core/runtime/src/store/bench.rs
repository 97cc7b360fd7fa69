//! How long it takes to record a thumb, beside what the disk itself takes.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use rusqlite::params;

use super::database::Durability;
use super::lock::folder_error;
use super::sql::{now_ms, to_json};
use super::{Result, Store};
use crate::types::{Feedback, Message, ReplyId, prompt_key};

/// Percentiles over single calls, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct RecordLatency {
    /// Rows of feedback in the database, each with a reply of its own.
    pub rows: u64,
    /// Median time to record one thumb.
    pub p50_ms: f64,
    /// 99th percentile of the same.
    pub p99_ms: f64,
    /// Median time to write 4 KiB to a file in the same folder and sync it: the floor for any
    /// durable write.
    pub fsync_p50_ms: f64,
    /// 99th percentile of the same.
    pub fsync_p99_ms: f64,
    /// Seconds it took to fill the database.
    pub fill_seconds: f64,
}

/// Thumbs timed.
const SAMPLES: usize = 1000;

/// Fills an empty store in `dir` with `rows` thumbs and times a thousand more, alternating each
/// with a bare sync.
pub fn bench_record(dir: &Path, rows: u64) -> Result<RecordLatency> {
    let (store, _) = Store::open(dir)?;
    let started = Instant::now();
    fill(&store, rows)?;
    let fill_seconds = started.elapsed().as_secs_f64();

    let probe_path = dir.join("bench-sync");
    let io = |source| folder_error(dir, source);
    let mut probe = File::create(&probe_path).map_err(io)?;
    let mut records = Vec::with_capacity(SAMPLES);
    let mut syncs = Vec::with_capacity(SAMPLES);
    for sample in 0..SAMPLES as u64 {
        // A stride that is coprime with any power of ten visits replies all over the table.
        let reply = ReplyId((sample * 7919 * 31 % rows.max(1)) as i64 + 1);
        let started = Instant::now();
        store.record_feedback(reply, &Feedback::Up)?;
        records.push(started.elapsed().as_secs_f64() * 1e3);

        let started = Instant::now();
        probe.seek(SeekFrom::Start(0)).map_err(io)?;
        probe.write_all(&[sample as u8; 4096]).map_err(io)?;
        probe.sync_data().map_err(io)?;
        syncs.push(started.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&probe_path).map_err(io)?;
    records.sort_by(f64::total_cmp);
    syncs.sort_by(f64::total_cmp);
    Ok(RecordLatency {
        rows,
        p50_ms: percentile(&records, 0.5),
        p99_ms: percentile(&records, 0.99),
        fsync_p50_ms: percentile(&syncs, 0.5),
        fsync_p99_ms: percentile(&syncs, 0.99),
        fill_seconds,
    })
}

/// Short replies to a thousand prompts, each with a thumb, in one transaction.
fn fill(store: &Store, rows: u64) -> Result<()> {
    store.write(Durability::Normal, |db| {
        let now = now_ms();
        let mut reply = db.prepare(
            "INSERT INTO replies (prompt_key, created_at, text, prompt, prompt_offset) VALUES (?, ?, ?, ?, 0)",
        )?;
        let mut thumb = db.prepare("INSERT INTO feedback (reply, kind, created_at) VALUES (?, ?, ?)")?;
        let prompts: Vec<_> = (0..1000)
            .map(|number| {
                let prompt = [Message::user(format!("What is {number} times {number}?"))];
                (prompt_key(&prompt), to_json(&prompt))
            })
            .collect();
        for row in 0..rows {
            let (key, prompt) = &prompts[row as usize % prompts.len()];
            reply.execute(params![key, now, "That depends on what you count as one.", prompt])?;
            thumb.execute(params![db.last_insert_rowid(), if row % 2 == 0 { "up" } else { "down" }, now])?;
        }
        Ok(())
    })?;
    // What follows shall not pay for a log of this size.
    store.erase(|_| Ok(()))
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
