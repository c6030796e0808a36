//! Request and response types of the HTTP API, one file a resource.
//!
//! Requests refuse unknown fields, so that a misspelt one is an error and not a silence.
//! Answers may grow fields; clients ignore what they do not know.

pub mod certificate;
pub mod config;
pub mod console;
pub mod image;
pub mod inbox;
pub mod instance;
pub mod manifest;
pub mod problem;
pub mod query;
pub mod schema;
pub mod server;
pub mod sleep;
pub mod stored;
pub mod stream;
pub mod target;
pub mod vm_image;

pub use certificate::CertificateList;
pub use config::{
    ChangeConfig, ChangeConfigs, ConfigChanged, ConfigChecked, ConfigDiff, ConfigList, ConfigView,
    ConfigWarning, ConfigsChanged, DiffQuery, DriftView, DriftedFileView, ExplainView, ImpactCounts,
    MemberList, MembersQuery, NewConfig, PlanRequest, PlanView, PlannedView, PublishRequest, RefusalView,
    RevisionList, RevisionsQuery, RollbackRequest, RolloutList, RolloutsQuery, SaveConfig,
};
pub use console::{ConsoleFrame, ConsoleRequest, ConsoleTicket};
pub use image::{BuildEvent, BuildImage, BuildLog, ImageList, ImageQuery, PullImage};
pub use inbox::{InboxChanged, InboxHeader, InboxList, InboxMessageView, InboxQuery};
pub use instance::{
    Accepted, CreateInstance, DashboardView, InstanceList, InstanceView, MACHINE, MetricsView,
    ResourcesInput, SendRequest, SetupRequest, StopRequest, SuspendRequest, TokenView, Tried, UpdateInstance,
    UpdateSoftware, WarningView,
};
pub use problem::Problem;
pub use query::{
    EventsQuery, ForwardQuery, InstanceQuery, LogsQuery, OperationQuery, OperationsQuery, RemoveQuery,
    RestoreQuery, SecretQuery, SecretRemovalQuery, TryQuery,
};
pub use server::{Doctor, ServerInfo, ServerList, ServerView, Shutdown, SupportRequest};
pub use sleep::{ChangePolicy, SleepView};
pub use stored::{
    DatasetList, EventList, LogEntry, LogList, OperationList, RotateSecret, SecretDetail, SecretList,
    SetSecret, TargetList, TargetView,
};
pub use stream::{EndReason, SendEvent, StreamEnd};
pub use target::{AddTarget, DockerSettings};
pub use vm_image::{AddVmImage, ImageSource, VmImageEvent, VmImageList, VmImageQuery, WarmVmImage};

/// The type of an archive of an instance.
pub const ARCHIVE_TYPE: &str = "application/zstd";

/// The path that everything of this version begins with.
pub const PREFIX: &str = "/api/v1";

/// The header in which a client names its own version.
pub const CLIENT_VERSION_HEADER: &str = "clawfarm-client-version";
