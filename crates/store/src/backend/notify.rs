//! Hearing of what other servers committed: LISTEN and NOTIFY of PostgreSQL, and a look into
//! the table now and then for what was committed by a server that died before it told.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::DatabaseConnection;
use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::signals::{News, Signals};
use crate::store::latest_event;

const CHANNEL: &str = "clawfarm";
/// The least time between two notifications of a server. All that was committed meanwhile is
/// told at once: notifications are ordered by a lock over the whole database server.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// How often the table is looked at all the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// And when nothing is heard, because there is no connection to listen on.
const LOOK_EVERY_DEAF: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// A notification has 7,999 bytes at most (`NOTIFY_PAYLOAD_MAX_LENGTH`); an operation's id 23, an
/// instance's up to 40 and its mark.
const WORDS_MOST: usize = 180;
/// What stands before the id of an instance that has messages.
const INBOX: &str = "in:";

/// The tasks that tell and hear. They end when this is dropped.
pub(crate) fn run(
    signals: &Arc<Signals>,
    reader: &DatabaseConnection,
    options: &PgConnectOptions,
) -> JoinSet<()> {
    let node = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    let mut tasks = JoinSet::new();
    // Two connections of their own: waiting for a free one would hold up everybody's news.
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(10))
        .max_lifetime(None)
        .idle_timeout(None)
        .after_connect(|connection, _| Box::pin(prepare(connection)))
        .connect_lazy_with(options.clone());
    tasks.spawn(tell(Arc::clone(signals), pool.clone(), node));
    tasks.spawn(hear(Arc::clone(signals), reader.clone(), pool, node));
    tasks
}

async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // What is told is in the tables already; a crash loses no more than a signal.
    connection.execute("SET statement_timeout = '10s'; SET synchronous_commit = off").await.map(drop)
}

/// Tells the other servers, in a transaction of its own: NOTIFY within the transaction that
/// made the change would make all commits wait for each other.
async fn tell(signals: Arc<Signals>, pool: PgPool, node: u64) {
    loop {
        signals.posted.notified().await;
        let news = signals.take();
        for payload in payloads(node, &news) {
            let told =
                sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(&pool).await;
            if let Err(error) = told {
                tracing::debug!(%error, "other servers were not told; they look by themselves");
            }
        }
        sleep(TELL_EVERY).await;
    }
}

async fn hear(signals: Arc<Signals>, reader: DatabaseConnection, pool: PgPool, node: u64) {
    let mut backoff = LOOK_EVERY_DEAF;
    loop {
        match listener(&pool).await {
            Ok(listener) => {
                backoff = LOOK_EVERY_DEAF;
                listen(&signals, &reader, listener, node).await;
                tracing::warn!("the connection that hears of other servers' changes broke; it is made again");
            }
            Err(error) => tracing::debug!(%error, "no connection to listen on"),
        }
        let until = Instant::now() + backoff;
        backoff = (backoff * 2).min(BACKOFF_MOST);
        while Instant::now() < until {
            look(&signals, &reader).await;
            signals.look_again();
            sleep(LOOK_EVERY_DEAF).await;
        }
    }
}

async fn listener(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Until the connection breaks, or tells less than the table has.
async fn listen(signals: &Signals, reader: &DatabaseConnection, mut listener: PgListener, node: u64) {
    // What was committed before it listened.
    look(signals, reader).await;
    signals.look_again();
    let mut looked = Instant::now();
    let mut silent = 0;
    loop {
        match timeout(LOOK_EVERY.saturating_sub(looked.elapsed()), listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                silent = 0;
                if let Some(news) = read(notification.payload(), node) {
                    signals.heard(&news);
                }
            }
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => {
                looked = Instant::now();
                silent = if look(signals, reader).await { silent + 1 } else { 0 };
                // Once, a server died before it told; again and again, this connection is dead
                // and nobody said so.
                if silent >= 2 {
                    return;
                }
            }
        }
    }
}

/// Looks into the table; says whether there was something that nobody had told of.
async fn look(signals: &Signals, reader: &DatabaseConnection) -> bool {
    match latest_event(reader).await {
        Ok(latest) => {
            let news = latest > signals.latest();
            signals.heard(&News { latest: Some(latest), ..News::default() });
            if news {
                signals.look_again();
            }
            news
        }
        Err(error) => {
            tracing::debug!(?error, "the latest event could not be read");
            false
        }
    }
}

fn payloads(node: u64, news: &News) -> Vec<String> {
    if news.is_empty() {
        return Vec::new();
    }
    let inbox: Vec<String> = news.inbox.iter().map(|id| format!("{INBOX}{id}")).collect();
    let words: Vec<&str> = news.operations.iter().chain(&inbox).map(String::as_str).collect();
    let latest = news.latest.unwrap_or(0);
    let mut parts: Vec<_> = words.chunks(WORDS_MOST).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    parts.into_iter().map(|ids| format!("1 {node:x} {latest} {}", ids.join(" "))).collect()
}

/// What another server told; `None` for one's own and for what can't be read.
fn read(payload: &str, node: u64) -> Option<News> {
    let mut words = payload.split_ascii_whitespace();
    if words.next()? != "1" || u64::from_str_radix(words.next()?, 16).ok()? == node {
        return None;
    }
    let latest: i64 = words.next()?.parse().ok()?;
    let (inbox, operations): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with(INBOX));
    Some(News {
        latest: (latest > 0).then_some(latest),
        operations: operations.into_iter().map(str::to_owned).collect(),
        inbox: inbox.iter().filter_map(|word| word.strip_prefix(INBOX)).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_others_hear() {
        let news = News {
            latest: Some(7),
            operations: ["op-a".to_owned(), "op-b".to_owned()].into(),
            inbox: ["alice-x7k2m".to_owned()].into(),
        };
        let told = payloads(1, &news);
        assert_eq!(told.len(), 1);
        assert_eq!(read(&told[0], 2), Some(news));
        assert_eq!(read(&told[0], 1), None, "its own");
        for junk in ["", "1", "1 x 3", "2 1 3", "1 1 x", "1 ffffffffffffffffff 3"] {
            assert_eq!(read(junk, 2), None, "{junk}");
        }
        let many = News {
            operations: (0..700).map(|n| format!("op-{n:020}")).collect(),
            inbox: (0..20).map(|n| format!("{n:040}")).collect(),
            ..News::default()
        };
        let told = payloads(1, &many);
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|p| p.len() < 7_999));
        let heard: Vec<_> = told.iter().filter_map(|p| read(p, 2)).collect();
        assert_eq!(heard.iter().map(|n| n.operations.len()).sum::<usize>(), 700);
        assert_eq!(heard.iter().map(|n| n.inbox.len()).sum::<usize>(), 20);
        assert!(payloads(1, &News::default()).is_empty());
    }
}
