//! A file of preferences as tokens.
//!
//! Two preparations differ in where a completion ends. Ours: the text, then the token that ends a turn (or a sequence, for plain
//! text). TRL's: whatever the chat template writes, tokenized together with the prompt; for ChatML that is a newline more.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use thumbprint::engine::{Chat, EngineError, Message};
use thumbprint_ggml::llama::Token;
use thumbprint_tune::data::{
    ChatMessage, DataError, PreferenceReader, PreferenceRow, Problem, Text,
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
pub struct Pair {
    /// The line that it came from, 1-based.
    pub line: usize,
    /// Never empty.
    pub prompt: Vec<Token>,
    /// Never empty, never equal to `rejected`.
    pub chosen: Vec<Token>,
    /// Never empty.
    pub rejected: Vec<Token>,
}

impl Pair {
    /// Tokens of the prompt with its longer completion.
    pub fn length(&self) -> usize {
        self.prompt.len() + self.chosen.len().max(self.rejected.len())
    }
}

/// A whole file.
#[derive(Debug)]
pub struct Pairs {
    /// The file.
    pub path: PathBuf,
    /// Its rows, in order.
    pub pairs: Vec<Pair>,
    /// Sides whose tokens, prompt included, do not begin with the prompt's own (TRL's preparation only; TRL warns of them).
    pub n_merged: usize,
}

impl Pairs {
    /// Reads and tokenizes a file of TRL's preference format.
    ///
    /// # Errors
    /// The first line that cannot be used, or a file without rows.
    pub fn read(path: &Path, chat: &Chat, preparation: Preparation) -> Result<Self> {
        Self::from_reader(path, PreferenceReader::open(path)?, chat, preparation)
    }

    /// The same from rows that are being read; `path` is what errors call their file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_reader<R: BufRead>(
        path: &Path,
        mut rows: PreferenceReader<R>,
        chat: &Chat,
        preparation: Preparation,
    ) -> Result<Self> {
        let mut all = Self {
            path: path.to_owned(),
            pairs: Vec::new(),
            n_merged: 0,
        };
        while let Some(row) = rows.next() {
            let row = row?;
            let line = rows.line();
            let pair = all.tokenize(line, &row, chat, preparation)?;
            all.pairs.push(pair);
        }
        if all.pairs.is_empty() {
            return Err(DataError {
                path: path.to_owned(),
                line: 0,
                problem: Problem::NoRows,
            }
            .into());
        }
        Ok(all)
    }

    /// An error about a line of this file.
    pub fn error(&self, line: usize, problem: impl Into<String>) -> CliError {
        CliError::Line {
            path: self.path.clone(),
            line,
            problem: problem.into(),
        }
    }

    fn tokenize(
        &mut self,
        line: usize,
        row: &PreferenceRow,
        chat: &Chat,
        preparation: Preparation,
    ) -> Result<Pair> {
        let tokenizer = Tokenizer { chat, preparation };
        let side = |completion| tokenizer.side(&row.prompt, completion);
        let (chosen, rejected) = match (side(&row.chosen), side(&row.rejected)) {
            (Ok(chosen), Ok(rejected)) => (chosen, rejected),
            (Err(problem), _) | (_, Err(problem)) => return Err(self.error(line, problem)),
        };
        self.n_merged += usize::from(chosen.is_merged) + usize::from(rejected.is_merged);
        for (name, side) in [("chosen", &chosen), ("rejected", &rejected)] {
            if side.completion.is_empty() {
                return Err(self.error(
                    line,
                    format!("field `{name}` has no tokens after the prompt's"),
                ));
            }
        }
        if chosen.prompt.is_empty() {
            return Err(self.error(line, "field `prompt` has no tokens"));
        }
        if chosen.completion == rejected.completion {
            let problem =
                "fields `chosen` and `rejected` have the same tokens, so that nothing is preferred";
            return Err(self.error(line, problem));
        }
        Ok(Pair {
            line,
            prompt: chosen.prompt,
            chosen: chosen.completion,
            rejected: rejected.completion,
        })
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
        let prompt: Vec<Message> = prompt.iter().map(message).collect();
        let as_text = |error: EngineError| error.to_string();
        match (self.preparation, completion) {
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
    fn rendered(
        &self,
        prompt: &[Message],
        turns: &[ChatMessage],
    ) -> thumbprint::engine::Result<Side> {
        let template = self.chat.template();
        let before = self.tokens(&template.render(prompt, true)?, true)?;
        let whole: Vec<Message> = prompt
            .iter()
            .cloned()
            .chain(turns.iter().map(message))
            .collect();
        Ok(split(
            before,
            self.tokens(&template.render(&whole, false)?, true)?,
        ))
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

fn message(message: &ChatMessage) -> Message {
    Message {
        role: message.role.clone(),
        content: message.content.clone(),
    }
}
