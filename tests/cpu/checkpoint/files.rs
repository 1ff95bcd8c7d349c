//! What a save does to the file system.

use super::*;

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
