//! Where a server keeps its state: in its home, alone; or in a PostgreSQL database, which it may
//! share with others.

use std::path::Path;
use std::sync::Arc;

use clawfarm_control::{LEASE_TTL, Sharing};
use clawfarm_model::server::Member;
use clawfarm_model::{Context, Error};
use clawfarm_server::{
    ApiListener, PeersConfig, keep_admin_token, load_admin_token, load_or_create_admin_token, new_admin_token,
};
use clawfarm_store::{Database, Store};
use secrecy::SecretString;

use crate::commands::serve::ServeArgs;
use crate::connect::VERSION;
use crate::node::{Node, random_hex};
use crate::peers::{self, Connector};

/// Where the state is, and which server this is there.
pub(crate) struct Place {
    pub(crate) database: Database,
    /// Its identity; `None` when it is alone.
    pub(crate) node: Option<Node>,
}

impl Place {
    /// By the command line, the environment, and what the home was before.
    pub(crate) fn of(home: &Path, args: &ServeArgs) -> Result<Self, Error> {
        let database = args.database().choose(home)?;
        if matches!(database, Database::Postgres(_)) {
            let node = Node::load_or_make(home, args.node())?;
            return Ok(Self { database, node: Some(node) });
        }
        for (option, given) in [("--node", args.node()), ("--peer-address", args.peer_address())] {
            if given.is_some() {
                return Err(Error::invalid(option, "a server whose state is in its home is alone")
                    .fix("give --database with a PostgreSQL database that servers can share"));
            }
        }
        Ok(Self { database, node: None })
    }

    /// The token of callers: one for all servers of a database, so that any of them can be
    /// asked.
    pub(crate) async fn admin_token(&self, home: &Path, store: &Store) -> Result<SecretString, Error> {
        if self.node.is_none() {
            return load_or_create_admin_token(home);
        }
        let offered = match load_admin_token(home)? {
            Some(token) => token,
            None => new_admin_token()?,
        };
        let agreed = store.agree_on(&Context::system("start"), "admin-token", offered).await?;
        keep_admin_token(home, &agreed)?;
        Ok(agreed)
    }

    /// How the database is shared, and the other servers are reached.
    pub(crate) fn sharing(
        &self,
        args: &ServeArgs,
        store: &Store,
        listener: Option<&ApiListener>,
    ) -> Result<(Option<Sharing>, Option<PeersConfig>), Error> {
        let Some(node) = &self.node else { return Ok((None, None)) };
        let listens = listener.and_then(ApiListener::address);
        let address =
            peers::address(args.peer_address(), listens, args.tls().is_some(), args.allows_plaintext())?;
        if address.is_none() {
            tracing::warn!(
                "the other servers can't pass on what only this one reaches; give --listen, or --peer-address"
            );
        }
        let member = Member {
            node: node.id.clone(),
            session: random_hex::<8>()?,
            name: node.name.as_str().to_owned(),
            version: version(),
            address,
            targets: Vec::new(),
        };
        let peers =
            PeersConfig { key: store.peer_key()?, connect: Arc::new(Connector { ca: args.peer_ca() }) };
        Ok((Some(Sharing { member, ttl: LEASE_TTL }), Some(peers)))
    }
}

/// What it says of its version to the others. Tests of upgrades have it say another one.
fn version() -> String {
    let said = std::env::var("CLAWFARM_TEST_VERSION").ok().filter(|_| cfg!(debug_assertions));
    said.unwrap_or_else(|| VERSION.to_owned())
}
