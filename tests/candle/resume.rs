//! The example `resume`, killed again and again, comes to the weights of a run that was left alone.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic; a child tells its digest")]

#[expect(dead_code, reason = "its `main` is the example's")]
#[path = "../../examples/resume.rs"]
mod example;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Where a child is to keep its checkpoint: what tells this test that it is one.
const PATH: &str = "TRIGRAD_TEST_RESUME";
const KILLS: u32 = 5;

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bits() {
    if let Some(path) = std::env::var_os(PATH) {
        println!("digest {:016x}", example::run(Path::new(&path)).unwrap());
        return;
    }
    let at = |name: &str| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _may_not_be_there = std::fs::remove_file(&path);
        path
    };
    let alone = example::run(&at("resume-alone.safetensors")).unwrap();
    let path = at("resume-killed.safetensors");
    let mut begun = Vec::new();
    for kill in 0..KILLS {
        let before = written(&path);
        let mut child = start(&path);
        // It has come further than the last one, by a checkpoint or two; then it is killed wherever it is.
        let from = Instant::now();
        while written(&path) == before {
            assert!(from.elapsed() < Duration::from_secs(120), "no checkpoint");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(u64::from(7 * kill)));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "killed before its end");
        begun.push(begins(&output(&mut child)));
    }
    let mut child = start(&path);
    let text = output(&mut child);
    assert!(child.wait().unwrap().success(), "{text}");
    begun.push(begins(&text));
    assert!(text.contains(&format!("digest {alone:016x}")), "alone {alone:016x}, killed {KILLS} times: {text}");
    assert_eq!(begun[0], 0);
    assert!(begun.is_sorted_by(|a, b| a < b), "each went on where the last one was: {begun:?}");
    assert!(begun.iter().any(|k| k % 8 != 0), "in the middle of a window: {begun:?}");
}

fn start(path: &Path) -> Child {
    let name = "resume::a_run_that_is_killed_goes_on_to_the_same_bits";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(PATH, path).stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn output(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// The micro-batch that a run began at.
fn begins(text: &str) -> u32 {
    let line = text.lines().find_map(|line| line.split_once("begins at micro-batch ")).unwrap();
    line.1.parse().unwrap()
}

/// When the checkpoint was written, if there is one.
fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}
