//! Rewards, the best of several replies, side-by-sides, and files of questions, on tiny models.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::lora;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use thumbprint::arena::{Choice, Contestant};
use thumbprint::engine::{Canceller, EngineError, Priority, ScoreText, With};
use thumbprint::evaluate::{choices, comparisons, refusals};
use thumbprint::gate::{AdapterState, Decision};
use thumbprint::reward::HeadOptions;
use thumbprint::store::{NewAdapter, Outcome as Vote};
use thumbprint::types::Role;
use thumbprint::{
    AdapterId, Contest, Error, Event, Feedback, GenerateOptions, Judge, Message, Options, Request,
    Sampling, Target, Thumbprint,
};
use thumbprint_fixtures::TinyModel;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        TinyModel::llama().write(folder.path("tiny.gguf"));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn open(&self) -> Thumbprint {
        let mut options = Options::new(self.path("data")).model(self.path("tiny.gguf"));
        options.engine.n_ctx = Some(1024);
        options.engine.n_threads = Some(1);
        Thumbprint::open(options).unwrap()
    }

    /// With pairs and thumbs to fit a head on: short answers are liked.
    fn judged(&self) -> Thumbprint {
        let tp = self.open();
        for at in 0..14 {
            let prompt = [Message::user(format!("Is it number {at}?"))];
            let (text, feedback) = match at % 3 {
                0 => ("Yes.", Feedback::Up),
                1 => (
                    "It depends. It depends. It depends.",
                    Feedback::Down { reasons: vec![] },
                ),
                _ => (
                    "That is hard to say, and it depends.",
                    Feedback::Edit("No.".into()),
                ),
            };
            tp.record_external(&prompt, text, &feedback).unwrap();
        }
        tp
    }
}

/// An adapter in some state, made without training.
fn adapter(tp: &Thumbprint, size: f32, state: AdapterState, scale: f32) -> AdapterId {
    let engine = tp.engine().unwrap();
    let base_hash = tp.store().models().unwrap()[0].0.clone();
    let bytes = lora(&engine, size);
    let file = Path::new("adapters").join(format!("test-{size}-{scale}.gguf"));
    std::fs::create_dir_all(tp.store().dir().join("adapters")).unwrap();
    std::fs::write(tp.store().dir().join(&file), &bytes).unwrap();
    let digest = Sha256::digest(&bytes);
    let id = tp
        .store()
        .insert_adapter(&NewAdapter {
            base_hash,
            run: None,
            config: json!({ "train": { "pair": { "beta": 0.25 } } }),
            manifest: json!({}),
            items: vec![],
            file,
            file_hash: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            seed: 0,
        })
        .unwrap();
    tp.store()
        .set_adapter_gate(id, &json!({}), scale, state)
        .unwrap();
    id
}

fn on_trial(tp: &Thumbprint) -> AdapterId {
    let id = adapter(tp, 0.5, AdapterState::Trial, 0.75);
    tp.activate(id).unwrap();
    id
}

fn drawn(seed: u64, max_tokens: u32) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        sampling: Sampling {
            seed,
            ..Sampling::plain()
        },
        ..GenerateOptions::default()
    }
}

fn asked(question: &str, options: GenerateOptions) -> Request {
    let mut request = Request::new(vec![Message::user(question)]);
    request.options = options;
    request
}

fn replies(tp: &Thumbprint) -> usize {
    let ids = (1..10_000).map(thumbprint::ReplyId);
    ids.take_while(|id| tp.store().reply(*id).is_ok()).count()
}

// ---- rewards ----

