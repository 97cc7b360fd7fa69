//! Replies and what is said about them.

use proptest::prelude::*;

use super::*;
use crate::types::{Feedback, LoggedFeedback, prompt_key};

fn down() -> Feedback {
    Feedback::Down {
        reasons: Vec::new(),
    }
}

#[test]
fn a_reply_comes_back_with_all_that_was_stored() {
    let (_dir, store) = fresh();
    let reply = new_reply("Why is the sky blue?", "Rayleigh scattering. 🌤");
    let id = store.record_reply(reply.clone()).unwrap();
    let stored = store.reply(id).unwrap();
    assert_eq!(stored.generation, reply.generation);
    assert_eq!(stored.text, reply.text);
    assert_eq!(Prompt::Messages(stored.prompt.clone()), reply.prompt);
    assert_eq!(stored.prompt_key, prompt_key(&stored.prompt));
    assert_eq!(stored.replaces, None);
    assert!(stored.created_at > 1_600_000_000_000);
}

#[test]
fn replies_to_one_prompt_form_a_group_whether_stored_in_a_chat_or_not() {
    let (_dir, store) = fresh();
    let conversation = store.create_conversation(None).unwrap();
    let (parent, first) = exchange(&store, conversation, "q", "a");
    let second = store
        .record_reply(reply_to(
            Prompt::Turn {
                conversation,
                parent,
            },
            "b",
        ))
        .unwrap();
    let third = store.record_reply(new_reply("q", "c")).unwrap();
    store.record_reply(new_reply("another", "d")).unwrap();
    assert_eq!(
        store.replies_to_same_prompt(second).unwrap(),
        [first, second, third]
    );
}

#[test]
fn what_is_unknown_or_empty_is_refused() {
    let (_dir, store) = fresh();
    let nobody = ReplyId(99);
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    let other_prompt = store.record_reply(new_reply("r", "a")).unwrap();
    let unknown = |result: Result<FeedbackId>| {
        assert!(matches!(result, Err(StoreError::UnknownReply(id)) if id == nobody))
    };
    unknown(store.record_feedback(nobody, &Feedback::Up));
    unknown(store.record_feedback(reply, &Feedback::Prefer { over: nobody }));
    assert!(matches!(
        store.reply(nobody),
        Err(StoreError::UnknownReply(_))
    ));
    assert!(matches!(
        store.feedback_on(nobody),
        Err(StoreError::UnknownReply(_))
    ));
    assert!(matches!(
        store.withdraw(FeedbackId(99)),
        Err(StoreError::UnknownFeedback(_))
    ));
    let other = store.record_feedback(reply, &Feedback::Prefer { over: other_prompt });
    assert!(matches!(other, Err(StoreError::OtherPrompt(id)) if id == other_prompt));
    let itself = store.record_feedback(reply, &Feedback::Prefer { over: reply });
    assert!(matches!(itself, Err(StoreError::SameReply(_))));
    let elsewhere = NewReply {
        replaces: Some(other_prompt),
        ..new_reply("q", "b")
    };
    assert!(matches!(
        store.record_reply(elsewhere),
        Err(StoreError::OtherPrompt(_))
    ));
    let no_edit = store.record_feedback(reply, &Feedback::Edit(" \n".into()));
    assert!(matches!(
        no_edit,
        Err(StoreError::Empty { what: "the edit" })
    ));
    let no_prompt = store.record_reply(reply_to(Prompt::Messages(Vec::new()), "a"));
    assert!(matches!(
        no_prompt,
        Err(StoreError::Empty { what: "the prompt" })
    ));
    let no_completion = store.record_external(&[Message::user("q")], "", &Feedback::Up);
    assert!(matches!(
        no_completion,
        Err(StoreError::Empty {
            what: "the completion"
        })
    ));
    let lost = NewReply {
        replaces: Some(nobody),
        ..new_reply("q", "a")
    };
    assert!(matches!(
        store.record_reply(lost),
        Err(StoreError::UnknownReply(_))
    ));
    let adapter = crate::types::AdapterId(5);
    let lost = NewReply {
        generation: Some(Generation {
            adapter: Some(adapter),
            ..generation()
        }),
        ..new_reply("q", "a")
    };
    assert!(matches!(
        store.record_reply(lost),
        Err(StoreError::UnknownAdapter(_))
    ));
    assert_eq!(store.feedback_count().unwrap(), 0);
}

