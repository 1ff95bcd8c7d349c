//! A program written for vsa-optim-rs's ternary module, with nothing changed but its `use` lines: that crate's own
//! unit tests, integration test and documented use, in the order of its files. What follows `mod corrected` holds the
//! meaning that is corrected here.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use trigrad::ternary::{
    OptimizerStats, PackedTritVec, Trit, calculate_memory_savings, ternary_quantize_deterministic,
    ternary_quantize_stochastic, ternary_quantize_stochastic_packed,
};
use trigrad::{Result, TernaryConfig, TernaryGradientAccumulator, TernaryOptimizerWrapper};

fn create_param_shapes() -> Vec<(String, Vec<usize>)> {
    vec![
        ("layer1.weight".to_string(), vec![64, 128]),
        ("layer1.bias".to_string(), vec![64]),
        ("layer2.weight".to_string(), vec![32, 64]),
    ]
}

fn create_mock_gradients(device: &Device) -> HashMap<String, Tensor> {
    let mut gradients = HashMap::new();
    gradients.insert("layer1.weight".to_string(), Tensor::randn(0.0f32, 1.0, (64, 128), device).unwrap());
    gradients.insert("layer1.bias".to_string(), Tensor::randn(0.0f32, 1.0, 64, device).unwrap());
    gradients.insert("layer2.weight".to_string(), Tensor::randn(0.0f32, 1.0, (32, 64), device).unwrap());
    gradients
}

#[test]
fn test_ternary_quantize_stochastic() {
    let device = Device::Cpu;
    let x = Tensor::randn(0.0f32, 1.0, 1000, &device).unwrap();
    let (quantized, scale) = ternary_quantize_stochastic(&x, None).unwrap();
    assert!(scale > 0.0);
    let values: Vec<f32> = quantized.flatten_all().unwrap().to_vec1().unwrap();
    for v in values {
        assert!(v == -1.0 || v == 0.0 || v == 1.0, "Unexpected value: {v}");
    }
}

#[test]
fn test_ternary_quantize_deterministic() {
    let device = Device::Cpu;
    let x = Tensor::randn(0.0f32, 1.0, 1000, &device).unwrap();
    let (quantized, scale) = ternary_quantize_deterministic(&x, None).unwrap();
    assert!(scale > 0.0);
    let values: Vec<f32> = quantized.flatten_all().unwrap().to_vec1().unwrap();
    for v in values {
        assert!(v == -1.0 || v == 0.0 || v == 1.0, "Unexpected value: {v}");
    }
}

#[test]
fn test_ternary_quantize_zeros() {
    let device = Device::Cpu;
    let x = Tensor::zeros(100, DType::F32, &device).unwrap();
    let (quantized, scale) = ternary_quantize_deterministic(&x, None).unwrap();
    assert_eq!(scale, 0.0);
    let values: Vec<f32> = quantized.flatten_all().unwrap().to_vec1().unwrap();
    assert!(values.iter().all(|&v| v == 0.0));
}

#[test]
fn test_memory_savings() {
    let savings = calculate_memory_savings(1_000_000, 10);
    assert!(savings > 0.9, "Expected > 90% savings, got {:.2}%", savings * 100.0);
}

#[test]
fn test_stochastic_packed() {
    let device = Device::Cpu;
    let x = Tensor::randn(0.0f32, 1.0, 1000, &device).unwrap();
    let (packed, scale) = ternary_quantize_stochastic_packed(&x, None).unwrap();
    assert_eq!(packed.len(), 1000);
    assert!(scale > 0.0);
}

#[test]
fn test_accumulator_creation() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default();
    let accumulator = TernaryGradientAccumulator::new(&shapes, config, &device).unwrap();
    assert_eq!(accumulator.count(), 0);
}

#[test]
fn test_accumulator_accumulate() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default();
    let mut accumulator = TernaryGradientAccumulator::new(&shapes, config, &device).unwrap();
    let gradients = create_mock_gradients(&device);
    accumulator.accumulate(&gradients).unwrap();
    assert_eq!(accumulator.count(), 1);
    accumulator.accumulate(&gradients).unwrap();
    assert_eq!(accumulator.count(), 2);
}