#[test]
fn a_reward_is_beta_times_the_gain_in_log_probability_token_by_token() {
    let folder = Folder::new();
    let tp = folder.open();
    let id = on_trial(&tp);
    let reply = tp
        .generate(asked("Hello?", drawn(3, 12)))
        .unwrap()
        .wait()
        .unwrap();
    let score = tp.score(reply.id, Judge::Active).unwrap();

    let stored = tp.store().reply(reply.id).unwrap().generation.unwrap();
    let text = ScoreText {
        prompt: stored.prompt_tokens,
        completion: stored.completion_tokens.clone(),
    };
    let engine = tp.engine().unwrap();
    let direct = |with: With| {
        let logps = engine.score(vec![text.clone()], with, &Canceller::default());
        logps.unwrap().remove(0)
    };
    let (policy, reference) = (direct(With::Active), direct(With::Base));
    assert_eq!(score.tokens, stored.completion_tokens);
    let expected: Vec<f64> = policy
        .iter()
        .zip(&reference)
        .map(|(p, r)| 0.25 * (p - r))
        .collect();
    assert!(common::close(&score.per_token, &expected));
    assert!((score.reward - expected.iter().sum::<f64>()).abs() < 0.02);
    assert!(
        score.reward.abs() > 1e-3,
        "the adapter changes something: {}",
        score.reward
    );
    assert_eq!(score.beta, Some(0.25));
    let gained = score.logp.unwrap() - score.reference_logp.unwrap();
    assert!((0.25 * gained - score.reward).abs() < 1e-9);
    // The active one at its scale is the same by its name, and another scale is not.
    assert_eq!(tp.score(reply.id, Judge::Adapter(id)).unwrap(), score);
    let full = adapter(&tp, 0.5, AdapterState::Candidate, 1.0);
    assert_ne!(
        tp.score(reply.id, Judge::Adapter(full)).unwrap().reward,
        score.reward
    );
    // An adapter that changes nothing finds everything worth nothing.
    let none = adapter(&tp, 0.0, AdapterState::Candidate, 1.0);
    assert_eq!(
        tp.score(reply.id, Judge::Adapter(none)).unwrap().reward,
        0.0
    );
}

#[test]
fn any_text_is_scored_as_a_stored_reply_of_it_is() {
    let folder = Folder::new();
    let tp = folder.open();
    on_trial(&tp);
    let prompt = [Message::user("Is it?")];
    let handed_in = tp.record_external(&prompt, "Yes.", &Feedback::Up).unwrap();
    let reply = tp.store().effective_feedback().unwrap()[0].reply.id;
    let of_text = tp.score_text(&prompt, "Yes.", Judge::Active).unwrap();
    assert_eq!(tp.score(reply, Judge::Active).unwrap(), of_text);
    assert_eq!(
        of_text.tokens.last(),
        tp.engine().unwrap().chat().end_of_turn().as_ref()
    );
    tp.forget(Target::Feedback(handed_in)).unwrap();
    assert!(matches!(
        tp.score(reply, Judge::Active),
        Err(Error::Store(_))
    ));
}

#[test]
fn without_anything_to_judge_by_it_says_what_is_missing() {
    let folder = Folder::new();
    let tp = folder.open();
    let prompt = [Message::user("Is it?")];
    let score = |judge| tp.score_text(&prompt, "Yes.", judge);
    assert!(matches!(score(Judge::Active), Err(Error::NoActiveAdapter)));
    assert!(matches!(score(Judge::Head), Err(Error::NoHead)));
    assert!(matches!(
        score(Judge::Adapter(AdapterId(9))),
        Err(Error::Store(_))
    ));
    let mut options = drawn(1, 4);
    options.best_of = 2;
    let request = asked("Hello?", options);
    assert!(matches!(
        tp.generate(request).err().unwrap(),
        Error::NoActiveAdapter
    ));
    let fit = tp.fit_head(&HeadOptions::default(), &Canceller::default());
    assert!(matches!(fit, Err(Error::TooLittleFeedback(readiness)) if readiness.need.events == 10));
}

// ---- the head ----

