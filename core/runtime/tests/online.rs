//! Rankings and online rounds in the whole loop, on a tiny model: learned to the byte, braked, and forgotten.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::Cursor;

use serde_json::{Value, json};
use tempfile::TempDir;
use thumbprint::exchange::{Filters, Format, Reader};
use thumbprint::store::RunStep;
use thumbprint::{
    Budget, Error, ErrorKind, Feedback, FeedbackId, Message, Online, Options, Outcome, Phase,
    Target, Thumbprint,
};
use thumbprint_fixtures::TinyModel;
use thumbprint_tune::data::JsonLines;
use thumbprint_tune::graph::Kernels;

use common::with_folds;

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

    /// Thumbs that are easily foreseen.
    fn taught(&self) -> Thumbprint {
        let tp = self.open();
        (0..16).for_each(|at| {
            thumb(&tp, at);
        });
        tp
    }

    /// Rankings of three and four, and thumbs.
    fn ranked(&self) -> Thumbprint {
        let tp = self.open();
        rank(&tp, 0..8);
        (0..6).for_each(|at| {
            thumb(&tp, at);
        });
        tp
    }
}

fn thumb(tp: &Thumbprint, at: usize) -> FeedbackId {
    let prompt = [Message::user(format!("Is it number {at}?"))];
    let long = "It depends. It depends. It depends.";
    let down = Feedback::Down { reasons: vec![] };
    match at % 2 {
        0 => tp.record_external(&prompt, "Yes.", &Feedback::Up),
        _ => tp.record_external(&prompt, long, &down),
    }
    .unwrap()
}

fn rank(tp: &Thumbprint, numbers: impl Iterator<Item = usize>) {
    let answer = |text: &str| json!([{ "role": "assistant", "content": text }]);
    let lines: String = numbers
        .map(|at| {
            let prompt = json!([{ "role": "user", "content": format!("Which is number {at}?") }]);
            let mut ranked = vec![answer("This."), answer("Maybe this."), answer("Who knows?")];
            ranked.extend((at % 2 == 0).then(|| answer("It depends. It depends. It depends.")));
            format!("{}\n", json!({ "prompt": prompt, "ranked": ranked }))
        })
        .collect();
    let mut reader = Reader::of_lines(
        JsonLines::new("rankings.jsonl", Cursor::new(lines.into_bytes())),
        Some(Format::Ranking),
        Filters::default(),
    );
    tp.import(&mut reader).unwrap();
}

fn budget() -> Budget {
    Budget {
        n_threads: Some(1),
        ..Budget::default()
    }
}

/// Brakes for a model that hardly learns: its words are random.
fn loose(rounds: u32) -> Online {
    Online {
        prompts: 8,
        max_tokens: 48,
        min_margin: 0.005,
        max_displacement: 100.0,
        ..Online::rounds(rounds).unwrap()
    }
}

fn with(online: Online) -> Budget {
    Budget {
        online: Some(online),
        ..budget()
    }
}

struct Learned {
    bytes: Vec<u8>,
    manifest: Value,
    steps: Vec<RunStep>,
}

impl Learned {
    fn rounds(&self) -> &[Value] {
        self.manifest["online"].as_array().unwrap()
    }

    fn ended(&self) -> &str {
        self.rounds().last().unwrap()["ended"].as_str().unwrap()
    }
}

fn finished(tp: &Thumbprint, outcome: Outcome) -> Learned {
    let (Outcome::Trial(id, _) | Outcome::Rejected(id, _)) = outcome else {
        panic!("{outcome:?}")
    };
    let row = tp.adapter(id).unwrap().row;
    Learned {
        bytes: std::fs::read(tp.store().dir().join(row.file)).unwrap(),
        manifest: row.manifest,
        steps: tp.store().run_steps(row.run.unwrap()).unwrap(),
    }
}

fn learn(tp: &Thumbprint, budget: Budget) -> Learned {
    let outcome = tp.personalize_with(budget, with_folds()).unwrap().wait();
    finished(tp, outcome.unwrap())
}

/// Learns with a pause in each of these phases, at their second report.
fn learn_with_pauses(tp: &Thumbprint, budget: Budget, phases: &[Phase]) -> Learned {
    for phase in phases {
        let job = tp.personalize_with(budget, with_folds()).unwrap();
        let stop = job.clone();
        let rested = job.wait_with(&mut |progress| {
            if progress.phase == *phase && progress.step >= 2 {
                stop.pause();
            }
        });
        assert_eq!(rested.unwrap(), Outcome::Paused);
        tp.suspend().unwrap();
    }
    learn(tp, budget)
}

#[test]
fn rankings_are_learned_to_the_byte_and_a_forgotten_one_leaves_nothing() {
    let whole = learn(&Folder::new().ranked(), budget());
    let folder = Folder::new();
    let paused = learn_with_pauses(&folder.ranked(), budget(), &[Phase::Fold, Phase::Train]);
    assert!(paused.bytes == whole.bytes);
    assert_eq!(paused.steps, whole.steps);

    let folder = Folder::new();
    let tp = folder.ranked();
    let known: BTreeSet<_> = tp
        .store()
        .effective_feedback()
        .unwrap()
        .into_iter()
        .map(|event| event.id)
        .collect();
    rank(&tp, 20..21);
    let more = learn(&tp, budget());
    assert!(more.bytes != whole.bytes);
    let log = tp.store().effective_feedback().unwrap();
    let extra = log.iter().find(|event| !known.contains(&event.id)).unwrap();
    tp.forget(Target::Feedback(extra.id)).unwrap();
    assert!(learn(&tp, budget()).bytes == whole.bytes);
}