#[test]
fn test_accumulator_get_accumulated() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default();
    let mut accumulator = TernaryGradientAccumulator::new(&shapes, config, &device).unwrap();
    let gradients = create_mock_gradients(&device);
    accumulator.accumulate(&gradients).unwrap();
    let accumulated = accumulator.get_accumulated().unwrap();
    assert_eq!(accumulated.len(), 3);
    for (name, _shape) in &shapes {
        assert!(accumulated.contains_key(name));
    }
}

#[test]
fn test_accumulator_reset() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default();
    let mut accumulator = TernaryGradientAccumulator::new(&shapes, config, &device).unwrap();
    let gradients = create_mock_gradients(&device);
    accumulator.accumulate(&gradients).unwrap();
    assert_eq!(accumulator.count(), 1);
    accumulator.reset().unwrap();
    assert_eq!(accumulator.count(), 0);
}

#[test]
fn test_accumulator_memory_savings() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default();
    let accumulator = TernaryGradientAccumulator::new(&shapes, config, &device).unwrap();
    let savings = accumulator.memory_savings();
    assert!(savings > 0.9, "Expected >90% savings, got {:.2}%", savings * 100.0);
}

#[test]
fn test_optimizer_wrapper_step() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default().with_accumulation_steps(4);
    let mut wrapper = TernaryOptimizerWrapper::new(&shapes, config, &device).unwrap();
    let gradients = create_mock_gradients(&device);
    for _ in 0..3 {
        let should_update = wrapper.step(&gradients).unwrap();
        assert!(!should_update);
    }
    let should_update = wrapper.step(&gradients).unwrap();
    assert!(should_update);
    let accumulated = wrapper.get_gradients_for_update().unwrap();
    assert_eq!(accumulated.len(), 3);
    let should_update = wrapper.step(&gradients).unwrap();
    assert!(!should_update);
}

#[test]
fn test_optimizer_wrapper_stats() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config = TernaryConfig::default().with_accumulation_steps(2);
    let mut wrapper = TernaryOptimizerWrapper::new(&shapes, config, &device).unwrap();
    let gradients = create_mock_gradients(&device);
    wrapper.step(&gradients).unwrap();
    wrapper.step(&gradients).unwrap();
    let _ = wrapper.get_gradients_for_update().unwrap();
    let stats = wrapper.get_stats();
    assert_eq!(stats.step_count, 2);
    assert_eq!(stats.update_count, 1);
    assert!(stats.memory_savings > 0.9);
}

#[test]
fn test_stochastic_vs_deterministic() {
    let shapes = create_param_shapes();
    let device = Device::Cpu;
    let config_stochastic = TernaryConfig::default().with_stochastic_rounding(true);
    let mut acc_stochastic = TernaryGradientAccumulator::new(&shapes, config_stochastic, &device).unwrap();
    let config_deterministic = TernaryConfig::default().with_stochastic_rounding(false);
    let mut acc_deterministic = TernaryGradientAccumulator::new(&shapes, config_deterministic, &device).unwrap();
    let gradients = create_mock_gradients(&device);
    acc_stochastic.accumulate(&gradients).unwrap();
    acc_deterministic.accumulate(&gradients).unwrap();
    let result_stochastic = acc_stochastic.get_accumulated().unwrap();
    let result_deterministic = acc_deterministic.get_accumulated().unwrap();
    assert_eq!(result_stochastic.len(), 3);
    assert_eq!(result_deterministic.len(), 3);
}

/// Every path the original exports these names under.
mod paths {
    use trigrad::config::TernaryConfig;
    use trigrad::error::{OptimError, Result};
    use trigrad::ternary::{TernaryGradientAccumulator, TernaryOptimizerWrapper};

    fn made(config: TernaryConfig) -> Result<TernaryGradientAccumulator> {
        let device = candle_core::Device::Cpu;
        TernaryOptimizerWrapper::new(&super::create_param_shapes(), config.clone(), &device)?;
        TernaryGradientAccumulator::new(&super::create_param_shapes(), config, &device)
    }

    #[test]
    fn every_path_of_the_original_is_there() {
        let e: OptimError = made(TernaryConfig::default().with_accumulation_steps(0)).map(|_| ()).unwrap_err();
        assert!(matches!(e, OptimError::Parameter { .. }));
    }
}

