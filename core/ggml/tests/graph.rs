//! Graphs, storages and custom operations: what they compute, what they refuse, and that nothing ends the process.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use thumbprint_fixtures::TinyModel;
use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::{Kernel, Work};
use thumbprint_ggml::ggml::quant::quantize;
use thumbprint_ggml::ggml::{
    Backend, GgmlError, Graph, Storage, StorageBuilder, Tensor, TensorId, Workspace, bf16_to_f32,
};
use thumbprint_ggml::gguf::Gguf;

/// A CPU and its scratch memory.
struct Machine {
    backend: Backend,
    workspace: Workspace,
}

impl Machine {
    fn new(n_threads: usize) -> Self {
        let backend = Backend::cpu(n_threads).unwrap();
        let workspace = Workspace::new(&backend).unwrap();
        Self { backend, workspace }
    }

    fn compute(&mut self, graph: &Graph<'_>) -> Result<(), GgmlError> {
        self.workspace.compute(&mut self.backend, graph)
    }

    /// F32 tensors of these shapes, filled with [`numbers`].
    fn storage(&self, shapes: &[&[usize]]) -> (Storage, Vec<TensorId>) {
        let mut builder = StorageBuilder::new();
        let ids: Vec<_> = shapes
            .iter()
            .map(|ne| builder.add(GgmlType::F32, ne))
            .collect();
        let mut storage = builder.build(&self.backend).unwrap();
        for (seed, (id, ne)) in ids.iter().zip(shapes).enumerate() {
            storage
                .write(*id, &numbers(seed, ne.iter().product()))
                .unwrap();
        }
        (storage, ids)
    }
}

/// Arbitrary numbers between -1 and 1.
fn numbers(seed: usize, n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 + seed * 101 + 11) as f32 * 0.7391).sin())
        .collect()
}

/// A kernel that does nothing.
fn nothing() -> Kernel<'static> {
    Box::new(|_, _, _| {})
}

fn is_shape<T>(result: Result<T, GgmlError>) -> bool {
    matches!(result, Err(GgmlError::Shape { .. }))
}

// ---- what is computed ----

#[test]
fn a_product_equals_a_naive_one_for_odd_sizes_and_repeated_matrices() {
    let mut machine = Machine::new(2);
    for (k, m, n, batch) in [
        (1, 1, 1, 1),
        (7, 5, 3, 1),
        (64, 33, 17, 1),
        (65, 2, 31, 4),
        (48, 9, 1, 6),
    ] {
        let repeat = if batch > 1 { 2 } else { 1 };
        let shapes: [&[usize]; 3] = [&[k, m, batch / repeat], &[k, n, batch], &[m, n, batch]];
        let (storage, ids) = machine.storage(&shapes);
        let graph = Graph::new(16).unwrap();
        let [a, b, out] = [0, 1, 2].map(|i| graph.load(&storage, ids[i]).unwrap());
        graph.store(graph.mul_mat(a, b).unwrap(), out).unwrap();
        machine.compute(&graph).unwrap();
        drop(graph);
        let [a, b, out] = [0, 1, 2].map(|i| storage.to_vec::<f32>(ids[i]).unwrap());
        for (at, ours) in out.into_iter().enumerate() {
            let (row, column, matrix) = (at % m, at / m % n, at / (m * n));
            let a = &a[(matrix / repeat * m + row) * k..][..k];
            let b = &b[(matrix * n + column) * k..][..k];
            let naive: f64 = a
                .iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            // Observed 2e-6.
            assert!(
                (f64::from(ours) - naive).abs() < 1e-5,
                "{k} {m} {n} {batch} at {at}"
            );
        }
    }
}

