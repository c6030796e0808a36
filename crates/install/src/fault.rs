//! What the complaints of npm and pip mean.

use std::process::ExitStatus;

use clawfarm_model::{Code, Error};

/// What was looked for in an installer's output, what it means and what to do.
struct Meaning {
    signs: &'static [&'static str],
    code: Code,
    what: &'static str,
    fix: &'static str,
}

/// Most telling first: a full disk also shows as a failed download.
const MEANINGS: [Meaning; 6] = [
    Meaning {
        signs: &["ENOSPC", "EDQUOT", "no space left"],
        code: Code::Insufficient,
        what: "the disk is full",
        fix: "free some disk space (`df -h` shows what is full; an OpenClaw takes 0.8 GB and as much again in npm's cache), then try again",
    },
    Meaning {
        signs: &["code ETARGET", "code E404", "code ENOVERSIONS", "No matching version"],
        code: Code::InvalidInput,
        what: "the npm registry has no such version",
        fix: "choose a version that exists: `npm view <package> versions`",
    },
    Meaning {
        signs: &["code E401", "code E403", "code ENEEDAUTH"],
        code: Code::Unsupported,
        what: "the npm registry refused",
        fix: "log in to the registry that is configured (`npm config get registry`, `npm login`)",
    },
    Meaning {
        signs: &[
            "ENOTFOUND",
            "EAI_AGAIN",
            "ECONNREFUSED",
            "ECONNRESET",
            "ETIMEDOUT",
            "ENETUNREACH",
            "EHOSTUNREACH",
            "ERR_SOCKET_TIMEOUT",
            "SELF_SIGNED_CERT",
            "network",
        ],
        code: Code::Unavailable,
        what: "the npm registry could not be reached",
        fix: "check the connection (`npm ping`); behind a proxy set `npm config set proxy`, for a registry of your own `npm config set registry`",
    },
    Meaning {
        signs: &["EINTEGRITY"],
        code: Code::Unavailable,
        what: "a package arrived damaged",
        fix: "clear npm's cache (`npm cache clean --force`) and try again",
    },
    Meaning {
        signs: &["EACCES", "EPERM"],
        code: Code::Internal,
        what: "npm may not write its files",
        fix: "make npm's cache and the server's cache folder belong to the user that runs the server (`npm config get cache`)",
    },
];

/// The error of an npm that ended without success; `log` is the end of what it wrote.
pub(super) fn npm_failed(what: &str, status: ExitStatus, log: &str) -> Error {
    let said = last_words(log);
    let meaning = MEANINGS.iter().find(|m| m.signs.iter().any(|sign| log.contains(sign)));
    match meaning {
        Some(m) => {
            let error =
                Error::new(m.code, format!("{what} could not be installed: {}: {said}", m.what)).fix(m.fix);
            if m.code == Code::InvalidInput { error.field("version") } else { error }
        }
        None => Error::new(
            Code::Unavailable,
            format!("{what} could not be installed: npm ended with {status}: {said}"),
        )
        .fix("try again; if it goes on, run `npm doctor`"),
    }
}

/// What pip and `venv` say; most telling first.
const OF_PIP: [Meaning; 6] = [
    Meaning {
        signs: &["No space left on device", "Disk quota exceeded"],
        code: Code::Insufficient,
        what: "the disk is full",
        fix: "free some disk space (`df -h` shows what is full; a nanobot takes 0.4 GB), then try again",
    },
    Meaning {
        signs: &["ensurepip", "No module named venv", "No module named pip"],
        code: Code::Unsupported,
        what: "the machine's Python can't make virtual environments",
        fix: "install what is missing (Debian and Ubuntu: `sudo apt-get install python3-venv`), then try again",
    },
    Meaning {
        signs: &["DO NOT MATCH THE HASHES"],
        code: Code::Unsupported,
        what: "a package is not the one that was tested",
        fix: "check the Python package index that is configured (`pip config list`); it may have been tampered with",
    },
    Meaning {
        signs: &[
            "Failed to establish a new connection",
            "Temporary failure in name resolution",
            "Max retries exceeded",
            "timed out",
            "CERTIFICATE_VERIFY_FAILED",
        ],
        code: Code::Unavailable,
        what: "the Python package index could not be reached",
        fix: "check the connection; behind a proxy set HTTPS_PROXY for the server, for an index of your own `pip config set global.index-url`",
    },
    Meaning {
        signs: &["No matching distribution found", "Could not find a version"],
        code: Code::InvalidInput,
        what: "there is no such version for this machine's Python and processor",
        fix: "choose a version that exists: `pip index versions <package>`",
    },
    Meaning {
        signs: &["Permission denied"],
        code: Code::Internal,
        what: "pip may not write its files",
        fix: "make the server's cache folder belong to the user that runs the server",
    },
];