/// The integration test of the original: names and shapes come back.
#[test]
fn test_ternary_accumulation_flow() {
    let device = Device::Cpu;
    let gradients = create_mock_gradients(&device);
    let shapes: Vec<(String, Vec<usize>)> =
        gradients.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let config = TernaryConfig::default().with_accumulation_steps(4).with_stochastic_rounding(true);
    let mut accumulator = TernaryGradientAccumulator::new(&shapes, config, &device).unwrap();
    for _ in 0..4 {
        accumulator.accumulate(&gradients).unwrap();
    }
    let accumulated = accumulator.get_accumulated().unwrap();
    assert_eq!(accumulated.len(), gradients.len());
    for (name, orig) in &gradients {
        let acc = accumulated.get(name).unwrap();
        assert_eq!(orig.dims(), acc.dims());
    }
}

/// A training loop as its documentation writes it, with errors passed on by `?` and every field named.
fn train(device: &Device) -> Result<OptimizerStats> {
    let config = TernaryConfig {
        accumulation_steps: 2,
        ternary_threshold: 0.5,
        scale_learning_rate: 0.01,
        use_stochastic_rounding: true,
    };
    let mut wrapper = TernaryOptimizerWrapper::new(&create_param_shapes(), config.clone(), device)?;
    for _ in 0..4 {
        let gradients = create_mock_gradients(device);
        let should_update = wrapper.step(&gradients)?;
        if should_update {
            let accumulated: HashMap<String, Tensor> = wrapper.get_gradients_for_update()?;
            let _norm = accumulated["layer1.bias"].sqr()?.sum_all()?.to_scalar::<f32>()?;
        }
    }
    assert_eq!((wrapper.step_count(), wrapper.update_count()), (4, 2));
    let stats = wrapper.get_stats();
    wrapper.reset_state();
    assert_eq!((wrapper.step_count(), wrapper.update_count()), (0, 0));
    wrapper.load_state(6, 3);
    assert_eq!((wrapper.step_count(), wrapper.update_count()), (6, 3));
    Ok(stats)
}

#[test]
fn documented_use_compiles_and_runs() {
    let stats = train(&Device::Cpu).unwrap();
    assert_eq!(
        format!("{stats}"),
        format!("Steps: 4 | Updates: 2 | Memory saved: {:.1}%", stats.memory_savings * 100.0)
    );
    let mut v = PackedTritVec::new(100);
    assert!(!v.is_empty());
    v.set(0, Trit::P);
    v.set(1, Trit::N);
    assert_eq!((v.get(0), v.get(1), v.get(2)), (Trit::P, Trit::N, Trit::Z));
    let json = serde_json::to_string(&TernaryConfig::default().with_threshold(0.25)).unwrap();
    let back: TernaryConfig = serde_json::from_str(&json).unwrap();
    assert_eq!((back.ternary_threshold, back.accumulation_steps, back.scale_learning_rate), (0.25, 8, 0.01));
    assert!(back.use_stochastic_rounding);
}

mod corrected {
    use super::*;
    use half::f16;
    use trigrad::Error;

    fn one(name: &str, tensor: Tensor) -> HashMap<String, Tensor> {
        HashMap::from([(name.to_string(), tensor)])
    }

    fn accumulator(n: usize, config: TernaryConfig) -> TernaryGradientAccumulator {
        TernaryGradientAccumulator::new(&[("w".to_string(), vec![n])], config, &Device::Cpu).unwrap()
    }

    fn values(acc: &TernaryGradientAccumulator) -> Vec<f32> {
        acc.get_accumulated().unwrap()["w"].to_vec1().unwrap()
    }

    /// The original multiplies the mean scale by the summed trits and gets 25.25 where the mean is 0.5.
    #[test]
    fn the_mean_is_the_mean_of_scale_times_trit() {
        let n = 256;
        let (mut first, mut second) = (vec![0f32; n], vec![0f32; n]);
        first[0] = 1.0; // its scale is 1
        second[64] = 100.0; // another block's scale is 100
        let mut acc = accumulator(n, TernaryConfig::default());
        for g in [first, second] {
            acc.accumulate(&one("w", Tensor::from_vec(g, n, &Device::Cpu).unwrap())).unwrap();
        }
        let mean = values(&acc);
        assert_eq!((mean[0], mean[64]), (0.5, 50.0));
        assert_eq!(mean.iter().filter(|&&x| x != 0.0).count(), 2);
    }

