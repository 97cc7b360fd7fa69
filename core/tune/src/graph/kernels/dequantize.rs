//! Frozen weights as scratch matrices for fast products: dequantized once per use, for the backward pass also transposed.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::{Out, View};
use thumbprint_ggml::ggml::packed::{PANEL, Packing, pack_columns, pack_rows};
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

impl<'a> Weight<'a> {
    fn row(&self, row: usize, first: usize, len: usize) -> &'a [u8] {
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

/// Rows that one unit of [`packed_transposed`] takes: words are never cut.
pub const PACKED_ROWS: usize = 64;

/// Panel `panel` of several weights one below the other, their rows being the outputs.
pub fn packed(
    packing: Packing,
    weights: &[Weight<'_>],
    panel: usize,
    out: &mut [u32],
) -> Result<(), GgmlError> {
    let rows = rows_from(weights, panel * PANEL, PANEL);
    pack_rows(packing, &rows, weights[0].view.ne[0], &mut Vec::new(), out)
}

/// Rows `first ..` ([`PACKED_ROWS`] of them) of several weights one below the other, their columns being the outputs. Region
/// `i` of `out` is the rows' part of panel `i`.
pub fn packed_transposed(
    packing: Packing,
    weights: &[Weight<'_>],
    first: usize,
    out: &mut Out<'_>,
) -> Result<(), GgmlError> {
    let n_in = weights[0].view.ne[0];
    let rows = rows_from(weights, first, PACKED_ROWS);
    let mut wide = Vec::new();
    for (word, rows) in rows.chunks(packing.inputs()).enumerate() {
        pack_columns(packing, rows, n_in, &mut wide, |panel, write| {
            write(&mut out.region::<u32>(panel)[word * PANEL..][..PANEL]);
        })?;
    }
    Ok(())
}

/// At most `n` rows of several weights one below the other, from row `first` on, each with its format.
fn rows_from<'a>(weights: &[Weight<'a>], first: usize, n: usize) -> Vec<(GgmlType, &'a [u8])> {
    let wanted = first..first + n;
    let mut rows = Vec::with_capacity(n);
    let mut above = 0;
    for weight in weights {
        let [n_in, n_out, ..] = weight.view.ne;
        let range = wanted.start.max(above)..wanted.end.min(above + n_out);
        rows.extend(range.map(|row| (weight.ty, weight.row(row - above, 0, n_in))));
        above += n_out;
    }
    rows
}
