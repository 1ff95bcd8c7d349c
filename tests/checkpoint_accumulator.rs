//! Checkpoints of an accumulator: the same bits back, and every damaged file refused.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use trigrad::accumulator::{Accumulator, Config, Format, NonFinite, Reduce, Scales, Spec, State, TensorState};
use trigrad::checkpoint::{OLDEST, VERSION};
use trigrad::cpu::Cpu;
use trigrad::{Error, Result};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn specs() -> Vec<Spec> {
    vec![Spec::new("layer \"one\".weight", [3, 7]), Spec::new("bias", [5])]
}

/// The second tensor is kept wide, the way that goes with the format.
fn make(cpu: Cpu, format: Format) -> Accumulator<Cpu> {
    let [w, b] = <[Spec; 2]>::try_from(specs()).unwrap();
    let specs = match format {
        Format::Adaptive { bits: 8 } => [w, b.format(Format::F32)],
        Format::Exact { bits: 16, scales } => [w, b.format(Format::Exact { bits: 32, scales })],
        _ => [w, b],
    };
    Accumulator::new(cpu, &specs, Config { format, seed: u64::MAX, ..Config::default() }).unwrap()
}

/// Levels or counts and what goes with them.
fn parts(t: &mut TensorState) -> (&mut Vec<u32>, &mut Vec<u16>, &mut Option<Vec<u16>>, &mut bool) {
    match t {
        TensorState::Levels { levels, scales, seen, scaled } => (levels, scales, seen, scaled),
        TensorState::F32(_) => panic!("held in f32"),
    }
}

fn floats(t: &mut TensorState) -> &mut Vec<f32> {
    match t {
        TensorState::F32(sum) => sum,
        TensorState::Levels { .. } => panic!("held in levels"),
    }
}

/// The error without the file around it, which it must name, once.
fn in_file(e: Error, file: &Path) -> Error {
    let text = e.to_string();
    assert_eq!(text.matches(&file.display().to_string()).count(), 1, "{text}");
    match e {
        Error::InFile { path, source } if path == file => *source,
        e => e,
    }
}

fn go(sum: &mut Accumulator<Cpu>, from: usize, to: usize) -> Result<()> {
    for k in from..to {
        let w: Vec<f32> = (0..21).map(|i| ((i * 31 + k * 17) % 23) as f32 - 11.0).collect();
        let b = [k as f32, -1.0, 0.5, f32::NAN, 2.0];
        let b = if k == 2 { &b[..] } else { &[0.25f32; 5][..] };
        sum.accumulate(&[(0usize, w[..].into()), (1, b.into())], 0.5 + k as f32)?;
        if k % 5 == 4 {
            sum.reset()?;
        }
    }
    Ok(())
}

const FORMATS: [Format; 4] = [
    Format::Adaptive { bits: 2 },
    Format::Adaptive { bits: 8 },
    Format::Exact { bits: 4, scales: Scales::FirstLook { headroom: 2.0 } },
    Format::Exact { bits: 16, scales: Scales::LastWindow { headroom: 1.5 } },
];

#[test]
fn any_cut_gives_the_same_bits_and_keeps_what_was_found() -> Result<()> {
    for (f, format) in FORMATS.into_iter().enumerate() {
        for cut in 0..12 {
            let mut whole = make(Cpu::new(), format);
            go(&mut whole, 0, 12)?;
            let mut first = make(Cpu::new(), format);
            go(&mut first, 0, cut)?;
            let file = path(&format!("cut-{f}-{cut}.safetensors"));
            first.save(&file)?;
            let mut second = make(Cpu::plain(), format);
            go(&mut second, 0, 3)?;
            second.load(&file)?;
            assert_eq!(second.state()?, first.state()?);
            // The NaN of micro-batch 2 marks the window until its reset.
            let marked = second.read_out::<usize, f32>(Reduce::Sum, &mut []).is_err();
            assert_eq!(marked, (3..5).contains(&cut));
            go(&mut second, cut, 12)?;
            assert_eq!(second.state()?, whole.state()?);
            fs::remove_file(file).unwrap();
        }
    }
    Ok(())
}

/// Loading `bytes` must fail and change nothing.
fn refused(sum: &mut Accumulator<Cpu>, state: &State, file: &Path, bytes: &[u8], what: &str) -> Error {
    fs::write(file, bytes).unwrap();
    let e = in_file(sum.load(file).err().unwrap_or_else(|| panic!("{what}: loaded")), file);
    assert_eq!(&sum.state().unwrap(), state, "{what}");
    e
}

