//! What the CPU's AVX-512 computes.

use std::arch::x86_64::{
    __m128i, __m512, __m512bh, __m512i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8,
    _mm_srli_epi16, _mm256_set1_epi16, _mm512_add_epi32, _mm512_castps_si512, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtph_ps,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_add_epi32,
    _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_ps, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use super::{PANEL, Tile};

/// Numbers in a register.
pub const LANES: usize = 16;

/// [`Tile::multiply_slowly`] of BF16 for up to `N` tokens. Past the last one, the last is computed again and left out.
///
/// # Safety
/// The CPU has AVX-512 F and BF16. From the start of each of the tile's 1 to `N` tokens on, its inputs hold as many pairs
/// as its panel and `y` holds [`PANEL`] numbers.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn multiply_bf16<const N: usize>(tile: &Tile<'_>, y: &mut [f32], y_stride: usize) {
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
        for step in 0..tile.n_words() {
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

/// [`Tile::multiply_slowly`] of F32, likewise.
///
/// # Safety
/// As [`multiply_bf16`].
#[target_feature(enable = "avx512f")]
pub unsafe fn multiply_f32<const N: usize>(tile: &Tile<'_>, y: &mut [f32], y_stride: usize) {
    let last = tile.n_tokens - 1;
    // SAFETY: as this function's; the panel holds two registers for each input.
    unsafe {
        let inputs: [*const f32; N] =
            std::array::from_fn(|i| tile.x.as_ptr().add(i.min(last) * tile.x_stride).cast());
        let y = y.as_mut_ptr();
        let mut sums = [[_mm512_setzero_ps(); 2]; N];
        if tile.add {
            for (i, [low, high]) in sums.iter_mut().enumerate() {
                let at = y.add(i.min(last) * y_stride);
                (*low, *high) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(LANES)));
            }
        }
        let mut weights: *const f32 = tile.panel.as_ptr().cast();
        for step in 0..tile.n_words() {
            let (low, high) = (
                _mm512_loadu_ps(weights),
                _mm512_loadu_ps(weights.add(LANES)),
            );
            weights = weights.add(PANEL);
            for (x, [sum_low, sum_high]) in inputs.iter().zip(&mut sums) {
                let x = _mm512_set1_ps(*x.add(step));
                *sum_low = _mm512_fmadd_ps(low, x, *sum_low);
                *sum_high = _mm512_fmadd_ps(high, x, *sum_high);
            }
        }
        for (i, [low, high]) in sums.into_iter().enumerate().take(tile.n_tokens) {
            let at = y.add(i * y_stride);
            _mm512_storeu_ps(at, low);
            _mm512_storeu_ps(at.add(LANES), high);
        }
    }
}

/// Packs [`LANES`] pairs of a row. Numbers too small for a normal BF16 become 0.
///
/// # Safety
/// The CPU has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn pack_pairs(row: &[f32; 2 * LANES], out: &mut [u32; LANES]) {
    // SAFETY: two registers of numbers become one of pairs.
    unsafe {
        let (low, high) = (
            _mm512_loadu_ps(row.as_ptr()),
            _mm512_loadu_ps(row.as_ptr().add(LANES)),
        );
        let pairs = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs);
    }
}

/// A format of 32 numbers to a block.
pub trait Format {
    /// Bytes of a block.
    const BYTES: usize;

    /// The first sixteen numbers of a block, and the others.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and BW; `block` points to [`BYTES`](Self::BYTES) bytes.
    unsafe fn decode(block: *const u8) -> [__m512; 2];
}

pub struct Q4_0;
pub struct Q4_1;
pub struct Q5_0;
pub struct Q5_1;
pub struct Q8_0;
/// Not quantized: what other formats become first.
pub struct F32;

impl Format for Q4_0 {
    const BYTES: usize = 18;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode(block: *const u8) -> [__m512; 2] {
        // SAFETY: a scale, then sixteen bytes.
        unsafe {
            let scale = half(block);
            let [low, high] = nibbles(block.add(2));
            [shifted(low, -8, scale), shifted(high, -8, scale)]
        }
    }
}

impl Format for Q4_1 {
    const BYTES: usize = 20;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode(block: *const u8) -> [__m512; 2] {
        // SAFETY: a scale, a minimum, then sixteen bytes.
        unsafe {
            let (scale, minimum) = (half(block), half(block.add(2)));
            let [low, high] = nibbles(block.add(4));
            [raised(low, scale, minimum), raised(high, scale, minimum)]
        }
    }
}

impl Format for Q5_0 {
    const BYTES: usize = 22;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode(block: *const u8) -> [__m512; 2] {
        // SAFETY: a scale, the fifth bits, then sixteen bytes.
        unsafe {
            let scale = half(block);
            let [low, high] = with_fifth_bits(nibbles(block.add(6)), block.add(2));
            [shifted(low, -16, scale), shifted(high, -16, scale)]
        }
    }
}

impl Format for Q5_1 {
    const BYTES: usize = 24;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode(block: *const u8) -> [__m512; 2] {
        // SAFETY: a scale, a minimum, the fifth bits, then sixteen bytes.
        unsafe {
            let (scale, minimum) = (half(block), half(block.add(2)));
            let [low, high] = with_fifth_bits(nibbles(block.add(8)), block.add(4));
            [raised(low, scale, minimum), raised(high, scale, minimum)]
        }
    }
}

impl Format for Q8_0 {
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode(block: *const u8) -> [__m512; 2] {
        // SAFETY: a scale, then 32 signed bytes.
        unsafe {
            let scale = half(block);
            let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(2).cast()));
            let high = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(2 + LANES).cast()));
            [shifted(low, 0, scale), shifted(high, 0, scale)]
        }
    }
}