    /// Over many seeds the mean of the read-outs comes to the mean of the gradients, within five standard errors.
    #[test]
    fn unbiased_at_every_width() {
        let gradients = [[0.9f32, -0.1, 0.3, 1.0], [0.2, -0.7, 0.0, 3.0], [0.5, 0.05, -2.0, 0.1]];
        for bits in [2, 4, 8] {
            let runs = 4000;
            let (mut sum, mut squares) = ([0f64; 4], [0f64; 4]);
            for seed in 0..runs {
                let mut acc =
                    accumulator(4, TernaryConfig::default()).with_seed(seed).unwrap().with_bits(bits).unwrap();
                for g in gradients {
                    acc.accumulate(&one("w", Tensor::new(&g, &Device::Cpu).unwrap())).unwrap();
                }
                for (i, v) in values(&acc).into_iter().enumerate() {
                    sum[i] += f64::from(v);
                    squares[i] += f64::from(v).powi(2);
                }
            }
            for i in 0..4 {
                let expected = gradients.iter().map(|g| f64::from(g[i])).sum::<f64>() / 3.0;
                let mean = sum[i] / runs as f64;
                let error = ((squares[i] / runs as f64 - mean * mean) / runs as f64).sqrt();
                assert!((mean - expected).abs() < 5.0 * error + 1e-6, "{bits} bits, {i}: {mean} not {expected}");
            }
        }
    }

    #[test]
    fn an_accumulator_replays_under_its_seed_and_moves_with_it() {
        let g = one("w", Tensor::randn(0f32, 1.0, 1000, &Device::Cpu).unwrap());
        let run = |seed| {
            let mut acc = accumulator(1000, TernaryConfig::default()).with_seed(seed).unwrap();
            (0..3).for_each(|_| acc.accumulate(&g).unwrap());
            values(&acc)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_magnitude_after_a_threshold_is_the_least_squares_one() {
        let x = Tensor::new(&[4f32, -2.0, 0.5, 0.0, 1.0, 0.5], &Device::Cpu).unwrap();
        // The mean magnitude is 8 / 6: 4 and 2 are kept, and their mean is 3.
        let (t, scale) = ternary_quantize_deterministic(&x, None).unwrap();
        assert_eq!((t.to_vec1::<f32>().unwrap(), scale), (vec![1.0, -1.0, 0.0, 0.0, 0.0, 0.0], 3.0));
        // A threshold given is absolute.
        let (t, scale) = ternary_quantize_deterministic(&x, Some(3.0)).unwrap();
        assert_eq!((t.to_vec1::<f32>().unwrap()[..2].to_vec(), scale), (vec![1.0, 0.0], 4.0));
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            let e = ternary_quantize_deterministic(&x, Some(bad)).unwrap_err();
            assert!(matches!(e, Error::Parameter { .. }), "{e}");
        }
    }

    #[test]
    fn stochastic_rounding_uses_no_threshold_and_is_unbiased() {
        let x = Tensor::new(&[1f32, 0.25, -0.5], &Device::Cpu).unwrap();
        let mut sum = [0.0; 3];
        let runs = 4000;
        for _ in 0..runs {
            let (t, s) = ternary_quantize_stochastic(&x, Some(0.9)).unwrap();
            assert_eq!(s, 1.0);
            t.to_vec1::<f32>().unwrap().iter().zip(&mut sum).for_each(|(t, sum)| *sum += t * s);
        }
        // Five standard errors: sqrt(p (1 - p) / 4000) <= 0.0079.
        for (mean, x) in sum.iter().map(|s| s / runs as f32).zip([1.0, 0.25, -0.5]) {
            assert!((mean - x).abs() < 0.04, "{mean} not {x}");
        }
    }

    #[test]
    fn the_configured_threshold_is_relative_to_the_mean_magnitude_of_a_block() {
        let mut g = vec![0f32; 64];
        g[..4].copy_from_slice(&[4.0, -1.0, 0.1, 3.0]); // mean magnitude 8.1 / 64
        let config = TernaryConfig::default().with_stochastic_rounding(false).with_threshold(0.5);
        let mut acc = accumulator(64, config);
        acc.accumulate(&one("w", Tensor::from_vec(g, 64, &Device::Cpu).unwrap())).unwrap();
        // 0.1 is above half the mean: four are kept, their mean is 2.025, in bf16 2.03125.
        assert_eq!(values(&acc)[..5], [2.03125, -2.03125, 2.03125, 2.03125, 0.0]);
    }

    #[test]
    fn an_all_zero_f16_gradient_is_zeros() {
        let zeros = Tensor::zeros(100, DType::F16, &Device::Cpu).unwrap();
        for stochastic in [true, false] {
            let mut acc = accumulator(100, TernaryConfig::default().with_stochastic_rounding(stochastic));
            acc.accumulate(&one("w", zeros.clone())).unwrap();
            acc.accumulate(&one("w", Tensor::ones(100, DType::F32, &Device::Cpu).unwrap())).unwrap();
            assert_eq!(values(&acc), vec![0.5; 100]);
        }
        let (t, scale) = ternary_quantize_stochastic(&zeros, None).unwrap();
        assert_eq!((t.dtype(), scale), (DType::F32, 0.0));
        assert_eq!(t.to_vec1::<f32>().unwrap(), vec![0.0; 100]);
    }

    #[test]
    fn all_three_types_and_tensors_that_are_not_contiguous() {
        let x = Tensor::new(&[[1f32, 0.0, -1.0], [0.0, 1.0, 0.0]], &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (t, s) = ternary_quantize_stochastic(&x.to_dtype(dtype).unwrap().t().unwrap(), None).unwrap();
            assert_eq!((t.to_vec2::<f32>().unwrap(), s), (vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![-1.0, 0.0]], 1.0));
        }
        let e = ternary_quantize_stochastic(&x.to_dtype(DType::F64).unwrap(), None).unwrap_err();
        assert!(matches!(e.root(), Error::ElementType { .. }), "{e}");
    }