#[test]
fn every_byte_changed_and_every_truncation_is_refused() -> Result<()> {
    let file = path("damaged.safetensors");
    let mut saved = make(Cpu::new(), FORMATS[2]);
    go(&mut saved, 0, 2)?;
    saved.save(&file)?;
    let bytes = fs::read(&file).unwrap();
    let mut sum = make(Cpu::new(), FORMATS[2]);
    go(&mut sum, 3, 4)?;
    let state = sum.state()?;
    let (mut corrupted, mut truncated) = (0, 0);
    for i in 0..bytes.len() {
        for bit in [1u8, 0x20, 0x80] {
            let mut bad = bytes.clone();
            bad[i] ^= bit;
            let e = refused(&mut sum, &state, &file, &bad, &format!("byte {i} ^ {bit}"));
            corrupted += usize::from(matches!(e, Error::CheckpointCorrupted { .. }));
        }
    }
    for n in 0..bytes.len() {
        let e = refused(&mut sum, &state, &file, &bytes[..n], &format!("{n} bytes"));
        truncated += usize::from(matches!(e, Error::CheckpointTruncated { .. }));
    }
    let longer = [&bytes[..], &[0]].concat();
    refused(&mut sum, &state, &file, &longer, "one byte more");
    assert!(corrupted > bytes.len() * 2, "{corrupted} of {} say so", 3 * bytes.len());
    assert_eq!(truncated, bytes.len());
    fs::write(&file, &bytes).unwrap();
    sum.load(&file)?;
    assert_eq!(sum.state()?, saved.state()?);
    Ok(())
}

#[test]
fn other_files_are_refused_by_what_they_are() -> Result<()> {
    let mut sum = make(Cpu::new(), FORMATS[0]);
    go(&mut sum, 0, 2)?;
    let state = sum.state()?;
    let file = path("other.safetensors");
    let e = refused(&mut sum, &state, &file, b"PK\x03\x04 a zip file, say", "zip");
    assert!(matches!(e, Error::NotACheckpoint { .. }), "{e}");
    let model = safetensors::serialize(
        [("w", safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![4], &[1, 2, 3, 4]).unwrap())],
        None,
    );
    let e = refused(&mut sum, &state, &file, &model.unwrap(), "a model");
    assert!(matches!(e, Error::NotACheckpoint { .. }), "{e}");
    assert!(matches!(sum.load(path("nowhere/none")), Err(Error::Io { .. })));

    let mut wider = Accumulator::new(
        Cpu::new(),
        &[Spec::new("layer \"one\".weight", [7, 3]), Spec::new("bias", [5])],
        Config { seed: u64::MAX, format: FORMATS[0], ..Config::default() },
    )?;
    sum.save(&file)?;
    assert!(matches!(wider.load(&file).unwrap_err().root(), Error::Shape { .. }));
    let renamed = [Spec::new("weight", [3, 7]), Spec::new("bias", [5])];
    let config = Config { seed: u64::MAX, format: FORMATS[0], ..Config::default() };
    let mut renamed = Accumulator::new(Cpu::new(), &renamed, config)?;
    let e = in_file(renamed.load(&file).unwrap_err(), &file);
    assert!(matches!(e, Error::UnknownTensor { .. }), "{e}");
    let zero = Config { non_finite: NonFinite::Zero, ..config };
    let e = Accumulator::new(Cpu::new(), &specs(), zero)?.load(&file).unwrap_err();
    assert!(e.to_string().contains("other.safetensors"), "{e}");
    assert!(matches!(e.root(), Error::CheckpointMismatch { field, .. } if field == "config.non_finite"), "{e}");
    let [w, b] = <[Spec; 2]>::try_from(specs()).unwrap();
    let e = Accumulator::new(Cpu::new(), &[w, b.format(Format::F32)], config)?.load(&file).unwrap_err();
    assert!(e.to_string().contains("tensor.1.format is `adaptive 2` in the file and `f32` here"), "{e}");
    assert!(in_file(e, &file).to_string().contains("tensor `bias`"));

    // A later version, rightly summed, is told apart from damage.
    let text = fs::read(&file).unwrap();
    let later = with_fields(&text, &[("version", &(VERSION + 1).to_string())]);
    let e = refused(&mut sum, &state, &file, &later, "a later version");
    let Error::CheckpointVersion { got, oldest: OLDEST, known: VERSION, .. } = e else { panic!("{e}") };
    assert_eq!(got, (VERSION + 1).to_string());
    Ok(())
}

