//! Every operation of a [`Device`]: its items are turned into those of its backend, and that is called.

use super::arm::{Arm, on};
use super::{Device, Reports, View, ViewMut};
use crate::cpu::Cpu;
#[cfg(feature = "cuda-kernels")]
use crate::cuda::Cuda;
use crate::error::Result;
use crate::op::item::Rewrap;
use crate::op::{Checked, Launch, Operation};
use crate::types::Element;
#[cfg(feature = "wgpu")]
use crate::webgpu::Wgpu;
use bytemuck::Pod;

/// The device's own views, or [`crate::Error::WrongDevice`].
struct Own<'b, B>(&'b B);

impl<B: Arm> Rewrap<Device, B> for Own<'_, B> {
    fn view<'s, 'l: 's, T: Pod + Send + Sync>(&self, view: View<'l, T>) -> Result<B::View<'s, T>> {
        self.0.of(view)
    }

    fn view_mut<'s, T: Pod + Send + Sync>(&self, view: &'s mut ViewMut<'_, T>) -> Result<B::ViewMut<'s, T>> {
        self.0.of_mut(view)
    }

    fn reports<'r>(&self, reports: &'r Reports) -> Result<&'r B::Reports> {
        self.0.of_reports(reports)
    }

    fn reports_mut<'r>(&self, reports: &'r mut Reports) -> Result<&'r mut B::Reports> {
        self.0.of_reports_mut(reports)
    }
}

/// With the backends that are compiled in.
macro_rules! dispatch {
    ($($backend:ty),*) => {
        impl<O: Operation> Launch<O> for Device
        where
            $($backend: Launch<O>),*
        {
            fn launch<T: Element>(&self, work: Checked<'_, '_, Self, O, T>) -> Result<()> {
                on!(Device(b) = self => work.rewrapped(&Own(b), |work| b.launch(work)))
            }
        }
    };
}

#[cfg(all(feature = "cuda-kernels", feature = "wgpu"))]
dispatch!(Cpu, Cuda, Wgpu);
#[cfg(all(feature = "cuda-kernels", not(feature = "wgpu")))]
dispatch!(Cpu, Cuda);
#[cfg(all(feature = "wgpu", not(feature = "cuda-kernels")))]
dispatch!(Cpu, Wgpu);
#[cfg(not(any(feature = "cuda-kernels", feature = "wgpu")))]
dispatch!(Cpu);
