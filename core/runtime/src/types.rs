//! Small types that every module shares: identifiers, messages, what a person can say about a
//! reply, and what is remembered about how a reply came to be.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Defines an identifier: a positive integer that the store hands out once and never again.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A reply: one answer to one prompt, generated here or handed in by the app.
    ReplyId
);
id!(
    /// One event of feedback. A larger id is a later event.
    FeedbackId
);
id!(
    /// A stored chat.
    ConversationId
);
id!(
    /// One turn of a stored chat.
    MessageId
);
id!(
    /// One version of an adapter.
    AdapterId
);
id!(
    /// One run of the personalization job.
    RunId
);
id!(
    /// One blind vote between an adapter and its base.
    VoteId
);
id!(
    /// One blind side-by-side of two replies.
    MatchId
);
id!(
    /// One recorded decision of the gate, the e-process or a person.
    DecisionId
);

/// Who speaks in a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions of the app.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates and the store use.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, as UTF-8 text without any template markup.
    pub content: String,
}

impl Message {
    /// A message of the app.
    pub fn system(content: impl Into<String>) -> Self {
        Self {
            role: Role::System,
            content: content.into(),
        }
    }

    /// A message of the person.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: content.into(),
        }
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: Role::Assistant,
            content: content.into(),
        }
    }
}

/// What a person said about a reply, or did with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feedback {
    /// 👍
    Up,
    /// 👎
    Down {
        /// Why, if the person said so: "too long", "wrong", or a wish in their own words.
        #[serde(default)]
        reasons: Vec<String>,
    },
    /// The person rewrote the reply; this is the text they want instead.
    Edit(String),
    /// "This one": the reply was picked over another reply to the same prompt.
    Prefer {
        /// The reply that was not picked.
        over: ReplyId,
    },
    /// The reply was ranked first among several replies to the same prompt.
    Rank {
        /// The others, the second best first; one at least.
        over: Vec<ReplyId>,
    },
    /// The person asked for another reply. The reply that took this one's place names it in
    /// [`crate::store::NewReply::replaces`].
    Retry,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its turn with one of the template's end tokens.
    EndOfTurn,
    /// One of the strings given by the app appeared.
    StopString,
    /// The limit on completion tokens was reached.
    MaxTokens,
    /// The context was full.
    ContextFull,
    /// The app cancelled.
    Cancelled,
}

impl StopReason {
    /// Whether the model itself ended the reply, so that training may teach the end token after it.
    pub fn is_finished(self) -> bool {
        self == StopReason::EndOfTurn
    }
}

/// How tokens are drawn. A temperature of 0 is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens with this much probability, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest, in [0, 1); 0 keeps all.
    pub min_p: f32,
    /// Divides the logits of recent tokens; 1 is off.
    pub repetition_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repetition_window: u32,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

/// Who tells how good a reply is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The active adapter: its own reward over the base ([`crate::reward::Score::implicit`]).
    #[default]
    Active,
    /// The same of another adapter, at the scale that it is served at.
    Adapter(AdapterId),
    /// The head that was fitted on the person's feedback ([`crate::reward::Head`]).
    Head,
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Adapter(id) => id.fmt(f),
            Self::Head => f.write_str("head"),
        }
    }
}

impl FromStr for Judge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "active" => Ok(Self::Active),
            "head" => Ok(Self::Head),
            id => id
                .parse()
                .map(Self::Adapter)
                .map_err(|_| "a judge is active, head, or an adapter's number".to_owned()),
        }
    }
}

/// What one generation consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, reused ones included.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that were already in the KV cache.
    pub reused_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Milliseconds until the first token.
    pub first_token_ms: f32,
    /// Milliseconds from the first token to the last.
    pub decode_ms: f32,
}

