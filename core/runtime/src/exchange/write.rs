//! From the log to lines of other people's formats.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::parse::parse;
use super::{Exported, Format, Said};
use crate::curation::{Example, Kind, Options, curate};
use crate::types::{Feedback, LoggedFeedback, Message, Role};

/// Writes feedback in effect, one object a line, messages as TRL's conversational form has them.
///
/// - [`Format::Unpaired`] has each verdict by itself; an edit is good and what was edited is not, so is a pick, and of a ranking the best is
///   good and the last is not. For TRL's KTOTrainer.
/// - [`Format::Preference`] and [`Format::HhRlhf`] have pairs as they are learned from, edits over what was edited, and every better answer
///   of a ranking over every worse one. The first is for TRL's DPOTrainer.
/// - [`Format::ShareGpt`] has these, and what is liked on its own.
/// - The others have rankings, a pair being one of two.
///
/// # Errors
/// Of the writer.
pub fn export(
    log: &[LoggedFeedback],
    format: Format,
    out: &mut dyn Write,
) -> std::io::Result<Exported> {
    let mut exported = Exported::default();
    let mut write = |said: &Said| match line(format, said) {
        Some(line) => {
            exported.lines += 1;
            writeln!(out, "{}", Value::Object(line))
        }
        None => {
            exported.left_out += 1;
            Ok(())
        }
    };
    if format == Format::Unpaired {
        for said in log.iter().flat_map(verdicts) {
            write(&said)?;
        }
        return Ok(exported);
    }
    let options = Options {
        pairs_per_prompt: usize::MAX,
        edit_pairs: true,
        ..Options::default()
    };
    let examples = curate(log, &options).examples;
    for said in examples
        .iter()
        .filter_map(|example| said(example, &examples))
    {
        match said {
            Said::Ranked { prompt, answers } if !holds_rankings(format) => {
                for (i, better) in answers.iter().enumerate() {
                    for worse in &answers[i + 1..] {
                        write(&Said::Preferred {
                            prompt: prompt.clone(),
                            better: better.clone(),
                            worse: worse.clone(),
                        })?;
                    }
                }
            }
            said => write(&said)?,
        }
    }
    Ok(exported)
}

fn holds_rankings(format: Format) -> bool {
    matches!(
        format,
        Format::UltraFeedback | Format::Nectar | Format::Oasst | Format::Ranking
    )
}

/// What an example says; nothing where another one says it.
fn said(example: &Example, all: &[Example]) -> Option<Said> {
    let prompt = example.prompt.clone();
    let mut texts = example
        .kind
        .completions()
        .into_iter()
        .map(|c| c.text.clone());
    Some(match &example.kind {
        Kind::Pair { .. } => Said::Preferred {
            prompt,
            better: texts.next()?,
            worse: texts.next()?,
        },
        Kind::Ranking { .. } => Said::Ranked {
            prompt,
            answers: texts.collect(),
        },
        // A pair stands beside it, if there is a reply that was edited.
        Kind::Demonstration { .. } => {
            let beside = |other: &&Example| {
                other.prompt_key == example.prompt_key && matches!(other.kind, Kind::Pair { .. })
            };
            match all.iter().find(beside) {
                Some(_) => return None,
                None => Said::Judged {
                    prompt,
                    completion: texts.next()?,
                    liked: true,
                },
            }
        }
        Kind::Unpaired { desirable, .. } => Said::Judged {
            prompt,
            completion: texts.next()?,
            liked: *desirable,
        },
    })
}

/// What an event says of single replies.
fn verdicts(event: &LoggedFeedback) -> Vec<Said> {
    let text = event.reply.text.as_str();
    let verdicts = match &event.feedback {
        Feedback::Up => vec![(text, true)],
        Feedback::Down { .. } => vec![(text, false)],
        Feedback::Edit(edit) => vec![(edit.as_str(), true), (text, false)],
        Feedback::Prefer { .. } | Feedback::Rank { .. } => {
            let last = event.ranked.last().or(event.other.as_ref());
            let last = last.map(|last| (last.text.as_str(), false));
            [(text, true)].into_iter().chain(last).collect()
        }
        Feedback::Retry => Vec::new(),
    };
    let says = |(text, _): &(&str, bool)| !text.trim().is_empty();
    let judged = |(text, liked): (&str, bool)| Said::Judged {
        prompt: event.reply.prompt.clone(),
        completion: text.to_owned(),
        liked,
    };
    verdicts.into_iter().filter(says).map(judged).collect()
}

