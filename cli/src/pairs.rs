//! A file of preferences or rankings as tokens.
//!
//! Two preparations differ in where a completion ends. Ours: the text, then the token that ends a turn (or a sequence, for plain
//! text). TRL's: whatever the chat template writes, tokenized together with the prompt; for ChatML that is a newline more.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use thumbprint::engine::{Chat, EngineError};
use thumbprint::exchange::{Filters, Format, Reader, Said};
use thumbprint::types::{Message, Role};
use thumbprint_ggml::llama::Token;
use thumbprint_tune::data::{
    ChatMessage, DataError, JsonLines, PreferenceReader, Problem, RankingRow, Text,
};

use crate::error::{CliError, Result};

/// Where completions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// After the end token.
    EndToken,
    /// As TRL's trainers prepare the same row.
    Trl,
}

/// One row as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The line that it came from, 1-based.
    pub line: usize,
    /// Never empty.
    pub prompt: Vec<Token>,
    /// Two at least, the better ones first; never empty, all different.
    pub completions: Vec<Vec<Token>>,
}

impl Row {
    /// The first completion.
    pub fn chosen(&self) -> &[Token] {
        self.completions.first().map_or(&[], Vec::as_slice)
    }

    /// The last one.
    pub fn rejected(&self) -> &[Token] {
        self.completions.last().map_or(&[], Vec::as_slice)
    }

    /// Tokens of the prompt with its longest completion.
    pub fn length(&self) -> usize {
        let longest = self.completions.iter().map(Vec::len).max();
        self.prompt.len() + longest.unwrap_or(0)
    }
}

/// A whole file.
#[derive(Debug)]
pub struct Rows {
    /// The file.
    pub path: PathBuf,
    /// Its rows, in order.
    pub rows: Vec<Row>,
    /// Completions whose tokens, prompt included, do not begin with the prompt's own (TRL's preparation only; TRL warns of them).
    pub n_merged: usize,
    /// Answers of rankings that were passed over: empty, or rated like another one.
    pub n_passed: u64,
}

impl Rows {
    /// Reads and tokenizes a file of TRL's preference format: pairs.
    ///
    /// # Errors
    /// The first line that cannot be used, or a file without rows.
    pub fn pairs(path: &Path, chat: &Chat, preparation: Preparation) -> Result<Self> {
        Self::from_reader(path, PreferenceReader::open(path)?, chat, preparation)
    }

    /// The same from rows that are being read; `path` is what errors call their file.
    ///
    /// # Errors
    /// As [`pairs`](Self::pairs).
    pub fn from_reader<R: BufRead>(
        path: &Path,
        mut rows: PreferenceReader<R>,
        chat: &Chat,
        preparation: Preparation,
    ) -> Result<Self> {
        let mut all = Self::none(path);
        while let Some(row) = rows.next() {
            let row = row?;
            let sides = [
                ("chosen".to_owned(), row.chosen),
                ("rejected".to_owned(), row.rejected),
            ];
            all.push(rows.line(), &row.prompt, &sides, chat, preparation)?;
        }
        all.not_empty()
    }

    /// Reads and tokenizes a file of rankings: of our own form, or of one that `import` reads. Pairs are rankings of two.
    ///
    /// # Errors
    /// The first line that cannot be used, or a file without rows.
    pub fn rankings(path: &Path, chat: &Chat, preparation: Preparation) -> Result<Self> {
        let first = JsonLines::open(path)?.next().transpose()?;
        let format = first.as_ref().and_then(Format::of_line);
        let mut all = Self::none(path);
        if let Some(Format::UltraFeedback | Format::Nectar | Format::Oasst) = format {
            let mut reader = Reader::open(path, format, Filters::default())?;
            while let Some(said) = reader.next() {
                let (prompt, answers) = match said? {
                    Said::Ranked { prompt, answers } => (prompt, answers),
                    Said::Preferred {
                        prompt,
                        better,
                        worse,
                    } => (prompt, vec![better, worse]),
                    Said::Judged { .. } => continue,
                };
                let ranked = answers
                    .into_iter()
                    .map(|answer| Text::Chat(vec![chat_message(Message::assistant(answer))]));
                let prompt = Text::Chat(prompt.into_iter().map(chat_message).collect());
                let ranked = named(ranked);
                all.push(reader.line(), &prompt, &ranked, chat, preparation)?;
            }
            all.n_passed = reader.counts().passed.values().sum();
            return all.not_empty();
        }
        let mut lines = JsonLines::open(path)?;
        while let Some(fields) = lines.next() {
            let row = RankingRow::from_fields(&fields?).map_err(|problem| lines.error(problem))?;
            let ranked = named(row.ranked);
            all.push(lines.line(), &row.prompt, &ranked, chat, preparation)?;
        }
        all.not_empty()
    }