#[test]
fn a_failed_write_leaves_the_file_there_was() -> Result<()> {
    let folder = path("a-folder");
    fs::create_dir_all(&folder).unwrap();
    let sum = make(Cpu::new(), FORMATS[1]);
    assert!(matches!(sum.save(&folder), Err(Error::Io { .. })), "a folder can not be replaced by a file");
    assert!(folder.is_dir());
    assert!(sum.save(path("no/such/folder/file")).is_err());
    let left: Vec<_> = fs::read_dir(env!("CARGO_TARGET_TMPDIR")).unwrap().flatten().collect();
    assert!(left.iter().all(|f| !f.file_name().to_string_lossy().contains("a-folder.")), "nothing is left behind");
    Ok(())
}

/// A sound file with its header changed, and a right length and checksum.
fn forged(file: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header = change(std::str::from_utf8(&file[8..end]).unwrap().trim_end()).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = [&(header.len() as u64).to_le_bytes(), &header[..], &file[end..]].concat();
    // A reader checks the first of them.
    let at = bytes.windows(12).position(|w| w == b"\"checksum\":\"").unwrap() + 12;
    bytes[at..at + 8].copy_from_slice(b"00000000");
    let crc = format!("{:08x}", crc32fast::hash(&bytes));
    bytes[at..at + 8].copy_from_slice(crc.as_bytes());
    bytes
}

/// What stands twice in a header has two meanings, and readers differ in which they take.
#[test]
fn a_header_that_says_something_twice_is_refused() -> Result<()> {
    let file = path("twice.safetensors");
    let mut sum = make(Cpu::new(), FORMATS[2]);
    go(&mut sum, 0, 2)?;
    sum.save(&file)?;
    let bytes = fs::read(&file).unwrap();
    go(&mut sum, 2, 4)?;
    let state = sum.state()?;
    let metadata = |h: &str| h[h.find("\"__metadata__\"").unwrap()..=h.find('}').unwrap()].to_owned();
    let entry = |h: &str| {
        let from = h.find("\"sum.0.levels\"").unwrap();
        h[from..=from + h[from..].find('}').unwrap()].to_owned()
    };
    type Change<'a> = (&'a str, Box<dyn Fn(&str) -> String + 'a>);
    let changes: [Change<'_>; 5] = [
        ("__metadata__", Box::new(|h| h.replacen('{', &format!("{{{},", metadata(h)), 1))),
        ("sum.held", Box::new(|h| h.replacen("\"sum.held\"", "\"sum.held\":\"2\",\"sum.held\"", 1))),
        ("sum.held", Box::new(|h| h.replacen("\"sum.held\"", "\"sum.held\":\"1\",\"sum.h\\u0065ld\"", 1))),
        ("sum.0.levels", Box::new(|h| h.replacen("\"sum.0.levels\"", &format!("{},\"sum.0.levels\"", entry(h)), 1))),
        ("dtype", Box::new(|h| h.replacen("\"dtype\"", "\"dtype\":\"F32\",\"dtype\"", 1))),
    ];
    for (name, change) in changes {
        let e = refused(&mut sum, &state, &file, &forged(&bytes, change), name);
        assert!(matches!(e, Error::NotACheckpoint { .. }), "{name}: {e}");
        assert!(e.to_string().contains(&format!("`{name}` stands twice")), "{name}: {e}");
    }
    // The same file, not changed but for its checksum, made anew.
    fs::write(&file, forged(&bytes, str::to_owned)).unwrap();
    assert!(bytes == fs::read(&file).unwrap());
    sum.load(&file)
}

