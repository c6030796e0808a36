//! Takes the agent of virtual machines into the program, where `CLAWFARM_GUEST_AGENT` names it
//! (`scripts/guest` builds it). Without, the program has none, and says so in `clawfarm doctor`.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(guest_agent)");
    println!("cargo::rerun-if-env-changed=CLAWFARM_GUEST_AGENT");
    let Some(agent) = env::var_os("CLAWFARM_GUEST_AGENT").filter(|it| !it.is_empty()) else { return };
    let agent = Path::new(&agent);
    let (Some(text), true) = (agent.to_str(), agent.is_absolute() && agent.is_file()) else {
        println!("cargo::error=CLAWFARM_GUEST_AGENT is no absolute path of a file: {}", agent.display());
        return;
    };
    println!("cargo::rerun-if-changed={text}");
    println!("cargo::rustc-env=CLAWFARM_GUEST_AGENT_FILE={text}");
    println!("cargo::rustc-cfg=guest_agent");
}
