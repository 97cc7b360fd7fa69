//! Texts that say nearly the same, found in one pass over any number of them.
//!
//! MinHash (Broder 1997): two sets have the same smallest hash with a probability that is their similarity (Jaccard's: shared over all), so
//! that the share of equal entries in two signatures estimates it, within 0.04 at 0.9. A text's set is its runs of [`SHINGLE`] letters and
//! digits. Candidates share a band of their signatures, which those at 0.9 do in 99 cases of 100, and those at 0.5 in 3. The hashes are
//! fixed: the same file is always filtered alike.

use std::collections::HashMap;

/// Characters of a run.
const SHINGLE: usize = 4;
/// Hashes of a signature.
const HASHES: usize = 64;
/// Hashes of a band.
const BAND: usize = 8;

type Signature = [u32; HASHES];

/// What was seen so far: about 400 bytes a text.
pub(super) struct Seen {
    similarity: f64,
    signatures: Vec<Signature>,
    /// Signatures by their bands.
    bands: HashMap<u64, Vec<u32>>,
}

impl Seen {
    /// `similarity`: from which on two texts are nearly the same, in (0, 1].
    pub(super) fn new(similarity: f64) -> Self {
        Self {
            similarity,
            signatures: Vec::new(),
            bands: HashMap::new(),
        }
    }

    /// Whether a text like this one was seen before; if not, it now was.
    pub(super) fn repeats(&mut self, normalized: &str) -> bool {
        let signature = signature(normalized);
        let bands: Vec<u64> = signature
            .chunks(BAND)
            .enumerate()
            .map(|(at, band)| {
                band.iter()
                    .fold(at as u64, |hash, x| mix(hash ^ u64::from(*x)))
            })
            .collect();
        let like = |other: &Signature| {
            let equal = signature.iter().zip(other).filter(|(a, b)| a == b).count();
            equal as f64 / HASHES as f64 >= self.similarity
        };
        let candidates = bands
            .iter()
            .filter_map(|band| self.bands.get(band))
            .flatten();
        if candidates
            .into_iter()
            .any(|at| like(&self.signatures[*at as usize]))
        {
            return true;
        }
        let at = self.signatures.len() as u32;
        self.signatures.push(signature);
        for band in bands {
            self.bands.entry(band).or_default().push(at);
        }
        false
    }
}

fn signature(text: &str) -> Signature {
    let characters: Vec<char> = text.chars().collect();
    let mut signature = [u32::MAX; HASHES];
    // A text shorter than a run is a run.
    for run in characters.windows(SHINGLE.min(characters.len().max(1))) {
        let run = run.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, c| {
            mix(hash ^ u64::from(u32::from(*c)))
        });
        for (i, smallest) in (1u64..).zip(&mut signature) {
            *smallest = (*smallest).min((mix(run ^ mix(i)) >> 32) as u32);
        }
    }
    signature
}

/// SplitMix64's finalizer.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "thecatsleepsontheoldmatallafternoonwhiletherainfallsonthegardenandthedogwaitsatthedoorforsomeonetocomehomeagain";

    #[test]
    fn a_text_with_a_word_changed_is_seen_again_and_another_text_is_not() {
        let mut seen = Seen::new(0.8);
        assert!(!seen.repeats(TEXT));
        assert!(seen.repeats(TEXT));
        assert!(seen.repeats(&TEXT.replace("again", "agains")));
        assert!(
            !seen
                .repeats("parisisthecapitaloffranceandliesontheriverseinewhichflowstothenorthwest")
        );
        // Half of it.
        assert!(!seen.repeats(&TEXT[..TEXT.len() / 2]));
        let mut strict = Seen::new(1.0);
        assert!(!strict.repeats(TEXT) && strict.repeats(TEXT));
        assert!(!strict.repeats(&TEXT.replace("dog", "fox")));
    }

    #[test]
    fn short_and_empty_texts_are_only_like_themselves() {
        let mut seen = Seen::new(0.9);
        for text in ["", "a", "no", "yes", "猫", "猫が"] {
            assert!(!seen.repeats(text), "{text}");
        }
        assert!(seen.repeats("yes") && seen.repeats(""));
    }

    #[test]
    fn the_estimate_is_near_to_the_similarity() {
        // Sets of 900 and 1000 runs, all different, 900 of them shared: 0.9.
        let text = |n: u32| -> String {
            (0..n + 3)
                .filter_map(|i| char::from_u32(0x4e00 + i))
                .collect()
        };
        let (a, b) = (signature(&text(900)), signature(&text(1000)));
        let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!((equal as f64 / HASHES as f64 - 0.9).abs() < 0.1, "{equal}");
    }
}