    /// An error about a line of this file.
    pub fn error(&self, line: usize, problem: impl Into<String>) -> CliError {
        CliError::Line {
            path: self.path.clone(),
            line,
            problem: problem.into(),
        }
    }

    fn none(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            rows: Vec::new(),
            n_merged: 0,
            n_passed: 0,
        }
    }

    fn not_empty(self) -> Result<Self> {
        if !self.rows.is_empty() {
            return Ok(self);
        }
        Err(DataError {
            path: self.path,
            line: 0,
            problem: Problem::NoRows,
        }
        .into())
    }

    /// Adds a row; `answers` have the names of their fields.
    fn push(
        &mut self,
        line: usize,
        prompt: &Text,
        answers: &[(String, Text)],
        chat: &Chat,
        preparation: Preparation,
    ) -> Result<()> {
        let tokenizer = Tokenizer { chat, preparation };
        let mut row = Row {
            line,
            prompt: Vec::new(),
            completions: Vec::with_capacity(answers.len()),
        };
        for (name, answer) in answers {
            let side = tokenizer.side(prompt, answer);
            let side = side.map_err(|problem| self.error(line, problem))?;
            self.n_merged += usize::from(side.is_merged);
            if side.completion.is_empty() {
                let problem = format!("field `{name}` has no tokens after the prompt's");
                return Err(self.error(line, problem));
            }
            if let Some(at) = row.completions.iter().position(|c| *c == side.completion) {
                let problem = format!(
                    "fields `{}` and `{name}` have the same tokens, so that nothing is preferred",
                    answers[at].0
                );
                return Err(self.error(line, problem));
            }
            row.prompt = side.prompt;
            row.completions.push(side.completion);
        }
        if row.prompt.is_empty() {
            return Err(self.error(line, "field `prompt` has no tokens"));
        }
        self.rows.push(row);
        Ok(())
    }
}

fn named(ranked: impl IntoIterator<Item = Text>) -> Vec<(String, Text)> {
    let ranked = ranked.into_iter().enumerate();
    ranked
        .map(|(at, answer)| (format!("ranked[{at}]"), answer))
        .collect()
}

fn chat_message(message: Message) -> ChatMessage {
    ChatMessage {
        role: message.role.as_str().to_owned(),
        content: message.content,
    }
}

struct Side {
    prompt: Vec<Token>,
    completion: Vec<Token>,
    is_merged: bool,
}

struct Tokenizer<'a> {
    chat: &'a Chat,
    preparation: Preparation,
}

