//! The whole loop on tiny models: record, learn, judge, serve, forget; paused and damaged on the way.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;
use tempfile::TempDir;
use thumbprint::gate::{AdapterState, Decision};
use thumbprint::store::{NewAdapter, NewVote, Outcome as Vote};
use thumbprint::{
    AdapterFormat, AdapterId, Budget, Error, Feedback, Message, NOTHING_TO_LEARN, Options, Outcome,
    Phase, Recipe, Request, Target, Thumbprint,
};
use thumbprint_fixtures::TinyModel;
use thumbprint_tune::graph::Kernels;

use common::{few_replies, with_folds};

/// A data folder with a tiny model beside it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        TinyModel::llama().write(folder.0.path().join("tiny.gguf"));
        folder
    }

    fn open(&self) -> Thumbprint {
        let mut options =
            Options::new(self.0.path().join("data")).model(self.0.path().join("tiny.gguf"));
        options.engine.n_ctx = Some(1024);
        options.engine.n_threads = Some(1);
        let tp = Thumbprint::open(options).unwrap();
        // Which formats are fastest is measured, and may differ from folder to folder.
        tp.store().set_setting("kernels", &Kernels::EXACT).unwrap();
        tp
    }

    /// Enough thumbs to learn from.
    fn taught(&self) -> Thumbprint {
        let tp = self.open();
        for at in 0..12 {
            let prompt = [Message::user(format!("Is it number {at}?"))];
            let (text, feedback) = if at % 2 == 0 {
                ("Yes.", Feedback::Up)
            } else {
                (
                    "It depends. It depends. It depends.",
                    Feedback::Down { reasons: vec![] },
                )
            };
            tp.record_external(&prompt, text, &feedback).unwrap();
        }
        tp
    }
}

fn budget() -> Budget {
    Budget {
        n_threads: Some(1),
        ..Budget::default()
    }
}

fn adapter_of(outcome: Outcome) -> AdapterId {
    match outcome {
        Outcome::Trial(id, _) | Outcome::Rejected(id, _) => id,
        other => panic!("{other:?}"),
    }
}

fn bytes(tp: &Thumbprint, id: AdapterId) -> Vec<u8> {
    std::fs::read(tp.store().dir().join(tp.adapter(id).unwrap().row.file)).unwrap()
}

fn learn(tp: &Thumbprint) -> Vec<u8> {
    let id = adapter_of(
        tp.personalize_with(budget(), with_folds())
            .unwrap()
            .wait()
            .unwrap(),
    );
    bytes(tp, id)
}

/// An adapter on trial and in use, with the file of one that was learned.
fn on_trial(tp: &Thumbprint) -> AdapterId {
    learn(tp);
    let made = tp.adapters().unwrap().pop().unwrap().row;
    if made.state == AdapterState::Trial {
        return made.id;
    }
    let file = Path::new("adapters/by-test.gguf").to_owned();
    std::fs::copy(
        tp.store().dir().join(&made.file),
        tp.store().dir().join(&file),
    )
    .unwrap();
    let items = tp.store().adapter_items(made.id).unwrap();
    let id = tp
        .store()
        .insert_adapter(&NewAdapter {
            base_hash: made.base_hash.clone(),
            run: None,
            config: made.config,
            manifest: made.manifest,
            items,
            file,
            file_hash: made.file_hash,
            seed: 0,
        })
        .unwrap();
    tp.store()
        .activate(&made.base_hash, Some(id), Some(AdapterState::Trial), "test")
        .unwrap();
    id
}

fn vote(tp: &Thumbprint, adapter: AdapterId, outcome: Vote) -> Decision {
    let vote = NewVote {
        adapter,
        candidate_reply: None,
        baseline_reply: None,
        candidate_first: true,
        outcome,
    };
    tp.record_vote(&vote).unwrap().decision
}

