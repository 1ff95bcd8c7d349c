//! Several streams: every use of a buffer in its order, and nothing else waits.

use super::*;
use trigrad::numerics::constants::state::{STEP, WORDS};
use trigrad::numerics::state::State;
use trigrad::op::state::Following;

#[test]
fn every_reader_is_waited_for() {
    let Some(_alone) = alone() else { return };
    for context in contexts() {
        let delay = Delay::new(&context);
        let streams = [context.default_stream(), context.new_stream().unwrap(), context.new_stream().unwrap()];
        let [home, slow, quick] = streams.each_ref().map(on);
        [&home, &slow, &quick].into_iter().for_each(warm);
        let (x, other) = (numbers(N, 4), numbers(N, 5));
        let want = expected(&[&x]);
        for what in ["overwritten by a handle", "overwritten by cudarc", "dropped"] {
            let next = home.upload(&other).unwrap();
            let mut gradient = home.upload(&x).unwrap();
            let (mut first, mut second) = (sum(slow.clone(), N), sum(quick.clone(), N));
            context.synchronize().unwrap();
            delay.queue(slow.stream());
            add(&mut first, Cuda::view(&gradient)).unwrap();
            add(&mut second, Cuda::view(&gradient)).unwrap();
            let mut kept = None;
            match what {
                "overwritten by a handle" => home.copy(Cuda::view(&next), Cuda::view_mut(&mut gradient)).unwrap(),
                "overwritten by cudarc" => home.stream().memset_zeros(&mut Cuda::view_mut(&mut gradient)).unwrap(),
                _ => {
                    drop(gradient);
                    let mut again = home.zeros::<f32>(N).unwrap();
                    home.copy(Cuda::view(&next), Cuda::view_mut(&mut again)).unwrap();
                    kept = Some(again);
                }
            }
            assert!(read(&first) == want, "{what} before the first reader had it");
            assert!(read(&second) == want, "{what} before the second reader had it");
            drop(kept);
        }
    }
}

/// A reader that cudarc knows of and this crate does not, before one of this crate's.
#[test]
fn a_reader_of_someone_elses_is_waited_for() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let delay = Delay::new(&context);
    let (own, theirs) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let cuda = on(&own);
    warm(&cuda);
    let (x, other) = (numbers(N, 6), numbers(N, 7));
    let mut buffer = cuda.upload(&x).unwrap();
    let next = cuda.upload(&other).unwrap();
    let mut copied = theirs.alloc_zeros::<f32>(N).unwrap();
    let mut ours = sum(cuda.clone(), N);
    context.synchronize().unwrap();
    delay.queue(&theirs);
    theirs.memcpy_dtod(&Cuda::view(&buffer), &mut copied).unwrap();
    add(&mut ours, Cuda::view(&buffer)).unwrap();
    cuda.copy(Cuda::view(&next), Cuda::view_mut(&mut buffer)).unwrap();
    assert!(theirs.clone_dtoh(&copied).unwrap() == x, "overwritten before cudarc's reader had it");
    assert!(read(&ours) == expected(&[&x]));
}

#[test]
fn two_context_objects_of_a_card_are_one_context() {
    let Some(_alone) = alone() else { return };
    // Each with no other stream, and with one: cudarc has its own opinion on both.
    for (a, b) in [(true, true), (true, false), (false, true)] {
        let contexts = [context(), context()];
        let delay = Delay::new(&contexts[0]);
        let stream = |i: usize, new: bool| {
            if new { contexts[i].new_stream().unwrap() } else { contexts[i].default_stream() }
        };
        let (a, b) = (on(&stream(0, a)), on(&stream(1, b)));
        [&a, &b].into_iter().for_each(warm);
        let (x, other) = (numbers(N, 8), numbers(N, 9));
        let want = expected(&[&x]);
        // Written there, read here.
        let made = a.upload(&x).unwrap();
        let mut gradient = a.zeros::<f32>(N).unwrap();
        let mut ours = sum(b.clone(), N);
        a.synchronize().unwrap();
        b.synchronize().unwrap();
        delay.queue(a.stream());
        a.copy(Cuda::view(&made), Cuda::view_mut(&mut gradient)).unwrap();
        add(&mut ours, Cuda::view(&gradient)).unwrap();
        assert!(read(&ours) == want, "read before it was written");
        // Read here, freed there.
        let next = a.upload(&other).unwrap();
        let mut ours = sum(b.clone(), N);
        a.synchronize().unwrap();
        b.synchronize().unwrap();
        delay.queue(b.stream());
        add(&mut ours, Cuda::view(&gradient)).unwrap();
        drop(gradient);
        let mut again = a.zeros::<f32>(N).unwrap();
        a.copy(Cuda::view(&next), Cuda::view_mut(&mut again)).unwrap();
        assert!(read(&ours) == want, "read after it was freed");
    }
}

