//! What a container may not do.

use clawfarm_runtime::{NoProgress, Runtime};
use clawfarm_test_docker::Kind;
use serde_json::Value;

use crate::farm::{Farm, SERVES, launch, until};

crate::farm::on_engines! {
    both [
        a_container_is_made_as_tight_as_it_can_be
        containers_do_not_reach_each_other
    ]
    docker []
}

async fn a_container_is_made_as_tight_as_it_can_be(farm: Farm) {
    let id = farm.id("tight");
    let (seen, port) = farm.up(&id, SERVES).await;
    let confinement = seen.confinement.unwrap();
    assert!(confinement.isolates_files() && confinement.missing.is_empty());
    let inspected: Value =
        serde_json::from_str(&farm.engine.docker(&["inspect", &farm.container(&id)])).unwrap();
    let (host, config) = (&inspected[0]["HostConfig"], &inspected[0]["Config"]);
    // In words Podman has for the same: what is dropped is told one by one, and what is in force is
    // looked at below.
    let docker = farm.engine.kind() == Kind::Docker;
    let own_words = ["CapDrop", "CapAdd", "PidMode", "Binds", "RestartPolicy"];
    for (key, wanted) in [
        ("CapDrop", serde_json::json!(["ALL"])),
        ("CapAdd", Value::Null),
        ("SecurityOpt", serde_json::json!(["no-new-privileges"])),
        ("Privileged", false.into()),
        ("ReadonlyRootfs", true.into()),
        ("Init", true.into()),
        ("PidsLimit", 512.into()),
        ("Memory", (64_u64 << 20).into()),
        ("MemorySwap", (64_u64 << 20).into()),
        ("NanoCpus", 1_000_000_000_u64.into()),
        ("PidMode", "".into()),
        ("Binds", Value::Null),
        ("RestartPolicy", serde_json::json!({"Name": "unless-stopped", "MaximumRetryCount": 0})),
        (
            "PortBindings",
            serde_json::json!({"18789/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]}),
        ),
    ] {
        assert!(!docker && own_words.contains(&key) || host[key] == wanted, "{key}: {}", host[key]);
    }
    assert_ne!(host["PidMode"], "host");
    assert!((10_000..20_000).contains(&port));
    assert_eq!(config["User"], "1000:1000");
    for label in ["instance", "server", "tenant", "generation", "spec-hash"] {
        assert!(config["Labels"][format!("io.clawfarm.{label}")].is_string(), "{label}");
    }
    // No secret in what others who use the engine can read.
    assert!(!inspected.to_string().contains("TOKEN=secret"));
    assert!(
        inspected[0]["Mounts"].as_array().unwrap().iter().all(|m| !m.to_string().contains("docker.sock"))
    );
    let status = farm.run(&id, &["cat", "/proc/self/status"]).await.0;
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(line("CapEff:"), "0000000000000000");
    assert_eq!(line("CapBnd:"), "0000000000000000");
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(line("Uid:"), "1000");
    assert_ne!(farm.run(&id, &["touch", "/bin/new"]).await.1, 0, "the root is read-only");
    for place in ["/tmp/new", "/home/node/new", "/home/node/.openclaw/new", "/home/node/.config/new"] {
        assert_eq!(farm.run(&id, &["touch", place]).await, (String::new(), 0), "{place}");
    }
    farm.clear().await;
}

async fn containers_do_not_reach_each_other(farm: Farm) {
    let (one, other, foreign) = (farm.id("one"), farm.id("other"), farm.id("foreign"));
    for (id, tenant) in [(&one, "default"), (&other, "default"), (&foreign, "another")] {
        let placement = farm.placement(id, tenant).await;
        farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
        farm.runtime.start(&launch(id, 1, SERVES)).await.unwrap();
    }
    let address = |id| {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        farm.engine.docker(&["inspect", "-f", format, &farm.container(id)])
    };
    // It does listen: this machine reaches it at that address.
    until("they answer", || async {
        farm.runtime.dial(&other, 18_789).await.is_ok() && farm.runtime.dial(&foreign, 18_789).await.is_ok()
    })
    .await;
    for id in [&other, &foreign] {
        let url = format!("http://{}:18789/openclaw.json", address(id));
        let (printed, code) = farm.run(&one, &["wget", "-q", "-T", "2", "-O", "-", &url]).await;
        assert!(code != 0 && !printed.contains("\"a\""), "{id}: {printed}");
    }
    farm.clear().await;
}
