//! Which folders an instance must not see.

use std::path::{Path, PathBuf};

/// The topmost folder on the way to `path` that other users can't pass: what has to be
/// covered, for a claw under a user id of its own to reach its folders below it.
#[must_use]
pub fn first_closed(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter()
        .skip(1)
        .find(|folder| std::fs::metadata(folder).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0))
        .map(Path::to_owned)
}

/// The folders that an instance must not see but for its own parts: on the way to the home, and
/// to the other paths that it needs something of, the topmost one that other users can't pass;
/// or the home itself. None of them is below another.
#[must_use]
pub fn hidden(home: &Path, others: &[&Path]) -> Vec<PathBuf> {
    let mut all = vec![first_closed(home).unwrap_or_else(|| home.to_owned())];
    all.extend(others.iter().filter_map(|path| first_closed(path)));
    all.sort();
    // In this order, whatever is below a folder comes behind it.
    let mut topmost: Vec<PathBuf> = Vec::new();
    for path in all {
        if !topmost.iter().any(|above| path.starts_with(above)) {
            topmost.push(path);
        }
    }
    topmost
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn finds_the_topmost_folder_that_others_can_not_pass() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b/c");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(first_closed(&inner), None);
        for closed in ["a/b", "a"] {
            let closed = dir.path().join(closed);
            std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
            assert_eq!(first_closed(&inner), Some(closed));
        }
        assert_eq!(first_closed(Path::new("/usr/bin")), None);
    }

    #[test]
    fn only_the_topmost_are_hidden_and_the_home_always() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["home/claws", "home/cache/installs", "cache/installs"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let close = |name: &str| {
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o700)).unwrap();
        };
        let (inner, outer) = (path("home/cache/installs"), path("cache/installs"));
        assert_eq!(hidden(&path("home"), &[&inner, Path::new("/usr")]), [path("home")]);
        close("home/cache");
        close("cache");
        assert_eq!(hidden(&path("home"), &[&inner, &outer]), [path("cache"), path("home")]);
        close("home");
        assert_eq!(hidden(&path("home"), &[&inner]), [path("home")]);
    }
}
