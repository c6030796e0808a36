//! The servers that share this database: each says again and again that it is there, and
//! renews its leases with the same few statements.
//!
//! All times here are the database's own clock's: the servers' clocks need not agree.

use std::time::Duration;

use clawfarm_model::server::{Lease, Member, Peer};
use clawfarm_model::{Code, Context, Error, Phase, Result, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, Statement,
};

use secrecy::{ExposeSecret, SecretBox, SecretString};

use crate::convert::{from_json, name, number, time, to_json};
use crate::crypto::Sealed;
use crate::entity::{instance, lease, meta, server, target};
use crate::error::{db, unique_violation, unreadable};
use crate::guard::server_only;
use crate::store::{ERA, Store, fact};
use crate::tx::Tx;

/// How long a server that is gone stays in the list, for whoever looks for it.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What a server learns when it says that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The servers, itself among them.
    pub servers: Vec<Peer>,
    /// Every lease there is.
    pub leases: Vec<Lease>,
    /// What the database's clock says.
    pub now: Timestamp,
}

impl Store {
    /// Enters a server into the list. Leases that an earlier process of this node held become
    /// its own at once, with new epochs: that process is dead, for a home has one server, but
    /// what it sent to the database last may still be on its way.
    ///
    /// # Errors
    /// `Conflict` on the field `node` when another server has the name, on the field `database`
    /// when another state was put in the place of the one that was opened; `Unavailable` when
    /// the database does not answer.
    pub async fn join(&self, context: &Context, member: &Member, ttl: Duration) -> Result<()> {
        server_only(context, "the list of servers")?;
        let tx = Tx::begin_beat(&self.0).await?;
        self.same_era(&tx).await?;
        let now = tx.database_now().await?;
        let row = server::Model {
            node: member.node.clone(),
            session: member.session.clone(),
            name: member.name.clone(),
            version: member.version.clone(),
            address: member.address.clone(),
            targets: to_json(&member.targets)?,
            started_at: now,
            seen_at: now,
            expires_at: now.saturating_add(millis(ttl)),
        };
        use server::Column as C;
        let over = OnConflict::column(C::Node)
            .update_columns([
                C::Session,
                C::Name,
                C::Version,
                C::Address,
                C::Targets,
                C::StartedAt,
                C::SeenAt,
                C::ExpiresAt,
            ])
            .to_owned();
        server::Entity::insert(row.into_active_model())
            .on_conflict(over)
            .exec_without_returning(tx.on())
            .await
            .map_err(|e| if unique_violation(&e).is_some() { name_taken(&member.name) } else { db(e) })?;
        tx.retake_leases(&member.node, ttl).await?;
        tx.commit().await
    }

    /// Says that a server is there: renews its entry and all of its leases, and reads what the
    /// others say.
    ///
    /// # Errors
    /// `Gone` when it is not in the list: it has to join again. `Conflict` on the field `node`
    /// when another process runs under its node id: a copy of its home folder; on the field
    /// `database` when another state was put in the place of the one that was opened.
    pub async fn beat(&self, context: &Context, member: &Member, ttl: Duration) -> Result<Beat> {
        server_only(context, "the list of servers")?;
        let tx = Tx::begin_beat(&self.0).await?;
        self.same_era(&tx).await?;
        let until = tx.database_clock().add(millis(ttl));
        use server::Column as C;
        let renewed = server::Entity::update_many()
            .col_expr(C::SeenAt, tx.database_clock())
            .col_expr(C::ExpiresAt, until)
            // Targets come and go while it runs.
            .col_expr(C::Targets, Expr::value(to_json(&member.targets)?))
            .filter(C::Node.eq(member.node.as_str()))
            .filter(C::Session.eq(member.session.as_str()))
            .exec(tx.on())
            .await
            .map_err(db)?;
        if renewed.rows_affected == 0 {
            return Err(self.why_not_listed(&member.node).await?);
        }
        tx.renew_leases(&member.node, ttl).await?;
        let now = tx.database_now().await?;
        tx.forget_servers(now).await?;
        let leases = tx.leases(now).await?;
        let servers = peers(tx.on(), now, &leases).await?;
        tx.commit().await?;
        Ok(Beat { servers, leases, now: time(now) })
    }

    /// Gives back a server's leases and says that it is gone.
    ///
    /// # Errors
    /// When the database does not answer; then its time runs out.
    pub async fn leave(&self, context: &Context, member: &Member) -> Result<()> {
        server_only(context, "the list of servers")?;
        let tx = Tx::begin_beat(&self.0).await?;
        use server::Column as C;
        let left = server::Entity::update_many()
            .col_expr(C::ExpiresAt, tx.database_clock())
            .filter(C::Node.eq(member.node.as_str()))
            .filter(C::Session.eq(member.session.as_str()))
            .exec(tx.on())
            .await
            .map_err(db)?;
        if left.rows_affected > 0 {
            tx.drop_leases(&member.node).await?;
        }
        tx.commit().await
    }

