//! Where the reference's log-probabilities of examples are cached.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{Context, Material, Resolved};
use crate::facade::hex;
use crate::types::{ReplyId, completion_key};

/// Where the reference's log-probabilities of an example are cached.
pub struct CacheKeys<'a> {
    material: &'a Material,
    replies: HashMap<[u8; 32], ReplyId>,
    by_item: HashMap<i64, ReplyId>,
    context: String,
}

/// Where one completion's is.
pub struct Side {
    /// Of prompt and text.
    pub key: [u8; 32],
    /// Of model, template, number formats and tokens: equal for equal completions of equal prompts alone.
    pub context: String,
    /// The reply with which it is forgotten.
    pub reply: Option<ReplyId>,
}

impl<'a> CacheKeys<'a> {
    pub fn new(context: &Context<'_>, material: &'a Material, resolved: &Resolved) -> Self {
        let mut replies = HashMap::new();
        let mut by_item = HashMap::new();
        for event in &material.log {
            by_item.insert(event.id.0, event.reply.id);
            let others = event.other.iter().chain(&event.ranked);
            for reply in std::iter::once(&event.reply).chain(others) {
                let key = completion_key(&crate::types::prompt_key(&reply.prompt), &reply.text);
                replies.insert(key, reply.id);
            }
        }
        let info = context.loaded.engine.info();
        let kernels = serde_json::to_string(&resolved.plan.kernels).unwrap_or_default();
        let device = resolved.plan.device.as_ref().map(|device| &device.name);
        let context = format!(
            "{} {} {kernels}{}",
            context.loaded.sha256,
            info.template_hash,
            device.map_or(String::new(), |name| format!(" on {name}"))
        );
        Self {
            material,
            replies,
            by_item,
            context,
        }
    }

    /// One for each of the example's completions.
    pub fn of(&self, index: usize) -> impl Iterator<Item = Side> {
        let curated = &self.material.curated.examples[self.material.tokenized.sources[index]];
        let completions = curated.kind.completions();
        let sides = &self.material.tokenized.sides[index];
        let texts: Vec<&str> = sides.iter().map(|at| &*completions[*at].text).collect();
        let example = &self.material.tokenized.examples[index];
        let entries: Vec<_> = texts
            .into_iter()
            .zip(example.completions())
            .map(|(text, tokens)| {
                let key = completion_key(&curated.prompt_key, text);
                let hash = hash_tokens(example.prompt.iter().chain(tokens));
                let of_item = || {
                    curated
                        .items
                        .first()
                        .and_then(|item| self.by_item.get(&item.0))
                };
                let reply = self.replies.get(&key).or_else(of_item).copied();
                Side {
                    key,
                    context: format!("{} {}", self.context, hash),
                    reply,
                }
            })
            .collect();
        entries.into_iter()
    }
}

/// SHA-256 of tokens, in hexadecimal.
pub fn hash_tokens<'a>(tokens: impl IntoIterator<Item = &'a i32>) -> String {
    let mut hash = Sha256::new();
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hex(hash.finalize())
}
