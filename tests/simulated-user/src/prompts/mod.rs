//! Everyday questions, each with what a good answer would mention, written down before any reply was seen by a model in
//! training.
//!
//! A keyword is a list of alternatives, `a|b|c`: any of them counts, once. `=word` matches a whole word, one with signs
//! (`<!--`) anywhere, any other the beginning of a word or of a few words; all in lower case. None of them stands in its
//! own question, so that giving the question back recalls nothing. A few held-out questions are not in English.

mod held_out;
mod training;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What the person types.
    pub text: &'static str,
    /// Three to five points of a good answer, each with its alternatives.
    pub keywords: &'static [&'static str],
}

/// Questions asked while teaching: 75, topics mixed, so that the first forty hold all of them.
pub fn training() -> &'static [Prompt] {
    training::TRAINING
}

/// Questions for blind votes and the report: 100, none of them taught on.
pub fn held_out() -> &'static [Prompt] {
    held_out::HELD_OUT
}

/// The prompt with this text, from either list.
pub fn find(text: &str) -> Option<&'static Prompt> {
    training()
        .iter()
        .chain(held_out())
        .find(|prompt| prompt.text == text)
}

const fn prompt(text: &'static str, keywords: &'static [&'static str]) -> Prompt {
    Prompt { text, keywords }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::taste::keyword_recall;
    use crate::text::content_stems;

    fn all() -> impl Iterator<Item = &'static Prompt> {
        training().iter().chain(held_out())
    }

    #[test]
    fn there_are_a_hundred_held_out_questions_and_75_to_teach_on() {
        assert_eq!((training().len(), held_out().len()), (75, 100));
    }

    #[test]
    fn no_question_is_near_another() {
        let asked: Vec<(&str, HashSet<String>)> = all()
            .map(|prompt| (prompt.text, content_stems(prompt.text)))
            .collect();
        for (i, (one, stems)) in asked.iter().enumerate() {
            assert!(!stems.is_empty(), "{one}");
            for (other, others) in &asked[i + 1..] {
                let shared = stems.intersection(others).count() as f64;
                let jaccard = shared / stems.union(others).count() as f64;
                assert!(jaccard < 0.5, "{jaccard:.2}: {one} / {other}");
            }
        }
    }

    #[test]
    fn every_question_has_three_to_six_keywords_and_holds_none_of_them() {
        for prompt in all() {
            assert!((3..=6).contains(&prompt.keywords.len()), "{prompt:?}");
            assert_eq!(keyword_recall(prompt, prompt.text), 0.0, "{prompt:?}");
            for keyword in prompt.keywords {
                assert_eq!(*keyword, keyword.to_lowercase(), "{prompt:?}");
                assert!(
                    keyword
                        .split('|')
                        .all(|stem| stem.trim_matches('=').len() > 1 || stem.starts_with('='))
                );
            }
        }
    }

    #[test]
    fn every_keyword_can_be_found_through_each_of_its_alternatives() {
        for prompt in all() {
            for keyword in prompt.keywords {
                for stem in keyword.split('|') {
                    let reply = format!("Well, {} then.", stem.trim_start_matches('='));
                    assert!(keyword_recall(prompt, &reply) > 0.0, "{stem} of {prompt:?}");
                }
            }
        }
    }
}