#[test]
fn storing_converts_to_the_targets_type_and_loading_it_back_widens() {
    let mut machine = Machine::new(2);
    let (source, ids) = machine.storage(&[&[40, 3]]);
    let mut builder = StorageBuilder::new();
    let bf16 = builder.add(GgmlType::BF16, &[40, 3]);
    let f16 = builder.add(GgmlType::F16, &[40, 3]);
    let wide = builder.add(GgmlType::F32, &[40, 3]);
    let target = builder.build(&machine.backend).unwrap();
    let graph = Graph::new(16).unwrap();
    let x = graph.load(&source, ids[0]).unwrap();
    graph.store(x, graph.load(&target, bf16).unwrap()).unwrap();
    graph.store(x, graph.load(&target, f16).unwrap()).unwrap();
    let widened = graph.to_f32(graph.load(&target, bf16).unwrap()).unwrap();
    graph
        .store(widened, graph.load(&target, wide).unwrap())
        .unwrap();
    machine.compute(&graph).unwrap();
    drop(graph);
    let stored = target.to_vec::<u16>(bf16).unwrap();
    let widened = target.to_vec::<f32>(wide).unwrap();
    for ((x, stored), widened) in numbers(0, 120).iter().zip(stored).zip(widened) {
        assert_eq!(bf16_to_f32(stored), widened);
        assert!((x - widened).abs() <= x.abs() / 256.0);
    }
}

#[test]
fn views_show_the_part_that_they_name() {
    let mut machine = Machine::new(1);
    let (storage, ids) = machine.storage(&[&[6, 5], &[6, 2], &[3, 5], &[2, 3]]);
    let graph = Graph::new(32).unwrap();
    let [x, rows, columns, strided] = [0, 1, 2, 3].map(|i| graph.load(&storage, ids[i]).unwrap());
    graph.store(graph.rows(x, 3, 2).unwrap(), rows).unwrap();
    graph
        .store(graph.columns(x, 1, 3).unwrap(), columns)
        .unwrap();
    // Every second row, from the second column on.
    let part = graph.view(x, [2, 3, 1, 1], [48, 144, 144], 4).unwrap();
    graph.store(part, strided).unwrap();
    machine.compute(&graph).unwrap();
    drop(graph);
    let x = numbers(0, 30);
    assert_eq!(storage.to_vec::<f32>(ids[1]).unwrap(), x[18..30]);
    let columns: Vec<f32> = (0..5)
        .flat_map(|row| x[row * 6 + 1..row * 6 + 4].to_vec())
        .collect();
    assert_eq!(storage.to_vec::<f32>(ids[2]).unwrap(), columns);
    let strided: Vec<f32> = [0, 2, 4]
        .iter()
        .flat_map(|row| x[row * 6 + 1..row * 6 + 3].to_vec())
        .collect();
    assert_eq!(storage.to_vec::<f32>(ids[3]).unwrap(), strided);
}

#[test]
fn every_unit_of_a_custom_operation_runs_once_in_every_computation() {
    for n_threads in [1, 2, 3, 5] {
        let mut machine = Machine::new(n_threads);
        let (storage, ids) = machine.storage(&[&[10, 23], &[10, 23]]);
        let runs: Vec<AtomicUsize> = (0..8).map(|_| AtomicUsize::new(0)).collect();
        let graph = Graph::new(16).unwrap();
        let [x, out] = [0, 1].map(|i| graph.load(&storage, ids[i]).unwrap());
        let work = Work::rows("double", 23, 40, 3);
        let kernel: Kernel<'_> = Box::new(|unit, args, out| {
            runs[unit].fetch_add(1, Ordering::Relaxed);
            let x = args.f32(0);
            for (i, row) in out.region::<f32>(0).chunks_exact_mut(10).enumerate() {
                let x = x.row(unit * 3 + i);
                row.iter_mut().zip(x).for_each(|(y, x)| *y = 2.0 * x);
            }
        });
        let y = graph
            .custom(GgmlType::F32, [10, 23, 1, 1], &[x], work, kernel)
            .unwrap();
        graph.store(y, out).unwrap();
        for _ in 0..3 {
            machine.compute(&graph).unwrap();
        }
        drop(graph);
        assert!(
            runs.iter().all(|n| n.load(Ordering::Relaxed) == 3),
            "{n_threads}: {runs:?}"
        );
        let doubled: Vec<f32> = numbers(0, 230).iter().map(|x| 2.0 * x).collect();
        assert_eq!(storage.to_vec::<f32>(ids[1]).unwrap(), doubled);
    }
}

