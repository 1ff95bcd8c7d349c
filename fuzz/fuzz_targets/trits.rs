//! Everything that parses packed words: planes, separate planes, 2-bit fields, i8 trits. Any words are taken, what is no
//! trit is counted, and every CPU path answers as the reference does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trigrad::Backend;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::op::Report;
use trigrad::op::pack::{
    FieldsToPlanes, FieldsToPlanesItem, JoinPlanes, JoinPlanesItem, Pack, PackItem, PlanesToFields, PlanesToFieldsItem,
    SplitPlanes, SplitPlanesItem, Unpack, UnpackItem,
};
use trigrad::op::reduce::{CountNonzero, CountNonzeroItem};
use trigrad::testing::Reference;
use trigrad_fuzz::{Bytes, cpus, host, outcome};

type Words = Result<Vec<u32>, String>;

struct Case {
    words: Vec<u32>,
    n: usize,
    lengths: (usize, usize),
    trits: Vec<i8>,
}

#[derive(Debug, PartialEq)]
struct Found {
    unpacked: Result<(Vec<i8>, Vec<Report>), String>,
    packed: Result<(Vec<u32>, Vec<Report>), String>,
    fields: Words,
    planes: Words,
    split: Result<(Vec<u32>, Vec<u32>), String>,
    joined: Words,
    nonzero: Words,
}

fn run<B: Backend>(b: &B, c: &Case) -> Found {
    let unpacked = (|| {
        let (words, mut trits, mut reports) = (b.upload(&c.words)?, b.upload(&vec![99i8; c.n])?, b.reports(1)?);
        let item = UnpackItem { words: B::view(&words), trits: B::view_mut(&mut trits), report: 0 };
        b.unpack(&Unpack, &mut [item], &mut reports)?;
        Ok((host(b, &trits), b.read_reports(&reports)?))
    })();
    let packed = (|| {
        let (trits, mut out, mut reports) = (b.upload(&c.trits)?, b.zeros::<u32>(c.lengths.0)?, b.reports(1)?);
        let item = PackItem { trits: B::view(&trits), words: B::view_mut(&mut out), report: 0 };
        b.pack(&Pack, &mut [item], &mut reports)?;
        Ok((host(b, &out), b.read_reports(&reports)?))
    })();
    let converted = |back: bool| {
        let (from, mut to) = (b.upload(&c.words)?, b.zeros::<u32>(c.lengths.1)?);
        match back {
            false => {
                let item = PlanesToFieldsItem { words: B::view(&from), fields: B::view_mut(&mut to) };
                b.planes_to_fields(&PlanesToFields, &mut [item])?;
            }
            true => {
                let item = FieldsToPlanesItem { fields: B::view(&from), words: B::view_mut(&mut to) };
                b.fields_to_planes(&FieldsToPlanes, &mut [item])?;
            }
        }
        Ok(host(b, &to))
    };
    let split = (|| {
        let from = b.upload(&c.words)?;
        let (mut plus, mut minus) = (b.zeros::<u32>(c.lengths.1 / 2)?, b.zeros::<u32>(c.lengths.1 / 2)?);
        let (words, plus_view, minus_view) = (B::view(&from), B::view_mut(&mut plus), B::view_mut(&mut minus));
        b.split_planes(&SplitPlanes, &mut [SplitPlanesItem { words, plus: plus_view, minus: minus_view }])?;
        Ok((host(b, &plus), host(b, &minus)))
    })();
    let joined = (|| {
        let (plus, minus) = c.words.split_at(c.words.len() / 2);
        let (plus, minus, mut to) = (b.upload(plus)?, b.upload(minus)?, b.zeros::<u32>(c.lengths.1)?);
        let (plus, minus, words) = (B::view(&plus), B::view(&minus), B::view_mut(&mut to));
        b.join_planes(&JoinPlanes, &mut [JoinPlanesItem { plus, minus, words }])?;
        Ok(host(b, &to))
    })();
    let nonzero = (|| {
        let (words, mut sums) = (b.upload(&c.words)?, b.zeros::<u32>(SUM_WORDS)?);
        let item = CountNonzeroItem { words: B::view(&words), sum: 0 };
        b.count_nonzero(&CountNonzero, &mut [item], B::view_mut(&mut sums))?;
        Ok(host(b, &sums))
    })();
    Found {
        unpacked: outcome(unpacked),
        packed: outcome(packed),
        fields: outcome(converted(false)),
        planes: outcome(converted(true)),
        split: outcome(split),
        joined: outcome(joined),
        nonzero: outcome(nonzero),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let n = bytes.length();
    let count = bytes.near(words(n, 2));
    let trits: Vec<i8> = bytes.0.iter().map(|b| if *b < 0xf0 { *b as i8 % 2 } else { *b as i8 }).collect();
    let lengths = (bytes.near(words(trits.len(), 2)), bytes.near(count));
    let words = bytes.values::<f32>(count).iter().map(|x| x.to_bits()).collect();
    let case = Case { words, n, lengths, trits };
    let expected = run(&Reference, &case);
    for cpu in cpus() {
        assert_eq!(run(&cpu, &case), expected);
    }
    if let Ok((trits, reports)) = &expected.unpacked {
        assert!(trits.iter().all(|t| (-1..=1).contains(t)));
        assert!(reports[0].non_finite <= n as u64);
    }
    // 2-bit fields and planes are two spellings of the same.
    if let Ok(fields) = &expected.fields {
        let back = Case { words: fields.clone(), n, lengths: (0, fields.len()), trits: Vec::new() };
        assert_eq!(run(&Reference, &back).planes.as_ref(), Ok(&case.words));
    }
});
