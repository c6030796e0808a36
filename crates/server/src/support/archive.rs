//! What was gathered, and the archive it becomes.

use std::io;

use clawfarm_model::{Error, Result, Timestamp};
use clawfarm_runtime::{LogLine, OutputStream};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::redact::{REDACTED, Redactor};
use super::{LOG_MARGIN, LOG_MAX};

/// The largest file of a bundle, and all of them, in bytes before they are compressed: a whole
/// bundle can be read at once, and be sent by mail.
const FILE_MAX: usize = 8 << 20;
const ALL_MAX: usize = 48 << 20;
/// The folder that everything is in.
const FOLDER: &str = "clawfarm-support";

/// What a file is made of, before secrets are taken out.
pub(super) enum Content {
    Json(Value),
    Text(String),
    /// A text of which only the end is wanted.
    Tail(String),
    /// What an instance printed.
    Output(Vec<LogLine>),
}

/// What was gathered. Full of secrets: neither shown nor logged.
#[derive(Default)]
pub(super) struct Raw {
    files: Vec<(String, Content)>,
    left_out: Vec<(String, String)>,
}

impl Raw {
    /// One more; what can't be had keeps nobody from the rest.
    pub(super) fn add(&mut self, name: impl Into<String>, content: Result<Content>) {
        match content {
            Ok(content) => self.files.push((name.into(), content)),
            Err(error) => self.left_out.push((name.into(), error.message().to_owned())),
        }
    }

    pub(super) fn left_out(&mut self, name: &str, why: &str) {
        self.left_out.push((name.to_owned(), why.to_owned()));
    }

    /// The archive, without secrets.
    pub(super) fn pack(mut self, redactor: &Redactor) -> Result<Vec<u8>> {
        let (mut files, mut all) = (Vec::new(), 0);
        for (name, content) in self.files {
            let text = clean(content, redactor);
            if text.len() > FILE_MAX || all + text.len() > ALL_MAX {
                self.left_out.push((name, format!("it has {} bytes, which is too large", text.len())));
                continue;
            }
            all += text.len();
            files.push((name, text));
        }
        let manifest = json!({
            "format": 1,
            "clawfarm": env!("CARGO_PKG_VERSION"),
            "made_at": Timestamp::now(),
            "redaction": {
                "mark": REDACTED,
                "known_values": redactor.known(),
                "known_values_too_short_to_look_for": redactor.too_short(),
            },
            "files": files.iter().map(|(name, text)| json!({ "name": name, "bytes": text.len() })).collect::<Vec<_>>(),
            "left_out": self.left_out.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect::<Vec<_>>(),
        });
        files.insert(0, ("manifest.json".to_owned(), redactor.json(manifest)));
        archive(&files).map_err(|error| Error::internal("the archive could not be written", error))
    }
}

fn clean(content: Content, redactor: &Redactor) -> String {
    match content {
        Content::Json(value) => redactor.json(value),
        Content::Text(text) => redactor.text(&text),
        Content::Tail(text) => end(&redactor.text(&text)).to_owned(),
        Content::Output(lines) => output(&lines, redactor),
    }
}

/// The lines with their times. Those are put to them when the secrets are out, so that one that
/// was printed over two lines is found.
fn output(lines: &[LogLine], redactor: &Redactor) -> String {
    let mut first = lines.len();
    let mut size = 0;
    while first > 0 && size < LOG_MAX + LOG_MARGIN {
        first -= 1;
        size += lines[first].text.len() + 1;
    }
    let lines = &lines[first..];
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let clean = redactor.text(&texts.join("\n"));
    if clean.matches('\n').count() + 1 != lines.len() {
        // A line had an end in it; then nobody knows which time is whose.
        return end(&clean).to_owned();
    }
    let mut timed = String::with_capacity(clean.len() * 2);
    for (line, text) in lines.iter().zip(clean.split('\n')) {
        let stream = match line.stream {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        };
        timed.extend([line.at.to_string().as_str(), " ", stream, " ", text, "\n"]);
    }
    end(&timed).to_owned()
}

/// The last whole lines that fit.
fn end(text: &str) -> &str {
    if text.len() <= LOG_MAX {
        return text;
    }
    let from = text.len() - LOG_MAX;
    let rest = text.as_bytes()[from..].iter().position(|byte| *byte == b'\n');
    rest.map_or("", |at| &text[from + at + 1..])
}

/// Names are ours: fixed words and ids.
fn archive(files: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let now = u64::try_from(Timestamp::now().as_millis() / 1000).unwrap_or_default();
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(now);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, format!("{FOLDER}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { at: Timestamp::now(), stream: OutputStream::Stdout, text: text.to_owned() }
    }

    #[test]
    fn a_secret_that_was_printed_over_two_lines_is_taken_out_and_each_line_keeps_its_time() {
        let redactor = Redactor::new(["correct-horse-battery"].into_iter());
        let text = output(&[line("a correct-ho"), line("rse-battery b"), line("c")], &redactor);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].ends_with("stdout a [redacted]") && lines[2].ends_with(" stdout c"), "{text}");
        assert!(!text.contains("horse") && !text.contains("rse-b"), "{text}");
    }

    #[test]
    fn what_lies_across_the_first_byte_of_a_tail_does_not_come_out() {
        let secret = "x".repeat(100) + &"y".repeat(1000);
        let redactor = Redactor::new(std::iter::once(secret.as_str()));
        // The secret's second half stands where the tail begins.
        let text = format!("{}\n{secret}\n{}", "a\n".repeat(10_000), "b\n".repeat((LOG_MAX - 600) / 2));
        let kept = clean(Content::Tail(text), &redactor);
        assert!(kept.len() <= LOG_MAX && !kept.contains("yy"), "{}", &kept[..200]);
    }

    #[test]
    fn what_is_too_large_is_left_out_and_told() {
        let mut raw = Raw::default();
        raw.add("big.txt", Ok(Content::Text("a b\n".repeat(FILE_MAX / 4 + 1))));
        raw.add("small.txt", Ok(Content::Text("c".into())));
        let packed = raw.pack(&Redactor::new(std::iter::empty())).expect("packed");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut names = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            names.push(entry.path().expect("a name").display().to_string());
            if names.len() == 1 {
                let manifest: Value = serde_json::from_reader(&mut entry).expect("JSON");
                assert_eq!(manifest["left_out"][0]["name"], "big.txt");
            }
        }
        assert_eq!(names, ["clawfarm-support/manifest.json", "clawfarm-support/small.txt"]);
    }
}
