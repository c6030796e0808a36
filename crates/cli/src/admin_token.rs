//! The callers' token of a server: its home's, or one that all servers of a database have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Code, Context, Error};
use clawfarm_server::{
    AdminToken, load_admin_token, load_or_create_admin_token, new_admin_token, replace_admin_token,
};
use clawfarm_store::Store;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Its name among what servers agree on.
const NAME: &str = "admin-token";
/// How often a server looks whether its token was renewed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The token of a server that starts: one for all servers of a database (`shared`), so that any of
/// them can be asked.
pub(crate) async fn at_start(home: &Path, store: &Store, shared: bool) -> Result<SecretString, Error> {
    if !shared {
        return load_or_create_admin_token(home);
    }
    let own = load_admin_token(home)?;
    let offered = match &own {
        Some(token) => token.clone(),
        None => new_admin_token()?,
    };
    let agreed = store.agree_on(&system(), NAME, offered).await?;
    let Some(own) = own else {
        replace_admin_token(home, &agreed)?;
        return Ok(agreed);
    };
    if own.expose_secret() == agreed.expose_secret() {
        return Ok(agreed);
    }
    if store.was_agreed(&system(), NAME, &own).await? {
        tracing::info!("the callers' token was renewed; this server takes the new one");
        replace_admin_token(home, &agreed)?;
        return Ok(agreed);
    }
    let path = home.join("admin.token");
    Err(Error::new(
        Code::Conflict,
        format!("{} is not the token of this database's other servers", path.display()),
    )
    .field("admin.token")
    .fix(format!("remove it, so that theirs is taken at the next start: rm {}", path.display())))
}

/// Gives all servers of a home's database a new token; the one before is worth nothing as soon as
/// they have seen it. `store` is `None` where the home is alone.
pub(crate) async fn renew(home: &Path, store: Option<&Store>) -> Result<(), Error> {
    let new = new_admin_token()?;
    if let Some(store) = store {
        store.renew_agreed(&system(), NAME, &new).await?;
    }
    // Last: a server that sees neither yet goes on with the old one, and takes this one from the
    // database when the file could not be written.
    replace_admin_token(home, &new)
}

/// Looks after the token of a server that runs, until it ends: what was renewed counts within
/// seconds. `shared` is the store of a database that has other servers.
pub(crate) async fn follow(
    home: PathBuf,
    shared: Option<Store>,
    known: AdminToken,
    stopping: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
        if let Err(error) = look(&home, shared.as_ref(), &known).await {
            tracing::debug!(%error, "whether the callers' token was renewed can't be seen");
        }
    }
}

async fn look(home: &Path, shared: Option<&Store>, known: &AdminToken) -> Result<(), Error> {
    let file = load_admin_token(home);
    let now = match shared {
        Some(store) => store.agreed(&system(), NAME).await?,
        // Without a file, and with one that is no good, the one that is known goes on.
        None => file.as_ref().ok().cloned().flatten(),
    };
    let Some(now) = now else { return Ok(()) };
    if known.is(now.expose_secret()) {
        return Ok(());
    }
    known.set(&now);
    tracing::info!("the callers' token was renewed");
    if shared.is_some()
        && !file.is_ok_and(|own| own.is_some_and(|own| own.expose_secret() == now.expose_secret()))
    {
        replace_admin_token(home, &now)?;
    }
    Ok(())
}

fn system() -> Context {
    Context::system("token")
}
