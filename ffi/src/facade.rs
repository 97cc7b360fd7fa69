//! The library's front, one method for each of the facade's.

use std::path::Path;
use std::sync::Arc;

use thumbprint::exchange::{ImportError, Reader};
use thumbprint::{AdapterId, ConversationId, FeedbackId, ReplyId};

mod arena;
mod evaluate;
mod reward;

pub use evaluate::EvaluationListener;

use crate::error::invalid_option;
use crate::handle::Handle;
use crate::load::{self, LoadListener};
use crate::translate::Translate;
use crate::{
    AdapterDetails, AdapterFormat, AdapterPart, Batch, Budget, Conversation, ConversationInfo,
    Exported, Feedback, FeedbackFormat, FeedbackInEffect, Forgotten, Generation, ImportFilters,
    Imported, Merged, Message, ModelInfo, OpenReport, Options, PersonalizeJob, Readiness, Recipe,
    Reply, Request, Result, Target, Verdict, Vote,
};

/// A data folder with its model. May be used from any thread; calls from many at once are queued. Opening the same folder again in one
/// process gives another handle to the same instance.
#[derive(uniffi::Object)]
pub struct Thumbprint {
    handle: Arc<Handle>,
}

#[uniffi::export]
impl Thumbprint {
    /// Opens a data folder. No model is loaded.
    #[uniffi::constructor]
    pub fn open(options: Options) -> Result<Arc<Self>> {
        let handle = Handle::open(options)?;
        Ok(Arc::new(Self { handle }))
    }

    /// Ends what runs through this handle, whose calls fail from now on. The last handle to a folder also pauses its job, unloads the
    /// model and releases every lock. May be called from any thread, in any order, and again: whoever calls it while another thread does
    /// returns when that is done, too.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Whether `shutdown` was called.
    pub fn is_shut_down(&self) -> bool {
        self.handle.is_closed()
    }

    /// What was found at opening: a database that was moved aside, say.
    pub fn open_report(&self) -> Result<OpenReport> {
        Ok(self.handle.core()?.open_report().clone().translate())
    }

    // ---- the model ----

    /// Loads a model and puts its active adapter in force, telling `listener` how far it is.
    #[uniffi::method(default(listener = None))]
    pub fn load(&self, model: String, listener: Option<Arc<dyn LoadListener>>) -> Result<()> {
        load::load(&self.handle, model, listener.as_ref())
    }

    /// Unloads the model; it is loaded again at the next use. A running job is paused.
    pub fn unload(&self) -> Result<()> {
        self.handle.core()?.unload();
        Ok(())
    }

    /// Facts of the model, which is loaded if need be.
    pub fn model_info(&self) -> Result<ModelInfo> {
        let engine = self.handle.core()?.engine();
        let engine = engine.map_err(|error| self.handle.explain(error))?;
        Ok(engine.info().clone().translate())
    }

    /// Computes the beginning of a conversation ahead of time, so that the next reply to it begins sooner. Returns how many tokens are
    /// now kept.
    pub fn prewarm(&self, messages: Vec<Message>) -> Result<u64> {
        let messages: Vec<thumbprint::Message> = messages.translate();
        let engine = self.handle.core()?.engine();
        let kept = engine.and_then(|engine| Ok(engine.prewarm(&messages)?));
        Ok(kept.map_err(|error| self.handle.explain(error))? as u64)
    }

    // ---- talking ----

    /// Starts a reply. Returns once the model is loaded; events come through the handle.
    pub fn generate(&self, request: Request) -> Result<Arc<Generation>> {
        let request = request.translate();
        self.handle.generation(|core| core.generate(request))
    }

    /// Generates several replies together, `max_parallel` at a time, and records them, in the order of the requests, which must agree
    /// in `by`.
    pub fn generate_batch(&self, requests: Vec<Request>, max_parallel: u32) -> Result<Vec<Reply>> {
        self.start_batch(requests, max_parallel)?.wait_for_replies()
    }

