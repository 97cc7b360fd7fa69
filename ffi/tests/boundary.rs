//! What the boundary adds to the facade: handles that are shut down, and listeners of the app's. On a tiny model.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;
use thumbprint_ffi::{
    Canceller, Contest, EvaluationListener, Event, Feedback, GenerateOptions, Generation,
    JobListener, LoadListener, Message, Options, Progress, Recipe, Request, Role, StopReason,
    Thumbprint, ThumbprintError,
};
use thumbprint_fixtures::TinyModel;

/// A data folder with a tiny model beside it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        TinyModel::llama().write(folder.model());
        folder
    }

    fn model(&self) -> String {
        self.0.path().join("tiny.gguf").to_str().unwrap().to_owned()
    }

    fn open(&self) -> Arc<Thumbprint> {
        Thumbprint::open(Options {
            data_dir: self.0.path().join("data").to_str().unwrap().to_owned(),
            model: Some(self.model()),
            engine: None,
            key: None,
        })
        .unwrap()
    }

    /// Whether nobody holds the folder.
    fn is_free(&self) -> bool {
        let lock = self.0.path().join("data/thumbprint.lock");
        std::fs::File::open(lock).unwrap().try_lock().is_ok()
    }
}

fn ask(max_tokens: u32) -> Request {
    let options = GenerateOptions {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ..GenerateOptions::default()
    };
    Request {
        messages: vec![Message {
            role: Role::User,
            content: "Hello".to_owned(),
        }],
        options: Some(options),
        replaces: None,
        by: None,
    }
}

fn is_closed<T: std::fmt::Debug>(result: Result<T, ThumbprintError>) -> bool {
    matches!(result, Err(ThumbprintError::Closed { .. }))
}

/// Does something with the folder at the first progress, and answers as it is told.
struct Listener<F>(Mutex<Option<F>>, bool);

impl<F: FnOnce() + Send> Listener<F> {
    fn some(act: F, go_on: bool) -> Option<Arc<dyn LoadListener>>
    where
        F: 'static,
    {
        Some(Arc::new(Self(Mutex::new(Some(act)), go_on)))
    }
}

impl<F: FnOnce() + Send> LoadListener for Listener<F> {
    fn on_progress(&self, _: f32) -> Result<bool, ThumbprintError> {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
        Ok(self.1)
    }
}

#[test]
fn a_load_listener_may_call_everything_and_refuse() {
    let folder = Folder::new();
    let tp = folder.open();
    let other = Arc::clone(&tp);
    let talk = move || {
        // Waits for the model that is being loaded.
        other.generate(ask(2)).unwrap().wait_for_reply().unwrap();
    };
    tp.load(folder.model(), Listener::some(talk, true)).unwrap();
    let refused = tp.load(folder.model(), Listener::some(|| (), false));
    assert!(matches!(refused, Err(ThumbprintError::Cancelled { .. })));
    let other = Arc::clone(&tp);
    let shut_down = move || other.shutdown();
    assert!(is_closed(
        tp.load(folder.model(), Listener::some(shut_down, true))
    ));
    assert!(folder.is_free());
}

#[test]
fn the_last_handle_closes_the_folder_and_every_object_says_so() {
    let folder = Folder::new();
    let (app, worker) = (folder.open(), folder.open());
    let chat = app.conversation(None).unwrap();
    let generation = app.generate(ask(200)).unwrap();
    let job = app.personalize(None, None).unwrap();
    job.wait_for_outcome(None).unwrap();
    worker.shutdown();
    worker.shutdown();
    assert!(is_closed(worker.readiness()));
    assert!(matches!(generation.next(), Ok(Some(Event::Token { .. }))));
    assert!(!folder.is_free());

    app.shutdown();
    assert!(folder.is_free());
    assert!(is_closed(generation.next()));
    assert!(is_closed(generation.wait_for_reply()));
    assert!(is_closed(chat.messages()));
    assert!(is_closed(app.adapters()));
    assert!(is_closed(job.resume()));
    assert!(folder.open().readiness().is_ok());
}

#[test]
fn a_folder_is_free_once_the_last_object_is_let_go_of() {
    let folder = Folder::new();
    let tp = folder.open();
    let chat = tp.conversation(None).unwrap();
    drop(tp);
    assert!(chat.messages().unwrap().is_empty());
    drop(chat);
    assert!(folder.is_free());
}

