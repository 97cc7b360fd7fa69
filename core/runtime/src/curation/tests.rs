#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::effect::{Act, Event, in_effect};
use super::*;
use crate::types::{Message, ReplyId};

fn reply(id: i64, prompt: &str, text: &str) -> Arc<LoggedReply> {
    Arc::new(LoggedReply {
        id: ReplyId(id),
        prompt: vec![Message::user(prompt)],
        text: text.into(),
        tokens: Some(vec![1, 2, 3]),
        finished: true,
        model: Some("base".into()),
    })
}

fn said(id: i64, reply: &Arc<LoggedReply>, feedback: Feedback) -> LoggedFeedback {
    LoggedFeedback { id: FeedbackId(id), reply: reply.clone(), feedback, other: None }
}

fn about(id: i64, reply: &Arc<LoggedReply>, feedback: Feedback, other: &Arc<LoggedReply>) -> LoggedFeedback {
    LoggedFeedback { other: Some(other.clone()), ..said(id, reply, feedback) }
}

fn down() -> Feedback {
    Feedback::Down { reasons: Vec::new() }
}

fn options() -> Options {
    Options { model: Some("base".into()), ..Options::default() }
}

/// An example in one line: what it says, of which texts, with which numbers.
fn summary(curated: &Curated) -> Vec<String> {
    let mut lines: Vec<_> = curated
        .examples
        .iter()
        .map(|example| match &example.kind {
            Kind::Pair { chosen, rejected, weight, label_smoothing, nll } => {
                format!("{} > {} w={weight} e={label_smoothing} nll={nll}", chosen.text, rejected.text)
            }
            Kind::Unpaired { completion, desirable, weight } => {
                format!("{} {} w={weight}", if *desirable { "+" } else { "-" }, completion.text)
            }
            Kind::Demonstration { completion, weight } => format!("! {} w={weight}", completion.text),
        })
        .collect();
    lines.sort();
    lines
}

fn reasons(curated: &Curated) -> Vec<(i64, Reason)> {
    curated.skipped.iter().map(|skipped| (skipped.item.0, skipped.reason)).collect()
}

#[test]
fn each_row_of_the_table_gives_its_example() {
    let old = reply(1, "p", "alpha beta gamma");
    let new = reply(2, "p", "one two three four");
    let cases: Vec<(Vec<LoggedFeedback>, &[&str])> = vec![
        (vec![said(1, &old, Feedback::Edit("delta".into()))], &["! delta w=1"]),
        (
            vec![about(1, &new, Feedback::Prefer { over: old.id }, &old)],
            &["one two three four > alpha beta gamma w=1 e=0.1 nll=false"],
        ),
        (
            vec![said(1, &old, down()), said(2, &new, Feedback::Up)],
            &["one two three four > alpha beta gamma w=1 e=0.1 nll=true"],
        ),
        (
            vec![about(1, &old, Feedback::Retry, &new)],
            &["one two three four > alpha beta gamma w=0.5 e=0.25 nll=false"],
        ),
        (
            vec![said(1, &old, Feedback::Retry), said(2, &new, Feedback::Up)],
            &["one two three four > alpha beta gamma w=0.5 e=0.25 nll=true"],
        ),
        (vec![said(1, &old, Feedback::Up)], &["+ alpha beta gamma w=1"]),
        (vec![said(1, &old, down())], &["- alpha beta gamma w=1"]),
        (vec![said(1, &old, Feedback::Retry)], &["- alpha beta gamma w=0.25"]),
    ];
    for (log, expected) in cases {
        let curated = curate(&log, &options());
        assert_eq!(summary(&curated), expected, "{log:?}");
        assert_eq!(curated.skipped, [], "{log:?}");
        assert_eq!(curated.items(), log.iter().map(|event| event.id).collect::<Vec<_>>());
    }
}

