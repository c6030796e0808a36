use std::io::Write;

use clawfarm_model::Timestamp;

use super::*;

struct Log {
    dir: tempfile::TempDir,
    time: i64,
}

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(LOG_DIR)).unwrap();
        Self { dir, time: 0 }
    }

    fn print(&mut self, text: &str) {
        self.time += 1000;
        let at = Timestamp::from_millis(self.time);
        let record = LogRecord { at, source: Source::Stdout, continues: false, text };
        self.write(&format!("{record}\n"));
    }

    fn write(&self, text: &str) {
        let path = self.dir.path().join(LOG_DIR).join(LOG_FILE);
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self, keep: u32) {
        let dir = self.dir.path().join(LOG_DIR);
        for number in (0..keep).rev() {
            let _ = std::fs::rename(path(&dir, number), path(&dir, number + 1));
        }
    }

    fn reader(&self, query: LogQuery) -> Reader {
        Reader::open(self.dir.path(), query).unwrap()
    }
}

fn rest(reader: &mut Reader) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let batch = reader.next_batch().unwrap();
        if batch.is_empty() {
            return texts;
        }
        texts.extend(batch.into_iter().map(|line| line.text));
    }
}

#[test]
fn reads_rotated_files_in_order() {
    let mut log = Log::new();
    for number in 0..6 {
        log.print(&format!("line {number}"));
        if number % 2 == 1 {
            log.rotate(5);
        }
    }
    log.print("last");
    let all = rest(&mut log.reader(LogQuery::default()));
    assert_eq!(all, ["line 0", "line 1", "line 2", "line 3", "line 4", "line 5", "last"]);
    let since = LogQuery { since: Some(Timestamp::from_millis(4000)), ..LogQuery::default() };
    assert_eq!(rest(&mut log.reader(since)), ["line 3", "line 4", "line 5", "last"]);
}

#[test]
fn the_last_lines_may_lie_in_several_files() {
    let mut log = Log::new();
    for number in 0..5 {
        log.print(&format!("line {number}"));
        log.rotate(5);
    }
    log.print("last");
    let tail = |count| LogQuery { tail: Some(count), ..LogQuery::default() };
    assert_eq!(rest(&mut log.reader(tail(3))), ["line 3", "line 4", "last"]);
    assert_eq!(rest(&mut log.reader(tail(0))), Vec::<String>::new());
    assert_eq!(rest(&mut log.reader(tail(100))).len(), 6);
    let since = LogQuery { since: Some(Timestamp::from_millis(5000)), tail: Some(100), follow: false };
    assert_eq!(rest(&mut log.reader(since)), ["line 4", "last"]);
}

#[test]
fn follows_over_several_rotations_without_losing_or_doubling() {
    let mut log = Log::new();
    log.print("one");
    let mut reader = log.reader(LogQuery { follow: true, tail: Some(1), ..LogQuery::default() });
    assert_eq!(rest(&mut reader), ["one"]);
    log.print("two");
    log.rotate(5);
    log.print("three");
    log.rotate(5);
    log.print("four");
    assert_eq!(rest(&mut reader), ["two", "three", "four"]);
    assert!(rest(&mut reader).is_empty());
    log.print("five");
    assert_eq!(rest(&mut reader), ["five"]);
}

#[test]
fn a_line_is_told_when_it_is_whole_and_a_torn_one_never() {
    let mut log = Log::new();
    let mut reader = log.reader(LogQuery { follow: true, ..LogQuery::default() });
    assert!(rest(&mut reader).is_empty());
    log.write("1970-01-01T00:00:01.000Z o ha");
    assert!(rest(&mut reader).is_empty());
    log.write("lf\n1970-01-01T00:00:02.000Z e to");
    assert_eq!(rest(&mut reader), ["half"]);
    log.rotate(5);
    log.print("next");
    assert_eq!(rest(&mut reader), ["next"]);
}

#[test]
fn a_reader_that_was_overtaken_goes_on_with_the_oldest_that_is_left() {
    let mut log = Log::new();
    log.print("one");
    let mut reader = log.reader(LogQuery { follow: true, ..LogQuery::default() });
    assert_eq!(rest(&mut reader), ["one"]);
    for number in 0..4 {
        log.rotate(2);
        log.print(&format!("line {number}"));
    }
    assert_eq!(rest(&mut reader), ["line 1", "line 2", "line 3"]);
}

#[test]
fn fuzz_log_files() {
    let seeds: [&[u8]; 3] = [
        b"2026-11-21T00:00:00.000Z stdout F hello\n2026-11-21T00:00:01.000Z stderr P wor\n",
        b"2026-11-21T00:00:00.000Z note F \n",
        b"\n\n\xff\xfe no record\n",
    ];
    let log = Log::new();
    clawfarm_fuzz::fuzz(&seeds, |bytes| {
        let open = || Reader::open(log.dir.path(), LogQuery::default()).unwrap();
        let whole = open().lines(bytes);
        // However it is cut by the reads, the lines are the same.
        let mut reader = open();
        let pieces: Vec<_> = bytes.chunks(7).flat_map(|piece| reader.lines(piece)).collect();
        assert_eq!(whole, pieces);
        assert!(whole.iter().all(|line| !line.text.contains('\n')));
        assert!(reader.rest.len() <= bytes.len());
    });
}
