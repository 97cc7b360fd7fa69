#![allow(clippy::unwrap_used)]

mod encrypting;
mod forgetting;
mod judging;
mod keeping;
mod opening;
mod recording;
mod surviving;

use tempfile::TempDir;

use super::*;
use crate::types::{FeedbackId, Message, MessageId, ReplyId, Sampling, StopReason, Usage};

/// A fresh store. The folder goes when the first of the pair does.
fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = Store::open(dir.path()).unwrap();
    assert!(report.created);
    (dir, store)
}

fn generation() -> Generation {
    Generation {
        model: "base".into(),
        template_hash: "template".into(),
        adapter: None,
        prompt_offset: 3,
        prompt_tokens: vec![7, -1, i32::MAX],
        completion_tokens: vec![1, 2, 3],
        sampling: Sampling {
            seed: u64::MAX,
            temperature: 0.1,
            ..Sampling::default()
        },
        stop_reason: StopReason::EndOfTurn,
        usage: Usage {
            prompt_tokens: 6,
            completion_tokens: 3,
            ..Usage::default()
        },
    }
}

/// A generated reply to a prompt of one question.
fn new_reply(question: &str, text: &str) -> NewReply {
    reply_to(Prompt::Messages(vec![Message::user(question)]), text)
}

fn reply_to(prompt: Prompt, text: &str) -> NewReply {
    NewReply {
        prompt,
        text: text.into(),
        replaces: None,
        generation: Some(generation()),
    }
}

/// Asks in a conversation and records the answer.
fn exchange(
    store: &Store,
    conversation: crate::types::ConversationId,
    question: &str,
    answer: &str,
) -> (MessageId, ReplyId) {
    let parent = store
        .append_message(conversation, &Message::user(question))
        .unwrap();
    let reply = store
        .record_reply(reply_to(
            Prompt::Turn {
                conversation,
                parent,
            },
            answer,
        ))
        .unwrap();
    (parent, reply)
}

fn texts(store: &Store, conversation: crate::types::ConversationId) -> Vec<String> {
    store
        .messages(conversation)
        .unwrap()
        .into_iter()
        .map(|turn| turn.message.content)
        .collect()
}

fn in_effect(store: &Store) -> Vec<FeedbackId> {
    store
        .effective_feedback()
        .unwrap()
        .into_iter()
        .map(|event| event.id)
        .collect()
}

/// Every byte of every file in the folder.
fn all_bytes(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            bytes.extend(std::fs::read(path).unwrap());
        }
    }
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