#[test]
fn a_group_gives_one_example_and_reports_what_is_left_over() {
    let replies: Vec<_> = ["red", "green", "blue", "violet"].iter().zip(1..).map(|(text, id)| reply(id, "p", text)).collect();
    let log = [
        said(1, &replies[0], Feedback::Up),
        said(2, &replies[1], Feedback::Up),
        said(3, &replies[2], down()),
        said(4, &replies[3], down()),
    ];
    let curated = curate(&log, &options());
    assert_eq!(curated.examples.len(), 1);
    assert_eq!(curated.examples[0].items.len(), 2);
    assert_eq!(curated.skipped.len(), 2);
    assert!(curated.skipped.iter().all(|skipped| skipped.reason == Reason::LeftOver));
    // Left-over thumbs were given all the same.
    assert_eq!(curated.readiness.have, Tally { events: 4, liked: 2, disliked: 2 });

    let two = curate(&log, &Options { pairs_per_prompt: 2, ..options() });
    assert_eq!(two.counts.pairs, 2);
    assert_eq!(two.items().len(), 4, "no reply is in two pairs");
}

#[test]
fn the_least_similar_pair_is_chosen() {
    let good = reply(1, "p", "The capital of France is Paris.");
    let near = reply(2, "p", "The capital of France is Paris, of course.");
    let far = reply(3, "p", "I cannot say much about that.");
    let log = [said(1, &good, Feedback::Up), said(2, &near, down()), said(3, &far, down())];
    let curated = curate(&log, &options());
    assert_eq!(curated.items(), [FeedbackId(1), FeedbackId(3)]);
    assert_eq!(reasons(&curated), [(2, Reason::LeftOver)]);
}

#[test]
fn nearly_identical_sides_are_weighed_down_and_identical_ones_teach_nothing() {
    let weight_of = |a: &str, b: &str| {
        let log = [said(1, &reply(1, "p", a), Feedback::Up), said(2, &reply(2, "p", b), down())];
        let curated = curate(&log, &options());
        curated.examples.first().map(|example| match example.kind {
            Kind::Pair { weight, .. } => weight,
            _ => panic!("a pair"),
        })
    };
    let long = "The quick brown fox jumps over the lazy dog and runs into the dark forest.";
    assert_eq!(weight_of(long, "Something else altogether."), Some(1.0));
    // Similarity 0.959: (1 - 0.959) / 0.2.
    let weight = weight_of(long, &long.replace('.', "!")).unwrap();
    assert!((0.1..0.5).contains(&weight), "{weight}");
    assert_eq!(weight_of(long, long), None);
    assert_eq!(weight_of(long, &format!("{long} ")), None);
}

#[test]
fn the_same_text_liked_once_and_disliked_once_gives_nothing() {
    let log = [said(1, &reply(1, "p", "same"), Feedback::Up), said(2, &reply(2, "p", "same"), down())];
    let curated = curate(&log, &options());
    assert_eq!(curated.examples, []);
    assert_eq!(reasons(&curated), [(1, Reason::IdenticalSides), (2, Reason::IdenticalSides)]);
    assert_eq!(curated.readiness.have, Tally::default());
}

#[test]
fn an_edit_speaks_for_its_prompt_and_pairs_beside_it_are_a_choice() {
    let (first, second) = (reply(1, "p", "a long story"), reply(2, "p", "another long story"));
    let log = [said(1, &second, down()), said(2, &first, Feedback::Edit("short".into()))];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["! short w=1"]);
    assert_eq!(reasons(&curated), [(1, Reason::LeftOver)]);

    let with_pairs = curate(&log, &Options { edit_pairs: true, ..options() });
    assert_eq!(summary(&with_pairs), ["! short w=1", "short > a long story w=1 e=0.1 nll=false"]);
    assert_eq!(with_pairs.items(), [FeedbackId(2)]);
}

#[test]
fn a_retry_of_a_reply_that_is_liked_is_no_word_against_it() {
    let (old, new) = (reply(1, "p", "first"), reply(2, "p", "second one"));
    let log = [said(1, &old, Feedback::Up), about(2, &old, Feedback::Retry, &new)];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["+ first w=1"]);
}

#[test]
fn a_new_reply_that_is_disliked_does_not_win_over_the_old_one() {
    let (old, new) = (reply(1, "p", "first"), reply(2, "p", "second one"));
    let log = [about(1, &old, Feedback::Retry, &new), said(2, &new, down())];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["- second one w=1"]);
}

