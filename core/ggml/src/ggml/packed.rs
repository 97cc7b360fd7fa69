//! Products with frozen matrices, by a kernel of our own.
//!
//! ggml multiplies rows with rows: each output is the sum over the lanes of a register, which for the short rows of a small
//! model costs as much as the products themselves. Here the matrix is packed first, so that each register holds 16 outputs
//! and nothing is summed across lanes. On the CPUs that have it, this is BF16 products summed in F32, as ggml's BF16 is.
//!
//! A packed matrix is cut into *panels* of [`PANEL`] outputs. A panel holds, for each pair of inputs, a `u32` for each of its
//! outputs: two BF16 weights, the even input's in the low half. Missing outputs and a missing last input are zeros.

use super::convert::{bf16_to_f32, f32_to_bf16};

/// Outputs of a panel.
pub const PANEL: usize = 32;

/// Tokens that the kernel takes at a time.
const TILE: usize = 12;
/// Pairs of inputs that are multiplied before the next panel's turn: a panel's share and a block of tokens stay in cache.
const PAIRS: usize = 1024;

/// Whether this CPU has a fast kernel. Without one, [`multiply`] is a slow reference.
pub fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Pairs of `n` inputs.
pub fn pairs(n: usize) -> usize {
    n.div_ceil(2)
}

/// Two numbers as BF16, the first in the low half.
#[inline]
pub fn pair(low: f32, high: f32) -> u32 {
    u32::from(f32_to_bf16(low)) | u32::from(f32_to_bf16(high)) << 16
}

/// Packs a row of inputs: [`pairs`] of them.
///
/// # Panics
/// If `out` has another length.
pub fn pack_inputs(row: &[f32], out: &mut [u32]) {
    assert_eq!(out.len(), pairs(row.len()), "pairs of a row");
    let (whole, rest) = row.as_chunks::<2>();
    for (to, [low, high]) in out.iter_mut().zip(whole) {
        *to = pair(*low, *high);
    }
    if let ([last], Some(to)) = (rest, out.last_mut()) {
        *to = pair(*last, 0.0);
    }
}

/// Packs a panel whose outputs are the rows of `rows` (`[n_in]` each, at most [`PANEL`] of them).
///
/// # Panics
/// If `out` is not `pairs(n_in) * PANEL` long, or `rows` is not made of at most [`PANEL`] rows.
pub fn pack_rows(rows: &[f32], n_in: usize, out: &mut [u32]) {
    let n_rows = rows.len() / n_in;
    assert!(
        n_rows <= PANEL && n_rows * n_in == rows.len(),
        "rows of a panel"
    );
    assert_eq!(out.len(), pairs(n_in) * PANEL, "length of a panel");
    if n_rows < PANEL {
        out.fill(0);
    }
    let done = pack_rows_fast(rows, n_in, out);
    for (r, row) in rows.chunks_exact(n_in).enumerate() {
        for (pair, out) in row[done..]
            .chunks(2)
            .zip(out[done / 2 * PANEL..].chunks_exact_mut(PANEL))
        {
            out[r] = self::pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
        }
    }
}

/// Packs as many inputs of a whole panel's rows as a fast kernel can; returns how many.
#[cfg(target_arch = "x86_64")]
fn pack_rows_fast(rows: &[f32], n_in: usize, out: &mut [u32]) -> usize {
    use avx512::LANES;
    if rows.len() != PANEL * n_in || !is_fast() {
        return 0;
    }
    let n_blocks = n_in / (2 * LANES);
    for block in 0..n_blocks {
        for half in 0..PANEL / LANES {
            let from = &rows[half * LANES * n_in + 2 * LANES * block..];
            let to = &mut out[block * LANES * PANEL + half * LANES..];
            assert!(from.len() >= (LANES - 1) * n_in + 2 * LANES);
            assert!(to.len() >= (LANES - 1) * PANEL + LANES);
            // SAFETY: the CPU has the instructions, and both slices are as long as needed.
            unsafe { avx512::pack(from, n_in, to) };
        }
    }
    2 * LANES * n_blocks
}

#[cfg(not(target_arch = "x86_64"))]
fn pack_rows_fast(_: &[f32], _: usize, _: &mut [u32]) -> usize {
    0
}

