//! What can be liked about a text: each feature is a number read off it.
//!
//! In a file a feature is its name, or its name with the number it takes: `"bullets"`, `{"length": 40}`.
//!
//! | Feature | Number | Range |
//! |---|---|---|
//! | `{"length": L}` | `-\|ln(tokens / L)\|`, tokens being words over 0.75: best at L tokens, never monotone | [-3, 0] |
//! | `{"opening_recall": N}` | share of the prompt's keywords in the first N words | [0, 1] |
//! | `recall` | the same in the whole text | [0, 1] |
//! | `bullets` | lines that begin with `-`, `*`, `•`, `1.` or `1)`, at most 4, over 4 | [0, 1] |
//! | `formality` | minus the informal marks in 25 words: contractions, exclamation marks, emoji, words such as "hey" and "stuff" | [-3, 0] |
//! | `emoji` | emoji, at most 3, over 3 | [0, 1] |
//! | `exclamations` | exclamation marks, at most 3, over 3 | [0, 1] |
//! | `closing_question` | 1 if the text ends with a question mark (emoji and quotes after it aside), else 0 | 0 or 1 |
//! | `first_person` | "I", "me", "my" and their kin in 25 words | [0, 3] |
//! | `second_person` | "you", "your" and their kin in 25 words | [0, 3] |
//! | `hedging` | "may", "generally", "it depends" and their kin in 25 words | [0, 3] |
//! | `examples` | 1 if it says "for example", "for instance", "such as" or "e.g.", else 0 | 0 or 1 |
//! | `numbers` | words with a digit, at most 3, over 3 | [0, 1] |
//! | `{"sentence_words": N}` | `-\|ln(mean words of a sentence / N)\|` | [-3, 0] |
//! | `word_letters` | mean letters of a word | 0 or more; English has about 4.5 |

use serde::{Deserialize, Serialize};

use crate::population::Prompt;
use crate::text::{self, Searchable};

/// A feature of a text; see the [module](self) for what each measures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the module's table
pub enum Feature {
    Length(f64),
    OpeningRecall(usize),
    Recall,
    Bullets,
    Formality,
    Emoji,
    Exclamations,
    ClosingQuestion,
    FirstPerson,
    SecondPerson,
    Hedging,
    Examples,
    Numbers,
    SentenceWords(f64),
    WordLetters,
}

/// The worst of a feature that is measured as a distance, and the most of one that is counted by the word.
const FURTHEST: f64 = 3.0;
/// Words that counts are taken over.
const STRETCH: f64 = 25.0;

impl Feature {
    /// The feature of a reply to a prompt. Finite for every text, the empty one included.
    pub fn value(&self, prompt: &Prompt, reply: &str) -> f64 {
        match *self {
            Self::Length(target) => -distance(text::estimated_tokens(reply), target),
            Self::OpeningRecall(words) => keyword_recall(prompt, text::opening(reply, words)),
            Self::Recall => keyword_recall(prompt, reply),
            Self::Bullets => share_of(text::list_items(reply).count(), 4),
            Self::Formality => {
                let marks = informal_words(reply) + exclamations(reply) + emoji(reply);
                -per_stretch(marks, reply)
            }
            Self::Emoji => share_of(emoji(reply), 3),
            Self::Exclamations => share_of(exclamations(reply), 3),
            Self::ClosingQuestion => {
                let end = reply.trim_end_matches(|c: char| {
                    c.is_whitespace() || text::is_emoji(c) || "\"'*_)".contains(c)
                });
                f64::from(end.ends_with('?'))
            }
            Self::FirstPerson => per_stretch(words_of(reply, FIRST_PERSON), reply),
            Self::SecondPerson => per_stretch(words_of(reply, SECOND_PERSON), reply),
            Self::Hedging => {
                let text = Searchable::new(reply);
                let found = HEDGES.iter().map(|phrase| text.count(phrase));
                per_stretch(found.sum(), reply)
            }
            Self::Examples => {
                let text = Searchable::new(reply);
                let said = ["for example", "for instance", "=such as", "e.g."]
                    .iter()
                    .any(|phrase| text.holds(phrase));
                f64::from(said)
            }
            Self::Numbers => {
                let words = text::words(reply);
                let digits = |word: &&String| word.contains(|c: char| c.is_ascii_digit());
                share_of(words.iter().filter(digits).count(), 3)
            }
            Self::SentenceWords(target) => {
                let sentences = text::sentences(reply).len().max(1);
                let mean = text::words(reply).len() as f64 / sentences as f64;
                -distance(mean, target)
            }
            Self::WordLetters => {
                let words = text::words(reply);
                let letters: usize = words.iter().map(|word| word.chars().count()).sum();
                letters as f64 / words.len().max(1) as f64
            }
        }
    }

    /// What is wrong with its number, if anything is.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let bad = match *self {
            Self::Length(target) | Self::SentenceWords(target) => {
                !(target.is_finite() && target >= 1.0)
            }
            Self::OpeningRecall(words) => words == 0,
            _ => false,
        };
        bad.then_some("its number must be at least 1")
    }
}

/// The share of the prompt's keywords that the text holds, in [0, 1].
pub fn keyword_recall(prompt: &Prompt, text: &str) -> f64 {
    let text = Searchable::new(text);
    let found = prompt
        .keywords
        .iter()
        .filter(|keyword| text.holds(keyword))
        .count();
    found as f64 / prompt.keywords.len() as f64
}

/// How far apart two lengths are by their ratio.
fn distance(length: f64, target: f64) -> f64 {
    (length / target).ln().abs().min(FURTHEST)
}

fn share_of(count: usize, most: usize) -> f64 {
    count.min(most) as f64 / most as f64
}