#[test]
fn a_liked_reply_does_not_win_over_one_retried_later() {
    let (earlier, later) = (reply(1, "p", "first"), reply(2, "p", "second one"));
    let log = [said(1, &earlier, Feedback::Up), said(2, &later, Feedback::Retry)];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["+ first w=1"]);
}

#[test]
fn of_a_pick_and_opposite_thumbs_the_later_counts() {
    let (a, b) = (reply(1, "p", "first"), reply(2, "p", "second one"));
    let pick = |id| about(id, &a, Feedback::Prefer { over: b.id }, &b);
    let thumbs_later = [pick(1), said(2, &a, down()), said(3, &b, Feedback::Up)];
    assert_eq!(summary(&curate(&thumbs_later, &options())), ["second one > first w=1 e=0.1 nll=true"]);
    let pick_later = [said(1, &a, down()), said(2, &b, Feedback::Up), pick(3)];
    assert_eq!(summary(&curate(&pick_later, &options())), ["first > second one w=1 e=0.1 nll=false"]);
}

#[test]
fn a_later_event_on_the_same_reply_replaces_the_earlier() {
    let r = reply(1, "p", "text");
    let log = [said(1, &r, Feedback::Up), said(2, &r, down())];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["- text w=1"]);
    assert_eq!(reasons(&curated), [(1, Reason::Replaced)]);
}

#[test]
fn what_has_no_text_is_skipped_by_name() {
    let full = reply(1, "p", "text");
    let log = [
        said(1, &reply(2, "", "text"), Feedback::Up),
        said(2, &reply(3, "p1", " \n"), down()),
        about(3, &reply(4, "p2", "text"), Feedback::Prefer { over: ReplyId(5) }, &reply(5, "p2", "")),
        said(4, &full, Feedback::Edit(" text ".into())),
    ];
    let curated = curate(&log, &options());
    assert_eq!(curated.examples, []);
    assert_eq!(
        reasons(&curated),
        [
            (1, Reason::EmptyPrompt),
            (2, Reason::EmptyCompletion),
            (3, Reason::EmptyCompletion),
            (4, Reason::UnchangedEdit)
        ]
    );
}

#[test]
fn a_log_of_another_model_carries_over_as_text_and_is_counted() {
    let r = reply(1, "p", "text");
    let log = [said(1, &r, Feedback::Up)];
    let at_hand = curate(&log, &options());
    let other = curate(&log, &Options { model: Some("other".into()), ..Options::default() });
    let tokens = |curated: &Curated| match &curated.examples[0].kind {
        Kind::Unpaired { completion, .. } => completion.tokens.clone(),
        _ => panic!("unpaired"),
    };
    assert_eq!(tokens(&at_hand), Some(vec![1, 2, 3]));
    assert_eq!(tokens(&other), None);
    assert_eq!((at_hand.counts.of_other_models, other.counts.of_other_models), (0, 1));
    assert_eq!(at_hand.examples[0].key, other.examples[0].key);
}

#[test]
fn ten_thumbs_with_three_of_each_class_are_needed() {
    let log = |likes: i64, dislikes: i64| -> Vec<LoggedFeedback> {
        (0..likes + dislikes)
            .map(|at| {
                let r = reply(at + 1, &format!("prompt {at}"), "text");
                said(at + 1, &r, if at < likes { Feedback::Up } else { down() })
            })
            .collect()
    };
    let ready = |likes, dislikes| curate(&log(likes, dislikes), &options()).readiness.is_ready();
    assert!(ready(7, 3) && ready(3, 7));
    assert!(!ready(8, 2) && !ready(2, 8) && !ready(6, 3) && !ready(10, 0));

    let edits: Vec<_> = (1..=10)
        .map(|at| said(at, &reply(at, &format!("prompt {at}"), "text"), Feedback::Edit("better".into())))
        .collect();
    assert_eq!(curate(&edits, &options()).readiness.have, Tally { events: 10, liked: 10, disliked: 10 });
    assert!(curate(&edits, &options()).readiness.is_ready());
    let retries: Vec<_> =
        (1..=10).map(|at| said(at, &reply(at, &format!("prompt {at}"), "text"), Feedback::Retry)).collect();
    assert!(!curate(&retries, &options()).readiness.is_ready());
}

