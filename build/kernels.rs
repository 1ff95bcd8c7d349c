//! Compiles kernels/ with nvcc.

pub fn build() {}