#[test]
fn recording_never_loads_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let tp = Thumbprint::open(Options::new(folder.path()).model("/nonexistent.gguf")).unwrap();
    let feedback = tp
        .record_external(&[Message::user("Hello")], "Hi.", &Feedback::Up)
        .unwrap();
    tp.withdraw(feedback).unwrap();
    assert_eq!(tp.readiness().unwrap().have.events, 0);
    tp.forget(Target::Everything).unwrap();
    assert!(matches!(
        tp.generate(Request::new(vec![Message::user("Hello")])),
        Err(Error::Engine(_))
    ));
}

#[test]
fn the_same_folder_opened_twice_is_one_instance() {
    let folder = Folder::new();
    let (a, b) = (folder.open(), folder.open());
    let told = [&a, &b].map(|tp| (tp.open_report().created, tp.open_report().already_open));
    assert_eq!(told, [(true, false), (true, true)]);
    a.load(folder.0.path().join("tiny.gguf"), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    a.record_external(&[Message::user("Hello")], "Hi.", &Feedback::Up)
        .unwrap();
    assert_eq!(b.readiness().unwrap().have.events, 1);
}

#[test]
fn loads_at_once_do_not_end_each_other() {
    let folder = Folder::new();
    let tp = folder.taught();
    on_trial(&tp);
    let model = folder.0.path().join("tiny.gguf");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    tp.load(&model, &mut |_| ControlFlow::Continue(())).unwrap();
                }
            });
        }
    });
    assert_eq!(tp.engine().unwrap().info().architecture, "llama");
}

#[test]
fn too_little_feedback_says_how_much_there_is_and_how_much_is_needed() {
    let folder = Folder::new();
    let tp = folder.open();
    let Outcome::NothingToLearn(readiness) = tp
        .personalize_with(budget(), with_folds())
        .unwrap()
        .wait()
        .unwrap()
    else {
        panic!()
    };
    assert_eq!((readiness.have.events, readiness.need.events), (0, 10));
}

#[test]
fn feedback_that_chance_could_have_given_trains_nothing_and_says_why() {
    let folder = Folder::new();
    let tp = folder.open();
    for at in 0..16 {
        let prompt = [Message::user(format!("Is it number {at}?"))];
        let text = ["Yes.", "It depends. It depends."][at % 2];
        // Of either text as many are liked as not.
        let feedback = match at / 2 % 2 {
            0 => Feedback::Up,
            _ => Feedback::Down { reasons: vec![] },
        };
        tp.record_external(&prompt, text, &feedback).unwrap();
    }
    let personalize = |recipe: Recipe| tp.personalize_with(budget(), recipe).unwrap().wait();
    let outcome = personalize(with_folds()).unwrap();
    let Outcome::NothingToLearn(readiness) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(readiness.is_ready());
    assert!(tp.adapters().unwrap().is_empty());
    assert!(tp.store().unfinished_runs().unwrap().is_empty());
    let decision = tp.store().decisions(None).unwrap().pop().unwrap().decision;
    assert_eq!(
        (&*decision.kind, decision.adapter),
        (NOTHING_TO_LEARN, None)
    );
    let p_value = decision.numbers["measured"]["evidence"]["p_value"].as_f64();
    assert!(p_value.unwrap() > 0.05, "{decision:?}");
    let sentence = decision.numbers["explanation"].as_str().unwrap();
    assert!(sentence.contains("8 👍, 8 👎"), "{sentence}");

    let whatever_it_tells = Recipe {
        limits: json!({ "chance": 1.0 }),
        ..with_folds()
    };
    adapter_of(personalize(whatever_it_tells).unwrap());
}

#[test]
fn an_adapter_is_made_of_every_event_that_its_head_read() {
    let folder = Folder::new();
    let tp = folder.taught();
    // A second thumb on a prompt, which makes no example beside the first.
    let prompt = [Message::user("Is it number 0?")];
    let second = tp.record_external(&prompt, "Yes!", &Feedback::Up).unwrap();
    let id = adapter_of(
        tp.personalize_with(budget(), with_folds())
            .unwrap()
            .wait()
            .unwrap(),
    );
    let items = tp.store().adapter_items(id).unwrap();
    assert_eq!((items.len(), items.contains(&second)), (13, true));
    tp.forget(Target::Feedback(second)).unwrap();
    assert_eq!(tp.adapter(id).unwrap().row.state, AdapterState::Forgotten);
}

