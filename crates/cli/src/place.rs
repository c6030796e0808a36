//! Where a server keeps its state: in its home, alone; or in a PostgreSQL database, which it may
//! share with others.

use std::path::Path;
use std::sync::Arc;

use clawfarm_control::{LEASE_TTL, Sharing};
use clawfarm_model::Error;
use clawfarm_model::server::Member;
use clawfarm_server::{ApiListener, PeersConfig};
use clawfarm_store::{Database, Store};

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
            session: random_hex::<16>()?,
            name: node.name.as_str().to_owned(),
            version: version(),
            address,
            targets: Vec::new(),
        };
        let peers = PeersConfig {
            key: store.peer_key()?,
            session: member.session.clone(),
            connect: Arc::new(Connector { ca: args.peer_ca() }),
        };
        Ok((Some(Sharing { member, ttl: LEASE_TTL }), Some(peers)))
    }
}

/// What it says of its version to the others. Tests of upgrades have it say another one.
fn version() -> String {
    let said = std::env::var("CLAWFARM_TEST_VERSION").ok().filter(|_| cfg!(debug_assertions));
    said.unwrap_or_else(|| VERSION.to_owned())
}