#[test]
fn a_thumb_can_be_changed_and_withdrawn() {
    let (_dir, store) = fresh();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    let up = store.record_feedback(reply, &Feedback::Up).unwrap();
    assert_eq!(store.feedback_on(reply).unwrap(), [(up, Feedback::Up)]);

    let wordy = Feedback::Down {
        reasons: vec!["too long".into(), "be \"brief\"".into()],
    };
    let down = store.record_feedback(reply, &wordy).unwrap();
    assert_eq!(store.feedback_on(reply).unwrap(), [(down, wordy)]);

    let withdrawal = store.withdraw(down).unwrap();
    assert_eq!(
        store.feedback_on(reply).unwrap(),
        [],
        "what it replaced does not come back"
    );
    assert_eq!(
        store.withdraw(down).unwrap(),
        withdrawal,
        "withdrawing twice is withdrawing once"
    );
    assert!(matches!(
        store.withdraw(withdrawal),
        Err(StoreError::UnknownFeedback(_))
    ));
    assert_eq!(store.feedback_count().unwrap(), 3, "the log only grows");
}

#[test]
fn a_thumb_up_on_an_edited_reply_leaves_the_edit_in_effect() {
    let (_dir, store) = fresh();
    let reply = store.record_reply(new_reply("q", "a")).unwrap();
    let edit = store
        .record_feedback(reply, &Feedback::Edit("better".into()))
        .unwrap();
    store.record_feedback(reply, &Feedback::Up).unwrap();
    assert_eq!(in_effect(&store), [edit]);
    let down = store.record_feedback(reply, &down()).unwrap();
    assert_eq!(in_effect(&store), [down]);
}

#[test]
fn a_pick_is_shown_on_both_replies_and_turned_around_by_a_later_one() {
    let (_dir, store) = fresh();
    let [a, b] = ["a", "b"].map(|text| store.record_reply(new_reply("q", text)).unwrap());
    store
        .record_feedback(a, &Feedback::Prefer { over: b })
        .unwrap();
    let later = store
        .record_feedback(b, &Feedback::Prefer { over: a })
        .unwrap();
    for reply in [a, b] {
        assert_eq!(
            store.feedback_on(reply).unwrap(),
            [(later, Feedback::Prefer { over: a })]
        );
    }
    store.withdraw(later).unwrap();
    assert_eq!(store.feedback_on(a).unwrap(), []);
    assert_eq!(store.feedback_on(b).unwrap(), []);
}

#[test]
fn feedback_on_text_of_the_app_needs_no_model() {
    let (_dir, store) = fresh();
    let prompt = [Message::system("Be kind."), Message::user("q")];
    let (reply, feedback) = store
        .record_external(&prompt, "from elsewhere", &Feedback::Up)
        .unwrap();
    let log = store.effective_feedback().unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].id, feedback);
    assert_eq!(log[0].reply.id, reply);
    assert_eq!(log[0].reply.prompt, prompt);
    assert_eq!(
        (
            &log[0].reply.tokens,
            &log[0].reply.model,
            log[0].reply.finished
        ),
        (&None, &None, true)
    );
}

#[test]
fn a_reply_cut_off_by_a_limit_is_logged_as_unfinished() {
    let (_dir, store) = fresh();
    let cut = NewReply {
        generation: Some(Generation {
            stop_reason: StopReason::MaxTokens,
            ..generation()
        }),
        ..new_reply("q", "a")
    };
    let reply = store.record_reply(cut).unwrap();
    store.record_feedback(reply, &Feedback::Up).unwrap();
    let log = store.effective_feedback().unwrap();
    assert!(!log[0].reply.finished);
    assert_eq!(log[0].reply.tokens, Some(vec![1, 2, 3]));
    assert_eq!(log[0].reply.model.as_deref(), Some("base"));
}

/// Retries twice; returns the log of the first retry.
fn retried_twice(go_on: impl FnOnce(&Store, &[ReplyId; 3])) -> LoggedFeedback {
    let (_dir, store) = fresh();
    let first = store.record_reply(new_reply("q", "one")).unwrap();
    store.record_feedback(first, &Feedback::Retry).unwrap();
    let replacing = |old, text| NewReply {
        replaces: Some(old),
        ..new_reply("q", text)
    };
    let second = store.record_reply(replacing(first, "two")).unwrap();
    store.record_feedback(second, &Feedback::Retry).unwrap();
    let third = store.record_reply(replacing(second, "three")).unwrap();
    go_on(&store, &[first, second, third]);
    store.effective_feedback().unwrap().remove(0)
}

fn next_turn(answer: &str) -> Prompt {
    Prompt::Messages(vec![
        Message::user("q"),
        Message::assistant(answer),
        Message::user("and then?"),
    ])
}

#[test]
fn a_retry_knows_the_reply_that_was_kept_in_the_end() {
    let kept = retried_twice(|store, _| {
        store
            .record_reply(reply_to(next_turn("three"), "x"))
            .unwrap();
    });
    assert_eq!(
        kept.other.map(|other| other.text.clone()).as_deref(),
        Some("three")
    );

    assert_eq!(
        retried_twice(|_, _| {}).other,
        None,
        "nothing says that the last one was kept"
    );
    let went_back = retried_twice(|store, _| {
        store.record_reply(reply_to(next_turn("two"), "x")).unwrap();
    });
    assert_eq!(went_back.other, None);
}