#[test]
fn an_operation_in_place_changes_its_target_and_reads_its_arguments() {
    let mut machine = Machine::new(2);
    let (storage, ids) = machine.storage(&[&[8, 4], &[8, 4]]);
    let graph = Graph::new(16).unwrap();
    let [x, y] = [0, 1].map(|i| graph.load(&storage, ids[i]).unwrap());
    let work = Work::rows("add", 4, 32, 1);
    let kernel: Kernel<'_> = Box::new(|unit, args, out| {
        let add = args.f32(0).row(unit);
        out.region::<f32>(0)
            .iter_mut()
            .zip(add)
            .for_each(|(x, add)| *x += add);
    });
    let sum = graph.custom_in_place(x, &[y], work, kernel).unwrap();
    graph.expand(sum).unwrap();
    machine.compute(&graph).unwrap();
    drop(graph);
    let sum: Vec<f32> = numbers(0, 32)
        .iter()
        .zip(numbers(1, 32))
        .map(|(x, y)| x + y)
        .collect();
    assert_eq!(storage.to_vec::<f32>(ids[0]).unwrap(), sum);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let outcome = |n_threads: usize| {
        let mut machine = Machine::new(n_threads);
        let (k, m, n) = (96, 37, 21);
        let mut builder = StorageBuilder::new();
        let types = [
            GgmlType::F32,
            GgmlType::F16,
            GgmlType::BF16,
            GgmlType::Q8_0,
            GgmlType::Q4_1,
        ];
        let weights = types.map(|ty| builder.add(ty, &[k, m]));
        let x = builder.add(GgmlType::F32, &[k, n]);
        let outs = types.map(|_| builder.add(GgmlType::F32, &[m, n]));
        let mut storage = builder.build(&machine.backend).unwrap();
        for (id, ty) in weights.iter().zip(types) {
            storage
                .write(*id, &quantize(ty, &numbers(3, k * m), k).unwrap())
                .unwrap();
        }
        storage.write(x, &numbers(4, k * n)).unwrap();
        let graph = Graph::new(64).unwrap();
        let x = graph.load(&storage, x).unwrap();
        for (weight, out) in weights.iter().zip(outs) {
            let product = graph
                .mul_mat(graph.load(&storage, *weight).unwrap(), x)
                .unwrap();
            let work = Work::rows("exponential", n, m * 4, 4);
            let kernel: Kernel<'_> = Box::new(move |unit, args, out| {
                for (i, row) in out.region::<f32>(0).chunks_exact_mut(m).enumerate() {
                    let from = args.f32(0).row(unit * 4 + i);
                    row.iter_mut().zip(from).for_each(|(y, x)| *y = x.exp());
                }
            });
            let y = graph
                .custom(GgmlType::F32, [m, n, 1, 1], &[product], work, kernel)
                .unwrap();
            graph.store(y, graph.load(&storage, out).unwrap()).unwrap();
        }
        machine.compute(&graph).unwrap();
        drop(graph);
        outs.map(|out| storage.to_vec::<f32>(out).unwrap())
    };
    let one = outcome(1);
    assert!(one.iter().flatten().all(|x| x.is_finite() && *x > 0.0));
    for n_threads in [2, 3] {
        assert!(one == outcome(n_threads), "{n_threads} threads");
    }
}

// ---- panics and stopping ----

#[test]
fn a_panic_in_a_kernel_is_an_error_and_the_next_computation_works() {
    for n_threads in [1, 3] {
        let mut machine = Machine::new(n_threads);
        let (storage, ids) = machine.storage(&[&[4, 8]]);
        let panics = Graph::new(16).unwrap();
        let x = panics.load(&storage, ids[0]).unwrap();
        let kernel: Kernel<'_> =
            Box::new(|unit, _, _| assert!(unit != 5, "unit {unit} is unlucky"));
        let y = panics
            .custom(
                GgmlType::F32,
                [4, 8, 1, 1],
                &[x],
                Work::rows("unlucky", 8, 16, 1),
                kernel,
            )
            .unwrap();
        panics
            .store(y, panics.load(&storage, ids[0]).unwrap())
            .unwrap();
        for _ in 0..2 {
            match machine.compute(&panics) {
                Err(GgmlError::Panicked {
                    op: "unlucky",
                    reason,
                }) => {
                    assert_eq!(reason, "unit 5 is unlucky");
                }
                other => panic!("{other:?}"),
            }
        }

        let works = Graph::new(16).unwrap();
        let x = works.load(&storage, ids[0]).unwrap();
        let kernel: Kernel<'_> = Box::new(|unit, _, out| out.region::<f32>(0).fill(unit as f32));
        let y = works
            .custom(
                GgmlType::F32,
                [4, 8, 1, 1],
                &[x],
                Work::rows("lucky", 8, 16, 1),
                kernel,
            )
            .unwrap();
        works
            .store(y, works.load(&storage, ids[0]).unwrap())
            .unwrap();
        machine.compute(&works).unwrap();
        drop((panics, works));
        assert_eq!(storage.to_vec::<f32>(ids[0]).unwrap()[28..], [7.0; 4]);
    }
}

