//! Servers that are killed, replaced, and lose their database, under load.
//!
//! `CLAWFARM_TEST_SEED` replays a run's load and kills (their times are the machine's);
//! `CLAWFARM_TEST_CHAOS=full` is the long one.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::load::{Clients, Draws, User, check};
use super::servers::{Farm, Node, Options, shares, until_servers};

/// How much is done.
struct Size {
    users: usize,
    /// Instances of each.
    instances: usize,
    /// After all of them are made.
    lasts: Duration,
}

impl Size {
    const SHORT: Self = Self { users: 10, instances: 20, lasts: Duration::from_secs(15) };
    const FULL: Self = Self { users: 25, instances: 40, lasts: Duration::from_secs(120) };
}

pub(super) fn seed() -> u64 {
    let given = std::env::var("CLAWFARM_TEST_SEED").ok();
    let seed = given.map_or_else(
        || u64::from(std::process::id()) << 20 ^ clawfarm_model::Timestamp::now().as_millis().unsigned_abs(),
        |text| text.parse().expect("CLAWFARM_TEST_SEED is a number"),
    );
    println!("seed {seed}: CLAWFARM_TEST_SEED={seed} replays it");
    seed
}

/// A load that runs beside what is done to the servers.
struct Load {
    users: Vec<tokio::task::JoinHandle<User>>,
    clients: Clients,
}

impl Load {
    fn begin(nodes: &[Node], seed: u64, size: &Size) -> Self {
        let clients: Clients = Arc::new(RwLock::new(nodes.iter().map(|n| n.client.clone()).collect()));
        let (mine, lasts) = (size.instances, size.lasts);
        let users = (0..size.users)
            .map(|number| {
                let mut user = User::new(number, seed, Arc::clone(&clients));
                tokio::spawn(async move {
                    user.create(mine).await;
                    let until = Instant::now() + lasts;
                    while Instant::now() < until {
                        user.step().await;
                    }
                    user
                })
            })
            .collect();
        Self { users, clients }
    }

    /// Tells the users that a server is gone, or there again.
    fn tell(&self, number: usize, node: &Node, there: bool) {
        self.clients.write().expect("not poisoned")[number] = if there { node.client.clone() } else { None };
    }

    fn is_over(&self) -> bool {
        self.users.iter().all(tokio::task::JoinHandle::is_finished)
    }

    async fn users(self) -> Vec<User> {
        let mut users = Vec::new();
        for user in self.users {
            users.push(user.await.expect("a user's wish failed"));
        }
        users
    }
}

async fn three(farm: &Farm, options: Options) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(Node::start(farm, name, options).await);
    }
    nodes
}

async fn report(what: &str, users: &[User], nodes: &[Node], farm: &Farm, more: &str) {
    let acts = check(users, nodes[0].client(), &farm.world()).await;
    let sum = |of: fn(&User) -> usize| users.iter().map(of).sum::<usize>();
    let running = farm.database.sql("SELECT count(*) FROM operations WHERE state = 'running'");
    assert_eq!(running.trim(), "0", "operations that nobody ends");
    println!(
        "{what}: {} instances live, {} removed, {} wishes ({} asked again), {} messages answered, {acts} acts, {more}; none lost, none done twice",
        sum(|u| u.instances.len()),
        sum(|u| u.removed.len()),
        sum(|u| u.wishes),
        sum(|u| u.retries),
        sum(|u| u.sent),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_three_servers_one_killed_every_few_seconds() {
    let full = std::env::var("CLAWFARM_TEST_CHAOS").is_ok_and(|text| text == "full");
    let size = if full { Size::FULL } else { Size::SHORT };
    let seed = seed();
    let mut draws = Draws::new(seed);
    let farm = Farm::new();
    let mut nodes = three(&farm, Options::default()).await;
    let load = Load::begin(&nodes, seed, &size);
    let mut kills = 0;
    while !load.is_over() {
        let pause = 2000 + draws.below(3000);
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
        if load.is_over() {
            break;
        }
        let victim = draws.below(3);
        nodes[victim].end(Signal::SIGKILL).await;
        kills += 1;
        // Half of the time it stays away for so long that others take over its leases.
        if draws.below(2) == 0 {
            load.tell(victim, &nodes[victim], false);
            tokio::time::sleep(Duration::from_millis(draws.below(3000) as u64)).await;
        }
        nodes[victim].run(&farm).await;
        load.tell(victim, &nodes[victim], true);
    }
    let users = load.users().await;
    report("killed at random", &users, &nodes, &farm, &format!("{kills} kills")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_the_database_is_restarted_under_load() {
    let seed = seed();
    let farm = Farm::with_postgres();
    let postgres = farm.postgres.as_ref().expect("one of its own");
    let mut nodes = Vec::new();
    for name in ["one", "two"] {
        nodes.push(Node::start(&farm, name, Options::default()).await);
    }
    let size = Size { users: 6, instances: 10, lasts: Duration::from_secs(20) };
    let load = Load::begin(&nodes, seed, &size);
    tokio::time::sleep(Duration::from_secs(5)).await;
    postgres.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    postgres.start();
    tokio::time::sleep(Duration::from_secs(4)).await;
    postgres.crash();
    // Longer than a lease: everybody's is over, and nobody else has it.
    tokio::time::sleep(Duration::from_secs(12)).await;
    postgres.start();
    let users = load.users().await;
    until_servers(&nodes[0], "the work is shared", |s| shares(s) == [32, 32]).await;
    report("PostgreSQL stopped and crashed", &users, &nodes, &farm, "2 restarts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_servers_are_replaced_by_a_newer_version_one_after_the_other() {
    let seed = seed();
    let farm = Farm::new();
    let old = Options { version: Some("0.0.9"), ..Options::default() };
    let mut nodes = three(&farm, old).await;
    let size = Size { users: 6, instances: 10, lasts: Duration::from_secs(15) };
    let load = Load::begin(&nodes, seed, &size);
    for number in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        load.tell(number, &nodes[number], false);
        nodes[number].end(Signal::SIGTERM).await;
        nodes[number].set_version(None);
        nodes[number].run(&farm).await;
        load.tell(number, &nodes[number], true);
        let mut versions: Vec<String> = nodes[0]
            .client()
            .servers()
            .await
            .expect("servers")
            .items
            .into_iter()
            .map(|s| s.server.version)
            .collect();
        versions.sort();
        assert_eq!(versions.iter().filter(|v| *v == "0.0.9").count(), 2 - number, "{versions:?}");
    }
    let users = load.users().await;
    until_servers(&nodes[0], "the work is shared", |s| {
        // Nobody has more than a third, rounded up; the rest lies as it came.
        let shares = shares(s);
        shares.len() == 3 && shares.iter().sum::<u32>() == 64 && shares.iter().all(|&share| share <= 22)
    })
    .await;
    report("rolled from 0.0.9", &users, &nodes, &farm, "3 replaced").await;
}
