//! candle gradients accumulated on a wgpu device: the same bits as on the CPU, through buffers that are used again.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use crate::adapter::device;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use std::collections::HashMap;
use trigrad::accumulator::{Config, Format, Reduce, Scales};
use trigrad::candle::GradientAccumulator;
use trigrad::webgpu::Options;

const SHAPES: [(&str, &[usize], DType); 3] =
    [("a", &[33, 70], DType::F32), ("b", &[5], DType::BF16), ("c", &[129, 8], DType::F16)];

fn vars() -> VarMap {
    let map = VarMap::new();
    let mut data = map.data().lock().unwrap();
    for (name, shape, dtype) in SHAPES {
        data.insert(name.to_owned(), Var::zeros(shape, dtype, &Device::Cpu).unwrap());
    }
    drop(data);
    map
}

fn gradients(round: usize) -> HashMap<String, Tensor> {
    let tensor = |shape: &[usize], dtype| {
        let n: usize = shape.iter().product();
        let x: Vec<f32> = (0..n).map(|i| ((i + 31 * round) as f32 * 0.37).sin() * (round + 1) as f32).collect();
        Tensor::from_vec(x, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    SHAPES.iter().map(|(name, shape, dtype)| ((*name).to_owned(), tensor(shape, *dtype))).collect()
}

fn bits(tensors: &HashMap<String, Tensor>) -> Vec<Vec<u32>> {
    let of = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
    SHAPES.iter().map(|(name, ..)| of(&tensors[*name]).iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn the_bits_of_the_cpu() {
    let Some(gpu) = device(&Options::default()) else { return };
    for format in
        [Format::Adaptive { bits: 4 }, Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } }]
    {
        let config = Config { format, seed: 9, ..Config::default() };
        let mut near = GradientAccumulator::from_varmap(&vars(), config).unwrap();
        let mut far = GradientAccumulator::from_varmap_on_wgpu(&vars(), config, gpu.clone()).unwrap();
        for window in 0..2 {
            for round in 0..3 {
                let given = gradients(3 * window + round);
                near.accumulate(&given, 0.5).unwrap();
                far.accumulate(&given, 0.5).unwrap();
            }
            let (expected, got) = (near.read_out(Reduce::Mean).unwrap(), far.read_out(Reduce::Mean).unwrap());
            assert!(bits(&expected).iter().flatten().any(|b| *b != 0));
            assert_eq!(bits(&got), bits(&expected), "{format:?}");
            for (name, shape, dtype) in SHAPES {
                assert!(got[name].dims() == shape && got[name].dtype() == dtype && got[name].device().is_cpu());
            }
            near.reset().unwrap();
            far.reset().unwrap();
        }
    }
}
