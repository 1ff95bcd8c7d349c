//! States that no window has, by hand and in files with a right checksum.

use super::*;

/// A report that no window has: it would say that something was found and not where, or the other way round.
#[test]
fn reports_that_can_not_be_are_refused() -> Result<()> {
    let mut sum = make(Cpu::new(), FORMATS[0]);
    go(&mut sum, 0, 2)?;
    let state = sum.state()?;
    for (non_finite, first) in [(1, None), (0, Some(0)), (3, Some(5)), (u64::MAX, Some(u64::MAX))] {
        let mut bad = state.clone();
        (bad.reports[1].non_finite, bad.reports[1].first) = (non_finite, first);
        let e = sum.set_state(&bad).unwrap_err();
        assert!(matches!(e.root(), Error::ImpossibleReport { elements: 5, .. }), "{e}");
        assert!(e.to_string().contains("bias"), "{e}");
        assert_eq!(sum.state()?, state);
    }
    // The largest count there can be is one, and what is found later does not wrap it around.
    let mut marked = state.clone();
    (marked.reports[1].non_finite, marked.reports[1].first, marked.reports[1].clipped) = (u64::MAX, Some(4), u64::MAX);
    sum.set_state(&marked)?;
    go(&mut sum, 2, 3)?;
    assert_eq!(sum.reports()?[1].non_finite, u64::MAX);
    assert!(sum.to_vec::<f32>("bias", Reduce::Sum).is_err());
    Ok(())
}

/// States that no window has, each made from one that some has, and what is said of it. By hand, and in a file with a
/// right checksum, as a program that is not this one may write it.
#[test]
fn states_that_can_not_be_are_refused() -> Result<()> {
    let of = |format, n| {
        let mut sum = make(Cpu::new(), format);
        go(&mut sum, 0, n).unwrap();
        sum.state().unwrap()
    };
    let refused = |format, n, change: &dyn Fn(&mut State)| {
        let sound = of(format, n);
        let mut bad = sound.clone();
        change(&mut bad);
        let mut sum = make(Cpu::new(), format);
        go(&mut sum, 0, 3).unwrap();
        let before = sum.state().unwrap();
        let by_hand = sum.set_state(&bad).err().unwrap_or_else(|| panic!("taken: {bad:?}"));
        let file = path("impossible.safetensors");
        let mut saved = make(Cpu::new(), format);
        saved.set_state(&sound).unwrap();
        saved.save(&file).unwrap();
        fs::write(&file, with_state(&fs::read(&file).unwrap(), &bad)).unwrap();
        let loaded = in_file(sum.load(&file).err().unwrap_or_else(|| panic!("loaded: {bad:?}")), &file);
        assert_eq!(loaded.to_string(), by_hand.to_string());
        assert_eq!(sum.state().unwrap(), before);
        by_hand
    };
    let [planes, wide, trits, counts] = FORMATS;
    let bits_of = |x: f32| half::bf16::from_f32(x).to_bits();

    // A count above the micro-batches it is of.
    for (held, bad, got) in [(2, 3u32, 3), (2, 0xd, -3), (7, 8, -8), (1, 2, 2), (0, 0xf, -1)] {
        let e = refused(trits, 2, &|state| {
            (state.held, state.weights) = (held, 0.0);
            state.tensors.iter_mut().for_each(|t| parts(t).0.fill(0));
            parts(&mut state.tensors[1]).0[0] = bad << 4;
        });
        let Error::ImpossibleLevel { element: 1, got: found, limit, .. } = *e.root() else { panic!("{e}") };
        assert_eq!((found, limit), (got, u64::from(held)));
        assert!(e.to_string().contains("bias"), "{e}");
    }
    // Fine counts: 2^21 for each micro-batch.
    for (held, bad) in [(2u32, (2 << 21) + 1i32), (2, -(2 << 21) - 1), (1, i32::MAX), (1023, i32::MIN)] {
        let e = refused(counts, 2, &|state| {
            (state.held, state.weights) = (held, 1.0);
            state.tensors.iter_mut().for_each(|t| parts(t).0.fill(0));
            parts(&mut state.tensors[1]).0[4] = bad as u32;
        });
        let Error::ImpossibleLevel { element: 4, got, limit, .. } = *e.root() else { panic!("{e}") };
        assert_eq!((got, limit), (i64::from(bad), u64::from(held) << 21));
    }
    // More micro-batches than fit; of 32-bit counts fewer than of 16-bit ones.
    for (format, max, more) in [(trits, 7, u32::MAX), (counts, 1023, 32_767)] {
        for held in [max + 1, more] {
            let e = refused(format, 1, &|state| state.held = held);
            assert!(
                matches!(*e.root(), Error::Limit { got, limit, .. } if (got, limit) == (held.into(), max.into())),
                "{e}"
            );
        }
        let mut full = of(format, 1);
        full.held = max;
        make(Cpu::new(), format).set_state(&full)?;
    }
    // A level past the end of the tensor, or under a scale of 0.
    for format in [planes, trits] {
        let e = refused(format, 2, &|state| parts(&mut state.tensors[1]).0[0] |= 1 << 31);
        assert!(matches!(e.root(), Error::ImpossibleLevel { limit: 0, .. }), "{e}");
        let e = refused(format, 2, &|state| parts(&mut state.tensors[1]).1[0] = 0);
        assert!(matches!(e.root(), Error::ImpossibleLevel { limit: 0, .. }), "{e}");
    }
    let e = refused(planes, 2, &|state| *parts(&mut state.tensors[1]).0 = vec![0b1_0100, 0b1_0100]);
    assert!(matches!(e.root(), Error::InvalidTrits { count: 2, first: 2 }), "{e}");
    // Scales and maxima.
    for bad in [-1.0, f32::NAN, f32::INFINITY, 2f32.powi(-112), 2f32.powi(127)] {
        for (format, tensor) in [(planes, 0), (wide, 0), (trits, 1), (counts, 0), (counts, 1)] {
            let e = refused(format, 2, &|state| parts(&mut state.tensors[tensor]).1[0] = bits_of(bad));
            assert!(matches!(e.root(), Error::Parameter { name: "scale", .. }), "{e}");
        }
        let e = refused(counts, 2, &|state| parts(&mut state.tensors[1]).2.as_mut().unwrap()[0] = bits_of(bad));
        assert!(matches!(e.root(), Error::Parameter { name: "largest magnitude seen", .. }), "{e}");
    }
    for (format, tensor, bad) in
        [(counts, 1, 1.5), (counts, 1, 2f32.powi(106)), (wide, 0, 2f32.powi(120)), (trits, 0, 2f32.powi(-98))]
    {
        let e = refused(format, 2, &|state| parts(&mut state.tensors[tensor]).1[0] = bits_of(bad));
        assert!(matches!(e.root(), Error::Parameter { name: "scale", .. }), "{bad}: {e}");
    }
    for format in [trits, counts] {
        let e = refused(format, 1, &|state| *parts(&mut state.tensors[1]).3 = false);
        assert!(matches!(e.root(), Error::NoScales { held: 1, .. }), "{e}");
    }
    // Sums in f32.
    for bad in [f32::NAN, f32::INFINITY, -2f32.powi(126), f32::from_bits(1), -0.0] {
        let e = refused(wide, 2, &|state| floats(&mut state.tensors[1])[4] = bad);
        assert!(matches!(e.root(), Error::Parameter { name: "sum in f32", .. }), "{e}");
        assert!(e.to_string().contains("bias"), "{e}");
    }
    // The place in the run.
    let past = State { micro_batch: (1 << 24) + 1, ..of(planes, 1) };
    let e = make(Cpu::new(), planes).set_state(&past).unwrap_err();
    assert!(matches!(e, Error::Limit { what: "micro-batch index", .. }), "{e}");
    let mut set = make(Cpu::new(), planes);
    set.set_micro_batch((1 << 24) + 1);
    let e = set.save(path("past.safetensors")).unwrap_err();
    assert!(matches!(e, Error::Limit { what: "micro-batch index", .. }) && !path("past.safetensors").exists(), "{e}");
    for bad in [f64::NAN, f64::INFINITY, 1e40] {
        let e = refused(planes, 1, &|state| state.weights = bad);
        assert!(matches!(e, Error::Parameter { name: "sum of weights", .. }), "{e}");
    }
    // One past the last index is where a full run of them stands; levels have no bound by micro-batches.
    let mut many = of(wide, 1);
    (many.held, many.micro_batch) = (u32::MAX, 1 << 24);
    make(Cpu::new(), wide).set_state(&many)
}

