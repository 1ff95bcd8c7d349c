//! What goes wrong around a wgpu device: sizes that no memory has, and many threads with an accumulator each. A lost
//! device is in device.rs.

use crate::adapter::device;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Scales, Spec, State};
use trigrad::cpu::Cpu;
use trigrad::webgpu::{Options, Wgpu};
use trigrad::{Backend, Error, Memory, Result};

/// A length times the size of an element may not fit 64 bits: nothing wraps around to a buffer that is shorter than
/// it says.
#[test]
fn absurd_sizes_are_refused_and_the_device_goes_on() {
    let Some(gpu) = device(&Options::default()) else { return };
    for len in [usize::MAX, usize::MAX / 4, (usize::MAX / 4) + 1, 1 << 62, 1 << 48] {
        let e = gpu.zeros::<u32>(len).map(drop).unwrap_err();
        assert!(matches!(e, Error::Limit { .. } | Error::OutOfMemory { .. }), "{len}: {e}");
        let e = gpu.reports(len).map(drop).unwrap_err();
        assert!(matches!(e, Error::Limit { .. } | Error::OutOfMemory { .. }), "{len}: {e}");
    }
    assert_eq!(gpu.download(Wgpu::view(&gpu.upload(&[1u32, 2, 3]).unwrap())).unwrap(), [1, 2, 3]);
}

fn work<B: Backend + Clone>(backend: &B, worker: u32, format: Format) -> Result<State> {
    let specs = [Spec::new("w", [3001]), Spec::new("b", [40])];
    let config = Config { format, seed: u64::from(worker), ..Config::default() };
    let mut sum = Accumulator::new(backend.clone(), &specs, config)?;
    for k in 0..4 {
        let w: Vec<f32> = (0..3001).map(|i| ((i * 37 + worker * 11 + k * 5) % 101) as f32 - 50.0).collect();
        let (w, b) = (backend.upload(&w)?, backend.upload(&[half::bf16::from_f32(k as f32 - 1.0); 40])?);
        let w: (usize, Floats<'_, B>) = (0, Floats::F32(B::view(&w)));
        sum.accumulate(&[w, (1, Floats::Bf16(B::view(&b)))], 0.5)?;
        // A wrong call between right ones.
        assert!(sum.accumulate(&[w], 1.0).is_err());
    }
    sum.state()
}

#[test]
fn threads_share_a_device_with_an_accumulator_each() {
    let Some(gpu) = device(&Options::default()) else { return };
    let format = |worker: u32| match worker % 2 {
        0 => Format::Adaptive { bits: 4 },
        _ => Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } },
    };
    let together: Vec<State> = std::thread::scope(|scope| {
        let start = |i: u32| {
            scope.spawn({
                let gpu = &gpu;
                move || work(gpu, i, format(i)).unwrap()
            })
        };
        let workers: Vec<_> = (0..4).map(start).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    for (i, state) in (0..).zip(&together) {
        assert!(work(&Cpu::new(), i, format(i)).unwrap() == *state, "worker {i}");
    }
}

/// Each thread's poll ends what another waits for, and may call the other's callback after the other has woken up.
#[test]
fn many_threads_download_at_once() {
    let Some(gpu) = device(&Options::default()) else { return };
    std::thread::scope(|scope| {
        for worker in 0..16u32 {
            let gpu = &gpu;
            scope.spawn(move || {
                let held = gpu.upload(&[worker, 7, 7]).unwrap();
                for _ in 0..200 {
                    assert_eq!(gpu.download(Wgpu::view(&held)).unwrap(), [worker, 7, 7]);
                }
            });
        }
    });
}
