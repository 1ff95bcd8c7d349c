//! Where work runs while locks of the user's tensors are held.
//!
//! candle keeps every tensor's elements behind a lock. A thread of a rayon pool that waits for work in a pool takes up
//! other work meanwhile; holding a lock, it could take up a reader of the same tensor, and wait for itself for ever. So
//! locks are taken on a thread of no pool ([`outside`]), and the work under them runs in a pool of its own, which never
//! touches a lock ([`inside`]). A GPU needs neither: under the lock, work is only queued.

use crate::error::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::thread;

/// Runs `f`, which takes locks, on a thread of no pool: this one, or, where this one is of a pool, another, for which it
/// waits without taking up anything.
pub(super) fn outside<R: Send>(cpu: bool, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    if !cpu || rayon::current_thread_index().is_none() {
        return f();
    }
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("trigrad".to_owned()).spawn_scoped(scope, f);
        match spawned.map_err(|e| no_thread(&e))?.join() {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// Runs `f`, which takes no lock, in the pool that is for this alone; call it from [`outside`].
pub(super) fn inside<R: Send>(cpu: bool, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    if cpu { pool()?.install(f) } else { f() }
}

fn pool() -> Result<&'static ThreadPool> {
    static POOL: OnceLock<Result<ThreadPool, String>> = OnceLock::new();
    let build = || {
        let name = |i| format!("trigrad {i}");
        ThreadPoolBuilder::new().thread_name(name).build().map_err(|e| e.to_string())
    };
    POOL.get_or_init(build).as_ref().map_err(no_thread)
}

fn no_thread(message: &impl ToString) -> Error {
    Error::Backend { backend: "cpu", call: "starting a thread", message: message.to_string() }
}