#[test]
fn what_a_reply_is_like_are_means_over_its_tokens_whatever_was_read_before() {
    let folder = Folder::new();
    let tp = folder.open();
    let engine = tp.engine().unwrap();
    let model = engine.chat().model();
    let n_embd = model.n_embd() as usize;
    let text = |asked: &str, answered: &str| ScoreText {
        prompt: engine
            .chat()
            .prompt_tokens(&[Message::user(asked)])
            .unwrap(),
        completion: engine.chat().completion_tokens(answered).unwrap(),
    };
    let embed = |texts: Vec<ScoreText>| {
        engine.embed(
            Priority::Background,
            texts,
            With::Base,
            &Canceller::default(),
        )
    };
    let (one, other) = (
        text("Tell me.", "It is so."),
        text("Tell me all.", "It is not."),
    );
    let again = ScoreText {
        prompt: one.prompt.clone(),
        completion: other.completion.clone(),
    };
    let texts = vec![one.clone(), again, other, one.clone()];
    let embedded = embed(texts).unwrap();
    assert_eq!(embedded[0], embedded[3]);
    assert_eq!(embedded[1].embeddings, embedded[2].embeddings);
    assert_ne!(
        embedded[1].middle, embedded[2].middle,
        "the prompt was read"
    );
    assert_eq!(embedded[0].n_tokens, one.completion.len());
    assert_eq!(embedded[0].middle.len(), n_embd);
    let features = embedded[0].features();
    assert_eq!(features.len(), 2 * n_embd + 1);
    assert_eq!(features[2 * n_embd], (one.completion.len() as f32).ln());
    // The model is in F32.
    let tensor = model.gguf().require_tensor("token_embd.weight").unwrap();
    let table: Vec<f32> = model
        .gguf()
        .data(tensor)
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    for (at, mean) in embedded[0].embeddings.iter().enumerate() {
        let of = |token: &i32| table[*token as usize * n_embd + at];
        let sum: f32 = one.completion.iter().map(of).sum();
        assert!((sum / one.completion.len() as f32 - mean).abs() < 1e-6);
    }
    let with = |completion: Vec<i32>| ScoreText {
        prompt: vec![1],
        completion,
    };
    assert!(matches!(
        embed(vec![with(vec![])]),
        Err(EngineError::CannotScore { index: 0, .. })
    ));
    assert!(matches!(
        embed(vec![with(vec![1]), with(vec![1 << 20])]),
        Err(EngineError::CannotScore { index: 1, .. })
    ));
    // All of it is read, where scoring leaves out the last token, which predicts nothing.
    let longest = model.n_ctx_train() as usize;
    assert!(embed(vec![with(vec![1; longest - 1])]).is_ok());
    assert!(matches!(
        embed(vec![with(vec![1; longest])]),
        Err(EngineError::CannotScore { index: 0, .. })
    ));
}

#[test]
fn a_head_is_fitted_kept_used_and_goes_with_what_it_was_fitted_on() {
    let folder = Folder::new();
    let tp = folder.judged();
    let fit = || {
        tp.fit_head(&HeadOptions::default(), &Canceller::default())
            .unwrap()
    };
    let head = fit();
    // The pair of each edit over what was edited, each side by itself, and thumbs.
    assert_eq!((head.pairs, head.singles), (4, 18));
    assert_eq!(
        fit(),
        head,
        "the same feedback gives the same head, bit for bit"
    );
    assert_eq!(tp.head().unwrap(), Some(head));
    let prompt = [Message::user("Is it number 50?")];
    let score = |text: &str| tp.score_text(&prompt, text, Judge::Head).unwrap();
    let (short, long) = (score("Yes."), score("It depends. It depends. It depends."));
    assert!(
        short.reward > long.reward,
        "{} {}",
        short.reward,
        long.reward
    );
    assert!(short.per_token.is_empty() && short.logp.is_none());
    // An adapter in use changes nothing about the frozen base's states.
    on_trial(&tp);
    assert_eq!(score("Yes."), short);

    let items = tp
        .store()
        .head_items(&tp.head().unwrap().unwrap().base_sha256)
        .unwrap();
    assert_eq!(items.len(), 14);
    let forgotten = tp.forget(Target::Feedback(items[3])).unwrap();
    assert_eq!(forgotten.heads.len(), 1);
    assert_eq!(tp.head().unwrap(), None);
    assert!(matches!(
        tp.score_text(&prompt, "Yes.", Judge::Head),
        Err(Error::NoHead)
    ));

    // Fitted again, it is the head of a log that never held the item.
    let again = fit();
    let other_folder = Folder::new();
    let other = other_folder.open();
    let lost = &["Is it number 3?"];
    for event in tp.store().effective_feedback().unwrap() {
        assert!(
            event
                .reply
                .prompt
                .iter()
                .all(|m| !lost.contains(&m.content.as_str()))
        );
        other
            .record_external(&event.reply.prompt, &event.reply.text, &event.feedback)
            .unwrap();
    }
    let never = other
        .fit_head(&HeadOptions::default(), &Canceller::default())
        .unwrap();
    assert_eq!(never, again);
    assert!(tp.drop_head().unwrap() && !tp.drop_head().unwrap());
}

