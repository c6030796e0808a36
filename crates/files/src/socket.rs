//! Sockets in folders that somebody else writes to.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

/// Connects to the socket at `path`, without waiting, and only to whoever its folder belongs to.
///
/// `connect(2)` follows links, and a confined program that may write to its folder could lead
/// whoever trusts it to another one's socket: what is there must be a socket itself, and the
/// program behind it must run as the folder's owner, or as ourselves.
///
/// # Errors
/// What the system says; `PermissionDenied` for a link, for what is no socket, and for another
/// one's.
pub fn connect_own(path: &Path) -> io::Result<UnixStream> {
    let stranger =
        |what: &str| io::Error::new(io::ErrorKind::PermissionDenied, format!("'{}' {what}", path.display()));
    let folder = path.parent().ok_or_else(|| stranger("is in no folder"))?;
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let owner = fstat(&folder)?.st_uid;
    let name = path.file_name().ok_or_else(|| stranger("has no name"))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&there)?.st_mode) != FileType::Socket {
        return Err(stranger("is no socket"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The very one that was looked at: a name could be another's by now.
    connect(&stream, &SocketAddrUnix::new(format!("/proc/self/fd/{}", there.as_raw_fd()))?)?;
    let peer = sockopt::socket_peercred(&stream)?.uid.as_raw();
    if peer != owner && peer != rustix::process::geteuid().as_raw() {
        return Err(stranger("belongs to another user's program"));
    }
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_itself_is_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let listener = UnixListener::bind(at("real")).unwrap();
        connect_own(&at("real")).unwrap();
        listener.accept().unwrap();
        symlink(at("real"), at("link")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for name in ["link", "file"] {
            let error = connect_own(&at(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{name}: {error}");
        }
        assert_eq!(connect_own(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(listener);
        assert_eq!(connect_own(&at("real")).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn another_users_program_is_not_talked_to() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make a folder another user's");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // Ours is a socket in a folder of ours, at first.
        let path = dir.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        connect_own(&path).unwrap();
        // And one of a program of user 4242 in the folder of user 4343.
        let theirs = dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(4343), Some(4343)).unwrap();
        std::fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let socket = theirs.join("s");
        let code = "import socket,sys,os; os.setgid(4242); os.setuid(4242); s=socket.socket(socket.AF_UNIX); \
            s.bind(sys.argv[1]); s.listen(); print('here', flush=True); sys.stdin.read()";
        let mut other = std::process::Command::new("python3")
            .args(["-c", code])
            .arg(&socket)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut said = [0; 5];
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut said).unwrap();
        let error = connect_own(&socket).unwrap_err();
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(error.to_string().contains("another user's"), "{error}");
    }
}