#[test]
fn shutting_down_ends_generations_that_other_threads_wait_for_and_fifty_are_queued() {
    let folder = Folder::new();
    let tp = folder.open();
    let replies: Vec<_> = (0..50)
        .map(|_| {
            let tp = Arc::clone(&tp);
            thread::spawn(move || tp.generate(ask(2))?.wait_for_reply())
        })
        .collect();
    assert!(
        replies
            .into_iter()
            .all(|reply| reply.join().unwrap().is_ok())
    );

    let generations: Vec<_> = (0..4).map(|_| tp.generate(ask(200)).unwrap()).collect();
    let follow = |generation: Arc<Generation>| {
        thread::spawn(move || {
            loop {
                match generation.next() {
                    Ok(Some(_)) => {}
                    end => return end,
                }
            }
        })
    };
    let followers: Vec<_> = generations.into_iter().map(follow).collect();
    tp.shutdown();
    // The first may have come to its end just before.
    let ends: Vec<_> = followers.into_iter().map(|f| f.join().unwrap()).collect();
    assert!(ends.into_iter().skip(1).all(is_closed));
    assert!(folder.is_free());
}

#[test]
fn whoever_shuts_down_second_returns_when_the_folder_is_free_too() {
    let folder = Folder::new();
    for _ in 0..20 {
        let tp = folder.open();
        let _generation = tp.generate(ask(200)).unwrap();
        let other = Arc::clone(&tp);
        let first = thread::spawn(move || other.shutdown());
        while !tp.is_shut_down() {
            thread::yield_now();
        }
        tp.shutdown();
        assert!(folder.is_free());
        first.join().unwrap();
    }
}

#[test]
fn a_finished_generation_keeps_its_reply() {
    let folder = Folder::new();
    let generation = folder.open().generate(ask(3)).unwrap();
    let reply = generation.wait_for_reply().unwrap();
    assert_eq!(generation.wait_for_reply().unwrap(), reply);
    assert_eq!(generation.next(), Ok(None));
}

#[test]
fn a_cancelled_batch_has_a_reply_for_each_request_and_is_taken_once() {
    let folder = Folder::new();
    let tp = folder.open();
    let batch = tp.start_batch(vec![ask(200), ask(200), ask(2)], 2).unwrap();
    batch.cancel();
    let replies = batch.wait_for_replies().unwrap();
    assert_eq!(replies.len(), 3);
    assert!(replies[0].usage.completion_tokens < 200);
    assert_eq!(replies[0].stop_reason, StopReason::Cancelled);
    let again = batch.wait_for_replies();
    assert!(matches!(again, Err(ThumbprintError::InvalidState { .. })));
    tp.record(replies[1].id, Feedback::Up).unwrap();
    let batch = tp.start_batch(vec![ask(200)], 1).unwrap();
    tp.shutdown();
    assert!(is_closed(batch.wait_for_replies()));
    assert!(folder.is_free());
}

#[test]
fn a_key_of_another_length_opens_nothing() {
    let folder = Folder::new();
    let opened = Thumbprint::open(Options {
        data_dir: folder.0.path().join("data").to_str().unwrap().to_owned(),
        model: None,
        engine: None,
        key: Some(vec![7; 16]),
    });
    let error = opened.err().unwrap();
    assert_eq!(error.code(), "key_length");
    assert!(!folder.0.path().join("data").exists());
}

#[test]
fn a_canceller_ends_what_it_is_handed_to_before_or_meanwhile() {
    let folder = Folder::new();
    let tp = folder.open();
    for at in 0..12 {
        let (text, feedback) = match at % 2 {
            0 => ("Yes.", Feedback::Up),
            _ => ("It depends.", Feedback::Down { reasons: vec![] }),
        };
        let asked = Message {
            role: Role::User,
            content: format!("Is it number {at}?"),
        };
        tp.record_external(vec![asked], text.to_owned(), feedback)
            .unwrap();
    }
    let canceller = Canceller::new();
    canceller.cancel();
    let cancelled = tp.fit_head(None, Some(Arc::clone(&canceller)));
    assert!(matches!(cancelled, Err(ThumbprintError::Cancelled { .. })));
    assert_eq!(tp.head(), Ok(None));
    let head = tp.fit_head(Some(0.5), Some(Canceller::new())).unwrap();
    assert_eq!((head.l2, head.singles), (0.5, 12));
    assert_eq!(tp.head(), Ok(Some(head)));
    let contest = || Contest {
        a: None,
        b: None,
        options: None,
        seed: None,
    };
    let same = tp.side_by_side(ask(1).messages, contest(), None);
    assert_eq!(same.unwrap_err().code(), "same_contestant");
    tp.shutdown();
    assert!(is_closed(tp.side_by_side(
        ask(1).messages,
        contest(),
        Some(canceller)
    )));
}

