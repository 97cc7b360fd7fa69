//! Frozen weights as scratch matrices for fast products: dequantized once per use, for the backward pass also transposed.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::{Out, View};
use thumbprint_ggml::ggml::packed::{PANEL, pack_columns, pack_rows};
use thumbprint_ggml::ggml::{GgmlError, convert_row, dequantize_row};

/// Rows that one unit of [`rows`] converts.
pub const ROWS: usize = 32;
/// Rows of the weight that are transposed at a time.
const TILE: usize = 64;

/// One weight `[n_in, n_out]` as its raw bytes.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// Number format.
    pub ty: GgmlType,
    /// The bytes; `stride[1]` from row to row.
    pub view: View<'a, u8>,
}

impl Weight<'_> {
    fn row(&self, row: usize, first: usize, len: usize) -> &[u8] {
        let start = row * self.view.stride[1] + self.ty.row_size(first);
        &self.view.data[start..start + self.ty.row_size(len)]
    }
}

/// Converts rows `first_row ..` of a weight to type `to`, as many as `out` holds.
pub fn rows(
    weight: Weight<'_>,
    first_row: usize,
    to: GgmlType,
    out: &mut [u8],
) -> Result<(), GgmlError> {
    let n_in = weight.view.ne[0];
    let mut wide = vec![0.0; n_in];
    for (i, out) in out.chunks_exact_mut(to.row_size(n_in)).enumerate() {
        dequantize_row(weight.ty, weight.row(first_row + i, 0, n_in), &mut wide)?;
        convert_row(to, &wide, out)?;
    }
    Ok(())
}

/// Columns that one unit of [`transposed`] takes of weights of this type.
pub fn transposed_columns(ty: GgmlType) -> usize {
    ty.block_size().max(32)
}

/// Columns `first_column ..` of several weights as rows `[total n_out]` of type `to`, as many as `out` holds.
pub fn transposed(
    weights: &[Weight<'_>],
    first_column: usize,
    to: GgmlType,
    out: &mut [u8],
) -> Result<(), GgmlError> {
    let n_out: usize = weights.iter().map(|w| w.view.ne[1]).sum();
    let row_bytes = to.row_size(n_out);
    let columns = out.len() / row_bytes;
    let mut tile = vec![0.0; TILE * columns];
    let mut line = vec![0.0; TILE];
    let mut at = 0;
    for weight in weights {
        let n_rows = weight.view.ne[1];
        for first in (0..n_rows).step_by(TILE) {
            let n = (n_rows - first).min(TILE);
            for (row, wide) in tile.chunks_exact_mut(columns).enumerate().take(n) {
                dequantize_row(
                    weight.ty,
                    weight.row(first + row, first_column, columns),
                    wide,
                )?;
            }
            let (start, end) = (to.row_size(at + first), to.row_size(at + first + n));
            for column in 0..columns {
                for (row, to) in line.iter_mut().enumerate().take(n) {
                    *to = tile[row * columns + column];
                }
                convert_row(to, &line[..n], &mut out[column * row_bytes..][start..end])?;
            }
        }
        at += n_rows;
    }
    Ok(())
}

/// Rows that one unit of [`packed_transposed`] takes: pairs are never cut.
pub const PACKED_ROWS: usize = 64;

/// Panel `panel` of several weights one below the other, their rows being the outputs.
pub fn packed(weights: &[Weight<'_>], panel: usize, out: &mut [u32]) -> Result<(), GgmlError> {
    let n_in = weights[0].view.ne[0];
    let mut wide = vec![0.0; PANEL * n_in];
    let n = dequantize_some(weights, panel * PANEL, &mut wide, n_in)?;
    pack_rows(&wide[..n * n_in], n_in, out);
    Ok(())
}

/// Rows `first ..` ([`PACKED_ROWS`] of them) of several weights one below the other, their columns being the outputs. Region
/// `i` of `out` is the rows' part of panel `i`.
pub fn packed_transposed(
    weights: &[Weight<'_>],
    first: usize,
    out: &mut Out<'_>,
) -> Result<(), GgmlError> {
    let n_in = weights[0].view.ne[0];
    let mut wide = vec![0.0; PACKED_ROWS * n_in];
    let n = dequantize_some(weights, first, &mut wide, n_in)?;
    let rows: Vec<&[f32]> = wide.chunks_exact(n_in).take(n).collect();
    for panel in 0..n_in.div_ceil(PANEL) {
        let pairs = out.region::<u32>(panel).chunks_exact_mut(PANEL);
        for (out, pair) in pairs.zip(rows.chunks(2)) {
            pack_columns(pair[0], pair.get(1).copied(), panel * PANEL, out);
        }
    }
    Ok(())
}

/// Dequantizes rows from `first` on, at most as many as `wide` holds; returns how many there were.
fn dequantize_some(
    weights: &[Weight<'_>],
    first: usize,
    wide: &mut [f32],
    n_in: usize,
) -> Result<usize, GgmlError> {
    let mut wide = wide.chunks_exact_mut(n_in);
    let (mut n, mut start) = (0, 0);
    for weight in weights {
        let end = start + weight.view.ne[1];
        for (row, wide) in ((first + n).max(start)..end).zip(&mut wide) {
            dequantize_row(weight.ty, weight.row(row - start, 0, n_in), wide)?;
            n += 1;
        }
        start = end;
    }
    Ok(n)
}
