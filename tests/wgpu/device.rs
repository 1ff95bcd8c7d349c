//! What only a wgpu device can do or suffer: buffers of the caller's at any offset, operations recorded into an
//! encoder, refused limits, and a device lost in the middle of work. Split tensors are in pieces.rs.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that fails may panic")]

use crate::adapter::device;
use crate::given::{adaptive, gradient, rules};
use half::f16;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::AdaptiveItem;
use trigrad::op::check::{self, Check};
use trigrad::op::quantize::{Item, Quantize};
use trigrad::op::{BlockSize, Element, Grouping, Report};
use trigrad::webgpu::{Buffer, Options, View, ViewMut, Wgpu};
use trigrad::{Backend, Error, Memory, Result};

/// A report's first index beyond 2^31, in a stretch of its own.
#[test]
fn reports_reach_beyond_two_to_the_31() {
    let Some(gpu) = device(&Options::default()) else { return };
    let x = gpu.upload(&[1.0f32, f32::NAN]).unwrap();
    let mut reports = gpu.reports(3).unwrap();
    for first in [(1 << 36) + 5, (1u64 << 32) - 1, (1 << 37) - 2] {
        let item = check::Item { x: Wgpu::view(&x), first, report: 1 };
        gpu.check(&Check { weight: 1.0 }, &mut [item], &mut reports).unwrap();
    }
    let found = gpu.read_reports(&reports).unwrap();
    assert_eq!(found[1], Report { non_finite: 3, first: Some(1 << 32), clipped: 0 });
    assert_eq!((found[0], found[2]), (Report::default(), Report::default()));
}

/// The caller's device and buffers, used where they lie, at offsets that nothing but the element's size divides, in
/// a buffer whose end is no multiple of 16 bytes.
#[test]
fn buffers_of_the_caller_at_odd_offsets() {
    let Some(own) = device(&Options::default()) else { return };
    let gpu = Wgpu::from_device(own.device().clone(), own.queue().clone()).unwrap();
    let n = 1001;
    let x: Vec<f16> = gradient(n).into_iter().map(f16::from_f32).collect();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let make = |size| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    for (skip, op) in [(0, rules()[0]), (1, rules()[0]), (3, rules()[2].grouping(Grouping::Row(7))), (130, rules()[3])]
    {
        let raw = make(((skip + n) * 2).next_multiple_of(4) as u64);
        gpu.write(&x, ViewMut::new(&raw, 2 * skip as u64, n).unwrap()).unwrap();
        let planes = make(4 * (words(n, 2) + 5) as u64);
        let groups = op.grouping.groups(n);
        let scales = make((2 * (groups + 3)).next_multiple_of(4) as u64);
        let mut reports = gpu.reports(1).unwrap();
        let item = Item {
            tensor: 1,
            first: 0,
            x: View::<f16>::new(&raw, 2 * skip as u64, n).unwrap(),
            words: ViewMut::new(&planes, 20, words(n, 2)).unwrap(),
            scales: ViewMut::new(&scales, 2, groups).unwrap(),
            report: 0,
        };
        gpu.quantize(&op, &mut [item], &mut reports).unwrap();
        let expected = plain(&own, &op, &x);
        assert_eq!(gpu.download(View::<u32>::new(&planes, 20, words(n, 2)).unwrap()).unwrap(), expected.0);
        assert_eq!(gpu.download(View::<u16>::new(&scales, 2, groups).unwrap()).unwrap(), expected.1);
        assert_eq!(gpu.download(View::<u16>::new(&scales, 0, 1).unwrap()).unwrap(), [0]);
        assert_eq!(gpu.download(View::<u32>::new(&planes, 0, 5).unwrap()).unwrap(), [0; 5]);
    }
}

