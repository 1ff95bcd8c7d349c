//! Flattens and validates shaders/.

pub fn build() {}
