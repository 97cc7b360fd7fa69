//! The library's front: everything an app calls, in one type.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::best_of::Candidates;
use crate::conversation::Conversation;
use crate::curation::{self, Readiness, curate};
use crate::engine::{Demand, EngineOptions, With};
use crate::error::{Error, Result};
use crate::generation::{Batch, By, Generation, Recorder, Reply, Request};
use crate::personalize::{Budget, Job, Recipe};
use crate::store::{DatabaseKey, Forgotten, OpenReport, Prompt, Store, Target};
use crate::types::{ConversationId, Feedback, FeedbackId, Message, ReplyId};

mod adapters;
mod arena;
mod evaluate;
mod files;
mod model;
mod reward;
mod transfer;

pub use adapters::AdapterDetails;
pub use arena::{Contest, Match, Side, Voted};
pub(crate) use evaluate::{answer_all, reply_all};
pub(crate) use model::Loaded;
pub(crate) use reward::{HeadMaterial, Scorer, whole};
pub use transfer::{AdapterFormat, Part};

/// Folder of adapters within the data folder.
pub(crate) const ADAPTERS: &str = "adapters";

/// How to open a data folder.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept; made if missing.
    pub data_dir: PathBuf,
    /// The model that is loaded at first use.
    pub model: Option<PathBuf>,
    /// How it is loaded.
    pub engine: EngineOptions,
    /// What the database is encrypted under; without one it is not. Needs the feature `sqlcipher`.
    pub key: Option<DatabaseKey>,
}

impl Options {
    /// A folder without a model yet.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            model: None,
            engine: EngineOptions::default(),
            key: None,
        }
    }

    /// Encrypts the database, or opens one that is encrypted.
    #[must_use]
    pub fn key(mut self, key: DatabaseKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Names the model that is loaded at first use.
    #[must_use]
    pub fn model(mut self, path: impl Into<PathBuf>) -> Self {
        self.model = Some(path.into());
        self
    }
}

/// A data folder with its model. Clones share it; opening the same folder again in one process gives the same instance.
#[derive(Clone)]
pub struct Thumbprint(Arc<Inner>, Arc<OpenReport>);

/// A data folder that may be closed.
#[derive(Clone)]
pub(crate) struct WeakThumbprint(Weak<Inner>);

impl WeakThumbprint {
    pub fn upgrade(&self) -> Option<Thumbprint> {
        let inner = self.0.upgrade()?;
        let report = Arc::clone(&inner.report);
        Some(Thumbprint(inner, report))
    }
}

struct Inner {
    store: Store,
    /// What the first opening found.
    report: Arc<OpenReport>,
    engine_options: EngineOptions,
    model: Mutex<Option<PathBuf>>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    job: Mutex<Option<Job>>,
}

impl Thumbprint {
    /// Opens a data folder: the store alone. No model is loaded.
    ///
    /// # Errors
    /// [`Error::Store`]: another process has the folder, the folder cannot be written, its database is of a newer version, or the key
    /// is not its key. A
    /// corrupt database is no error: it is moved aside and reported by [`open_report`](Self::open_report).
    pub fn open(options: Options) -> Result<Self> {
        static OPEN: Mutex<Option<HashMap<PathBuf, Weak<Inner>>>> = Mutex::new(None);
        let mut open = lock(&OPEN);
        let (store, report) = Store::open_under(&options.data_dir, options.key)?;
        let instances = open.get_or_insert_default();
        if let Some(inner) = instances.get(store.dir()).and_then(Weak::upgrade) {
            // What was found at first concerns whoever opens it now, too.
            let report = OpenReport {
                already_open: report.already_open,
                ..OpenReport::clone(&inner.report)
            };
            let this = Self(inner, Arc::new(report));
            if options.model.is_some() {
                *lock(&this.0.model) = options.model;
            }
            return Ok(this);
        }
        let report = Arc::new(report);
        let inner = Arc::new(Inner {
            report: Arc::clone(&report),
            engine_options: options.engine,
            model: Mutex::new(options.model),
            loaded: Mutex::new(None),
            job: Mutex::new(None),
            store,
        });
        instances.retain(|_, instance| instance.strong_count() > 0);
        instances.insert(inner.store.dir().to_owned(), Arc::downgrade(&inner));
        let this = Self(inner, report);
        this.delete_pending()?;
        this.delete_leftovers()?;
        Ok(this)
    }

    /// What was found at opening: a database that was moved aside, say. Of a folder that was open already, what was found when it was
    /// opened first.
    pub fn open_report(&self) -> &OpenReport {
        &self.1
    }

    /// The store, for what the facade has no call for.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    // ---- talking ----

