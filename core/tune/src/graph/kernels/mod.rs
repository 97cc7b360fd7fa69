//! What custom operations compute: safe code over slices, each kernel beside a naive reference in its tests.

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