/// The error of a pip that ended without success; `log` is the end of what it wrote.
pub(super) fn pip_failed(what: &str, status: ExitStatus, log: &str) -> Error {
    let complaints: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("ERROR") || line.starts_with("Error"))
        .collect();
    let said = match complaints.last() {
        Some(last) => last.chars().take(500).collect(),
        None => last_words(log),
    };
    match OF_PIP.iter().find(|m| m.signs.iter().any(|sign| log.contains(sign))) {
        Some(m) => {
            let error =
                Error::new(m.code, format!("{what} could not be installed: {}: {said}", m.what)).fix(m.fix);
            if m.code == Code::InvalidInput { error.field("version") } else { error }
        }
        None => Error::new(
            Code::Unavailable,
            format!("{what} could not be installed: pip ended with {status}: {said}"),
        )
        .fix("try again; if it goes on, try the same by hand: `python3 -m venv` and `pip install`"),
    }
}

/// The last lines in which npm complains, on one line.
fn last_words(log: &str) -> String {
    const LINES: usize = 6;
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| !line.contains("http fetch") && !line.contains("complete log of this run"))
        .map(|line| line.trim_start_matches("npm error").trim_start_matches("npm ERR!").trim())
        .filter(|line| !line.is_empty() && !line.starts_with("npm warn") && !line.starts_with("npm http"))
        .collect();
    let first = complaints.len().saturating_sub(LINES);
    let text = complaints[first..].join(" | ");
    if text.is_empty() { "it said nothing".to_owned() } else { text.chars().take(1000).collect() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn fuzz_npm_output() {
        let seeds = [
            "npm error code ENOSPC\nnpm error nospc There appears to be insufficient space",
            "npm http fetch GET 200 x\nnpm error code ENOTFOUND\nnpm error A complete log of this run",
            "npm ERR! code E404\n",
        ];
        clawfarm_fuzz::fuzz_text(&seeds, |log| {
            let error = npm_failed("openclaw@1.0.0", ExitStatus::from_raw(256), log);
            assert!(error.message().starts_with("openclaw@1.0.0") && error.fix_text().is_some());
            assert!(error.message().chars().count() < 1_200, "it is no place for a whole log");
        });
    }

    #[test]
    fn pip_s_words_become_errors_that_say_what_to_do() {
        for (log, code) in [
            (
                "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
                Code::Insufficient,
            ),
            (
                "The virtual environment was not created successfully because ensurepip is not available.",
                Code::Unsupported,
            ),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", Code::Unsupported),
            (
                "WARNING: Retrying: NewConnectionError('Failed to establish a new connection')\nERROR: Could not find a version that satisfies the requirement x==1\nERROR: No matching distribution found for x==1",
                Code::Unavailable,
            ),
            ("ERROR: No matching distribution found for nanobot-ai==9", Code::InvalidInput),
            ("Segmentation fault", Code::Unavailable),
            ("", Code::Unavailable),
        ] {
            let error = pip_failed("nanobot-ai 0.3.5", ExitStatus::from_raw(256), log);
            assert_eq!(error.code(), code, "{log}");
            assert!(error.message().starts_with("nanobot-ai 0.3.5") && error.fix_text().is_some());
        }
    }

    #[test]
    fn npm_s_words_become_errors_that_say_what_to_do() {
        let failed = |log: &str| npm_failed("openclaw@1.0.0", ExitStatus::from_raw(256), log);
        for (log, code) in [
            (
                "npm error code ENOSPC\nnpm error nospc There appears to be insufficient space",
                Code::Insufficient,
            ),
            ("npm error code ETARGET\nnpm error notarget No matching version found", Code::InvalidInput),
            ("npm error code ENOTFOUND\nnpm error network request failed", Code::Unavailable),
            ("npm error code E401", Code::Unsupported),
            ("Segmentation fault", Code::Unavailable),
            ("", Code::Unavailable),
        ] {
            let error = failed(log);
            assert_eq!(error.code(), code, "{log}");
            assert!(error.message().contains("openclaw@1.0.0") && error.fix_text().is_some());
        }
        let error = failed(
            "npm http fetch GET 200 x\nnpm error code ENOTFOUND\nnpm error A complete log of this run can be found in: /x",
        );
        assert!(error.message().ends_with(": code ENOTFOUND"), "{error}");
    }
}
