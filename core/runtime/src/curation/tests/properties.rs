//! What holds for every log.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::curation::effect::{Act, Event, in_effect};

/// What proptest draws: replies to few prompts with few texts, so that groups and duplicates are
/// common, and events on them. Each event is (reply, kind, other).
fn logs() -> impl Strategy<Value = Vec<LoggedFeedback>> {
    let texts = [
        "",
        "yes",
        "no",
        "yes, of course it is",
        "yes, of course it was",
        "that depends",
        "that depends ",
    ];
    let replies = prop::collection::vec((0..4usize, 0..texts.len(), 0..3usize), 2..16);
    let events = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            0..9u8,
            any::<prop::sample::Index>(),
        ),
        1..24,
    );
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
            let siblings: Vec<_> = replies
                .iter()
                .filter(|reply| reply.prompt == target.prompt && reply.id != target.id)
                .collect();
            let other = (!siblings.is_empty()).then(|| *other.get(&siblings));
            match (kind, other) {
                (0 | 1, _) => said(id, target, Feedback::Up),
                (2 | 3, _) => said(id, target, down()),
                (4, Some(other)) => about(id, target, Feedback::Prefer { over: other.id }, other),
                (5, Some(other)) if other.id > target.id => {
                    about(id, target, Feedback::Retry, other)
                }
                (6, Some(_)) => said(id, target, Feedback::Edit("my own words".into())),
                (7 | 8, Some(other)) => {
                    // Some of the others, in an order of chance.
                    let start = siblings
                        .iter()
                        .position(|reply| reply.id == other.id)
                        .unwrap();
                    let mut order = siblings.clone();
                    order.rotate_left(start);
                    order.truncate(1 + at.index(4));
                    ranking(id, &[&[target], &order[..]].concat())
                }
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
    (1..6usize, any::<bool>()).prop_map(|(pairs_per_prompt, edit_pairs)| Options {
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
    fn a_reply_deleted_is_a_reply_that_never_was(
        log in logs(),
        at in any::<prop::sample::Index>(),
        options in variants(),
    ) {
        let gone = at.get(&log).reply.id;
        let left: Vec<_> = log
            .iter()
            .filter(|event| event.reply.id != gone)
            .filter(|event| event.other.as_ref().is_none_or(|other| other.id != gone))
            .filter(|event| event.ranked.iter().all(|ranked| ranked.id != gone))
            .cloned()
            .collect();
        // Had it never been, every id after it would be smaller.
        let smaller = |id: ReplyId| ReplyId(id.0 - i64::from(id > gone));
        let renumber = |reply: &Arc<LoggedReply>| {
            let mut reply = (**reply).clone();
            reply.id = smaller(reply.id);
            Arc::new(reply)
        };
        let never: Vec<_> = left
            .iter()
            .zip(1..)
            .map(|(event, id)| LoggedFeedback {
                id: FeedbackId(id),
                reply: renumber(&event.reply),
                feedback: match &event.feedback {
                    Feedback::Prefer { over } => Feedback::Prefer { over: smaller(*over) },
                    Feedback::Rank { over } => {
                        Feedback::Rank { over: over.iter().map(|id| smaller(*id)).collect() }
                    }
                    other => other.clone(),
                },
                other: event.other.as_ref().map(renumber),
                ranked: event.ranked.iter().map(renumber).collect(),
            })
            .collect();
        let without_items = |curated: Curated| -> Vec<_> {
            let examples = curated.examples.into_iter();
            examples.map(|example| (example.key, example.prompt, example.kind)).collect()
        };
        prop_assert_eq!(without_items(curate(&left, &options)), without_items(curate(&never, &options)));
    }

    #[test]
    fn taking_an_event_away_changes_its_own_prompt_at_most_and_only_if_it_was_used(
        log in logs(),
        options in variants(),
    ) {
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
                    prop_assert!((0.05..=1.0).contains(&weight));
                    prop_assert!(label_smoothing > 0.0 && label_smoothing < 0.5);
                }
                Kind::Unpaired { desirable, weight, .. } => {
                    prop_assert!((0.25..=4.0).contains(&weight));
                    *(if desirable { &mut liked } else { &mut disliked }) += weight;
                    raised = raised.max(weight);
                }
                Kind::Ranking { weight, .. } => prop_assert!((0.05..=1.0).contains(&weight)),
                Kind::Demonstration { weight, .. } => prop_assert_eq!(weight, 1.0),
            }
        }
        if liked > 0.0 && disliked > 0.0 {
            let ratio: f64 = liked / disliked;
            let balanced = (1.0 - 1e-12..=4.0 / 3.0 + 1e-12).contains(&ratio);
            // Retries alone start at 0.25, so at the limit they reach 1.
            prop_assert!(balanced || raised == 4.0 || raised == 1.0, "{}", ratio);
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
                Feedback::Down { .. } | Feedback::Rank { .. } => false,
            }
        });
        let bad = |text: &str, prompt: &[Message]| log.iter().any(|event| {
            event.reply.prompt == prompt && match &event.feedback {
                Feedback::Down { .. } | Feedback::Retry | Feedback::Edit(_) => event.reply.text == text,
                Feedback::Prefer { .. } => event.other.as_ref().is_some_and(|other| other.text == text),
                Feedback::Up | Feedback::Rank { .. } => false,
            }
        });
        // In the order that was given, what says something new.
        let ranked = |texts: &[&str], prompt: &[Message]| log.iter().any(|event| {
            let mut said: Vec<&str> = Vec::new();
            for reply in std::iter::once(&event.reply).chain(&event.ranked) {
                let text = reply.text.trim();
                if !text.is_empty() && !said.iter().any(|before| before.trim() == text) {
                    said.push(&reply.text);
                }
            }
            event.reply.prompt == prompt && matches!(event.feedback, Feedback::Rank { .. }) && said == texts
        });
        for Example { kind, prompt, .. } in &curated.examples {
            match kind {
                Kind::Pair { chosen, rejected, .. } => {
                    prop_assert!(good(&chosen.text, prompt) && bad(&rejected.text, prompt));
                    prop_assert_ne!(&chosen.text, &rejected.text);
                }
                Kind::Ranking { completions, .. } => {
                    let texts: Vec<&str> = completions.iter().map(|c| c.text.as_str()).collect();
                    prop_assert!(texts.len() > 1 && ranked(&texts, prompt));
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
    fn what_is_in_effect_is_what_a_naive_reading_finds(
        acts in prop::collection::vec((1..5i64, 0..9u8, 1..30i64), 0..30),
    ) {
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
                    7 | 8 => {
                        let others = (1..5).map(|step| ReplyId((reply + step - 1) % 4 + 1));
                        let n = 1 + number as usize % 3;
                        Act::Rank { over: others.filter(|id| id.0 != reply).take(n).collect() }
                    }
                    _ => Act::Withdraw(FeedbackId(number)),
                },
            })
            .collect();
        prop_assert_eq!(in_effect(&events), naively_in_effect(&events));
    }
}