    #[test]
    fn bad_input_is_an_error_and_changes_nothing() {
        for stochastic in [true, false] {
            let mut acc = accumulator(3, TernaryConfig::default().with_stochastic_rounding(stochastic));
            acc.accumulate(&one("w", Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap())).unwrap();
            let before = values(&acc);
            let tensor = |x: &[f32]| Tensor::new(x, &Device::Cpu).unwrap();
            let e = acc.accumulate(&one("w", tensor(&[0.0, f32::NAN, f32::INFINITY]))).unwrap_err();
            assert!(matches!(e.root(), Error::NonFinite { count: 2, first: 1 }), "{e}");
            assert!(e.to_string().contains("`w`"), "{e}");
            let e = acc.accumulate(&one("w", tensor(&[0.0; 4]))).unwrap_err();
            assert!(matches!(e.root(), Error::Shape { .. }), "{e}");
            let e = acc.accumulate(&one("v", tensor(&[0.0; 3]))).unwrap_err();
            assert!(matches!(&e, Error::UnknownTensor { name, .. } if name == "v"), "{e}");
            let e = acc.accumulate(&HashMap::new()).unwrap_err();
            assert!(matches!(&e, Error::MissingTensor { name } if name == "w"), "{e}");
            let integers = Tensor::zeros(3, DType::U32, &Device::Cpu).unwrap();
            let e = acc.accumulate(&one("w", integers)).unwrap_err();
            assert!(matches!(e.root(), Error::ElementType { .. }), "{e}");
            assert_eq!((acc.count(), values(&acc)), (1, before));
        }
    }

    #[test]
    fn zero_steps_duplicate_names_and_bad_thresholds_are_refused_at_once() {
        let new = |shapes: &[(String, Vec<usize>)], config| {
            TernaryGradientAccumulator::new(shapes, config, &Device::Cpu).map(|_| ()).unwrap_err()
        };
        let w = [("w".to_string(), vec![2usize])];
        let e = new(&w, TernaryConfig::default().with_accumulation_steps(0));
        assert!(matches!(e, Error::Parameter { name: "accumulation_steps", .. }), "{e}");
        let e = new(&w, TernaryConfig::default().with_threshold(f32::NAN));
        assert!(matches!(e, Error::Parameter { .. }), "{e}");
        let twice = [w[0].clone(), w[0].clone()];
        assert!(matches!(new(&twice, TernaryConfig::default()), Error::DuplicateTensor { .. }));
    }

