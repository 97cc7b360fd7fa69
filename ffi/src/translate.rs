//! From the facade's types to those that cross the boundary, and back.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thumbprint::types::{MessageId, RunId};
use thumbprint::{AdapterId, ConversationId, FeedbackId, MatchId, ReplyId};

/// Takes the other side's form.
pub(crate) trait Translate<T> {
    fn translate(self) -> T;
}

impl<A: Translate<B>, B> Translate<Option<B>> for Option<A> {
    fn translate(self) -> Option<B> {
        self.map(A::translate)
    }
}

impl<A: Translate<B>, B> Translate<Vec<B>> for Vec<A> {
    fn translate(self) -> Vec<B> {
        self.into_iter().map(A::translate).collect()
    }
}

impl<A: Translate<B>, B> Translate<HashMap<String, B>> for BTreeMap<String, A> {
    fn translate(self) -> HashMap<String, B> {
        let items = self.into_iter();
        items.map(|(key, value)| (key, value.translate())).collect()
    }
}

macro_rules! same {
    ($($type:ty),* $(,)?) => {
        $(impl Translate<$type> for $type {
            fn translate(self) -> $type {
                self
            }
        })*
    };
}

same!(
    bool,
    i32,
    u32,
    u64,
    i64,
    f32,
    f64,
    String,
    AdapterId,
    ConversationId,
    FeedbackId,
    MatchId,
    MessageId,
    ReplyId,
    RunId
);

impl Translate<u64> for usize {
    fn translate(self) -> u64 {
        self as u64
    }
}

impl Translate<String> for PathBuf {
    fn translate(self) -> String {
        self.to_string_lossy().into_owned()
    }
}

impl Translate<String> for &str {
    fn translate(self) -> String {
        self.to_owned()
    }
}

/// As JSON text.
impl Translate<String> for serde_json::Value {
    fn translate(self) -> String {
        self.to_string()
    }
}

/// Defines a record with the fields that one of the facade's has.
macro_rules! record {
    ($(#[$($of:tt)*])* $name:ident of $core:ty { $($(#[$($at:tt)*])* $field:ident: $type:ty,)* }) => {
        $(#[$($of)*])*
        #[derive(Debug, Clone, PartialEq, uniffi::Record)]
        pub struct $name {
            $($(#[$($at)*])* pub $field: $type,)*
        }

        impl $crate::translate::Translate<$name> for $core {
            fn translate(self) -> $name {
                $name { $($field: $crate::translate::Translate::translate(self.$field),)* }
            }
        }
    };
}
pub(crate) use record;

/// Defines an enum with the variants that one of the facade's has, and both translations.
macro_rules! choice {
    ($(#[$($of:tt)*])* $name:ident of $core:ty { $($(#[$($at:tt)*])* $variant:ident,)* }) => {
        $(#[$($of)*])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, uniffi::Enum)]
        pub enum $name {
            $($(#[$($at)*])* $variant,)*
        }

        impl $crate::translate::Translate<$name> for $core {
            fn translate(self) -> $name {
                match self {
                    $(Self::$variant => $name::$variant,)*
                }
            }
        }

        impl $crate::translate::Translate<$core> for $name {
            fn translate(self) -> $core {
                match self {
                    $(Self::$variant => <$core>::$variant,)*
                }
            }
        }
    };
}
pub(crate) use choice;

/// What a panic left is sound here: nothing is half changed under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
