//! Reading: words, length, keywords, and the three ways in which a reply is no answer at all.

use std::collections::{HashMap, HashSet};

/// Words in a token of English, for a vocabulary of about fifty thousand.
const WORDS_PER_TOKEN: f64 = 0.75;
/// A run of this many words, this often, is degenerate.
const RUN: usize = 4;
const RUN_TIMES: usize = 3;
/// At most this share of an echo's content words is new.
const ECHO_NEW_SHARE: f64 = 0.2;
/// Letters by which two forms of a word are taken for the same.
const STEM: usize = 5;

/// Length in tokens as a person would guess it from the text: words over 0.75.
pub fn estimated_tokens(text: &str) -> f64 {
    words(text).len() as f64 / WORDS_PER_TOKEN
}

/// The text up to the end of its `count`-th word.
pub fn opening(text: &str, count: usize) -> &str {
    let mut seen = 0;
    let mut inside = false;
    for (at, c) in text.char_indices() {
        let space = c.is_whitespace();
        if inside && space {
            seen += 1;
            if seen == count {
                return &text[..at];
            }
        }
        inside = !space;
    }
    text
}

/// Lower-case words: what stands between white space and holds a letter or digit, without the punctuation around it.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|word| {
            word.trim_matches(|c: char| !c.is_alphanumeric())
                .to_lowercase()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Text prepared for [`Searchable::holds`].
pub(crate) struct Searchable {
    raw: String,
    /// Words between single spaces, with one at either end.
    spaced: String,
}

impl Searchable {
    pub(crate) fn new(text: &str) -> Self {
        let raw = text.to_lowercase().replace('\u{2019}', "'");
        let plain: String = raw
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || c == '\'' {
                    c
                } else {
                    ' '
                }
            })
            .collect();
        let spaced = format!(
            " {} ",
            plain.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        Self { raw, spaced }
    }

    /// Whether any of the alternatives `a|b|c` occurs: `=word` as a whole word; one with signs (`<!--`, `sort(`) anywhere;
    /// any other as the beginning of a word or of a few words.
    pub(crate) fn holds(&self, keyword: &str) -> bool {
        keyword.split('|').any(|stem| {
            let signs = stem.contains(|c: char| !c.is_alphanumeric() && c != '\'' && c != ' ');
            match stem.strip_prefix('=') {
                Some(word) => self.spaced.contains(&format!(" {word} ")),
                None if signs || stem.starts_with('\'') => self.raw.contains(stem),
                None => self.spaced.contains(&format!(" {stem}")),
            }
        })
    }

    /// How often whole words occur in a row.
    pub(crate) fn count(&self, words: &str) -> usize {
        let wanted: Vec<&str> = words.split(' ').collect();
        let there: Vec<&str> = self.spaced.split_whitespace().collect();
        there
            .windows(wanted.len())
            .filter(|window| *window == wanted.as_slice())
            .count()
    }
}

/// The lines of a list, without what marks them as such: `-`, `*`, `•`, `1.` or `1)` and a space.
pub(crate) fn list_items(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(list_item)
}

fn list_item(line: &str) -> Option<&str> {
    let line = line.trim();
    let signs = line.strip_prefix(['-', '*', '\u{2022}']);
    let numbers = || {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        (rest.len() < line.len() && line.len() - rest.len() <= 2)
            .then(|| rest.strip_prefix(['.', ')']))
            .flatten()
    };
    let item = signs.or_else(numbers)?;
    let said = item.trim_start();
    (said.len() < item.len() && !said.is_empty()).then_some(said)
}

/// The sentences of a text, list marks taken off: what ends with `.`, `!` or `?` before white space, or with its line.
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    for line in text.lines() {
        let mut rest = list_item(line).unwrap_or(line).trim();
        while let Some(end) = sentence_end(rest) {
            sentences.push(rest[..end].trim());
            rest = rest[end..].trim_start();
        }
        if !rest.is_empty() {
            sentences.push(rest);
        }
    }
    sentences.retain(|sentence| !words(sentence).is_empty());
    sentences
}

/// Whether the sentence was brought to its end.
pub(crate) fn is_whole(sentence: &str) -> bool {
    sentence
        .trim_end_matches(['"', '\u{201d}', ')', '*'])
        .ends_with(['.', '!', '?', ':'])
}

fn sentence_end(text: &str) -> Option<usize> {
    let mut ended = false;
    for (at, c) in text.char_indices() {
        match c {
            '.' | '!' | '?' => ended = true,
            '"' | '\u{201d}' | ')' if ended => {}
            c if c.is_whitespace() && ended => return Some(at),
            _ => ended = false,
        }
    }
    ended.then_some(text.len())
}

/// Pictographs, and the characters that only ever belong to one.
pub(crate) fn is_emoji(c: char) -> bool {
    matches!(c, '\u{1f000}'..='\u{1faff}' | '\u{2600}'..='\u{27bf}' | '\u{2b50}' | '\u{2b55}')
}

/// Whether a lower-case word with plain apostrophes is a contraction; a genitive is none.
pub(crate) fn is_contraction(word: &str) -> bool {
    const WHOLE: &[&str] = &[
        "he's", "here's", "how's", "it's", "let's", "she's", "that's", "there's", "what's",
        "where's", "who's",
    ];
    ["n't", "'re", "'ve", "'ll", "'d", "'m"]
        .iter()
        .any(|end| word.ends_with(end))
        || WHOLE.contains(&word)
}

