//! ggml's own operations against naive references, and what they refuse.
#![allow(clippy::unwrap_used)]

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::quant::{dequantize, quantize};
use thumbprint_ggml::ggml::{
    AdamW, Backend, Binary, GgmlError, Graph, Rotation, Storage, StorageBuilder, Tensor, TensorId,
    Unary, Workspace,
};

/// Tensors with numbers in them; the last one receives a result.
struct Tensors {
    storage: Storage,
    ids: Vec<TensorId>,
}

impl Tensors {
    fn new(shapes: &[&[usize]], out: &[usize]) -> Self {
        let backend = Backend::cpu(1).unwrap();
        let mut builder = StorageBuilder::new();
        let all = shapes.iter().copied().chain([out]);
        let ids: Vec<_> = all.map(|ne| builder.add(GgmlType::F32, ne)).collect();
        let mut storage = builder.build(&backend).unwrap();
        for (i, (id, ne)) in ids.iter().zip(shapes).enumerate() {
            storage
                .write(*id, &numbers(i, ne.iter().product()))
                .unwrap();
        }
        Self { storage, ids }
    }

    fn values(&self, index: usize) -> Vec<f32> {
        self.storage.to_vec(self.ids[index]).unwrap()
    }

    /// What an operation makes of the tensors.
    fn result(
        &self,
        make: impl for<'g> Fn(&'g Graph<'_>, &[Tensor<'g>]) -> Result<Tensor<'g>, GgmlError>,
    ) -> Result<Vec<f32>, GgmlError> {
        let mut backend = Backend::cpu(2).unwrap();
        let mut workspace = Workspace::new(&backend).unwrap();
        let graph = Graph::new(64)?;
        let loaded: Vec<_> = self
            .ids
            .iter()
            .map(|id| graph.load(&self.storage, *id).unwrap())
            .collect();
        let (out, inputs) = loaded.split_last().unwrap();
        graph.store(graph.cont(make(&graph, inputs)?)?, *out)?;
        workspace.compute(&mut backend, &graph)?;
        drop(graph);
        Ok(self.values(self.ids.len() - 1))
    }
}

/// Deterministic numbers between -2 and 2, none close to 0.
fn numbers(seed: usize, n: usize) -> Vec<f32> {
    let number = |i: usize| ((i + 31 * seed) as f32 * 12.9898).sin() * 1.9;
    (0..n)
        .map(|i| number(i) + number(i).signum() * 0.1)
        .collect()
}

fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(
            off <= 2e-5 * expected.abs().max(1.0),
            "{what} at {i}: {found} for {expected}"
        );
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

fn is_refused<T>(result: Result<T, GgmlError>) -> bool {
    matches!(
        result,
        Err(GgmlError::Shape { .. } | GgmlError::Type { .. })
    )
}

#[test]
fn the_second_operand_is_repeated_where_it_is_smaller() {
    for small in [[5, 3, 2], [1, 3, 2], [5, 1, 2], [5, 1, 1], [1, 1, 1]] {
        let tensors = Tensors::new(&[&[5, 3, 2], &small], &[5, 3, 2]);
        let (a, b) = (wide(&tensors.values(0)), wide(&tensors.values(1)));
        let of_b = |i: usize| {
            let at = [i % 5 % small[0], i / 5 % 3 % small[1], i / 15 % small[2]];
            b[at[0] + small[0] * (at[1] + small[1] * at[2])]
        };
        type Naive = fn(f64, f64) -> f64;
        let cases: [(Binary, Naive); 4] = [
            (Binary::Add, |a, b| a + b),
            (Binary::Sub, |a, b| a - b),
            (Binary::Mul, |a, b| a * b),
            (Binary::Div, |a, b| a / b),
        ];
        for (op, naive) in cases {
            let found = tensors.result(|g, t| g.binary(op, t[0], t[1])).unwrap();
            let expected: Vec<f64> = (0..30).map(|i| naive(a[i], of_b(i))).collect();
            assert_close(&format!("{op:?} {small:?}"), &found, &expected);
        }
    }
    let tensors = Tensors::new(&[&[5, 3], &[2, 3]], &[5, 3]);
    assert!(is_refused(tensors.result(|g, t| g.binary(
        Binary::Add,
        t[0],
        t[1]
    ))));
    assert!(is_refused(tensors.result(|g, t| {
        g.binary(Binary::Add, g.permute(t[0], [1, 0, 2, 3])?, t[1])
    })));
}

