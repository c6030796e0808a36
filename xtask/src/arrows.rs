//! Which crate may depend on which: arrows go down the table only.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::Package;

/// A crate, and what it may depend on. What those may depend on it may use too: an arrow
/// that passes over a layer still goes down. `docs/design` has the table with what each holds.
const TABLE: &[(&str, &[&str])] = &[
    (
        "clawfarm-bench",
        &[
            "clawfarm-client",
            "clawfarm-api",
            "clawfarm-edge",
            "clawfarm-vm",
            "clawfarm-test-postgres",
            "clawfarm-test-docker",
        ],
    ),
    (
        "clawfarm",
        &[
            "clawfarm-client",
            "clawfarm-server",
            "clawfarm-edge",
            "clawfarm-certs",
            "clawfarm-runtime-process",
            "clawfarm-runtime-vm",
            "clawfarm-runtime-docker",
            "clawfarm-runtime-sim",
            "clawfarm-vm-images",
        ],
    ),
    ("xtask", &["clawfarm-server"]),
    ("clawfarm-server", &["clawfarm-control", "clawfarm-api"]),
    (
        "clawfarm-control",
        &[
            "clawfarm-config",
            "clawfarm-store",
            "clawfarm-runtime",
            "clawfarm-adapters",
            "clawfarm-archive",
            "clawfarm-files",
        ],
    ),
    // The process runtime starts shims and speaks their protocol, so it knows them.
    ("clawfarm-runtime-process", &["clawfarm-install"]),
    // Virtual machines run under shims too.
    (
        "clawfarm-runtime-vm",
        &["clawfarm-install", "clawfarm-qemu", "clawfarm-guest", "clawfarm-vm", "clawfarm-vm-images"],
    ),
    // Software of claws on this machine, for both.
    ("clawfarm-install", &["clawfarm-local"]),
    // What the two share: it knows shims, and no instance.
    ("clawfarm-local", &["clawfarm-runtime", "clawfarm-shim", "clawfarm-files"]),
    ("clawfarm-runtime-docker", &["clawfarm-runtime", "clawfarm-files"]),
    // Runs inside of virtual machines, where nothing else of clawfarm is.
    ("clawfarm-guest", &[]),
    ("clawfarm-runtime-sim", &["clawfarm-runtime"]),
    // QEMU, virtiofsd and ssh as programs: it knows nothing of instances.
    ("clawfarm-qemu", &["clawfarm-files"]),
    // Functions of their arguments: nothing of it runs a virtual machine.
    ("clawfarm-vm", &["clawfarm-model"]),
    // Files of this machine: it knows no server and no instance, and tells how far it is.
    ("clawfarm-vm-images", &["clawfarm-runtime", "clawfarm-files"]),
    // Sees the fleet through a trait of its own, so that it can run apart.
    ("clawfarm-edge", &["clawfarm-model"]),
    // Knows where certificates come from; where they are kept it is told through a trait.
    ("clawfarm-certs", &["clawfarm-model"]),
    ("clawfarm-shim", &["clawfarm-model"]),
    ("clawfarm-runtime", &["clawfarm-model"]),
    // A claw type of its user's own is a template, filled as a configuration is.
    ("clawfarm-adapters", &["clawfarm-config"]),
    // Whoever has an archive of an instance can read it with this alone.
    ("clawfarm-archive", &["clawfarm-files"]),
    // What several runtimes need for folders that claws write to.
    ("clawfarm-files", &["clawfarm-failpoint"]),
    ("clawfarm-store", &["clawfarm-config", "clawfarm-failpoint"]),
    ("clawfarm-client", &["clawfarm-api"]),
    ("clawfarm-api", &["clawfarm-config"]),
    // Functions of their arguments: what is stored and rolled out is control's.
    ("clawfarm-config", &["clawfarm-model"]),
    // Nothing in a release, so that every crate may have points.
    ("clawfarm-failpoint", &["clawfarm-model"]),
    ("clawfarm-model", &[]),
    // A database server for tests and the benchmark; it knows nothing of clawfarm.
    ("clawfarm-test-postgres", &[]),
    // The same with a container engine.
    ("clawfarm-test-docker", &[]),
    // The same with a browser.
    ("clawfarm-test-browser", &[]),
    // The same with an ACME server and DNS servers.
    ("clawfarm-test-acme", &[]),
    ("clawfarm-fuzz", &[]),
];