/// What a kernel gets wrong about its arguments panics inside of it, and so is an error as well.
#[test]
fn a_kernel_that_asks_for_what_is_not_there_is_an_error() {
    let mut machine = Machine::new(2);
    let (storage, ids) = machine.storage(&[&[4, 8]]);
    let kernels: [(&str, Kernel<'_>); 5] = [
        (
            "an argument beyond the last",
            Box::new(|_, args, _| _ = args.f32(1)),
        ),
        (
            "another element size",
            Box::new(|_, args, _| _ = args.view::<u16>(0)),
        ),
        (
            "a row beyond the last",
            Box::new(|_, args, _| _ = args.f32(0).row(8)[0]),
        ),
        (
            "a region beyond the last",
            Box::new(|_, _, out| out.region::<f32>(1).fill(0.0)),
        ),
        (
            "two regions of one",
            Box::new(|_, _, out| out.pair::<f32, f32>().0.fill(0.0)),
        ),
    ];
    for (name, kernel) in kernels {
        let graph = Graph::new(16).unwrap();
        let x = graph.load(&storage, ids[0]).unwrap();
        let work = Work::rows("wrong", 8, 16, 2);
        let y = graph
            .custom(GgmlType::F32, [4, 8, 1, 1], &[x], work, kernel)
            .unwrap();
        graph.store(y, x).unwrap();
        let outcome = machine.compute(&graph);
        assert!(
            matches!(outcome, Err(GgmlError::Panicked { .. })),
            "{name}: {outcome:?}"
        );
    }
}

#[test]
fn a_raised_flag_stops_a_computation_after_the_operation_at_hand() {
    for n_threads in [1, 2] {
        let mut machine = Machine::new(n_threads);
        let (storage, ids) = machine.storage(&[&[4, 8]]);
        let abort = machine.backend.abort_flag();
        let later = AtomicUsize::new(0);
        let graph = Graph::new(16).unwrap();
        let x = graph.load(&storage, ids[0]).unwrap();
        let work = || Work::rows("step", 8, 16, 1);
        let raise = Arc::clone(&abort);
        let first: Kernel<'_> = Box::new(move |_, _, _| raise.store(true, Ordering::Relaxed));
        let second: Kernel<'_> = Box::new(|_, _, _| _ = later.fetch_add(1, Ordering::Relaxed));
        let y = graph
            .custom(GgmlType::F32, [4, 8, 1, 1], &[x], work(), first)
            .unwrap();
        let z = graph
            .custom(GgmlType::F32, [4, 8, 1, 1], &[y], work(), second)
            .unwrap();
        graph.store(z, x).unwrap();
        assert!(matches!(machine.compute(&graph), Err(GgmlError::Aborted)));
        assert_eq!(later.load(Ordering::Relaxed), 0, "{n_threads} threads");

        // Lowered, it lets the next computation pass.
        abort.store(false, Ordering::Relaxed);
        let plain = Graph::new(16).unwrap();
        let x = plain.load(&storage, ids[0]).unwrap();
        let y = plain
            .custom(GgmlType::F32, [4, 8, 1, 1], &[x], work(), nothing())
            .unwrap();
        plain.store(y, x).unwrap();
        machine.compute(&plain).unwrap();
    }
}

// ---- what is refused ----

#[test]
fn products_of_shapes_or_types_that_do_not_fit_are_refused() {
    let machine = Machine::new(1);
    let mut builder = StorageBuilder::new();
    let mut add = |ty, ne: &[usize]| builder.add(ty, ne);
    let f32_4x3 = add(GgmlType::F32, &[4, 3]);
    let f32_5x3 = add(GgmlType::F32, &[5, 3]);
    let f32_4x3x2 = add(GgmlType::F32, &[4, 3, 2]);
    let f32_4x3x3 = add(GgmlType::F32, &[4, 3, 3]);
    let bf16 = add(GgmlType::BF16, &[4, 3]);
    let i32s = add(GgmlType::I32, &[4, 3]);
    let storage = builder.build(&machine.backend).unwrap();
    let graph = Graph::new(32).unwrap();
    let load = |id| graph.load(&storage, id).unwrap();
    assert!(is_shape(graph.mul_mat(load(f32_4x3), load(f32_5x3))));
    assert!(
        is_shape(graph.mul_mat(load(f32_4x3x2), load(f32_4x3x3))),
        "2 does not divide 3"
    );
    assert!(
        is_shape(graph.mul_mat(load(f32_4x3x2), load(f32_4x3))),
        "2 does not divide 1"
    );
    let wrong_type = |result: Result<Tensor<'_>, GgmlError>| match result {
        Err(GgmlError::Type { op, ty }) => (op, ty),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        wrong_type(graph.mul_mat(load(f32_4x3), load(bf16))),
        ("mul_mat", GgmlType::BF16)
    );
    assert_eq!(
        wrong_type(graph.mul_mat(load(i32s), load(f32_4x3))),
        ("mul_mat", GgmlType::I32)
    );
    assert_eq!(
        wrong_type(graph.to_f32(load(i32s))),
        ("to_f32", GgmlType::I32)
    );
    let message = graph
        .mul_mat(load(f32_4x3), load(f32_5x3))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("f32[4, 3, 1, 1], f32[5, 3, 1, 1]"),
        "{message}"
    );
}

