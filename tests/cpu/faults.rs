//! What goes wrong outside the library: a full disk, a killed process, a panic in the caller's code, many threads. The
//! state is then as it was, the file is a whole one, and the next correct call works.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use trigrad::Memory;
use trigrad::accumulator::{Accumulator, Config, Format, Reduce, Scales, Spec, State};
use trigrad::cpu::Cpu;
use trigrad::testing::values::Rng;
use trigrad::{Error, Result};

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}"));
    fs::remove_dir_all(&path).ok();
    fs::create_dir_all(&path).unwrap();
    path
}

const N: usize = 300_000;

fn make(format: Format) -> Accumulator<Cpu> {
    let specs = [Spec::new("w", [N]), Spec::new("b", [33])];
    Accumulator::new(Cpu::new(), &specs, Config { format, seed: 3, ..Config::default() }).unwrap()
}

fn add(sum: &mut Accumulator<Cpu>, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed, 1);
    let w: Vec<f32> = (0..N).map(|_| rng.unit() as f32 - 0.5).collect();
    let b = [seed as f32; 33];
    sum.accumulate(&[("w", w[..].into()), ("b", b[..].into())], 1.0)
}

const FOUR: Format = Format::Adaptive { bits: 4 };

/// The states that [`child`] saves, in this order again and again.
fn states() -> Vec<State> {
    let state = |seed| {
        let mut sum = make(FOUR);
        add(&mut sum, seed).unwrap();
        sum.state().unwrap()
    };
    (1..4).map(state).collect()
}

/// Not a test of its own: run by the tests below in a process that is killed or has no room on the disk. It saves to
/// the path it is told, once or until it is killed, and says how it went by its exit code.
#[test]
fn child() {
    let Some(path) = std::env::var_os("TRIGRAD_FAULTS_SAVE") else { return };
    let mut sum = make(FOUR);
    let states = states();
    if std::env::var_os("TRIGRAD_FAULTS_ONCE").is_some() {
        sum.set_state(&states[1]).unwrap();
        match sum.save(&path) {
            Err(Error::Io { .. }) if sum.state().unwrap() == states[1] => {}
            other => panic!("{other:?} with no room on the disk"),
        }
        // The next correct call works.
        add(&mut sum, 9).unwrap();
        std::process::exit(77);
    }
    for state in states.iter().cycle() {
        sum.set_state(state).unwrap();
        sum.save(&path).unwrap();
    }
}

fn start(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["faults::child", "--exact", "--nocapture", "--test-threads=1"])
        .env("TRIGRAD_FAULTS_SAVE", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Killed at any moment, most often while the new file is being written, the old file or the new one is there, whole.
#[test]
fn a_killed_process_leaves_a_whole_checkpoint() {
    let folder = folder("killed");
    let path = folder.join("state.safetensors");
    let states = states();
    let mut sum = make(FOUR);
    sum.set_state(&states[0]).unwrap();
    sum.save(&path).unwrap();
    let mut rng = Rng::new(5, 5);
    let mut cut = 0;
    for kill in 0..12 {
        let mut child = start(&path);
        let beside = folder.join(format!(".state.safetensors.{}.", child.id()));
        let being_written = || {
            let starts = |f: &fs::DirEntry| f.path().to_string_lossy().starts_with(&*beside.to_string_lossy());
            fs::read_dir(&folder).unwrap().flatten().any(|f| starts(&f))
        };
        let waited = Instant::now();
        while !being_written() && waited.elapsed() < Duration::from_secs(30) {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(rng.below(3000)));
        child.kill().unwrap();
        child.wait().unwrap();
        cut += usize::from(being_written());
        let mut sum = make(FOUR);
        add(&mut sum, 100).unwrap();
        sum.load(&path).unwrap_or_else(|e| panic!("kill {kill}: {e}"));
        assert!(states.contains(&sum.state().unwrap()), "kill {kill}");
        add(&mut sum, 7).unwrap();
        sum.save(&path).unwrap();
        sum.set_state(&states[0]).unwrap();
        sum.save(&path).unwrap();
    }
    assert!(cut > 0, "no kill came in the middle of a write");
    fs::remove_dir_all(&folder).unwrap();
}

/// A write that finds no room is an error, the file that was there stays, and nothing is left beside it.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_checkpoint_there_was() {
    let folder = folder("full");
    let path = folder.join("state.safetensors");
    let mut sum = make(FOUR);
    add(&mut sum, 50).unwrap();
    sum.save(&path).unwrap();
    let (before, state) = (fs::read(&path).unwrap(), sum.state().unwrap());
    let kib = before.len() / 1024;
    for limit in [0, 1, kib / 2, kib - 1] {
        // A limit on the size of files, which a write runs into as it does into a full disk; blocks are of 512 bytes.
        let exe = std::env::current_exe().unwrap();
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" faults::child --exact --nocapture", limit * 2))
            .arg(exe)
            .env("TRIGRAD_FAULTS_SAVE", &path)
            .env("TRIGRAD_FAULTS_ONCE", "1")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(77), "limit of {limit} KiB");
        assert_eq!(fs::read(&path).unwrap(), before, "limit of {limit} KiB");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "something is left beside the checkpoint");
        let mut again = make(FOUR);
        again.load(&path).unwrap();
        assert_eq!(again.state().unwrap(), state);
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// More memory than there can be is an error with its size, and the device goes on.
#[test]
fn absurd_sizes_are_out_of_memory() {
    let cpu = Cpu::new();
    for len in [usize::MAX, usize::MAX / 8, 1 << 60] {
        let e = cpu.zeros::<u32>(len).unwrap_err();
        assert!(matches!(e, Error::OutOfMemory { asked, .. } if asked == (len as u64).saturating_mul(4)), "{e}");
        assert!(matches!(cpu.reports(len).unwrap_err(), Error::OutOfMemory { .. }));
    }
    let specs = |n: usize| [Spec::new("small", [5]), Spec::new("large", [n])];
    let e = Accumulator::new(Cpu::new(), &specs(usize::MAX), Config::default()).err().unwrap();
    assert!(matches!(e.root(), Error::Limit { .. }), "{e}");
    assert!(e.to_string().contains("large"), "{e}");
}

