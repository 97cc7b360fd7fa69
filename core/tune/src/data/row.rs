//! From a line to a row.

use serde_json::{Map, Value};

use super::{ChatMessage, PreferenceRow, Problem, RankingRow, Text};

/// Fields of a row that TRL hands to the template or the processor.
const RENDERED_BY_TRL: [&str; 5] = ["tools", "chat_template_kwargs", "image", "images", "videos"];

pub(super) fn object(line: &[u8]) -> Result<Map<String, Value>, Problem> {
    // Into a `Value`, whose errors are about syntax: those of typed parsing would quote the text.
    let value: Value = serde_json::from_slice(line).map_err(|e| Problem::Json(e.to_string()))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Problem::Json("the line is not an object".to_owned())),
    }
}

pub(super) fn parse(fields: &Map<String, Value>) -> Result<PreferenceRow, Problem> {
    refuse_unsupported(fields)?;
    let chosen = required(fields, "chosen")?;
    let rejected = required(fields, "rejected")?;
    let prompt = optional(fields, "prompt")?;
    let row = match (prompt, chosen, rejected) {
        (Some(prompt @ Text::Plain(_)), chosen @ Text::Plain(_), rejected @ Text::Plain(_))
        | (Some(prompt @ Text::Chat(_)), chosen @ Text::Chat(_), rejected @ Text::Chat(_)) => {
            PreferenceRow {
                prompt,
                chosen,
                rejected,
            }
        }
        (None, Text::Plain(chosen), Text::Plain(rejected)) => split_plain(chosen, &rejected)?,
        // A string beside conversations repeats their first message (as in ultrafeedback_binarized).
        (None | Some(Text::Plain(_)), Text::Chat(chosen), Text::Chat(rejected)) => {
            split_chat(chosen, rejected)?
        }
        (Some(Text::Chat(_)), Text::Plain(_), Text::Plain(_)) => {
            return Err(wrong_kind(
                "prompt",
                "a string, as `chosen` and `rejected` are",
            ));
        }
        (_, Text::Plain(_), Text::Chat(_)) => {
            return Err(wrong_kind("rejected", "a string, as `chosen` is"));
        }
        (_, Text::Chat(_), Text::Plain(_)) => {
            return Err(wrong_kind("rejected", "a list of messages, as `chosen` is"));
        }
    };
    check(row)
}

pub(super) fn parse_ranking(fields: &Map<String, Value>) -> Result<RankingRow, Problem> {
    const LIST: &str = "ranked";
    if !fields.contains_key(LIST) && fields.contains_key("chosen") {
        let PreferenceRow {
            prompt,
            chosen,
            rejected,
        } = parse(fields)?;
        let ranked = vec![chosen, rejected];
        return Ok(RankingRow { prompt, ranked });
    }
    refuse_unsupported(fields)?;
    let prompt = required(fields, "prompt")?;
    if is_empty(&prompt) {
        return Err(Problem::Empty("prompt".to_owned()));
    }
    let items = match fields.get(LIST) {
        Some(Value::Array(items)) => items,
        None => return Err(Problem::Missing(LIST.to_owned())),
        Some(_) => return Err(wrong_kind(LIST, "a list of answers, the best first")),
    };
    if items.len() < 2 {
        return Err(Problem::TooFew(LIST));
    }
    let mut ranked: Vec<Text> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let at = format!("{LIST}[{i}]");
        let answer = text(item, &at)?;
        check_answer(&answer, &at)?;
        match (&prompt, &answer) {
            (Text::Plain(_), Text::Plain(_)) | (Text::Chat(_), Text::Chat(_)) => {}
            (Text::Plain(_), _) => return Err(wrong_kind(at, "a string, as `prompt` is")),
            (Text::Chat(_), _) => {
                return Err(wrong_kind(at, "a list of messages, as `prompt` is"));
            }
        }
        if ranked.contains(&answer) {
            return Err(Problem::Repeated(LIST));
        }
        ranked.push(answer);
    }
    Ok(RankingRow { prompt, ranked })
}

fn refuse_unsupported(fields: &Map<String, Value>) -> Result<(), Problem> {
    let unsupported = RENDERED_BY_TRL
        .into_iter()
        .find(|f| fields.get(*f).is_some_and(says_something));
    match unsupported {
        Some(field) => Err(Problem::Unsupported(field.to_owned())),
        None => Ok(()),
    }
}

fn check(row: PreferenceRow) -> Result<PreferenceRow, Problem> {
    if is_empty(&row.prompt) {
        return Err(Problem::Empty("prompt".to_owned()));
    }
    check_answer(&row.chosen, "chosen")?;
    check_answer(&row.rejected, "rejected")?;
    if row.chosen == row.rejected {
        return Err(Problem::Identical);
    }
    Ok(row)
}

