//! Every point there is. A test reaches each of them, or fails.

/// The boundary that a point is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The database.
    Store,
    /// A verb of a runtime, as the reconciler calls it.
    Runtime,
    /// What an adapter asks of its claw, and makes for it.
    Adapter,
    /// Between the reconciler's own steps.
    Reconcile,
    /// Within the process runtime.
    Process,
    /// The server's beginning and its own endpoints.
    Server,
    /// Between the steps of saving a virtual machine's memory, and of restoring it.
    Machine,
}

macro_rules! points {
    ($($name:ident $layer:ident $text:literal)*) => {
        /// A place at which something can be made to go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each is told by its name; see as_str")]
        pub enum Point { $($name),* }

        impl Point {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name, for tests' output and for the environment of a server.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The boundary that it is at.
            #[must_use]
            pub const fn layer(self) -> Layer {
                match self { $(Self::$name => Layer::$layer),* }
            }
        }
    };
}

points! {
    StoreBegin Store "failpoint.store.begin"
    StoreBeforeCommit Store "failpoint.store.before-commit"
    StoreAfterCommit Store "failpoint.store.after-commit"

    EnsureBefore Runtime "failpoint.runtime.ensure.before"
    EnsureAfter Runtime "failpoint.runtime.ensure.after"
    KeepRecordBefore Runtime "failpoint.runtime.keep-record.before"
    KeepRecordAfter Runtime "failpoint.runtime.keep-record.after"
    StartBefore Runtime "failpoint.runtime.start.before"
    StartAfter Runtime "failpoint.runtime.start.after"
    ObserveBefore Runtime "failpoint.runtime.observe.before"
    ObserveAfter Runtime "failpoint.runtime.observe.after"
    StopBefore Runtime "failpoint.runtime.stop.before"
    StopAfter Runtime "failpoint.runtime.stop.after"
    KillBefore Runtime "failpoint.runtime.kill.before"
    KillAfter Runtime "failpoint.runtime.kill.after"
    DestroyBefore Runtime "failpoint.runtime.destroy.before"
    DestroyAfter Runtime "failpoint.runtime.destroy.after"
    RemoveDatasetBefore Runtime "failpoint.runtime.remove-dataset.before"
    RemoveDatasetAfter Runtime "failpoint.runtime.remove-dataset.after"
    FreezeBefore Runtime "failpoint.runtime.freeze.before"
    FreezeAfter Runtime "failpoint.runtime.freeze.after"
    ThawBefore Runtime "failpoint.runtime.thaw.before"
    ThawAfter Runtime "failpoint.runtime.thaw.after"
    SuspendBefore Runtime "failpoint.runtime.suspend.before"
    SuspendAfter Runtime "failpoint.runtime.suspend.after"
    ImportBefore Runtime "failpoint.runtime.import.before"
    ImportAfter Runtime "failpoint.runtime.import.after"
    ReadBefore Runtime "failpoint.runtime.read.before"
    WriteBefore Runtime "failpoint.runtime.write.before"
    WriteAfter Runtime "failpoint.runtime.write.after"
    InstallBefore Runtime "failpoint.runtime.install.before"
    InstallAfter Runtime "failpoint.runtime.install.after"
    SoftwareFileBefore Runtime "failpoint.runtime.software-file.before"
    CopyDataBefore Runtime "failpoint.runtime.copy-data.before"
    CopyDataAfter Runtime "failpoint.runtime.copy-data.after"
    PutBackBefore Runtime "failpoint.runtime.put-back.before"
    PutBackAfter Runtime "failpoint.runtime.put-back.after"
    RemoveCopyBefore Runtime "failpoint.runtime.remove-copy.before"
    RemoveCopyAfter Runtime "failpoint.runtime.remove-copy.after"
    CopyOutBefore Runtime "failpoint.runtime.copy-out.before"
    CopyOutAfter Runtime "failpoint.runtime.copy-out.after"
    TakeInBefore Runtime "failpoint.runtime.take-in.before"
    TakeInAfter Runtime "failpoint.runtime.take-in.after"
    CapacityBefore Runtime "failpoint.runtime.capacity.before"
    PickPortBefore Runtime "failpoint.runtime.pick-port.before"
    DialBefore Runtime "failpoint.network.dial.before"
    DialAfter Runtime "failpoint.network.dial.after"

    Validate Adapter "failpoint.adapter.validate"
    Render Adapter "failpoint.adapter.render"
    Reach Adapter "failpoint.adapter.reach"
    Drained Adapter "failpoint.adapter.drained"
    Undrained Adapter "failpoint.adapter.undrained"
    Sent Adapter "failpoint.adapter.sent"

    TurnBegins Reconcile "failpoint.reconcile.turn-begins"
    BeforeAct Reconcile "failpoint.reconcile.before-act"
    AfterAct Reconcile "failpoint.reconcile.after-act"
    NextRunKept Reconcile "failpoint.reconcile.next-run-kept"
    BackupCopied Reconcile "failpoint.reconcile.backup-copied"
    BackupGoesOn Reconcile "failpoint.reconcile.backup-goes-on"
    RestoreUnpacked Reconcile "failpoint.reconcile.restore-unpacked"
    ApplyWrites Reconcile "failpoint.reconcile.apply-writes"
    RolloutTakes Reconcile "failpoint.reconcile.rollout-takes"
    RolloutHands Reconcile "failpoint.reconcile.rollout-hands"
    SecretHands Reconcile "failpoint.reconcile.secret-hands"

    InstallMade Process "failpoint.process.install-made"
    FolderMade Process "failpoint.process.folder-made"
    FilesWritten Process "failpoint.process.files-written"
    ShimStarted Process "failpoint.process.shim-started"
    ClawEnded Process "failpoint.process.claw-ended"
    DataMoved Process "failpoint.process.data-moved"
    DataCopied Process "failpoint.process.data-copied"
    DataTakenOut Process "failpoint.process.data-taken-out"
    FolderRemoved Process "failpoint.process.folder-removed"

    GuestStopped Machine "failpoint.machine.guest-stopped"
    MemoryWritten Machine "failpoint.machine.memory-written"
    SnapshotDescribed Machine "failpoint.machine.snapshot-described"
    SnapshotWhole Machine "failpoint.machine.snapshot-whole"
    MemoryRestored Machine "failpoint.machine.memory-restored"
    SnapshotUsed Machine "failpoint.machine.snapshot-used"
    BasePrepared Machine "failpoint.machine.base-prepared"
    BaseStarted Machine "failpoint.machine.base-started"
    BaseRestored Machine "failpoint.machine.base-restored"
    BaseIdentified Machine "failpoint.machine.base-identified"

    HomeLocked Server "failpoint.server.home-locked"
    StoreOpened Server "failpoint.server.store-opened"
    ClawsBound Server "failpoint.server.claws-bound"
    Begun Server "failpoint.server.begun"
    ModelAsked Server "failpoint.network.model-asked"
}