#[test]
fn the_rarer_class_is_raised_just_into_the_band() {
    let totals = |likes: i64, dislikes: i64| {
        let log: Vec<_> = (1..=likes + dislikes)
            .map(|at| {
                let r = reply(at, &format!("prompt {at}"), "text");
                said(at, &r, if at <= likes { Feedback::Up } else { down() })
            })
            .collect();
        let mut totals = (0.0, 0.0);
        for example in curate(&log, &options()).examples {
            match example.kind {
                Kind::Unpaired { desirable: true, weight, .. } => totals.0 += weight,
                Kind::Unpaired { desirable: false, weight, .. } => totals.1 += weight,
                _ => panic!("unpaired"),
            }
        }
        totals
    };
    assert_eq!(totals(5, 5), (5.0, 5.0));
    assert_eq!(totals(4, 3), (4.0, 3.0));
    assert_eq!(totals(3, 6), (6.0, 6.0));
    assert_eq!(totals(8, 3), (8.0, 6.0));
    assert_eq!(totals(1, 20), (4.0, 20.0), "at most four");
    assert_eq!(totals(20, 1), (20.0, 4.0), "at most four");
    assert_eq!(totals(0, 5), (0.0, 5.0));
}

#[test]
fn folds_depend_on_the_prompt_alone_and_are_about_even() {
    let keys: Vec<_> = (0..1000).map(|at| prompt_key(&[Message::user(format!("prompt {at}"))])).collect();
    let first = keys.iter().filter(|key| fold_of(key, 2) == 0).count();
    // Observed 503; the standard deviation is 16.
    assert!((440..560).contains(&first), "{first}");
    assert!(keys.iter().all(|key| fold_of(key, 5) < 5));
    assert_eq!(fold_of(&keys[0], 0), 0);
}

/// What proptest draws: replies to few prompts with few texts, so that groups and duplicates are common, and events
/// on them. Each event is (reply, kind, other).
fn logs() -> impl Strategy<Value = Vec<LoggedFeedback>> {
    let texts = ["", "yes", "no", "yes, of course it is", "yes, of course it was", "that depends", "that depends "];
    let replies = prop::collection::vec((0..4usize, 0..texts.len(), 0..3usize), 2..16);
    let events = prop::collection::vec((any::<prop::sample::Index>(), 0..7u8, any::<prop::sample::Index>()), 1..24);
    (replies, events).prop_map(move |(replies, events)| {
        let replies: Vec<_> = replies
            .into_iter()
            .zip(1..)
            .map(|((prompt, text, model), id)| {
                let mut reply = (*reply(id, &format!("prompt {prompt}"), texts[text])).clone();
                reply.model = [None, Some("base".into()), Some("other".into())][model].clone();
                Arc::new(reply)
            })
            .collect();
        let events = events.into_iter().zip(1..).map(|((at, kind, other), id)| {
            let target = at.get(&replies);
            let siblings: Vec<_> =
                replies.iter().filter(|reply| reply.prompt == target.prompt && reply.id != target.id).collect();
            let other = (!siblings.is_empty()).then(|| *other.get(&siblings));
            match (kind, other) {
                (0 | 1, _) => said(id, target, Feedback::Up),
                (2 | 3, _) => said(id, target, down()),
                (4, Some(other)) => about(id, target, Feedback::Prefer { over: other.id }, other),
                (5, Some(other)) if other.id > target.id => about(id, target, Feedback::Retry, other),
                (6, Some(_)) => said(id, target, Feedback::Edit("my own words".into())),
                _ => said(id, target, Feedback::Retry),
            }
        });
        events.collect()
    })
}

/// Only what is in effect, as the store hands it over.
fn effective(log: &[LoggedFeedback]) -> Vec<LoggedFeedback> {
    latest(log, &mut |_, _| {}).into_iter().cloned().collect()
}

fn variants() -> impl Strategy<Value = Options> {
    (1..4usize, any::<bool>()).prop_map(|(pairs_per_prompt, edit_pairs)| Options {
        pairs_per_prompt,
        edit_pairs,
        ..options()
    })
}

