//! From lines of other people's formats to what they say.

use serde_json::{Map, Value};
use thumbprint_tune::data::{ChatMessage, PreferenceRow, Problem, RankingRow, Text};

use super::{Format, Passed, Said};
use crate::types::{Message, Role};

type Fields = Map<String, Value>;

/// What a row says, or why it says nothing.
pub(super) type Row = Result<Said, Passed>;

/// What a line says.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(format: Format, fields: &Fields) -> Result<Vec<Row>, Problem> {
    match format {
        Format::Preference => preference(fields).map(|row| vec![row]),
        Format::Unpaired => unpaired(fields).map(|row| vec![row]),
        Format::ShareGpt => share_gpt(fields).map(|row| vec![row]),
        Format::HhRlhf => hh_rlhf(fields).map(|row| vec![row]),
        Format::UltraFeedback => ultra_feedback(fields),
        Format::Nectar => nectar(fields),
        Format::Oasst => oasst(fields),
        Format::Ranking => ranking(fields),
    }
}

fn preference(fields: &Fields) -> Result<Row, Problem> {
    let (prompt, better, worse) = comparison(fields)?;
    Ok(Ok(Said::Preferred {
        prompt,
        better,
        worse,
    }))
}

/// A prompt with the better and the worse of two answers, in TRL's preference form.
pub(crate) fn comparison(fields: &Fields) -> Result<(Vec<Message>, String, String), Problem> {
    let row = PreferenceRow::from_fields(fields)?;
    let prompt = prompt_of(row.prompt, "prompt")?;
    let (chosen, rejected) = (
        answer_of(row.chosen, "chosen")?,
        answer_of(row.rejected, "rejected")?,
    );
    Ok((prompt, chosen, rejected))
}

fn unpaired(fields: &Fields) -> Result<Row, Problem> {
    let prompt = prompt_of(Text::from_field(fields, "prompt")?, "prompt")?;
    let completion = answer_of(Text::from_field(fields, "completion")?, "completion")?;
    let liked = match fields.get("label") {
        Some(Value::Bool(label)) => *label,
        None => return Err(Problem::Missing("label".to_owned())),
        Some(_) => return Err(wrong_kind("label", "true or false")),
    };
    Ok(Ok(Said::Judged {
        prompt,
        completion,
        liked,
    }))
}

fn share_gpt(fields: &Fields) -> Result<Row, Problem> {
    let mut messages = Vec::new();
    for (i, turn) in array(fields, "conversations")?.iter().enumerate() {
        let (role, content) = share_gpt_turn(turn, &format!("conversations[{i}]"))?;
        messages.push(message(
            &role,
            content,
            &format!("conversations[{i}].from"),
        )?);
    }
    if let (Some(chosen), Some(rejected)) = (fields.get("chosen"), fields.get("rejected")) {
        return Ok(Ok(Said::Preferred {
            prompt: messages,
            better: share_gpt_turn(chosen, "chosen")?.1,
            worse: share_gpt_turn(rejected, "rejected")?.1,
        }));
    }
    match messages.pop() {
        Some(Message {
            role: Role::Assistant,
            content,
        }) => Ok(Ok(Said::Judged {
            prompt: messages,
            completion: content,
            liked: true,
        })),
        _ => Err(Problem::NotAnAnswer("conversations".to_owned())),
    }
}

fn share_gpt_turn(turn: &Value, at: &str) -> Result<(String, String), Problem> {
    let Value::Object(fields) = turn else {
        return Err(wrong_kind(at, "a turn with `from` and `value`"));
    };
    Ok((string(fields, "from", at)?, string(fields, "value", at)?))
}

fn hh_rlhf(fields: &Fields) -> Result<Row, Problem> {
    let side = |name: &'static str| {
        let mut turns = transcript(&string(fields, name, "")?, name)?;
        match turns.pop() {
            Some(Message {
                role: Role::Assistant,
                content,
            }) => Ok((turns, content)),
            _ => Err(Problem::NotAnAnswer(name.to_owned())),
        }
    };
    let ((prompt, better), (other_prompt, worse)) = (side("chosen")?, side("rejected")?);
    if prompt != other_prompt {
        return Ok(Err(Passed::OtherPrompt));
    }
    Ok(Ok(Said::Preferred {
        prompt,
        better,
        worse,
    }))
}

