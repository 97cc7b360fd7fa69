//! The matrices of a transformer block that LoRA can change, and what GGUF and PEFT call them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::AdapterError;

/// A matrix of a block. Ordered as in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Module {
    /// Queries.
    #[serde(rename = "q_proj")]
    Q,
    /// Keys.
    #[serde(rename = "k_proj")]
    K,
    /// Values.
    #[serde(rename = "v_proj")]
    V,
    /// Queries, keys and values as one matrix, where a model has them so.
    #[serde(rename = "qkv_proj")]
    Qkv,
    /// Attention's output.
    #[serde(rename = "o_proj")]
    O,
    /// The gate of the feed-forward part.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Into the feed-forward part.
    #[serde(rename = "up_proj")]
    Up,
    /// The gate and what goes into the feed-forward part as one matrix, where a model has them so.
    #[serde(rename = "gate_up_proj")]
    GateUp,
    /// Out of the feed-forward part.
    #[serde(rename = "down_proj")]
    Down,
}

impl Module {
    /// All there are. A model has either `Qkv` and `GateUp`, or those that they stand for.
    pub const ALL: [Module; 9] = [
        Module::Q,
        Module::K,
        Module::V,
        Module::Qkv,
        Module::O,
        Module::Gate,
        Module::Up,
        Module::GateUp,
        Module::Down,
    ];

    /// Those of a model without fused matrices.
    pub const SEPARATE: [Module; 7] = [
        Module::Q,
        Module::K,
        Module::V,
        Module::O,
        Module::Gate,
        Module::Up,
        Module::Down,
    ];

    /// The name in GGUF: the tensor is `blk.<layer>.<name>.weight`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Module::Q => "attn_q",
            Module::K => "attn_k",
            Module::V => "attn_v",
            Module::Qkv => "attn_qkv",
            Module::O => "attn_output",
            Module::Gate => "ffn_gate",
            Module::Up | Module::GateUp => "ffn_up",
            Module::Down => "ffn_down",
        }
    }

    /// The module of this name in GGUF; `fused` where the architecture's files hold fused matrices.
    pub fn from_gguf_name(name: &str, fused: bool) -> Option<Module> {
        let found = Module::ALL.into_iter().find(|m| m.gguf_name() == name)?;
        Some(match found {
            Module::Up if fused => Module::GateUp,
            found => found,
        })
    }

    /// The path in PEFT and transformers, below `model.layers.<layer>`.
    pub fn peft_path(self) -> &'static str {
        match self {
            Module::Q => "self_attn.q_proj",
            Module::K => "self_attn.k_proj",
            Module::V => "self_attn.v_proj",
            Module::Qkv => "self_attn.qkv_proj",
            Module::O => "self_attn.o_proj",
            Module::Gate => "mlp.gate_proj",
            Module::Up => "mlp.up_proj",
            Module::GateUp => "mlp.gate_up_proj",
            Module::Down => "mlp.down_proj",
        }
    }

    /// The name in PEFT's `target_modules`.
    pub fn peft_name(self) -> &'static str {
        let path = self.peft_path();
        path.split_once('.').map_or(path, |(_, name)| name)
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.peft_name())
    }
}

impl FromStr for Module {
    type Err = AdapterError;

    /// Takes PEFT's name or path, or GGUF's name.
    fn from_str(s: &str) -> Result<Self, AdapterError> {
        Module::ALL
            .into_iter()
            .find(|m| [m.peft_name(), m.peft_path(), m.gguf_name()].contains(&s))
            .ok_or_else(|| AdapterError::UnknownModule {
                given: s.to_owned(),
                valid: Module::ALL.map(Module::peft_name).join(", "),
            })
    }
}