/// A tensor in another format than the accumulator's, by hand: a file says so before.
#[test]
fn a_state_of_another_format_is_refused() {
    let [_, wide, _, counts] = FORMATS;
    let mut sum = make(Cpu::new(), wide);
    go(&mut sum, 0, 2).unwrap();
    let before = sum.state().unwrap();
    let mut other = before.clone();
    other.tensors.reverse();
    for bad in [other, make(Cpu::new(), counts).state().unwrap()] {
        let e = sum.set_state(&bad).unwrap_err();
        assert!(matches!(e.root(), Error::StateFormat { .. }), "{e}");
        assert_eq!(sum.state().unwrap(), before);
    }
}

/// A file with another state, and a right checksum.
fn with_state(file: &[u8], state: &State) -> Vec<u8> {
    let bytes = |words: &[u16]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let mut arrays: Vec<(String, Vec<u8>)> = Vec::new();
    let mut fields = vec![
        ("sum.held".to_owned(), state.held.to_string()),
        ("sum.micro_batch".to_owned(), state.micro_batch.to_string()),
        ("sum.weights".to_owned(), format!("{:016x}", state.weights.to_bits())),
    ];
    for (i, t) in state.tensors.iter().enumerate() {
        match t {
            TensorState::F32(sum) => {
                arrays.push((format!("sum.{i}.sum"), sum.iter().flat_map(|x| x.to_le_bytes()).collect()));
            }
            TensorState::Levels { levels, scales, seen, scaled } => {
                arrays.push((format!("sum.{i}.levels"), levels.iter().flat_map(|w| w.to_le_bytes()).collect()));
                arrays.push((format!("sum.{i}.scales"), bytes(scales)));
                if let Some(seen) = seen {
                    arrays.push((format!("sum.{i}.seen"), bytes(seen)));
                    fields.push((format!("sum.{i}.scaled"), scaled.to_string()));
                }
            }
        }
    }
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    changed(file, &fields, &arrays)
}
