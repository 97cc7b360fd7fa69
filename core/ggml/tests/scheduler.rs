//! Graphs over several backends: the same numbers, told where each came from, and no abort. Two CPUs share a kind of memory, so that
//! ggml gives all of a graph to the first.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::{Kernel, Work};
use thumbprint_ggml::ggml::{
    Backend, GgmlError, Graph, Scheduler, Storage, StorageBuilder, TensorId, Workspace,
};

const K: usize = 48;
const ROWS: usize = 20;

/// `a`, `b`, and where results go.
struct Stored {
    storage: Storage,
    ids: [TensorId; 3],
}

impl Stored {
    fn new(backend: &Backend) -> Self {
        let mut builder = StorageBuilder::new();
        let ids = [[K, ROWS], [K, ROWS], [ROWS, ROWS]].map(|ne| builder.add(GgmlType::F32, &ne));
        let mut storage = builder.build(backend).unwrap();
        for (seed, id) in ids[..2].iter().enumerate() {
            let numbers: Vec<f32> = (0..K * ROWS)
                .map(|i| ((i * 37 + seed * 101 + 11) as f32 * 0.7391).sin())
                .collect();
            storage.write(*id, &numbers).unwrap();
        }
        Self { storage, ids }
    }

    /// Stores twice the product of `a` and `b`; the kernel that doubles is `double` or another.
    fn graph<'a>(&'a self, kernel: Kernel<'a>) -> Graph<'a> {
        let graph = Graph::new(16).unwrap();
        let [a, b, out] = self.ids.map(|id| graph.load(&self.storage, id).unwrap());
        let product = graph.mul_mat(a, b).unwrap();
        let work = Work::rows("double", ROWS, ROWS * 4, 1);
        let doubled = graph.custom(GgmlType::F32, [ROWS, ROWS, 1, 1], &[product], work, kernel);
        graph.store(doubled.unwrap(), out).unwrap();
        graph
    }

    fn result(&self) -> Vec<f32> {
        self.storage.to_vec(self.ids[2]).unwrap()
    }
}

fn double() -> Kernel<'static> {
    Box::new(|unit, args, out| {
        let x = args.f32(0);
        for (y, x) in out.region::<f32>(0).iter_mut().zip(x.row(unit)) {
            *y = 2.0 * x;
        }
    })
}

fn two_cpus() -> Scheduler {
    Scheduler::new(vec![Backend::cpu(1).unwrap(), Backend::cpu(2).unwrap()], 64).unwrap()
}

#[test]
fn several_backends_compute_what_one_does_and_tell_where() {
    let mut one = Backend::cpu(2).unwrap();
    let expected = Stored::new(&one);
    let graph = expected.graph(double());
    let mut workspace = Workspace::new(&one).unwrap();
    workspace.compute(&mut one, &graph).unwrap();
    drop(graph);
    assert!(expected.result().iter().any(|x| x.abs() > 1.0));

    let mut scheduler = two_cpus();
    let stored = Stored::new(&scheduler.backends()[1]);
    let placements = scheduler.compute(stored.graph(double())).unwrap();
    assert_eq!(stored.result(), expected.result());
    let placements: Vec<_> = placements
        .iter()
        .map(|p| (p.op.as_str(), p.backend))
        .collect();
    assert_eq!(placements, [("MUL_MAT", 0), ("CUSTOM", 0), ("CPY", 0)]);
    assert!(scheduler.n_bytes(0) + scheduler.n_bytes(1) >= ROWS * ROWS * 4);
}

#[test]
fn a_larger_graph_follows_a_smaller_one() {
    let mut scheduler = two_cpus();
    let stored = Stored::new(&scheduler.backends()[0]);
    scheduler.compute(stored.graph(double())).unwrap();
    let first = stored.result();
    let graph = Graph::new(32).unwrap();
    let [a, b, out] = stored
        .ids
        .map(|id| graph.load(&stored.storage, id).unwrap());
    let mut product = graph.mul_mat(a, b).unwrap();
    for _ in 0..8 {
        let work = Work::rows("double", ROWS, ROWS * 4, 1);
        let doubled = graph.custom(
            GgmlType::F32,
            [ROWS, ROWS, 1, 1],
            &[product],
            work,
            double(),
        );
        product = doubled.unwrap();
    }
    graph.store(product, out).unwrap();
    scheduler.compute(graph).unwrap();
    for (eighth, first) in stored.result().iter().zip(first) {
        assert_eq!(*eighth, first * 128.0);
    }
}

#[test]
fn panics_are_errors_and_a_raised_flag_stops_the_computation() {
    let mut scheduler = two_cpus();
    let stored = Stored::new(&scheduler.backends()[0]);
    let panics: Kernel<'_> = Box::new(|unit, _, _| assert!(unit != 5, "unit {unit} is unlucky"));
    match scheduler.compute(stored.graph(panics)) {
        Err(GgmlError::Panicked { op, reason }) => {
            assert_eq!((op, reason.as_str()), ("double", "unit 5 is unlucky"));
        }
        other => panic!("{other:?}"),
    }
    let flag = scheduler.backends()[0].abort_flag();
    let raise = Arc::clone(&flag);
    let kernel: Kernel<'_> = Box::new(move |_, _, _| raise.store(true, Ordering::Relaxed));
    let before = stored.result();
    let outcome = scheduler.compute(stored.graph(kernel));
    assert!(matches!(outcome, Err(GgmlError::Aborted)), "{outcome:?}");
    assert_eq!(stored.result(), before);
    flag.store(false, Ordering::Relaxed);
    scheduler.compute(stored.graph(double())).unwrap();
}

#[test]
fn a_scheduler_that_cannot_serve_says_so() {
    let none = Scheduler::new(Vec::new(), 64);
    assert!(matches!(none, Err(GgmlError::NoBackend { .. })));
    let mut small = Scheduler::new(vec![Backend::cpu(1).unwrap()], 4).unwrap();
    let stored = Stored::new(&small.backends()[0]);
    let outcome = small.compute(stored.graph(double()));
    assert!(matches!(outcome, Err(GgmlError::GraphFull { capacity: 4 })));
}