/// Answers as it is told, after doing something.
struct Evaluating<F>(F);

impl<F: Fn() -> Result<bool, ThumbprintError> + Send + Sync> EvaluationListener for Evaluating<F> {
    fn on_progress(&self, done: u64, total: u64) -> Result<bool, ThumbprintError> {
        assert_eq!((done, total), (2, 2));
        self.0()
    }
}

#[test]
fn an_evaluation_listener_may_call_everything_refuse_fail_and_shut_down() {
    let folder = Folder::new();
    let tp = folder.open();
    let path = folder.0.path().join("arc.jsonl");
    let row = r#"{"question": "Is it?", "choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "answerKey": "A"}"#;
    std::fs::write(&path, format!("{row}\n{row}\n")).unwrap();
    type Told = Box<dyn Fn() -> Result<bool, ThumbprintError> + Send + Sync>;
    let evaluate = |told: Told| {
        let path = path.to_str().unwrap().to_owned();
        tp.evaluate_choices(path, None, None, Some(Arc::new(Evaluating(told))))
    };
    let other = Arc::clone(&tp);
    let report = evaluate(Box::new(move || {
        other.generate(ask(2))?.wait_for_reply()?;
        Ok(true)
    }));
    assert_eq!(report.unwrap().answers.len(), 2);
    let refused = evaluate(Box::new(|| Ok(false)));
    assert!(matches!(refused, Err(ThumbprintError::Cancelled { .. })));
    let failed = evaluate(Box::new(|| {
        Err(uniffi::UnexpectedUniFFICallbackError::new("of the app").into())
    }));
    assert!(matches!(failed, Err(ThumbprintError::Listener { .. })));
    let other = Arc::clone(&tp);
    let closed = evaluate(Box::new(move || {
        other.shutdown();
        Ok(false)
    }));
    assert!(matches!(closed, Err(ThumbprintError::Cancelled { .. })));
    assert!(is_closed(evaluate(Box::new(|| Ok(true)))));
    assert!(folder.is_free());
}

#[test]
fn a_recipe_that_makes_no_sense_is_refused_by_name() {
    let folder = Folder::new();
    let tp = folder.open();
    for (settings, named) in [
        ("{", "line 1"),
        (r#"{"learn": "thumbs"}"#, "`learn`"),
        (r#"{"train": {"pair": {"betta": 1}}}"#, "train.pair.betta"),
    ] {
        let recipe = Recipe {
            settings_json: Some(settings.to_owned()),
            ..Recipe::default()
        };
        let refused = tp.personalize(None, Some(recipe)).err().unwrap();
        assert_eq!(refused.code(), "recipe");
        assert!(refused.reason().contains(named), "{refused}");
    }
}

struct Fails;

impl JobListener for Fails {
    fn on_progress(&self, _: Progress) -> Result<(), ThumbprintError> {
        let thrown = uniffi::UnexpectedUniFFICallbackError::new("of the app");
        Err(thrown.into())
    }
}

#[test]
fn what_a_job_listener_throws_ends_the_waiting_alone() {
    let folder = Folder::new();
    let tp = folder.open();
    let job = tp.personalize(None, None).unwrap();
    match job.wait_for_outcome(Some(Arc::new(Fails))) {
        Err(ThumbprintError::Listener { reason, .. }) => assert!(reason.contains("of the app")),
        // It was over before it was listened to.
        Ok(_) => {}
        Err(other) => panic!("{other}"),
    }
    assert!(job.wait_for_outcome(None).is_ok());
    assert_eq!(job.next_progress(None), None);
}