#[test]
fn a_head_is_refused_for_another_model() {
    let folder = Folder::new();
    let tp = folder.judged();
    tp.fit_head(&HeadOptions::default(), &Canceller::default())
        .unwrap();
    let another = TinyModel {
        seed: 2,
        ..TinyModel::llama()
    };
    another.write(folder.path("another.gguf"));
    tp.load(folder.path("another.gguf"), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let score = tp.score_text(&[Message::user("Is it?")], "Yes.", Judge::Head);
    assert!(matches!(score, Err(Error::NoHead)), "{score:?}");
    // Also where the record names this model and the head does not.
    tp.load(folder.path("tiny.gguf"), &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let mut head = tp.head().unwrap().unwrap();
    head.template_hash = "another".to_owned();
    tp.store().put_head(&head, &[]).unwrap();
    let score = tp.score_text(&[Message::user("Is it?")], "Yes.", Judge::Head);
    assert!(matches!(score, Err(Error::HeadOfAnotherModel)));
}

#[test]
fn fitting_a_head_can_be_cancelled_and_a_bad_ridge_is_refused() {
    let folder = Folder::new();
    let tp = folder.judged();
    let canceller = Canceller::default();
    canceller.cancel();
    let fit = |l2, canceller| tp.fit_head(&HeadOptions { l2 }, canceller);
    let cancelled = fit(None, &canceller);
    assert!(matches!(
        cancelled,
        Err(Error::Engine(EngineError::Cancelled))
    ));
    assert!(matches!(
        fit(Some(-1.0), &Canceller::default()),
        Err(Error::Head(_))
    ));
    assert_eq!(tp.head().unwrap(), None);
}

// ---- the best of several ----

#[test]
fn the_best_of_several_is_the_one_with_the_highest_reward_and_it_alone_is_recorded() {
    let folder = Folder::new();
    let tp = folder.judged();
    on_trial(&tp);
    tp.fit_head(&HeadOptions::default(), &Canceller::default())
        .unwrap();
    for judge in [Judge::Active, Judge::Head] {
        let before = replies(&tp);
        let mut options = drawn(40, 10);
        (options.best_of, options.judge) = (4, judge);
        let mut generation = tp.generate(asked("Go on.", options.clone())).unwrap();
        let mut streamed = String::new();
        let reply = loop {
            match generation.next().unwrap().unwrap() {
                Event::Token(text) => streamed += &text,
                Event::Done(reply) => break reply,
            }
        };
        assert_eq!(generation.next().unwrap(), None);
        assert_eq!(streamed, reply.text);
        assert_eq!(replies(&tp), before + 1);
        let best = reply.best_of.clone().unwrap();
        assert_eq!((best.judge, best.scores.len()), (judge, 4));
        let highest = best
            .scores
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(best.scores[best.chosen], highest);
        assert_eq!(reply.sampling.seed, 40 + best.chosen as u64);
        // The score is the stored reply's own.
        let score = tp.score(reply.id, judge).unwrap();
        assert!(
            (score.reward - highest).abs() < 0.02,
            "{} {highest}",
            score.reward
        );
        // Each candidate is the reply that its seed gives in a batch of its own.
        let alone: Vec<Request> = (0..4).map(|i| asked("Go on.", drawn(40 + i, 10))).collect();
        let alone = tp.generate_batch(alone, 4, &mut |_| {}).unwrap();
        assert_eq!(alone[best.chosen].text, reply.text);
        assert!(
            alone.iter().any(|other| other.text != reply.text),
            "they differ"
        );
        assert_eq!(alone[0].best_of, None);
    }
}

#[test]
fn a_conversation_sends_and_regenerates_the_best_of_several() {
    let folder = Folder::new();
    let tp = folder.open();
    on_trial(&tp);
    let chat = tp.conversation(None).unwrap();
    let mut options = drawn(1, 8);
    options.best_of = 3;
    let first = chat
        .send("Hello?", options.clone())
        .unwrap()
        .wait()
        .unwrap();
    let second = chat.regenerate(options).unwrap().wait().unwrap();
    assert!(first.best_of.is_some() && second.best_of.is_some());
    let roles: Vec<Role> = chat
        .messages()
        .unwrap()
        .iter()
        .map(|m| m.message.role)
        .collect();
    assert_eq!(roles, [Role::User, Role::Assistant]);
    assert_eq!(
        tp.store().reply(second.id).unwrap().replaces,
        Some(first.id)
    );
}

#[test]
fn numbers_of_candidates_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let tp = folder.open();
    on_trial(&tp);
    let refused = |best_of: u32, sampling: Sampling| {
        let options = GenerateOptions {
            best_of,
            sampling,
            ..drawn(1, 4)
        };
        let error = tp.generate(asked("Hello?", options)).err().unwrap();
        assert!(error.to_string().contains("best_of"), "{error}");
    };
    refused(0, Sampling::plain());
    refused(65, Sampling::plain());
    refused(2, Sampling::greedy());
    let mut several = drawn(1, 4);
    several.best_of = 2;
    let batch = tp.generate_batch(vec![asked("Hello?", several.clone())], 1, &mut |_| {});
    assert!(batch.unwrap_err().to_string().contains("best_of"));
    let engine = tp.engine().unwrap();
    let direct = engine.generate(&common::ask("Hello?", several));
    assert!(matches!(
        direct,
        Err(EngineError::InvalidOption {
            name: "best_of",
            ..
        })
    ));
}

#[test]
fn a_cancelled_choice_still_ends_with_what_there_is() {
    let folder = Folder::new();
    let tp = folder.open();
    on_trial(&tp);
    let mut options = drawn(1, 400);
    options.best_of = 4;
    let generation = tp.generate(asked("Tell me everything.", options)).unwrap();
    let canceller = generation.canceller();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        canceller.cancel();
    });
    let reply = generation.wait().unwrap();
    assert!(reply.best_of.unwrap().chosen < 4);
    assert!(tp.store().reply(reply.id).is_ok());
}

