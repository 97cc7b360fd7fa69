#![allow(clippy::unwrap_used)]

mod properties;

use std::sync::Arc;

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
    LoggedFeedback {
        id: FeedbackId(id),
        reply: reply.clone(),
        feedback,
        other: None,
        ranked: Vec::new(),
    }
}

/// A ranking, the best first.
fn ranking(id: i64, replies: &[&Arc<LoggedReply>]) -> LoggedFeedback {
    let (best, others) = replies.split_first().unwrap();
    let feedback = Feedback::Rank {
        over: others.iter().map(|reply| reply.id).collect(),
    };
    LoggedFeedback {
        ranked: others.iter().map(|reply| Arc::clone(reply)).collect(),
        ..said(id, best, feedback)
    }
}

fn about(
    id: i64,
    reply: &Arc<LoggedReply>,
    feedback: Feedback,
    other: &Arc<LoggedReply>,
) -> LoggedFeedback {
    LoggedFeedback {
        other: Some(other.clone()),
        ..said(id, reply, feedback)
    }
}

fn down() -> Feedback {
    Feedback::Down {
        reasons: Vec::new(),
    }
}

fn options() -> Options {
    Options {
        model: Some("base".into()),
        ..Options::default()
    }
}

/// An example in one line: what it says, of which texts, with which numbers.
fn summary(curated: &Curated) -> Vec<String> {
    let mut lines: Vec<_> = curated
        .examples
        .iter()
        .map(|example| match &example.kind {
            Kind::Pair {
                chosen,
                rejected,
                weight,
                label_smoothing,
                nll,
            } => {
                format!(
                    "{} > {} w={weight} e={label_smoothing} nll={nll}",
                    chosen.text, rejected.text
                )
            }
            Kind::Ranking {
                completions,
                weight,
                nll,
            } => {
                let texts: Vec<_> = completions.iter().map(|c| c.text.as_str()).collect();
                format!("{} w={weight} nll={nll}", texts.join(" >> "))
            }
            Kind::Unpaired {
                completion,
                desirable,
                weight,
            } => {
                format!(
                    "{} {} w={weight}",
                    if *desirable { "+" } else { "-" },
                    completion.text
                )
            }
            Kind::Demonstration { completion, weight } => {
                format!("! {} w={weight}", completion.text)
            }
        })
        .collect();
    lines.sort();
    lines
}

fn reasons(curated: &Curated) -> Vec<(i64, Reason)> {
    curated
        .skipped
        .iter()
        .map(|skipped| (skipped.item.0, skipped.reason))
        .collect()
}

#[test]
fn the_same_log_can_be_learned_from_as_pairs_as_thumbs_or_as_what_was_liked() {
    let [good, bad, alone, draft] = [
        (1, "p", "good one"),
        (2, "p", "bad thing"),
        (3, "q", "alone"),
        (4, "r", "draft text"),
    ]
    .map(|(id, prompt, text)| reply(id, prompt, text));
    let twin = reply(5, "p", "good one");
    let log = [
        said(1, &good, Feedback::Up),
        said(2, &bad, down()),
        said(3, &alone, down()),
        said(4, &draft, Feedback::Edit("clean words".into())),
        said(5, &twin, Feedback::Up),
    ];
    let of = |learn_from| {
        let options = Options {
            learn_from,
            ..options()
        };
        let curated = curate(&log, &options);
        assert_eq!(
            curated.readiness.have.events, 5,
            "all was said, whatever is made of it"
        );
        summary(&curated)
    };
    assert_eq!(
        of(LearnFrom::Everything),
        [
            "! clean words w=1",
            "- alone w=1",
            "good one > bad thing w=1 e=0.1 nll=true"
        ]
    );
    assert_eq!(
        of(LearnFrom::Pairs),
        [
            "clean words > draft text w=1 e=0.1 nll=true",
            "good one > bad thing w=1 e=0.1 nll=true"
        ]
    );
    // Three undesirable against two desirable ones, whose weights are raised to match.
    assert_eq!(
        of(LearnFrom::Thumbs),
        [
            "+ clean words w=1.5",
            "+ good one w=1.5",
            "- alone w=1",
            "- bad thing w=1",
            "- draft text w=1"
        ]
    );
    assert_eq!(
        of(LearnFrom::Liked),
        ["! clean words w=1", "! good one w=1"]
    );
}

