//! What custom operations compute: safe code over slices, each kernel beside a naive reference in its tests.

use std::num::NonZero;
use std::sync::LazyLock;

pub mod attention;
pub mod dequantize;
pub mod dropout;
pub mod element;
pub mod gemm;
pub mod head;
pub mod rows;
pub mod thin;

#[cfg(test)]
mod tests;

/// Decides how work is divided, never what comes out.
pub(super) fn n_processors() -> usize {
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    *COUNT
}