impl Tokenizer<'_> {
    fn side(&self, prompt: &Text, completion: &Text) -> std::result::Result<Side, String> {
        match (prompt, completion) {
            (Text::Chat(prompt), Text::Chat(completion)) => self.conversation(prompt, completion),
            (Text::Plain(prompt), Text::Plain(completion)) => self
                .plain(prompt, completion)
                .map_err(|error| error.to_string()),
            _ => Err(
                "the prompt and its completions must all be text, or all conversations".to_owned(),
            ),
        }
    }

    fn conversation(
        &self,
        prompt: &[ChatMessage],
        completion: &[ChatMessage],
    ) -> std::result::Result<Side, String> {
        if prompt
            .last()
            .is_some_and(|message| message.role == "assistant")
        {
            return Err(
                "field `prompt` ends with an assistant message: going on in one is not supported"
                    .to_owned(),
            );
        }
        let (prompt, turns) = (messages(prompt)?, messages(completion)?);
        let as_text = |error: EngineError| error.to_string();
        match (self.preparation, turns.as_slice()) {
            (Preparation::EndToken, [answer]) => Ok(Side {
                prompt: self.chat.prompt_tokens(&prompt).map_err(as_text)?,
                completion: self
                    .chat
                    .completion_tokens(&answer.content)
                    .map_err(as_text)?,
                is_merged: false,
            }),
            (Preparation::EndToken, turns) => {
                let mut side = self.rendered(&prompt, turns).map_err(as_text)?;
                let last = side
                    .completion
                    .iter()
                    .rposition(|token| Some(*token) == self.chat.end_of_turn());
                if let Some(last) = last {
                    side.completion.truncate(last + 1);
                }
                side.prompt = self.chat.prompt_tokens(&prompt).map_err(as_text)?;
                Ok(side)
            }
            (Preparation::Trl, turns) => self.rendered(&prompt, turns).map_err(as_text),
        }
    }

    /// The template's text up to where the assistant begins, and with the completion; the difference in tokens.
    fn rendered(&self, prompt: &[Message], turns: &[Message]) -> thumbprint::engine::Result<Side> {
        let template = self.chat.template();
        let before = self.tokens(&template.render(prompt, true)?, true)?;
        let whole = template.render(&[prompt, turns].concat(), false)?;
        Ok(split(before, self.tokens(&whole, true)?))
    }

    fn plain(&self, prompt: &str, completion: &str) -> thumbprint::engine::Result<Side> {
        let model = self.chat.model();
        let bos = model.bos().filter(|_| model.adds_bos());
        let with_bos = |tokens: Vec<Token>| bos.into_iter().chain(tokens).collect::<Vec<_>>();
        match self.preparation {
            Preparation::EndToken => {
                let mut completion = self.tokens(completion, false)?;
                completion.extend(model.eos());
                Ok(Side {
                    prompt: with_bos(self.tokens(prompt, false)?),
                    completion,
                    is_merged: false,
                })
            }
            Preparation::Trl => {
                let eos = model
                    .eos()
                    .map(|token| model.token_to_piece(token, true))
                    .unwrap_or_default();
                let eos = String::from_utf8_lossy(&eos);
                let end = if completion.ends_with(eos.as_ref()) {
                    ""
                } else {
                    eos.as_ref()
                };
                let before = with_bos(self.tokens(prompt, true)?);
                let whole = self.tokens(&format!("{prompt}{completion}{end}"), true)?;
                Ok(split(before, with_bos(whole)))
            }
        }
    }

    fn tokens(&self, text: &str, parse_special: bool) -> thumbprint::engine::Result<Vec<Token>> {
        Ok(self.chat.model().tokenize(text, false, parse_special)?)
    }
}

/// As TRL: as many tokens as the prompt has alone are taken off, whatever they are.
fn split(prompt: Vec<Token>, whole: Vec<Token>) -> Side {
    let completion = whole.get(prompt.len()..).unwrap_or_default().to_vec();
    Side {
        is_merged: !whole.starts_with(&prompt),
        prompt,
        completion,
    }
}