/// A reply as curation sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedReply {
    /// Its id. Of two replies to one prompt, the larger came later.
    pub id: ReplyId,
    /// The whole prompt.
    pub prompt: Vec<Message>,
    /// The reply's text.
    pub text: String,
    /// Completion tokens, in the vocabulary of `model`; absent for text that was handed in.
    pub tokens: Option<Vec<i32>>,
    /// Whether it is whole: ended by the model, or written by a person.
    pub finished: bool,
    /// Hash of the base model that wrote it; absent for text that was handed in.
    pub model: Option<String>,
}

/// One event of feedback that is in effect, with the replies that it speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedFeedback {
    /// Its id.
    pub id: FeedbackId,
    /// The reply it was given on.
    pub reply: Arc<LoggedReply>,
    /// What was said.
    pub feedback: Feedback,
    /// For [`Feedback::Prefer`], the reply that was not picked. For [`Feedback::Retry`], the last
    /// of the replies that took its place, if that one was kept: the chat went on from it.
    pub other: Option<Arc<LoggedReply>>,
    /// For [`Feedback::Rank`], the replies that were ranked after it, in order; else none.
    pub ranked: Vec<Arc<LoggedReply>>,
}

/// Identifies a prompt whatever the model: SHA-256 over roles and contents, each with its length.
pub fn prompt_key(prompt: &[Message]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"thumbprint prompt 1");
    for message in prompt {
        update_with_length(&mut hash, message.role.as_str().as_bytes());
        update_with_length(&mut hash, message.content.as_bytes());
    }
    hash.finalize().into()
}

/// Identifies a completion of a prompt whatever the model: SHA-256 over the prompt's key and the
/// text.
pub fn completion_key(prompt_key: &[u8; 32], text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"thumbprint completion 1");
    hash.update(prompt_key);
    update_with_length(&mut hash, text.as_bytes());
    hash.finalize().into()
}

/// Lengths keep two different lists of strings from hashing alike.
pub(crate) fn update_with_length(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn prompt_keys_tell_where_one_message_ends_and_the_next_begins() {
        let joined = prompt_key(&[Message::user("ab")]);
        let split = prompt_key(&[Message::user("a"), Message::user("b")]);
        let other_role = prompt_key(&[Message::system("ab")]);
        assert_ne!(joined, split);
        assert_ne!(joined, other_role);
        assert_eq!(joined, prompt_key(&[Message::user("ab")]));
    }

    #[test]
    fn feedback_is_written_as_json_that_the_command_line_documents() {
        let cases = [
            (Feedback::Up, r#""up""#),
            (
                Feedback::Down {
                    reasons: vec!["too long".into()],
                },
                r#"{"down":{"reasons":["too long"]}}"#,
            ),
            (Feedback::Edit("Short.".into()), r#"{"edit":"Short."}"#),
            (
                Feedback::Prefer { over: ReplyId(3) },
                r#"{"prefer":{"over":3}}"#,
            ),
            (
                Feedback::Rank {
                    over: vec![ReplyId(5), ReplyId(3)],
                },
                r#"{"rank":{"over":[5,3]}}"#,
            ),
            (Feedback::Retry, r#""retry""#),
        ];
        for (feedback, json) in cases {
            assert_eq!(serde_json::to_string(&feedback).unwrap(), json);
            assert_eq!(serde_json::from_str::<Feedback>(json).unwrap(), feedback);
        }
    }

    #[test]
    fn judges_are_written_as_they_are_read() {
        for judge in [Judge::Active, Judge::Head, Judge::Adapter(AdapterId(4))] {
            assert_eq!(judge.to_string().parse(), Ok(judge));
        }
        assert!("nobody".parse::<Judge>().is_err());
    }

    #[test]
    fn only_an_end_token_finishes_a_reply() {
        use StopReason::*;
        let finished: Vec<_> = [EndOfTurn, StopString, MaxTokens, ContextFull, Cancelled]
            .into_iter()
            .filter(|reason| reason.is_finished())
            .collect();
        assert_eq!(finished, [EndOfTurn]);
    }
}