#[test]
fn functions_of_a_number_are_what_their_names_say() {
    let tensors = Tensors::new(&[&[7, 4], &[7, 4]], &[7, 4]);
    let (x, dy) = (wide(&tensors.values(0)), wide(&tensors.values(1)));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let cases: [(Unary, &dyn Fn(f64) -> f64); 4] = [
        (Unary::Silu, &|x| x * sigmoid(x)),
        (Unary::Tanh, &f64::tanh),
        (Unary::Exp, &f64::exp),
        (Unary::Square, &|x| x * x),
    ];
    for (op, naive) in cases {
        let found = tensors.result(|g, t| g.unary(op, t[0])).unwrap();
        let expected: Vec<f64> = x.iter().map(|x| naive(*x)).collect();
        assert_close(&format!("{op:?}"), &found, &expected);
    }
    let root = tensors.result(|g, t| g.unary(Unary::Root, g.unary(Unary::Square, t[0])?));
    let sizes: Vec<f64> = x.iter().map(|x| x.abs()).collect();
    assert_close("root", &root.unwrap(), &sizes);

    let scaled = tensors.result(|g, t| g.scale(t[0], -3.0, 0.5)).unwrap();
    let expected: Vec<f64> = x.iter().map(|x| -3.0 * x + 0.5).collect();
    assert_close("scale", &scaled, &expected);

    let found = tensors.result(|g, t| g.silu_back(t[1], t[0])).unwrap();
    let slope = |x: f64| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)));
    let expected: Vec<f64> = x.iter().zip(&dy).map(|(x, dy)| dy * slope(*x)).collect();
    assert_close("silu_back", &found, &expected);
}

#[test]
fn rows_are_summed_and_normed_each_by_itself() {
    let tensors = Tensors::new(&[&[6, 5]], &[6, 5]);
    let x = wide(&tensors.values(0));
    let each = |of: &dyn Fn(&[f64]) -> Vec<f64>| x.chunks(6).flat_map(of).collect::<Vec<_>>();
    let mean = |row: &[f64]| row.iter().sum::<f64>() / 6.0;

    let eps = 0.01;
    let rms = each(&|row| {
        let square: Vec<f64> = row.iter().map(|x| x * x).collect();
        let size = (mean(&square) + eps).sqrt();
        row.iter().map(|x| x / size).collect()
    });
    let found = tensors.result(|g, t| g.rms_norm(t[0], eps as f32)).unwrap();
    assert_close("rms_norm", &found, &rms);
    let layer = each(&|row| {
        let center = mean(row);
        let square: Vec<f64> = row.iter().map(|x| (x - center).powi(2)).collect();
        let size = (mean(&square) + eps).sqrt();
        row.iter().map(|x| (x - center) / size).collect()
    });
    let found = tensors
        .result(|g, t| g.layer_norm(t[0], eps as f32))
        .unwrap();
    assert_close("layer_norm", &found, &layer);
    assert!(is_refused(tensors.result(|g, t| g.rms_norm(t[0], -1.0))));
    assert!(is_refused(
        tensors.result(|g, t| g.layer_norm(t[0], f32::NAN))
    ));

    let sums = Tensors::new(&[&[6, 5]], &[1, 5]);
    let found = sums.result(|g, t| g.sum_rows(t[0])).unwrap();
    assert_close("sum_rows", &found, &each(&|row| vec![row.iter().sum()]));
}

#[test]
fn a_softmax_is_taken_of_masked_rows() {
    let (n, rows, heads) = (4, 3, 2);
    let mut tensors = Tensors::new(&[&[n, rows, heads], &[n, rows]], &[n, rows, heads]);
    let mask: Vec<f32> = (0..n * rows)
        .map(|i| {
            if i % n > i / n + 1 {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        })
        .collect();
    tensors.storage.write(tensors.ids[1], &mask).unwrap();
    let x = wide(&tensors.values(0));
    let expected: Vec<f64> = x
        .chunks(n)
        .enumerate()
        .flat_map(|(row, x)| {
            let mask = &mask[row % rows * n..][..n];
            let e: Vec<f64> = x
                .iter()
                .zip(mask)
                .map(|(x, mask)| (0.7 * x + f64::from(*mask)).exp())
                .collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |e| e / sum).collect::<Vec<_>>()
        })
        .collect();
    let found = tensors
        .result(|g, t| g.soft_max(t[0], Some(t[1]), 0.7))
        .unwrap();
    assert_close("soft_max", &found, &expected);
    // What is masked is exactly 0.
    assert_eq!(found[3], 0.0);

    let narrow = Tensors::new(&[&[n, rows, heads], &[n, rows - 1]], &[n, rows, heads]);
    assert!(is_refused(narrow.result(|g, t| g.soft_max(
        t[0],
        Some(t[1]),
        1.0
    ))));
}

