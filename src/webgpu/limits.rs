//! What the shaders need of a device, so that one that offers less is refused when it is opened and not at first use.

use super::raw::BINDING;
use super::shaders::PROGRAMS;
use crate::error::{Error, Result};

/// Elements of the smallest piece take this many bytes in a binding, and some to begin at.
const PIECE: u64 = 65_536 * 4 + 2 * BINDING;

/// Checks a device's limits.
///
/// # Errors
///
/// [`Error::Limit`] with the name of the first limit that is too low.
pub(super) fn enough(limits: &wgpu::Limits) -> Result<()> {
    let most = |of: fn(&super::shader::Program) -> u64| PROGRAMS.iter().map(|p| of(p)).max().unwrap_or(0);
    let bindings = most(|p| p.read_only.len() as u64);
    let threads = most(|p| u64::from(p.workgroup));
    let params = most(|p| p.params);
    let at_least = |what, needed: u64, limit: u64| {
        if needed <= limit { Ok(()) } else { Err(Error::Limit { what, got: needed, limit }) }
    };
    at_least(
        "storage buffers that a shader binds (max_storage_buffers_per_shader_stage)",
        bindings,
        limits.max_storage_buffers_per_shader_stage.into(),
    )?;
    at_least("bind groups of a shader (max_bind_groups)", 1, limits.max_bind_groups.into())?;
    at_least(
        "bindings of a shader (max_bindings_per_bind_group)",
        bindings + 1,
        limits.max_bindings_per_bind_group.into(),
    )?;
    at_least(
        "workgroups of a dispatch (max_compute_workgroups_per_dimension)",
        1,
        limits.max_compute_workgroups_per_dimension.into(),
    )?;
    at_least(
        "threads of a workgroup (max_compute_invocations_per_workgroup)",
        threads,
        limits.max_compute_invocations_per_workgroup.into(),
    )?;
    at_least(
        "threads of a workgroup in x (max_compute_workgroup_size_x)",
        threads,
        limits.max_compute_workgroup_size_x.into(),
    )?;
    at_least(
        "threads of a workgroup in y (max_compute_workgroup_size_y)",
        1,
        limits.max_compute_workgroup_size_y.into(),
    )?;
    at_least(
        "threads of a workgroup in z (max_compute_workgroup_size_z)",
        1,
        limits.max_compute_workgroup_size_z.into(),
    )?;
    at_least(
        "bytes of a workgroup's memory (max_compute_workgroup_storage_size)",
        WORKGROUP_BYTES,
        limits.max_compute_workgroup_storage_size.into(),
    )?;
    at_least(
        "parameters at a dynamic offset (max_dynamic_uniform_buffers_per_pipeline_layout)",
        1,
        limits.max_dynamic_uniform_buffers_per_pipeline_layout.into(),
    )?;
    at_least("bytes of parameters (max_uniform_buffer_binding_size)", params, limits.max_uniform_buffer_binding_size)?;
    at_least(
        "bytes of a storage binding (max_storage_buffer_binding_size)",
        PIECE,
        limits.max_storage_buffer_binding_size,
    )?;
    at_least("bytes of a buffer (max_buffer_size)", PIECE, limits.max_buffer_size)?;
    // The other way round: an offset of 256 must do.
    at_least(
        "alignment of a storage binding (min_storage_buffer_offset_alignment)",
        limits.min_storage_buffer_offset_alignment.into(),
        BINDING,
    )?;
    at_least(
        "alignment of parameters (min_uniform_buffer_offset_alignment)",
        limits.min_uniform_buffer_offset_alignment.into(),
        BINDING,
    )
}

/// Bytes of workgroup memory that the largest shader takes, as its declarations add up: the bins of exact sums.
const WORKGROUP_BYTES: u64 = 6528;
