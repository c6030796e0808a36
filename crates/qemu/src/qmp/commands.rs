//! The commands that are used, one function each.

use std::path::Path;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::Qmp;

/// What the machine's processors are doing: QEMU's run states, as far as they are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// They run.
    Running,
    /// Stopped by us, or not let go yet.
    Paused,
    /// Made, and never let go.
    Prelaunch,
    /// Waiting for memory to restore, or restoring it.
    Inmigrate,
    /// Stopped, with its memory saved.
    Postmigrate,
    /// Its memory is being saved, with the processors stopped.
    FinishMigrate,
    /// The guest switched itself off, and QEMU was told to stay.
    Shutdown,
    /// The guest's system says that it crashed.
    GuestPanicked,
    /// The host could not write the disk; it can be let go on when that is mended.
    IoError,
    /// The emulator gave up: with a broken KVM, for one.
    InternalError,
    /// The guest's system put itself to sleep (ACPI's S3), and nothing wakes it.
    Suspended,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A folder of the host to be plugged into a machine that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// What the guest mounts it by, and the device's name.
    pub tag: &'a str,
    /// Where its virtiofsd listens.
    pub socket: &'a Path,
    /// The slot it is plugged into: one of [`crate::Machine::hotplug_slots`], counted from 0.
    pub slot: u8,
}

#[derive(Deserialize)]
struct Status {
    status: RunState,
}

impl Qmp {
    /// What the processors are doing.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn run_state(&self) -> Result<RunState> {
        let status: Status = self.read("query-status").await?;
        Ok(status.status)
    }

    /// Asks a question without arguments, and reads the answer.
    pub(super) async fn read<T: serde::de::DeserializeOwned>(&self, command: &str) -> Result<T> {
        let answer = self.execute(command, &Value::Null).await?;
        serde_json::from_value(answer).map_err(|e| {
            Error::new(Code::Unavailable, format!("QEMU's answer to '{command}' can't be read: {e}"))
        })
    }

    /// Stops the processors. Stopped already is a success.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn stop(&self) -> Result<()> {
        self.execute("stop", &Value::Null).await.map(drop)
    }

    /// Lets the processors go on. Going on already is a success.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn cont(&self) -> Result<()> {
        self.execute("cont", &Value::Null).await.map(drop)
    }

    /// Presses the power button: the guest's system decides.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub async fn power_down(&self) -> Result<()> {
        self.execute("system_powerdown", &Value::Null).await.map(drop)
    }

    /// Ends QEMU, at once. The guest is not asked.
    ///
    /// # Errors
    /// As for [`Self::execute`]. That it hung up instead of answering is none.
    pub async fn quit(&self) -> Result<()> {
        match self.execute("quit", &Value::Null).await {
            Err(error) if error.code() == Code::Unavailable && self.ended().is_some() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Waits until the connection ended, which is so when QEMU did.
    ///
    /// # Errors
    /// `Timeout` when it stays.
    pub async fn until_gone(&self, limit: Duration) -> Result<()> {
        let mut events = self.events();
        let gone = async { while !matches!(events.recv().await, Err(RecvError::Closed)) {} };
        tokio::time::timeout(limit, gone).await.map_err(|_| {
            Error::new(Code::Timeout, format!("QEMU did not end within {limit:?}"))
                .fix("kill it, as 'clawfarm kill' does")
        })
    }

    /// Plugs a folder in. The guest sees the device in some hundred milliseconds, and mounts it
    /// with `mount -t virtiofs TAG FOLDER`. Plugged in already is a success.
    ///
    /// # Errors
    /// As for [`Self::execute`]; nothing is left plugged in then.
    pub async fn plug_share(&self, share: &Share<'_>) -> Result<()> {
        let device = format!("share-{}", share.tag);
        if self.has_device(&device).await? {
            return Ok(());
        }
        let path = share
            .socket
            .to_str()
            .ok_or_else(|| Error::invalid("socket", format!("'{}' is no UTF-8", share.socket.display())))?;
        let chardev = format!("chr-{device}");
        let backend = json!({"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": path}}, "server": false}});
        self.execute("chardev-add", &json!({"id": chardev, "backend": backend})).await?;
        let added = self
            .execute(
                "device_add",
                &json!({
                    "driver": "vhost-user-fs-pci", "id": device, "chardev": chardev, "tag": share.tag,
                    "queue-size": crate::machine::SHARE_QUEUE, "bus": format!("slot{}", share.slot),
                }),
            )
            .await;
        if let Err(error) = added {
            if let Err(left) = self.execute("chardev-remove", &json!({"id": chardev})).await {
                tracing::warn!(error = %left, chardev, "a connection of a device that was refused is left");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Whether a device of this name is plugged in.
    async fn has_device(&self, id: &str) -> Result<bool> {
        match self.execute("qom-list", &json!({"path": format!("/machine/peripheral/{id}")})).await {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Code::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Unplugs a device and waits until the guest let go of it. Not there is a success.
    ///
    /// # Errors
    /// `Timeout` when the guest keeps it: it must run, and have mounted nothing on it.
    pub async fn unplug(&self, id: &str, limit: Duration) -> Result<()> {
        let mut events = self.events();
        match self.execute("device_del", &json!({ "id": id })).await {
            Err(e) if e.code() == Code::NotFound => return Ok(()),
            other => other?,
        };
        let gone = async {
            loop {
                match events.recv().await {
                    Ok(event) if event.name == "DEVICE_DELETED" && event.data["device"] == id => {
                        return Ok(());
                    }
                    Ok(_) => {}
                    // Some were missed.
                    Err(RecvError::Lagged(_)) => {
                        if !self.has_device(id).await? {
                            return Ok(());
                        }
                    }
                    Err(RecvError::Closed) => return Err(self.gone()),
                }
            }
        };
        tokio::time::timeout(limit, gone).await.unwrap_or_else(|_| {
            Err(Error::new(Code::Timeout, format!("the guest did not let go of '{id}' within {limit:?}"))
                .fix("unmount it in the guest first"))
        })
    }

    /// Asks the guest to leave so much memory to itself, in bytes, and give the rest back.
    ///
    /// # Errors
    /// `NotFound` when the machine has no balloon.
    pub async fn balloon(&self, bytes: u64) -> Result<()> {
        self.execute("balloon", &json!({ "value": bytes })).await.map(drop)
    }
}
