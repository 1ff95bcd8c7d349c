//! The one place that lists the backends behind [`Device`]: a line in `on!` and a call of `arm!` for each.

use super::{Buffer, Device, Reports, View, ViewMut};
use crate::cpu::Cpu;
#[cfg(feature = "cuda-kernels")]
use crate::cuda::Cuda;
use crate::error::Result;
use crate::memory::Memory;
#[cfg(feature = "wgpu")]
use crate::webgpu::Wgpu;
use bytemuck::Pod;

/// One match arm a backend: `on!(Enum(x) = value => e)` is `e` with the backend's own value in `x`;
/// `on!(Enum(x): B = value => e)` also names the backend's type `B`.
macro_rules! on {
    ($enum:ident($held:ident) = $value:expr => $e:expr) => {
        match $value {
            $enum::Cpu($held) => $e,
            #[cfg(feature = "cuda-kernels")]
            $enum::Cuda($held) => $e,
            #[cfg(feature = "wgpu")]
            $enum::Wgpu($held) => $e,
        }
    };
    ($enum:ident($held:ident): $backend:ident = $value:expr => $e:expr) => {
        match $value {
            $enum::Cpu($held) => {
                type $backend = $crate::cpu::Cpu;
                $e
            }
            #[cfg(feature = "cuda-kernels")]
            $enum::Cuda($held) => {
                type $backend = $crate::cuda::Cuda;
                $e
            }
            #[cfg(feature = "wgpu")]
            $enum::Wgpu($held) => {
                type $backend = $crate::webgpu::Wgpu;
                $e
            }
        }
    };
}
pub(super) use on;

/// From one backend's own buffers, views and reports to those of [`Device`], and back where they are its own.
pub(super) trait Arm: Memory + Sized {
    /// The kind of device, for messages.
    #[cfg(any(feature = "cuda-kernels", feature = "wgpu"))]
    const KIND: &'static str;
    fn wrap<T: Pod + Send + Sync>(buffer: Self::Buffer<T>) -> Buffer<T>;
    fn wrap_view<T: Pod + Send + Sync>(view: Self::View<'_, T>) -> View<'_, T>;
    fn wrap_view_mut<T: Pod + Send + Sync>(view: Self::ViewMut<'_, T>) -> ViewMut<'_, T>;
    fn wrap_reports(reports: Self::Reports) -> Reports;
    fn of<'s, 'l: 's, T: Pod + Send + Sync>(&self, view: View<'l, T>) -> Result<Self::View<'s, T>>;
    fn of_mut<'s, T: Pod + Send + Sync>(&self, view: &'s mut ViewMut<'_, T>) -> Result<Self::ViewMut<'s, T>>;
    fn borrow_mut<'r, 'v, T: Pod + Send + Sync>(&self, view: &'r ViewMut<'v, T>) -> Result<&'r Self::ViewMut<'v, T>>;
    fn of_reports<'r>(&self, reports: &'r Reports) -> Result<&'r Self::Reports>;
    fn of_reports_mut<'r>(&self, reports: &'r mut Reports) -> Result<&'r mut Self::Reports>;
}

/// What this backend's variant holds, or the error; with one backend compiled in there is no other variant.
macro_rules! own {
    ($backend:expr, $enum:ident::$arm:ident($held:ident) = $value:expr => $e:expr) => {
        match $value {
            $enum::$arm($held) => Ok($e),
            #[cfg(any(feature = "cuda-kernels", feature = "wgpu"))]
            other => {
                let got = on!($enum(_held): B = other => <B as Arm>::KIND).to_owned();
                Err($crate::error::Error::WrongDevice { expected: $backend.name(), got })
            }
        }
    };
}

macro_rules! arm {
    ($arm:ident, $backend:ty, $kind:literal) => {
        impl From<$backend> for Device {
            fn from(backend: $backend) -> Self {
                Device::$arm(backend)
            }
        }

        impl Arm for $backend {
            #[cfg(any(feature = "cuda-kernels", feature = "wgpu"))]
            const KIND: &'static str = $kind;
            fn wrap<T: Pod + Send + Sync>(buffer: Self::Buffer<T>) -> Buffer<T> {
                Buffer::$arm(buffer)
            }
            fn wrap_view<T: Pod + Send + Sync>(view: Self::View<'_, T>) -> View<'_, T> {
                View::$arm(view)
            }
            fn wrap_view_mut<T: Pod + Send + Sync>(view: Self::ViewMut<'_, T>) -> ViewMut<'_, T> {
                ViewMut::$arm(view)
            }
            fn wrap_reports(reports: Self::Reports) -> Reports {
                Reports::$arm(reports)
            }
            fn of<'s, 'l: 's, T: Pod + Send + Sync>(&self, view: View<'l, T>) -> Result<Self::View<'s, T>> {
                own!(self, View::$arm(v) = view => Self::shorten(v))
            }
            fn of_mut<'s, T: Pod + Send + Sync>(&self, view: &'s mut ViewMut<'_, T>) -> Result<Self::ViewMut<'s, T>> {
                own!(self, ViewMut::$arm(v) = view => Self::reborrow(v))
            }
            fn borrow_mut<'r, 'v, T: Pod + Send + Sync>(
                &self,
                view: &'r ViewMut<'v, T>,
            ) -> Result<&'r Self::ViewMut<'v, T>> {
                own!(self, ViewMut::$arm(v) = view => v)
            }
            fn of_reports<'r>(&self, reports: &'r Reports) -> Result<&'r Self::Reports> {
                own!(self, Reports::$arm(r) = reports => r)
            }
            fn of_reports_mut<'r>(&self, reports: &'r mut Reports) -> Result<&'r mut Self::Reports> {
                own!(self, Reports::$arm(r) = reports => r)
            }
        }
    };
}

arm!(Cpu, Cpu, "cpu");
#[cfg(feature = "cuda-kernels")]
arm!(Cuda, Cuda, "cuda");
#[cfg(feature = "wgpu")]
arm!(Wgpu, Wgpu, "wgpu");
