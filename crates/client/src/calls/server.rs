//! The server itself.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_api::{
    AddTarget, AddVmImage, BuildEvent, BuildImage, BuildLog, CertificateList, Doctor, ImageList, ImageQuery,
    PullImage, ServerInfo, ServerList, Shutdown, SupportRequest, TargetList, VmImageEvent, VmImageList,
    VmImageQuery, WarmVmImage,
};
use clawfarm_model::certificate::{Certificate, CertificateName};
use clawfarm_model::name::TargetName;
use clawfarm_model::target::Target;
use clawfarm_model::{Code, Error, Result};
use http::Method;

use crate::Client;
use crate::http::Call;
use crate::stream::{ItemStream, items};

/// `doctor` tries things out (starts programs, asks daemons); each of its checks has its own
/// limit on the server, and these add up to less.
const DOCTOR_LIMIT: Duration = Duration::from_secs(90);

/// A support bundle has what `doctor` finds in it, and takes a while to be looked through.
const SUPPORT_LIMIT: Duration = Duration::from_secs(180);

/// Claws that finish their work first take minutes; several are stopped at a time.
const STOP_CLAWS_LIMIT: Duration = Duration::from_secs(15 * 60);

impl Client {
    /// Which server this is.
    ///
    /// # Errors
    /// `Unavailable` when none answers.
    pub async fn server(&self) -> Result<ServerInfo> {
        self.call(Call::get(&["server"])).await
    }

    /// Whether it takes requests.
    ///
    /// # Errors
    /// `Unavailable` while it does not, with why.
    pub async fn ready(&self) -> Result<()> {
        self.done(Call::absolute(Method::GET, "/readyz")).await
    }

    /// Whether it answers at all.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` when it does not.
    pub async fn alive(&self) -> Result<()> {
        self.done(Call::absolute(Method::GET, "/healthz")).await
    }

    /// Stops the server; it answers before it ends. With `claws` the answer comes when they
    /// are down.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn shutdown(&self, request: Shutdown) -> Result<()> {
        let call = Call::post(&["server", "shutdown"]).json(&request)?;
        self.done(if request.claws { call.limit(STOP_CLAWS_LIMIT) } else { call }).await
    }

    /// What works here, and what would mend the rest.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn doctor(&self) -> Result<Doctor> {
        self.call(Call::get(&["doctor"]).limit(DOCTOR_LIMIT)).await
    }

    /// A support bundle without secrets, as a `.tar.gz`.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn support_bundle(&self, request: &SupportRequest) -> Result<Bytes> {
        self.bytes(Call::post(&["support-bundle"]).json(request)?.limit(SUPPORT_LIMIT)).await
    }

    /// The places that instances run on.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn targets(&self) -> Result<TargetList> {
        self.call(Call::get(&["targets"])).await
    }

    /// Adds a target that answers.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn add_target(&self, target: &AddTarget) -> Result<Target> {
        self.call(Call::post(&["targets"]).json(target)?).await
    }

    /// Removes a target that nothing is on.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove_target(&self, name: &TargetName) -> Result<()> {
        self.done(Call::new(Method::DELETE, &["targets", name.as_str()])).await
    }

    /// The images of claw types that its targets have.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn images(&self) -> Result<ImageList> {
        self.call(Call::get(&["images"])).await
    }

    /// Makes an image, and streams what the build prints.
    ///
    /// # Errors
    /// See [`Client`]. A build that fails ends the stream with its error.
    pub async fn build_image(&self, request: &BuildImage) -> Result<ItemStream<BuildEvent>> {
        let call = Call::post(&["images"]).json(request)?.limit(DOCTOR_LIMIT);
        Ok(items(self.open(call.header("accept", "text/event-stream")?).await?))
    }

    /// Fetches an image from its registry, and streams how that goes.
    ///
    /// # Errors
    /// See [`Client`]. A pull that fails ends the stream with its error.
    pub async fn pull_image(&self, request: &PullImage) -> Result<ItemStream<BuildEvent>> {
        let call = Call::post(&["images", "pull"]).json(request)?.limit(DOCTOR_LIMIT);
        Ok(items(self.open(call.header("accept", "text/event-stream")?).await?))
    }

    /// Removes an image that no instance uses.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove_image(&self, query: &ImageQuery) -> Result<()> {
        self.done(Call::new(Method::DELETE, &["images"]).query(query)?.limit(DOCTOR_LIMIT)).await
    }

    /// What the last build of an image printed.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn build_log(&self, query: &ImageQuery) -> Result<BuildLog> {
        self.call(Call::get(&["images", "log"]).query(query)?).await
    }

    /// The images of virtual machines that are here, or can be fetched.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn vm_images(&self) -> Result<VmImageList> {
        self.call(Call::get(&["vm-images"])).await
    }

    /// Has an image of virtual machines come to be there, and streams how that goes.
    ///
    /// # Errors
    /// See [`Client`]. What fails ends the stream with its error.
    pub async fn add_vm_image(&self, request: &AddVmImage) -> Result<ItemStream<VmImageEvent>> {
        let call = Call::post(&["vm-images"]).json(request)?.limit(DOCTOR_LIMIT);
        Ok(items(self.open(call.header("accept", "text/event-stream")?).await?))
    }

    /// Has a base snapshot of an image made, and streams how that goes.
    ///
    /// # Errors
    /// See [`Client`]. What fails ends the stream with its error.
    pub async fn warm_vm_image(&self, request: &WarmVmImage) -> Result<ItemStream<VmImageEvent>> {
        let call = Call::post(&["vm-images", "warm"]).json(request)?.limit(DOCTOR_LIMIT);
        Ok(items(self.open(call.header("accept", "text/event-stream")?).await?))
    }

    /// Removes an image of virtual machines that no disk is made on.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove_vm_image(&self, query: &VmImageQuery) -> Result<()> {
        self.done(Call::new(Method::DELETE, &["vm-images"]).query(query)?.limit(DOCTOR_LIMIT)).await
    }

    /// The servers that share its database.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn servers(&self) -> Result<ServerList> {
        self.call(Call::get(&["servers"])).await
    }

    /// The certificates of its edge.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn certificates(&self) -> Result<CertificateList> {
        self.call(Call::get(&["certificates"])).await
    }

    /// One of them.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn certificate(&self, name: &CertificateName) -> Result<Certificate> {
        self.call(Call::get(&["certificates", name.as_str()])).await
    }

    /// Has another one got; the one that is shown now is answered.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn renew_certificate(&self, name: &CertificateName) -> Result<Certificate> {
        self.call(Call::post(&["certificates", name.as_str(), "renew"])).await
    }

    /// The server's measurements, in Prometheus' text format.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn prometheus(&self) -> Result<String> {
        let bytes =
            self.bytes(Call::absolute(Method::GET, "/metrics").header("accept", "text/plain")?).await?;
        String::from_utf8(bytes.into()).map_err(|error| {
            Error::new(Code::Internal, "the server's measurements are no text").source(error)
        })
    }
}