/// What examples say, in their order, without the weights that depend on the whole log.
fn contents<'a>(examples: impl Iterator<Item = &'a Example>) -> Vec<([u8; 32], Kind)> {
    let said = examples.map(|example| {
        let mut kind = example.kind.clone();
        if let Kind::Unpaired { weight, .. } = &mut kind {
            *weight = 0.0;
        }
        (example.key, kind)
    });
    said.collect()
}

proptest! {
    #[test]
    fn the_order_of_the_log_does_not_matter(
        (log, shuffled) in logs().prop_flat_map(|log| (Just(log.clone()), Just(log).prop_shuffle())),
        options in variants(),
    ) {
        prop_assert_eq!(curate(&log, &options), curate(&shuffled, &options));
    }

    #[test]
    fn a_reply_deleted_is_a_reply_that_never_was(log in logs(), at in any::<prop::sample::Index>(), options in variants()) {
        let gone = at.get(&log).reply.id;
        let left: Vec<_> = log
            .iter()
            .filter(|event| event.reply.id != gone && event.other.as_ref().is_none_or(|other| other.id != gone))
            .cloned()
            .collect();
        // Had it never been, every id after it would be smaller.
        let renumber = |reply: &Arc<LoggedReply>| {
            let mut reply = (**reply).clone();
            reply.id.0 -= i64::from(reply.id > gone);
            Arc::new(reply)
        };
        let never: Vec<_> = left
            .iter()
            .zip(1..)
            .map(|(event, id)| LoggedFeedback {
                id: FeedbackId(id),
                reply: renumber(&event.reply),
                feedback: match event.feedback {
                    Feedback::Prefer { over } => {
                        Feedback::Prefer { over: ReplyId(over.0 - i64::from(over > gone)) }
                    }
                    _ => event.feedback.clone(),
                },
                other: event.other.as_ref().map(renumber),
            })
            .collect();
        let without_items = |curated: Curated| -> Vec<_> {
            curated.examples.into_iter().map(|example| (example.key, example.prompt, example.kind)).collect()
        };
        prop_assert_eq!(without_items(curate(&left, &options)), without_items(curate(&never, &options)));
    }

    #[test]
    fn taking_an_event_away_changes_its_own_prompt_at_most_and_only_if_it_was_used(log in logs(), options in variants()) {
        let log = effective(&log);
        let all = curate(&log, &options);
        for gone in &log {
            let left: Vec<_> = log.iter().filter(|event| event.id != gone.id).cloned().collect();
            let without = contents(curate(&left, &options).examples.iter());
            let kept = contents(all.examples.iter().filter(|example| {
                example.prompt != gone.reply.prompt || !all.items().contains(&gone.id)
            }));
            let still: Vec<_> = without.into_iter().filter(|example| kept.contains(example)).collect();
            prop_assert_eq!(kept, still, "without {}", gone.id);
        }
    }

    #[test]
    fn weights_stay_in_their_ranges(log in logs(), options in variants()) {
        let curated = curate(&log, &options);
        let (mut liked, mut disliked, mut raised) = (0.0, 0.0, 1.0_f64);
        for example in &curated.examples {
            match example.kind {
                Kind::Pair { weight, label_smoothing, .. } => {
                    prop_assert!(weight >= 0.05 && weight <= 1.0);
                    prop_assert!(label_smoothing > 0.0 && label_smoothing < 0.5);
                }
                Kind::Unpaired { desirable, weight, .. } => {
                    prop_assert!((0.25..=4.0).contains(&weight));
                    *(if desirable { &mut liked } else { &mut disliked }) += weight;
                    raised = raised.max(weight);
                }
                Kind::Demonstration { weight, .. } => prop_assert_eq!(weight, 1.0),
            }
        }
        if liked > 0.0 && disliked > 0.0 {
            let ratio: f64 = liked / disliked;
            prop_assert!((1.0 - 1e-12..=4.0 / 3.0 + 1e-12).contains(&ratio) || raised == 4.0 || raised == 1.0, "{}", ratio);
        }
    }

    #[test]
    fn no_winner_is_invented(log in logs(), options in variants()) {
        let curated = curate(&log, &options);
        let log = effective(&log);
        let good = |text: &str, prompt: &[Message]| log.iter().any(|event| {
            event.reply.prompt == prompt && match &event.feedback {
                Feedback::Up | Feedback::Prefer { .. } => event.reply.text == text,
                Feedback::Edit(edit) => edit == text,
                Feedback::Retry => event.other.as_ref().is_some_and(|other| other.text == text),
                Feedback::Down { .. } => false,
            }
        });
        let bad = |text: &str, prompt: &[Message]| log.iter().any(|event| {
            event.reply.prompt == prompt && match &event.feedback {
                Feedback::Down { .. } | Feedback::Retry | Feedback::Edit(_) => event.reply.text == text,
                Feedback::Prefer { .. } => event.other.as_ref().is_some_and(|other| other.text == text),
                Feedback::Up => false,
            }
        });
        for Example { kind, prompt, .. } in &curated.examples {
            match kind {
                Kind::Pair { chosen, rejected, .. } => {
                    prop_assert!(good(&chosen.text, prompt) && bad(&rejected.text, prompt));
                    prop_assert_ne!(&chosen.text, &rejected.text);
                }
                Kind::Unpaired { completion, desirable: true, .. } => prop_assert!(good(&completion.text, prompt)),
                Kind::Unpaired { completion, desirable: false, .. } => prop_assert!(bad(&completion.text, prompt)),
                Kind::Demonstration { completion, .. } => prop_assert_eq!(&completion.text, "my own words"),
            }
        }
    }

    #[test]
    fn every_event_is_used_or_accounted_for(log in logs(), options in variants()) {
        let curated = curate(&log, &options);
        let skipped: BTreeSet<_> = curated.skipped.iter().map(|skipped| skipped.item).collect();
        let used: BTreeSet<_> = curated.items().into_iter().collect();
        let all: BTreeSet<_> = log.iter().map(|event| event.id).collect();
        prop_assert!(used.is_disjoint(&skipped));
        prop_assert_eq!(&used | &skipped, all);
        prop_assert_eq!(skipped.len(), curated.skipped.len());
        prop_assert!(curated.examples.is_sorted_by(|a, b| a.key < b.key), "keys differ");
    }

    #[test]
    fn what_is_in_effect_is_what_a_naive_reading_finds(acts in prop::collection::vec((1..5i64, 0..7u8, 1..30i64), 0..30)) {
        let events: Vec<_> = acts
            .iter()
            .zip(1..)
            .map(|(&(reply, kind, number), id)| Event {
                id: FeedbackId(id),
                reply: ReplyId(reply),
                act: match kind {
                    0 | 1 => Act::Up,
                    2 => Act::Down,
                    3 => Act::Edit,
                    4 => Act::Prefer { over: ReplyId((reply + number % 3) % 4 + 1) },
                    5 => Act::Retry,
                    _ => Act::Withdraw(FeedbackId(number)),
                },
            })
            .collect();
        prop_assert_eq!(in_effect(&events), naively_in_effect(&events));
    }
}

