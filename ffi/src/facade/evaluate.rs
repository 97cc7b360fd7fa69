//! Files of questions, asked of the model at hand. An adapter answers at the scale that it is served at.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use thumbprint::AdapterId;
use thumbprint::arena::Contestant;
use thumbprint::evaluate::{choices, comparisons, refusals};

use crate::handle::Handle;
use crate::translate::Translate;
use crate::{
    ChoiceFormat, ChoiceReport, Judge, RefusalReport, Result, RewardReport, Thumbprint,
    ThumbprintError,
};

/// Is told how far an evaluation is.
#[uniffi::export(rust, foreign)]
pub trait EvaluationListener: Send + Sync {
    /// Called on the thread that waits, with the number of rows that are done and of all of them, and no lock held. False cancels, and so
    /// does an error.
    fn on_progress(&self, done: u64, total: u64) -> std::result::Result<bool, ThumbprintError>;
}

#[uniffi::export]
impl Thumbprint {
    /// Asks the multiple-choice questions of a file by log-likelihood, of an adapter or, without one, of the base. Without a format, the
    /// fields of the first row decide.
    #[uniffi::method(default(adapter = None, format = None, listener = None))]
    pub fn evaluate_choices(
        &self,
        path: String,
        adapter: Option<AdapterId>,
        format: Option<ChoiceFormat>,
        listener: Option<Arc<dyn EvaluationListener>>,
    ) -> Result<ChoiceReport> {
        let core = self.handle.core()?;
        let questions = choices::read(Path::new(&path), format.translate()).map_err(of_file)?;
        let who = Contestant::of(adapter);
        let report = listening(&self.handle, listener, questions.len(), |on_progress| {
            core.evaluate_choices(&questions, who, on_progress)
        })?;
        Ok(report.translate())
    }

    /// Asks the harmless prompts of a file, each in a conversation of its own, the likeliest token each time, and counts refusals.
    /// Nothing is recorded.
    #[uniffi::method(default(adapter = None, listener = None))]
    pub fn evaluate_refusals(
        &self,
        path: String,
        adapter: Option<AdapterId>,
        listener: Option<Arc<dyn EvaluationListener>>,
    ) -> Result<RefusalReport> {
        let core = self.handle.core()?;
        let refusals::HarmlessPrompts { prompts, left_out } =
            refusals::read(Path::new(&path)).map_err(of_file)?;
        let who = Contestant::of(adapter);
        let report = listening(&self.handle, listener, prompts.len(), |on_progress| {
            core.evaluate_refusals(&prompts, who, on_progress)
        })?;
        Ok(RefusalReport {
            refused: report.refused.translate(),
            types: report.types.translate(),
            refusals: report.refusals,
            left_out: left_out.translate(),
        })
    }

    /// Asks a judge which of two replies is better, for every row of a file.
    #[uniffi::method(default(judge = None, listener = None))]
    pub fn evaluate_reward(
        &self,
        path: String,
        judge: Option<Judge>,
        listener: Option<Arc<dyn EvaluationListener>>,
    ) -> Result<RewardReport> {
        let core = self.handle.core()?;
        let rows = comparisons::read(Path::new(&path)).map_err(of_file)?;
        let judge = judge.translate().unwrap_or_default();
        let report = listening(&self.handle, listener, rows.len(), |on_progress| {
            core.evaluate_reward(&rows, judge, on_progress)
        })?;
        Ok(report.translate())
    }
}

fn of_file(error: impl Into<thumbprint::Error>) -> ThumbprintError {
    error.into().into()
}

/// Evaluates with an app's listener. The facade holds no lock meanwhile.
fn listening<T>(
    handle: &Handle,
    listener: Option<Arc<dyn EvaluationListener>>,
    total: usize,
    evaluate: impl FnOnce(&mut dyn FnMut(usize) -> ControlFlow<()>) -> thumbprint::Result<T>,
) -> Result<T> {
    let mut refused = None;
    let evaluated = evaluate(&mut |done| {
        let told = match &listener {
            _ if handle.is_closed() => Err(ThumbprintError::closed()),
            Some(listener) => listener.on_progress(done as u64, total as u64),
            None => Ok(true),
        };
        refused = match told {
            Ok(true) => return ControlFlow::Continue(()),
            Ok(false) => Some(ThumbprintError::cancelled()),
            Err(error) => Some(error),
        };
        ControlFlow::Break(())
    });
    match refused {
        Some(error) => Err(error),
        None => evaluated.map_err(|error| handle.explain(error)),
    }
}
