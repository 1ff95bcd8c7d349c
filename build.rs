//! What is compiled besides Rust: CUDA kernels (features `cuda` and `cuda-kernels`) and WGSL shaders (feature `wgpu`).
//! Any failure ends the build with a sentence that says what to do.

#[cfg(any(feature = "cuda-kernels", feature = "wgpu"))]
#[path = "build/constants.rs"]
mod constants;
#[cfg(feature = "cuda-kernels")]
#[path = "build/kernels.rs"]
mod kernels;
#[cfg(feature = "wgpu")]
#[path = "build/shaders.rs"]
mod shaders;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda-kernels")]
    kernels::build();
    #[cfg(feature = "wgpu")]
    shaders::build();
}