    #[test]
    fn savings_are_measured_and_never_nan() {
        // 2 bits an element and 16 a block of 64, of 32.
        let acc = accumulator(6400, TernaryConfig::default());
        assert_eq!(acc.memory_savings(), 1.0 - 2.25 / 32.0);
        assert_eq!(acc.with_bits(4).unwrap().memory_savings(), 1.0 - 4.25 / 32.0);
        assert_eq!(accumulator(0, TernaryConfig::default()).memory_savings(), 0.0);
        for (params, tensors) in [(0, 0), (0, 5), (1, 1), (usize::MAX, usize::MAX)] {
            assert!(calculate_memory_savings(params, tensors).is_finite());
        }
    }

    #[test]
    fn a_wrapper_that_is_reset_in_the_middle_starts_a_whole_cycle() {
        let config = TernaryConfig::default().with_accumulation_steps(2);
        let mut wrapper = TernaryOptimizerWrapper::new(&[("w".to_string(), vec![1])], config, &Device::Cpu).unwrap();
        let g = |x: f32| one("w", Tensor::new(&[x], &Device::Cpu).unwrap());
        wrapper.step(&g(100.0)).unwrap();
        wrapper.reset_state();
        assert!(!wrapper.step(&g(1.0)).unwrap());
        assert!(wrapper.step(&g(1.0)).unwrap());
        assert_eq!(wrapper.get_gradients_for_update().unwrap()["w"].to_vec1::<f32>().unwrap(), [1.0]);
        assert!(wrapper.step(&one("w", Tensor::new(&[f32::NAN], &Device::Cpu).unwrap())).is_err());
        assert_eq!(wrapper.step_count(), 2);
    }

    /// Which error comes first does not depend on the rounding, nor on the order of a hash map.
    #[test]
    fn of_several_errors_names_come_first_and_values_last() {
        let shapes = [("b".to_string(), vec![3]), ("a".to_string(), vec![2])];
        let good = |n: usize| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap();
        let nan = |n: usize| good(n).affine(f64::NAN, 0.0).unwrap();
        let integers = |n: usize| Tensor::zeros(n, DType::U32, &Device::Cpu).unwrap();
        type Expected = fn(&Error) -> bool;
        let cases: [(Vec<(&str, Tensor)>, Expected); 8] = [
            (
                vec![("b", nan(3)), ("a", good(2)), ("c", good(1))],
                |e| matches!(e, Error::UnknownTensor { name, .. } if name == "c"),
            ),
            (
                vec![("b", good(4)), ("d", nan(1)), ("c", nan(1))],
                |e| matches!(e, Error::UnknownTensor { name, .. } if name == "c"),
            ),
            (vec![("b", nan(3))], |e| matches!(e, Error::MissingTensor { name } if name == "a")),
            (vec![("a", good(5))], |e| matches!(e, Error::MissingTensor { name } if name == "b")),
            (vec![("b", nan(3)), ("a", good(3))], |e| {
                matches!(e, Error::InTensor { tensor, .. } if tensor == "a") && matches!(e.root(), Error::Shape { .. })
            }),
            (vec![("b", integers(3)), ("a", good(3))], |e| {
                matches!(e, Error::InTensor { tensor, .. } if tensor == "b")
                    && matches!(e.root(), Error::ElementType { .. })
            }),
            (vec![("b", good(3)), ("a", nan(2))], |e| matches!(e, Error::InTensor { tensor, .. } if tensor == "a")),
            (vec![("b", nan(3)), ("a", nan(2))], |e| {
                matches!(e, Error::InTensor { tensor, .. } if tensor == "b")
                    && matches!(e.root(), Error::NonFinite { count: 3, first: 0 })
            }),
        ];
        for stochastic in [true, false] {
            let config = TernaryConfig::default().with_stochastic_rounding(stochastic);
            let mut acc = TernaryGradientAccumulator::new(&shapes, config, &Device::Cpu).unwrap();
            acc.accumulate(&HashMap::from([("a".to_string(), good(2)), ("b".to_string(), good(3))])).unwrap();
            let read = |acc: &TernaryGradientAccumulator| {
                let read = acc.get_accumulated().unwrap();
                ["a", "b"].map(|t| read[t].to_vec1::<f32>().unwrap())
            };
            let before = read(&acc);
            for (i, (wrong, expected)) in cases.iter().enumerate() {
                for _ in 0..16 {
                    // A map of its own each time, so in an order of its own.
                    let map: HashMap<_, _> = wrong.iter().map(|(name, x)| ((*name).to_string(), x.clone())).collect();
                    let e = acc.accumulate(&map).unwrap_err();
                    assert!(expected(&e), "case {i}, stochastic {stochastic}: {e}");
                }
                assert_eq!((acc.count(), read(&acc)), (1, before.clone()));
            }
        }
    }

