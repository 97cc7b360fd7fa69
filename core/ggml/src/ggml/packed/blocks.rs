//! Panels straight from the blocks of a quantized matrix.
//!
//! The simple formats, of 32 numbers to a scale, are decoded in registers where the CPU has a fast kernel for what comes out;
//! all others become F32 first.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::{Kernel, PANEL, Packing, pair, vectors};
use crate::GgmlType;
use crate::ggml::convert::dequantize_row;
use crate::ggml::error::{GgmlError, Result};

/// A row of a matrix, with its format.
type Row<'a> = (GgmlType, &'a [u8]);

/// Packs the panel whose outputs are these rows of `n_in` numbers each, at most [`PANEL`] of them. `wide` is scratch.
///
/// # Errors
/// [`GgmlError`] for a format that cannot be dequantized, or rows of another length.
///
/// # Panics
/// If `out` is not `words(n_in) * PANEL` long, or there are no rows or more than that.
pub fn pack_rows(
    packing: Packing,
    rows: &[Row<'_>],
    n_in: usize,
    wide: &mut Vec<f32>,
    out: &mut [u32],
) -> Result<()> {
    assert_eq!(out.len(), packing.words(n_in) * PANEL, "length of a panel");
    assert!((1..=PANEL).contains(&rows.len()), "rows of a panel");
    if let Some(ty) = common_type(rows, n_in)?
        && decodes_in_registers(packing, ty, n_in)
        && pack_rows_fast(
            packing,
            ty,
            rows.iter().map(|row| row.1.as_ptr()),
            n_in,
            out,
        )
    {
        return Ok(());
    }
    decode(rows, n_in, wide)?;
    let starts = wide.chunks_exact(n_in).map(|row| row.as_ptr().cast());
    if n_in.is_multiple_of(PANEL) && pack_rows_fast(packing, GgmlType::F32, starts, n_in, out) {
        return Ok(());
    }
    if n_in.is_multiple_of(PANEL) && rows.len() == PANEL && packing == Packing::F32 {
        vectors::pack_rows(wide, n_in, out);
        return Ok(());
    }
    out.fill(0);
    for (r, row) in wide.chunks_exact(n_in).enumerate() {
        let words = row.chunks(packing.inputs());
        for (inputs, out) in words.zip(out.chunks_exact_mut(PANEL)) {
            out[r] = word(packing, inputs[0], inputs.get(1).copied());
        }
    }
    Ok(())
}

/// Packs one word of a transposed matrix of `n` outputs: its inputs are these rows, [`Packing::inputs`] of them or, at the end,
/// fewer. `part(panel, write)` has each panel's part of [`PANEL`] words written where it belongs. `wide` is scratch.
///
/// # Errors
/// As [`pack_rows`].
///
/// # Panics
/// If there are no rows, or too many.
pub fn pack_columns(
    packing: Packing,
    rows: &[Row<'_>],
    n: usize,
    wide: &mut Vec<f32>,
    mut part: impl FnMut(usize, &dyn Fn(&mut [u32])),
) -> Result<()> {
    assert!(
        (1..=packing.inputs()).contains(&rows.len()),
        "rows of a word"
    );
    #[cfg(target_arch = "x86_64")]
    if let Some(ty) = common_type(rows, n)?
        && decodes_in_registers(packing, ty, n)
        && rows.len() == packing.inputs()
        && let Some(kernels) = Kernels::of(ty)
    {
        for panel in 0..n / PANEL {
            part(panel, &|out| {
                assert_eq!(out.len(), PANEL, "part of a panel");
                let block = |row: &Row<'_>| row.1[panel * ty.type_size()..].as_ptr();
                let (low, out) = (block(&rows[0]), out.as_mut_ptr());
                // SAFETY: the CPU has the instructions, each row holds a block for each panel, and the part has its length.
                unsafe {
                    match rows.get(1) {
                        Some(high) => (kernels.pair)(low, block(high), out),
                        None => (kernels.decode)(low, out),
                    }
                }
            });
        }
        return Ok(());
    }
    decode(rows, n, wide)?;
    let (low, high) = wide.split_at(n);
    let high = (!high.is_empty()).then_some(high);
    for panel in 0..n.div_ceil(PANEL) {
        let columns = panel * PANEL..n.min((panel + 1) * PANEL);
        part(panel, &|out| {
            out[columns.len()..].fill(0);
            for (to, column) in out.iter_mut().zip(columns.clone()) {
                *to = word(packing, low[column], high.map(|high| high[column]));
            }
        });
    }
    Ok(())
}

/// Whether products with rows of `n` numbers of this format are faster here than ggml's, which decodes a row for every token.
pub fn is_worth_packing(packing: Packing, ty: GgmlType, n: usize) -> bool {
    let in_vectors = packing.kernel() == Kernel::Vectors
        && matches!(ty, GgmlType::Q4_1 | GgmlType::Q5_1)
        && n.is_multiple_of(PANEL);
    in_vectors || decodes_in_registers(packing, ty, n)
}

/// Whether rows of `n` numbers of this format are decoded in registers here.
fn decodes_in_registers(packing: Packing, ty: GgmlType, n: usize) -> bool {
    use GgmlType::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
    matches!(ty, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0) && n.is_multiple_of(PANEL) && packing.is_avx512()
}

/// The format of all rows, if they have one; rows of another length than `n` numbers are refused.
fn common_type(rows: &[Row<'_>], n: usize) -> Result<Option<GgmlType>> {
    for (ty, row) in rows {
        if !n.is_multiple_of(ty.block_size()) || row.len() != ty.row_size(n) {
            return Err(GgmlError::Size {
                tensor: row.len(),
                host: n,
            });
        }
    }
    let first = rows[0].0;
    Ok(rows.iter().all(|(ty, _)| *ty == first).then_some(first))
}

fn decode(rows: &[Row<'_>], n: usize, wide: &mut Vec<f32>) -> Result<()> {
    wide.resize(rows.len() * n, 0.0);
    for ((ty, row), wide) in rows.iter().zip(wide.chunks_exact_mut(n)) {
        dequantize_row(*ty, row, wide)?;
    }
    Ok(())
}

fn word(packing: Packing, low: f32, high: Option<f32>) -> u32 {
    match packing {
        Packing::Bf16 => pair(low, high.unwrap_or(0.0)),
        Packing::F32 => low.to_bits(),
    }
}

/// Packs a whole panel in registers; false if it is not whole, or the CPU cannot. Rows hold `n_in` numbers of one format.
#[cfg(target_arch = "x86_64")]
fn pack_rows_fast(
    packing: Packing,
    ty: GgmlType,
    starts: impl ExactSizeIterator<Item = *const u8>,
    n_in: usize,
    out: &mut [u32],
) -> bool {
    let Some(kernels) = Kernels::of(ty).filter(|_| starts.len() == PANEL && packing.is_avx512())
    else {
        return false;
    };
    let mut rows = [std::ptr::null(); PANEL];
    rows.iter_mut()
        .zip(starts)
        .for_each(|(to, from)| *to = from);
    let pack = match packing {
        Packing::Bf16 => kernels.rows_bf16,
        Packing::F32 => kernels.rows_f32,
    };
    // SAFETY: the CPU has the instructions, each row holds this many blocks, and `out` has room for all of them.
    unsafe { pack(rows, n_in / PANEL, out.as_mut_ptr()) };
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn pack_rows_fast(
    _: Packing,
    _: GgmlType,
    _: impl ExactSizeIterator<Item = *const u8>,
    _: usize,
    _: &mut [u32],
) -> bool {
    false
}

/// What packs blocks of one format in registers; what each asks for stands at its definition.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Kernels {
    rows_bf16: unsafe fn([*const u8; PANEL], usize, *mut u32),
    rows_f32: unsafe fn([*const u8; PANEL], usize, *mut u32),
    pair: unsafe fn(*const u8, *const u8, *mut u32),
    decode: unsafe fn(*const u8, *mut u32),
}

#[cfg(target_arch = "x86_64")]
impl Kernels {
    fn of(ty: GgmlType) -> Option<Self> {
        match ty {
            GgmlType::Q4_0 => Some(Self::new::<avx512::Q4_0>()),
            GgmlType::Q4_1 => Some(Self::new::<avx512::Q4_1>()),
            GgmlType::Q5_0 => Some(Self::new::<avx512::Q5_0>()),
            GgmlType::Q5_1 => Some(Self::new::<avx512::Q5_1>()),
            GgmlType::Q8_0 => Some(Self::new::<avx512::Q8_0>()),
            GgmlType::F32 => Some(Self::new::<avx512::F32>()),
            _ => None,
        }
    }

    fn new<F: avx512::Format>() -> Self {
        Self {
            rows_bf16: avx512::pack_rows_bf16::<F>,
            rows_f32: avx512::pack_rows_f32::<F>,
            pair: avx512::pair_blocks::<F>,
            decode: avx512::decode_block::<F>,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ggml::convert::bf16_to_f32;
    use crate::ggml::quant::{dequantize, quantize};

    const TYPES: [GgmlType; 10] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::IQ4_NL,
        GgmlType::MXFP4,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::F32,
    ];

    /// A quantized matrix of `n_rows` rows: its bytes and its numbers.
    fn matrix(ty: GgmlType, n_in: usize, n_rows: usize) -> (Vec<u8>, Vec<f32>) {
        let values: Vec<f32> = (0..n_in * n_rows)
            .map(|i| (i as f32 * 12.9898).sin() * (1.0 + (i / n_in) as f32) + 0.1)
            .collect();
        let bytes = quantize(ty, &values, n_in).unwrap();
        let numbers = dequantize(ty, &bytes, values.len()).unwrap();
        (bytes, numbers)
    }

    fn assert_holds(packing: Packing, word: u32, low: f32, high: f32) {
        let close = |found: f32, exact: f32, bits: i32| {
            let off = (found - exact).abs();
            assert!(
                off <= exact.abs() * 0.5f32.powi(bits),
                "{found} for {exact}"
            );
        };
        match packing {
            // Half a unit in the last of 8 bits.
            Packing::Bf16 => {
                close(bf16_to_f32(word as u16), low, 8);
                close(bf16_to_f32((word >> 16) as u16), high, 8);
            }
            // ggml rounds a product before it adds, the fused operation does not; the sum may be small.
            Packing::F32 => close(f32::from_bits(word), low, 16),
        }
    }

    #[test]
    fn a_panel_of_quantized_rows_holds_their_numbers() {
        for (packing, ty) in Packing::ALL
            .into_iter()
            .flat_map(|p| TYPES.map(|ty| (p, ty)))
        {
            for (n_in, n_rows) in [(32, PANEL), (192, PANEL), (64, 5)] {
                let (bytes, numbers) = matrix(ty, n_in, n_rows);
                let rows: Vec<Row<'_>> = bytes
                    .chunks(ty.row_size(n_in))
                    .map(|row| (ty, row))
                    .collect();
                let mut out = vec![u32::MAX; packing.words(n_in) * PANEL];
                pack_rows(packing, &rows, n_in, &mut Vec::new(), &mut out).unwrap();
                for (word, out) in out.chunks(PANEL).enumerate() {
                    for (row, found) in out.iter().enumerate() {
                        let number = |i: usize| numbers.get(row * n_in + i).copied().unwrap_or(0.0);
                        let i = word * packing.inputs();
                        assert_holds(packing, *found, number(i), number(i + 1));
                    }
                }
            }
        }
    }

    #[test]
    fn quantized_rows_become_their_part_of_each_panel() {
        for (packing, ty) in Packing::ALL
            .into_iter()
            .flat_map(|p| TYPES.map(|ty| (p, ty)))
        {
            for (n, n_rows) in [(32, packing.inputs()), (160, packing.inputs()), (64, 1)] {
                let (bytes, numbers) = matrix(ty, n, n_rows);
                let rows: Vec<Row<'_>> =
                    bytes.chunks(ty.row_size(n)).map(|row| (ty, row)).collect();
                let mut parts = vec![[u32::MAX; PANEL]; n.div_ceil(PANEL)];
                pack_columns(packing, &rows, n, &mut Vec::new(), |panel, write| {
                    write(&mut parts[panel]);
                })
                .unwrap();
                for (i, found) in parts.iter().flatten().enumerate() {
                    let high = numbers.get(n + i).copied().unwrap_or(0.0);
                    assert_holds(packing, *found, numbers[i], high);
                }
            }
        }
    }

    #[test]
    fn rows_of_several_formats_make_one_panel() {
        let (four, numbers_four) = matrix(GgmlType::Q4_1, 64, 2);
        let (eight, numbers_eight) = matrix(GgmlType::Q8_0, 64, 1);
        let mut rows: Vec<Row<'_>> = four.chunks(40).map(|row| (GgmlType::Q4_1, row)).collect();
        rows.push((GgmlType::Q8_0, &eight));
        let mut out = vec![u32::MAX; 64 * PANEL];
        pack_rows(Packing::F32, &rows, 64, &mut Vec::new(), &mut out).unwrap();
        for (i, word) in out.chunks(PANEL).enumerate() {
            let expected = [numbers_four[i], numbers_four[64 + i], numbers_eight[i], 0.0];
            for (found, expected) in word.iter().zip(expected) {
                assert_holds(Packing::F32, *found, expected, 0.0);
            }
        }
    }

    #[test]
    fn rows_of_another_length_are_refused() {
        let (bytes, _) = matrix(GgmlType::Q4_1, 64, 1);
        let mut out = vec![0; Packing::F32.words(64) * PANEL];
        let rows = [(GgmlType::Q4_1, &bytes[1..])];
        let wide = &mut Vec::new();
        assert!(pack_rows(Packing::F32, &rows, 64, wide, &mut out).is_err());
        assert!(pack_columns(Packing::F32, &rows, 64, wide, |_, _| ()).is_err());
    }
}
