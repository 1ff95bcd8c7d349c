//! Replacing a file at once or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static WRITES: AtomicU64 = AtomicU64::new(0);

/// Links that are followed to a file, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Writes beside the target, flushes, renames: after a failure at any point the target is what it was. A link stays and
/// the file it leads to is replaced; permissions stay, and the owner where the system lets it; a folder, a pipe or a
/// device is an error. A file's other hard links keep what they had.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let path = &target(path)?;
    let old = match fs::symlink_metadata(path) {
        Ok(old) if old.is_file() => Some(old),
        Ok(old) if old.is_dir() => return Err(Error::new(ErrorKind::IsADirectory, "a folder, not replaced by a file")),
        Ok(_) => return Err(Error::new(ErrorKind::InvalidInput, "a pipe, socket or device, not replaced by a file")),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let folder = folder(path);
    let (mut file, beside) = create(path, old.is_some())?;
    let written = (|| {
        write(&mut file)?;
        if let Some(old) = &old {
            keep(&file, old)?;
        }
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        fs::remove_file(&beside).ok();
    } else if cfg!(unix) {
        // The rename itself is on the disk once its folder is.
        File::open(folder)?.sync_all()?;
    }
    written
}

/// Where links lead, whether there is a file at the end or not.
fn target(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(to) => path = folder(&path).join(to),
            Err(_) => return Ok(path), // no link
        }
    }
    Err(Error::new(ErrorKind::InvalidInput, "links that lead to links without an end"))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file beside the target. Where the target may be for its owner's eyes alone, so is this.
fn create(path: &Path, private: bool) -> Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = private;
    let target = path.file_name().ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
    loop {
        // Threads of one process may save to one path at once: each write has a file of its own.
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let mut name = std::ffi::OsString::from(".");
        name.push(target);
        name.push(format!(".{}.{number}.tmp", std::process::id()));
        let beside = folder(path).join(name);
        match options.open(&beside) {
            Ok(file) => return Ok((file, beside)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {} // left behind by a process of this number
            Err(e) => return Err(e),
        }
    }
}

/// Gives a file the permissions of the one it replaces, and its owner where that may be.
fn keep(file: &File, old: &fs::Metadata) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) && fchown(file, Some(old.uid()), Some(old.gid())).is_err() {
            // Only the superuser gives a file away; a group one is in can be kept.
            fchown(file, None, Some(old.gid())).ok();
        }
    }
    file.set_permissions(old.permissions())
}
