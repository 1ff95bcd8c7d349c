//! What is kept between calls: scratch memory, which is bounded, and kernels.

use super::*;

/// Rows that are no blocks need scratch memory for each: they are quantized in rounds, and what is kept is bounded.
#[test]
fn scratch_memory_of_rows_is_bounded() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let cuda = on(&context.default_stream());
    // No multiple of a word, of a tile, or of a round; the last of a list that takes several rounds starts amid one.
    let (row, lengths) = (10, [30 * 700_001, 30 * 5, 30 * 300_007]);
    let tensors: Vec<Vec<f32>> = (0..).zip(lengths).map(|(seed, n)| numbers(n, 20 + seed)).collect();
    let on_card: Vec<_> = tensors.iter().map(|x| cuda.upload(x).unwrap()).collect();
    let rules = [
        Quantize::stochastic(Draw::new(1, 2)),
        Quantize::stochastic(Draw::new(1, 2)).clip(1.5),
        Quantize::threshold(Threshold::TWN),
    ];
    for op in rules.map(|op| op.grouping(Grouping::Row(row))) {
        let want = quantized_list(&Cpu::new(), &tensors, &op);
        context.synchronize().unwrap();
        let before = cuda.in_use().unwrap().now;
        let got = quantized_list(&cuda, &on_card, &op);
        assert!(got == want, "{op:?}");
        let kept = cuda.in_use().unwrap().now - before;
        assert!(kept < 70 << 20, "{kept} bytes are kept");
    }
}

fn quantized_list<B: Backend>(backend: &B, list: &[B::Buffer<f32>], op: &Quantize) -> Vec<(Vec<u32>, Vec<u16>)> {
    let mut out = Vec::new();
    for x in list {
        let n = B::len(&B::view(x));
        let planes = backend.zeros::<u32>(words(n, 2)).unwrap();
        out.push((planes, backend.zeros::<u16>(op.grouping.groups(n)).unwrap()));
    }
    let mut reports = backend.reports(list.len()).unwrap();
    let mut items = Vec::new();
    for (i, (x, (planes, scales))) in list.iter().zip(&mut out).enumerate() {
        let (words, scales) = (B::view_mut(planes), B::view_mut(scales));
        items.push(quantize::Item { tensor: i as u32, first: 0, x: B::view(x), words, scales, report: i });
    }
    backend.quantize(op, &mut items, &mut reports).unwrap();
    drop(items);
    let download = |(planes, scales): &(B::Buffer<u32>, B::Buffer<u16>)| {
        (backend.download(B::view(planes)).unwrap(), backend.download(B::view(scales)).unwrap())
    };
    out.iter().map(download).collect()
}

/// Kernels stay loaded when the last handle goes.
#[test]
fn a_handle_is_made_anew_at_little_cost() {
    let Some(_alone) = alone() else { return };
    let stream = context().default_stream();
    // Memory in use keeps the driver's pool: what it takes to fill that is not measured here.
    let _kept = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    let x = numbers(1000, 17);
    let op = Quantize::stochastic(Draw::new(1, 2));
    let want = quantized(&Cpu::new(), &x, &op);
    let once = || {
        let cuda = on(&stream);
        let x = cuda.upload(&x).unwrap();
        assert!(quantized(&cuda, &x, &op) == want);
    };
    once();
    let begin = Instant::now();
    for _ in 0..100 {
        once();
    }
    let each = begin.elapsed() / 100;
    assert!(small() || each < Duration::from_micros(300), "{each:?} a call");
}