#[test]
fn heads_are_turned_by_their_positions_and_back() {
    let (head_dim, n_heads, n) = (8, 2, 3);
    let backend = Backend::cpu(1).unwrap();
    for (halves, n_dims) in [(false, 8), (true, 8), (false, 6), (true, 6)] {
        let mut builder = StorageBuilder::new();
        let shape = [head_dim, n_heads, n];
        let x = builder.add(GgmlType::F32, &shape);
        let positions = builder.add(GgmlType::I32, &[n]);
        let factors = builder.add(GgmlType::F32, &[n_dims / 2]);
        let outs = [(); 2].map(|()| builder.add(GgmlType::F32, &shape));
        let mut storage = builder.build(&backend).unwrap();
        let values = numbers(1, head_dim * n_heads * n);
        let (at, by) = ([0i32, 2, 5], [1.0f32, 3.0, 0.5, 2.0]);
        storage.write(x, &values).unwrap();
        storage.write(positions, &at).unwrap();
        storage.write(factors, &by[..n_dims / 2]).unwrap();
        let rotation = Rotation {
            n_dims,
            halves,
            base: 100.0,
            magnitude: 1.5,
            back: false,
        };
        let graph = Graph::new(64).unwrap();
        let load = |id| graph.load(&storage, id).unwrap();
        let turned = graph
            .rope(load(x), load(positions), load(factors), rotation)
            .unwrap();
        graph.store(turned, load(outs[0])).unwrap();
        let back = Rotation {
            back: true,
            ..rotation
        };
        let returned = graph
            .rope(turned, load(positions), load(factors), back)
            .unwrap();
        graph.store(returned, load(outs[1])).unwrap();
        let odd = Rotation {
            n_dims: 5,
            ..rotation
        };
        assert!(is_refused(graph.rope(
            load(x),
            load(positions),
            load(factors),
            odd
        )));
        let wide_head = Rotation {
            n_dims: 10,
            ..rotation
        };
        assert!(is_refused(graph.rope(
            load(x),
            load(positions),
            load(factors),
            wide_head
        )));
        assert!(is_refused(graph.rope(
            load(x),
            load(factors),
            load(factors),
            rotation
        )));
        Workspace::new(&backend)
            .unwrap()
            .compute(&mut Backend::cpu(1).unwrap(), &graph)
            .unwrap();
        drop(graph);

        let mut expected = wide(&values);
        for (row, head) in expected.chunks_mut(head_dim).enumerate() {
            let position = f64::from(at[row / n_heads]);
            for (pair, by) in by.iter().enumerate().take(n_dims / 2) {
                let frequency = 100f64.powf(-2.0 * pair as f64 / n_dims as f64);
                let angle = position * frequency / f64::from(*by);
                let (i, j) = match halves {
                    true => (pair, pair + n_dims / 2),
                    false => (2 * pair, 2 * pair + 1),
                };
                let (a, b) = (head[i], head[j]);
                head[i] = 1.5 * (a * angle.cos() - b * angle.sin());
                head[j] = 1.5 * (a * angle.sin() + b * angle.cos());
            }
        }
        let [turned, returned] = outs.map(|out| storage.to_vec::<f32>(out).unwrap());
        assert_close("turned", &turned, &expected);
        // Turned and turned back, both times with the magnitude.
        let expected: Vec<f64> = (0..values.len())
            .map(|i| f64::from(values[i]) * if i % head_dim < n_dims { 2.25 } else { 1.0 })
            .collect();
        assert_close("returned", &returned, &expected);
    }
}

#[test]
fn tensors_are_joined_and_their_dimensions_change_places() {
    let tensors = Tensors::new(&[&[3, 2], &[4, 2]], &[7, 2]);
    let (a, b) = (wide(&tensors.values(0)), wide(&tensors.values(1)));
    let expected = [&a[..3], &b[..4], &a[3..], &b[4..]].concat();
    let found = tensors.result(|g, t| g.concat(t[0], t[1], 0)).unwrap();
    assert_close("concat", &found, &expected);
    assert!(is_refused(tensors.result(|g, t| g.concat(t[0], t[1], 1))));
    assert!(is_refused(tensors.result(|g, t| g.concat(t[0], t[1], 4))));

    let tensors = Tensors::new(&[&[2, 3, 4]], &[3, 4, 2]);
    let x = wide(&tensors.values(0));
    let found = tensors
        .result(|g, t| g.permute(t[0], [2, 0, 1, 3]))
        .unwrap();
    let expected: Vec<f64> = (0..24)
        .map(|i| {
            let (i1, i2, i0) = (i % 3, i / 3 % 4, i / 12);
            x[i0 + 2 * (i1 + 3 * i2)]
        })
        .collect();
    assert_close("permute", &found, &expected);
    assert!(is_refused(
        tensors.result(|g, t| g.permute(t[0], [0, 0, 1, 3]))
    ));
    assert!(is_refused(
        tensors.result(|g, t| g.permute(t[0], [4, 0, 1, 3]))
    ));
}