/// An index past its limit is found when it is loaded, and not at the next micro-batch; and the message says where.
#[test]
fn fields_past_their_limits_are_refused_with_file_and_field() -> Result<()> {
    let file = path("limits.safetensors");
    let mut sum = make(Cpu::new(), FORMATS[2]);
    go(&mut sum, 0, 2)?;
    sum.save(&file)?;
    let (bytes, state) = (fs::read(&file).unwrap(), sum.state()?);
    let set = |name: &str, to: &str| {
        forged(&bytes, |h| {
            let from = h.find(&format!("\"{name}\":\"")).unwrap() + name.len() + 4;
            let to_end = from + h[from..].find('"').unwrap();
            format!("{}{to}{}", &h[..from], &h[to_end..])
        })
    };
    let limit = 1u32 << 24;
    for (field, value) in [
        ("sum.micro_batch", (limit + 1).to_string()),
        ("sum.micro_batch", u64::from(u32::MAX).to_string()),
        ("sum.micro_batch", "-1".to_owned()),
        ("sum.step", (1u64 << 32).to_string()),
        ("sum.held", "two".to_owned()),
        ("sum.weights", "0".to_owned()),
        ("sum.0.scaled", "1".to_owned()),
        ("tensor.1.shape", "5,".to_owned()),
    ] {
        let what = format!("{field} = {value}");
        let e = refused(&mut sum, &state, &file, &set(field, &value), &what);
        let Error::CheckpointField { path: at, field: of, .. } = &e else { panic!("{what}: {e}") };
        assert_eq!((at, &of[..]), (&file, field));
        assert!(e.to_string().starts_with(&format!("{}: {field}: ", file.display())), "{e}");
    }
    let e = refused(&mut sum, &state, &file, &set("tensors", "3"), "another number of tensors");
    assert!(matches!(&e, Error::CheckpointMismatch { field, .. } if field == "tensors"), "{e}");
    // At its limit, the window is full, and loads.
    fs::write(&file, set("sum.micro_batch", &limit.to_string())).unwrap();
    sum.load(&file)?;
    assert!(matches!(go(&mut sum, 2, 3), Err(Error::Limit { what: "micro-batch index", .. })));
    Ok(())
}

/// A save replaces a file's contents, and nothing else about it.
#[cfg(unix)]
#[test]
fn links_and_permissions_stay_and_no_special_file_is_replaced() -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    let folder = path("what-stays");
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(folder.join("runs/1")).unwrap();
    let at = |name: &str| folder.join(name);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
    let mut sum = make(Cpu::new(), FORMATS[1]);
    go(&mut sum, 0, 2)?;
    sum.save(at("sound"))?;
    let bytes = fs::read(at("sound")).unwrap();
    let saved = |name: &str| {
        fs::write(at(name), b"older").unwrap();
        sum.save(at(name))?;
        assert!(bytes == fs::read(at(name)).unwrap(), "{name}");
        Ok::<_, Error>(())
    };

    for to in [0o600, 0o640, 0o444, 0o777] {
        fs::remove_file(at("mode")).ok();
        fs::write(at("mode"), b"older").unwrap();
        fs::set_permissions(at("mode"), fs::Permissions::from_mode(to)).unwrap();
        let owner = |m: &fs::Metadata| (m.uid(), m.gid());
        let before = owner(&fs::metadata(at("mode")).unwrap());
        sum.save(at("mode"))?;
        assert!(bytes == fs::read(at("mode")).unwrap());
        assert_eq!((mode("mode"), owner(&fs::metadata(at("mode")).unwrap())), (to, before));
    }
    // A new file has what any new file has.
    fs::write(at("new"), b"").unwrap();
    assert_eq!(mode("sound"), mode("new"));

    // A link to a file, one to a link, one to nothing yet; relative ones lead from where they are.
    symlink("runs/1/state", at("latest")).unwrap();
    symlink("latest", at("best")).unwrap();
    symlink(at("runs/1/later"), at("nothing-yet")).unwrap();
    for (link, to) in [("latest", "runs/1/state"), ("best", "runs/1/state"), ("nothing-yet", "runs/1/later")] {
        if link != "nothing-yet" {
            saved(link)?;
        }
        sum.save(at(link))?;
        assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
        assert!(!fs::symlink_metadata(at(to)).unwrap().is_symlink() && bytes == fs::read(at(to)).unwrap(), "{link}");
    }
    symlink("round", at("round")).unwrap();
    assert!(matches!(sum.save(at("round")), Err(Error::Io { .. })));
    assert!(fs::symlink_metadata(at("round")).unwrap().is_symlink());

    // A socket is a special file that any user can make; what a link to one leads to is none the less one.
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink("socket", at("to-socket")).unwrap();
    symlink("runs", at("to-folder")).unwrap();
    for name in ["socket", "to-socket", "runs", "to-folder"] {
        let e = sum.save(at(name)).unwrap_err();
        assert!(matches!(&e, Error::Io { path, .. } if *path == at(name)), "{e}");
        assert!(e.to_string().contains("not replaced"), "{e}");
    }
    assert!(fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket() && at("runs").is_dir());
    assert!(matches!(sum.save("/dev/null"), Err(Error::Io { .. })));
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    drop(socket);
    // Nothing is left behind, here or where links lead.
    let names = |of: PathBuf| fs::read_dir(of).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    assert!(names(folder.clone()).chain(names(at("runs/1"))).all(|name| !name.ends_with(".tmp")));
    fs::remove_dir_all(folder).unwrap();
    Ok(())
}

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

