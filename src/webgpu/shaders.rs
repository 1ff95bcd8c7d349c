//! The shaders and their parameters, written by build/shaders.rs.

use super::shader::{Program, Shader};
include!(concat!(env!("OUT_DIR"), "/shaders.rs"));