#[test]
fn what_a_handle_wrote_is_there_when_it_is_gone() {
    let Some(_alone) = alone() else { return };
    for context in contexts() {
        let delay = Delay::new(&context);
        let first = on(&context.default_stream());
        warm(&first);
        let x = numbers(N, 10);
        let made = first.upload(&x).unwrap();
        let mut held = first.zeros::<f32>(N).unwrap();
        let mut reports = first.reports(1).unwrap();
        let nan = first.upload(&[1.0, f32::NAN]).unwrap();
        first
            .check(
                &Check { weight: 1.0 },
                &mut [check::Item { x: Cuda::view(&nan), first: 0, report: 0 }],
                &mut reports,
            )
            .unwrap();
        first.clear_reports(&mut reports).unwrap();
        let second = on(&context.new_stream().unwrap());
        context.synchronize().unwrap();
        delay.queue(second.stream());
        second.copy(Cuda::view(&made), Cuda::view_mut(&mut held)).unwrap();
        let item = check::Item { x: Cuda::view(&nan), first: 0, report: 0 };
        second.check(&Check { weight: 1.0 }, &mut [item], &mut reports).unwrap();
        drop(second);
        assert!(first.download(Cuda::view(&held)).unwrap() == x, "read before it was written");
        let found = first.read_reports(&reports).unwrap();
        assert_eq!(found, [Report { non_finite: 1, first: Some(1), clipped: 0 }]);
    }
}

/// A state that another stream writes: a call draws by the step that was set before it, throughout.
#[test]
fn a_state_of_another_stream_is_ordered() {
    let Some(_alone) = alone() else { return };
    let n = if small() { N } else { 32 * N };
    let x = numbers(n, 11);
    let op = Quantize::stochastic(Draw::new(3, 10)).grouping(Grouping::Tensor);
    let want = |offset: u32| {
        quantized(&Cpu::new(), &x, &Quantize::stochastic(Draw::new(3, 10 + offset)).grouping(op.grouping))
    };
    let (one, two) = (want(1), want(2));
    assert!(one != two);
    for context in contexts() {
        let delay = Delay::new(&context);
        let (cuda, other) = (on(&context.new_stream().unwrap()), on(&context.new_stream().unwrap()));
        let x = cuda.upload(&x).unwrap();
        quantized(&cuda, &x, &op);
        let states = [1u32, 2].map(|step| State { step, ..State::new(1.0, 1.0) });
        let states = states.map(|state| other.upload(state.words()).unwrap());
        let mut state = other.zeros::<u32>(WORDS).unwrap();
        let mut planes = cuda.zeros::<u32>(words(n, 2)).unwrap();
        let mut scale = cuda.zeros::<u16>(1).unwrap();
        let mut reports = cuda.reports(1).unwrap();
        for _ in 0..5 {
            context.synchronize().unwrap();
            // Set behind a delay there, read here; then read behind a delay here, and set there.
            delay.queue(other.stream());
            other.copy(Cuda::view(&states[0]), Cuda::view_mut(&mut state)).unwrap();
            let (to, scales) = (Cuda::view_mut(&mut planes), Cuda::view_mut(&mut scale));
            let item = quantize::Item { tensor: 0, first: 0, x: Cuda::view(&x), words: to, scales, report: 0 };
            Following::new(&cuda, Cuda::view(&state)).quantize(&op, &mut [item], &mut reports).unwrap();
            other.copy(Cuda::view(&states[1]), Cuda::view_mut(&mut state)).unwrap();
            assert!(cuda.download(Cuda::view(&planes)).unwrap() == one.0, "not all drawn by the step that was set");
            assert_eq!(other.download(Cuda::view(&state)).unwrap()[STEP], 2);
        }
    }
}

/// Streams that share nothing do not wait for each other, and nothing waits on the host that does not say so.
#[test]
fn what_shares_nothing_does_not_wait() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let delay = Delay::new(&context);
    let (busy, free) = (on(&context.new_stream().unwrap()), on(&context.new_stream().unwrap()));
    [&busy, &free].into_iter().for_each(warm);
    let x = numbers(N, 12);
    let there = busy.upload(&x).unwrap();
    let here = free.upload(&x).unwrap();
    let (mut theirs, mut ours) = (sum(busy.clone(), N), sum(free.clone(), N));
    context.synchronize().unwrap();
    let begin = Instant::now();
    delay.milliseconds(busy.stream(), 2000);
    add(&mut theirs, Cuda::view(&there)).unwrap();
    add(&mut ours, Cuda::view(&here)).unwrap();
    let got = read(&ours);
    let took = begin.elapsed();
    assert!(small() || took < Duration::from_millis(1500), "{took:?}: waits for a stream that it shares nothing with");
    assert!(got == expected(&[&x]) && read(&theirs) == got);
    assert!(begin.elapsed() >= Duration::from_millis(1900), "the delay was none");
}