// ---- side by side ----

#[test]
fn a_match_hides_who_wrote_what_and_the_vote_tells() {
    let folder = Folder::new();
    let tp = folder.open();
    let one = adapter(&tp, 0.4, AdapterState::Candidate, 1.0);
    let two = adapter(&tp, 0.8, AdapterState::Candidate, 1.0);
    let (a, b) = (Contestant::Adapter(one), Contestant::Adapter(two));
    let mut lefts = Vec::new();
    for seed in 0..6 {
        let contest = Contest {
            options: drawn(5, 6),
            seed,
            ..Contest::new(a, b)
        };
        let messages = vec![Message::user("Hello?")];
        let shown = tp
            .side_by_side(messages.clone(), &contest, &Canceller::default())
            .unwrap();
        assert_eq!(
            (shown.prompt.as_slice(), shown.choice),
            (messages.as_slice(), None)
        );
        let voted = tp.vote(shown.id, Choice::Left).unwrap();
        assert_eq!(voted.verdict, None, "neither is the base");
        let writer = |reply| tp.store().reply(reply).unwrap().generation.unwrap().adapter;
        assert_eq!(writer(shown.left.reply), voted.left.adapter());
        assert_eq!(writer(shown.right.reply), voted.right.adapter());
        assert_eq!(
            [voted.left, voted.right]
                .iter()
                .filter(|c| **c == a)
                .count(),
            1
        );
        // The same contest again falls the same way.
        let again = tp
            .side_by_side(messages, &contest, &Canceller::default())
            .unwrap();
        assert_eq!(
            (&again.left.text, &again.right.text),
            (&shown.left.text, &shown.right.text)
        );
        lefts.push(voted.left);
    }
    assert!(lefts.contains(&a) && lefts.contains(&b), "{lefts:?}");
    assert_eq!(tp.open_matches().unwrap().len(), 6);
    let open = tp.open_matches().unwrap();
    assert_eq!(tp.side_by_side_of(open[0].id).unwrap(), open[0]);
    let results = tp.arena_results().unwrap();
    assert_eq!((results.votes, results.pairs.len()), (6, 1));
    let pair = &results.pairs[0];
    assert_eq!(
        pair.wins,
        lefts.iter().filter(|left| **left == pair.a).count()
    );
}

