//! The commands that the pages show must exist, with their options.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Command, CommandFactory};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

use crate::cli::Cli;

/// A command as a page shows it.
#[derive(Debug, PartialEq)]
struct Shown {
    line: usize,
    words: Vec<String>,
    /// In a block to be typed, so that it must be complete; else it may be a part.
    whole: bool,
}

/// What separates commands on one line.
const BETWEEN: [&str; 9] = ["|", "||", "&&", ";", "&", ">", ">>", "<", "2>"];

/// The commands of a page: in blocks of `sh` and `console`, and in code between words.
fn shown(text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut block: Option<(usize, String, String)> = None;
    for (event, range) in Parser::new(text).into_offset_iter() {
        let line = text[..range.start].matches('\n').count() + 1;
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                block = Some((line + 1, language.into_string(), String::new()));
            }
            Event::Text(code) => {
                if let Some((.., text)) = &mut block {
                    text.push_str(&code);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                if let Some((line, language, text)) = block.take() {
                    found.extend(match language.as_str() {
                        "console" => in_block(line, true, &text),
                        "sh" => in_block(line, false, &text),
                        _ => in_text(line, &text),
                    });
                }
            }
            Event::Code(code) if code.starts_with("clawfarm ") => {
                found.extend(in_line(line, &code, false));
            }
            _ => {}
        }
    }
    found
}

fn in_block(first: usize, console: bool, text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut typed = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = match line.strip_prefix("$ ") {
            Some(rest) if console => rest,
            _ if console && typed.is_empty() => continue,
            _ => line,
        };
        match line.strip_suffix('\\') {
            Some(begun) => typed.push_str(begun),
            None => {
                typed.push_str(line);
                found.extend(in_line(first + index, &std::mem::take(&mut typed), true));
            }
        }
    }
    found
}

/// In other blocks a line may begin with a command, and say what it does after some blanks.
fn in_text(first: usize, text: &str) -> Vec<Shown> {
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| line.starts_with("clawfarm "));
    lines
        .flat_map(|(index, line)| {
            let command = line.split_once("  ").map_or(line, |(command, _)| command);
            in_line(first + index, command, false)
        })
        .collect()
}

fn in_line(line: usize, text: &str, whole: bool) -> Vec<Shown> {
    let Ok(words) = shell_words::split(text) else { return Vec::new() };
    // A comment that stands after a command.
    let words = words.split(|w| w == "#").next().unwrap_or_default();
    words
        .split(|word| BETWEEN.contains(&word.as_str()))
        .filter_map(|part| {
            let at = part.iter().position(|w| w == "clawfarm")?;
            Some(Shown { line, words: part[at + 1..].to_vec(), whole })
        })
        .collect()
}

/// Why a command is none, if it is none.
fn refused(shown: &Shown) -> Option<String> {
    // The keeper is no command for people; a design page names it.
    if shown.words.first().is_some_and(|w| w == "shim") {
        return None;
    }
    if shown.whole {
        let words = std::iter::once("clawfarm").chain(shown.words.iter().map(String::as_str));
        return match Cli::command().try_get_matches_from(words) {
            Ok(_) => None,
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
            Err(e) => Some(e.to_string()),
        };
    }
    let mut root = Cli::command();
    root.build();
    in_part(&root, &shown.words)
}

/// Looks at a part of a command: each word that is an option or a subcommand must be known.
fn in_part(root: &Command, words: &[String]) -> Option<String> {
    let mut command = root;
    let mut after_value = false;
    for word in words {
        if word == "--" {
            return None;
        }
        if std::mem::take(&mut after_value) {
            continue;
        }
        if let Some(option) = word.strip_prefix("--") {
            let name = option.split('=').next().unwrap_or(option);
            match command.get_arguments().find(|a| a.get_long() == Some(name)) {
                None => return Some(format!("'{}' has no option --{name}", command.get_name())),
                Some(arg) => after_value = arg.get_action().takes_values() && !option.contains('='),
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|l| !l.is_empty()) {
            for (at, letter) in letters.char_indices() {
                let Some(arg) = command.get_arguments().find(|a| a.get_short() == Some(letter)) else {
                    return Some(format!("'{}' has no option -{letter}", command.get_name()));
                };
                if arg.get_action().takes_values() {
                    // The rest of the word is its value, as in `-n5`; without a rest the next word is.
                    after_value = at + letter.len_utf8() == letters.len();
                    break;
                }
            }
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        } else if command.get_positionals().next().is_none() && !stands_for_something(word) {
            return Some(format!("'{}' has no command '{word}'", command.get_name()));
        }
    }
    None
}

/// `<command>`, `…`.
fn stands_for_something(word: &str) -> bool {
    word.starts_with(['<', '…', '[']) || word == "..."
}

/// The pages of today. Those in `docs/design` are dated, and may name what is to come or has gone.
fn pages(root: &Path) -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md"].iter().map(|name| root.join(name)).collect();
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("docs/ is read").map(|e| e.expect("an entry").path()) {
            if entry.is_dir() && !entry.ends_with("design") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "md") {
                pages.push(entry);
            }
        }
    }
    pages.sort();
    pages
}

#[test]
fn every_command_that_a_page_shows_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut checked = 0;
    let mut wrong = Vec::new();
    for page in pages(&root) {
        let text = std::fs::read_to_string(&page).expect("a page is read");
        for shown in shown(&text) {
            checked += 1;
            if let Some(why) = refused(&shown) {
                let name = page.strip_prefix(&root).unwrap_or(&page).display().to_string();
                wrong.push(format!("{name}:{}: clawfarm {}: {why}", shown.line, shown.words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 100, "only {checked} commands were found");
}

#[test]
fn commands_are_found_where_they_stand() {
    let text = "see `clawfarm ps -q` and `ps`\n\n```sh\nX=1 sudo clawfarm stop a \\\n  b | cat # clawfarm no\n```\n\n\
        ```console\n$ clawfarm rm a && clawfarm ps\nclawfarm is not typed\n```\n\n```text\nUsage: clawfarm no\n  clawfarm logs -f a   what it prints\n```\n";
    let found: Vec<(usize, String, bool)> =
        shown(text).into_iter().map(|s| (s.line, s.words.join(" "), s.whole)).collect();
    let one = |line, words: &str, whole| (line, words.to_owned(), whole);
    assert_eq!(
        found,
        [
            one(1, "ps -q", false),
            one(5, "stop a b", true),
            one(9, "rm a", true),
            one(9, "ps", true),
            one(15, "logs -f a", false),
        ]
    );
}

#[test]
fn what_does_not_exist_is_named() {
    for (line, whole, why) in [
        ("clawfarm stpo alice", true, "stpo"),
        ("clawfarm stop", true, "<INSTANCE>"),
        ("clawfarm stop alice --softly", true, "--softly"),
        ("clawfarm stpo", false, "no command 'stpo'"),
        ("clawfarm stop --softly", false, "no option --softly"),
        ("clawfarm logs -fx", false, "no option -x"),
        ("clawfarm secret get", false, "no command 'get'"),
    ] {
        let shown = in_line(1, line, whole).pop().expect("a command");
        assert!(refused(&shown).is_some_and(|said| said.contains(why)), "{line}");
    }
    for line in [
        "clawfarm stop",
        "clawfarm --home DIR ps",
        "clawfarm help <command>",
        "clawfarm new --set model.name=…",
        "clawfarm apply -f team.yaml --dry-run",
        "clawfarm apply -fteam.yaml",
    ] {
        assert_eq!(refused(&in_line(1, line, false).pop().expect("a command")), None, "{line}");
    }
}