#[test]
fn each_row_of_the_table_gives_its_example() {
    let old = reply(1, "p", "alpha beta gamma");
    let new = reply(2, "p", "one two three four");
    let third = reply(3, "p", "red and green");
    let cases: Vec<(Vec<LoggedFeedback>, &[&str])> = vec![
        (
            vec![said(1, &old, Feedback::Edit("delta".into()))],
            &["! delta w=1"],
        ),
        (
            vec![about(1, &new, Feedback::Prefer { over: old.id }, &old)],
            &["one two three four > alpha beta gamma w=1 e=0.1 nll=false"],
        ),
        (
            vec![ranking(1, &[&new, &third, &old])],
            &["one two three four >> red and green >> alpha beta gamma w=1 nll=false"],
        ),
        (
            vec![said(1, &new, Feedback::Up), ranking(2, &[&new, &old])],
            &["one two three four >> alpha beta gamma w=1 nll=true"],
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
        (
            vec![said(1, &old, Feedback::Up)],
            &["+ alpha beta gamma w=1"],
        ),
        (vec![said(1, &old, down())], &["- alpha beta gamma w=1"]),
        (
            vec![said(1, &old, Feedback::Retry)],
            &["- alpha beta gamma w=0.25"],
        ),
    ];
    for (log, expected) in cases {
        let curated = curate(&log, &options());
        assert_eq!(summary(&curated), expected, "{log:?}");
        assert_eq!(curated.skipped, [], "{log:?}");
        assert_eq!(
            curated.items(),
            log.iter().map(|event| event.id).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_group_gives_one_example_and_reports_what_is_left_over() {
    let replies: Vec<_> = ["red", "green", "blue", "violet"]
        .iter()
        .zip(1..)
        .map(|(text, id)| reply(id, "p", text))
        .collect();
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
    assert!(
        curated
            .skipped
            .iter()
            .all(|skipped| skipped.reason == Reason::LeftOver)
    );
    // Left-over thumbs were given all the same.
    assert_eq!(
        curated.readiness.have,
        Tally {
            events: 4,
            liked: 2,
            disliked: 2
        }
    );

    let two = curate(
        &log,
        &Options {
            pairs_per_prompt: 2,
            ..options()
        },
    );
    assert_eq!(two.counts.pairs, 2);
    assert_eq!(two.items().len(), 4, "no reply is in two pairs");

    let all = curate(
        &log,
        &Options {
            pairs_per_prompt: 9,
            ..options()
        },
    );
    assert_eq!(
        all.counts.pairs, 4,
        "each liked reply over each disliked one"
    );
    assert!(two.examples.iter().all(|pair| all.examples.contains(pair)));
}

#[test]
fn the_least_similar_pair_is_chosen() {
    let good = reply(1, "p", "The capital of France is Paris.");
    let near = reply(2, "p", "The capital of France is Paris, of course.");
    let far = reply(3, "p", "I cannot say much about that.");
    let log = [
        said(1, &good, Feedback::Up),
        said(2, &near, down()),
        said(3, &far, down()),
    ];
    let curated = curate(&log, &options());
    assert_eq!(curated.items(), [FeedbackId(1), FeedbackId(3)]);
    assert_eq!(reasons(&curated), [(2, Reason::LeftOver)]);
}

#[test]
fn nearly_identical_sides_are_weighed_down_and_identical_ones_teach_nothing() {
    let weight_of = |a: &str, b: &str| {
        let log = [
            said(1, &reply(1, "p", a), Feedback::Up),
            said(2, &reply(2, "p", b), down()),
        ];
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
    let log = [
        said(1, &reply(1, "p", "same"), Feedback::Up),
        said(2, &reply(2, "p", "same"), down()),
    ];
    let curated = curate(&log, &options());
    assert_eq!(curated.examples, []);
    assert_eq!(
        reasons(&curated),
        [(1, Reason::IdenticalSides), (2, Reason::IdenticalSides)]
    );
    assert_eq!(curated.readiness.have, Tally::default());
}

#[test]
fn an_edit_speaks_for_its_prompt_and_pairs_beside_it_are_a_choice() {
    let (first, second) = (
        reply(1, "p", "a long story"),
        reply(2, "p", "another long story"),
    );
    let log = [
        said(1, &second, down()),
        said(2, &first, Feedback::Edit("short".into())),
    ];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["! short w=1"]);
    assert_eq!(reasons(&curated), [(1, Reason::LeftOver)]);

    let with_pairs = curate(
        &log,
        &Options {
            edit_pairs: true,
            ..options()
        },
    );
    assert_eq!(
        summary(&with_pairs),
        ["! short w=1", "short > a long story w=1 e=0.1 nll=false"]
    );
    assert_eq!(with_pairs.items(), [FeedbackId(2)]);

    let heavy = Options {
        edit_weight: 8.0,
        ..options()
    };
    assert_eq!(summary(&curate(&log, &heavy)), ["! short w=8"]);
}

#[test]
fn a_retry_of_a_reply_that_is_liked_is_no_word_against_it() {
    let (old, new) = (reply(1, "p", "first"), reply(2, "p", "second one"));
    let log = [
        said(1, &old, Feedback::Up),
        about(2, &old, Feedback::Retry, &new),
    ];
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
    let log = [
        said(1, &earlier, Feedback::Up),
        said(2, &later, Feedback::Retry),
    ];
    let curated = curate(&log, &options());
    assert_eq!(summary(&curated), ["+ first w=1"]);
}

#[test]
fn of_a_pick_and_opposite_thumbs_the_later_counts() {
    let (a, b) = (reply(1, "p", "first"), reply(2, "p", "second one"));
    let pick = |id| about(id, &a, Feedback::Prefer { over: b.id }, &b);
    let thumbs_later = [pick(1), said(2, &a, down()), said(3, &b, Feedback::Up)];
    assert_eq!(
        summary(&curate(&thumbs_later, &options())),
        ["second one > first w=1 e=0.1 nll=true"]
    );
    let pick_later = [said(1, &a, down()), said(2, &b, Feedback::Up), pick(3)];
    assert_eq!(
        summary(&curate(&pick_later, &options())),
        ["first > second one w=1 e=0.1 nll=false"]
    );
}

#[test]
fn a_ranking_speaks_for_its_prompt_unless_later_words_contradict_it() {
    let replies: Vec<_> = ["red", "green", "blue", "violet"]
        .iter()
        .zip(1..)
        .map(|(text, id)| reply(id, "p", text))
        .collect();
    let [a, b, c, d] = [0, 1, 2, 3].map(|at| &replies[at]);
    let ranked = "red >> green >> blue w=1 nll=false";
    // What agrees with it, or speaks of others, adds nothing.
    let agrees = [
        ranking(1, &[a, b, c]),
        about(2, a, Feedback::Prefer { over: c.id }, c),
        said(3, c, down()),
        said(4, d, Feedback::Up),
    ];
    let curated = curate(&agrees, &options());
    assert_eq!(summary(&curated), [ranked]);
    assert_eq!(
        reasons(&curated),
        [2, 3, 4].map(|id| (id, Reason::LeftOver))
    );
    assert_eq!((curated.counts.rankings, curated.counts.pairs), (1, 0));
    assert_eq!(curated.readiness.have.events, 4);

    // Thumbs against it count if one came later.
    let thumbs = |first, second| [said(first, a, down()), said(second, c, Feedback::Up)];
    let earlier = [&thumbs(1, 2)[..], &[ranking(3, &[a, b, c])]].concat();
    assert_eq!(summary(&curate(&earlier, &options())), [ranked]);
    let later = [&[ranking(1, &[a, b, c])], &thumbs(2, 3)[..]].concat();
    let curated = curate(&later, &options());
    assert_eq!(summary(&curated), ["blue > red w=1 e=0.1 nll=true"]);
    assert_eq!(reasons(&curated), [(1, Reason::LeftOver)]);

    // Then an earlier ranking of others applies, and rests on those thumbs.
    let both = [
        &[ranking(1, &[d, b]), ranking(2, &[a, c])],
        &thumbs(3, 4)[..],
    ]
    .concat();
    let curated = curate(&both, &options());
    assert_eq!(summary(&curated), ["violet >> green w=1 nll=false"]);
    assert_eq!(curated.items(), [1, 3, 4].map(FeedbackId));

    // A later ranking that has a reply in common takes the place of an earlier one, and so does a pick that turns it round.
    let again = [ranking(1, &[a, b, c]), ranking(2, &[d, c])];
    let curated = curate(&again, &options());
    assert_eq!(summary(&curated), ["violet >> blue w=1 nll=false"]);
    assert_eq!(reasons(&curated), [(1, Reason::Replaced)]);
    let turned = [
        ranking(1, &[a, b, c]),
        about(2, c, Feedback::Prefer { over: b.id }, b),
    ];
    let curated = curate(&turned, &options());
    assert_eq!(summary(&curated), ["blue > green w=1 e=0.1 nll=false"]);
    assert_eq!(reasons(&curated), [(1, Reason::Replaced)]);
    let picked_before = [
        about(1, c, Feedback::Prefer { over: b.id }, b),
        ranking(2, &[a, b, c]),
    ];
    let curated = curate(&picked_before, &options());
    assert_eq!(summary(&curated), [ranked]);
    assert_eq!(reasons(&curated), [(1, Reason::Replaced)]);

    let edited = [
        ranking(1, &[a, b, c]),
        said(2, d, Feedback::Edit("grey".into())),
    ];
    assert_eq!(summary(&curate(&edited, &options())), ["! grey w=1"]);
}

#[test]
fn what_says_the_same_or_nothing_is_left_out_of_a_ranking() {
    let replies: Vec<_> = ["red", "", "red ", "blue"]
        .iter()
        .zip(1..)
        .map(|(text, id)| reply(id, "p", text))
        .collect();
    let [a, empty, again, d] = [0, 1, 2, 3].map(|at| &replies[at]);
    let curated = curate(&[ranking(1, &[a, empty, again, d])], &options());
    assert_eq!(summary(&curated), ["red >> blue w=1 nll=false"]);
    let curated = curate(&[ranking(1, &[a, empty, again])], &options());
    assert_eq!(reasons(&curated), [(1, Reason::IdenticalSides)]);
    assert_eq!(curated.examples, []);
    // Neighbours that are nearly the same carry little.
    let long = "The quick brown fox jumps over the lazy dog and runs into the dark forest.";
    let near = [
        long.to_owned(),
        long.replace('.', "!"),
        "Something else.".into(),
    ];
    let near: Vec<_> = (10..)
        .zip(&near)
        .map(|(id, text)| reply(id, "q", text))
        .collect();
    let curated = curate(&[ranking(1, &near.iter().collect::<Vec<_>>())], &options());
    let Kind::Ranking { weight, .. } = curated.examples[0].kind else {
        panic!()
    };
    // (1 + (1 - 0.959) / 0.2) / 2.
    assert!((0.55..0.75).contains(&weight), "{weight}");
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
        about(
            3,
            &reply(4, "p2", "text"),
            Feedback::Prefer { over: ReplyId(5) },
            &reply(5, "p2", ""),
        ),
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
    let other = curate(
        &log,
        &Options {
            model: Some("other".into()),
            ..Options::default()
        },
    );
    let tokens = |curated: &Curated| match &curated.examples[0].kind {
        Kind::Unpaired { completion, .. } => completion.tokens.clone(),
        _ => panic!("unpaired"),
    };
    assert_eq!(tokens(&at_hand), Some(vec![1, 2, 3]));
    assert_eq!(tokens(&other), None);
    assert_eq!(
        (at_hand.counts.of_other_models, other.counts.of_other_models),
        (0, 1)
    );
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
    let ready = |likes, dislikes| {
        curate(&log(likes, dislikes), &options())
            .readiness
            .is_ready()
    };
    assert!(ready(7, 3) && ready(3, 7));
    assert!(!ready(8, 2) && !ready(2, 8) && !ready(6, 3) && !ready(10, 0));

    let edits: Vec<_> = (1..=10)
        .map(|at| {
            said(
                at,
                &reply(at, &format!("prompt {at}"), "text"),
                Feedback::Edit("better".into()),
            )
        })
        .collect();
    assert_eq!(
        curate(&edits, &options()).readiness.have,
        Tally {
            events: 10,
            liked: 10,
            disliked: 10
        }
    );
    assert!(curate(&edits, &options()).readiness.is_ready());
    let retries: Vec<_> = (1..=10)
        .map(|at| {
            said(
                at,
                &reply(at, &format!("prompt {at}"), "text"),
                Feedback::Retry,
            )
        })
        .collect();
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
                Kind::Unpaired {
                    desirable: true,
                    weight,
                    ..
                } => totals.0 += weight,
                Kind::Unpaired {
                    desirable: false,
                    weight,
                    ..
                } => totals.1 += weight,
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
    let keys: Vec<_> = (0..1000)
        .map(|at| prompt_key(&[Message::user(format!("prompt {at}"))]))
        .collect();
    let first = keys.iter().filter(|key| fold_of(key, 2) == 0).count();
    // Observed 503; the standard deviation is 16.
    assert!((440..560).contains(&first), "{first}");
    assert!(keys.iter().all(|key| fold_of(key, 5) < 5));
    assert_eq!(fold_of(&keys[0], 0), 0);
}