/// An answer says something, and is the assistant's.
fn check_answer(answer: &Text, field: &str) -> Result<(), Problem> {
    if is_empty(answer) {
        return Err(Problem::Empty(field.to_owned()));
    }
    let Text::Chat(messages) = answer else {
        return Ok(());
    };
    match messages.last() {
        Some(last) if last.role == "assistant" && last.content.trim().is_empty() => {
            let at = messages.len() - 1;
            Err(Problem::Empty(format!("{field}[{at}].content")))
        }
        Some(last) if last.role == "assistant" => Ok(()),
        _ => Err(Problem::NotAnAnswer(field.to_owned())),
    }
}

/// The common first messages become the prompt. As TRL: where one side is the beginning of the other, the shorter side keeps its
/// last message.
fn split_chat(
    mut chosen: Vec<ChatMessage>,
    mut rejected: Vec<ChatMessage>,
) -> Result<PreferenceRow, Problem> {
    let n = split_point(chosen.iter(), rejected.iter())?;
    let chosen_answer = chosen.split_off(n);
    let rejected_answer = rejected.split_off(n);
    Ok(PreferenceRow {
        prompt: Text::Chat(chosen),
        chosen: Text::Chat(chosen_answer),
        rejected: Text::Chat(rejected_answer),
    })
}

/// The common first characters become the prompt, less a space at their end. As TRL.
fn split_plain(chosen: String, rejected: &str) -> Result<PreferenceRow, Problem> {
    let n = split_point(chosen.chars(), rejected.chars())?;
    let mut at: usize = chosen.chars().take(n).map(char::len_utf8).sum();
    if chosen[..at].ends_with(' ') {
        at -= 1;
    }
    Ok(PreferenceRow {
        prompt: Text::Plain(chosen[..at].to_owned()),
        chosen: Text::Plain(chosen[at..].to_owned()),
        rejected: Text::Plain(rejected[at..].to_owned()),
    })
}

/// How many items the two sides begin with in common, each side keeping at least one.
fn split_point<T: PartialEq>(
    chosen: impl Iterator<Item = T> + Clone,
    rejected: impl Iterator<Item = T> + Clone,
) -> Result<usize, Problem> {
    if chosen.clone().eq(rejected.clone()) {
        return Err(Problem::Identical);
    }
    let shorter = chosen.clone().count().min(rejected.clone().count());
    let common = chosen.zip(rejected).take_while(|(c, r)| c == r).count();
    match common.min(shorter.saturating_sub(1)) {
        0 => Err(Problem::NoCommonPrefix),
        n => Ok(n),
    }
}

pub(super) fn required(fields: &Map<String, Value>, name: &'static str) -> Result<Text, Problem> {
    optional(fields, name)?.ok_or_else(|| Problem::Missing(name.to_owned()))
}

pub(super) fn optional(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<Text>, Problem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => text(value, name).map(Some),
    }
}

fn text(value: &Value, at: &str) -> Result<Text, Problem> {
    match value {
        Value::String(s) => Ok(Text::Plain(s.clone())),
        Value::Array(items) => {
            let messages = items
                .iter()
                .enumerate()
                .map(|(i, item)| message(item, &format!("{at}[{i}]")));
            Ok(Text::Chat(messages.collect::<Result<_, _>>()?))
        }
        _ => Err(wrong_kind(at, "a string or a list of messages")),
    }
}

fn message(item: &Value, at: &str) -> Result<ChatMessage, Problem> {
    let Value::Object(fields) = item else {
        return Err(wrong_kind(at, "a message with `role` and `content`"));
    };
    if let Some(calls) = ["tool_calls", "function_call"]
        .into_iter()
        .find(|f| fields.get(*f).is_some_and(says_something))
    {
        return Err(Problem::Unsupported(format!("{at}.{calls}")));
    }
    let string = |name: &str| match fields.get(name) {
        Some(Value::String(s)) => Ok(s.clone()),
        None => Err(Problem::Missing(format!("{at}.{name}"))),
        Some(_) => Err(wrong_kind(format!("{at}.{name}"), "a string")),
    };
    Ok(ChatMessage {
        role: string("role")?,
        content: string("content")?,
    })
}

fn is_empty(text: &Text) -> bool {
    match text {
        Text::Plain(s) => s.trim().is_empty(),
        Text::Chat(messages) => messages.iter().all(|m| m.content.trim().is_empty()),
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

fn wrong_kind(field: impl Into<String>, expected: &'static str) -> Problem {
    Problem::WrongKind {
        field: field.into(),
        expected,
    }
}
