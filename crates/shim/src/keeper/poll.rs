//! Waiting for the next things to happen.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::Keeper;

/// Something that can be done without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A signal was sent to the shim.
    Signal,
    /// A client wants to connect.
    Accept,
    /// The claw printed something, or closed a stream.
    Output(usize),
    /// A client sent something, or takes something.
    Connection { id: u64, read: bool, write: bool },
    /// A command printed something, or takes something.
    Session { id: u64, read: bool, write: bool },
}

/// What is waited for on one descriptor.
struct Wanted {
    fd: RawFd,
    event: Event,
}

impl Keeper {
    /// Waits until something happens, or for as long as `timeout` says.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Vec<Event> {
        let wanted = self.wanted();
        let mut fds: Vec<libc::pollfd> = wanted.iter().map(Wanted::pollfd).collect();
        // Rounded up, so that what is waited for is due when the wait is over.
        let millis = timeout.map_or(-1, |t| i32::try_from(t.as_millis() + 1).unwrap_or(i32::MAX));
        // SAFETY: the pointer and the length are of the same vector, alive over the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
        if ready <= 0 {
            return Vec::new();
        }
        wanted.iter().zip(&fds).filter_map(|(wanted, fd)| wanted.event(fd.revents)).collect()
    }

    fn wanted(&self) -> Vec<Wanted> {
        let mut wanted = vec![
            Wanted { fd: self.signals.as_raw_fd(), event: Event::Signal },
            Wanted { fd: self.listener.as_raw_fd(), event: Event::Accept },
        ];
        for (index, pipe) in self.pipes.iter().enumerate().filter(|_| self.output_budget.0 > 0) {
            wanted.extend(pipe.as_ref().map(|fd| Wanted { fd: fd.as_raw_fd(), event: Event::Output(index) }));
        }
        for connection in &self.connections {
            let (id, (read, write)) = (connection.id, connection.interest());
            if read || write {
                let event = Event::Connection { id, read, write };
                wanted.push(Wanted { fd: connection.as_fd().as_raw_fd(), event });
            }
            if let Some(session) = connection.session() {
                let room = connection.has_room();
                let reading = session.outputs().filter(|_| room);
                wanted.extend(reading.map(|fd| Wanted {
                    fd: fd.as_raw_fd(),
                    event: Event::Session { id, read: true, write: false },
                }));
                wanted.extend(session.wants_to_write().map(|fd| Wanted {
                    fd: fd.as_raw_fd(),
                    event: Event::Session { id, read: false, write: true },
                }));
            }
        }
        wanted
    }
}

impl Wanted {
    fn pollfd(&self) -> libc::pollfd {
        let (read, write) = match self.event {
            Event::Connection { read, write, .. } | Event::Session { read, write, .. } => (read, write),
            _ => (true, false),
        };
        let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
        libc::pollfd { fd: self.fd, events, revents: 0 }
    }

    /// What happened, if anything did. Errors and hang-ups show in the next read or write.
    fn event(&self, revents: libc::c_short) -> Option<Event> {
        let broken = revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
        let can_read = revents & libc::POLLIN != 0 || broken;
        let can_write = revents & libc::POLLOUT != 0 || broken;
        match self.event {
            Event::Connection { id, .. } if can_read || can_write => {
                Some(Event::Connection { id, read: can_read, write: can_write })
            }
            Event::Session { id, read, write } if (read && can_read) || (write && can_write) => {
                Some(Event::Session { id, read: read && can_read, write: write && can_write })
            }
            Event::Connection { .. } | Event::Session { .. } => None,
            other => can_read.then_some(other),
        }
    }
}