    /// The servers of this database, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn servers(&self, _context: &Context) -> Result<Vec<Peer>> {
        let now = database_now(&self.0.reader).await?;
        let leases = read_leases(&self.0.reader, now).await?;
        peers(&self.0.reader, now, &leases).await
    }

    /// The key under which the servers of this database sign what they pass on to one another.
    ///
    /// # Errors
    /// None that is to be expected.
    pub fn peer_key(&self) -> Result<SecretBox<[u8; 32]>> {
        self.0.keyring.derive("peers v1")
    }

    /// A secret that all servers of this database have in common: the one that is kept, or
    /// `offered` when none is, which is kept from then on.
    ///
    /// # Errors
    /// When the kept one can't be opened, or the database does not answer.
    pub async fn agree_on(
        &self,
        context: &Context,
        name: &str,
        offered: SecretString,
    ) -> Result<SecretString> {
        server_only(context, "a secret of the servers")?;
        let key = format!("store.agreed.{name}");
        let tx = Tx::begin(&self.0).await?;
        let belongs = ["", "servers", name];
        let sealed = self.0.keyring.seal(belongs, offered.expose_secret().as_bytes())?;
        let row = meta::Model {
            key: key.clone(),
            value: to_json(&(sealed.wrapped_key, sealed.value))?,
            updated_at: tx.now.as_millis(),
        };
        let there = OnConflict::column(meta::Column::Key).do_nothing().to_owned();
        meta::Entity::insert(row.into_active_model())
            .on_conflict(there)
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        let kept = fact(tx.on(), &key).await?.unwrap_or_default();
        tx.commit().await?;
        let (wrapped_key, value) = from_json("secret", name, &kept)?;
        let plain = self.0.unseal(belongs, &Sealed { wrapped_key, value }).await?;
        let text = std::str::from_utf8(&plain).map_err(|e| unreadable("secret", name, e))?;
        Ok(SecretString::from(text))
    }

    /// A server that was away while a backup was restored (frozen, or cut off) knows a state
    /// that is no more: its place among the events, its leases, what it believes to be kept.
    async fn same_era(&self, tx: &Tx) -> Result<()> {
        if fact(tx.on(), ERA).await? == self.0.era {
            return Ok(());
        }
        Err(Error::new(Code::Conflict, "a backup was restored into the database while this server ran on it")
            .field("database")
            .fix("start the server again"))
    }

    async fn why_not_listed(&self, node: &str) -> Result<Error> {
        let row = server::Entity::find_by_id(node).one(&self.0.reader).await.map_err(db)?;
        Ok(match row {
            None => Error::new(Code::Gone, "this server is not in the list of servers"),
            Some(_) => Error::new(Code::Conflict, format!("another server runs under the node id '{node}'"))
                .field("node")
                .fix("each server needs a home folder of its own: remove the file 'node.json' from a copied one"),
        })
    }
}

impl Tx {
    /// Servers that are gone for long, but for those whose targets still hold instances: they
    /// have to be named to whoever asks for one of these.
    async fn forget_servers(&self, now: i64) -> Result<()> {
        let live = Query::select()
            .column(instance::Column::Target)
            .from(instance::Entity)
            .and_where(instance::Column::Phase.ne(Phase::Destroyed.as_str()))
            .to_owned();
        let needed = Query::select()
            .column(target::Column::ReachableFrom)
            .from(target::Entity)
            .and_where(target::Column::ReachableFrom.is_not_null())
            .and_where(target::Column::Name.in_subquery(live))
            .to_owned();
        server::Entity::delete_many()
            .filter(server::Column::ExpiresAt.lt(now.saturating_sub(millis(REMEMBERED))))
            .filter(server::Column::Node.not_in_subquery(needed))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    /// The database's clock, as an expression: milliseconds since the epoch at the moment the
    /// statement runs.
    pub(crate) fn database_clock(&self) -> Expr {
        clock(self.on().get_database_backend())
    }

    /// What the database's clock says.
    pub(crate) async fn database_now(&self) -> Result<i64> {
        database_now(self.on()).await
    }
}

/// SQLite's `unixepoch` counts in seconds, with their parts under `subsec`; PostgreSQL's
/// `clock_timestamp` goes on during a transaction, which its `now` does not.
fn clock(backend: DbBackend) -> Expr {
    Expr::cust(match backend {
        DbBackend::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
        _ => "CAST(unixepoch('subsec') * 1000 AS integer)",
    })
}

pub(crate) async fn database_now(on: &impl ConnectionTrait) -> Result<i64> {
    let backend = on.get_database_backend();
    let statement: Statement = backend.build(Query::select().expr_as(clock(backend), "now"));
    let row = on.query_one_raw(statement).await.map_err(db)?;
    let row = row.ok_or_else(|| unreadable("clock", "now", "no answer"))?;
    row.try_get("", "now").map_err(db)
}

pub(crate) async fn read_leases(on: &impl ConnectionTrait, now: i64) -> Result<Vec<Lease>> {
    let rows = lease::Entity::find()
        .order_by_asc(lease::Column::Target)
        .order_by_asc(lease::Column::Shard)
        .all(on)
        .await
        .map_err(db)?;
    rows.into_iter().map(|row| read_lease(row, now)).collect()
}

fn read_lease(row: lease::Model, now: i64) -> Result<Lease> {
    let id = row.target.as_str();
    Ok(Lease {
        target: name("lease", id, id)?,
        shard: number("lease", id, row.shard)?,
        live: row.holder.is_some() && row.expires_at > now,
        holder: row.holder,
        epoch: row.epoch,
    })
}

async fn peers(on: &impl ConnectionTrait, now: i64, leases: &[Lease]) -> Result<Vec<Peer>> {
    let rows = server::Entity::find().order_by_asc(server::Column::Name).all(on).await.map_err(db)?;
    rows.into_iter()
        .map(|row| {
            let held = leases.iter().filter(|l| l.live && l.holder.as_deref() == Some(row.node.as_str()));
            Ok(Peer {
                targets: from_json("server", &row.node, &row.targets)?,
                live: row.expires_at > now,
                started_at: time(row.started_at),
                seen_at: time(row.seen_at),
                leases: u32::try_from(held.count()).unwrap_or(u32::MAX),
                node: row.node,
                name: row.name,
                version: row.version,
                address: row.address,
            })
        })
        .collect()
}

pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn name_taken(name: &str) -> Error {
    Error::new(Code::Conflict, format!("another server of this database is named '{name}'"))
        .field("node")
        .fix("give this one a name of its own with --node")
}