#[test]
fn views_outside_of_a_tensor_or_across_its_blocks_are_refused() {
    let machine = Machine::new(1);
    let mut builder = StorageBuilder::new();
    let x = builder.add(GgmlType::F32, &[6, 5]);
    let q = builder.add(GgmlType::Q8_0, &[64, 4]);
    let storage = builder.build(&machine.backend).unwrap();
    let graph = Graph::new(64).unwrap();
    let x = graph.load(&storage, x).unwrap();
    let q = graph.load(&storage, q).unwrap();
    graph.view(x, [6, 5, 1, 1], [24, 120, 120], 0).unwrap();
    assert!(
        is_shape(graph.view(x, [6, 5, 1, 1], [24, 120, 120], 4)),
        "one element too far"
    );
    assert!(
        is_shape(graph.view(x, [6, 6, 1, 1], [24, 144, 144], 0)),
        "a row too many"
    );
    assert!(
        is_shape(graph.view(x, [7, 5, 1, 1], [24, 120, 120], 0)),
        "the last row is too long"
    );
    assert!(
        is_shape(graph.view(x, [0, 5, 1, 1], [24, 120, 120], 0)),
        "empty"
    );
    assert!(
        is_shape(graph.view(x, [6, 0, 1, 1], [24, 120, 120], 0)),
        "empty"
    );
    assert!(
        is_shape(graph.view(x, [2, 2, 1, 1], [26, 120, 120], 0)),
        "a stride within an element"
    );
    assert!(
        is_shape(graph.view(x, [2, 2, 1, 1], [24, 120, 120], 2)),
        "an offset within an element"
    );
    // Sums that wrap around.
    let huge = usize::MAX - 3;
    assert!(is_shape(graph.view(x, [1, 1, 1, 1], [24, 120, 120], huge)));
    assert!(is_shape(graph.view(x, [1, 2, 1, 1], [huge, 120, 120], 8)));
    assert!(is_shape(graph.view(
        x,
        [1, 1, 3, 1],
        [24, huge / 2 + 2, 120],
        8
    )));
    assert!(is_shape(graph.view(x, [huge, 1, 1, 1], [24, 120, 120], 0)));
    assert!(is_shape(graph.rows(x, 3, 3)));
    assert!(is_shape(graph.rows(x, usize::MAX / 12, 1)));
    assert!(is_shape(graph.columns(x, 4, 3)));
    assert!(is_shape(graph.columns(x, usize::MAX, 1)));
    graph.columns(q, 32, 32).unwrap();
    assert!(is_shape(graph.columns(q, 16, 32)), "from within a block");
    assert!(is_shape(graph.columns(q, 0, 48)), "to within a block");

    assert!(is_shape(graph.reshape(x, [7, 5, 1, 1])));
    assert!(
        is_shape(graph.reshape(x, [usize::MAX / 2 + 16, 2, 1, 1])),
        "30 once it has wrapped around"
    );
    assert!(
        is_shape(graph.reshape(q, [16, 16, 1, 1])),
        "rows of half a block"
    );
    assert!(
        is_shape(graph.reshape(graph.columns(x, 0, 3).unwrap(), [15, 1, 1, 1])),
        "not contiguous"
    );
    graph.reshape(x, [2, 3, 5, 1]).unwrap();
}

