//! The seed API's data types from bytes: packed vectors from any words, configurations and trits from any JSON, and
//! accumulators made from whatever configuration came out.
#![no_main]

use candle_core::{Device, Tensor};
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use trigrad::numerics::pack::words;
use trigrad::{PackedTritVec, TernaryConfig, TernaryGradientAccumulator, Trit};
use trigrad_fuzz::Bytes;

fn packed(bytes: &mut Bytes<'_>) {
    let n = bytes.length();
    let count = bytes.near(words(n, 2));
    let planes: Vec<u32> = bytes.values::<f32>(count).iter().map(|x| x.to_bits()).collect();
    let Ok(mut v) = PackedTritVec::from_words(planes.clone(), n) else { return };
    assert_eq!(v.words(), planes);
    let trits: Vec<Trit> = v.iter().collect();
    assert_eq!(PackedTritVec::from_trits(&trits), v);
    assert_eq!(v.count_nonzero(), trits.iter().filter(|t| **t != Trit::Z).count());
    assert_eq!(v.dot(&v).ok(), Some(v.count_nonzero() as i64));
    let i = bytes.word() as usize % (2 * n + 1);
    let t = bytes.pick(&[Trit::N, Trit::Z, Trit::P]);
    assert_eq!(v.try_set(i, t).is_ok(), i < n);
    assert_eq!(v.get(i), if i < n { t } else { Trit::Z });
    assert!(PackedTritVec::from_words(v.words().to_vec(), n).is_ok());
}

fn config(bytes: &[u8]) {
    if let Ok(t) = serde_json::from_slice::<Trit>(bytes) {
        assert!((-1..=1).contains(&t.value()));
    }
    let Ok(config) = serde_json::from_slice::<TernaryConfig>(bytes) else { return };
    let text = serde_json::to_string(&config).expect("a configuration has a text");
    if config.ternary_threshold.is_finite() && config.scale_learning_rate.is_finite() {
        assert_eq!(serde_json::from_str::<TernaryConfig>(&text).ok().as_ref(), Some(&config));
    }
    let shapes = [("w".to_owned(), vec![3, 5])];
    let Ok(mut sum) = TernaryGradientAccumulator::new(&shapes, config, &Device::Cpu) else { return };
    for k in 0..3 {
        let x = Tensor::from_vec((0..15).map(|i| (i * k) as f32 - 7.0).collect(), (3, 5), &Device::Cpu);
        let gradients = HashMap::from([("w".to_owned(), x.expect("a tensor"))]);
        if sum.accumulate(&gradients).is_ok() {
            let mean = sum.get_accumulated().expect("what was accumulated");
            let values = mean["w"].flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
            assert!(values.iter().all(|v| v.is_finite()));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    match bytes.bool() {
        true => packed(&mut bytes),
        false => config(bytes.0),
    }
});
