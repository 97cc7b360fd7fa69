//! Side-by-sides and reward heads: kept, voted on, forgotten.

use super::forgetting::assert_gone;
use super::keeping::{item, new_adapter};
use super::*;
use crate::arena::{Choice, Contestant};
use crate::reward::Head;
use crate::types::{AdapterId, Feedback, MatchId};

fn a_match(
    store: &Store,
    prompt: Prompt,
    left: (Contestant, &str),
    right: (Contestant, &str),
) -> MatchId {
    let new = NewMatch {
        base_hash: "base".into(),
        left: (left.0, reply_to(prompt.clone(), left.1)),
        right: (right.0, reply_to(prompt, right.1)),
        seed: u64::MAX,
    };
    store.record_match(&new).unwrap()
}

fn asked(question: &str) -> Prompt {
    Prompt::Messages(vec![Message::user(question)])
}

fn head(value: f64) -> Head {
    Head {
        base_sha256: "base".into(),
        template_hash: "template".into(),
        mean: vec![0.1, 0.2],
        deviation: vec![1.0, 1.0 / 3.0],
        weights: vec![value, -value],
        bias: 0.5,
        l2: 1.0,
        pairs: 3,
        singles: 4,
        cross_validated: None,
    }
}

#[test]
fn a_match_is_open_until_its_vote_and_takes_one() {
    let (_dir, store) = fresh();
    let item = item(&store, "learned from");
    let adapter = store
        .insert_adapter(&new_adapter(&[item], "a.gguf"))
        .unwrap();
    let (one, base) = (Contestant::Adapter(adapter), Contestant::Base);
    let id = a_match(&store, asked("q"), (one, "short"), (base, "long"));
    let open = store.open_matches("base").unwrap();
    assert_eq!((open.len(), open[0].id, open[0].choice), (1, id, None));
    assert_eq!(
        (open[0].left, open[0].right, open[0].seed),
        (one, base, u64::MAX)
    );
    assert_eq!(store.reply(open[0].left_reply).unwrap().text, "short");
    assert!(store.open_matches("another base").unwrap().is_empty());
    assert!(store.seen_matches("base").unwrap().is_empty());

    let voted = store.vote_match(id, Choice::Right).unwrap();
    assert_eq!(voted.choice, Some(Choice::Right));
    assert!(voted.voted_at >= Some(voted.created_at));
    assert!(matches!(
        store.vote_match(id, Choice::Left),
        Err(StoreError::AlreadyVoted(_))
    ));
    assert!(matches!(
        store.vote_match(MatchId(99), Choice::Left),
        Err(StoreError::UnknownMatch(_))
    ));
    assert!(store.open_matches("base").unwrap().is_empty());
    let seen = store.seen_matches("base").unwrap();
    assert_eq!(
        (seen.len(), seen[0].choice, seen[0].tokens),
        (1, Choice::Right, [3, 3])
    );
    assert_eq!(store.match_row(id).unwrap(), voted);
}

#[test]
fn a_match_in_a_chat_goes_on_from_the_better_reply() {
    let (_dir, store) = fresh();
    let chat = store.create_conversation(None).unwrap();
    let turn = |question: &str| Prompt::Turn {
        conversation: chat,
        parent: store
            .append_message(chat, &Message::user(question))
            .unwrap(),
    };
    let (left, right) = ((Contestant::Base, "left"), (Contestant::Base, "right"));
    let first = a_match(&store, turn("q1"), left, right);
    assert_eq!(texts(&store, chat), ["q1", "left"], "until there is a vote");
    store.vote_match(first, Choice::Right).unwrap();
    assert_eq!(texts(&store, chat), ["q1", "right"]);
    let second = a_match(&store, turn("q2"), left, right);
    let third = a_match(&store, turn("q3"), left, right);
    // The chat went on from the left one.
    store.vote_match(second, Choice::Right).unwrap();
    store.vote_match(third, Choice::BothBad).unwrap();
    assert_eq!(
        texts(&store, chat),
        ["q1", "right", "q2", "left", "q3", "left"]
    );
}

