//! From the bytes of tokens to text that can be shown: whole characters only, and nothing of a stop
//! string.

/// Collects a reply's text. What `push` and `finish` return, put together, is the text.
#[derive(Debug, Default)]
pub(super) struct TextStream {
    stops: Vec<String>,
    /// The first bytes of a character whose rest has not come.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// Empty stop strings are ignored.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            ..Self::default()
        }
    }

    /// Adds the bytes of a token; returns the text that can be shown now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.partial.extend_from_slice(bytes);
        self.take_whole_characters();
        if let Some(at) = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min()
        {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string has come.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Ends the text: returns what was held back. A character that never became whole is one
    /// replacement character.
    pub(super) fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        if !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut self.held)
    }

    /// Moves what is decodable from `partial` to `held`. Bytes that no continuation can make valid
    /// become replacement characters.
    fn take_whole_characters(&mut self) {
        let mut decoded = 0;
        for chunk in self.partial.utf8_chunks() {
            self.held.push_str(chunk.valid());
            decoded += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let at_end = decoded + invalid.len() == self.partial.len();
            let incomplete = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if at_end && incomplete {
                break;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            decoded += invalid.len();
        }
        self.partial.drain(..decoded);
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .filter(|&at| text.ends_with(&stop[..at]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut stream = TextStream::new(stops.iter().map(|&s| s.into()).collect());
        let mut shown: Vec<_> = pieces.iter().map(|piece| stream.push(piece)).collect();
        shown.push(stream.finish());
        (shown, stream.stopped())
    }

    #[test]
    fn a_character_comes_when_its_last_byte_comes() {
        let crab = "🦀".as_bytes();
        let (shown, _) = run(&[], &[b"a", &crab[..1], &crab[1..3], &crab[3..], b"b"]);
        assert_eq!(shown, ["a", "", "", "🦀", "b", ""]);
    }

    #[test]
    fn bytes_that_are_no_character_become_one_replacement() {
        assert_eq!(
            run(&[], &[b"a\xf0\x9f", b"b\xff"]).0,
            ["a", "\u{fffd}b\u{fffd}", ""]
        );
        assert_eq!(run(&[], &[b"a", b"\xf0\x9f\xa6"]).0, ["a", "", "\u{fffd}"]);
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_shown() {
        let (shown, stopped) = run(&["\nUser:"], &[b"Hi", b".\nUs", b"er", b": hello"]);
        assert_eq!((shown.concat().as_str(), stopped), ("Hi.", true));
        assert_eq!(shown[1], ".");
    }

    #[test]
    fn what_only_began_like_a_stop_string_is_shown_when_that_is_known() {
        let (shown, stopped) = run(&["###"], &[b"a#", b"#b", b"##"]);
        assert_eq!(
            (shown, stopped),
            (
                vec!["a".into(), "##b".into(), String::new(), "##".into()],
                false
            )
        );
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts() {
        assert_eq!(
            run(&["zz", "b", ""], &[b"aabzz"]),
            (vec!["aa".into(), String::new()], true)
        );
    }

    proptest! {
        #[test]
        fn the_pieces_together_are_the_text_however_it_is_cut(
            text in "[ab\u{e9}\u{1f980}]{0,30}", stop in "[ab\u{e9}]{1,3}", cuts in prop::collection::vec(1usize..4, 0..60)
        ) {
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            pieces.push(rest);
            let expected = text.split(&stop).next().unwrap_or_default();
            let (shown, stopped) = run(&[&stop], &pieces);
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
