//! What is killed and does not die.

use clawfarm_model::Code;

use crate::harness::{Instance, error_of, is_root, lives, signal, wait_for};

/// A process that hangs in the kernel, as on a disk that does not answer: the first version's
/// freezer holds it there.
struct Hanging(std::path::PathBuf);

impl Hanging {
    fn hold(pid: u32) -> Option<Self> {
        let freezer = std::path::Path::new("/sys/fs/cgroup/freezer");
        let group = freezer.join(format!("clawfarm-test-{}", std::process::id()));
        if !is_root() || !freezer.join("tasks").exists() || std::fs::create_dir(&group).is_err() {
            return None;
        }
        let held = Self(group);
        std::fs::write(held.0.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(held.0.join("freezer.state"), "FROZEN").unwrap();
        wait_for("it to hang", || {
            std::fs::read_to_string(held.0.join("freezer.state")).is_ok_and(|state| state.trim() == "FROZEN")
        });
        Some(held)
    }

    fn let_go(&self) {
        std::fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        wait_for("the group to be gone", || std::fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

#[test]
fn what_does_not_die_is_not_written_down_as_ended() {
    let instance = Instance::new("sleep 600 & echo $! > child; wait").up();
    let child = instance.wait_pid("child");
    let Some(hanging) = Hanging::hold(child) else {
        println!("skipped: there is no freezer of cgroup v1");
        return;
    };
    signal(instance.started.as_ref().unwrap().shim_pid, libc::SIGKILL);
    wait_for("the shim's end", || !clawfarm_shim::lock::is_held(&instance.dir).unwrap());
    let error = error_of(clawfarm_shim::sweep(&instance.dir));
    assert_eq!((error.code(), error.field_name()), (Code::Unavailable, Some("processes")), "{error}");
    assert!(instance.state().active && lives(child));
    // Nor is it started beside itself.
    let mut again = Instance::new("echo second");
    again.dir.clone_from(&instance.dir);
    again.spec.id = instance.spec.id.clone();
    assert_eq!(error_of(again.try_start()).code(), Code::Unavailable);
    hanging.let_go();
    let state = clawfarm_shim::sweep(&instance.dir).unwrap().unwrap();
    assert!(!state.active && state.exit.is_some());
    wait_for("its end", || !lives(child));
}