    /// Starts a reply, with the active adapter. Of several ([`GenerateOptions::best_of`](crate::GenerateOptions::best_of)) the best one
    /// is recorded, and comes in one piece.
    ///
    /// # Errors
    /// Of the engine: an empty prompt, one longer than the context, a sampling parameter out of range. For several:
    /// [`Error::NoActiveAdapter`] or [`Error::NoHead`] where there is nothing to judge them by.
    pub fn generate(&self, request: Request) -> Result<Generation> {
        let prompt = Prompt::Messages(request.messages.clone());
        self.generate_for(request, prompt)
    }

    pub(crate) fn generate_for(&self, request: Request, prompt: Prompt) -> Result<Generation> {
        Candidates::check(&request)?;
        let loaded = self.loaded()?;
        let with = self.with(&loaded, request.by)?;
        if request.options.best_of == 1 {
            let inner = loaded.engine.generate(&request.engine_request(with))?;
            let recorder = self.recorder(loaded, &request, prompt);
            return Ok(Generation::new(inner, recorder));
        }
        let scorer = self.scorer(&loaded, request.options.judge)?;
        let candidates = Candidates::start(&loaded, &request, with, scorer)?;
        let recorder = self.recorder(loaded, &request, prompt);
        Ok(Generation::best_of(candidates, recorder))
    }