#[test]
fn what_each_step_measured_is_stored_under_trls_names() {
    let folder = Folder::new();
    let learned = learn(&folder.ranked(), budget());
    let numbers: Vec<u32> = learned.steps.iter().map(|step| step.step).collect();
    let n = learned.manifest["steps"].as_u64().unwrap() as u32;
    assert_eq!(numbers, (1..=n).collect::<Vec<_>>());
    let mut seen = BTreeSet::new();
    for step in &learned.steps {
        for name in [
            "step",
            "epoch",
            "loss",
            "grad_norm",
            "learning_rate",
            "kl",
            "num_tokens",
        ] {
            assert!(step.metrics[name].is_number(), "{name}: {}", step.metrics);
        }
        seen.extend(step.metrics.as_object().unwrap().keys().cloned());
    }
    for name in [
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    ] {
        assert!(seen.contains(name), "{name}: {seen:?}");
    }
}

#[test]
fn no_round_is_taken_that_nobody_asked_for() {
    let plain = learn(&Folder::new().taught(), budget());
    assert_eq!(plain.rounds(), &[] as &[Value]);
    let tp = Folder::new().open();
    let unwise = [
        Online {
            rounds: 4,
            ..loose(1)
        },
        Online {
            samples: 1,
            ..loose(1)
        },
        Online {
            max_kl: f64::NAN,
            ..loose(1)
        },
        Online {
            learning_rate_factor: 0.0,
            ..loose(1)
        },
    ];
    for online in unwise {
        let error = tp.personalize(with(online)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(matches!(error, Error::Engine(_)), "{error}");
    }
}

#[test]
fn rounds_are_the_same_to_the_byte_however_often_they_rest() {
    // How many pairs a round gives is a matter of what is sampled.
    let two = Online {
        min_pairs: 1,
        ..loose(2)
    };
    let plain = learn(&Folder::new().taught(), budget());
    let folder = Folder::new();
    let whole = learn(&folder.taught(), with(two));
    assert!(whole.bytes != plain.bytes);
    let [first, second] = whole.rounds() else {
        panic!("{:?}", whole.rounds())
    };
    eprintln!("{first} {second}");
    for (round, at) in [(first, 1), (second, 2)] {
        assert_eq!(round["round"], at);
        assert_eq!(round["samples"], 32);
        assert!(round["pairs"].as_u64().unwrap() >= 1, "{round}");
        assert!(round["margin"].as_f64().unwrap() >= 0.005, "{round}");
        assert!(round.get("ended").is_none(), "{round}");
    }
    // Their steps follow those of the training in the record.
    let steps = whole.manifest["steps"].as_u64().unwrap();
    let of_rounds = first["steps"].as_u64().unwrap() + second["steps"].as_u64().unwrap();
    assert_eq!(whole.steps.len() as u64, steps + of_rounds);
    assert_eq!(whole.steps[..plain.steps.len()], plain.steps);

    let folder = Folder::new();
    let tp = folder.taught();
    let paused = learn_with_pauses(&tp, with(two), &[Phase::Online, Phase::Online]);
    assert!(paused.bytes == whole.bytes);
    assert_eq!(paused.manifest, whole.manifest);
    assert_eq!(paused.steps, whole.steps);
}

#[test]
fn what_was_forgotten_is_in_no_round() {
    let never = learn(&Folder::new().taught(), with(loose(1)));
    let folder = Folder::new();
    let tp = folder.taught();
    let extra = thumb(&tp, 40);
    assert!(learn(&tp, with(loose(1))).bytes != never.bytes);
    tp.forget(Target::Feedback(extra)).unwrap();
    assert!(learn(&tp, with(loose(1))).bytes == never.bytes);
}

#[test]
fn each_brake_ends_the_rounds_and_leaves_what_was_learned_before() {
    let plain = learn(&Folder::new().taught(), budget());
    for (ended, online) in [
        (
            "unreliable_labels",
            Online {
                max_p_value: 0.0,
                ..loose(2)
            },
        ),
        (
            "too_far",
            Online {
                max_kl: 0.0,
                ..loose(2)
            },
        ),
        (
            "too_few_pairs",
            Online {
                min_margin: 50.0,
                ..loose(2)
            },
        ),
    ] {
        let braked = learn(&Folder::new().taught(), with(online));
        eprintln!("{:?}", braked.rounds());
        assert_eq!((braked.rounds().len(), braked.ended()), (1, ended));
        assert!(braked.bytes == plain.bytes, "{ended}");
        assert_eq!(
            braked.manifest["logp_shifts"],
            plain.manifest["logp_shifts"]
        );
    }
}

/// Whether a round raises liked replies or lowers them is a matter of what is sampled, but steps that are too long do not keep them.
#[test]
fn a_round_that_costs_liked_replies_too_much_is_taken_back() {
    let braked = (0..24).find_map(|seed| {
        let online = Online {
            learning_rate_factor: [50.0, 200.0, 800.0][seed as usize % 3],
            max_displacement: 1.0,
            ..loose(1)
        };
        let of_seed = |budget: Budget| Budget { seed, ..budget };
        let learned = learn(&Folder::new().taught(), of_seed(with(online)));
        eprintln!("{seed}: {:?}", learned.rounds());
        let ended = learned.rounds()[0].get("ended");
        ended.is_some_and(|why| why == "displaced").then(|| {
            let plain = learn(&Folder::new().taught(), of_seed(budget()));
            (learned, plain)
        })
    });
    let (braked, plain) = braked.expect("a round that is taken back");
    assert_eq!(braked.ended(), "displaced");
    assert!(braked.bytes == plain.bytes);
    assert_eq!(
        braked.manifest["logp_shifts"],
        plain.manifest["logp_shifts"]
    );
}