impl Format for F32 {
    const BYTES: usize = 4 * PANEL;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode(block: *const u8) -> [__m512; 2] {
        // SAFETY: 32 numbers.
        unsafe {
            let numbers: *const f32 = block.cast();
            [
                _mm512_loadu_ps(numbers),
                _mm512_loadu_ps(numbers.add(LANES)),
            ]
        }
    }
}

/// `(q + offset) * scale`.
#[inline]
#[target_feature(enable = "avx512f")]
fn shifted(q: __m512i, offset: i32, scale: __m512) -> __m512 {
    let q = _mm512_add_epi32(q, _mm512_set1_epi32(offset));
    _mm512_mul_ps(_mm512_cvtepi32_ps(q), scale)
}

/// `q * scale + minimum`.
#[inline]
#[target_feature(enable = "avx512f")]
fn raised(q: __m512i, scale: __m512, minimum: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), scale, minimum)
}

/// An F16 in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn half(at: *const u8) -> __m512 {
    // SAFETY: two bytes.
    let bits = unsafe { at.cast::<i16>().read_unaligned() };
    _mm512_cvtph_ps(_mm256_set1_epi16(bits))
}

/// The low and the high halves of sixteen bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn nibbles(at: *const u8) -> [__m512i; 2] {
    // SAFETY: sixteen bytes.
    let bytes: __m128i = unsafe { _mm_loadu_si128(at.cast()) };
    let mask = _mm_set1_epi8(15);
    let low = _mm_and_si128(bytes, mask);
    let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
    [_mm512_cvtepu8_epi32(low), _mm512_cvtepu8_epi32(high)]
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn with_fifth_bits([low, high]: [__m512i; 2], at: *const u8) -> [__m512i; 2] {
    // SAFETY: four bytes.
    let bits = unsafe { at.cast::<u32>().read_unaligned() };
    let sixteen = _mm512_set1_epi32(16);
    [
        _mm512_mask_add_epi32(low, bits as u16, low, sixteen),
        _mm512_mask_add_epi32(high, (bits >> 16) as u16, high, sixteen),
    ]
}

/// Rows of blocks as a panel in BF16.
///
/// # Safety
/// The CPU has AVX-512 F, BW and BF16; `out` has room for [`LANES`] words of every row for each of `n_blocks` blocks, which each row
/// holds.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack_rows_bf16<F: Format>(rows: [*const u8; PANEL], n_blocks: usize, out: *mut u32) {
    // SAFETY: as this function's.
    unsafe {
        for block in 0..n_blocks {
            for (half, rows) in rows.chunks_exact(LANES).enumerate() {
                let mut numbers = [_mm512_setzero_si512(); LANES];
                for (row, to) in rows.iter().zip(&mut numbers) {
                    let [low, high] = F::decode(row.add(block * F::BYTES));
                    *to = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                }
                let to = out.add(block * LANES * PANEL + half * LANES);
                for (i, words) in transpose(numbers).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(i * PANEL).cast(), words);
                }
            }
        }
    }
}

/// The same in F32.
///
/// # Safety
/// As [`pack_rows_bf16`], but without BF16, and with twice as many words.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_rows_f32<F: Format>(rows: [*const u8; PANEL], n_blocks: usize, out: *mut u32) {
    // SAFETY: as this function's.
    unsafe {
        for block in 0..n_blocks {
            for (half, rows) in rows.chunks_exact(LANES).enumerate() {
                let mut sides = [[_mm512_setzero_si512(); LANES]; 2];
                for (i, row) in rows.iter().enumerate() {
                    let [low, high] = F::decode(row.add(block * F::BYTES));
                    sides[0][i] = _mm512_castps_si512(low);
                    sides[1][i] = _mm512_castps_si512(high);
                }
                for (side, numbers) in sides.into_iter().enumerate() {
                    let word = (2 * block + side) * LANES;
                    let to = out.add(word * PANEL + half * LANES);
                    for (i, words) in transpose(numbers).into_iter().enumerate() {
                        _mm512_storeu_si512(to.add(i * PANEL).cast(), words);
                    }
                }
            }
        }
    }
}

/// Where the numbers of two registers of 16 go when they are paired.
const PAIRED: [u16; 2 * LANES] = {
    let mut order = [0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        order[2 * i] = i as u16;
        order[2 * i + 1] = (LANES + i) as u16;
        i += 1;
    }
    order
};

/// A block of each of two rows as words.
///
/// # Safety
/// The CPU has AVX-512 F, BW and BF16; `low` and `high` are blocks, and `out` has room for [`PANEL`] words.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pair_blocks<F: Format>(low: *const u8, high: *const u8, out: *mut u32) {
    // SAFETY: as this function's.
    unsafe {
        let order = _mm512_loadu_si512(PAIRED.as_ptr().cast());
        let (low, high) = (F::decode(low), F::decode(high));
        for i in 0..2 {
            let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high[i], low[i]));
            let words = _mm512_permutexvar_epi16(order, both);
            _mm512_storeu_si512(out.add(i * LANES).cast(), words);
        }
    }
}

/// A block as words of F32.
///
/// # Safety
/// The CPU has AVX-512 F and BW; `block` is one, and `out` has room for [`PANEL`] words.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn decode_block<F: Format>(block: *const u8, out: *mut u32) {
    // SAFETY: as this function's.
    unsafe {
        for (i, numbers) in F::decode(block).into_iter().enumerate() {
            _mm512_storeu_ps(out.add(i * LANES).cast(), numbers);
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
