//! Products with frozen matrices, by a kernel of our own.
//!
//! ggml multiplies rows with rows: each output is the sum over the lanes of a register, which for the short rows of a small
//! model costs as much as the products themselves; and it decodes a quantized weight once for every token. Here the matrix is
//! decoded and packed first, so that each register holds 16 outputs and nothing is summed across lanes.
//!
//! A packed matrix is cut into *panels* of [`PANEL`] outputs. A panel holds one `u32` for each of its outputs, *word* by word:
//! what a word holds is its [`Packing`]. Missing outputs and a missing last input are zeros.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
#[cfg(target_arch = "aarch64")]
mod neon;
mod vectors;

use std::sync::OnceLock;
use std::time::Instant;

use super::convert::{bf16_to_f32, f32_to_bf16};

pub use blocks::{is_worth_packing, pack_columns, pack_rows};

/// Outputs of a panel.
pub const PANEL: usize = 32;

/// Tokens that the kernel takes at a time.
const TILE: usize = 12;
/// Words that are multiplied before the next panel's turn: a panel's share and a block of tokens stay in cache.
const WORDS: usize = 1024;

/// What a packed matrix is multiplied in. Sums are in F32. Which is faster differs between CPUs that have both, by a factor of
/// two either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Two BF16 numbers a word, the even input's in the low half.
    Bf16,
    /// One F32 number a word.
    F32,
}

impl Packing {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::F32];

    /// Whether this CPU has a fast kernel for it. Without one, [`multiply`] is a slow reference.
    pub fn is_fast(self) -> bool {
        self.kernel() != Kernel::Reference
    }

    fn kernel(self) -> Kernel {
        #[cfg(target_arch = "x86_64")]
        if self.is_avx512() {
            return Kernel::Avx512;
        }
        #[cfg(target_arch = "aarch64")]
        if self == Self::Bf16 && std::arch::is_aarch64_feature_detected!("bf16") {
            return Kernel::Neon;
        }
        match self {
            Self::F32 if vectors::ARE_FUSED => Kernel::Vectors,
            _ => Kernel::Reference,
        }
    }

    /// Whether it is computed, and quantized blocks are decoded, in registers of AVX-512.
    #[cfg(target_arch = "x86_64")]
    fn is_avx512(self) -> bool {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && (self == Self::F32 || std::arch::is_x86_feature_detected!("avx512bf16"))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_avx512(self) -> bool {
        false
    }

    /// The fastest here, measured once in a process, for less than a millisecond; none if no kernel is fast.
    pub fn fastest() -> Option<Self> {
        static FASTEST: OnceLock<Option<Packing>> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            let fast = Self::ALL.into_iter().filter(|packing| packing.is_fast());
            fast.map(|packing| (packing, packing.seconds()))
                .min_by(|(_, a), (_, b)| a.total_cmp(b))
                .map(|(packing, _)| packing)
        })
    }

    /// Time of a small product, the shortest of several.
    fn seconds(self) -> f64 {
        const N_IN: usize = 512;
        let words = self.words(N_IN);
        let (panel, x) = (vec![0; words * PANEL], vec![0; words * 2 * TILE]);
        let mut y = vec![0.0; 2 * TILE * PANEL];
        let mut best = f64::INFINITY;
        for _ in 0..16 {
            let started = Instant::now();
            multiply(self, &panel, words, &x, PANEL, &mut y);
            best = best.min(started.elapsed().as_secs_f64());
        }
        best
    }

    /// Words of `n` inputs.
    pub fn words(self, n: usize) -> usize {
        n.div_ceil(self.inputs())
    }

    /// Inputs of a word.
    pub fn inputs(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 1,
        }
    }

    /// Packs a row of inputs into [`words`](Self::words).
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn pack_inputs(self, row: &[f32], out: &mut [u32]) {
        assert_eq!(out.len(), self.words(row.len()), "words of a row");
        match self {
            Self::F32 => out.copy_from_slice(bytemuck::cast_slice(row)),
            Self::Bf16 => {
                let done = pack_pairs_fast(row, out);
                let rest = row[2 * done..].chunks(2);
                for (to, pair) in out[done..].iter_mut().zip(rest) {
                    *to = self::pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
                }
            }
        }
    }
}