fn per_stretch(count: usize, reply: &str) -> f64 {
    let words = text::words(reply).len().max(1) as f64;
    (count as f64 * STRETCH / words).min(FURTHEST)
}

fn emoji(reply: &str) -> usize {
    reply.chars().filter(|c| text::is_emoji(*c)).count()
}

fn exclamations(reply: &str) -> usize {
    reply.matches('!').count()
}

fn words_of(reply: &str, list: &[&str]) -> usize {
    let known = |word: &&String| {
        let plain = word.replace('\u{2019}', "'");
        list.contains(&plain.as_str())
    };
    text::words(reply).iter().filter(known).count()
}

fn informal_words(reply: &str) -> usize {
    let informal = |word: &&String| {
        let plain = word.replace('\u{2019}', "'");
        text::is_contraction(&plain) || INFORMAL.contains(&plain.as_str())
    };
    text::words(reply).iter().filter(informal).count()
}

const INFORMAL: &[&str] = &[
    "awesome", "bunch", "cool", "cute", "dude", "folks", "fun", "gonna", "gotta", "guys", "hey",
    "hi", "huge", "kid", "kids", "kinda", "lots", "mom", "nope", "oh", "ok", "okay", "oops",
    "pretty", "really", "stuff", "super", "totally", "tons", "wanna", "wow", "yay", "yeah", "yep",
    "yum", "yummy",
];

const FIRST_PERSON: &[&str] = &[
    "i", "i'm", "i've", "i'll", "i'd", "me", "my", "mine", "myself",
];

const SECOND_PERSON: &[&str] = &[
    "you", "you're", "you've", "you'll", "you'd", "your", "yours", "yourself",
];

const HEDGES: &[&str] = &[
    "may",
    "might",
    "could",
    "perhaps",
    "possibly",
    "probably",
    "generally",
    "usually",
    "typically",
    "often",
    "sometimes",
    "seems",
    "tends to",
    "tend to",
    "depends",
    "in general",
    "it is important to",
    "it's important to",
    "it's essential to",
    "it is essential to",
    "as an ai",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn value(feature: Feature, reply: &str) -> f64 {
        let prompt = Prompt {
            text: "Why do cats purr?".to_owned(),
            keywords: ["content|happy", "calm", "throat", "sound"]
                .map(str::to_owned)
                .to_vec(),
        };
        feature.value(&prompt, reply)
    }

    #[test]
    fn each_feature_of_hand_written_texts_is_what_a_reader_would_count() {
        use Feature::*;
        let list =
            "Reasons:\n- they are content\n* it calms them\n3) a sound\n\u{2022} habit\n- more";
        let warm = "Hey! I'm sure you'll love it, don't you think? \u{1F600}";
        let dry = "Cats purr when content. The sound comes from the throat, for example at rest.";
        let hedged = "It depends. Cats may purr in general, and it's important to listen.";
        for (feature, text, expected) in [
            (Length(4.0), "one two three", 0.0),
            (Length(8.0), "one two three", -2f64.ln()),
            (Length(2.0), "one two three", -2f64.ln()),
            (Length(40.0), "", -3.0),
            (OpeningRecall(4), dry, 0.25),
            (Recall, dry, 0.75),
            (Bullets, list, 1.0),
            (Bullets, "1. one\n2. two", 0.5),
            (Bullets, "1945 was - a year\n-5 degrees", 0.0),
            // "hey", "!", "i'm", "you'll", "don't", one emoji, in nine words: at the end of the range.
            (Formality, warm, -3.0),
            (Formality, dry, 0.0),
            (Emoji, warm, 1.0 / 3.0),
            (Emoji, "\u{2022} a \u{2013} b", 0.0),
            (Exclamations, "No! No!! Never!", 1.0),
            (ClosingQuestion, warm, 1.0),
            (ClosingQuestion, "Why? Because.", 0.0),
            // 3 of 8 words would be 9.4 in 25.
            (FirstPerson, "I like my cat, and it likes me.", 3.0),
            (SecondPerson, dry, 0.0),
            (Hedging, hedged, 3.0),
            (Examples, dry, 1.0),
            (Examples, "None.", 0.0),
            (Numbers, "In 1945, and on the 3rd of May.", 2.0 / 3.0),
            (SentenceWords(7.0), dry, 0.0),
            (SentenceWords(14.0), dry, -2f64.ln()),
            (WordLetters, "one three", 4.0),
            (WordLetters, "", 0.0),
        ] {
            let found = value(feature, text);
            assert!(
                (found - expected).abs() < 1e-12,
                "{feature:?} of {text:?} is {found}, not {expected}"
            );
        }
    }

    #[test]
    fn counts_by_the_word_fall_as_the_text_grows() {
        let long = format!("I think so. {}", "word ".repeat(97));
        assert_eq!(value(Feature::FirstPerson, &long), 0.25);
        let long = format!("It may rain, you know. {}", "word ".repeat(95));
        assert_eq!(value(Feature::Hedging, &long), 0.25);
        assert_eq!(value(Feature::SecondPerson, &long), 0.25);
    }

    #[test]
    fn a_feature_is_written_as_its_name_or_its_name_with_its_number() {
        for (feature, json) in [
            (Feature::Bullets, r#""bullets""#),
            (Feature::Length(40.0), r#"{"length":40.0}"#),
            (Feature::OpeningRecall(45), r#"{"opening_recall":45}"#),
        ] {
            assert_eq!(serde_json::to_string(&feature).ok().as_deref(), Some(json));
            assert_eq!(serde_json::from_str::<Feature>(json).ok(), Some(feature));
        }
    }
}