/// What one worker does: the same calls as any other, on numbers of its own.
fn work(cpu: Cpu, worker: u64, format: Format) -> Result<(State, Vec<f32>)> {
    let specs = [Spec::new("w", [70_001]), Spec::new("b", [40])];
    let mut sum = Accumulator::new(cpu, &specs, Config { format, seed: worker, ..Config::default() })?;
    let mut rng = Rng::new(worker, 2);
    for k in 0..6 {
        let w: Vec<f32> = (0..70_001).map(|_| rng.unit() as f32 - 0.5).collect();
        let b = [half::f16::from_f32(k as f32); 40];
        sum.accumulate(&[("w", w[..].into()), ("b", b[..].into())], 0.5)?;
        if k == 2 {
            sum.reset()?;
        }
        // A wrong call between right ones.
        assert!(sum.accumulate(&[("w", w[..].into())], 1.0).is_err());
    }
    Ok((sum.state()?, sum.to_vec("w", Reduce::Mean)?))
}

const FORMATS: [Format; 3] =
    [FOUR, Format::Adaptive { bits: 8 }, Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } }];

#[test]
fn threads_share_a_device_with_an_accumulator_each() {
    let cpu = Cpu::new();
    let alone: Vec<_> = (0..8).map(|i| work(cpu, i, FORMATS[i as usize % 3]).unwrap()).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let start = |i: u64| scope.spawn(move || work(cpu, i, FORMATS[i as usize % 3]).unwrap());
        let workers: Vec<_> = (0..8).map(start).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert!(alone == together);
}

/// Threads of one process that save to one path at once: what is there is always a whole file of one of them.
#[test]
fn threads_that_save_to_one_path_leave_a_whole_file() {
    let folder = folder("threads");
    let path = Arc::new(folder.join("state.safetensors"));
    let states = Arc::new(states());
    let done = Arc::new(AtomicBool::new(false));
    let mut sum = make(FOUR);
    sum.set_state(&states[0]).unwrap();
    sum.save(&*path).unwrap();
    let savers: Vec<_> = (0..3)
        .map(|i| {
            let (path, states) = (path.clone(), states.clone());
            std::thread::spawn(move || {
                let mut sum = make(FOUR);
                sum.set_state(&states[i]).unwrap();
                for _ in 0..12 {
                    sum.save(&*path).unwrap();
                }
            })
        })
        .collect();
    let reader = std::thread::spawn({
        let (path, states, done) = (path.clone(), states.clone(), done.clone());
        move || {
            let mut loads = 0;
            while !done.load(Ordering::Relaxed) || loads == 0 {
                let mut sum = make(FOUR);
                sum.load(&*path).unwrap();
                assert!(states.contains(&sum.state().unwrap()));
                loads += 1;
            }
        }
    });
    let saved: Vec<_> = savers.into_iter().map(std::thread::JoinHandle::join).collect();
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert!(saved.iter().all(std::result::Result::is_ok), "a save failed");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "something is left beside the checkpoint");
    fs::remove_dir_all(&folder).unwrap();
}