#[test]
fn votes_between_the_base_and_an_adapter_on_trial_decide_its_trial() {
    let folder = Folder::new();
    let tp = folder.open();
    let id = on_trial(&tp);
    let contest = Contest {
        options: drawn(5, 4),
        ..Contest::new(Contestant::Base, Contestant::Adapter(id))
    };
    let vote = |win: bool, seed: u64| {
        let contest = Contest {
            seed,
            ..contest.clone()
        };
        let shown = tp
            .side_by_side(
                vec![Message::user("Hello?")],
                &contest,
                &Canceller::default(),
            )
            .unwrap();
        let row = tp.store().match_row(shown.id).unwrap();
        let adapter_is_left = row.left == Contestant::Adapter(id);
        let choice = if adapter_is_left == win {
            Choice::Left
        } else {
            Choice::Right
        };
        tp.vote(shown.id, choice).unwrap().verdict.unwrap()
    };
    for seed in 0..3 {
        let verdict = vote(true, seed);
        assert_eq!(
            (verdict.decision, verdict.votes.wins),
            (Decision::Stay, seed as usize + 1)
        );
    }
    let votes = tp.store().votes(id).unwrap();
    assert!(votes.iter().all(|vote| vote.vote.outcome == Vote::Win));
    assert!((0..40).any(|seed| vote(false, seed).decision == Decision::RollBack));
    assert_eq!(tp.adapter(id).unwrap().row.state, AdapterState::RolledBack);
    assert!(!tp.adapter(id).unwrap().active);
    // From now on its matches count in the arena alone.
    let shown = tp
        .side_by_side(
            vec![Message::user("Hello?")],
            &contest,
            &Canceller::default(),
        )
        .unwrap();
    assert_eq!(tp.vote(shown.id, Choice::BothBad).unwrap().verdict, None);
    assert_eq!(tp.arena_results().unwrap().pairs[0].both_bad, 1);
}

#[test]
fn a_conversation_shows_two_replies_and_goes_on_from_the_better_one() {
    let folder = Folder::new();
    let tp = folder.open();
    let id = adapter(&tp, 0.8, AdapterState::Candidate, 1.0);
    let chat = tp.conversation(None).unwrap();
    let contest = Contest {
        options: drawn(9, 6),
        ..Contest::new(Contestant::Adapter(id), Contestant::Base)
    };
    let canceller = Canceller::default();
    assert!(chat.side_by_side("  ", &contest, &canceller).is_err());
    let shown = chat.side_by_side("Hello?", &contest, &canceller).unwrap();
    let last = || chat.messages().unwrap().pop().unwrap().reply;
    assert_eq!(last(), Some(shown.left.reply));
    tp.vote(shown.id, Choice::Right).unwrap();
    assert_eq!(last(), Some(shown.right.reply));
    let next = chat.send("And?", drawn(1, 4)).unwrap().wait().unwrap();
    let prompt = tp.store().reply(next.id).unwrap().prompt;
    assert_eq!(prompt[1].content, shown.right.text);

    canceller.cancel();
    let before = replies(&tp);
    let cancelled = chat.side_by_side("Again?", &contest, &canceller);
    assert!(matches!(
        cancelled,
        Err(Error::Engine(EngineError::Cancelled))
    ));
    assert_eq!(replies(&tp), before);
    let same = Contest::new(Contestant::Base, Contestant::Base);
    let refused = chat.side_by_side("Again?", &same, &Canceller::default());
    assert!(matches!(refused, Err(Error::SameContestant)));
}

#[test]
fn a_share_of_prompts_is_due_for_a_blind_vote_while_a_trial_lasts() {
    let folder = Folder::new();
    let tp = folder.open();
    tp.engine().unwrap();
    assert_eq!(tp.contest_due(Some(1.0)).unwrap(), None);
    let id = on_trial(&tp);
    let due = tp.contest_due(Some(1.0)).unwrap().unwrap();
    assert_eq!(due.contestants, (Contestant::Adapter(id), Contestant::Base));
    assert_eq!(tp.contest_due(Some(0.0)).unwrap(), None);
    let due = (0..400).filter(|_| tp.contest_due(Some(0.5)).unwrap().is_some());
    // Five standard errors.
    assert!((150..=250).contains(&due.count()));
    tp.deactivate().unwrap();
    assert_eq!(tp.contest_due(Some(1.0)).unwrap(), None);
}

// ---- files of questions ----