fn plain<T: Element>(gpu: &Wgpu, op: &Quantize, x: &[T]) -> (Vec<u32>, Vec<u16>) {
    let given = gpu.upload(x).unwrap();
    let mut planes = gpu.zeros::<u32>(words(x.len(), 2)).unwrap();
    let mut scales = gpu.zeros::<u16>(op.grouping.groups(x.len())).unwrap();
    let item = Item {
        tensor: 1,
        first: 0,
        x: Wgpu::view(&given),
        words: Wgpu::view_mut(&mut planes),
        scales: Wgpu::view_mut(&mut scales),
        report: 0,
    };
    gpu.quantize(op, &mut [item], &mut gpu.reports(1).unwrap()).unwrap();
    (gpu.download(Wgpu::view(&planes)).unwrap(), gpu.download(Wgpu::view(&scales)).unwrap())
}

/// Everything in one buffer: views of one buffer may be read and written in the same call.
#[test]
fn input_and_outputs_in_one_buffer() {
    let Some(gpu) = device(&Options::default()) else { return };
    let n = 1000;
    let x = gradient(n);
    let (planes, scales) = (words(n, 2), BlockSize::default().blocks(n));
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let raw = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: (4 * (n + planes) + 2 * scales).next_multiple_of(4) as u64,
        usage,
        mapped_at_creation: false,
    });
    gpu.write(&x, ViewMut::new(&raw, 0, n).unwrap()).unwrap();
    let (at, then) = (4 * n as u64, 4 * (n + planes) as u64);
    let op = rules()[0];
    let item = Item {
        tensor: 1,
        first: 0,
        x: View::<f32>::new(&raw, 0, n).unwrap(),
        words: ViewMut::new(&raw, at, planes).unwrap(),
        scales: ViewMut::new(&raw, then, scales).unwrap(),
        report: 0,
    };
    gpu.quantize(&op, &mut [item], &mut gpu.reports(1).unwrap()).unwrap();
    let expected = plain(&gpu, &op, &x);
    assert_eq!(gpu.download(View::<u32>::new(&raw, at, planes).unwrap()).unwrap(), expected.0);
    assert_eq!(gpu.download(View::<u16>::new(&raw, then, scales).unwrap()).unwrap(), expected.1);
}

/// Recorded work runs when the caller submits it, and not before.
#[test]
fn recording_into_the_callers_encoder() {
    let Some(gpu) = device(&Options::default()) else { return };
    let x = gradient(500);
    let op = rules()[0];
    let expected = plain(&gpu, &op, &x);
    let given = gpu.upload(&x).unwrap();
    let mut planes = gpu.zeros::<u32>(words(x.len(), 2)).unwrap();
    let mut scales = gpu.zeros::<u16>(op.grouping.groups(x.len())).unwrap();
    let mut reports = gpu.reports(1).unwrap();
    let recorder = gpu.record(gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default()));
    let item = Item {
        tensor: 1,
        first: 0,
        x: Wgpu::view(&given),
        words: Wgpu::view_mut(&mut planes),
        scales: Wgpu::view_mut(&mut scales),
        report: 0,
    };
    recorder.quantize(&op, &mut [item], &mut reports).unwrap();
    assert!(matches!(recorder.download(Wgpu::view(&planes)), Err(Error::Backend { .. })));
    assert!(gpu.download(Wgpu::view(&planes)).unwrap().iter().all(|&w| w == 0), "nothing ran yet");
    let again = recorder.clone();
    let encoder = recorder.finish().unwrap();
    assert!(matches!(again.clear_reports(&mut reports), Err(Error::Backend { .. })), "the encoder is gone");
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(gpu.download(Wgpu::view(&planes)).unwrap(), expected.0);
    assert_eq!(gpu.download(Wgpu::view(&scales)).unwrap(), expected.1);
}

