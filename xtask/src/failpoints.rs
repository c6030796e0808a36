//! Failpoints are for tests: nothing that is released may turn them on.

use crate::metadata::Package;

const CRATE: &str = "clawfarm-failpoint";

pub(crate) fn problems(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        for dependency in package.dependencies.iter().filter(|d| d.name == CRATE) {
            if dependency.kind.as_deref() != Some("dev") && !dependency.features.is_empty() {
                problems.push(format!(
                    "crate {} turns failpoints on outside of its tests; leave the features of {CRATE} to [dev-dependencies]",
                    package.name
                ));
            }
        }
        let passed_on = package.features.iter().any(|(_, on)| on.iter().any(|f| f.starts_with(CRATE)));
        let by_default = package.name == CRATE && package.features.contains_key("default");
        if passed_on || by_default {
            problems.push(format!(
                "a feature of crate {} turns failpoints on; tests do that in [dev-dependencies]",
                package.name
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metadata::Dependency;

    fn package(kind: Option<&str>, features: &[&str]) -> Package {
        Package {
            name: "x".into(),
            manifest_path: "x".into(),
            dependencies: vec![Dependency {
                name: CRATE.into(),
                kind: kind.map(str::to_owned),
                path: Some("x".into()),
                features: features.iter().map(|&f| f.to_owned()).collect(),
            }],
            targets: vec![],
            features: BTreeMap::new(),
        }
    }

    #[test]
    fn only_tests_may_turn_them_on() {
        assert!(problems(&[package(None, &[]), package(Some("dev"), &["failpoints"])]).is_empty());
        assert_eq!(problems(&[package(None, &["failpoints"])]).len(), 1);
        let mut passes_on = package(None, &[]);
        passes_on.features.insert("faults".into(), vec!["clawfarm-failpoint/failpoints".into()]);
        assert_eq!(problems(&[passes_on]).len(), 1);
    }
}