/// Packs one pair of inputs of a transposed matrix: its outputs are the columns of the rows `low` and `high`, which are the two
/// inputs. Writes the pair's part of one panel, from column `first` on.
#[inline]
pub fn pack_columns(low: &[f32], high: Option<&[f32]>, first: usize, out: &mut [u32]) {
    let n = low.len().saturating_sub(first).min(out.len());
    let (out, missing) = out.split_at_mut(n);
    missing.fill(0);
    let low = &low[first..first + n];
    match high {
        Some(high) => {
            let high = &high[first..first + n];
            for ((to, low), high) in out.iter_mut().zip(low).zip(high) {
                *to = pair(*low, *high);
            }
        }
        None => {
            for (to, low) in out.iter_mut().zip(low) {
                *to = pair(*low, 0.0);
            }
        }
    }
}

/// `y = W x` for each token: `packed` is W with `n_out` outputs of `n_pairs` pairs of inputs, `x` the packed inputs of the
/// tokens (`[n_pairs]` each), `y` receives `[n_out]` for each.
///
/// # Panics
/// If lengths do not fit.
pub fn multiply(packed: &[u32], n_pairs: usize, x: &[u32], n_out: usize, y: &mut [f32]) {
    let n_panels = n_out.div_ceil(PANEL);
    assert_eq!(packed.len(), n_panels * n_pairs * PANEL, "packed matrix");
    assert!(n_pairs > 0 && n_out > 0, "an empty product");
    let n_tokens = x.len() / n_pairs;
    assert_eq!(x.len(), n_tokens * n_pairs, "packed inputs");
    assert_eq!(y.len(), n_tokens * n_out, "outputs");
    let fast = is_fast();
    for from in (0..n_pairs).step_by(PAIRS) {
        let to = n_pairs.min(from + PAIRS);
        for (p, panel) in packed.chunks_exact(n_pairs * PANEL).enumerate() {
            let first = p * PANEL;
            let blocks = x.chunks(TILE * n_pairs).zip(y.chunks_mut(TILE * n_out));
            for (x, y) in blocks {
                let tile = Tile {
                    panel: &panel[from * PANEL..to * PANEL],
                    x: &x[from..],
                    x_stride: n_pairs,
                    n_tokens: x.len() / n_pairs,
                    add: from > 0,
                };
                if first + PANEL <= n_out {
                    tile.multiply(fast, &mut y[first..], n_out);
                    continue;
                }
                // The last panel is wider than what is left of the outputs.
                let n = n_out - first;
                let mut wide = [0.0; TILE * PANEL];
                for (wide, y) in wide.chunks_mut(PANEL).zip(y.chunks(n_out)) {
                    wide[..n].copy_from_slice(&y[first..]);
                }
                tile.multiply(fast, &mut wide, PANEL);
                for (wide, y) in wide.chunks(PANEL).zip(y.chunks_mut(n_out)) {
                    y[first..].copy_from_slice(&wide[..n]);
                }
            }
        }
    }
}

/// A panel's share of the products with a few tokens.
#[derive(Clone, Copy)]
struct Tile<'a> {
    panel: &'a [u32],
    /// Packed inputs, from the first token's first pair on.
    x: &'a [u32],
    /// From one token to the next.
    x_stride: usize,
    /// 1 to [`TILE`].
    n_tokens: usize,
    /// Whether to add to what is there.
    add: bool,
}

