//! Reaching a PostgreSQL server, and the lock under which its schema is looked at.

use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection, Executor, Row};

use super::{Connections, PostgresUrl, told, wrapped};

/// How long the first connection may take: name lookup, network, TLS, password.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a query waits for a connection of its pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections for changes and for reading.
const WRITERS: u32 = 8;
const READERS: u32 = 8;
/// And one for its heartbeat, which must not wait behind the changes that clients make: a
/// server that is overloaded would lose its leases, and others would do its work a second time.
const BEATS: u32 = 1;
/// The most that a server takes: with one that listens and one that tells, 19 of the 100 that
/// PostgreSQL has unless told otherwise, so five servers fit. The one under which the schema is
/// looked at is given back before these are needed.
#[cfg(test)]
const PER_SERVER: u32 = WRITERS + READERS + BEATS + 2;
/// A connection that nobody used for so long is given back to the database server.
const IDLE: Duration = Duration::from_secs(300);
/// The oldest version it is written for: 13 brought `pg_current_xact_id`, 14 is the oldest that
/// is still looked after (<https://www.postgresql.org/support/versioning/>).
const OLDEST: i32 = 140_000;

/// What each connection is told at its beginning. The role or the database may have other
/// defaults.
///
/// - A transaction sees what was committed before each statement, and locks what it will write.
/// - `idle_in_transaction_session_timeout` (5 s) ends the transaction of a server that froze in
///   its middle, before those that wait for its locks give up (`lock_timeout`, 10 s). No
///   transaction of ours waits for anything but the database.
/// - `synchronous_commit` must not be `off`: what was accepted survives a crash. A stronger
///   setting (`remote_apply`) is left.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; \
    SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '5s'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';";
const READ_ONLY: &str = "SET default_transaction_read_only = on;";
/// One server migrates; others wait so long. Changing a big table takes longer than a query may.
const GATE: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET lock_timeout = '60s'; SELECT pg_advisory_lock(1668047223, 2); SET lock_timeout = '10s';";

/// Connects, checks that the server is one that can be used, and takes the lock on the schema.
pub(crate) async fn open(url: &PostgresUrl) -> Result<Connections> {
    let place = url.place();
    let refuse = |error: sqlx::Error| {
        let told = told(wrapped(error));
        let fix = told.fix_text().unwrap_or("check the URL of the database").to_owned();
        Error::new(told.code(), format!("the database {place}: {}", told.message())).fix(fix).source(told)
    };
    let options = url.options();
    // By hand, once: a pool would go on trying, and tell only that it gave up.
    let first = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await;
    let mut first = first
        .map_err(|_| {
            Error::new(Code::Unavailable, format!("the database {place} did not answer within 10 s"))
                .fix("check the host and port, the network, and that PostgreSQL runs there")
        })?
        .map_err(refuse)?;
    let version = check(&mut first, &place).await.map_err(|e| e.unwrap_or_else(refuse))?;
    let _ = first.close().await;
    let gate = gate(&options, &place).await?;
    Ok(Connections {
        folder: None,
        writer: pool(&options, WRITERS, ""),
        reader: pool(&options, READERS, READ_ONLY),
        beats: Some(pool(&options, BEATS, "")),
        gate,
        description: format!("PostgreSQL {version}, {place}"),
        postgres: Some(options),
    })
}

/// A refusal of ours, or the driver's error.
enum Bad {
    Told(Box<Error>),
    Driver(sqlx::Error),
}

impl Bad {
    fn unwrap_or_else(self, refuse: impl FnOnce(sqlx::Error) -> Error) -> Error {
        match self {
            Self::Told(error) => *error,
            Self::Driver(error) => refuse(error),
        }
    }
}

async fn check(connection: &mut PgConnection, place: &str) -> Result<String, Bad> {
    let row = connection
        .fetch_one(
            "SELECT current_setting('server_version') AS version, \
             current_setting('server_version_num')::int AS number, \
             current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby",
        )
        .await
        .map_err(Bad::Driver)?;
    let version: String = row.try_get("version").map_err(Bad::Driver)?;
    let encoding: String = row.try_get("encoding").map_err(Bad::Driver)?;
    let refuse = |why: String, fix: &str| {
        let error = Error::new(Code::Unsupported, format!("the database {place} can't be used: {why}"));
        Err(Bad::Told(Box::new(error.fix(fix))))
    };
    if row.try_get::<i32, _>("number").map_err(Bad::Driver)? < OLDEST {
        return refuse(format!("it is PostgreSQL {version}"), "use PostgreSQL 14 or newer");
    }
    if encoding != "UTF8" {
        return refuse(format!("its encoding is {encoding}"), "make the database with ENCODING 'UTF8'");
    }
    if row.try_get("standby").map_err(Bad::Driver)? {
        return refuse("it is a standby, which can't be written".into(), "give the address of the primary");
    }
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

/// One connection that holds the lock on the schema until it is closed, or its server dies.
async fn gate(options: &PgConnectOptions, place: &str) -> Result<DatabaseConnection> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(CONNECT_TIMEOUT + Duration::from_secs(60))
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute(SESSION).await?;
                connection.execute(GATE).await.map(drop)
            })
        })
        .connect_with(options.clone())
        .await
        .map_err(|error| {
            let waited = super::postgres::is_lock_timeout(&error);
            let told = told(wrapped(error));
            if waited {
                return Error::new(
                    Code::Unavailable,
                    format!("another server has been bringing the database {place} up to date for a minute"),
                )
                .fix("wait until it is done, or look what became of it, and start again")
                .source(told);
            }
            told
        })?;
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}

/// A pool that connects when it is asked to, and again after the database was gone.
fn pool(options: &PgConnectOptions, most: u32, more: &'static str) -> DatabaseConnection {
    let pool = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE)
        .max_lifetime(None)
        // The database may have been started again since: a connection is asked before it is
        // used, so that no change is begun on one that is dead.
        .test_before_acquire(true)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(SESSION).await?;
                if more.is_empty() { Ok(()) } else { connection.execute(more).await.map(drop) }
            })
        })
        .connect_lazy_with(options.clone());
    SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
}

#[cfg(test)]
mod tests {
    use super::PER_SERVER;

    #[test]
    fn people_are_told_the_connections_that_a_server_takes() {
        let told = format!("takes up to {PER_SERVER}");
        assert!(include_str!("postgres.rs").contains(&told), "the error of a full database server");
        assert!(include_str!("../../../../docs/database.md").contains(&format!("{told} connections")));
    }
}