/// What any crate's tests may use beside: the simulated runtime is made for that, which is
/// itself held against the adapters; the server is tested through the client, and the edge with
/// certificates that change; an image is booted with a seed.
const FOR_TESTS: &[&str] = &[
    "clawfarm-runtime-sim",
    "clawfarm-adapters",
    "clawfarm-certs",
    "clawfarm-client",
    "clawfarm-vm",
    "clawfarm-fuzz",
    "clawfarm-test-postgres",
    "clawfarm-test-docker",
    "clawfarm-test-browser",
    "clawfarm-test-acme",
];

pub(crate) fn problems(packages: &[Package]) -> Vec<String> {
    check(TABLE, packages)
}

/// Whether a crate may use another; each may use itself.
pub(crate) fn knows(from: &str, to: &str) -> bool {
    reach(TABLE).is_ok_and(|reach| reach.get(from).is_some_and(|all| from == to || all.contains(to)))
}

fn check(table: &[(&str, &[&str])], packages: &[Package]) -> Vec<String> {
    let reach = match reach(table) {
        Ok(reach) => reach,
        Err(problem) => return vec![problem],
    };
    let mut problems = Vec::new();
    for package in packages {
        let Some(may) = reach.get(package.name.as_str()) else {
            problems.push(format!(
                "crate {} is not in the table of arrows; add it to xtask/src/arrows.rs and docs/design",
                package.name
            ));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.path.is_some()) {
            let name = dependency.name.as_str();
            let for_tests = dependency.kind.as_deref() == Some("dev") && FOR_TESTS.contains(&name);
            if !may.contains(name) && !for_tests && name != package.name {
                problems.push(format!(
                    "crate {} must not depend on {name}: arrows go down the table only; move what \
                     is needed to a crate below both, or hand it in through a trait",
                    package.name
                ));
            }
        }
    }
    problems
}

/// For each crate all that it may use. A row may name rows below it only, so there are no circles.
fn reach<'a>(table: &[(&'a str, &[&'a str])]) -> Result<BTreeMap<&'a str, BTreeSet<&'a str>>, String> {
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, direct) in table.iter().rev() {
        let mut all = BTreeSet::new();
        for other in *direct {
            let below = reach.get(other).ok_or_else(|| {
                format!("the table of arrows lets {name} depend on {other}, which is not below it")
            })?;
            all.extend(below.iter().copied().chain([*other]));
        }
        reach.insert(name, all);
    }
    Ok(reach)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    const SMALL: &[(&str, &[&str])] = &[("top", &["middle"]), ("middle", &["base"]), ("base", &[])];

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency {
                name: (*name).to_owned(),
                kind: kind.map(str::to_owned),
                path: Some("somewhere".into()),
                features: vec![],
            })
            .collect();
        Package {
            name: name.to_owned(),
            manifest_path: "x".into(),
            dependencies,
            targets: vec![],
            features: BTreeMap::new(),
        }
    }

    #[test]
    fn arrows_down_are_fine_also_over_a_layer() {
        let packages = [
            package("top", &[("middle", None), ("base", None)]),
            package("middle", &[("base", Some("dev"))]),
            package("base", &[]),
        ];
        assert_eq!(check(SMALL, &packages), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_up_is_named() {
        let packages = [package("base", &[("top", None)]), package("middle", &[("top", Some("dev"))])];
        let problems = check(SMALL, &packages);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("base must not depend on top"), "{problems:?}");
    }

    #[test]
    fn the_simulated_runtime_is_for_tests_only() {
        let sim = "clawfarm-runtime-sim";
        assert!(problems(&[package("clawfarm-control", &[(sim, Some("dev"))])]).is_empty());
        assert_eq!(problems(&[package("clawfarm-control", &[(sim, None)])]).len(), 1);
    }

    #[test]
    fn a_crate_that_nobody_put_in_the_table_is_named() {
        assert!(check(SMALL, &[package("new", &[])])[0].contains("new is not in the table"));
    }

    #[test]
    fn libraries_of_others_are_no_arrows() {
        let mut foreign = package("base", &[("serde", None)]);
        foreign.dependencies[0].path = None;
        assert!(check(SMALL, &[foreign]).is_empty());
    }

    #[test]
    fn the_table_itself_goes_down_only() {
        assert!(reach(TABLE).is_ok());
        assert!(reach(&[("base", &["top"]), ("top", &[])]).is_ok());
        assert!(reach(&[("top", &[]), ("base", &["top"])]).is_err());
    }
}