/// A wrong call on a recording handle leaves what the caller had recorded before it.
#[test]
fn a_wrong_call_spares_the_callers_encoder() {
    let Some(gpu) = device(&Options::default()) else { return };
    let (x, op) = (gradient(500), rules()[0]);
    let expected = plain(&gpu, &op, &x);
    let (given, elsewhere) = (gpu.upload(&x).unwrap(), device(&Options::default()).unwrap().upload(&x).unwrap());
    let mut planes = gpu.zeros::<u32>(words(x.len(), 2)).unwrap();
    let mut scales = gpu.zeros::<u16>(op.grouping.groups(x.len())).unwrap();
    let mut reports = gpu.reports(1).unwrap();
    let storage =
        wgpu::BufferDescriptor { label: None, size: 64, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false };
    let uncopied = gpu.device().create_buffer(&storage);
    let recorder = gpu.record(gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default()));
    for (x, right) in [(&given, true), (&elsewhere, false)] {
        let item = Item {
            tensor: 1,
            first: 0,
            x: Wgpu::view(x),
            words: Wgpu::view_mut(&mut planes),
            scales: Wgpu::view_mut(&mut scales),
            report: 0,
        };
        assert_eq!(recorder.quantize(&op, &mut [item], &mut reports).is_ok(), right);
    }
    assert!(recorder.clear(ViewMut::<u32>::new(&uncopied, 0, 16).unwrap()).is_err(), "made without COPY_DST");
    let far = check::Item { x: Wgpu::view(&given), first: 1 << 36, report: 0 };
    let e = recorder.check(&Check { weight: 1.0 }, &mut [far], &mut reports).unwrap_err();
    assert!(matches!(e, Error::Limit { limit: 0x8000_0000, .. }), "{e}");
    gpu.queue().submit([recorder.finish().unwrap().finish()]);
    assert_eq!(gpu.download(Wgpu::view(&planes)).unwrap(), expected.0);
    assert_eq!(gpu.download(Wgpu::view(&scales)).unwrap(), expected.1);
}

/// An error of the caller's own use of the device is told once and then forgotten.
#[test]
fn a_stray_error_is_told_once() {
    let Some(gpu) = device(&Options::default()) else { return };
    let held = gpu.upload(&[5u32, 6]).unwrap();
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::MAP_WRITE;
    drop(gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage,
        mapped_at_creation: false,
    }));
    match gpu.download(Wgpu::view(&held)) {
        Err(Error::Backend { backend: "wgpu", message, .. }) => assert!(!message.is_empty()),
        other => panic!("{other:?}"),
    }
    assert_eq!(gpu.download(Wgpu::view(&held)).unwrap(), [5, 6]);
}

/// Reports that would outgrow a binding are refused before anything changes.
#[test]
fn reports_that_cannot_grow_stay_as_they_are() {
    let Some(gpu) = device(&Options::default()) else { return };
    let binding = gpu.device().limits().max_storage_buffer_binding_size.min(i32::MAX as u64);
    let slots = (binding / 40) as usize;
    let mut reports = gpu.reports(slots).unwrap();
    let x = gpu.upload(&[f32::NAN, 1.0]).unwrap();
    let check = Check { weight: 1.0 };
    let item = |first| check::Item { x: Wgpu::view(&x), first, report: slots - 1 };
    let e = gpu.check(&check, &mut [item(1 << 36)], &mut reports).unwrap_err();
    assert!(matches!(e, Error::Limit { what: "report slots", got, .. } if got == slots as u64), "{e}");
    gpu.check(&check, &mut [item(64)], &mut reports).unwrap();
    let found = gpu.read_reports(&reports).unwrap();
    assert_eq!(found[slots - 1], Report { non_finite: 1, first: Some(64), clipped: 0 });
}

#[test]
fn limits_and_ranges_are_refused_with_fields() {
    let Some(gpu) = device(&Options::default()) else { return };
    let most = gpu.device().limits().max_buffer_size;
    match gpu.zeros::<u8>(most as usize + 1) {
        Err(Error::Limit { got, limit, .. }) => assert!(got > limit && limit == most),
        other => panic!("{other:?}"),
    }
    let mut options = Options::default();
    options.piece = 1000;
    assert!(matches!(Wgpu::with(&options), Err(Error::Alignment { got: 1000, multiple: 65_536, .. })));
    options = Options::default();
    options.adapter = Some("no adapter has this name".to_owned());
    assert!(matches!(Wgpu::with(&options), Err(Error::NoDevice { backend: "wgpu", .. })));
    let usage = wgpu::BufferUsages::STORAGE;
    let buffer = |usage| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor { label: None, size: 64, usage, mapped_at_creation: false })
    };
    let raw = buffer(usage);
    assert!(View::<f32>::new(&raw, 0, 16).is_ok());
    assert!(matches!(View::<f32>::new(&raw, 4, 16), Err(Error::Length { expected: 16, got: 15, .. })));
    assert!(matches!(View::<f32>::new(&raw, 2, 1), Err(Error::Alignment { got: 2, multiple: 4, .. })));
    assert!(matches!(View::<u32>::new(&raw, 8, usize::MAX), Err(Error::Length { .. })));
    assert!(View::<u8>::new(&buffer(wgpu::BufferUsages::COPY_SRC), 0, 1).is_err());
    // A buffer that cannot be copied from: wgpu's own check, as an error and not a panic.
    match gpu.download(View::<f32>::new(&raw, 0, 16).unwrap()) {
        Err(Error::Backend { backend: "wgpu", call: "download", message }) => assert!(!message.is_empty()),
        other => panic!("{other:?}"),
    }
    // And the device is as good as before.
    assert_eq!(gpu.download(Wgpu::view(&gpu.upload(&[1u32, 2, 3]).unwrap())).unwrap(), [1, 2, 3]);
}