    /// The same without waiting, so that it can be cancelled. Returns once the model is loaded.
    pub fn start_batch(&self, requests: Vec<Request>, max_parallel: u32) -> Result<Arc<Batch>> {
        let core = self.handle.core()?;
        let batch = core.start_batch(requests.translate(), max_parallel as usize);
        let batch = batch.map_err(|error| self.handle.explain(error))?;
        Ok(Batch::new(&self.handle, batch))
    }

    /// A stored chat: a new one, or one that exists.
    #[uniffi::method(default(id = None))]
    pub fn conversation(&self, id: Option<ConversationId>) -> Result<Arc<Conversation>> {
        Conversation::new(&self.handle, id)
    }

    /// Every stored chat, the latest used first.
    pub fn conversations(&self) -> Result<Vec<ConversationInfo>> {
        let conversations = self.handle.core()?.store().conversations();
        Ok(conversations.map_err(thumbprint::Error::from)?.translate())
    }

    // ---- feedback ----

    /// Records what the person said about a reply. Never loads a model. A later verdict on the same reply replaces the earlier one.
    pub fn record(&self, reply: ReplyId, feedback: Feedback) -> Result<FeedbackId> {
        Ok(self.handle.core()?.record(reply, &feedback.translate())?)
    }

    /// Records feedback on text that this library did not generate.
    pub fn record_external(
        &self,
        messages: Vec<Message>,
        completion: String,
        feedback: Feedback,
    ) -> Result<FeedbackId> {
        let messages: Vec<thumbprint::Message> = messages.translate();
        let core = self.handle.core()?;
        Ok(core.record_external(&messages, &completion, &feedback.translate())?)
    }

    /// Takes feedback back. The event stays in the log, without effect; `forget` erases.
    pub fn withdraw(&self, feedback: FeedbackId) -> Result<FeedbackId> {
        Ok(self.handle.core()?.withdraw(feedback)?)
    }

    /// What is in effect on one reply, picks in which it took part included, for showing a thumb as pressed.
    pub fn feedback_on(&self, reply: ReplyId) -> Result<Vec<FeedbackInEffect>> {
        let in_effect = self.handle.core()?.store().feedback_on(reply);
        let in_effect = in_effect.map_err(thumbprint::Error::from)?;
        Ok(in_effect
            .into_iter()
            .map(|(id, feedback)| FeedbackInEffect {
                id,
                feedback: feedback.translate(),
            })
            .collect())
    }

    /// Takes in feedback from a file, all of it or nothing. What was taken in before changes nothing. Without a format, the fields of
    /// the first line decide.
    #[uniffi::method(default(format = None, filters = None))]
    pub fn import_feedback(
        &self,
        path: String,
        format: Option<FeedbackFormat>,
        filters: Option<ImportFilters>,
    ) -> Result<Imported> {
        let core = self.handle.core()?;
        let filters = filters.unwrap_or_default().of()?;
        let mut reader =
            Reader::open(path, format.translate(), filters).map_err(ImportError::from)?;
        Ok(core.import(&mut reader)?.translate())
    }

    /// Writes feedback in effect to a file, in a form that TRL's trainers load or in that of a data set. The file is replaced whole or
    /// not at all.
    pub fn export_feedback(&self, path: String, format: FeedbackFormat) -> Result<Exported> {
        let core = self.handle.core()?;
        let exported = core.export_feedback_to(format.translate(), Path::new(&path))?;
        Ok(exported.translate())
    }

    // ---- learning ----

    /// Whether there is enough feedback to learn from, and how much is missing. Never loads a model.
    pub fn readiness(&self) -> Result<Readiness> {
        Ok(self.handle.core()?.readiness()?.translate())
    }

    /// Starts to learn from the log, or attaches to the job that runs, or goes on with the one that rests (under the new budget and
    /// recipe; one that runs keeps its own).
    #[uniffi::method(default(budget = None, recipe = None))]
    pub fn personalize(
        &self,
        budget: Option<Budget>,
        recipe: Option<Recipe>,
    ) -> Result<Arc<PersonalizeJob>> {
        let budget = budget.unwrap_or_default().translate();
        let recipe = recipe.unwrap_or_default().of()?;
        let job = self.handle.core()?.personalize_with(budget, recipe)?;
        Ok(PersonalizeJob::new(&self.handle, job))
    }