/// Whether some run of four words occurs three times or more.
pub(crate) fn is_degenerate(text: &str) -> bool {
    let words = words(text);
    let mut times: HashMap<&[String], usize> = HashMap::new();
    words.windows(RUN).any(|run| {
        let count = times.entry(run).or_default();
        *count += 1;
        *count >= RUN_TIMES
    })
}

/// Whether hardly a content word of the reply is missing from the question. A reply without content words ("Yes, it is.")
/// is no echo.
pub(crate) fn is_echo(question: &str, reply: &str) -> bool {
    let asked = content_stems(question);
    let said = content_stems(reply);
    let new = said.difference(&asked).count();
    !said.is_empty() && new as f64 <= ECHO_NEW_SHARE * said.len() as f64
}

/// The words that carry meaning, cut to five letters.
pub(crate) fn content_stems(text: &str) -> HashSet<String> {
    words(text)
        .iter()
        .filter(|word| word.chars().count() >= 3 || word.contains(|c: char| c.is_numeric()))
        .filter(|word| !FUNCTION_WORDS.contains(&word.as_str()))
        .map(|word| word.chars().take(STEM).collect())
        .collect()
}

const FUNCTION_WORDS: &[&str] = &[
    "about", "all", "also", "and", "any", "are", "because", "been", "being", "but", "can", "could",
    "did", "does", "for", "from", "had", "has", "have", "her", "here", "him", "his", "how", "into",
    "its", "just", "may", "more", "most", "not", "one", "only", "our", "out", "she", "should",
    "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "very", "was", "were", "what", "when", "where", "which", "who", "why", "will",
    "with", "would", "you", "your",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_over_three_quarters() {
        assert_eq!(estimated_tokens("One, two  three."), 4.0);
        assert_eq!(estimated_tokens(" \u{1F349} -- \n"), 0.0);
    }

    #[test]
    fn an_opening_ends_after_its_last_word() {
        assert_eq!(opening("one  two three", 2), "one  two");
        assert_eq!(opening("one two", 2), "one two");
        assert_eq!(opening("one two", 9), "one two");
        assert_eq!(opening("", 3), "");
        assert_eq!(opening("été à Paris", 1), "été");
    }

    #[test]
    fn a_stem_matches_the_beginning_of_a_word_and_alternatives_any_of_them() {
        let text = Searchable::new("Rinse it twice, then simmer\u{2014}don\u{2019}t stir.");
        assert!(text.holds("rins"));
        assert!(text.holds("boil|simmer"));
        assert!(text.holds("don't"));
        assert!(text.holds("it twice"));
        assert!(!text.holds("immer"));
        assert!(!text.holds("boil"));
    }

    #[test]
    fn whole_words_and_signs_match_exactly() {
        let text = Searchable::new("It is 1989; use text[::-1] or <!-- this -->.");
        assert!(text.holds("=1989"));
        assert!(!text.holds("=198"));
        assert!(text.holds("[::-1]") && text.holds("<!--") && text.holds("-->"));
        assert!(!text.holds("[::-2]"));
    }

    #[test]
    fn phrases_are_counted_in_whole_words() {
        let text = Searchable::new("Maybe. It may, or it may not; in general it depends.");
        assert_eq!(text.count("may"), 2);
        assert_eq!(text.count("in general"), 1);
        assert_eq!(text.count("depend"), 0);
    }

    #[test]
    fn sentences_end_at_their_marks_and_lines_and_lose_the_marks_of_lists() {
        let text = "It costs 3.50 euros. \"Really?\" Yes!\n\n- One thing\n2. Another. And cut off";
        assert_eq!(
            sentences(text),
            [
                "It costs 3.50 euros.",
                "\"Really?\"",
                "Yes!",
                "One thing",
                "Another.",
                "And cut off"
            ]
        );
        assert_eq!(sentences(" \n -- \n"), Vec::<&str>::new());
        assert!(is_whole("(It is.)") && is_whole("\"Why?\"") && !is_whole("And cut off"));
    }

    #[test]
    fn only_marks_with_a_space_make_a_list() {
        let items: Vec<&str> = list_items(
            "- one\n  * two\n\u{2022} three\n10) four\n-5 degrees\n1945. A year\n**bold**\n- ",
        )
        .collect();
        assert_eq!(items, ["one", "two", "three", "four"]);
    }

    #[test]
    fn contractions_are_told_from_genitives() {
        assert!(
            ["don't", "it's", "we'll", "i'd"]
                .iter()
                .all(|w| is_contraction(w))
        );
        assert!(!["cat's", "its", "d"].iter().any(|w| is_contraction(w)));
    }

    #[test]
    fn a_loop_is_degenerate_and_an_answer_is_not() {
        assert!(is_degenerate(&"It is about being happy. ".repeat(3)));
        assert!(is_degenerate("no no no no no no"));
        assert!(!is_degenerate(&"It is about being happy. ".repeat(2)));
    }

    #[test]
    fn an_echo_says_nothing_that_the_question_did_not() {
        let question = "What is the boiling point of water in Celsius?";
        assert!(is_echo(question, question));
        assert!(is_echo(
            question,
            "The boiling point of water! What is the boiling point?"
        ));
        assert!(!is_echo(question, "Water boils at 100 degrees."));
        assert!(!is_echo("Is it safe?", "Yes, it is."));
        assert!(!is_echo(question, ""));
    }
}
