use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::convert_row;
use thumbprint_ggml::ggml::custom::View;
use thumbprint_ggml::ggml::quant::{dequantize, quantize};

use super::super::dequantize::{ROWS, Weight, rows, transposed, transposed_columns};
use super::numbers;

const TYPES: [GgmlType; 10] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q8_0,
    GgmlType::Q4_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
];

/// A weight with its values, `[n_out, n_in]` row-major.
struct Fixture {
    ty: GgmlType,
    ne: [usize; 4],
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Fixture {
    fn new(ty: GgmlType, n_in: usize, n_out: usize, seed: usize) -> Self {
        let bytes = quantize(ty, &numbers(seed, n_in * n_out), n_in).unwrap();
        let values = dequantize(ty, &bytes, n_in * n_out).unwrap();
        Self {
            ty,
            ne: [n_in, n_out, 1, 1],
            bytes,
            values,
        }
    }

    fn weight(&self) -> Weight<'_> {
        let row = self.ty.row_size(self.ne[0]);
        let stride = [self.ty.type_size(), row, row * self.ne[1], row * self.ne[1]];
        Weight {
            ty: self.ty,
            view: View {
                data: &self.bytes,
                ne: self.ne,
                stride,
            },
        }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.ne[0] + column]
    }
}

fn converted(ty: GgmlType, values: &[f32], row: usize) -> Vec<u8> {
    let mut out = vec![0; ty.row_size(row) * (values.len() / row)];
    for (out, values) in out
        .chunks_exact_mut(ty.row_size(row))
        .zip(values.chunks_exact(row))
    {
        convert_row(ty, values, out).unwrap();
    }
    out
}

#[test]
fn rows_are_those_of_a_plain_dequantization() {
    for ty in TYPES {
        let weight = Fixture::new(ty, 512, 70, 1);
        for to in [GgmlType::F32, GgmlType::BF16, GgmlType::F16, GgmlType::Q8_0] {
            let expected = converted(to, &weight.values, 512);
            let row = to.row_size(512);
            for first in (0..70).step_by(ROWS) {
                let n = (70 - first).min(ROWS);
                let mut out = vec![0xff; n * row];
                rows(weight.weight(), first, to, &mut out).unwrap();
                assert_eq!(
                    out,
                    expected[first * row..(first + n) * row],
                    "{} {}",
                    ty.name(),
                    to.name()
                );
            }
        }
    }
}

#[test]
fn transposed_weights_side_by_side_are_those_of_a_plain_dequantization() {
    for ty in TYPES {
        // Rows that fill tiles of 64 and do not; 160 in all, a multiple of every block of the target types.
        let weights =
            [(70, 1), (64, 2), (26, 3)].map(|(n_out, seed)| Fixture::new(ty, 512, n_out, seed));
        let n_out = 160;
        let plain: Vec<f32> = (0..512)
            .flat_map(|column| {
                weights
                    .iter()
                    .flat_map(move |w| (0..w.ne[1]).map(move |row| w.at(row, column)))
            })
            .collect();
        for to in [GgmlType::F32, GgmlType::BF16, GgmlType::F16] {
            let expected = converted(to, &plain, n_out);
            let row = to.row_size(n_out);
            let columns = transposed_columns(ty);
            for first in (0..512).step_by(columns) {
                let mut out = vec![0xff; columns * row];
                let weights = weights.each_ref().map(Fixture::weight);
                transposed(&weights, first, to, &mut out).unwrap();
                let expected = &expected[first * row..(first + columns) * row];
                assert!(out == expected, "{} {} from {first}", ty.name(), to.name());
            }
        }
    }
}

#[test]
fn transposed_weights_of_different_types_may_stand_side_by_side() {
    let weights = [
        Fixture::new(GgmlType::Q4_K, 256, 64, 1),
        Fixture::new(GgmlType::Q6_K, 256, 64, 2),
        Fixture::new(GgmlType::Q8_0, 256, 64, 3),
    ];
    let plain: Vec<f32> = (0..256)
        .flat_map(|column| {
            weights
                .iter()
                .flat_map(move |w| (0..64).map(move |row| w.at(row, column)))
        })
        .collect();
    // Blocks of the target lie within each weight's rows.
    let expected = converted(GgmlType::Q8_0, &plain, 192);
    let mut out = vec![0xff; expected.len()];
    transposed(
        &weights.each_ref().map(Fixture::weight),
        0,
        GgmlType::Q8_0,
        &mut out,
    )
    .unwrap();
    assert!(out == expected);
}