    /// The job that runs or is paused, if any.
    pub fn current_job(&self) -> Result<Option<Arc<PersonalizeJob>>> {
        let job = self.handle.core()?.current_job();
        Ok(job.map(|job| PersonalizeJob::new(&self.handle, job)))
    }

    // ---- versions of the adapter ----

    /// Every adapter ever made, the first one first.
    pub fn adapters(&self) -> Result<Vec<AdapterDetails>> {
        Ok(self.handle.core()?.adapters()?.translate())
    }

    /// One adapter.
    pub fn adapter(&self, id: AdapterId) -> Result<AdapterDetails> {
        Ok(self.handle.core()?.adapter(id)?.translate())
    }

    /// Serves replies with an adapter. One that was rolled back starts a new trial.
    pub fn activate(&self, id: AdapterId) -> Result<()> {
        Ok(self.handle.core()?.activate(id)?)
    }

    /// Serves the base model alone, keeping the adapter as it is.
    pub fn deactivate(&self) -> Result<()> {
        Ok(self.handle.core()?.deactivate()?)
    }

    /// Takes the active adapter back and serves the one before it, or the base alone. Says which.
    pub fn rollback(&self) -> Result<Option<AdapterId>> {
        Ok(self.handle.core()?.rollback()?)
    }

    /// Writes an adapter to `path`, at full strength: the scale that it is served at is not in it. For PEFT's form the base model's file
    /// must be at hand.
    #[uniffi::method(default(format = None))]
    pub fn export(&self, id: AdapterId, path: String, format: Option<AdapterFormat>) -> Result<()> {
        let format = format.translate().unwrap_or_default();
        Ok(self.handle.core()?.export(id, Path::new(&path), format)?)
    }

    /// Takes in an adapter's file or folder that names the model at hand as its base, or, if that is said to be so, names none. It
    /// becomes a candidate that no gate has judged; one that is here already is left as it is.
    #[uniffi::method(default(accept_unnamed_base = false))]
    pub fn import_adapter(&self, path: String, accept_unnamed_base: bool) -> Result<AdapterId> {
        let core = self.handle.core()?;
        Ok(core.import_adapter(Path::new(&path), accept_unnamed_base)?)
    }

    /// Makes an adapter that is the weighted sum of others: exactly, or the nearest one of a rank. It becomes a candidate that no gate
    /// has judged, and is forgotten with any of the feedback that its parts learned from.
    #[uniffi::method(default(rank = None))]
    pub fn combine(&self, parts: Vec<AdapterPart>, rank: Option<u32>) -> Result<AdapterId> {
        let parts: Vec<thumbprint::Part> = parts.translate();
        let rank = rank.map(|rank| rank as usize);
        Ok(self.handle.core()?.combine(&parts, rank)?)
    }

    /// Writes a model that needs no adapter: the base with the adapter, as it is served, in its weights. Matrices become `tensor_type`,
    /// "F32" or "Q8_0" say, or stay of their types without one.
    #[uniffi::method(default(tensor_type = None))]
    pub fn merge(
        &self,
        id: AdapterId,
        path: String,
        tensor_type: Option<String>,
    ) -> Result<Merged> {
        let ty = tensor_type.map(|name| thumbprint::matrix_type(&name).map_err(invalid_option));
        let core = self.handle.core()?;
        Ok(core
            .merge(id, ty.transpose()?, Path::new(&path))?
            .translate())
    }

    /// Records a blind vote between a reply under an adapter and one without, and acts on the evidence: promotes the adapter, or rolls
    /// it back.
    pub fn record_vote(&self, vote: Vote) -> Result<Verdict> {
        let core = self.handle.core()?;
        Ok(core.record_vote(&vote.translate())?.translate())
    }

    // ---- forgetting and sleeping ----

    /// Erases an item, what quotes it and everything that was made of it. A running job is cancelled.
    pub fn forget(&self, target: Target) -> Result<Forgotten> {
        Ok(self.handle.core()?.forget(target.translate())?.translate())
    }

    /// Pauses a job, unloads the model and releases every lock on the data folder. The next call takes them again.
    pub fn suspend(&self) -> Result<()> {
        Ok(self.handle.core()?.suspend()?)
    }
}