fn ultra_feedback(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let prompt = vec![Message::user(string(fields, "instruction", "")?)];
    let rated = rated(fields, "completions", "response", "overall_score")?;
    Ok(ranked(&prompt, &rated))
}

fn nectar(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let mut prompt = transcript(&string(fields, "prompt", "")?, "prompt")?;
    // The transcript ends where the answer begins.
    if let Some(last) = prompt.last()
        && last.role == Role::Assistant
        && last.content.is_empty()
    {
        prompt.pop();
    }
    let mut rated = rated(fields, "answers", "answer", "rank")?;
    // The first rank is the best.
    rated.iter_mut().for_each(|(_, rank)| *rank = -*rank);
    Ok(ranked(&prompt, &rated))
}

fn ranking(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let row = RankingRow::from_fields(fields)?;
    let prompt = prompt_of(row.prompt, "prompt")?;
    let mut rated = Vec::with_capacity(row.ranked.len());
    for (place, answer) in row.ranked.into_iter().enumerate() {
        rated.push((
            answer_of(answer, &format!("ranked[{place}]"))?,
            -(place as f64),
        ));
    }
    Ok(ranked(&prompt, &rated))
}

fn oasst(fields: &Fields) -> Result<Vec<Row>, Problem> {
    let Some(Value::Object(root)) = fields.get("prompt") else {
        return Err(wrong_kind("prompt", "a message with `replies`"));
    };
    let mut rows = Vec::new();
    // Nodes that are yet to be looked at, each with the turns before it.
    let mut nodes = vec![(root, Vec::new(), "prompt".to_owned())];
    while let Some((node, mut turns, at)) = nodes.pop() {
        let role = match string(node, "role", &at)?.as_str() {
            "prompter" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                return Err(wrong_kind(
                    format!("{at}.role"),
                    "`prompter` or `assistant`",
                ));
            }
        };
        let content = string(node, "text", &at)?;
        turns.push(Message { role, content });
        let replies: &[Value] = match node.get("replies") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(replies)) => replies,
            Some(_) => return Err(wrong_kind(format!("{at}.replies"), "a list")),
        };
        let mut rated = Vec::new();
        for (i, reply) in replies.iter().enumerate() {
            let at = format!("{at}.replies[{i}]");
            let Value::Object(reply) = reply else {
                return Err(wrong_kind(at, "a message"));
            };
            if let (Role::User, Some(rank)) = (role, reply.get("rank").and_then(Value::as_f64)) {
                rated.push((string(reply, "text", &at)?, -rank));
            }
            nodes.push((reply, turns.clone(), at));
        }
        rows.extend(ranked(&turns, &rated));
    }
    Ok(rows)
}

/// A ranking, if no two answers were rated alike; else every better one over every worse one. The best first.
fn ranked(prompt: &[Message], rated: &[(String, f64)]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rated: Vec<&(String, f64)> = rated.iter().collect();
    rated.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut answers: Vec<(&str, f64)> = Vec::new();
    for (text, rate) in rated {
        let same = |(before, _): &(&str, f64)| before.trim() == text.trim();
        if text.trim().is_empty() {
            rows.push(Err(Passed::Empty));
        } else if answers.iter().any(same) {
            rows.push(Err(Passed::Tie));
        } else {
            answers.push((text, *rate));
        }
    }
    let alike = answers.windows(2).any(|pair| pair[0].1 == pair[1].1);
    if answers.len() > 2 && !alike {
        rows.push(Ok(Said::Ranked {
            prompt: prompt.to_vec(),
            answers: answers.iter().map(|(text, _)| (*text).to_owned()).collect(),
        }));
        return rows;
    }
    for (i, (better, high)) in answers.iter().enumerate() {
        for (worse, low) in &answers[i + 1..] {
            rows.push(match high > low {
                true => Ok(Said::Preferred {
                    prompt: prompt.to_vec(),
                    better: (*better).to_owned(),
                    worse: (*worse).to_owned(),
                }),
                false => Err(Passed::Tie),
            });
        }
    }
    rows
}