    /// Generates several replies together, `max_parallel` at a time, and records them, in the order of the requests. `on_reply` is
    /// told the index of each as it is complete. All requests must agree in `by`.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_batch(
        &self,
        requests: Vec<Request>,
        max_parallel: usize,
        on_reply: &mut dyn FnMut(usize),
    ) -> Result<Vec<Reply>> {
        self.start_batch(requests, max_parallel)?
            .wait_with(on_reply)
    }

    /// The same without waiting, so that it can be cancelled.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn start_batch(&self, requests: Vec<Request>, max_parallel: usize) -> Result<Batch> {
        let loaded = self.loaded()?;
        let by = requests.first().map_or_else(By::default, |first| first.by);
        if requests.iter().any(|request| request.by != by) {
            let reason = "a batch is answered by one model".to_owned();
            return Err(crate::engine::EngineError::InvalidOption { name: "by", reason }.into());
        }
        let with = self.with(&loaded, by)?;
        let engine_requests: Vec<_> = requests
            .iter()
            .map(|r| r.engine_request(with.clone()))
            .collect();
        let inner = loaded
            .engine
            .generate_batch(&engine_requests, max_parallel)?;
        let recorder = |request: Request| {
            let prompt = Prompt::Messages(request.messages.clone());
            self.recorder(Arc::clone(&loaded), &request, prompt)
        };
        Ok(Batch::new(
            inner,
            requests.into_iter().map(recorder).collect(),
        ))
    }

    /// A stored chat: a new one, or one that exists.
    ///
    /// # Errors
    /// Of the store: no such conversation.
    pub fn conversation(&self, id: Option<ConversationId>) -> Result<Conversation> {
        let id = match id {
            Some(id) => self.0.store.conversation(id)?.id,
            None => self.0.store.create_conversation(None)?,
        };
        Ok(Conversation::new(self.clone(), id))
    }

    fn with(&self, loaded: &Loaded, by: By) -> Result<With> {
        Ok(match by {
            By::Active => With::Active,
            By::Base => With::Base,
            By::Adapter(id) => {
                With::Adapter(self.load_adapter(loaded, &self.0.store.adapter(id)?, 1.0)?)
            }
        })
    }

    fn recorder(&self, loaded: Arc<Loaded>, request: &Request, prompt: Prompt) -> Recorder {
        Recorder {
            store: self.0.store.clone(),
            loaded,
            prompt,
            replaces: request.replaces,
        }
    }

    // ---- feedback ----

    /// Records what the user said about a reply. Never loads a model. A later verdict on the same reply replaces the earlier one.
    ///
    /// # Errors
    /// Of the store: no such reply.
    pub fn record(&self, reply: ReplyId, feedback: &Feedback) -> Result<FeedbackId> {
        Ok(self.0.store.record_feedback(reply, feedback)?)
    }

    /// Records feedback on text that this library did not generate.
    ///
    /// # Errors
    /// Of the store.
    pub fn record_external(
        &self,
        messages: &[Message],
        completion: &str,
        feedback: &Feedback,
    ) -> Result<FeedbackId> {
        Ok(self
            .0
            .store
            .record_external(messages, completion, feedback)?
            .1)
    }

    /// Takes feedback back. The event stays in the log, without effect; [`forget`](Self::forget) erases.
    ///
    /// # Errors
    /// Of the store: no such feedback.
    pub fn withdraw(&self, feedback: FeedbackId) -> Result<FeedbackId> {
        Ok(self.0.store.withdraw(feedback)?)
    }

    // ---- learning ----

    /// Starts to learn from the log, or attaches to the job that runs, or goes on with the one that rests (under the new budget).
    ///
    /// # Errors
    /// What keeps it from starting; later failures come from [`Job::wait`].
    pub fn personalize(&self, budget: Budget) -> Result<Job> {
        self.personalize_with(budget, Recipe::default())
    }

    /// The same in another way than the product's: for comparing with it. A job that runs already keeps its own recipe.
    ///
    /// # Errors
    /// [`Error::Recipe`] for one that makes no sense; else as [`personalize`](Self::personalize).
    pub fn personalize_with(&self, budget: Budget, recipe: Recipe) -> Result<Job> {
        recipe.validate()?;
        if let Some(online) = &budget.online {
            online.check()?;
        }
        let mut slot = lock(&self.0.job);
        if let Some(job) = slot.as_ref().filter(|job| !job.is_finished()) {
            job.resume_with(budget, recipe)?;
            return Ok(job.clone());
        }
        let job = Job::start(self, budget, recipe)?;
        *slot = Some(job.clone());
        Ok(job)
    }

    /// The job that runs or is paused, if any.
    pub fn current_job(&self) -> Option<Job> {
        lock(&self.0.job).clone().filter(|job| !job.is_finished())
    }

    pub(crate) fn downgrade(&self) -> WeakThumbprint {
        WeakThumbprint(Arc::downgrade(&self.0))
    }

    pub(crate) fn demand(&self) -> Option<Demand> {
        lock(&self.0.loaded)
            .as_ref()
            .map(|loaded| loaded.engine.demand())
    }

    // ---- forgetting and sleeping ----

    /// Whether there is enough feedback to learn from, and how much is missing. Never loads a model.
    ///
    /// # Errors
    /// Of the store.
    pub fn readiness(&self) -> Result<Readiness> {
        let log = self.0.store.effective_feedback()?;
        Ok(curate(&log, &curation::Options::default()).readiness)
    }

    /// Erases an item, what quotes it and everything that was made of it: adapters that learned from it are gone, and the base, or
    /// the last adapter that never saw it, is served until the next personalization.
    ///
    /// # Errors
    /// Of the store.
    pub fn forget(&self, target: Target) -> Result<Forgotten> {
        if let Some(job) = self.current_job() {
            job.cancel();
            job.wait_until_at_rest();
        }
        let forgotten = self.0.store.forget(target)?;
        self.delete_pending()?;
        self.delete_leftovers()?;
        for (_, now) in &forgotten.served {
            let why = "the adapter after it had learned from something that was forgotten";
            self.tell_in_use_again(*now, why)?;
        }
        self.swap_if_loaded()?;
        Ok(forgotten)
    }

    fn delete_pending(&self) -> Result<()> {
        for path in self.0.store.pending_deletions()? {
            let full = self.0.store.dir().join(&path);
            let gone = match std::fs::metadata(&full) {
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&full),
                Ok(_) => std::fs::remove_file(&full),
                Err(_) => Ok(()),
            };
            gone.map_err(|source| Error::File { path: full, source })?;
            self.0.store.confirm_deleted(&path)?;
        }
        Ok(())
    }

    /// Removes what a killed process left half written, or wrote and did not record: it was made of what the user said, and nothing refers
    /// to it, so that forgetting would pass it by.
    fn delete_leftovers(&self) -> Result<()> {
        let folder = self.0.store.dir().join(ADAPTERS);
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return Ok(());
        };
        let rows = self.0.store.adapters()?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let half_written = name.starts_with('.') && name.ends_with(".tmp");
            let of_a_run = name.starts_with("run-") && name.ends_with(".gguf");
            let file = Path::new(ADAPTERS).join(&*name);
            if half_written || (of_a_run && rows.iter().all(|row| row.file != file)) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|source| Error::File { path, source })?;
            }
        }
        Ok(())
    }

    /// Pauses a job, unloads the model and releases every lock on the data folder. The next call takes them again.
    ///
    /// # Errors
    /// Of the store.
    pub fn suspend(&self) -> Result<()> {
        self.unload();
        Ok(self.0.store.suspend()?)
    }
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// [`Error::File`].
pub fn hash_file(path: &Path) -> Result<String> {
    let at = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(at)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(at)? {
            0 => return Ok(hex(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Checks that a downloaded model is the file that was meant.
///
/// # Errors
/// [`Error::WrongHash`], [`Error::File`].
pub fn verify_model(path: &Path, sha256: &str) -> Result<()> {
    let found = hash_file(path)?;
    if found.eq_ignore_ascii_case(sha256) {
        Ok(())
    } else {
        Err(Error::WrongHash {
            path: path.to_owned(),
            expected: sha256.to_owned(),
            found,
        })
    }
}

pub(crate) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_millis() as i64)
}