fn with_fields(file: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    changed(file, fields, &[])
}

/// A file with other values of some of its fields and arrays, and a right checksum.
fn changed(file: &[u8], to: &[(&str, &str)], arrays: &[(String, Vec<u8>)]) -> Vec<u8> {
    let read = safetensors::SafeTensors::deserialize(file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(file).unwrap();
    let mut fields = metadata.metadata().clone().unwrap();
    for (name, value) in to.iter().chain(&[("checksum", "00000000")]) {
        assert!(fields.insert((*name).to_owned(), (*value).to_owned()).is_some(), "no field {name}");
    }
    let tensors = read.tensors().into_iter().map(|(name, view)| {
        let data = arrays.iter().find(|(of, _)| *of == name).map_or(view.data(), |(_, data)| &data[..]);
        let view = safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap();
        (name, view)
    });
    let mut bytes = safetensors::serialize(tensors, Some(fields)).unwrap();
    let sum_at = bytes.windows(12).position(|w| w == b"\"checksum\":\"").unwrap() + 12;
    let crc = format!("{:08x}", crc32fast::hash(&bytes));
    bytes[sum_at..sum_at + 8].copy_from_slice(crc.as_bytes());
    bytes
}

/// A file of version 1 has one format, and of a window without a first look the scales of the one before.
#[test]
fn a_file_of_version_1_loads_into_the_same_formats_only() -> Result<()> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1-exact.safetensors");
    let format = Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } };
    let specs = |wide: Option<Format>| {
        let bias = Spec { format: wide, ..Spec::new("bias", [5]) };
        [Spec::new("layer \"one\".weight", [6, 11]), bias, Spec::new("empty", [0])]
    };
    let config = Config { format, seed: u64::MAX - 1, ..Config::default() };
    let mut sum = Accumulator::new(Cpu::new(), &specs(None), config)?;
    sum.load(&file)?;
    let scales = sum.scales("bias")?;
    assert!(sum.count() == 2 && scales.iter().all(|s| s.to_f32() != 0.0));
    let wide = Format::Exact { bits: 32, scales: Scales::LastWindow { headroom: 1.5 } };
    let e = Accumulator::new(Cpu::new(), &specs(Some(wide)), config)?.load(&file).unwrap_err();
    assert!(matches!(e.root(), Error::CheckpointMismatch { field, .. } if field == "tensor.1.format"), "{e}");
    let fresh = path("v1-unscaled.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&fresh, with_fields(&bytes, &[("sum.1.scaled", "false")])).unwrap();
    // Counts that were made under them need their scales.
    assert!(matches!(sum.load(&fresh).unwrap_err().root(), Error::ImpossibleLevel { limit: 0, .. }));
    Ok(())
}

/// Equal states are equal files, whatever the process: nothing in a file depends on the order of a hash map.
#[test]
fn equal_states_are_equal_files() -> Result<()> {
    let (a, b) = (path("equal-a.safetensors"), path("equal-b.safetensors"));
    for format in FORMATS {
        let mut sum = make(Cpu::new(), format);
        go(&mut sum, 0, 3)?;
        sum.save(&a)?;
        let mut other = make(Cpu::plain(), format);
        other.load(&a)?;
        other.save(&b)?;
        let bytes = fs::read(&a).unwrap();
        assert!(bytes == fs::read(&b).unwrap());
        // Any reader of safetensors takes it.
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let names: Vec<_> = read.names().into_iter().map(String::from).collect();
        assert!(names.contains(&"sum.0.levels".to_owned()), "{names:?}");
        assert_eq!(read.tensor("sum.0.scales").unwrap().data().len(), 2);
    }
    Ok(())
}

#[test]
#[ignore = "a minute: every value of every byte"]
fn every_value_of_every_byte_is_refused() -> Result<()> {
    for (f, format) in FORMATS.into_iter().enumerate() {
        let file = path(&format!("every-{f}.safetensors"));
        let mut sum = make(Cpu::new(), format);
        go(&mut sum, 0, 3)?;
        sum.save(&file)?;
        let (bytes, state) = (fs::read(&file).unwrap(), sum.state()?);
        for i in 0..bytes.len() {
            for by in 1..=255 {
                let mut bad = bytes.clone();
                bad[i] ^= by;
                refused(&mut sum, &state, &file, &bad, &format!("byte {i} ^ {by}"));
            }
        }
        fs::remove_file(file).unwrap();
    }
    Ok(())
}
