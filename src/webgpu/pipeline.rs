//! Pipelines: made when first needed, kept with the device.

use super::expand::expand_text;
use super::launch::ALIASED;
use super::shaders::Params;
use super::{Shader, Wgpu};
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

/// Where a pipeline is put when it is made.
type Place = Arc<Mutex<Option<Arc<Pipeline>>>>;

#[derive(Default)]
pub(super) struct Pipelines {
    made: Mutex<HashMap<(&'static str, Flags), Place>>,
}

/// Bytes of the parameters of one dispatch.
pub(super) const PARAMS: u64 = size_of::<Params>() as u64;

impl Wgpu {
    pub(super) fn pipeline(&self, shader: &'static Shader, mut flags: Flags) -> Result<Arc<Pipeline>> {
        // Flags that are no choice of this shader mean nothing to it and would only make the same pipeline again.
        flags.retain(|flag| *flag == ALIASED || shader.axes.iter().any(|axis| axis.contains(flag)));
        flags.sort_unstable();
        flags.dedup();
        let key = (shader.name, flags.clone());
        let place = Arc::clone(
            self.inner.pipelines.made.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default(),
        );
        // Held while it is made: two threads do not make the same one twice, and others go on.
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*place {
            return Ok(Arc::clone(found));
        }
        let pipeline = Arc::new(self.scoped("create_compute_pipeline", 0, || self.make(shader, &flags))?);
        *place = Some(Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn make(&self, shader: &Shader, flags: &[&str]) -> Result<Pipeline> {
        let text = expand_text(shader.source, flags).map_err(|e| super::error::backend("expand", e))?;
        let aliased = flags.contains(&ALIASED);
        let text = if aliased { text.replace("var<storage, read>", "var<storage, read_write>") } else { text };
        let device = &self.inner.device;
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
                min_binding_size: if binding == 0 { NonZeroU64::new(PARAMS) } else { None },
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
}
