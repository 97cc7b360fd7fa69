use super::Token;

/// Tokens to decode together, each with its place in a sequence.
///
/// ```
/// use thumbprint_ggml::llama::Batch;
/// let mut batch = Batch::new();
/// batch.push(1, 0, 0, false);
/// batch.push(9690, 1, 0, true); // logits wanted for this one
/// assert_eq!(batch.len(), 2);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) tokens: Vec<Token>,
    pub(super) positions: Vec<i32>,
    pub(super) sequences: Vec<i32>,
    pub(super) outputs: Vec<i8>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token at `position` of `sequence`. Within a sequence, positions continue without a
    /// gap from what the context holds. `output` asks for logits. Returns the index to ask them by.
    pub fn push(&mut self, token: Token, position: i32, sequence: i32, output: bool) -> usize {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
        self.outputs.push(i8::from(output));
        self.tokens.len() - 1
    }

    /// Removes all tokens, and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