/// The rule read aloud: an event counts if no later one took its place and it was not withdrawn while it counted.
fn naively_in_effect(events: &[Event]) -> Vec<FeedbackId> {
    let place = |event: &Event| match event.act {
        Act::Prefer { over } => format!("pick {:?}", BTreeSet::from([event.reply, over])),
        Act::Retry => format!("retry {}", event.reply),
        _ => format!("verdict {}", event.reply),
    };
    let mut counting: Vec<Event> = Vec::new();
    let known: HashMap<_, _> = events.iter().map(|event| (event.id, event)).collect();
    for event in events {
        if let Act::Withdraw(id) = event.act {
            // Only what was said before can be withdrawn.
            let said_before = known.get(&id).is_some_and(|target| target.id < event.id);
            counting.retain(|counted| !(said_before && counted.id == id));
            continue;
        }
        let same_place: Vec<_> = counting.iter().filter(|counted| place(counted) == place(event)).collect();
        let confirms_an_edit = event.act == Act::Up && same_place.iter().any(|counted| counted.act == Act::Edit);
        if !confirms_an_edit {
            counting.retain(|counted| place(counted) != place(event));
            counting.push(*event);
        }
    }
    let mut ids: Vec<_> = counting.iter().map(|event| event.id).collect();
    ids.sort();
    ids
}