#[test]
fn a_graph_takes_no_more_tensors_than_it_was_made_for() {
    let machine = Machine::new(1);
    let (storage, ids) = machine.storage(&[&[4, 3]]);
    for capacity in [0, 1, 2, 8, 33] {
        let graph = Graph::new(capacity).unwrap();
        let x = graph.load(&storage, ids[0]).unwrap();
        let full = (0..capacity + 1).find_map(|_| graph.reshape(x, [12, 1, 1, 1]).err());
        match full {
            Some(GgmlError::GraphFull { capacity: named }) => assert_eq!(named, capacity),
            other => panic!("{other:?}"),
        }
        let custom = graph.custom(
            GgmlType::F32,
            [4, 3, 1, 1],
            &[x],
            Work::rows("more", 3, 16, 1),
            nothing(),
        );
        assert!(matches!(custom, Err(GgmlError::GraphFull { .. })));
        assert!(matches!(
            graph.store(x, x),
            Err(GgmlError::GraphFull { .. })
        ));
    }
}

#[test]
fn tensors_of_another_graph_are_refused() {
    let machine = Machine::new(1);
    let (storage, ids) = machine.storage(&[&[4, 3], &[4, 3]]);
    let (one, other) = (Graph::new(16).unwrap(), Graph::new(16).unwrap());
    let x = one.load(&storage, ids[0]).unwrap();
    let y = one.mul_mat(x, x).unwrap();
    let own = other.load(&storage, ids[1]).unwrap();
    assert!(is_shape(other.mul_mat(y, own)));
    assert!(is_shape(other.reshape(y, [9, 1, 1, 1])));
    assert!(
        is_shape(other.store(own, x)),
        "loaded by the other graph only"
    );
    let work = Work::rows("foreign", 3, 16, 1);
    assert!(is_shape(other.custom(
        GgmlType::F32,
        [4, 3, 1, 1],
        &[y],
        work.clone(),
        nothing()
    )));
    assert!(is_shape(other.custom_in_place(
        x,
        &[],
        work.clone(),
        nothing()
    )));
    assert!(is_shape(other.expand(y)));
}