    /// Gradients in range whose sum is not: it can not be read, until it is dropped.
    #[test]
    fn a_sum_out_of_range_is_refused_until_it_is_dropped() {
        let config = TernaryConfig::default().with_accumulation_steps(2);
        let mut wrapper = TernaryOptimizerWrapper::new(&[("w".to_string(), vec![1])], config, &Device::Cpu).unwrap();
        let g = |x: f32| one("w", Tensor::new(&[x], &Device::Cpu).unwrap());
        let large = 1.5 * 2f32.powi(125);
        wrapper.step(&g(large)).unwrap();
        assert!(wrapper.step(&g(large)).unwrap());
        for _ in 0..2 {
            let e = wrapper.get_gradients_for_update().unwrap_err();
            assert!(matches!(e.root(), Error::NonFinite { count: 1.., first: 0 }), "{e}");
            wrapper.step(&g(1.0)).unwrap();
        }
        assert_eq!((wrapper.step_count(), wrapper.update_count()), (4, 0));
        wrapper.load_state(wrapper.step_count(), wrapper.update_count());
        wrapper.step(&g(1.0)).unwrap();
        assert!(wrapper.step(&g(1.0)).unwrap());
        assert_eq!(wrapper.get_gradients_for_update().unwrap()["w"].to_vec1::<f32>().unwrap(), [1.0]);
        assert_eq!((wrapper.step_count(), wrapper.update_count()), (6, 1));
    }

    #[test]
    fn packed_and_unpacked_hold_the_same_kind_of_trits() {
        let x: Vec<f16> = (0..77).map(|i| f16::from_f32(if i % 3 == 0 { 2.0 } else { 0.0 })).collect();
        let x = Tensor::from_vec(x, 77, &Device::Cpu).unwrap();
        let (packed, scale) = ternary_quantize_stochastic_packed(&x, None).unwrap();
        assert_eq!((packed.len(), packed.count_nonzero(), scale), (77, 26, 2.0));
        assert!((0..77).all(|i| packed.get(i) == if i % 3 == 0 { Trit::P } else { Trit::Z }));
        assert_eq!(PackedTritVec::from_words(packed.words().to_vec(), 77).unwrap(), packed);
        let empty = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
        assert!(ternary_quantize_stochastic_packed(&empty, None).unwrap().0.is_empty());
    }

    #[test]
    fn past_the_end_of_a_packed_vector_nothing_panics() {
        let mut v = PackedTritVec::new(33);
        v.set(33, Trit::P);
        assert_eq!((v.get(33), v.get(usize::MAX), v.count_nonzero()), (Trit::Z, Trit::Z, 0));
        let e = v.try_set(33, Trit::P).unwrap_err();
        assert!(matches!(e, Error::Index { index: 33, count: 33, .. }), "{e}");
        assert!(v.try_set(32, Trit::N).is_ok() && v.get(32) == Trit::N);
        assert!(v.dot(&PackedTritVec::new(32)).is_err());
        assert_eq!(v.dot(&v).unwrap(), 1);
        assert!(PackedTritVec::from_words(vec![1, 1], 32).is_err());
        assert!(PackedTritVec::from_words(vec![4, 0], 2).is_err());
        assert!(PackedTritVec::from_words(vec![0], 2).is_err());
    }
}
