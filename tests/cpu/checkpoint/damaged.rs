//! Damaged and foreign files: each is refused by what is wrong with it, and changes nothing.

use super::*;
use trigrad::op::BlockSize;

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
    // The file decides the seed, the caller what happens to NaN.
    let mut other = Accumulator::new(Cpu::new(), &specs(), Config { seed: 1, ..zero })?;
    other.load(&file)?;
    assert_eq!((other.config().seed, other.config().non_finite), (u64::MAX, NonFinite::Zero));
    assert_eq!(other.state()?, sum.state()?);
    let larger = Config { block: BlockSize::new(128)?, ..config };
    let e = Accumulator::new(Cpu::new(), &specs(), larger)?.load(&file).unwrap_err();
    assert!(e.to_string().contains("other.safetensors"), "{e}");
    assert!(matches!(e.root(), Error::CheckpointMismatch { field, .. } if field == "config.block"), "{e}");
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