#[test]
fn storing_is_refused_where_it_would_write_what_it_must_not() {
    let machine = Machine::new(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    TinyModel::llama().write(&path);
    let gguf = Arc::new(Gguf::open(&path).unwrap());
    let mut mapped = Storage::map(&gguf).unwrap();
    let norm = gguf
        .tensors()
        .iter()
        .position(|t| t.name == "output_norm.weight")
        .unwrap();
    let norm = mapped.id(norm).unwrap();
    assert!(mapped.is_mapped() && mapped.id(gguf.tensors().len()).is_none());
    let before = mapped.to_vec::<f32>(norm).unwrap();
    assert!(is_shape(mapped.write(norm, &vec![0f32; 64])));
    {
        let (storage, ids) = machine.storage(&[&[64], &[63]]);
        let mut builder = StorageBuilder::new();
        let quantized = builder.add(GgmlType::Q8_0, &[64]);
        let quantized_storage = builder.build(&machine.backend).unwrap();
        let graph = Graph::new(32).unwrap();
        let x = graph.load(&storage, ids[0]).unwrap();
        let target = graph.load(&mapped, norm).unwrap();
        assert!(is_shape(graph.store(x, target)));
        assert!(
            is_shape(graph.store(x, graph.reshape(target, [8, 8, 1, 1]).unwrap())),
            "a view of it"
        );
        let work = Work::rows("write", 1, 256, 1);
        assert!(is_shape(graph.custom_in_place(
            target,
            &[x],
            work,
            nothing()
        )));
        let intermediate = graph.mul_mat(x, x).unwrap();
        let one = graph.columns(x, 0, 1).unwrap();
        assert!(is_shape(graph.store(one, intermediate)), "nowhere stored");
        assert!(
            is_shape(graph.store(x, graph.load(&storage, ids[1]).unwrap())),
            "63 elements"
        );
        let quantized = graph.load(&quantized_storage, quantized).unwrap();
        let refused = graph.store(x, quantized);
        assert!(matches!(
            refused,
            Err(GgmlError::Type {
                op: "store",
                ty: GgmlType::Q8_0
            })
        ));
        let refused = graph.store(quantized, x);
        assert!(matches!(
            refused,
            Err(GgmlError::Type {
                op: "store",
                ty: GgmlType::Q8_0
            })
        ));
    }
    assert_eq!(mapped.to_vec::<f32>(norm).unwrap(), before);
}

#[test]
fn work_whose_regions_do_not_part_the_destination_is_refused() {
    let machine = Machine::new(1);
    let (storage, ids) = machine.storage(&[&[4, 4]]);
    let graph = Graph::new(64).unwrap();
    let x = graph.load(&storage, ids[0]).unwrap();
    let custom = |n_units, regions: Vec<Vec<usize>>| {
        let work = Work {
            name: "parts",
            n_units,
            regions,
        };
        graph.custom(GgmlType::F32, [4, 4, 1, 1], &[x], work, nothing())
    };
    custom(2, vec![vec![0, 16, 32], vec![32, 32, 64]]).unwrap();
    custom(2, vec![vec![32, 48, 64], vec![0, 16, 32]]).unwrap();
    assert!(
        is_shape(custom(2, vec![vec![0, 16, 36], vec![32, 48, 64]])),
        "they overlap"
    );
    assert!(
        is_shape(custom(2, vec![vec![0, 16, 32], vec![0, 0, 4]])),
        "they start together"
    );
    assert!(
        is_shape(custom(2, vec![vec![0, 16, 32], vec![8, 12, 16]])),
        "one holds the other"
    );
    assert!(is_shape(custom(2, vec![vec![0, 32, 68]])), "beyond the end");
    assert!(is_shape(custom(2, vec![vec![0, 32, 16]])), "falling");
    assert!(is_shape(custom(2, vec![vec![0, 64]])), "an offset too few");
    assert!(
        is_shape(custom(2, vec![vec![0, 16, 32, 64]])),
        "an offset too many"
    );
    assert!(
        is_shape(custom(2, vec![vec![0, 18, 64]])),
        "within an element"
    );
    assert!(is_shape(custom(0, vec![vec![]])), "no offset");
    let work = Work {
        name: "parts",
        n_units: 1,
        regions: vec![vec![0, 68]],
    };
    assert!(is_shape(graph.custom_in_place(x, &[], work, nothing())));
}

#[test]
fn custom_operations_with_impossible_results_or_arguments_are_refused() {
    let machine = Machine::new(1);
    let (storage, ids) = machine.storage(&[&[4, 4], &[4, 4]]);
    let graph = Graph::new(64).unwrap();
    let [x, y] = [0, 1].map(|i| graph.load(&storage, ids[i]).unwrap());
    let custom = |ty, ne, n_args| {
        let work = Work {
            name: "impossible",
            n_units: 0,
            regions: vec![vec![0]],
        };
        graph.custom(ty, ne, &vec![x; n_args], work, nothing())
    };
    assert!(
        is_shape(custom(GgmlType::Q8_0, [33, 1, 1, 1], 1)),
        "half a block"
    );
    assert!(
        is_shape(custom(GgmlType::F32, [1 << 40, 1 << 40, 1, 1], 1)),
        "not addressable"
    );
    assert!(
        is_shape(custom(GgmlType::F32, [1 << 62, 4, 1, 1], 1)),
        "0 bytes once it has wrapped around"
    );
    custom(GgmlType::F32, [4, 4, 1, 1], 9).unwrap();
    assert!(
        is_shape(custom(GgmlType::F32, [4, 4, 1, 1], 10)),
        "ten arguments"
    );

    let work = || Work::rows("in place", 4, 16, 1);
    graph
        .custom_in_place(x, &[y; 8], work(), nothing())
        .unwrap();
    assert!(
        is_shape(graph.custom_in_place(x, &[y; 9], work(), nothing())),
        "nine and the target"
    );
    assert!(
        is_shape(graph.custom_in_place(x, &[y, x], work(), nothing())),
        "its own argument"
    );
    let part = graph.rows(x, 1, 2).unwrap();
    assert!(
        is_shape(graph.custom_in_place(x, &[part], work(), nothing())),
        "a view of it"
    );
    let column = graph.columns(x, 0, 2).unwrap();
    let work = Work::rows("in place", 4, 8, 1);
    assert!(
        is_shape(graph.custom_in_place(column, &[y], work, nothing())),
        "with gaps"
    );
}

#[test]
fn storages_of_impossible_shapes_are_refused() {
    let machine = Machine::new(1);
    let build = |ty, ne: &[usize]| {
        let mut builder = StorageBuilder::new();
        builder.add(ty, ne);
        builder.build(&machine.backend).err().unwrap()
    };
    assert!(is_shape::<()>(Err(build(GgmlType::Q4_1, &[48, 2]))));
    assert!(is_shape::<()>(Err(build(GgmlType::F32, &[1 << 62, 4]))));
    assert!(is_shape::<()>(Err(build(
        GgmlType::F32,
        &[1 << 40, 1 << 40, 2]
    ))));
    let enormous = build(GgmlType::F32, &[1 << 45]);
    assert!(
        matches!(enormous, GgmlError::Memory { bytes, .. } if bytes == 1 << 47),
        "{enormous}"
    );
}

#[test]
fn reading_and_writing_stay_within_a_tensor() {
    let machine = Machine::new(1);
    let mut builder = StorageBuilder::new();
    let id = builder.add(GgmlType::F32, &[4, 2]);
    let neighbour = builder.add(GgmlType::F32, &[8]);
    assert_eq!(builder.n_bytes(), 64);
    let mut storage = builder.build(&machine.backend).unwrap();
    assert_eq!(
        storage.to_vec::<f32>(id).unwrap(),
        [0.0; 8],
        "zero at first"
    );
    let size = |result: Result<(), GgmlError>| match result {
        Err(GgmlError::Size { tensor, host }) => (tensor, host),
        other => panic!("{other:?}"),
    };
    assert_eq!(size(storage.write(id, &[1f32; 9])), (32, 36));
    assert_eq!(size(storage.write_at(id, 4, &[1f32; 8])), (32, 36));
    assert_eq!(size(storage.write_at(id, usize::MAX - 3, &[1f32; 2])).0, 32);
    assert_eq!(size(storage.read(id, &mut [0f32; 7])), (32, 28));
    assert_eq!(size(storage.read_at(id, 8, &mut [0f32; 7])), (32, 36));
    assert_eq!(
        size(storage.read_at(id, usize::MAX - 3, &mut [0f32; 2])).0,
        32
    );
    storage.write_at(id, 8, &[5f32, 6.0]).unwrap();
    let mut read = [0f32; 3];
    storage.read_at(id, 4, &mut read).unwrap();
    assert_eq!(read, [0.0, 5.0, 6.0]);
    assert_eq!(storage.to_vec::<f32>(neighbour).unwrap(), [0.0; 8]);
}

/// Writing too little is an error, and changes nothing.
#[test]
fn a_write_of_the_wrong_length_leaves_the_tensor_alone() {
    let machine = Machine::new(1);
    let (mut storage, ids) = machine.storage(&[&[4, 2]]);
    assert!(storage.write(ids[0], &[9f32; 3]).is_err());
    assert_eq!(storage.to_vec::<f32>(ids[0]).unwrap(), numbers(0, 8));
}

#[test]
fn the_cpu_supports_custom_operations_and_reports_its_scratch() {
    let mut machine = Machine::new(1);
    assert!(machine.backend.is_cpu());
    assert_eq!(machine.workspace.n_bytes(), 0);
    let (storage, ids) = machine.storage(&[&[64, 64]]);
    let graph = Graph::new(16).unwrap();
    let x = graph.load(&storage, ids[0]).unwrap();
    let y = graph.custom(
        GgmlType::F32,
        [64, 64, 1, 1],
        &[x],
        Work::rows("copy", 64, 256, 1),
        nothing(),
    );
    graph.store(y.unwrap(), x).unwrap();
    assert_eq!(machine.backend.supports(&graph), Ok(()));
    machine.compute(&graph).unwrap();
    assert!(machine.workspace.n_bytes() >= 64 * 64 * 4);
}