impl Tile<'_> {
    fn n_pairs(&self) -> usize {
        self.panel.len() / PANEL
    }

    /// Writes a panel's outputs for each token, `y_stride` apart.
    fn multiply(&self, fast: bool, y: &mut [f32], y_stride: usize) {
        let last = self.n_tokens - 1;
        assert!(last < TILE, "tokens of a tile");
        assert!(
            self.x.len() >= last * self.x_stride + self.n_pairs(),
            "inputs of a tile"
        );
        assert!(y.len() >= last * y_stride + PANEL, "outputs of a tile");
        #[cfg(target_arch = "x86_64")]
        if fast {
            // SAFETY: the CPU has the instructions (`fast`), and all rows lie inside the slices.
            unsafe {
                match self.n_tokens.div_ceil(4) {
                    1 => avx512::multiply::<4>(self, y, y_stride),
                    2 => avx512::multiply::<8>(self, y, y_stride),
                    _ => avx512::multiply::<12>(self, y, y_stride),
                }
            }
            return;
        }
        let _ = fast;
        self.multiply_slowly(y, y_stride);
    }

    /// What the fast kernels compute, but for the order and the rounding of sums.
    fn multiply_slowly(&self, y: &mut [f32], y_stride: usize) {
        let halves = |pair: u32| (bf16_to_f32(pair as u16), bf16_to_f32((pair >> 16) as u16));
        for token in 0..self.n_tokens {
            let inputs = &self.x[token * self.x_stride..][..self.n_pairs()];
            let sums = &mut y[token * y_stride..][..PANEL];
            if !self.add {
                sums.fill(0.0);
            }
            for (x, weights) in inputs.iter().zip(self.panel.chunks_exact(PANEL)) {
                let (x0, x1) = halves(*x);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    let (w0, w1) = halves(*weight);
                    *sum += w0 * x0 + w1 * x1;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps,
        _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_shuffle_i32x4,
        _mm512_storeu_ps, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    use std::mem::transmute;

    use super::{PANEL, Tile};

    /// Numbers in a register.
    pub const LANES: usize = 16;

    /// [`Tile::multiply_slowly`] for up to `N` tokens. Past the last one, the last is computed again and left out.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and BF16. From the start of each of the tile's 1 to `N` tokens on, its inputs hold as many pairs
    /// as its panel and `y` holds [`PANEL`] numbers.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn multiply<const N: usize>(tile: &Tile<'_>, y: &mut [f32], y_stride: usize) {
        let last = tile.n_tokens - 1;
        // SAFETY: as this function's; the panel holds two registers for each pair.
        unsafe {
            let as_bf16 = |bits: __m512i| transmute::<__m512i, __m512bh>(bits);
            let inputs: [*const u32; N] =
                std::array::from_fn(|i| tile.x.as_ptr().add(i.min(last) * tile.x_stride));
            let y = y.as_mut_ptr();
            let mut sums = [[_mm512_setzero_ps(); 2]; N];
            if tile.add {
                for (i, [low, high]) in sums.iter_mut().enumerate() {
                    let at = y.add(i.min(last) * y_stride);
                    (*low, *high) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(LANES)));
                }
            }
            let mut weights = tile.panel.as_ptr();
            for step in 0..tile.n_pairs() {
                let low = as_bf16(_mm512_loadu_si512(weights.cast()));
                let high = as_bf16(_mm512_loadu_si512(weights.add(LANES).cast()));
                weights = weights.add(PANEL);
                for (x, [sum_low, sum_high]) in inputs.iter().zip(&mut sums) {
                    let x = as_bf16(_mm512_set1_epi32(*x.add(step) as i32));
                    *sum_low = _mm512_dpbf16_ps(*sum_low, low, x);
                    *sum_high = _mm512_dpbf16_ps(*sum_high, high, x);
                }
            }
            for (i, [low, high]) in sums.into_iter().enumerate().take(tile.n_tokens) {
                let at = y.add(i * y_stride);
                _mm512_storeu_ps(at, low);
                _mm512_storeu_ps(at.add(LANES), high);
            }
        }
    }

    /// Packs [`LANES`] pairs of each of [`LANES`] rows, `stride` apart: pair by pair into `out`, [`PANEL`] apart. Numbers too
    /// small for a normal BF16 become 0.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and BF16; `rows` holds twice [`LANES`] numbers from the start of each row on, and `out` as many
    /// pairs from each start on as there are rows.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn pack(rows: &[f32], stride: usize, out: &mut [u32]) {
        // SAFETY: as this function's.
        unsafe {
            let r: [__m512i; LANES] = std::array::from_fn(|i| {
                let row = rows.as_ptr().add(i * stride);
                let (low, high) = (_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(LANES)));
                transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            });
            for (i, pairs) in transpose(r).into_iter().enumerate() {
                _mm512_storeu_si512(out.as_mut_ptr().add(i * PANEL).cast(), pairs);
            }
        }
    }

    /// Element `j` of register `i` becomes element `i` of register `j`.
    #[target_feature(enable = "avx512f")]
    fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
        let mut twos = rows;
        for (to, from) in twos.chunks_exact_mut(2).zip(rows.chunks_exact(2)) {
            to[0] = _mm512_unpacklo_epi32(from[0], from[1]);
            to[1] = _mm512_unpackhi_epi32(from[0], from[1]);
        }
        // Quarter `q` of register `4 i + j` now becomes column `4 q + j` of rows `4 i ..`.
        let mut fours = twos;
        for (to, from) in fours.chunks_exact_mut(4).zip(twos.chunks_exact(4)) {
            to[0] = _mm512_unpacklo_epi64(from[0], from[2]);
            to[1] = _mm512_unpackhi_epi64(from[0], from[2]);
            to[2] = _mm512_unpacklo_epi64(from[1], from[3]);
            to[3] = _mm512_unpackhi_epi64(from[1], from[3]);
        }
        let mut columns = fours;
        for j in 0..4 {
            let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
            let (even_ab, odd_ab) = (
                _mm512_shuffle_i32x4::<0x88>(a, b),
                _mm512_shuffle_i32x4::<0xdd>(a, b),
            );
            let (even_cd, odd_cd) = (
                _mm512_shuffle_i32x4::<0x88>(c, d),
                _mm512_shuffle_i32x4::<0xdd>(c, d),
            );
            columns[j] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
            columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
            columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
            columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic numbers between -1 and 1.
    fn numbers(n: usize, salt: f32) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f32 + salt) * 12.9898).sin())
            .collect()
    }

    fn round(x: f32) -> f64 {
        f64::from(bf16_to_f32(f32_to_bf16(x)))
    }

    fn packed_rows(w: &[f32], n_in: usize) -> Vec<u32> {
        let mut packed = Vec::new();
        for rows in w.chunks(PANEL * n_in) {
            let mut panel = vec![0; pairs(n_in) * PANEL];
            pack_rows(rows, n_in, &mut panel);
            packed.extend(panel);
        }
        packed
    }

    fn product(packed: &[u32], n_in: usize, x: &[f32], n_out: usize) -> Vec<f32> {
        let mut inputs = vec![0; x.len() / n_in * pairs(n_in)];
        for (row, out) in x.chunks(n_in).zip(inputs.chunks_mut(pairs(n_in))) {
            pack_inputs(row, out);
        }
        let mut y = vec![f32::NAN; x.len() / n_in * n_out];
        multiply(packed, pairs(n_in), &inputs, n_out, &mut y);
        y
    }

    /// Odd widths, ragged panels and tiles, several blocks of inputs.
    const SHAPES: [[usize; 3]; 6] = [
        [1, 1, 1],
        [2, 32, 12],
        [7, 33, 5],
        [64, 70, 13],
        [2051, 40, 3],
        [4100, 32, 25],
    ];

    #[test]
    fn products_equal_those_of_rounded_numbers_whatever_the_shape() {
        for [n_in, n_out, n] in SHAPES {
            let (w, x) = (numbers(n_in * n_out, 0.3), numbers(n_in * n, 7.1));
            let y = product(&packed_rows(&w, n_in), n_in, &x, n_out);
            for (t, y) in y.chunks(n_out).enumerate() {
                for (o, y) in y.iter().enumerate() {
                    let terms = (0..n_in).map(|i| round(w[o * n_in + i]) * round(x[t * n_in + i]));
                    let (sum, size) = terms.fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                    let off = (f64::from(*y) - sum).abs();
                    assert!(off <= 1e-5 * size + 1e-6, "{n_in}x{n_out}x{n}: {off}");
                }
            }
        }
    }

    #[test]
    fn the_fast_kernel_gives_what_the_reference_gives() {
        let (panel, x) = (numbers(2 * 50 * PANEL, 0.0), numbers(2 * 50 * TILE, 3.0));
        let pack = |v: &[f32]| -> Vec<u32> {
            v.as_chunks::<2>()
                .0
                .iter()
                .map(|[a, b]| pair(*a, *b))
                .collect()
        };
        let (panel, x) = (pack(&panel), pack(&x));
        for n_tokens in 1..=TILE {
            for add in [false, true] {
                let tile = Tile {
                    panel: &panel,
                    x: &x,
                    x_stride: 50,
                    n_tokens,
                    add,
                };
                let mut outputs = [[0.5; (PANEL + 1) * TILE]; 2];
                tile.multiply(is_fast(), &mut outputs[0], PANEL + 1);
                tile.multiply_slowly(&mut outputs[1], PANEL + 1);
                for (fast, slow) in outputs[0].iter().zip(&outputs[1]) {
                    assert!((fast - slow).abs() < 1e-4, "{fast} {slow}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_packed_by_columns_is_its_transpose_packed_by_rows() {
        for [n_rows, n_columns, _] in SHAPES {
            let w = numbers(n_rows * n_columns, 0.9);
            let transposed: Vec<f32> = (0..n_columns)
                .flat_map(|c| (0..n_rows).map(move |r| (r, c)))
                .map(|(r, c)| w[r * n_columns + c])
                .collect();
            let expected = packed_rows(&transposed, n_rows);
            let mut packed = vec![u32::MAX; expected.len()];
            for (p, panel) in packed.chunks_mut(pairs(n_rows) * PANEL).enumerate() {
                for (i, out) in panel.chunks_mut(PANEL).enumerate() {
                    let row = |r: usize| &w[r * n_columns..][..n_columns];
                    let high = (2 * i + 1 < n_rows).then(|| row(2 * i + 1));
                    pack_columns(row(2 * i), high, p * PANEL, out);
                }
            }
            assert_eq!(packed, expected);
        }
    }
}
