//! Pipelines: made when first needed, kept with the device.

use super::expand::expand_text;
use super::link::Link;
use super::shader::Program;
use crate::error::Result;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

/// The flags of a variant, empty ones left out.
pub(super) type Flags = Vec<&'static str>;

pub(super) struct Pipeline {
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// The flag of a variant whose bindings all count as written.
pub(super) const ALIASED: &str = "ALIASED";

/// Holds a pipeline once it is made.
type Cell = Arc<Mutex<Option<Arc<Pipeline>>>>;

#[derive(Default)]
pub(super) struct Pipelines {
    made: Mutex<HashMap<(&'static str, Flags), Cell>>,
}

impl Pipelines {
    /// The pipeline of a variant.
    pub(super) fn get(&self, link: &Link, shader: &'static Program, mut flags: Flags) -> Result<Arc<Pipeline>> {
        // Flags that are no choice of this shader mean nothing to it and would only make the same pipeline again.
        flags.retain(|flag| *flag == ALIASED || shader.axes.iter().any(|axis| axis.contains(flag)));
        flags.sort_unstable();
        flags.dedup();
        let key = (shader.name, flags.clone());
        let cell = Arc::clone(self.made.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        // Held while it is made: two threads do not make the same one twice, and others go on.
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*cell {
            return Ok(Arc::clone(found));
        }
        let pipeline = Arc::new(link.scoped("create_compute_pipeline", 0, || make(&link.device, shader, &flags))?);
        *cell = Some(Arc::clone(&pipeline));
        Ok(pipeline)
    }
}

fn make(device: &wgpu::Device, shader: &Program, flags: &[&str]) -> Result<Pipeline> {
    let text = expand_text(shader.source, flags).map_err(|e| super::error::backend("expand", e))?;
    let aliased = flags.contains(&ALIASED);
    let text = if aliased { text.replace("var<storage, read>", "var<storage, read_write>") } else { text };
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(shader.name),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let entry = |binding: u32, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: binding == 0,
            min_binding_size: if binding == 0 { NonZeroU64::new(shader.params) } else { None },
        },
        count: None,
    };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    for (i, &read_only) in shader.read_only.iter().enumerate() {
        entries.push(entry(i as u32 + 1, wgpu::BufferBindingType::Storage { read_only: read_only && !aliased }));
    }
    let layout = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(shader.name), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(shader.name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(shader.name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        // Workgroup memory is always written before it is read.
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    Ok(Pipeline { raw, layout })
}
