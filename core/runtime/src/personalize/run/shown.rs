//! Replies in the person's own manner: the base answers after some of what they wrote, as if it had written that itself. What it says
//! then is learned without the examples before it (context distillation, arXiv 2112.00861 and 2209.15189), so that a manner that the base
//! never shows by itself has as many replies to learn from as there are prompts.

use std::collections::HashMap;

use super::super::Phase;
use super::sampled::{Sampled, Samples};
use super::{Context, Material, Step};
use crate::curation::Kind;
use crate::engine::{Chat, EngineError, With};
use crate::types::{Message, Role};

/// Tells these samples from a run's others.
const STREAM: u64 = 1 << 21;

/// How they are drawn.
#[derive(Debug, Clone, Copy)]
pub struct ShownDraws {
    /// Demonstrations before a prompt.
    pub n_shown: usize,
    /// Replies to each prompt.
    pub replies: usize,
    pub max_tokens: u32,
    pub temperature: f32,
    pub seed: u64,
}

/// A prompt with what the person wrote in answer to it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shot<'a> {
    prompt: &'a [Message],
    text: &'a str,
}

impl Context<'_> {
    /// Replies to each of the prompts after demonstrations of the feedback, each under its prompt alone; none where there are fewer than
    /// are to be shown, and none to a prompt that has no room for one.
    pub(super) fn after_demonstrations(
        &self,
        material: &Material,
        prompts: &[Vec<Message>],
        draws: ShownDraws,
    ) -> Step<Vec<Sampled>> {
        let shots: Vec<Shot<'_>> = (material.curated.examples.iter())
            .filter_map(|example| match &example.kind {
                Kind::Demonstration { completion, .. } => Some(Shot {
                    prompt: &example.prompt,
                    text: &completion.text,
                }),
                _ => None,
            })
            .collect();
        if draws.n_shown == 0 || draws.replies == 0 || shots.len() < draws.n_shown {
            return Ok(Vec::new());
        }
        let engine = &self.loaded.engine;
        let (chat, info) = (engine.chat(), engine.info());
        let n_ctx = info.n_ctx.min(info.n_ctx_train) as usize;
        let room = n_ctx.saturating_sub(draws.max_tokens as usize);
        // By the tokens of what is answered, those of the prompt alone.
        let mut alone = HashMap::new();
        let mut asked = Vec::new();
        for (at, prompt) in prompts.iter().enumerate() {
            let turn = shots.iter().cycle().skip(at * draws.n_shown % shots.len());
            let others = turn
                .take(shots.len())
                .filter(|shot| shot.prompt != prompt.as_slice());
            let shown: Vec<Shot<'_>> = others.take(draws.n_shown).copied().collect();
            if let Some(messages) = with_room(prompt, &shown, room, chat)? {
                alone.insert(chat.prompt_tokens(&messages)?, chat.prompt_tokens(prompt)?);
                asked.push(messages);
            }
        }
        let sampled = self.sample(&Samples {
            phase: Phase::Replay,
            prompts: &asked,
            n: draws.replies,
            max_tokens: draws.max_tokens,
            temperature: draws.temperature,
            with: With::Base,
            seed: draws.seed,
            stream: STREAM,
        })?;
        let under_its_prompt = |Sampled { prompt, replies }| {
            let prompt = alone.get(&prompt)?.clone();
            Some(Sampled { prompt, replies })
        };
        Ok(sampled.into_iter().filter_map(under_its_prompt).collect())
    }
}

/// The prompt after as many of the demonstrations as there is room for; none if there is room for none.
fn with_room(
    prompt: &[Message],
    shown: &[Shot<'_>],
    room: usize,
    chat: &Chat,
) -> Result<Option<Vec<Message>>, EngineError> {
    for n in (1..=shown.len()).rev() {
        let messages = after(prompt, &shown[..n]);
        if chat.prompt_tokens(&messages)?.len() <= room {
            return Ok(Some(messages));
        }
    }
    Ok(None)
}

/// The conversation in which the model had written the demonstrations before the prompt was asked. Of a demonstration's own prompt the
/// last turn alone is told.
fn after(prompt: &[Message], shown: &[Shot<'_>]) -> Vec<Message> {
    let n_system = prompt
        .iter()
        .take_while(|message| message.role == Role::System)
        .count();
    let (system, turns) = prompt.split_at(n_system);
    let shown = shown.iter().flat_map(|shot| {
        let asked = shot.prompt.last().cloned();
        asked.into_iter().chain([Message::assistant(shot.text)])
    });
    let system = system.iter().cloned();
    system.chain(shown).chain(turns.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demonstrations_come_after_what_the_app_says_and_before_what_is_asked() {
        let (system, ask) = (Message::system("Be kind."), Message::user("Why?"));
        let prompt = [system.clone(), ask.clone()];
        let of_first = [
            Message::system("Other."),
            Message::user("Old?"),
            Message::assistant("Yes."),
            Message::user("How?"),
        ];
        let of_second = [Message::user("When?")];
        let shown = [
            Shot {
                prompt: &of_first,
                text: "- so",
            },
            Shot {
                prompt: &of_second,
                text: "- now",
            },
        ];
        let expected = [
            system,
            Message::user("How?"),
            Message::assistant("- so"),
            Message::user("When?"),
            Message::assistant("- now"),
            ask,
        ];
        assert_eq!(after(&prompt, &shown), expected);
        assert_eq!(after(&prompt, &[]), prompt);
    }
}
