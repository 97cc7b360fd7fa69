//! What is said, what is answered, and what people think of it.

use thumbprint::types::MessageId;
use thumbprint::{AdapterId, ConversationId, FeedbackId, ReplyId, store};

use super::BestOf;
use crate::translate::{Translate, choice, record};

choice! {
    /// Who speaks in a message.
    Role of thumbprint::Role {
        /// Instructions of the app.
        System,
        /// The person.
        User,
        /// The model.
        Assistant,
    }
}

record! {
    /// One turn of a chat.
    Message of thumbprint::Message {
        /// Who speaks.
        role: Role,
        /// What is said, without any template markup.
        content: String,
    }
}

impl Translate<thumbprint::Message> for Message {
    fn translate(self) -> thumbprint::Message {
        thumbprint::Message {
            role: self.role.translate(),
            content: self.content,
        }
    }
}

/// What a person said about a reply, or did with it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Feedback {
    /// 👍
    Up,
    /// 👎
    Down {
        /// Why, if the person said so: "too long", "wrong", or a wish in their own words.
        reasons: Vec<String>,
    },
    /// The person rewrote the reply.
    Edit {
        /// The text that they want instead.
        text: String,
    },
    /// "This one": the reply was picked over another reply to the same prompt.
    Prefer {
        /// The reply that was not picked.
        over: ReplyId,
    },
    /// An order among several replies to the same prompt, of which this one is the best.
    Rank {
        /// The other replies, one at least, the best of them first.
        over: Vec<ReplyId>,
    },
    /// The person asked for another reply; [`Request::replaces`](crate::Request::replaces) names this one there.
    Retry,
}

impl Translate<thumbprint::Feedback> for Feedback {
    fn translate(self) -> thumbprint::Feedback {
        match self {
            Self::Up => thumbprint::Feedback::Up,
            Self::Down { reasons } => thumbprint::Feedback::Down { reasons },
            Self::Edit { text } => thumbprint::Feedback::Edit(text),
            Self::Prefer { over } => thumbprint::Feedback::Prefer { over },
            Self::Rank { over } => thumbprint::Feedback::Rank { over },
            Self::Retry => thumbprint::Feedback::Retry,
        }
    }
}

impl Translate<Feedback> for thumbprint::Feedback {
    fn translate(self) -> Feedback {
        match self {
            Self::Up => Feedback::Up,
            Self::Down { reasons } => Feedback::Down { reasons },
            Self::Edit(text) => Feedback::Edit { text },
            Self::Prefer { over } => Feedback::Prefer { over },
            Self::Rank { over } => Feedback::Rank { over },
            Self::Retry => Feedback::Retry,
        }
    }
}

/// One event of feedback that is in effect.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct FeedbackInEffect {
    /// Its id, to withdraw or forget it.
    pub id: FeedbackId,
    /// What was said.
    pub feedback: Feedback,
}

/// What a running generation says.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Event {
    /// More of the reply's text.
    Token {
        /// Whole characters, never empty.
        text: String,
    },
    /// The reply is complete and recorded. The last event.
    Done {
        /// The reply.
        reply: Reply,
    },
}

record! {
    /// A complete reply, recorded.
    Reply of thumbprint::Reply {
        /// What feedback refers to.
        id: ReplyId,
        /// Its text.
        text: String,
        /// Why it ended.
        stop_reason: StopReason,
        /// Token counts and times.
        usage: Usage,
        /// Tokens per second after the first one; 0 if there was only one.
        tokens_per_second: f32,
        /// How its tokens were chosen, the seed included.
        sampling: Sampling,
        /// The adapter that it was generated under; absent for the base model.
        adapter: Option<AdapterId>,
        /// Messages that did not fit the context and were left out.
        dropped_messages: u64,
        /// How it was chosen, if several were drawn.
        best_of: Option<BestOf>,
    }
}

choice! {
    /// Why a generation ended.
    StopReason of thumbprint::StopReason {
        /// The model ended its turn.
        EndOfTurn,
        /// One of the strings given by the app appeared.
        StopString,
        /// The limit on tokens was reached.
        MaxTokens,
        /// The context was full.
        ContextFull,
        /// The app cancelled.
        Cancelled,
    }
}

record! {
    /// What one generation consumed.
    Usage of thumbprint::Usage {
        /// Tokens of the prompt, reused ones included.
        prompt_tokens: u32,
        /// Tokens of the prompt that were computed before and not again.
        reused_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
        /// Milliseconds until the first token.
        first_token_ms: f32,
        /// Milliseconds from the first token to the last.
        decode_ms: f32,
    }
}

record! {
    /// How tokens were drawn.
    Sampling of thumbprint::Sampling {
        /// Divided the logits; 0 took the likeliest token.
        temperature: f32,
        /// Kept the k likeliest tokens; 0 kept all.
        top_k: u32,
        /// Kept the smallest set of tokens with this much probability.
        top_p: f32,
        /// Dropped tokens less likely than this share of the likeliest.
        min_p: f32,
        /// Divided the logits of recent tokens; 1 is off.
        repetition_penalty: f32,
        /// How many recent tokens the penalty looked at.
        repetition_window: u32,
        /// Seed of the draw.
        seed: u64,
    }
}

record! {
    /// A stored chat, without its turns.
    ConversationInfo of store::Conversation {
        /// Its id, to open it.
        id: ConversationId,
        /// Its title, if it was given one.
        title: Option<String>,
        /// Its last turn; absent before the first.
        head: Option<MessageId>,
        /// Milliseconds since 1970.
        created_at: i64,
        /// Milliseconds since 1970; changes with each turn.
        updated_at: i64,
    }
}

record! {
    /// One turn of a stored chat.
    StoredMessage of store::StoredMessage {
        /// Its id.
        id: MessageId,
        /// The turn before it.
        parent: Option<MessageId>,
        /// Who speaks, and what is said.
        message: Message,
        /// The reply recorded for it, for turns of the assistant.
        reply: Option<ReplyId>,
        /// Milliseconds since 1970.
        created_at: i64,
    }
}