fn rated(
    fields: &Fields,
    list: &str,
    text: &str,
    number: &str,
) -> Result<Vec<(String, f64)>, Problem> {
    let mut rated = Vec::new();
    for (i, item) in array(fields, list)?.iter().enumerate() {
        let at = format!("{list}[{i}]");
        let Value::Object(item) = item else {
            return Err(wrong_kind(at, "an object"));
        };
        let value = match item.get(number) {
            // UltraFeedback leaves some unrated.
            None | Some(Value::Null) => continue,
            Some(value) => value.as_f64(),
        };
        let value = value.ok_or_else(|| wrong_kind(format!("{at}.{number}"), "a number"))?;
        rated.push((string(item, text, &at)?, value));
    }
    Ok(rated)
}

/// `\n\nHuman: ...\n\nAssistant: ...` as turns.
fn transcript(text: &str, field: &str) -> Result<Vec<Message>, Problem> {
    const SPEAKERS: [(&str, Role); 2] = [("Human:", Role::User), ("Assistant:", Role::Assistant)];
    let speaker = |part: &str| {
        SPEAKERS
            .iter()
            .find_map(|(name, role)| Some((*role, part.strip_prefix(name)?.to_owned())))
    };
    let mut turns: Vec<Message> = Vec::new();
    for part in text.trim_start().split("\n\n") {
        match (speaker(part), turns.last_mut()) {
            (Some((role, content)), _) => turns.push(Message { role, content }),
            (None, Some(turn)) => {
                turn.content.push_str("\n\n");
                turn.content.push_str(part);
            }
            (None, None) => {
                return Err(wrong_kind(field, "a transcript that begins with `Human:`"));
            }
        }
    }
    for turn in &mut turns {
        turn.content = turn.content.trim().to_owned();
    }
    Ok(turns)
}

fn prompt_of(text: Text, field: &str) -> Result<Vec<Message>, Problem> {
    match text {
        Text::Plain(text) => Ok(vec![Message::user(text)]),
        Text::Chat(messages) => messages
            .into_iter()
            .enumerate()
            .map(|(i, ChatMessage { role, content })| {
                message(&role, content, &format!("{field}[{i}].role"))
            })
            .collect(),
    }
}

fn answer_of(text: Text, field: &str) -> Result<String, Problem> {
    match text {
        Text::Plain(text) => Ok(text),
        Text::Chat(mut messages) => match (messages.pop(), messages.is_empty()) {
            (Some(last), true) if last.role == "assistant" => Ok(last.content),
            (Some(_), true) | (None, _) => Err(Problem::NotAnAnswer(field.to_owned())),
            (Some(_), false) => Err(Problem::Other(format!(
                "field `{field}` has several turns: only one answer can be judged; move the others into `prompt`"
            ))),
        },
    }
}

fn message(role: &str, content: String, at: &str) -> Result<Message, Problem> {
    let role = match role {
        "system" | "developer" => Role::System,
        "user" | "human" | "prompter" => Role::User,
        "assistant" | "gpt" | "model" | "chatgpt" => Role::Assistant,
        _ => {
            return Err(wrong_kind(
                at,
                "system, user or assistant, or their names in ShareGPT",
            ));
        }
    };
    Ok(Message { role, content })
}

fn array<'a>(fields: &'a Fields, name: &str) -> Result<&'a [Value], Problem> {
    match fields.get(name) {
        Some(Value::Array(items)) => Ok(items),
        None => Err(Problem::Missing(name.to_owned())),
        Some(_) => Err(wrong_kind(name, "a list")),
    }
}

fn string(fields: &Fields, name: &str, at: &str) -> Result<String, Problem> {
    let path = match at {
        "" => name.to_owned(),
        at => format!("{at}.{name}"),
    };
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(Problem::Missing(path)),
        Some(_) => Err(wrong_kind(path, "a string")),
    }
}

fn wrong_kind(field: impl Into<String>, expected: &'static str) -> Problem {
    Problem::WrongKind {
        field: field.into(),
        expected,
    }
}