/// What computes a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Vectors,
    Reference,
}

/// Two numbers as BF16, the first in the low half.
#[inline]
fn pair(low: f32, high: f32) -> u32 {
    u32::from(f32_to_bf16(low)) | u32::from(f32_to_bf16(high)) << 16
}

/// Packs as many pairs of a row as a fast kernel can; returns how many.
#[cfg(target_arch = "x86_64")]
fn pack_pairs_fast(row: &[f32], out: &mut [u32]) -> usize {
    use avx512::LANES;
    if !Packing::Bf16.is_avx512() {
        return 0;
    }
    let rows = row.as_chunks::<{ 2 * LANES }>().0;
    for (row, out) in rows.iter().zip(out.as_chunks_mut::<LANES>().0) {
        // SAFETY: the CPU has the instructions.
        unsafe { avx512::pack_pairs(row, out) };
    }
    rows.len() * LANES
}

#[cfg(not(target_arch = "x86_64"))]
fn pack_pairs_fast(_: &[f32], _: &mut [u32]) -> usize {
    0
}

/// `y = W x` for each token: `packed` is W with `n_out` outputs of `n_words` words, `x` the packed inputs of the tokens (`[n_words]`
/// each), `y` receives `[n_out]` for each. A token's outputs do not depend on how many tokens there are.
///
/// # Panics
/// If lengths do not fit.
pub fn multiply(
    packing: Packing,
    packed: &[u32],
    n_words: usize,
    x: &[u32],
    n_out: usize,
    y: &mut [f32],
) {
    let n_panels = n_out.div_ceil(PANEL);
    assert_eq!(packed.len(), n_panels * n_words * PANEL, "packed matrix");
    assert!(n_words > 0 && n_out > 0, "an empty product");
    let n_tokens = x.len() / n_words;
    assert_eq!(x.len(), n_tokens * n_words, "packed inputs");
    assert_eq!(y.len(), n_tokens * n_out, "outputs");
    let kernel = packing.kernel();
    // Tiles of about the same size: a small one would hardly use the weights that it loads.
    let tile = n_tokens.div_ceil(n_tokens.div_ceil(TILE).max(1)).max(1);
    for from in (0..n_words).step_by(WORDS) {
        let to = n_words.min(from + WORDS);
        for (p, panel) in packed.chunks_exact(n_words * PANEL).enumerate() {
            let first = p * PANEL;
            let blocks = x.chunks(tile * n_words).zip(y.chunks_mut(tile * n_out));
            for (x, y) in blocks {
                let tile = Tile {
                    packing,
                    panel: &panel[from * PANEL..to * PANEL],
                    x: &x[from..],
                    x_stride: n_words,
                    n_tokens: x.len() / n_words,
                    add: from > 0,
                };
                if first + PANEL <= n_out {
                    tile.multiply(kernel, &mut y[first..], n_out);
                    continue;
                }
                // The last panel is wider than what is left of the outputs.
                let n = n_out - first;
                let mut wide = [0.0; TILE * PANEL];
                for (wide, y) in wide.chunks_mut(PANEL).zip(y.chunks(n_out)) {
                    wide[..n].copy_from_slice(&y[first..]);
                }
                tile.multiply(kernel, &mut wide, PANEL);
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
    packing: Packing,
    panel: &'a [u32],
    /// Packed inputs, from the first token's first word on.
    x: &'a [u32],
    /// From one token to the next.
    x_stride: usize,
    /// 1 to [`TILE`].
    n_tokens: usize,
    /// Whether to add to what is there.
    add: bool,
}

impl Tile<'_> {
    fn n_words(&self) -> usize {
        self.panel.len() / PANEL
    }

    /// Writes a panel's outputs for each token, `y_stride` apart.
    fn multiply(&self, kernel: Kernel, y: &mut [f32], y_stride: usize) {
        let last = self.n_tokens - 1;
        assert!(last < TILE, "tokens of a tile");
        assert!(
            self.x.len() >= last * self.x_stride + self.n_words(),
            "inputs of a tile"
        );
        assert!(y.len() >= last * y_stride + PANEL, "outputs of a tile");
        match kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has the instructions, and all rows lie inside the slices.
            Kernel::Avx512 => unsafe {
                match (self.packing, self.n_tokens.div_ceil(4)) {
                    (Packing::Bf16, 1) => avx512::multiply_bf16::<4>(self, y, y_stride),
                    (Packing::Bf16, 2) => avx512::multiply_bf16::<8>(self, y, y_stride),
                    (Packing::Bf16, _) => avx512::multiply_bf16::<12>(self, y, y_stride),
                    (Packing::F32, 1) => avx512::multiply_f32::<4>(self, y, y_stride),
                    (Packing::F32, 2) => avx512::multiply_f32::<8>(self, y, y_stride),
                    (Packing::F32, _) => avx512::multiply_f32::<12>(self, y, y_stride),
                }
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the CPU has the instructions, and all rows lie inside the slices.
            Kernel::Neon => unsafe { neon::multiply_bf16(self, y, y_stride) },
            Kernel::Vectors => vectors::multiply_f32(self, y, y_stride),
            Kernel::Reference => self.multiply_slowly(y, y_stride),
        }
    }

    /// What the fast kernels compute, but for the order and the rounding of sums.
    fn multiply_slowly(&self, y: &mut [f32], y_stride: usize) {
        let halves = |word: u32| match self.packing {
            Packing::Bf16 => (bf16_to_f32(word as u16), bf16_to_f32((word >> 16) as u16)),
            Packing::F32 => (f32::from_bits(word), 0.0),
        };
        for token in 0..self.n_tokens {
            let inputs = &self.x[token * self.x_stride..][..self.n_words()];
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::GgmlType;

    /// Deterministic numbers between -1 and 1.
    fn numbers(n: usize, salt: f32) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f32 + salt) * 12.9898).sin())
            .collect()
    }

    fn round(packing: Packing, x: f32) -> f64 {
        match packing {
            Packing::Bf16 => f64::from(bf16_to_f32(f32_to_bf16(x))),
            Packing::F32 => f64::from(x),
        }
    }

    fn rows(w: &[f32], n_in: usize) -> Vec<(GgmlType, &[u8])> {
        w.chunks(n_in)
            .map(|row| (GgmlType::F32, bytemuck::cast_slice(row)))
            .collect()
    }

    fn packed_rows(packing: Packing, w: &[f32], n_in: usize) -> Vec<u32> {
        let mut packed = Vec::new();
        for rows in rows(w, n_in).chunks(PANEL) {
            let mut panel = vec![u32::MAX; packing.words(n_in) * PANEL];
            pack_rows(packing, rows, n_in, &mut Vec::new(), &mut panel).unwrap();
            packed.extend(panel);
        }
        packed
    }

    fn product(packing: Packing, packed: &[u32], x: &[f32], n_in: usize, n_out: usize) -> Vec<f32> {
        let n_words = packing.words(n_in);
        let mut inputs = vec![0; x.len() / n_in * n_words];
        for (row, out) in x.chunks(n_in).zip(inputs.chunks_mut(n_words)) {
            packing.pack_inputs(row, out);
        }
        let mut y = vec![f32::NAN; x.len() / n_in * n_out];
        multiply(packing, packed, n_words, &inputs, n_out, &mut y);
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
        for packing in Packing::ALL {
            for [n_in, n_out, n] in SHAPES {
                let (w, x) = (numbers(n_in * n_out, 0.3), numbers(n_in * n, 7.1));
                let y = product(packing, &packed_rows(packing, &w, n_in), &x, n_in, n_out);
                for (t, y) in y.chunks(n_out).enumerate() {
                    for (o, y) in y.iter().enumerate() {
                        let terms = (0..n_in).map(|i| {
                            round(packing, w[o * n_in + i]) * round(packing, x[t * n_in + i])
                        });
                        let (sum, size) = terms.fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                        let off = (f64::from(*y) - sum).abs();
                        assert!(
                            off <= 1e-5 * size + 1e-6,
                            "{packing:?} {n_in}x{n_out}x{n}: {off}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_tokens_outputs_do_not_depend_on_how_many_tokens_there_are() {
        let (n_in, n_out) = (70, 40);
        let (w, x) = (numbers(n_in * n_out, 0.3), numbers(n_in * 30, 7.1));
        for packing in Packing::ALL {
            let packed = packed_rows(packing, &w, n_in);
            let together = product(packing, &packed, &x, n_in, n_out);
            for (x, y) in x.chunks(n_in).zip(together.chunks(n_out)) {
                assert_eq!(product(packing, &packed, x, n_in, n_out), y);
            }
        }
    }

    #[test]
    fn the_fast_kernels_give_what_the_reference_gives() {
        for packing in Packing::ALL {
            let pack = |v: &[f32]| -> Vec<u32> {
                let mut words = vec![0; packing.words(v.len())];
                packing.pack_inputs(v, &mut words);
                words
            };
            // More words than one share of a kernel that cuts panels up.
            let n = 300;
            let panel = pack(&numbers(n * PANEL, 0.0));
            let x = pack(&numbers(n * TILE, 3.0));
            let mut kernels = vec![packing.kernel()];
            if packing == Packing::F32 {
                kernels.push(Kernel::Vectors);
            }
            for (n_tokens, kernel) in (1..=TILE).flat_map(|n| kernels.iter().map(move |k| (n, *k)))
            {
                for add in [false, true] {
                    let tile = Tile {
                        packing,
                        panel: &panel,
                        x: &x,
                        x_stride: packing.words(n),
                        n_tokens,
                        add,
                    };
                    let mut outputs = [[0.5; (PANEL + 1) * TILE]; 2];
                    tile.multiply(kernel, &mut outputs[0], PANEL + 1);
                    tile.multiply_slowly(&mut outputs[1], PANEL + 1);
                    for (fast, slow) in outputs[0].iter().zip(&outputs[1]) {
                        assert!((fast - slow).abs() < 1e-4, "{kernel:?}: {fast} {slow}");
                    }
                }
            }
        }
    }

    /// Not a test by itself: `scripts/count-arm` counts the instructions of so many products.
    #[test]
    #[ignore = "counted under qemu"]
    fn products_to_be_counted() {
        let n: usize = std::env::var("THUMBPRINT_PRODUCTS")
            .unwrap()
            .parse()
            .unwrap();
        let packing = match Packing::Bf16.is_fast() {
            true => Packing::Bf16,
            false => Packing::F32,
        };
        let (n_in, n_out, n_tokens) = (576, 192, 48);
        let panels = vec![0; packing.words(n_in) * n_out];
        let x = vec![0; packing.words(n_in) * n_tokens];
        let mut y = vec![0.0; n_out * n_tokens];
        for _ in 0..n {
            multiply(packing, &panels, packing.words(n_in), &x, n_out, &mut y);
        }
        println!("\n{packing:?}, fast: {}", packing.is_fast());
        println!("multiply-adds {}", n * n_in * n_out * n_tokens);
    }

    #[test]
    fn a_matrix_packed_by_columns_is_its_transpose_packed_by_rows() {
        for packing in Packing::ALL {
            for [n_rows, n_columns, _] in SHAPES {
                let w = numbers(n_rows * n_columns, 0.9);
                let transposed: Vec<f32> = (0..n_columns)
                    .flat_map(|c| (0..n_rows).map(move |r| (r, c)))
                    .map(|(r, c)| w[r * n_columns + c])
                    .collect();
                let expected = packed_rows(packing, &transposed, n_rows);
                let mut packed = vec![u32::MAX; expected.len()];
                let n_words = packing.words(n_rows);
                let of_word = rows(&w, n_columns);
                for (word, rows) in of_word.chunks(packing.inputs()).enumerate() {
                    pack_columns(packing, rows, n_columns, &mut Vec::new(), |panel, write| {
                        write(&mut packed[(panel * n_words + word) * PANEL..][..PANEL]);
                    })
                    .unwrap();
                }
                assert_eq!(packed, expected);
            }
        }
    }

    #[test]
    fn where_a_kernel_is_fast_one_is_the_fastest() {
        let any = Packing::ALL.iter().any(|packing| packing.is_fast());
        assert_eq!(Packing::fastest().is_some(), any);
    }
}
