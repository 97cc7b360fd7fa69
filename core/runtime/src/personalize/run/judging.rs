//! The candidate before the gate: measured, decided on, and put on trial or rejected.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::super::measure::{self, Bench};
use super::super::recipe::GuardFile;
use super::super::{NOTHING_TO_LEARN, Outcome, Phase};
use super::ranking::{Ranking, fold_results};
use super::{Context, Material, Step, Stop};
use crate::engine::{EngineError, LoadedAdapter, ScoreText, With};
use crate::error::{Error, Result};
use crate::evaluate::{choices, refusals};
use crate::facade::{Scorer, answer_all, hash_file, reply_all};
use crate::gate::{self, AdapterState, AppFile, Event, Evidence, Measurements, Offline};
use crate::reward::Head;
use crate::store::{AdapterRow, NewDecision};
use crate::types::{AdapterId, Message, Sampling};

impl Context<'_> {
    /// Whether there is anything to learn from feedback that tells replies apart so far. If not, that is kept with its numbers.
    pub(super) fn is_telling(&self, evidence: Option<Evidence>) -> Step<bool> {
        let limits = self.recipe.limits()?;
        let judged = evidence.map(|evidence| evidence.judge(limits.chance));
        let Some(failed) = judged.filter(|judged| !judged.passed) else {
            return Ok(true);
        };
        let explanation = failed.sentence.clone();
        self.thumbprint.store().record_decision(&NewDecision {
            adapter: None,
            run: self.run.as_ref().map(|(id, _)| *id),
            kind: NOTHING_TO_LEARN.to_owned(),
            numbers: json!({
                "measured": { "evidence": evidence },
                "report": { "held_out": failed },
                "explanation": explanation,
            }),
        })?;
        Ok(false)
    }

    /// Measures the candidate, decides, and puts it on trial or rejects it.
    pub(super) fn judge(
        &self,
        row: AdapterRow,
        material: &Material,
        rankings: &[Ranking],
        head: Option<Head>,
        evidence: Option<Evidence>,
        dir: &Path,
    ) -> Step<Outcome> {
        let feedback = self.feedback_texts(material);
        let canceller = self.shared.canceller();
        let loaded = Arc::clone(&self.loaded);
        let head = head.map(|head| Scorer::Head(Box::new(head)));
        let bench = Bench {
            engine: &loaded.engine,
            canceller: &canceller,
            go_on: &|| self.check().is_ok(),
            feedback: &feedback,
            head: head.as_ref(),
        };
        self.progress(Phase::Gate, 0, 2);
        let mut measured = Measurements {
            thumbs: material.curated.readiness.have.events,
            base: self.kept(dir, "gate-base.json", |this| {
                let asked = (measure::neutral_prompts(), Sampling::default());
                let neutral = this.of_base("gate", &asked, |this| {
                    this.engine_work(|| measure::neutral(&bench))
                })?;
                this.engine_work(|| measure::base(&bench, neutral))
            })?,
            strength: 1.0,
            scales: Vec::new(),
            folds: fold_results(rankings),
            evidence,
        };
        let limits = self.recipe.limits()?;
        if let Some(distance) = self.recipe.distance
            && gate::next_scale(&measured, &limits).is_some()
        {
            let edits = material.n_edits();
            let with_edits = self.recipe.distance_with_edits;
            let distance = gate::distance(distance, with_edits, edits, measured.thumbs);
            for _ in 0..2 {
                let scale = measured.strength;
                let adapter = self
                    .thumbprint
                    .load_adapter(&self.loaded, &row, scale as f32)?;
                let kl = self.kept(dir, &format!("gate-kl-{scale}.json"), |this| {
                    this.engine_work(|| measure::feedback_kl(&bench, &adapter))
                })?;
                measured.strength = gate::strength(scale, kl, distance, measured.thumbs);
            }
        }
        while let Some(scale) = gate::next_scale(&measured, &limits) {
            let done = measured.scales.len() as u64 + 1;
            self.progress(Phase::Gate, done, done + 1);
            let adapter = self
                .thumbprint
                .load_adapter(&self.loaded, &row, scale as f32)?;
            let name = format!("gate-{scale}.json");
            let at_scale = self.kept(dir, &name, |this| {
                let mut at_scale = this.engine_work(|| measure::scale(&bench, &adapter))?;
                at_scale.choices = this.choices(dir, &adapter)?;
                at_scale.refusals = this.refusals(dir, &adapter)?;
                Ok(at_scale)
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
            self.supersede(&before, row.id)?;
        }
        self.thumbprint.swap_if_loaded()?;
        Ok(Outcome::Trial(row.id, Box::new(report)))
    }

    /// Ends the undecided trial of an adapter whose place a newer one takes.
    fn supersede(&self, before: &AdapterRow, by: AdapterId) -> Step<()> {
        let store = self.thumbprint.store();
        let state = before
            .state
            .after(Event::Superseded)
            .map_err(|source| Error::State {
                adapter: before.id,
                source,
            })?;
        let verdict = self.thumbprint.adapter(before.id)?.verdict;
        let votes = verdict.as_ref().map_or(0, |verdict| verdict.votes.votes());
        let explanation = format!(
            "Adapter {by} took its place, before its {votes} blind votes had decided for it or against it."
        );
        store.record_decision(&NewDecision {
            adapter: Some(before.id),
            run: before.run,
            kind: "superseded".to_owned(),
            numbers: json!({ "by": by, "verdict": verdict, "explanation": explanation }),
        })?;
        Ok(store.set_adapter_state(before.id, state)?)
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

    fn engine_work<T>(&self, work: impl FnOnce() -> Result<T>) -> Step<T> {
        match work() {
            Err(Error::Engine(EngineError::Cancelled)) => {
                Err(self.check().err().unwrap_or(Stop::Paused))
            }
            other => Ok(other?),
        }
    }

    // ---- files of the app ----

    /// Which of the app's multiple-choice questions base and candidate answer right.
    fn choices(&self, dir: &Path, adapter: &LoadedAdapter) -> Step<Option<AppFile>> {
        let Some(file) = &self.recipe.choices else {
            return Ok(None);
        };
        let questions = choices::read(&file.path, None)?;
        self.app_file(dir, "choices", file, adapter, true, |with| {
            let (engine, canceller) = (&self.loaded.engine, self.shared.canceller());
            let answers = answer_all(engine, with, &questions, &canceller, &mut |_| self.flow())?;
            Ok(answers.iter().map(|answer| answer.is_right()).collect())
        })
    }

    /// Which of the app's harmless prompts base and candidate refuse.
    fn refusals(&self, dir: &Path, adapter: &LoadedAdapter) -> Step<Option<AppFile>> {
        let Some(file) = &self.recipe.refusals else {
            return Ok(None);
        };
        let prompts = refusals::read(&file.path)?.prompts;
        self.app_file(dir, "refusals", file, adapter, false, |with| {
            let engine = &self.loaded.engine;
            let replies = reply_all(engine, with, &prompts, &mut |_| self.flow())?;
            Ok(replies
                .iter()
                .map(|reply| gate::text::refuses(reply))
                .collect())
        })
    }

    /// What base and candidate do with each row of a file; the base's part is kept with the run.
    fn app_file(
        &self,
        dir: &Path,
        name: &str,
        file: &GuardFile,
        adapter: &LoadedAdapter,
        good: bool,
        ask: impl Fn(With) -> Result<Vec<bool>>,
    ) -> Step<Option<AppFile>> {
        let sha256 = hash_file(&file.path)?;
        let kept = format!("gate-{name}-{sha256}.json");
        let base = self.kept(dir, &kept, |this| this.engine_work(|| ask(With::Base)))?;
        let with = self.engine_work(|| ask(With::Adapter(adapter.clone())))?;
        let measured = AppFile::new(sha256, file.tolerated, &base, &with, good);
        Ok(Some(measured))
    }

    fn flow(&self) -> ControlFlow<()> {
        match self.check().is_ok() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}