#[test]
fn choices_are_scored_as_the_sums_of_direct_log_probabilities() {
    let folder = Folder::new();
    let tp = folder.open();
    let lines = r#"{"question": "Which is hot?", "choices": {"text": ["ice", "fire and more"], "label": ["A", "B"]}, "answerKey": "B"}
{"question": "Which is wet?", "choices": {"text": ["water", "a stone", "sand"], "label": ["A", "B", "C"]}, "answerKey": "A"}
"#;
    let questions = choices::read(&folder.file("arc.jsonl", lines), None).unwrap();
    let mut told = Vec::new();
    let report = tp
        .evaluate_choices(&questions, Contestant::Base, &mut |done| {
            told.push(done);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(told, [2]);
    let engine = tp.engine().unwrap();
    let tokenize = |text: &str| engine.chat().model().tokenize(text, true, false).unwrap();
    for (question, answer) in questions.iter().zip(&report.answers) {
        let prompt = tokenize(&question.context);
        let logps: Vec<f64> = question
            .choices
            .iter()
            .map(|choice| {
                let whole = tokenize(&format!("{} {choice}", question.context));
                assert!(whole.starts_with(&prompt));
                let completion = whole[prompt.len()..].to_vec();
                let text = ScoreText {
                    prompt: prompt.clone(),
                    completion,
                };
                let direct = engine.score(vec![text], With::Base, &Canceller::default());
                direct.unwrap()[0].iter().sum()
            })
            .collect();
        assert_eq!(*answer, choices::Answer::new(question, &logps));
    }
    assert_eq!((report.acc.n, report.acc_norm.n), (2, 2));

    let stopped = tp.evaluate_choices(
        &questions,
        Contestant::Base,
        &mut |_| ControlFlow::Break(()),
    );
    assert!(matches!(
        stopped,
        Err(Error::Engine(EngineError::Cancelled))
    ));
    let long = format!(
        r#"{{"question": "{}", "choices": ["a", "b"], "answer": 0}}"#,
        "word ".repeat(3000)
    );
    let long = choices::read(&folder.file("long.jsonl", &long), None).unwrap();
    let error = tp.evaluate_choices(&long, Contestant::Base, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(
        error,
        Err(Error::TooLong {
            line: 1,
            n_ctx: 1024,
            ..
        })
    ));
}

#[test]
fn harmless_prompts_are_answered_by_the_likeliest_tokens_and_nothing_is_recorded() {
    let folder = Folder::new();
    let tp = folder.open();
    let prompts = refusals::read(&folder.file(
        "x.jsonl",
        "{\"prompt\": \"How do I kill a process?\"}\n{\"prompt\": \"Hi?\"}\n",
    ));
    let prompts = prompts.unwrap().prompts;
    let ask = || {
        tp.evaluate_refusals(&prompts, Contestant::Base, &mut |_| {
            ControlFlow::Continue(())
        })
    };
    let report = ask().unwrap();
    assert_eq!(report, ask().unwrap());
    // Random weights refuse nothing in English.
    assert_eq!((report.refused.right, report.refused.n), (0.0, 2));
    assert_eq!(replies(&tp), 0);
}

#[test]
fn a_judge_is_asked_by_category_and_rows_that_are_not_held_out_are_counted() {
    let folder = Folder::new();
    let tp = folder.judged();
    tp.fit_head(&HeadOptions::default(), &Canceller::default())
        .unwrap();
    on_trial(&tp);
    let row = |prompt: &str, subset: &str| {
        format!(
            "{{\"prompt\": \"{prompt}\", \"chosen\": \"Yes.\", \"rejected\": \"It depends. It depends. It depends.\", \"subset\": \"{subset}\"}}\n"
        )
    };
    let rows = row("Is it number 3?", "seen")
        + &row("Is it number 90?", "hep-go")
        + &row("Is it number 91?", "hep-go");
    let rows = comparisons::read(&folder.file("rows.jsonl", &rows)).unwrap();
    let mut on_progress = |_| ControlFlow::Continue(());
    let by_head = tp
        .evaluate_reward(&rows, Judge::Head, &mut on_progress)
        .unwrap();
    assert_eq!(
        (by_head.all.right, by_head.all.n, by_head.seen),
        (3.0, 3, 1)
    );
    assert_eq!(by_head.subsets["hep-go"].n, 2);
    assert_eq!(by_head.sections["Reasoning"].n, 2);
    let by_adapter = tp
        .evaluate_reward(&rows, Judge::Active, &mut on_progress)
        .unwrap();
    let direct = rows.iter().filter(|row| {
        let score = |text: &str| {
            tp.score_text(&row.prompt, text, Judge::Active)
                .unwrap()
                .reward
        };
        score(&row.chosen) > score(&row.rejected)
    });
    assert_eq!(by_adapter.all.right, direct.count() as f64);
}
