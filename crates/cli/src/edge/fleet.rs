//! The fleet of this server, as the edge sees it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_control::{Control, Entrance, Lined, NewInboxMessage};
use clawfarm_edge::{Connection, Directory, Message, Person, Place, Sender, Site, SiteState};
use clawfarm_model::instance::Desired;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Code, Context, Error, Instance, Phase, Result, Timestamp};
use clawfarm_server::AdminToken;
use secrecy::{ExposeSecret as _, SecretString};

use super::elsewhere;

/// Who has the server's token.
const ADMIN: &str = "admin";

/// Looks through the use cases.
pub(super) struct Fleet {
    control: Control,
    admin: AdminToken,
    home: PathBuf,
}

impl Fleet {
    pub(super) const fn new(control: Control, admin: AdminToken, home: PathBuf) -> Self {
        Self { control, admin, home }
    }

    fn admin(&self) -> Person {
        admin(&self.admin)
    }
}

/// Who has the server's token.
pub(super) fn admin(token: &AdminToken) -> Person {
    Person { name: ADMIN.to_owned(), bound: token.mark() }
}

/// What a person may see.
fn context(user: &str) -> Context {
    Context::owner(user.to_owned(), TenantName::default_tenant(), "edge".to_owned())
}

fn system() -> Context {
    Context::system("edge")
}

/// A claw as the edge sees it.
pub(super) fn site(entrance: &Entrance) -> Site {
    let instance = &entrance.instance;
    Site {
        id: instance.id.clone(),
        name: instance.name.to_string(),
        tenant: instance.tenant.to_string(),
        claw_type: instance.spec.claw_type.to_string(),
        runtime: instance.spec.runtime.as_str(),
        run: instance.intent.run,
        state: state(instance),
        up_since: instance.phase_since,
        identity: entrance.identity.clone(),
        token: entrance.token.clone(),
        rules: Arc::clone(&entrance.rules),
        inbox: Arc::clone(&entrance.inbox),
    }
}

fn state(instance: &Instance) -> SiteState {
    let wanted_asleep = matches!(instance.intent.desired, Desired::Warm | Desired::Suspended);
    match instance.phase {
        Phase::Warm => SiteState::Asleep { warm: true },
        Phase::Suspended => SiteState::Asleep { warm: false },
        // On its way to sleep it takes nothing any more.
        Phase::Stopping if wanted_asleep => SiteState::Asleep { warm: false },
        // It may be drained in this moment: it is called back first.
        Phase::Ready | Phase::Running | Phase::Unhealthy if wanted_asleep => {
            SiteState::Asleep { warm: false }
        }
        // One that is up but not well is what its person wants to look at.
        Phase::Ready | Phase::Unhealthy => SiteState::Awake,
        Phase::Creating | Phase::Booting | Phase::Waking | Phase::Running => SiteState::Starting,
        // It is being started again, because somebody asked or because it ended by itself.
        Phase::Stopping | Phase::Exited if instance.intent.desired == Desired::Running => SiteState::Starting,
        phase => SiteState::Down(down(instance, phase)),
    }
}

fn down(instance: &Instance, phase: Phase) -> Error {
    let error = Error::new(Code::Conflict, format!("'{}' is {phase}", instance.id));
    match phase {
        Phase::Stopped | Phase::Exited => error.fix(format!("start it: clawfarm start {}", instance.id)),
        Phase::Failed => error.fix(format!("see why: clawfarm status {}", instance.id)),
        Phase::Updating => Error::new(Code::Unavailable, format!("'{}' is being updated", instance.id))
            .fix("try again in a minute"),
        _ => error.fix(format!("see clawfarm status {}", instance.id)),
    }
}

#[async_trait]
impl Directory for Fleet {
    async fn look_up(&self, id: &ClawId) -> Result<Option<Arc<Site>>> {
        Ok(self.control.entrance(&system(), id).await?.map(|entrance| Arc::new(site(&entrance))))
    }

    async fn look_again(&self, id: &ClawId) -> Result<Option<Arc<Site>>> {
        Ok(self.control.entrance_now(&system(), id).await?.map(|entrance| Arc::new(site(&entrance))))
    }

    async fn wake(&self, id: &ClawId) -> Result<Arc<Site>> {
        let entrance = Box::pin(self.control.wake_at_door(&system(), id)).await?;
        Ok(Arc::new(site(&entrance)))
    }

    fn answered(&self, id: &ClawId, failed: bool) {
        self.control.answered(id, failed);
    }

    async fn dial(&self, id: &ClawId) -> Result<Box<dyn Connection>> {
        let entrance =
            self.control.entrance(&system(), id).await?.ok_or_else(|| Error::not_found("instance", id))?;
        if !self.control.reaches(&entrance.instance) {
            return elsewhere::dial(&self.home, id).await;
        }
        let connection = self.control.dial_gateway(&entrance).await;
        if connection.is_err() {
            self.control.look_at(id);
        }
        Ok(Box::new(connection?))
    }

    async fn dial_at(&self, id: &ClawId, address: SocketAddr) -> Result<Box<dyn Connection>> {
        let entrance =
            self.control.entrance(&system(), id).await?.ok_or_else(|| Error::not_found("instance", id))?;
        Ok(Box::new(self.control.dial_listener(&entrance, address).await?))
    }

    async fn line_up(&self, id: &ClawId, sender: Sender<'_>) -> Result<Place> {
        let Sender { path, target, conversation, number } = sender;
        let sender = clawfarm_control::Sender { path, target, conversation, number };
        let Lined { id, lane, waits } = self.control.line_up(&system(), id, sender).await?;
        Ok(Place { id, lane, waits })
    }

    async fn accept(&self, id: &ClawId, message: Message) -> Result<()> {
        let Message { place: Place { id: message_id, lane, waits }, path, content } = message;
        let lined = Lined { id: message_id, lane, waits };
        self.control.accept(&system(), id, NewInboxMessage { lined, path, content }).await
    }

    async fn sign_in(&self, token: &SecretString) -> Result<Person> {
        if self.admin.is(token.expose_secret()) {
            return Ok(self.admin());
        }
        Err(Error::new(Code::Unauthenticated, "this token is nobody's here"))
    }

    async fn spend(&self, ticket: &str, until: u64) -> Result<bool> {
        let until = i64::try_from(until).unwrap_or(i64::MAX).saturating_mul(1000);
        self.control.spend_ticket(&system(), ticket, Timestamp::from_millis(until)).await
    }

    async fn person(&self, name: &str) -> Result<Option<Person>> {
        Ok((name == ADMIN).then(|| self.admin()))
    }

    async fn site_of(&self, user: &str, id: &ClawId) -> Result<Option<Arc<Site>>> {
        Ok(self.control.entrance_now(&context(user), id).await?.map(|entrance| Arc::new(site(&entrance))))
    }

    async fn sites(&self, user: &str) -> Result<Vec<Arc<Site>>> {
        let entrances = self.control.entrances(&context(user)).await?;
        Ok(entrances.iter().map(|entrance| Arc::new(site(entrance))).collect())
    }
}