#[test]
fn both_sides_answer_one_prompt_or_nothing_is_recorded() {
    let (_dir, store) = fresh();
    let new = NewMatch {
        base_hash: "base".into(),
        left: (Contestant::Base, reply_to(asked("one"), "a")),
        right: (Contestant::Base, reply_to(asked("another"), "b")),
        seed: 0,
    };
    assert!(matches!(
        store.record_match(&new),
        Err(StoreError::OtherPrompt(_))
    ));
    let replies: i64 = store
        .read(|db| Ok(db.query_row("SELECT count(*) FROM replies", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(replies, 0);
}

#[test]
fn a_forgotten_side_takes_the_match_and_the_other_side_with_it() {
    let (dir, store) = fresh();
    let (left, right) = (
        (Contestant::Base, "xylophone left"),
        (Contestant::Base, "xylophone right"),
    );
    let id = a_match(&store, asked("about xylophones"), left, right);
    let kept = a_match(
        &store,
        asked("another"),
        (Contestant::Base, "a"),
        (Contestant::Base, "b"),
    );
    store.vote_match(id, Choice::Left).unwrap();
    store.vote_match(kept, Choice::Tie).unwrap();
    let row = store.match_row(id).unwrap();
    let forgotten = store.forget(Target::Reply(row.right_reply)).unwrap();
    assert_eq!(forgotten.votes, 1);
    assert_eq!(forgotten.replies.len(), 2);
    assert_eq!(store.seen_matches("base").unwrap().len(), 1);
    assert_gone(dir.path(), &store);
}

#[test]
fn a_side_that_more_was_said_about_stays() {
    let (_dir, store) = fresh();
    let id = a_match(
        &store,
        asked("q"),
        (Contestant::Base, "a"),
        (Contestant::Base, "b"),
    );
    let row = store.match_row(id).unwrap();
    store
        .record_feedback(row.left_reply, &Feedback::Up)
        .unwrap();
    store.forget(Target::Reply(row.right_reply)).unwrap();
    assert_eq!(store.reply(row.left_reply).unwrap().text, "a");
    assert!(matches!(
        store.match_row(id),
        Err(StoreError::UnknownMatch(_))
    ));
}

#[test]
fn matches_of_an_adapter_that_had_seen_a_forgotten_event_are_gone() {
    let (_dir, store) = fresh();
    let (one, two) = (item(&store, "one"), item(&store, "two"));
    let first = store
        .insert_adapter(&new_adapter(&[one], "1.gguf"))
        .unwrap();
    let second = store
        .insert_adapter(&new_adapter(&[two], "2.gguf"))
        .unwrap();
    let side = |id: AdapterId| (Contestant::Adapter(id), "reply");
    let base = (Contestant::Base, "reply");
    for (left, right) in [
        (side(first), base),
        (base, side(first)),
        (side(second), base),
    ] {
        let id = a_match(&store, asked("q"), left, right);
        store.vote_match(id, Choice::Left).unwrap();
    }
    let forgotten = store.forget(Target::Feedback(one)).unwrap();
    assert_eq!((forgotten.adapters, forgotten.votes), (vec![first], 2));
    let seen = store.seen_matches("base").unwrap();
    assert_eq!((seen.len(), seen[0].left), (1, Contestant::Adapter(second)));
}

#[test]
fn turns_that_a_vote_rests_on_outlive_their_chat() {
    let (_dir, store) = fresh();
    let chat = store.create_conversation(None).unwrap();
    let parent = store.append_message(chat, &Message::user("q")).unwrap();
    let prompt = Prompt::Turn {
        conversation: chat,
        parent,
    };
    let id = a_match(
        &store,
        prompt,
        (Contestant::Base, "a"),
        (Contestant::Base, "b"),
    );
    store.delete_conversation(chat).unwrap();
    let row = store.match_row(id).unwrap();
    assert_eq!(store.reply(row.right_reply).unwrap().text, "b");
}

#[test]
fn a_head_is_kept_bit_for_bit_and_replaced() {
    let (_dir, store) = fresh();
    let items = [item(&store, "one"), item(&store, "two")];
    assert_eq!(store.head("base").unwrap(), None);
    store.put_head(&head(1.0 / 3.0), &items).unwrap();
    assert_eq!(store.head("base").unwrap(), Some(head(1.0 / 3.0)));
    assert_eq!(store.head("another").unwrap(), None);
    assert_eq!(store.head_items("base").unwrap(), items);
    store.put_head(&head(0.1), &items[1..]).unwrap();
    assert_eq!(store.head("base").unwrap(), Some(head(0.1)));
    assert_eq!(store.head_items("base").unwrap(), items[1..]);
    assert!(store.drop_head("base").unwrap());
    assert!(!store.drop_head("base").unwrap());
    assert!(store.head_items("base").unwrap().is_empty());
}

#[test]
fn a_head_goes_with_any_event_that_it_was_fitted_on_and_with_no_other() {
    let (dir, store) = fresh();
    let [one, two, three] = ["one", "two", "three"].map(|q| item(&store, q));
    // A number that is found again in the file's bytes.
    let telling = head(0.123_456_789_012_345_6);
    let bytes = "0.1234567890123456";
    store.put_head(&telling, &[one, two]).unwrap();
    assert!(
        store
            .forget(Target::Feedback(three))
            .unwrap()
            .heads
            .is_empty()
    );
    assert_eq!(store.head("base").unwrap(), Some(telling.clone()));
    assert!(contains(&all_bytes(dir.path()), bytes));
    assert_eq!(store.forget(Target::Feedback(two)).unwrap().heads, ["base"]);
    assert_eq!(store.head("base").unwrap(), None);
    assert!(!contains(&all_bytes(dir.path()), bytes));
    assert!(matches!(
        store.put_head(&telling, &[one, two]),
        Err(StoreError::ForgottenItem(_))
    ));
    store.put_head(&telling, &[one]).unwrap();
    store.forget(Target::Everything).unwrap();
    assert_eq!(store.head("base").unwrap(), None);
}