/// The rule read aloud: an event counts if no later one took its place and it was not withdrawn
/// while it counted.
fn naively_in_effect(events: &[Event]) -> Vec<FeedbackId> {
    let place = |event: &Event| match &event.act {
        Act::Prefer { over } => format!("pick {:?}", BTreeSet::from([event.reply, *over])),
        Act::Rank { .. } => format!("ranking {}", event.id),
        Act::Retry => format!("retry {}", event.reply),
        _ => format!("verdict {}", event.reply),
    };
    // Every "this one rather than that one" in it.
    let compared = |event: &Event| -> BTreeSet<(ReplyId, ReplyId)> {
        let order: Vec<ReplyId> = match &event.act {
            Act::Prefer { over } => vec![event.reply, *over],
            Act::Rank { over } => [&[event.reply], &over[..]].concat(),
            _ => Vec::new(),
        };
        let pairs = order.iter().enumerate();
        pairs
            .flat_map(|(i, a)| order[i + 1..].iter().map(|b| (*a, *b)))
            .collect()
    };
    let spoken_of = |event: &Event| -> BTreeSet<ReplyId> {
        compared(event)
            .into_iter()
            .flat_map(|(a, b)| [a, b])
            .collect()
    };
    let ends = |later: &Event, earlier: &Event| match (&later.act, &earlier.act) {
        (Act::Rank { .. }, Act::Rank { .. }) => !spoken_of(later).is_disjoint(&spoken_of(earlier)),
        (Act::Rank { .. }, Act::Prefer { .. }) => spoken_of(earlier).is_subset(&spoken_of(later)),
        (Act::Prefer { over }, Act::Rank { .. }) => {
            compared(earlier).contains(&(*over, later.reply))
        }
        _ => false,
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
        let same_place: Vec<_> = counting
            .iter()
            .filter(|counted| place(counted) == place(event))
            .collect();
        let confirms_an_edit =
            event.act == Act::Up && same_place.iter().any(|counted| counted.act == Act::Edit);
        if !confirms_an_edit {
            counting.retain(|counted| place(counted) != place(event) && !ends(event, counted));
            counting.push(event.clone());
        }
    }
    let mut ids: Vec<_> = counting.iter().map(|event| event.id).collect();
    ids.sort();
    ids
}