/// The line that says this, if the format has one: one that says the same when it is read.
fn line(format: Format, said: &Said) -> Option<Map<String, Value>> {
    let Value::Object(line) = encode(format, said)? else {
        return None;
    };
    match parse(format, &line).ok()?.as_slice() {
        [Ok(read)] if read == said => Some(line),
        _ => None,
    }
}

fn encode(format: Format, said: &Said) -> Option<Value> {
    let prompt = said.prompt();
    let answers = said.answers();
    let pair = match said {
        Said::Preferred { better, worse, .. } => Some((better, worse)),
        _ => None,
    };
    Some(match (format, said) {
        (Format::Preference, _) => {
            let (better, worse) = pair?;
            json!({ "prompt": prompt, "chosen": answer(better), "rejected": answer(worse) })
        }
        (
            Format::Unpaired,
            Said::Judged {
                completion, liked, ..
            },
        ) => {
            json!({ "prompt": prompt, "completion": answer(completion), "label": liked })
        }
        (Format::Unpaired, _) => return None,
        (
            Format::ShareGpt,
            Said::Judged {
                completion,
                liked: true,
                ..
            },
        ) => {
            let turns = prompt.iter().map(turn);
            let last = turn(&Message::assistant(completion));
            json!({ "conversations": turns.chain([last]).collect::<Vec<_>>() })
        }
        (Format::ShareGpt, _) => {
            let (better, worse) = pair?;
            json!({
                "conversations": prompt.iter().map(turn).collect::<Vec<_>>(),
                "chosen": turn(&Message::assistant(better)),
                "rejected": turn(&Message::assistant(worse)),
            })
        }
        (Format::HhRlhf, _) => {
            let (better, worse) = pair?;
            let before = transcript(prompt)?;
            let side = |text: &str| format!("{before}\n\nAssistant: {text}");
            json!({ "chosen": side(better), "rejected": side(worse) })
        }
        (_, Said::Judged { .. }) => return None,
        (Format::UltraFeedback, _) => {
            let [question] = prompt else { return None };
            let n = answers.len();
            let completions = answers.iter().enumerate().map(
                |(place, text)| json!({ "response": text, "overall_score": (n - place) as f64 }),
            );
            let completions: Vec<Value> = completions.collect();
            json!({ "instruction": question.content, "completions": completions })
        }
        (Format::Nectar, _) => {
            let ranked = (1..).zip(&answers);
            let ranked: Vec<Value> = ranked
                .map(|(rank, text)| json!({ "answer": text, "rank": rank }))
                .collect();
            json!({ "prompt": format!("{}\n\nAssistant: ", transcript(prompt)?), "answers": ranked })
        }
        (Format::Oasst, _) => {
            let node = |message: &Message, replies: Vec<Value>| {
                let role = match message.role {
                    Role::User => "prompter",
                    Role::Assistant => "assistant",
                    Role::System => return None,
                };
                Some(json!({ "text": message.content, "role": role, "replies": replies }))
            };
            let ranked = answers.iter().enumerate().map(
                |(rank, text)| json!({ "text": text, "role": "assistant", "rank": rank, "replies": [] }),
            );
            let mut replies: Vec<Value> = ranked.collect();
            for message in prompt.iter().rev() {
                replies = vec![node(message, replies)?];
            }
            json!({ "prompt": replies.pop()? })
        }
        (Format::Ranking, _) => {
            let ranked: Vec<_> = answers.iter().map(|text| answer(text)).collect();
            json!({ "prompt": prompt, "ranked": ranked })
        }
    })
}

fn answer(text: &str) -> [Message; 1] {
    [Message::assistant(text)]
}

/// A turn as ShareGPT has it.
fn turn(message: &Message) -> Value {
    let from = match message.role {
        Role::System => "system",
        Role::User => "human",
        Role::Assistant => "gpt",
    };
    json!({ "from": from, "value": message.content })
}

/// Turns as HH-RLHF has them; none where one is of neither side.
fn transcript(prompt: &[Message]) -> Option<String> {
    let turn = |message: &Message| {
        let speaker = match message.role {
            Role::User => "Human",
            Role::Assistant => "Assistant",
            Role::System => return None,
        };
        Some(format!("\n\n{speaker}: {}", message.content))
    };
    prompt.iter().map(turn).collect()
}