/// An adapter of the same kind as `like` whose instance allows only this share of memory, in percent.
fn cramped(like: &Wgpu, percent: u8) -> Option<Wgpu> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.memory_budget_thresholds.for_resource_creation = Some(percent);
    let instance = wgpu::Instance::new(descriptor);
    let adapters = ready(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().find(|a| a.get_info().name == like.adapter().name)?;
    let limits = wgpu::Limits { max_buffer_size: adapter.limits().max_buffer_size, ..wgpu::Limits::default() };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = ready(adapter.request_device(&descriptor)).ok()?;
    Wgpu::from_device(device, queue).ok()
}

/// The output of a future that wgpu has ready at once.
fn ready<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the future waits"),
    }
}

/// Memory that is refused is an error with fields; what was there stays, and the device goes on.
#[test]
fn out_of_memory() {
    let Some(own) = device(&Options::default()) else { return };
    let Some(gpu) = cramped(&own, 2) else { panic!("no second device on {}", own.adapter().name) };
    let x = gpu.upload(&gradient(1000)).unwrap();
    let before = gpu.download(Wgpu::view(&x)).unwrap();
    let most = usize::try_from(gpu.device().limits().max_buffer_size).unwrap() / 4 * 4;
    let mut held = Vec::new();
    let refused = loop {
        match gpu.zeros::<u8>(most.min(1 << 30)) {
            Ok(buffer) if held.len() < 128 => held.push(buffer),
            Ok(_) if own.adapter().device_type == wgpu::DeviceType::Cpu => {
                println!("skipped: {} gives memory without end", own.adapter().name);
                return;
            }
            Ok(_) => panic!("{} GiB were given", held.len()),
            Err(error) => break error,
        }
    };
    match refused {
        Error::OutOfMemory { device, asked, free: None } => {
            assert_eq!((device, asked), (own.adapter().name.clone(), most.min(1 << 30) as u64));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(gpu.download(Wgpu::view(&x)).unwrap(), before);
    assert_eq!(plain(&gpu, &rules()[0], &before), plain(&own, &rules()[0], &before));
}

/// Whatever is wrong with a call, levels, scales and reports stay as they were.
#[test]
fn an_error_leaves_state_as_it_was() {
    let Some(gpu) = device(&Options::default()) else { return };
    let n = 1000;
    let x = gpu.upload(&gradient(n)).unwrap();
    let mut levels = gpu.zeros::<u32>(words(n, 4)).unwrap();
    let mut scales = gpu.zeros::<u16>(BlockSize::default().blocks(n)).unwrap();
    let mut reports = gpu.reports(1).unwrap();
    let other = Wgpu::with(&Options::default()).unwrap();
    let foreign = other.upload(&gradient(n)).unwrap();
    for (wrong, shown) in [(0, "none"), (1, "bits"), (2, "length"), (3, "slot"), (4, "another device's buffer")] {
        let before = (gpu.download(Wgpu::view(&levels)).unwrap(), gpu.download(Wgpu::view(&scales)).unwrap());
        let mut op = adaptive();
        op.bits = if wrong == 1 { 5 } else { 4 };
        let given = Wgpu::view(if wrong == 4 { &foreign } else { &x });
        let given = if wrong == 2 { Wgpu::slice(given, 0..n - 100).unwrap() } else { given };
        let item = AdaptiveItem {
            tensor: 0,
            first: 0,
            x: given,
            levels: Wgpu::view_mut(&mut levels),
            scales: Wgpu::view_mut(&mut scales),
            report: usize::from(wrong == 3),
        };
        let result = gpu.accumulate_adaptive(&op, &mut [item], &mut reports);
        let after = (gpu.download(Wgpu::view(&levels)).unwrap(), gpu.download(Wgpu::view(&scales)).unwrap());
        match (wrong, result) {
            (0, Ok(())) => assert_ne!(after, before),
            (1, Err(Error::BitWidth { got: 5, .. }))
            | (2, Err(Error::InTensor { .. }))
            | (3, Err(Error::Index { index: 1, count: 1, .. })) => assert_eq!(after, before, "{shown}"),
            (4, Err(Error::WrongDevice { .. })) => assert_eq!(after, before, "{shown}"),
            (_, other) => panic!("{shown}: {other:?}"),
        }
    }
    assert_eq!(gpu.read_reports(&reports).unwrap(), [Report::default()]);
}

/// A list is refused before any of it is written where one of its buffers is another device's, was destroyed or is mapped.
#[test]
fn buffers_that_cannot_be_used_are_refused_and_nothing_runs() {
    let Some(gpu) = device(&Options::default()) else { return };
    let other = Wgpu::with(&Options::default()).unwrap();
    let n = 64;
    let make = |gpu: &Wgpu, mapped_at_creation| {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        gpu.device().create_buffer(&wgpu::BufferDescriptor { label: None, size: 256, usage, mapped_at_creation })
    };
    let (right, foreign) = (make(&gpu, false), make(&other, false));
    let (mapped, viewed, destroyed) = (make(&gpu, true), make(&gpu, true), make(&gpu, false));
    let held = viewed.get_mapped_range_mut(..).unwrap();
    destroyed.destroy();
    let own = gpu.upload(&gradient(n)).unwrap();
    own.raw().destroy();
    let theirs = other.upload(&gradient(n)).unwrap();
    let view = |raw| View::<f32>::new(raw, 0, n).unwrap();
    let mut levels = gpu.zeros::<u32>(words(2 * n, 4)).unwrap();
    let mut scales = gpu.zeros::<u16>(2).unwrap();
    let mut reports = gpu.reports(1).unwrap();
    let mut run = |gradient: View<'_, f32>, reports: &mut <Wgpu as Memory>::Reports| {
        let (one, two) = Wgpu::split_mut(Wgpu::view_mut(&mut levels), words(n, 4)).unwrap();
        let (three, four) = Wgpu::split_mut(Wgpu::view_mut(&mut scales), 1).unwrap();
        let good = gpu.upload(&[1.0f32; 64]).unwrap();
        let item = |x, levels, scales| AdaptiveItem { tensor: 0, first: 0, x, levels, scales, report: 0 };
        let mut items = [item(Wgpu::view(&good), one, three), item(gradient, two, four)];
        let result = gpu.accumulate_adaptive(&adaptive(), &mut items, reports);
        (result, gpu.download(Wgpu::view(&levels)).unwrap())
    };
    for (what, view, wrong_device) in [
        ("another device's", view(&foreign), true),
        ("another device's of trigrad", Wgpu::view(&theirs), true),
        ("mapped", view(&mapped), false),
        ("mapped and viewed", view(&viewed), false),
        ("destroyed", view(&destroyed), false),
        ("destroyed, of trigrad", Wgpu::view(&own), false),
    ] {
        let (result, levels) = run(view, &mut reports);
        match result {
            Err(Error::WrongDevice { expected, .. }) if wrong_device => assert_eq!(expected, gpu.name()),
            Err(Error::Backend { backend: "wgpu", call: "accepts", message }) if !wrong_device => {
                assert!(message.contains(what.split([' ', ',']).next().unwrap()), "{what}: {message}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(levels.iter().all(|word| *word == 0), "{what}: the first of the list was written");
    }
    let (result, levels) = run(view(&right), &mut other.reports(1).unwrap());
    assert!(matches!(result, Err(Error::WrongDevice { .. })), "reports of another device");
    assert!(levels.iter().all(|word| *word == 0));
    drop(held);
    mapped.unmap();
    viewed.unmap();
    for view in [view(&right), view(&mapped), view(&viewed)] {
        run(view, &mut reports).0.unwrap();
    }
    assert_eq!(gpu.read_reports(&reports).unwrap(), [Report::default()]);
}

/// A device of this adapter with limits of the caller's choice.
fn limited(like: &Wgpu, limits: wgpu::Limits) -> Result<Wgpu> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = ready(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().find(|a| a.get_info().name == like.adapter().name).unwrap();
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = ready(adapter.request_device(&descriptor)).unwrap();
    Wgpu::from_device(device, queue)
}

/// A device that offers too little is refused when it is opened, with the limit's name.
#[test]
fn a_device_below_the_limits_is_refused_when_it_is_opened() {
    let Some(gpu) = device(&Options::default()) else { return };
    let limits = wgpu::Limits::default;
    for (limits, name) in [
        (wgpu::Limits::downlevel_webgl2_defaults(), "max_storage_buffers_per_shader_stage"),
        (wgpu::Limits::downlevel_defaults(), "max_storage_buffers_per_shader_stage"),
        (wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..limits() }, "max_storage_buffers_per_shader_stage"),
        (wgpu::Limits { max_compute_workgroups_per_dimension: 0, ..limits() }, "max_compute_workgroups_per_dimension"),
        (
            wgpu::Limits { max_compute_invocations_per_workgroup: 64, ..limits() },
            "max_compute_invocations_per_workgroup",
        ),
        (wgpu::Limits { max_compute_workgroup_size_x: 64, ..limits() }, "max_compute_workgroup_size_x"),
        (wgpu::Limits { max_compute_workgroup_storage_size: 1024, ..limits() }, "max_compute_workgroup_storage_size"),
        (
            wgpu::Limits { max_dynamic_uniform_buffers_per_pipeline_layout: 0, ..limits() },
            "max_dynamic_uniform_buffers_per_pipeline_layout",
        ),
        (wgpu::Limits { max_storage_buffer_binding_size: 1024, ..limits() }, "max_storage_buffer_binding_size"),
    ] {
        match limited(&gpu, limits) {
            Err(Error::Limit { what, got, limit }) => assert!(what.contains(name) && got > limit, "{name}: {what}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    limited(&gpu, limits()).unwrap();
}

/// Adapters are chosen by a part of their name or by their place.
#[test]
fn adapters_are_chosen_by_name_or_place() {
    let Some(gpu) = device(&Options::default()) else { return };
    let adapters = Wgpu::adapters();
    let with = |adapter: String| {
        let mut options = Options::default();
        options.adapter = Some(adapter);
        Wgpu::with(&options)
    };
    let place = adapters.iter().position(|info| info.name == gpu.adapter().name).unwrap();
    assert_eq!(with(format!("#{place}")).unwrap().adapter().name, gpu.adapter().name);
    assert_eq!(with(gpu.adapter().name.to_uppercase()).unwrap().adapter().name, gpu.adapter().name);
    for wrong in [format!("#{}", adapters.len()), "#first".to_owned()] {
        match with(wrong.clone()) {
            Err(Error::NoDevice { reason, .. }) => {
                assert!(reason.contains(&wrong) && reason.contains(&format!("#{place} {}", gpu.adapter().name)));
            }
            other => panic!("{wrong}: {other:?}"),
        }
    }
}

/// wgpu's own variables: one that names no adapter here is told, and so is one that leaves no backend.
#[test]
fn wgpus_own_variables() {
    const ALONE: &str = "TRIGRAD_TEST_VARIABLES";
    if std::env::var_os(ALONE).is_some() {
        device(&Options::default());
        return;
    }
    if device(&Options::default()).is_none() {
        return;
    }
    let run = |variable: &str, value: &str| {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "device::wgpus_own_variables", "--nocapture"]).env(ALONE, "1").env(variable, value);
        again.env_remove("TRIGRAD_REQUIRE_WGPU").env_remove("TRIGRAD_WGPU_ADAPTER");
        let output = again.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = run("WGPU_ADAPTER_NAME", "no adapter has this name");
    assert!(said.contains("skipped: no adapter (no adapter is `no adapter has this name`: #0 "), "{said}");
    let said = run("WGPU_BACKEND", "gl");
    assert!(said.contains("WGPU_BACKEND") && !said.contains("mesa"), "{said}");
}

/// A machine without an adapter: this test, run again by itself where Vulkan finds no driver. It says that it is
/// skipped, and fails where an adapter is demanded.
#[test]
fn a_machine_without_an_adapter() {
    const ALONE: &str = "TRIGRAD_TEST_NO_ADAPTER";
    if std::env::var_os(ALONE).is_some() {
        device(&Options::default());
        return;
    }
    let run = |demanded: bool| {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "device::a_machine_without_an_adapter", "--nocapture"]).env(ALONE, "1");
        again.env("WGPU_BACKEND", "vulkan").env_remove("TRIGRAD_REQUIRE_WGPU").env("RUST_BACKTRACE", "0");
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            again.env(variable, "/nowhere/no_driver.json");
        }
        if demanded {
            again.env("TRIGRAD_REQUIRE_WGPU", "1");
        }
        let output = again.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (passed, said) = run(false);
    assert!(passed && said.contains("skipped: no adapter (no adapter found"), "{said}");
    let (passed, said) = run(true);
    assert!(!passed && said.contains("no adapter found"), "{said}");
}

/// What a lost device does to everything that comes after: an error each time, no panic, no hang.
fn after_loss(
    gpu: &Wgpu,
    levels: &mut Buffer<u32>,
    scales: &mut Buffer<u16>,
    x: &Buffer<f32>,
    reports: &mut <Wgpu as Memory>::Reports,
) {
    let item = AdaptiveItem {
        tensor: 0,
        first: 0,
        x: Wgpu::view(x),
        levels: Wgpu::view_mut(levels),
        scales: Wgpu::view_mut(scales),
        report: 0,
    };
    let lost = |what: &str, result: Result<()>| match result {
        Err(Error::Backend { backend: "wgpu", message, .. }) => assert!(!message.is_empty()),
        other => panic!("{what}: {other:?}"),
    };
    lost("accumulate", gpu.accumulate_adaptive(&adaptive(), &mut [item], reports));
    lost("download", gpu.download(Wgpu::view(levels)).map(drop));
    lost("read_reports", gpu.read_reports(reports).map(drop));
    lost("zeros", gpu.zeros::<f32>(10).map(drop));
    lost("upload", gpu.upload(&[1.0f32; 10]).map(drop));
    lost("copy", gpu.upload(&[0u32; 20]).map(drop));
    lost("clear", gpu.clear(Wgpu::view_mut(levels)));
}

#[test]
fn a_device_lost_in_the_middle_of_work() {
    for foreign in [false, true] {
        let Some(own) = device(&Options::default()) else { return };
        let gpu =
            if foreign { Wgpu::from_device(own.device().clone(), own.queue().clone()).unwrap() } else { own.clone() };
        let n = 1 << 20;
        let x = gpu.upload(&gradient(n)).unwrap();
        let mut levels = gpu.zeros::<u32>(words(n, 4)).unwrap();
        let mut scales = gpu.zeros::<u16>(BlockSize::default().blocks(n)).unwrap();
        let mut reports = gpu.reports(1).unwrap();
        for micro_batch in 0..4 {
            let mut op = adaptive();
            op.draw = op.draw.micro_batch(micro_batch);
            let item = AdaptiveItem {
                tensor: 0,
                first: 0,
                x: Wgpu::view(&x),
                levels: Wgpu::view_mut(&mut levels),
                scales: Wgpu::view_mut(&mut scales),
                report: 0,
            };
            gpu.accumulate_adaptive(&op, &mut [item], &mut reports).unwrap();
        }
        // The work is queued, and none of it has been waited for.
        gpu.device().destroy();
        after_loss(&gpu, &mut levels, &mut scales, &x, &mut reports);
    }
}
