//! Files that are replaced whole: whoever looks sees the old text or the new one, also after a crash.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The directory that a file is in.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// A new file in the directory of `path`, to take its place; removed when it is dropped before.
pub(crate) fn draft(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".duckward_draft_");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory(path))
}

/// Puts `text` into the file `path`, which is no link; one that was there keeps its permissions.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut new = draft(path)?;
    new.write_all(text)?;
    if let Ok(old) = path.metadata() {
        new.as_file().set_permissions(old.permissions())?;
    }
    new.as_file().sync_all()?;
    new.persist(path)?;
    // Not everywhere can a directory be synchronised; then the old text may come back after a crash.
    let _ = open(directory(path)).and_then(|directory| directory.sync_all());
    Ok(())
}

/// The same for a path that a user names: behind a link its target is replaced, and what is no file, such as a pipe, is written
/// to.
pub(crate) fn save(path: &Path, text: &[u8]) -> io::Result<()> {
    let path = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        found => found?,
    };
    if path.exists() && !path.is_file() {
        return std::fs::write(&path, text);
    }
    replace(&path, text)
}

#[expect(clippy::disallowed_methods, reason = "a directory is no database")]
fn open(directory: &Path) -> io::Result<File> {
    File::open(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("plan.json");
        save(&path, b"old").unwrap();
        // Whoever has it open goes on with the old one: it is not written over.
        let before = std::fs::File::open(&path).unwrap();
        save(&path, b"new").unwrap();
        assert_eq!(io::read_to_string(before).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(place.path()), ["plan.json"]);
    }

    #[test]
    fn what_cannot_take_its_place_leaves_the_old_one_and_nothing_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("directory");
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert!(save(&path, b"new").is_err());
        assert!(save(&place.path().join("nowhere").join("plan.json"), b"new").is_err());
        assert_eq!(names(place.path()), ["directory"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let (path, link) = (place.path().join("plan.json"), place.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        save(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }
}
