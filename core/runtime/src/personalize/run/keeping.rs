//! What is kept of a run, so that a killed process goes on where it was: its record in the store, its folder, and beside these what the base
//! says whatever was said to it. Knows nothing of what the phases do.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use thumbprint_tune::durable;

use super::super::Phase;
use super::{Context, Resolved, Step};
use crate::error::{Error, Result};
use crate::facade::{Thumbprint, hex};
use crate::gate::AdapterState;
use crate::store::{NewRun, Run, RunProgress, RunState, Store};
use crate::types::{FeedbackId, RunId};

impl Context<'_> {
    /// Takes up an unfinished run of the same making, or begins one; gives up all others.
    pub(super) fn begin(&mut self, resolved: &Resolved, items: Vec<FeedbackId>) -> Step<PathBuf> {
        let store = self.thumbprint.store();
        let config = serde_json::to_value(resolved).map_err(|e| Error::Job(e.to_string()))?;
        let mut taken = None;
        for run in store.unfinished_runs()? {
            let same = (&run.base_hash, &run.config, run.seed)
                == (&self.loaded.sha256, &config, self.budget.seed)
                && store.run_items(run.id)? == items;
            if same && taken.is_none() {
                taken = Some(run.id);
            } else {
                give_up(store, &run)?;
            }
        }
        let total_steps = resolved.train.max_steps as u32 * resolved.folds.max(1);
        let id = match taken {
            Some(id) => id,
            None => store.begin_run(&NewRun {
                base_hash: self.loaded.sha256.clone(),
                config,
                seed: self.budget.seed,
                items,
                total_steps,
            })?,
        };
        let dir = store.dir().join(run_folder(id));
        fs::create_dir_all(&dir).map_err(|source| Error::File {
            path: dir.clone(),
            source,
        })?;
        self.run = Some((id, dir.clone()));
        self.note(RunState::Running, Phase::Curate, 0, total_steps)?;
        Ok(dir)
    }

    /// What a phase made, from the run's folder, or made now and put there.
    pub(super) fn kept<T: Serialize + DeserializeOwned>(
        &self,
        dir: &Path,
        name: &str,
        make: impl FnOnce(&Self) -> Step<T>,
    ) -> Step<T> {
        self.kept_at(dir.join(name), make)
    }

    /// What the base gives whatever was said to it, made by the first run that needs it. `of` is all that it depends on besides the
    /// engine.
    pub(super) fn of_base<T: Serialize + DeserializeOwned>(
        &self,
        what: &str,
        of: &impl Serialize,
        make: impl FnOnce(&Self) -> Step<T>,
    ) -> Step<T> {
        let info = self.loaded.engine.info();
        let on = (&self.loaded.sha256, &info.template_hash, info.n_gpu_layers);
        let key = serde_json::to_vec(&(on, of)).map_err(|e| Error::Job(e.to_string()))?;
        let key = hex(Sha256::digest(&key));
        let name = format!("base-{what}-{}.json", &key[..16]);
        self.kept_at(self.thumbprint.store().dir().join(name), make)
    }

    fn kept_at<T: Serialize + DeserializeOwned>(
        &self,
        path: PathBuf,
        make: impl FnOnce(&Self) -> Step<T>,
    ) -> Step<T> {
        if let Ok(bytes) = fs::read(&path)
            && let Ok(kept) = serde_json::from_slice(&bytes)
        {
            return Ok(kept);
        }
        let made = make(self)?;
        let bytes = serde_json::to_vec(&made).map_err(|e| Error::Job(e.to_string()))?;
        durable::replace(&path, |file| file.write_all(&bytes))?;
        Ok(made)
    }

    pub(super) fn note(
        &self,
        state: RunState,
        phase: Phase,
        step: u32,
        total_steps: u32,
    ) -> Step<()> {
        let Some((id, _)) = &self.run else {
            return Ok(());
        };
        let phase = serde_json::to_value(phase)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned));
        let progress = RunProgress {
            state,
            phase: phase.unwrap_or_default(),
            step,
            total_steps,
            checkpoint: Some(run_folder(*id)),
            outcome: None,
        };
        Ok(self.thumbprint.store().update_run(*id, &progress)?)
    }

    /// Records how the run ended; unless it is to go on, its folder goes.
    pub(super) fn end(&self, state: RunState) -> Result<()> {
        let Some((id, dir)) = &self.run else {
            return Ok(());
        };
        let rests = state == RunState::Paused;
        if !rests {
            remove_folder(dir)?;
        }
        let store = self.thumbprint.store();
        let before = store.run(*id)?.progress;
        let checkpoint = before.checkpoint.clone().filter(|_| rests);
        store.update_run(
            *id,
            &RunProgress {
                state,
                checkpoint,
                ..before
            },
        )?;
        Ok(())
    }

    /// Cleans up after runs that were killed between their verdict and their end.
    pub(super) fn finish_judged_runs(&self) -> Step<()> {
        let store = self.thumbprint.store();
        let adapters = store.adapters()?;
        for run in store.unfinished_runs()? {
            if adapters
                .iter()
                .any(|row| row.run == Some(run.id) && row.state != AdapterState::Candidate)
            {
                remove_folder(&store.dir().join(run_folder(run.id)))?;
                let progress = RunProgress {
                    state: RunState::Finished,
                    checkpoint: None,
                    ..run.progress
                };
                store.update_run(run.id, &progress)?;
            }
        }
        Ok(())
    }
}

/// Cleans up after runs that nobody works on.
pub fn give_up_all(thumbprint: &Thumbprint) -> Result<()> {
    let store = thumbprint.store();
    store
        .unfinished_runs()?
        .iter()
        .try_for_each(|run| give_up(store, run))
}

fn give_up(store: &Store, run: &Run) -> Result<()> {
    remove_folder(&store.dir().join(run_folder(run.id)))?;
    let progress = RunProgress {
        state: RunState::Cancelled,
        checkpoint: None,
        ..run.progress.clone()
    };
    Ok(store.update_run(run.id, &progress)?)
}

/// The folder of a run, relative to the data folder.
fn run_folder(id: RunId) -> PathBuf {
    PathBuf::from("runs").join(id.to_string())
}

fn remove_folder(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
            path: dir.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