#[test]
fn training_on_a_gpu_that_is_not_there_says_so_and_leaves_the_feedback() {
    if !thumbprint_ggml::llama::gpu_devices().is_empty() {
        return;
    }
    let folder = Folder::new();
    let tp = folder.taught();
    let before = tp.readiness().unwrap();
    for (gpu, require_gpu) in [(true, false), (true, true), (false, true)] {
        let on_gpu = Budget {
            gpu,
            require_gpu,
            ..budget()
        };
        let error = tp.personalize(on_gpu).unwrap().wait().unwrap_err();
        assert!(error.to_string().contains("no GPU here"), "{error}");
        assert_eq!(tp.readiness().unwrap(), before);
        assert!(tp.adapters().unwrap().is_empty());
    }
}

#[test]
fn what_was_judged_is_recorded_with_its_report_and_the_run_leaves_no_folder() {
    let folder = Folder::new();
    let tp = folder.taught();
    let id = adapter_of(
        tp.personalize_with(budget(), with_folds())
            .unwrap()
            .wait()
            .unwrap(),
    );
    let details = tp.adapter(id).unwrap();
    assert!(details.row.gate.is_some());
    assert_eq!(details.active, details.row.state == AdapterState::Trial);
    assert!(details.decisions[0].decision.kind.starts_with("offline: "));
    assert!(details.decisions[0].decision.numbers["explanation"].is_string());
    assert!(tp.store().unfinished_runs().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(tp.store().dir().join("runs"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn paused_again_and_again_talked_to_and_suspended_it_learns_the_same_bytes() {
    let whole = learn(&Folder::new().taught());
    let folder = Folder::new();
    let tp = folder.taught();
    for phase in [Phase::Fold, Phase::Train] {
        let job = tp.personalize_with(budget(), with_folds()).unwrap();
        let stop = job.clone();
        let rested = job.wait_with(&mut |progress| {
            if progress.phase == phase && progress.step >= 2 {
                stop.pause();
            }
        });
        assert_eq!(rested.unwrap(), Outcome::Paused);
        tp.suspend().unwrap();
    }
    let job = tp.personalize_with(budget(), with_folds()).unwrap();
    let mut request = Request::new(vec![Message::user("Hello")]);
    request.options.max_tokens = 8;
    assert!(
        tp.generate(request)
            .unwrap()
            .wait()
            .unwrap()
            .usage
            .completion_tokens
            > 0
    );
    let id = adapter_of(job.wait().unwrap());
    assert_eq!(bytes(&tp, id), whole);
}

#[test]
fn a_thumb_given_while_a_run_rests_is_left_to_the_next_run() {
    let whole = learn(&Folder::new().taught());
    let folder = Folder::new();
    let tp = folder.taught();
    let job = tp.personalize_with(budget(), with_folds()).unwrap();
    let stop = job.clone();
    let rested = job.wait_with(&mut |progress| {
        if progress.phase == Phase::Train && progress.step >= 2 {
            stop.pause();
        }
    });
    assert_eq!(rested.unwrap(), Outcome::Paused);
    let prompt = [Message::user("What is new?")];
    tp.record_external(&prompt, "Nothing at all.", &Feedback::Up)
        .unwrap();

    let id = adapter_of(
        tp.personalize_with(budget(), with_folds())
            .unwrap()
            .wait()
            .unwrap(),
    );
    assert_eq!(bytes(&tp, id), whole);
    let again = Budget {
        replace_trial: true,
        ..budget()
    };
    let next = adapter_of(tp.personalize(again).unwrap().wait().unwrap());
    assert_ne!(bytes(&tp, next), whole);
}

#[test]
fn what_the_base_says_to_neutral_prompts_is_kept_and_a_later_run_learns_the_same_bytes_from_it() {
    let folder = Folder::new();
    let tp = folder.taught();
    let whole = learn(&tp);
    let kept = || -> BTreeMap<PathBuf, SystemTime> {
        let files = std::fs::read_dir(tp.store().dir()).unwrap();
        let files = files.map(|file| file.unwrap());
        let of_base = files.filter(|file| file.file_name().to_string_lossy().starts_with("base-"));
        of_base
            .map(|file| (file.path(), file.metadata().unwrap().modified().unwrap()))
            .collect()
    };
    let first = kept();
    assert_eq!(
        first.len(),
        5,
        "answers to learn from, plain ones and told ones in two blocks each, and the gate's: {first:?}"
    );
    for path in first.keys() {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains("Is it number"), "{}", path.display());
    }
    let again = Budget {
        replace_trial: true,
        ..budget()
    };
    let job = tp.personalize_with(again, with_folds()).unwrap();
    let id = adapter_of(job.wait().unwrap());
    assert_eq!(bytes(&tp, id), whole);
    assert_eq!(kept(), first);
}

#[test]
fn cancelling_a_run_that_works_or_rests_cleans_up() {
    let folder = Folder::new();
    let tp = folder.taught();
    for rest_first in [false, true] {
        let job = tp.personalize_with(budget(), with_folds()).unwrap();
        let stop = job.clone();
        let ended = job.wait_with(&mut |progress| {
            if progress.phase == Phase::Fold {
                if rest_first {
                    stop.pause()
                } else {
                    stop.cancel()
                }
            }
        });
        if rest_first {
            assert_eq!(ended.unwrap(), Outcome::Paused);
            job.cancel();
        }
        assert_eq!(job.wait().unwrap(), Outcome::Cancelled);
        assert!(tp.store().unfinished_runs().unwrap().is_empty());
        assert_eq!(
            std::fs::read_dir(tp.store().dir().join("runs"))
                .unwrap()
                .count(),
            0
        );
    }
    assert!(tp.adapters().unwrap().is_empty());
}

#[test]
fn another_recipe_learns_another_adapter_and_the_default_one_the_same_bytes() {
    let folder = Folder::new();
    let tp = folder.taught();
    let by_default = tp.personalize(budget()).unwrap().wait().unwrap();
    let whole = bytes(&tp, adapter_of(by_default));
    let with = |recipe: serde_json::Value| {
        let folder = Folder::new();
        let tp = folder.taught();
        let recipe: Recipe = serde_json::from_value(recipe).unwrap();
        let job = tp.personalize_with(budget(), recipe.clone()).unwrap();
        let id = adapter_of(job.wait().unwrap());
        let row = tp.adapter(id).unwrap().row;
        assert_eq!(row.config["recipe"], serde_json::to_value(&recipe).unwrap());
        (bytes(&tp, id), row.config)
    };
    assert_eq!(with(json!({})).0, whole);
    let (liked, config) = with(json!({
        "learn_from": "liked", "anchors": false, "train": {"max_steps": 4}, "west_of_n": few_replies()
    }));
    assert_ne!(liked, whole);
    assert_eq!(config["anchors"], 0);
    assert_eq!(config["train"]["max_steps"], 4);
    let (kto, config) = with(json!({
        "learn_from": "thumbs", "folds": 0, "train": {"unpaired": {"loss_type": "kto"}, "max_steps": 4},
        "west_of_n": few_replies()
    }));
    assert_ne!(kto, whole);
    assert_eq!(config["train"]["unpaired"]["loss_type"], "kto");

    let tp = Folder::new().taught();
    let nonsense = Recipe {
        train: json!({"beta": 1}),
        ..Recipe::default()
    };
    let refused = tp.personalize_with(budget(), nonsense).err().unwrap();
    assert_eq!(refused.code(), "recipe");
    assert!(tp.adapters().unwrap().is_empty());
}

#[test]
fn a_time_budget_pauses_and_a_memory_budget_refuses_with_both_numbers() {
    let folder = Folder::new();
    let tp = folder.taught();
    let job = tp
        .personalize(Budget {
            seconds: Some(0),
            ..budget()
        })
        .unwrap();
    assert_eq!(job.wait().unwrap(), Outcome::Paused);
    job.cancel();
    let error = tp
        .personalize(Budget {
            memory_mib: Some(1),
            ..budget()
        })
        .unwrap()
        .wait()
        .unwrap_err();
    let Error::OverBudget(over) = error else {
        panic!("{error}")
    };
    assert!(over.budget_mib == 1 && over.needed_mib > 1);
}

#[test]
fn votes_promote_roll_back_and_a_trial_held_again_begins_without_them() {
    let folder = Folder::new();
    let tp = folder.taught();
    let id = on_trial(&tp);
    let promoted = (0..60)
        .position(|_| vote(&tp, id, Vote::Win) == Decision::Promote)
        .unwrap();
    assert!(promoted + 1 >= 20);
    assert_eq!(tp.adapter(id).unwrap().row.state, AdapterState::Promoted);
    assert!((0..60).any(|_| vote(&tp, id, Vote::Loss) == Decision::RollBack));
    let details = tp.adapter(id).unwrap();
    assert_eq!(
        (details.row.state, details.active),
        (AdapterState::RolledBack, false)
    );

    tp.activate(id).unwrap();
    assert_eq!(vote(&tp, id, Vote::Loss), Decision::Stay);
    let details = tp.adapter(id).unwrap();
    assert_eq!(
        (details.row.state, details.active),
        (AdapterState::Trial, true)
    );
    assert_eq!(details.verdict.unwrap().votes.votes(), 1);
    assert_eq!(tp.rollback().unwrap(), None);
    assert!(matches!(tp.rollback(), Err(Error::NoActiveAdapter)));
}

#[test]
fn a_damaged_adapter_is_reported_the_base_answers_and_it_can_be_replaced() {
    let folder = Folder::new();
    let tp = folder.taught();
    let id = on_trial(&tp);
    let path = tp.store().dir().join(tp.adapter(id).unwrap().row.file);
    std::fs::write(&path, b"not what it was").unwrap();
    tp.unload();
    let ask = || tp.generate(Request::new(vec![Message::user("Hello")]));
    assert!(matches!(ask(), Err(Error::AdapterChanged { adapter }) if adapter == id));
    assert_eq!(ask().unwrap().wait().unwrap().adapter, None);
    assert!(matches!(
        tp.export(id, &path, AdapterFormat::Gguf),
        Err(Error::AdapterChanged { .. })
    ));
    tp.unload();
    adapter_of(
        tp.personalize_with(budget(), with_folds())
            .unwrap()
            .wait()
            .unwrap(),
    );
}

#[test]
fn forgetting_deletes_what_was_learned_from_it() {
    let folder = Folder::new();
    let tp = folder.taught();
    let id = on_trial(&tp);
    let path = tp.store().dir().join(tp.adapter(id).unwrap().row.file);
    let item = tp.store().adapter_items(id).unwrap()[0];
    assert!(path.exists());
    tp.forget(Target::Feedback(item)).unwrap();
    assert!(!path.exists());
    let details = tp.adapter(id).unwrap();
    assert_eq!(
        (details.row.state, details.active),
        (AdapterState::Forgotten, false)
    );
}

/// Runs the named test again in a process of its own, which finds its folder in the environment.
fn child(script: &str, test: &str, folder: &Folder) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"]);
    command.env(CHILD, folder.0.path());
    command
}

const CHILD: &str = "THUMBPRINT_FACADE_TEST_CHILD";

fn child_folder() -> Option<Thumbprint> {
    let path = std::path::PathBuf::from(std::env::var_os(CHILD)?);
    let mut options = Options::new(path.join("data")).model(path.join("tiny.gguf"));
    options.engine.n_ctx = Some(1024);
    options.engine.n_threads = Some(1);
    Some(Thumbprint::open(options).unwrap())
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_and_learns_the_same_bytes() {
    use std::io::{BufRead, BufReader};
    if let Some(tp) = child_folder() {
        let job = tp.personalize_with(budget(), with_folds()).unwrap();
        let _ = job.wait_with(&mut |progress| println!("phase {:?}", progress.phase));
        return;
    }
    let whole = learn(&Folder::new().taught());
    for phase in ["Fold", "Train", "Gate"] {
        let folder = Folder::new();
        drop(folder.taught());
        let test = "a_killed_run_goes_on_and_learns_the_same_bytes";
        let mut process = child("exec \"$0\" \"$@\"", test, &folder)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let reached = lines
            .map_while(Result::ok)
            .any(|line| line.ends_with(&format!("phase {phase}")));
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(reached);
        let tp = folder.open();
        assert_eq!(tp.readiness().unwrap().have.events, 12);
        assert_eq!(learn(&tp), whole, "killed in {phase}");
        assert!(tp.store().unfinished_runs().unwrap().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk_under_an_adapter_is_an_error_that_loses_nothing() {
    if let Some(tp) = child_folder() {
        // The first file that is too large is the adapter's.
        let recipe = Recipe {
            west_of_n: None,
            ..Recipe::default()
        };
        let job = tp.personalize_with(budget(), recipe).unwrap();
        let error = job.wait().unwrap_err();
        println!("refused: {error}");
        return;
    }
    let folder = Folder::new();
    let tp = folder.taught();
    tp.suspend().unwrap();
    let test = "a_full_disk_under_an_adapter_is_an_error_that_loses_nothing";
    let output = child(
        "trap '' XFSZ; ulimit -f 300; exec \"$0\" \"$@\"",
        test,
        &folder,
    )
    .output()
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("refused: ") && said.contains("cannot write"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(tp.readiness().unwrap().have.events, 12);
    learn(&tp);
}

#[test]
fn without_a_forgotten_item_it_learns_the_bytes_of_never_having_seen_it() {
    let never = learn(&Folder::new().taught());
    let folder = Folder::new();
    let tp = folder.taught();
    let extra = tp
        .record_external(&[Message::user("One more?")], "No.", &Feedback::Up)
        .unwrap();
    assert_ne!(learn(&tp), never);
    tp.forget(Target::Feedback(extra)).unwrap();
    assert_eq!(learn(&tp), never);
}

#[test]
fn feedback_outlives_a_change_of_model_and_an_adapter_does_not_serve_another_base() {
    let folder = Folder::new();
    let tp = folder.taught();
    let reply = tp
        .generate(Request::new(vec![Message::user("And you?")]))
        .unwrap()
        .wait()
        .unwrap();
    tp.record(reply.id, &Feedback::Up).unwrap();
    let id = on_trial(&tp);
    let other = folder.0.path().join("other.gguf");
    TinyModel {
        seed: 2,
        ..TinyModel::llama()
    }
    .write(&other);
    tp.load(&other, &mut |_| ControlFlow::Continue(())).unwrap();
    let ask = |by| {
        let mut request = Request::new(vec![Message::user("Hello")]);
        request.by = by;
        tp.generate(request)
    };
    assert_eq!(
        ask(thumbprint::By::Active).unwrap().wait().unwrap().adapter,
        None
    );
    assert!(matches!(
        ask(thumbprint::By::Adapter(id)),
        Err(Error::Adapter(_))
    ));
    let learned = adapter_of(
        tp.personalize_with(budget(), with_folds())
            .unwrap()
            .wait()
            .unwrap(),
    );
    let (old, new) = (
        tp.adapter(id).unwrap().row,
        tp.adapter(learned).unwrap().row,
    );
    assert_ne!(old.base_hash, new.base_hash);
    assert_eq!(new.manifest["counts"]["events"], 13);
}
