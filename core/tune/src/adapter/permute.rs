//! The order of the rows of q and k.

use super::Module;
use crate::model::{BlockSpec, RopeKind};

/// Attention heads of a model whose q and k rows llama.cpp's converter reorders (`llama` and its like): it puts the two halves that a
/// rotation joins beside each other. In GGUF row `i d + 2 j + s` is PEFT's row `i d + s d/2 + j`, for head `i`, head size `d`, `j < d/2`,
/// `s` 0 or 1. Of an adapter only B of q and k has such rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadCounts {
    /// Query heads, which divide the rows of q.
    pub n_head: usize,
    /// Key and value heads, which divide the rows of k.
    pub n_head_kv: usize,
}

impl HeadCounts {
    /// The heads whose rows are reordered: of models that rotate neighbours, which is why the converter does it.
    pub fn reordered_in(spec: &BlockSpec) -> Option<HeadCounts> {
        let heads = HeadCounts {
            n_head: spec.n_head,
            n_head_kv: spec.n_head_kv,
        };
        (spec.rope.kind == RopeKind::Interleaved).then_some(heads)
    }

    /// The number of heads of a module whose rows are reordered.
    pub(super) fn of(&self, module: Module) -> Option<usize> {
        match module {
            Module::Q => Some(self.n_head),
            Module::K => Some(self.n_head_kv),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToGguf,
    ToPeft,
}

/// Reorders the rows of `values`, `[n_rows, n_columns]` row-major; None if the rows are not heads of an even size.
pub(super) fn permute(
    values: &[f32],
    n_columns: usize,
    n_heads: usize,
    to: Direction,
) -> Option<Vec<f32>> {
    let n_rows = values.len() / n_columns;
    if n_heads == 0 || !n_rows.is_multiple_of(2 * n_heads) {
        return None;
    }
    let size = n_rows / n_heads;
    let mut out = vec![0.0; values.len()];
    for head in 0..n_heads {
        for j in 0..size / 2 {
            for s in 0..2 {
                let (gguf, peft) = (head * size + 2 * j + s, head * size + s * (size / 2) + j);
                let (from, into) = if to == Direction::ToGguf {
                    (peft, gguf)
                } else {
                    (gguf, peft)
                };
                out[into * n_columns..][..n_columns]
                    .copy_from_slice(&values[from * n_columns..][..n_columns]);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_go_where_the_converter_puts_them() {
        // Two heads of size 4: numpy's arange(8).reshape(2, 2, 2).swapaxes(1, 2).reshape(8).
        let rows: Vec<f32> = (0u8..8).map(f32::from).collect();
        assert_eq!(
            permute(&rows, 1, 2, Direction::ToGguf).unwrap(),
            [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
        );
    }

    #[test]
    fn rows_that_are_not_heads_are_refused() {
        for (rows, heads) in [(8, 0), (8, 3), (6, 2), (8, 8)] {
            assert!(
                permute(&vec![0.0; rows], 1, heads, Direction::ToGguf).is_none(),
                "{rows} {heads}"
            );
        }
    }

    proptest! {
        #[test]
        fn back_and_forth_is_nothing(heads in 1usize..5, half in 1usize..9, columns in 1usize..5) {
            let n = heads * half * 2 * columns;
            let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let there = permute(&values, columns, heads, Direction::ToGguf).unwrap();
            prop_assert_eq!(permute(&there, columns, heads, Direction::ToPeft).unwrap(), values);
        }
    }
}
