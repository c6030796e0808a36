//! Claws that another server of the same database reaches: their connections go through this
//! server's own API, which passes them on as it does `port-forward`.

use std::path::Path;

use clawfarm_client::{Client, Endpoint};
use clawfarm_edge::Connection;
use clawfarm_model::{ClawId, Code, Error, Result};

use crate::connect::socket;

/// What may be under way in one direction, in bytes.
const BUFFER: usize = 64 << 10;

/// Opens a connection to a claw's gateway, wherever it is.
pub(super) async fn dial(home: &Path, id: &ClawId) -> Result<Box<dyn Connection>> {
    // Read each time: it may have been renewed.
    let token = clawfarm_server::load_admin_token(home)?
        .ok_or_else(|| Error::new(Code::Unavailable, "the server's token is not in its home"))?;
    let client = Client::new(Endpoint::Unix(socket(home)), token);
    let tunnel = client.port_forward(id.as_str(), None).await?;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let id = id.clone();
    tokio::spawn(async move {
        if let Err(error) = tunnel.carry(theirs).await {
            tracing::debug!(%id, ?error, "a connection to another server's claw broke off");
        }
    });
    Ok(Box::new(ours))
}
