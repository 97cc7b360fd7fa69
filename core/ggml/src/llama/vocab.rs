//! The vocabulary's part of [`Model`].

use llama_cpp_sys_2 as sys;

use super::{LlamaError, Model, Result, Token};

impl Model {
    /// Number of tokens in the vocabulary; logits have this length.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: reads a constant of a live vocabulary.
        unsafe { sys::llama_vocab_n_tokens(self.vocab()) }.max(0) as usize
    }

    /// Beginning of a sequence.
    pub fn bos(&self) -> Option<Token> {
        // SAFETY: reads a constant of a live vocabulary.
        self.existing(unsafe { sys::llama_vocab_bos(self.vocab()) })
    }

    /// End of a sequence.
    pub fn eos(&self) -> Option<Token> {
        // SAFETY: reads a constant of a live vocabulary.
        self.existing(unsafe { sys::llama_vocab_eos(self.vocab()) })
    }

    /// End of a turn, where the model tells it apart from the end of a sequence.
    pub fn eot(&self) -> Option<Token> {
        // SAFETY: reads a constant of a live vocabulary.
        self.existing(unsafe { sys::llama_vocab_eot(self.vocab()) })
    }

    /// Whether a token ends generation (end of sequence, of turn, of message).
    pub fn is_eog(&self, token: Token) -> bool {
        // SAFETY: looks the id up in a set.
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// Every token that ends generation, in rising order.
    pub fn eog_tokens(&self) -> Vec<Token> {
        (0..self.n_vocab() as Token)
            .filter(|&token| self.is_eog(token))
            .collect()
    }

    /// Whether a token is a control token, which shows no text. False for ids that do not exist.
    pub fn is_control(&self, token: Token) -> bool {
        // SAFETY: the id is in range.
        self.existing(token)
            .is_some_and(|token| unsafe { sys::llama_vocab_is_control(self.vocab(), token) })
    }

    /// Whether the model wants a beginning-of-sequence token before a text.
    pub fn adds_bos(&self) -> bool {
        // SAFETY: reads a constant of a live vocabulary.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// Text to tokens. `add_special` adds the tokens that the model wants around a text (its BOS);
    /// `parse_special` reads the names of special tokens in the text (`<|im_end|>`) as those
    /// tokens: only for text that comes from a template.
    ///
    /// # Errors
    /// [`LlamaError::TextTooLong`] beyond 2^31 bytes or tokens.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>> {
        let too_long = || LlamaError::TextTooLong { bytes: text.len() };
        let length = i32::try_from(text.len()).map_err(|_| too_long())?;
        // Most tokens are longer than a byte, and a BOS and an EOS may be added.
        let mut tokens = vec![0; text.len() / 2 + 8];
        loop {
            // SAFETY: both pointers go with their lengths; tokenizing is thread-safe.
            let n = unsafe {
                sys::llama_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    i32::try_from(tokens.len()).map_err(|_| too_long())?,
                    add_special,
                    parse_special,
                )
            };
            if n == i32::MIN {
                return Err(too_long());
            }
            if n >= 0 {
                tokens.truncate(n as usize);
                return Ok(tokens);
            }
            tokens.resize(n.unsigned_abs() as usize, 0);
        }
    }

    /// The bytes that a token stands for: part of a UTF-8 text, not always whole characters.
    /// Control tokens give their name with `special`, and nothing without. Empty for ids that do
    /// not exist.
    pub fn token_to_piece(&self, token: Token, special: bool) -> Vec<u8> {
        let Some(token) = self.existing(token) else {
            return Vec::new();
        };
        let mut piece = vec![0u8; 32];
        loop {
            // SAFETY: the id is in range, and the pointer goes with its length.
            let n = unsafe {
                sys::llama_token_to_piece(
                    self.vocab(),
                    token,
                    piece.as_mut_ptr().cast(),
                    piece.len() as i32,
                    0,
                    special,
                )
            };
            if n >= 0 {
                piece.truncate(n as usize);
                return piece;
            }
            piece.resize(n.unsigned_abs() as usize, 0);
        }
    }

    fn existing(&self, token: Token) -> Option<Token> {
        (token >= 0 && (token as usize) < self.n_vocab()).then_some(token)
    }
}
