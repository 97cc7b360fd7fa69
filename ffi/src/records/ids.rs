//! Identifiers: positive numbers, handed out once and never again. Each has its name in every language.

use thumbprint::types::{MessageId, RunId};
use thumbprint::{AdapterId, ConversationId, FeedbackId, MatchId, ReplyId};

macro_rules! id {
    ($(#[$($of:tt)*])* $name:ident) => {
        uniffi::custom_type!(
            $(#[$($of)*])*
            $name,
            i64,
            { remote, lower: |id| id.0, try_lift: |id| Ok($name(id)) }
        );
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
    /// One blind side-by-side of two replies.
    MatchId
);
id!(
    /// One run of the personalization job.
    RunId
);