#[test]
fn a_retry_in_a_stored_chat_knows_the_reply_that_the_chat_went_on_from() {
    let (_dir, store) = fresh();
    let conversation = store.create_conversation(None).unwrap();
    let (parent, old) = exchange(&store, conversation, "q", "one");
    store.record_feedback(old, &Feedback::Retry).unwrap();
    store
        .rewind_conversation(conversation, Some(parent))
        .unwrap();
    let new = NewReply {
        replaces: Some(old),
        ..reply_to(
            Prompt::Turn {
                conversation,
                parent,
            },
            "two",
        )
    };
    let new = store.record_reply(new).unwrap();
    assert_eq!(store.effective_feedback().unwrap()[0].other, None);
    store
        .append_message(conversation, &Message::user("thanks"))
        .unwrap();
    assert_eq!(
        store.effective_feedback().unwrap()[0]
            .other
            .as_ref()
            .unwrap()
            .id,
        new
    );
    // Deleting the chat takes none of this from the log.
    store.delete_conversation(conversation).unwrap();
    assert_eq!(
        store.effective_feedback().unwrap()[0]
            .other
            .as_ref()
            .unwrap()
            .id,
        new
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a model of one line: per reply, whichever thumb came last, unless that one was
    /// withdrawn.
    #[test]
    fn any_sequence_of_thumbs_ends_as_a_naive_model_says(
        acts in prop::collection::vec((0..4usize, 0..3u8), 0..40),
    ) {
        let (_dir, store) = fresh();
        let replies = ["a", "b", "c", "d"].map(|text| store.record_reply(new_reply("q", text)).unwrap());
        let mut current: [Option<(FeedbackId, Feedback)>; 4] = Default::default();
        for (at, act) in acts {
            let feedback = match act {
                0 => Feedback::Up,
                1 => down(),
                _ => {
                    if let Some((id, _)) = current[at].take() {
                        store.withdraw(id).unwrap();
                    }
                    continue;
                }
            };
            current[at] = Some((store.record_feedback(replies[at], &feedback).unwrap(), feedback));
        }
        let mut expected: Vec<_> = current.iter().flatten().cloned().collect();
        expected.sort_by_key(|(id, _)| *id);
        let log = store.effective_feedback().unwrap();
        let log: Vec<_> = log.into_iter().map(|event| (event.id, event.feedback)).collect();
        prop_assert_eq!(log, expected);
        for (reply, expected) in replies.iter().zip(current) {
            prop_assert_eq!(store.feedback_on(*reply).unwrap(), Vec::from_iter(expected));
        }
    }
}

#[test]
fn a_ranking_is_recorded_shown_on_each_of_its_replies_replaced_and_withdrawn() {
    let (_dir, store) = fresh();
    let replies =
        ["a", "b", "c", "d"].map(|text| store.record_reply(new_reply("q", text)).unwrap());
    let [a, b, c, d] = replies;
    let rank = |best, over: &[ReplyId]| {
        let over = over.to_vec();
        store.record_feedback(best, &Feedback::Rank { over })
    };
    let first = rank(b, &[c, a]).unwrap();
    let logged = store.effective_feedback().unwrap().remove(0);
    let texts: Vec<_> = logged
        .ranked
        .iter()
        .map(|reply| reply.text.as_str())
        .collect();
    assert_eq!((logged.reply.text.as_str(), texts), ("b", vec!["c", "a"]));
    assert_eq!(logged.other, None);
    let shown = |reply| -> Vec<FeedbackId> {
        let on = store.feedback_on(reply).unwrap().into_iter();
        on.map(|(id, _)| id).collect()
    };
    for reply in [a, b, c] {
        assert_eq!(shown(reply), [first]);
    }
    assert_eq!(shown(d), []);

    // One that has a reply in common takes its place, for those too that are not in it.
    let second = rank(d, &[c]).unwrap();
    assert_eq!(in_effect(&store), [second]);
    assert_eq!((shown(a), shown(c)), (vec![], vec![second]));
    store.withdraw(second).unwrap();
    assert_eq!(in_effect(&store), []);

    assert!(matches!(
        rank(a, &[]),
        Err(StoreError::Empty {
            what: "the ranking"
        })
    ));
    assert!(matches!(rank(a, &[b, a]), Err(StoreError::SameReply(id)) if id == a));
    assert!(matches!(rank(a, &[b, b]), Err(StoreError::SameReply(id)) if id == b));
    let elsewhere = store.record_reply(new_reply("r", "a")).unwrap();
    assert!(matches!(rank(a, &[elsewhere]), Err(StoreError::OtherPrompt(id)) if id == elsewhere));
    assert!(matches!(
        rank(a, &[ReplyId(99)]),
        Err(StoreError::UnknownReply(_))
    ));
    assert_eq!(
        store.feedback_count().unwrap(),
        3,
        "what is refused leaves nothing"
    );
}
