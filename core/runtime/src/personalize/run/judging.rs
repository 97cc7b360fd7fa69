//! The candidate before the gate: measured, decided on, and put on trial or rejected.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::super::measure::{self, Bench};
use super::super::{Outcome, Phase};
use super::ranking::{Ranking, fold_results, length_taste};
use super::{Context, Material, Step, Stop};
use crate::engine::{EngineError, ScoreText};
use crate::error::Error;
use crate::gate::{self, AdapterState, Event, Measurements, Offline};
use crate::store::{AdapterRow, NewDecision};
use crate::types::Message;

impl Context<'_> {
    /// Measures the candidate, decides, and puts it on trial or rejects it.
    pub(super) fn judge(
        &self,
        row: AdapterRow,
        material: &Material,
        rankings: &[Ranking],
        dir: &Path,
    ) -> Step<Outcome> {
        let feedback = self.feedback_texts(material);
        let canceller = self.shared.canceller();
        let loaded = Arc::clone(&self.loaded);
        let bench = Bench {
            engine: &loaded.engine,
            canceller: &canceller,
            go_on: &|| self.check().is_ok(),
            feedback: &feedback,
        };
        self.progress(Phase::Gate, 0, 2);
        let mut measured = Measurements {
            thumbs: material.curated.readiness.have.events,
            base: self.kept(dir, "gate-base.json", |this| {
                this.engine_work(|| measure::base(&bench))
            })?,
            strength: 1.0,
            scales: Vec::new(),
            length_taste: length_taste(&material.tokenized.examples),
            folds: fold_results(rankings),
        };
        let limits = self.recipe.limits()?;
        if self.recipe.strength && gate::next_scale(&measured, &limits).is_some() {
            let full = self.thumbprint.load_adapter(&self.loaded, &row, 1.0)?;
            let kl = self.kept(dir, "gate-kl.json", |this| {
                this.engine_work(|| measure::feedback_kl(&bench, &full))
            })?;
            measured.strength = gate::strength(kl, measured.thumbs);
        }
        while let Some(scale) = gate::next_scale(&measured, &limits) {
            let done = measured.scales.len() as u64 + 1;
            self.progress(Phase::Gate, done, done + 1);
            let adapter = self
                .thumbprint
                .load_adapter(&self.loaded, &row, scale as f32)?;
            let name = format!("gate-{scale}.json");
            let at_scale = self.kept(dir, &name, |this| {
                this.engine_work(|| measure::scale(&bench, &adapter))
            })?;
            measured.scales.push(at_scale);
        }
        let report = gate::offline(&measured, &limits);
        let store = self.thumbprint.store();
        let (event, scale) = match report.outcome {
            Offline::Trial { scale } => (Event::PassedOffline, scale as f32),
            Offline::Rejected { .. } => (Event::FailedOffline, 1.0),
        };
        let state = row.state.after(event).map_err(|source| Error::State {
            adapter: row.id,
            source,
        })?;
        let numbers =
            json!({ "measured": measured, "report": report, "explanation": report.explain() });
        store.record_decision(&NewDecision {
            adapter: Some(row.id),
            run: row.run,
            kind: format!("offline: {}", state.as_str()),
            numbers,
        })?;
        let gate_report = serde_json::to_value(&report).map_err(|e| Error::Job(e.to_string()))?;
        if state == AdapterState::Rejected {
            store.set_adapter_gate(row.id, &gate_report, scale, state)?;
            return Ok(Outcome::Rejected(row.id, Box::new(report)));
        }
        let before = store.active_adapter(&self.loaded.sha256)?;
        store.set_adapter_gate(row.id, &gate_report, scale, AdapterState::Candidate)?;
        store.activate(&self.loaded.sha256, Some(row.id), Some(state), "gate")?;
        if let Some(before) = before.filter(|before| before.state == AdapterState::Trial) {
            store.set_adapter_state(before.id, AdapterState::RolledBack)?;
        }
        self.thumbprint.swap_if_loaded()?;
        Ok(Outcome::Trial(row.id, Box::new(report)))
    }

    /// Prompts of the feedback with the base's replies to them, a prompt once.
    fn feedback_texts(&self, material: &Material) -> Vec<(Vec<Message>, ScoreText)> {
        let mut seen = std::collections::HashSet::new();
        let mut texts = Vec::new();
        for (example, source) in material
            .tokenized
            .examples
            .iter()
            .zip(&material.tokenized.sources)
        {
            let curated = &material.curated.examples[*source];
            let last = example.completions().last().map(|c| c.to_vec());
            if let Some(completion) = last.filter(|_| seen.insert(curated.prompt_key)) {
                texts.push((
                    curated.prompt.clone(),
                    ScoreText {
                        prompt: example.prompt.clone(),
                        completion,
                    },
                ));
            }
        }
        texts
    }

    fn engine_work<T>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, EngineError>,
    ) -> Step<T> {
        match work() {
            Err(EngineError::Cancelled) => Err(self.check().err().unwrap_or(Stop::Paused)),
            other => Ok(other?),
        }
    }
}
