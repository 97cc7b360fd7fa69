//! What the guards look for in a reply's text.

use std::collections::HashMap;

/// Length of the runs of words that [`repeats`] counts.
const RUN: usize = 4;
/// A run that occurs this often makes a reply repetitive.
const TIMES: usize = 3;
/// A reply this much of whose words stand in the question may be an echo.
const ECHO_SHARE: f64 = 0.8;
/// From this many letters on, a word that the question does not have is an answer.
const CONTENT_LETTERS: usize = 4;

/// Whether some run of four words occurs three times or more. Case and punctuation do not count; overlapping runs do, so
/// one word six times over is a repetition.
pub fn repeats(reply: &str) -> bool {
    let words = words(reply);
    let mut seen: HashMap<&[String], usize> = HashMap::new();
    words.windows(RUN).any(|run| {
        let times = seen.entry(run).or_default();
        *times += 1;
        *times >= TIMES
    })
}

/// Whether the reply only gives the question back: at least four fifths of its distinct words stand in the question, and
/// the rest holds neither a number nor a word of four letters or more (so "The capital of France is Paris." is none). An
/// empty reply is not an echo.
pub fn echoes(question: &str, reply: &str) -> bool {
    let question = words(question);
    let mut reply = words(reply);
    reply.sort();
    reply.dedup();
    let (shared, new): (Vec<_>, Vec<_>) = reply.iter().partition(|word| question.contains(word));
    let answers = |word: &str| {
        word.chars().count() >= CONTENT_LETTERS || word.contains(|c: char| c.is_numeric())
    };
    !reply.is_empty()
        && shared.len() as f64 >= ECHO_SHARE * reply.len() as f64
        && !new.into_iter().any(|word| answers(word))
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_four_words_three_times_is_a_repetition_and_twice_is_not() {
        let line = "It is about being happy. ";
        assert!(!repeats(&line.repeat(2)));
        assert!(repeats(&line.repeat(3)));
        assert!(repeats("no no no no no no"));
        assert!(!repeats("no no no no no"));
        assert!(!repeats(""));
    }

    #[test]
    fn repetition_ignores_case_and_punctuation() {
        assert!(repeats("Go to the shop. go to THE shop! Go, to the shop"));
    }

    #[test]
    fn a_question_given_back_is_an_echo_and_an_answer_is_not() {
        let question = "Why do cats purr?";
        assert!(echoes(question, "Why do cats purr?"));
        assert!(echoes(question, "Cats do purr. Why do cats purr so?"));
        assert!(!echoes(question, "Cats purr when they are content."));
        assert!(!echoes(question, ""));
        assert!(!echoes(
            "When did the wall fall?",
            "The wall did fall in 1989."
        ));
        let question = "What is the capital of France?";
        assert!(!echoes(question, "The capital of France is Paris."));
    }
}
