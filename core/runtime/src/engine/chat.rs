//! Conversations to tokens: the template and the vocabulary together. No thread, no context.

use std::sync::Arc;

use thumbprint_ggml::llama::{Model, Token};

use super::{ChatTemplate, EngineError, Overflow, Prompt, Result};
use crate::types::{Message, Role};

/// The model's vocabulary and chat template.
#[derive(Debug)]
pub struct Chat {
    model: Arc<Model>,
    template: ChatTemplate,
    end_tokens: Vec<Token>,
    end_of_turn: Option<Token>,
}

/// A prompt that fits.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) tokens: Vec<Token>,
    pub(super) dropped_messages: usize,
}

impl Chat {
    /// Compiles the model's template, or the plain fallback ([`ChatTemplate::is_fallback`]).
    ///
    /// # Errors
    /// [`EngineError::Template`] when it does not compile.
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let text = |token: Option<Token>| {
            let piece = token
                .map(|token| model.token_to_piece(token, true))
                .unwrap_or_default();
            String::from_utf8_lossy(&piece).into_owned()
        };
        let template = ChatTemplate::new(
            model.chat_template().as_deref(),
            &text(model.bos()),
            &text(model.eos()),
        )?;
        let mut end_tokens = model.eog_tokens();
        let mut chat = Self {
            model,
            template,
            end_tokens: Vec::new(),
            end_of_turn: None,
        };
        chat.end_of_turn = chat.turn_end()?.or(chat.model.eot()).or(chat.model.eos());
        end_tokens.extend(chat.end_of_turn.filter(|token| !end_tokens.contains(token)));
        chat.end_tokens = end_tokens;
        Ok(chat)
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokens that a reply is generated from: the conversation, and the beginning of the
    /// assistant's turn. Special tokens in the rendered text count as such; a beginning-of-sequence
    /// token is added if the model wants one and the template wrote none.
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`]; [`EngineError::Template`].
    pub fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<Token>> {
        match messages.last() {
            Some(last) if last.role != Role::User || !last.content.trim().is_empty() => {}
            _ => return Err(EngineError::EmptyPrompt),
        }
        let tokens = self.tokenize_rendered(&self.template.render(messages, true)?)?;
        if tokens.is_empty() {
            Err(EngineError::EmptyPrompt)
        } else {
            Ok(tokens)
        }
    }

    /// The tokens of a reply, as training wants them: its text (in which nothing counts as a
    /// special token), then the token that ends a turn, if the model has one.
    ///
    /// # Errors
    /// [`EngineError::Llama`] beyond 2^31 bytes.
    pub fn completion_tokens(&self, text: &str) -> Result<Vec<Token>> {
        let mut tokens = self.model.tokenize(text, false, false)?;
        tokens.extend(self.end_of_turn);
        Ok(tokens)
    }

    /// Tokens that end a reply, in generation: the model's end-of-generation tokens and the one its
    /// template ends a turn with.
    pub fn completion_end_tokens(&self) -> &[Token] {
        &self.end_tokens
    }

    /// The token that the template ends an assistant's turn with.
    pub fn end_of_turn(&self) -> Option<Token> {
        self.end_of_turn
    }

    /// The prompt's tokens, shortened as `overflow` allows, so that `n_ctx` has room for a reply.
    pub(super) fn fit(
        &self,
        prompt: &Prompt,
        overflow: Overflow,
        max_tokens: u32,
        n_ctx: u32,
    ) -> Result<Fitted> {
        let too_long = |prompt_tokens| EngineError::PromptTooLong {
            prompt_tokens,
            n_ctx,
        };
        let messages = match prompt {
            Prompt::Tokens(tokens) if tokens.is_empty() => return Err(EngineError::EmptyPrompt),
            Prompt::Tokens(tokens) if tokens.len() >= n_ctx as usize => {
                return Err(too_long(tokens.len()));
            }
            Prompt::Tokens(tokens) => {
                return Ok(Fitted {
                    tokens: tokens.clone(),
                    dropped_messages: 0,
                });
            }
            Prompt::Messages(messages) => messages,
        };
        let mut kept = messages.clone();
        let mut tokens = self.prompt_tokens(&kept)?;
        if overflow == Overflow::TruncateOldestTurns {
            let room = max_tokens.min(n_ctx / 4).max(1);
            while tokens.len() > (n_ctx - room) as usize {
                let Some(turn) = oldest_turn(&kept) else {
                    break;
                };
                kept.drain(turn);
                tokens = self.prompt_tokens(&kept)?;
            }
        }
        if tokens.len() >= n_ctx as usize {
            return Err(too_long(tokens.len()));
        }
        Ok(Fitted {
            tokens,
            dropped_messages: messages.len() - kept.len(),
        })
    }

    fn tokenize_rendered(&self, text: &str) -> Result<Vec<Token>> {
        let mut tokens = self.model.tokenize(text, false, true)?;
        if let Some(bos) = self.model.bos()
            && self.model.adds_bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// The first token after an assistant's words in the rendered text, if it is a control token.
    fn turn_end(&self) -> Result<Option<Token>> {
        const WORDS: &str = "thumbprint";
        let messages = [Message::user("Hello"), Message::assistant(WORDS)];
        // A template that refuses this plain exchange has its reasons; the model's own end tokens
        // remain.
        let Ok(text) = self.template.render(&messages, false) else {
            return Ok(None);
        };
        let Some(at) = text.rfind(WORDS) else {
            return Ok(None);
        };
        let after = self
            .model
            .tokenize(&text[at + WORDS.len()..], false, true)?;
        Ok(after
            .first()
            .copied()
            .filter(|&token| self.model.is_control(token) || self.model.is_eog(token)))
    }
}

/// The oldest messages that belong to one turn: a user's and what follows, up to the next user's.
/// `None` if that would be the last.
fn oldest_turn(messages: &[Message]) -> Option<std::ops::Range<usize>> {
    let start = messages
        .iter()
        .position(|message| message.role != Role::System)?;
    let next = messages[start + 1..]
        .iter()
        .position(|message| message.role == Role::User)?;
    Some(start..start + 1 + next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_turn_is_a_user_message_and_its_reply_and_never_the_last_turn() {
        let (system, user, assistant) = (
            Message::system("s"),
            Message::user("u"),
            Message::assistant("a"),
        );
        let long = [
            system.clone(),
            user.clone(),
            assistant.clone(),
            assistant.clone(),
            user.clone(),
            assistant.clone(),
        ];
        assert_eq!(oldest_turn(&long), Some(1..4));
        assert_eq!(oldest_turn(&[system.clone(), user.clone()]), None);
        assert_eq!(oldest_turn(&[assistant.clone(), user.clone()]), Some(0..1));
        assert_eq!(oldest_turn(&[system]), None);
        assert_eq!(oldest_turn(&[user, assistant]), None);
    }
}