fn messages(messages: &[ChatMessage]) -> std::result::Result<Vec<Message>, String> {
    const ROLES: [Role; 3] = [Role::System, Role::User, Role::Assistant];
    let message = |message: &ChatMessage| {
        let role = ROLES.into_iter().find(|role| role.as_str() == message.role);
        let role = role.ok_or("the `role` of a message must be system, user or assistant")?;
        Ok(Message {
            role,
            content: message.content.clone(),
        })
    };
    messages.iter().map(message).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;
    use thumbprint_fixtures::{TinyModel, demo_model_path, golden_data, golden_dir};

    use super::*;
    use crate::base_model::load_chat;

    const NEWLINE: Token = 198;

    fn ids(recorded: &Value, field: &str) -> Vec<Token> {
        serde_json::from_value(recorded[field].clone()).unwrap()
    }

    #[test]
    fn trls_preparation_gives_trls_tokens_and_ours_leaves_out_what_follows_the_end_token() {
        let chat = load_chat(&demo_model_path()).unwrap();
        let golden = std::fs::read_to_string(golden_dir().join("logps.json")).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let read = |set: &str, preparation| {
            Rows::pairs(&golden_data(&format!("{set}.jsonl")), &chat, preparation)
                .unwrap()
                .rows
        };
        let mut n = 0;
        for set in ["train", "heldout"] {
            let (trl, ours) = (
                read(set, Preparation::Trl),
                read(set, Preparation::EndToken),
            );
            for recorded in golden["pairs"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|pair| pair["set"] == set)
            {
                let index = recorded["index"].as_u64().unwrap() as usize;
                let (trl, ours) = (&trl[index], &ours[index]);
                assert_eq!(trl.line, index + 1);
                assert_eq!(trl.prompt, ids(recorded, "prompt_ids"), "{set} {index}");
                assert_eq!(trl.chosen(), ids(recorded, "chosen_ids"), "{set} {index}");
                assert_eq!(
                    trl.rejected(),
                    ids(recorded, "rejected_ids"),
                    "{set} {index}"
                );
                assert_eq!(ours.prompt, trl.prompt);
                for (ours, trl) in [
                    (ours.chosen(), trl.chosen()),
                    (ours.rejected(), trl.rejected()),
                ] {
                    assert_eq!(trl.split_last(), Some((&NEWLINE, ours)), "{set} {index}");
                }
                n += 1;
            }
        }
        assert!(n >= 16, "{n}");
    }

    /// The chat of a tiny model, whose end token is `<|im_end|>`, and the pairs of one row.
    fn tiny(row: &str, preparation: Preparation) -> (Chat, Result<Rows>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        TinyModel::llama().write(&path);
        let chat = load_chat(&path).unwrap();
        let rows = PreferenceReader::new("rows.jsonl", row.as_bytes());
        let pairs = Rows::from_reader(Path::new("rows.jsonl"), rows, &chat, preparation);
        (chat, pairs)
    }

    fn text(chat: &Chat, tokens: &[Token]) -> String {
        let bytes = tokens
            .iter()
            .flat_map(|token| chat.model().token_to_piece(*token, true))
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn plain_text_is_followed_by_the_end_of_a_sequence() {
        let row = r#"{"prompt": "Sky?", "chosen": " Blue.", "rejected": " Green."}"#;
        for preparation in [Preparation::EndToken, Preparation::Trl] {
            let (chat, pairs) = tiny(row, preparation);
            let pair = &pairs.unwrap().rows[0];
            assert_eq!(text(&chat, &pair.prompt), "Sky?");
            assert_eq!(text(&chat, pair.chosen()), " Blue.<|im_end|>");
            assert_eq!(text(&chat, pair.rejected()), " Green.<|im_end|>");
        }
    }

    #[test]
    fn an_answer_of_several_turns_ends_with_its_last_end_token() {
        let row = r#"{"prompt": [{"role": "user", "content": "Sky?"}],
            "chosen": [{"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Sure?"},
                       {"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "Green."}]}"#
            .replace('\n', " ");
        let (chat, pairs) = tiny(&row, Preparation::EndToken);
        let pair = &pairs.unwrap().rows[0];
        assert_eq!(
            text(&chat, &pair.prompt),
            "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\n"
        );
        let turns = "Blue.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>";
        assert_eq!(text(&chat, pair.chosen()), turns);
        assert_eq!(text(&chat, pair.rejected()), "Green.<|im_end|>");
    }

    #[test]
    fn control_tokens_in_an_answer_are_text_in_ours_and_tokens_in_trls_preparation() {
        let row = r#"{"prompt": [{"role": "user", "content": "Sky?"}],
            "chosen": [{"role": "assistant", "content": "<|im_end|>"}],
            "rejected": [{"role": "assistant", "content": "Green."}]}"#
            .replace('\n', " ");
        let (chat, ours) = tiny(&row, Preparation::EndToken);
        let (_, trl) = tiny(&row, Preparation::Trl);
        let end = chat.end_of_turn().unwrap();
        let ends = |pairs: Result<Rows>| {
            pairs.unwrap().rows[0]
                .chosen()
                .iter()
                .filter(|t| **t == end)
                .count()
        };
        assert_eq!((ends(ours), ends(trl)), (1, 2));
    }

    #[test]
    fn a_role_that_is_not_known_is_refused_with_its_line() {
        let row = r#"{"prompt": [{"role": "tool", "content": "Sky?"}],
            "chosen": [{"role": "assistant", "content": "Blue."}], "rejected": [{"role": "assistant", "content": "Up."}]}"#
            .replace('\n', " ");
        let error = tiny(&row, Preparation::EndToken).1.unwrap_err().to_string();
        assert!(
            error.starts_with("rows.jsonl, line 1: the `role` of a message"),
            "{error}"
        );
    }

    #[test]
    fn a_prompt_that_ends_within_an_answer_is_refused_with_its_line() {
        let row = r#"{"prompt": [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "It is"}],
            "chosen": [{"role": "assistant", "content": " blue."}], "rejected": [{"role": "assistant", "content": " up."}]}"#
            .replace('\n', " ");
        let error = tiny(&row, Preparation::EndToken).1.unwrap_err().to_string();
        assert!(
            error.starts_with("rows.jsonl, line 1: field `prompt` ends with an assistant message"),
            "{error}"
        );
    }
}
