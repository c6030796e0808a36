//! Request and response types of the HTTP API, one file a resource.
//!
//! Requests refuse unknown fields, so that a misspelt one is an error and not a silence.
//! Answers may grow fields; clients ignore what they do not know.

pub mod certificate;
pub mod console;
pub mod image;
pub mod inbox;
pub mod instance;
pub mod problem;
pub mod query;
pub mod schema;
pub mod server;
pub mod sleep;
pub mod stored;
pub mod stream;
pub mod target;

pub use certificate::CertificateList;
pub use console::{ConsoleFrame, ConsoleRequest, ConsoleTicket};
pub use image::{BuildEvent, BuildImage, BuildLog, ImageList, ImageQuery, PullImage};
pub use inbox::{InboxChanged, InboxHeader, InboxList, InboxMessageView, InboxQuery};
pub use instance::{
    Accepted, CreateInstance, DashboardView, InstanceList, InstanceView, MetricsView, ResourcesInput,
    SendRequest, StopRequest, SuspendRequest, TokenView, UpdateInstance, UpdateSoftware, WarningView,
};
pub use problem::Problem;
pub use query::{
    EventsQuery, ForwardQuery, InstanceQuery, LogsQuery, OperationQuery, OperationsQuery, RemoveQuery,
    RestoreQuery, SecretQuery,
};
pub use server::{Doctor, ServerInfo, ServerList, ServerView, Shutdown, SupportRequest};
pub use sleep::{ChangePolicy, SleepView};
pub use stored::{
    DatasetList, EventList, LogEntry, LogList, OperationList, SecretList, SetSecret, TargetList, TargetView,
};
pub use stream::{EndReason, SendEvent, StreamEnd};
pub use target::{AddTarget, DockerSettings};

/// The type of an archive of an instance.
pub const ARCHIVE_TYPE: &str = "application/zstd";

/// The path that everything of this version begins with.
pub const PREFIX: &str = "/api/v1";

/// The header in which a client names its own version.
pub const CLIENT_VERSION_HEADER: &str = "clawfarm-client-version";
