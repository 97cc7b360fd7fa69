//! How a person rewrites a reply: a programme, so that it can be repeated.

use serde::{Deserialize, Serialize};

use crate::text;

/// One step of rewriting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Keeps whole sentences from the start, as many as fit this many tokens (words over 0.75), at least one.
    Shorten(u32),
    /// Makes every sentence a bullet, at most this many.
    Bullets(usize),
    /// Adds one of these sentences at the end, unless the text ends with a question.
    CloseWith(Vec<String>),
    /// Adds one of these emoji at the end, unless the text has one.
    AddEmoji(Vec<String>),
    /// Writes contractions out, turns exclamation marks into full stops, and drops emoji.
    Formal,
    /// Drops sentences in which the model speaks of itself.
    Impersonal,
}

/// Rewrites a reply step by step; `choice` picks among sentences and emoji. `None` if nothing is left, or nothing changed.
pub fn rewrite(reply: &str, steps: &[Edit], choice: usize) -> Option<String> {
    if steps.is_empty() {
        return None;
    }
    let mut text = reply.trim().to_owned();
    for step in steps {
        text = apply(step, &text, choice);
    }
    (!text.trim().is_empty() && text.trim() != reply.trim()).then_some(text)
}

impl Edit {
    /// What is wrong with it, if anything is.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Shorten(0) | Self::Bullets(0) => Some("its number must be at least 1"),
            Self::CloseWith(options) | Self::AddEmoji(options)
                if options.is_empty() || options.iter().any(|o| o.trim().is_empty()) =>
            {
                Some("it needs at least one text to add, and none may be empty")
            }
            _ => None,
        }
    }
}

fn apply(step: &Edit, text: &str, choice: usize) -> String {
    match step {
        Edit::Shorten(tokens) => {
            let mut kept = 0.0;
            let fits = |sentence: &&str| {
                let first = kept == 0.0;
                kept += text::estimated_tokens(sentence);
                first || kept <= f64::from(*tokens)
            };
            whole_sentences(text)
                .into_iter()
                .take_while(fits)
                .collect::<Vec<_>>()
                .join(" ")
        }
        Edit::Bullets(most) => whole_sentences(text)
            .into_iter()
            .take(*most)
            .map(|sentence| format!("- {sentence}"))
            .collect::<Vec<_>>()
            .join("\n"),
        Edit::CloseWith(sentences) => match text.trim_end().ends_with('?') {
            true => text.to_owned(),
            false => added(text, sentences, choice),
        },
        Edit::AddEmoji(emoji) => match text.contains(text::is_emoji) {
            true => text.to_owned(),
            false => added(text, emoji, choice),
        },
        Edit::Formal => formal(text),
        Edit::Impersonal => {
            let of_itself = |sentence: &str| {
                let words = text::words(sentence);
                let first = |word: &String| {
                    ["i", "me", "my", "mine", "myself"].contains(&word.as_str())
                        || word.starts_with("i'")
                        || word.starts_with("i\u{2019}")
                };
                words.iter().any(first)
            };
            whole_sentences(text)
                .into_iter()
                .filter(|sentence| !of_itself(sentence))
                .collect::<Vec<_>>()
                .join(" ")
        }
    }
}

/// The sentences of a text without one that was cut off, unless there is no other.
fn whole_sentences(text: &str) -> Vec<&str> {
    let sentences = text::sentences(text);
    let whole: Vec<&str> = sentences
        .iter()
        .copied()
        .filter(|sentence| text::is_whole(sentence))
        .collect();
    if whole.is_empty() { sentences } else { whole }
}

fn added(text: &str, options: &[String], choice: usize) -> String {
    match options.get(choice % options.len().max(1)) {
        Some(option) => format!("{} {option}", text.trim_end()),
        None => text.to_owned(),
    }
}

fn formal(text: &str) -> String {
    const WRITTEN_OUT: &[(&str, &str)] = &[
        ("can't", "cannot"),
        ("won't", "will not"),
        ("let's", "let us"),
        ("n't", " not"),
        ("'re", " are"),
        ("'ve", " have"),
        ("'ll", " will"),
        ("'m", " am"),
    ];
    let mut text = text.replace('\u{2019}', "'").replace('!', ".");
    text.retain(|c| !text::is_emoji(c));
    for (short, long) in WRITTEN_OUT {
        text = text.replace(short, long);
    }
    for word in ["it", "that", "there", "here", "what", "he", "she"] {
        for form in [word.to_owned(), capitalised(word)] {
            text = text.replace(&format!("{form}'s "), &format!("{form} is "));
        }
    }
    text.trim().to_owned()
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = "I'm glad you asked! Cats purr when they're content. It's a sound of the throat. They also purr \
        when";

    fn rewritten(reply: &str, steps: &[Edit]) -> Option<String> {
        rewrite(reply, steps, 4)
    }

    #[test]
    fn shortening_keeps_whole_sentences_and_at_least_one() {
        assert_eq!(
            rewritten(REPLY, &[Edit::Shorten(14)]).as_deref(),
            Some("I'm glad you asked! Cats purr when they're content.")
        );
        assert_eq!(
            rewritten(REPLY, &[Edit::Shorten(1)]).as_deref(),
            Some("I'm glad you asked!")
        );
        assert_eq!(rewritten("Short already.", &[Edit::Shorten(9)]), None);
    }

    #[test]
    fn sentences_become_bullets_and_one_that_was_cut_off_is_dropped() {
        let list = rewritten(REPLY, &[Edit::Impersonal, Edit::Bullets(4)]);
        assert_eq!(
            list.as_deref(),
            Some("- Cats purr when they're content.\n- It's a sound of the throat.")
        );
        let again = rewritten("1. One thing.\n2. Another thing.", &[Edit::Bullets(1)]);
        assert_eq!(again.as_deref(), Some("- One thing."));
    }

    #[test]
    fn closings_are_added_once_and_the_choice_goes_round() {
        let closing = [Edit::CloseWith(vec!["Right?".into(), "Clear?".into()])];
        assert_eq!(
            rewritten("So it is.", &closing).as_deref(),
            Some("So it is. Right?")
        );
        assert_eq!(
            rewrite("So it is.", &closing, 5).as_deref(),
            Some("So it is. Clear?")
        );
        assert_eq!(rewritten("Is it?", &closing), None);
        let emoji = [Edit::AddEmoji(vec!["\u{1F600}".into()])];
        assert_eq!(
            rewritten("So it is.", &emoji).as_deref(),
            Some("So it is. \u{1F600}")
        );
        assert_eq!(rewritten("So \u{1F389}", &emoji), None);
    }

    #[test]
    fn formal_writes_contractions_out() {
        assert_eq!(
            rewritten(
                "It's fine! We don't mind, you can\u{2019}t fail \u{1F600}",
                &[Edit::Formal]
            )
            .as_deref(),
            Some("It is fine. We do not mind, you cannot fail")
        );
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(rewritten("", &[Edit::Bullets(3)]), None);
        assert_eq!(rewritten("I like it.", &[Edit::Impersonal]), None);
        assert_eq!(rewritten("Anything.", &[]), None);
    }
}
