//! What a container is made of.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use clawfarm_model::{Launch, Result};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::Kind;
use crate::inner::{Inner, hex};
use crate::network::Attached;
use crate::paths::{CONFIG, DOT_CONFIG, DOT_CONFIG_IN, HOME_IN, PORT_IN, STATE_IN, WORKSPACE, WORKSPACE_IN};
use crate::record::ContainerRecord;

/// Which instance a container is.
pub(crate) const INSTANCE: &str = "io.clawfarm.instance";
/// Which server made a container or a network.
pub(crate) const SERVER: &str = "io.clawfarm.server";
/// Which of the server's targets it is on.
pub(crate) const TARGET: &str = "io.clawfarm.target";
/// Whose it is.
pub(crate) const TENANT: &str = "io.clawfarm.tenant";
/// The launch that the container was made for; later ones may have used it again.
pub(crate) const GENERATION: &str = "io.clawfarm.generation";
/// What everything else of it comes to: a launch that comes to the same uses it again.
pub(crate) const SPEC_HASH: &str = "io.clawfarm.spec-hash";

/// The limits that the container was made with ([`Limits`]).
pub(crate) const LIMITS: &str = "io.clawfarm.limits";

/// What of a container can be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// In bytes.
    pub(crate) memory: i64,
    /// In a thousand-millionth of a core.
    pub(crate) nano_cpus: i64,
    /// Processes and threads.
    pub(crate) pids: i64,
}

/// The name by which a container reaches the server.
pub(crate) const HOST_NAME: &str = "clawfarm.internal";
/// Processes and threads that a container may have, as OpenClaw's own fleet tool gives it.
const PIDS: i64 = 512;
/// What `/tmp` may hold; it counts as the container's memory.
const TMP: &str = "rw,exec,nosuid,nodev,mode=1777,size=256m";
/// Kept of what it prints: three files of 10 MB.
const LOG_FILES: (&str, &str) = ("10m", "3");

/// What the engine is asked to make.
pub(crate) fn container(
    inner: &Inner,
    launch: &Launch,
    record: &ContainerRecord,
    image: &str,
    network: &Attached,
    kind: Kind,
) -> Result<(ContainerCreateBody, String)> {
    let user = inner.user();
    let dir = inner.dir(&record.id);
    let mount = |part: &str, at: &str| Mount {
        source: Some(dir.join(part).to_string_lossy().into_owned()),
        target: Some(at.to_owned()),
        typ: Some(MountType::BIND),
        ..Mount::default()
    };
    let port = format!("{PORT_IN}/tcp");
    let published =
        PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(record.port.to_string()) };
    let home = match kind {
        Kind::Docker => format!("mode=0755,uid={},gid={}", user.uid, user.gid),
        // The container's user, in its word. Without it a folder has the owner and mode that it
        // had in the image, or what the container's first start made of it.
        Kind::Podman => "mode=0755,U".to_owned(),
    };
    let home = format!("rw,exec,nosuid,nodev,{home},size=64m");
    let tmp = match kind {
        // In an image without this folder Docker 20.10 takes the mode for the first start only.
        Kind::Docker => format!("{TMP},uid={},gid={}", user.uid, user.gid),
        Kind::Podman => format!("{TMP},U"),
    };
    let limits = Limits {
        memory: i64::from(launch.resources.memory_mib) << 20,
        nano_cpus: nano_cpus(launch.resources.cpus),
        pids: PIDS,
    };
    let host = HostConfig {
        memory: Some(limits.memory),
        // As much as memory: no swap beside it.
        memory_swap: Some(limits.memory),
        nano_cpus: Some(limits.nano_cpus),
        pids_limit: Some(limits.pids),
        init: Some(true),
        mounts: Some(vec![
            mount(CONFIG, STATE_IN),
            mount(WORKSPACE, WORKSPACE_IN),
            mount(DOT_CONFIG, DOT_CONFIG_IN),
        ]),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), tmp), (HOME_IN.to_owned(), home)])),
        network_mode: Some(network.name.clone()),
        port_bindings: Some(HashMap::from([(port.clone(), Some(vec![published]))])),
        extra_hosts: Some(vec![format!("{HOST_NAME}:{}", network.gateway)]),
        restart_policy: Some(RestartPolicy {
            name: Some(match kind {
                Kind::Docker => RestartPolicyNameEnum::UNLESS_STOPPED,
                // It starts a container again at once, without end and without a pause, and
                // none of them after the machine was started.
                Kind::Podman => RestartPolicyNameEnum::NO,
            }),
            maximum_retry_count: None,
        }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        // Without another word the engine's own seccomp profile is in force.
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(true),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_FILES.0.to_owned()),
                ("max-file".to_owned(), LOG_FILES.1.to_owned()),
            ])),
        }),
        ..HostConfig::default()
    };
    let mut body = ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some(format!("{}:{}", user.uid, user.gid)),
        entrypoint: Some(Vec::new()),
        cmd: Some(launch.argv.clone()),
        env: Some(environment(launch)),
        working_dir: Some(launch.cwd.to_string_lossy().into_owned()),
        exposed_ports: Some(vec![port]),
        hostname: Some(record.id.as_str().to_owned()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let hash = hash(&body)?;
    body.labels = Some(HashMap::from(
        [
            (INSTANCE, record.id.as_str().to_owned()),
            (SERVER, inner.server()),
            (TARGET, record.target.as_str().to_owned()),
            (TENANT, record.tenant.as_str().to_owned()),
            (GENERATION, launch.run.to_string()),
            (LIMITS, in_json(&limits)?.to_string()),
            (SPEC_HASH, hash.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    ));
    Ok((body, hash))
}

/// Cores in the engine's unit, a thousand-millionth of one.
#[allow(clippy::cast_possible_truncation, reason = "at most 1024 cores (Resources::CPUS)")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

/// The launch's environment, and what every program expects where the launch does not say it.
fn environment(launch: &Launch) -> Vec<String> {
    let mut all: Vec<String> =
        launch.env.iter().map(|(name, value)| format!("{name}={}", value.expose_secret())).collect();
    for (name, value) in [("HOME", HOME_IN), ("TERM", "xterm-256color"), ("LANG", "C.UTF-8")] {
        if !launch.env.iter().any(|(known, _)| known == name) {
            all.push(format!("{name}={value}"));
        }
    }
    all
}

fn in_json(what: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(what)
        .map_err(|e| clawfarm_model::Error::internal("a container could not be put into JSON", e))
}

/// By way of a value, whose maps are sorted.
fn hash(body: &ContainerCreateBody) -> Result<String> {
    Ok(hex(&Sha256::digest(in_json(body)?.to_string().as_bytes())[..16]))
}
