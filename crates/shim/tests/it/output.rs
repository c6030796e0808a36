use clawfarm_shim::logline::{LogRecord, Source};
use clawfarm_shim::spec::LogSpec;

use clawfarm_shim::protocol::Request;

use crate::harness::{Instance, nap};

#[test]
fn both_streams_are_kept_apart_and_in_whole_lines() {
    let instance = Instance::new("printf 'a'; sleep 0.1; echo b; echo c >&2; printf 'no end'").up();
    instance.wait_end();
    let text = std::fs::read_to_string(instance.dir.join("logs/output.log")).unwrap();
    let of = |source: Source| -> Vec<_> {
        text.lines()
            .map(|l| LogRecord::parse(l).unwrap())
            .filter(|r| r.source == source)
            .map(|r| r.text)
            .collect()
    };
    assert_eq!(of(Source::Stdout), ["ab", "no end"]);
    assert_eq!(of(Source::Stderr), ["c"]);
}

#[test]
fn long_lines_and_much_output_are_kept_within_the_limits() {
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let mut instance = Instance::new(script);
    instance.spec.logs = LogSpec { dir: None, max_bytes: 64 * 1024, keep: 5 };
    let instance = instance.up();
    instance.wait_end();
    let logs = instance.dir.join("logs");
    let mut lines = Vec::new();
    let mut long = 0;
    for name in ["output.log.2", "output.log.1", "output.log"] {
        let Ok(text) = std::fs::read_to_string(logs.join(name)) else { continue };
        assert!(text.len() <= 64 * 1024);
        for record in text.lines().map(|line| LogRecord::parse(line).unwrap()) {
            if record.text.starts_with('x') {
                long += record.text.len();
            } else {
                lines.push(record.text.to_owned());
            }
        }
    }
    assert_eq!(long, 40_000);
    assert_eq!(lines, (0..3000).map(|n| format!("line {n}")).collect::<Vec<_>>());
}

#[test]
fn the_output_of_the_next_run_follows() {
    let mut instance = Instance::new("echo run").up();
    instance.wait_end();
    instance.start();
    instance.wait_end();
    assert_eq!(instance.printed(), ["run", "run"]);
}

#[test]
fn a_claw_that_prints_without_end_has_to_wait() {
    let instance = Instance::new("exec yes").up();
    nap(3000);
    let shim = instance.started.as_ref().unwrap().shim_pid;
    let stat = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit_once(") ").unwrap().1.split(' ').filter_map(|f| f.parse().ok()).collect();
    println!("ticks of processor time in 3 s: user {} system {}", fields[10], fields[11]);
    let before = std::time::Instant::now();
    instance.ask(&Request::Kill);
    assert!(before.elapsed().as_secs() < 5, "the shim has no time for its clients");
    let logs = std::fs::read_dir(instance.dir.join("logs")).unwrap();
    let sum: u64 = logs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(sum <= 6 * 8 * 1024 * 1024, "{sum} bytes of logs");
}