#[test]
fn rows_of_a_quantized_matrix_are_dequantized() {
    let backend = Backend::cpu(1).unwrap();
    for ty in [
        GgmlType::Q4_1,
        GgmlType::Q6_K,
        GgmlType::IQ4_XS,
        GgmlType::F16,
    ] {
        let (width, n_rows) = (256, 5);
        let bytes = quantize(ty, &numbers(2, width * n_rows), width).unwrap();
        let values = dequantize(ty, &bytes, width * n_rows).unwrap();
        let mut builder = StorageBuilder::new();
        let matrix = builder.add(ty, &[width, n_rows]);
        let indices = builder.add(GgmlType::I32, &[3]);
        let out = builder.add(GgmlType::F32, &[width, 3]);
        let mut storage = builder.build(&backend).unwrap();
        storage.write(matrix, &bytes).unwrap();
        storage.write(indices, &[4, 0, 4]).unwrap();
        let graph = Graph::new(16).unwrap();
        let load = |id| graph.load(&storage, id).unwrap();
        let rows = graph.get_rows(load(matrix), load(indices)).unwrap();
        graph.store(rows, load(out)).unwrap();
        assert!(is_refused(graph.get_rows(load(matrix), load(out))));
        assert!(is_refused(graph.get_rows(load(indices), load(indices))));
        Workspace::new(&backend)
            .unwrap()
            .compute(&mut Backend::cpu(1).unwrap(), &graph)
            .unwrap();
        drop(graph);
        let found = storage.to_vec::<f32>(out).unwrap();
        let row = |i: usize| &values[i * width..][..width];
        assert_eq!(found, [row(4), row(0), row(4)].concat(), "{}", ty.name());
    }
}

#[test]
fn clamping_and_repeating_are_those_of_a_naive_reference() {
    let tensors = Tensors::new(&[&[3, 1]], &[6, 4]);
    let x = wide(&tensors.values(0));
    let out = tensors.result(|g, t| g.repeat(g.clamp(t[0], -0.5, 0.5)?, [6, 4, 1, 1]));
    let expected: Vec<f64> = (0..24).map(|i| x[i % 3].clamp(-0.5, 0.5)).collect();
    assert_close("clamped and repeated", &out.unwrap(), &expected);
    assert!(is_refused(
        tensors.result(|g, t| g.repeat(t[0], [4, 4, 1, 1]))
    ));
}

#[test]
fn an_update_by_adamw_is_that_of_a_naive_reference_and_changes_parameters_and_moments_in_place() {
    let n = 37;
    let mut tensors = Tensors::new(&[&[n], &[n], &[n], &[n], &[7]], &[1]);
    let (lr, b1, b2, eps, decay) = (0.01f32, 0.9f32, 0.99f32, 1e-3f32, 0.1f32);
    let settings = [
        lr,
        b1,
        b2,
        eps,
        decay,
        1.0 / (1.0 - b1 * b1),
        1.0 / (1.0 - b2 * b2),
    ];
    tensors.storage.write(tensors.ids[4], &settings).unwrap();
    let squares: Vec<f32> = tensors.values(3).iter().map(|v| v * v).collect();
    tensors.storage.write(tensors.ids[3], &squares).unwrap();
    let [p, g, m, v] = [0, 1, 2, 3].map(|i| wide(&tensors.values(i)));
    let update = |graph: &Graph<'_>, t: &[Tensor<'_>]| {
        graph.adamw(AdamW {
            parameters: t[0],
            gradients: t[1],
            first_moment: t[2],
            second_moment: t[3],
            settings: t[4],
        })
    };
    tensors
        .result(|graph, t| {
            update(graph, t)?;
            graph.columns(t[4], 0, 1)
        })
        .unwrap();
    let [lr, b1, b2, eps, decay, c1, c2] =
        [lr, b1, b2, eps, decay, settings[5], settings[6]].map(f64::from);
    let (mut new_m, mut new_v, mut new_p) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        new_m.push(b1 * m[i] + (1.0 - b1) * g[i]);
        new_v.push(b2 * v[i] + (1.0 - b2) * g[i] * g[i]);
        let step = lr * new_m[i] * c1 / ((new_v[i] * c2).sqrt() + eps);
        new_p.push(p[i] * (1.0 - lr * decay) - step);
    }
    assert_close("parameters", &tensors.values(0), &new_p);
    assert_close("first moment", &tensors.values(2), &new_m);
    assert_close("second moment", &tensors.values(3), &new_v);

    let refused = |change: fn(&mut Vec<Tensor<'_>>)| {
        let outcome = tensors.result(|graph, t| {
            let mut t = t.to_vec();
            change(&mut t);
            update(graph, &t)?;
            Ok(t[4])
        });
        assert!(is_refused(outcome));
    };
    refused(|t| t[4] = t[1]);
    refused(|t| t.swap(1, 4));
}
