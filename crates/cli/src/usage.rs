//! What can't be understood of a command line, told as every other error is: what, which
//! field, what to do.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clawfarm_model::Error;

use crate::cli::Cli;
use crate::errors::{self, tell_error};
use crate::output::{ColourMode, Ui};

/// Longer values are cut when they are shown: a pasted file is no message.
const SHOWN_MAX: usize = 60;

/// Prints what clap says: help on standard output, a refusal on standard error. Returns the
/// exit code.
pub(crate) fn tell(refused: &clap::Error) -> u8 {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let json = arguments.iter().take_while(|a| *a != "--").any(|a| a == "--json");
    let help = match refused.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !json,
        _ => false,
    };
    if help {
        if refused.print().is_err() {
            // Whoever would read it has gone.
            return errors::OK;
        }
        return u8::try_from(refused.exit_code()).unwrap_or(errors::USAGE);
    }
    if arguments.is_empty() {
        // With CLAWFARM_HOME in the environment clap takes it for an argument, and only
        // complains; whoever types the bare name wants to see what there is.
        eprint!("{}", Cli::command().render_help());
        return errors::USAGE;
    }
    let error = explain(refused, &arguments);
    tell_error(&Ui::new(json, ColourMode::Auto), &error);
    errors::USAGE
}

/// The error behind a refusal.
fn explain(refused: &clap::Error, arguments: &[OsString]) -> Error {
    let said = |kind| refused.get(kind).map(words).unwrap_or_default();
    let argument = || said(ContextKind::InvalidArg).join(" ");
    let error = match refused.kind() {
        ErrorKind::InvalidValue => {
            let argument = argument();
            let value = said(ContextKind::InvalidValue).join(" ");
            let known = said(ContextKind::ValidValue);
            let message = if value.is_empty() {
                format!("{argument} needs a value")
            } else {
                format!("'{}' is no value of {argument}", shown(&value))
            };
            let error = Error::invalid(name_of(&argument), message);
            if known.is_empty() { error } else { error.fix(format!("give one of {}", known.join(", "))) }
        }
        ErrorKind::ValueValidation => wrong_value(refused, &argument(), &said(ContextKind::InvalidValue)),
        ErrorKind::UnknownArgument => {
            let argument = argument();
            let near = nearest(argument.trim_start_matches('-'), said(ContextKind::SuggestedArg));
            // One too many has no name; what it is may be a secret, which is no field either.
            let field =
                if argument.starts_with('-') { shown(name_of(&argument)) } else { "arguments".to_owned() };
            let error = Error::invalid(field, format!("unexpected argument '{}'", shown(&argument)));
            match near.first() {
                Some(near) => error.fix(format!("did you mean '{near}'?")),
                None => error,
            }
        }
        ErrorKind::InvalidSubcommand => {
            let given = shown(&said(ContextKind::InvalidSubcommand).join(" "));
            let near = nearest(&given, said(ContextKind::SuggestedSubcommand));
            let error = Error::invalid("<COMMAND>", format!("there is no command '{given}'"));
            if near.is_empty() {
                error.fix("'clawfarm --help' lists the commands")
            } else {
                error.fix(format!("did you mean '{}'?", near.join("' or '")))
            }
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let known = said(ContextKind::ValidSubcommand);
            let error = Error::invalid("<COMMAND>", "a command is missing");
            if known.is_empty() { error } else { error.fix(format!("give one of {}", known.join(", "))) }
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = said(ContextKind::InvalidArg);
            let field = missing.first().map_or("arguments", |first| name_of(first)).to_owned();
            Error::invalid(field, format!("{} must be given", missing.join(" and ")))
        }
        ErrorKind::ArgumentConflict => {
            let (argument, other) = (argument(), said(ContextKind::PriorArg).join(" and "));
            let message = if other.is_empty() || other == argument {
                format!("{argument} can be given once only")
            } else {
                format!("{argument} can't be used together with {other}")
            };
            Error::invalid(name_of(&argument), message).fix("leave one of them out")
        }
        ErrorKind::TooManyValues | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            let argument = argument();
            let value = said(ContextKind::InvalidValue).join(" ");
            Error::invalid(
                name_of(&argument),
                format!("the value '{}' does not belong to {argument}", shown(&value)),
            )
        }
        ErrorKind::InvalidUtf8 => {
            let place = arguments.iter().position(|a| a.to_str().is_none()).map_or(0, |i| i + 1);
            Error::invalid("arguments", format!("argument {place} is no UTF-8 text"))
                .fix("write it in UTF-8; see 'locale' for what your terminal sends")
        }
        _ => {
            let text = refused.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Error::invalid("arguments", shown(first))
        }
    };
    if error.fix_text().is_some() { error } else { error.fix(form(arguments)) }
}

/// A value that its field refused, with the field's own reason where it is one of ours.
fn wrong_value(refused: &clap::Error, argument: &str, value: &[String]) -> Error {
    use std::error::Error as _;
    let field = name_of(argument);
    let value = shown(&value.join(" "));
    let source = refused.source();
    if let Some(ours) = source.and_then(|s| s.downcast_ref::<Error>()) {
        let error = Error::invalid(field, ours.message());
        return match ours.fix_text() {
            Some(fix) => error.fix(fix),
            None => error,
        };
    }
    let why = source.map(ToString::to_string).unwrap_or_default();
    let message =
        if why.contains(&format!("'{value}'")) { shown(&why) } else { format!("'{value}': {}", shown(&why)) };
    Error::invalid(field, message)
}

/// The texts of a part of what clap found.
fn words(value: &ContextValue) -> Vec<String> {
    match value {
        ContextValue::String(text) => vec![text.clone()],
        ContextValue::Strings(texts) => texts.clone(),
        ContextValue::Number(number) => vec![number.to_string()],
        _ => Vec::new(),
    }
}

/// Of what clap thinks was meant, what takes the fewest changes to get to. It names all that begin or sound a little
/// alike, the farthest first: `send` and `open`, too, for `suspennd`.
fn nearest(given: &str, found: Vec<String>) -> Vec<String> {
    let changes = |word: &String| strsim::damerau_levenshtein(given, word.trim_start_matches('-'));
    let fewest = found.iter().map(changes).min();
    found.into_iter().filter(|word| Some(changes(word)) == fewest).collect()
}

/// `--port` of `--port <PORT>`.
fn name_of(argument: &str) -> &str {
    if argument.starts_with("--") {
        argument.split([' ', '=', '[']).next().unwrap_or(argument)
    } else {
        argument
    }
}

/// What was typed, without anything that drives a terminal.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (seen, c) in text.chars().enumerate() {
        if seen == SHOWN_MAX * 4 {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// What can be typed instead: the form of the command that was meant.
fn form(arguments: &[OsString]) -> String {
    let root = Cli::command();
    let (mut command, mut path) = (&root, vec!["clawfarm".to_owned()]);
    for argument in arguments.iter().take_while(|a| *a != "--") {
        if let Some(next) = argument.to_str().and_then(|name| command.find_subcommand(name)) {
            path.push(next.get_name().to_owned());
            command = next;
        }
    }
    let path = path.join(" ");
    let usage = command.clone().bin_name(&path).render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
    format!("the form is: {usage}; '{path} --help' says more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn refused(arguments: &[&str]) -> Error {
        let given: Vec<OsString> = arguments.iter().map(Into::into).collect();
        let line = std::iter::once("clawfarm".into()).chain(given.iter().cloned());
        explain(&Cli::try_parse_from(line).expect_err("refused"), &given)
    }

    #[test]
    fn every_refusal_names_field_reason_and_fix() {
        for (arguments, field, reason, fix) in [
            (&["stpo"][..], "<COMMAND>", "no command 'stpo'", "'stop'"),
            (&["suspennd"], "<COMMAND>", "no command 'suspennd'", "did you mean 'suspend'?"),
            (&["zzzzzz"], "<COMMAND>", "no command 'zzzzzz'", "--help"),
            (&["--json"], "<COMMAND>", "missing", "new"),
            (&["secret", "--json"], "<COMMAND>", "missing", "set"),
            (&["secret", "stt"], "<COMMAND>", "no command 'stt'", "'set'"),
            (&["ps", "--flter", "x"], "--flter", "unexpected", "'--filter'"),
            (&["ps", "x\u{1b}[2Jy"], "arguments", "\\u{1b}[2Jy", "clawfarm ps"),
            (&["ps", "--color", "pink"], "--color", "'pink'", "never"),
            (&["ps", "--filter"], "--filter", "needs a value", "clawfarm ps"),
            (&["new", "openclaw", "--port", "70000"], "--port", "70000", "clawfarm new"),
            (&["new", "openclaw", "--runtime", "wasm"], "--runtime", "wasm", "process"),
            (&["new", "openclaw", "-x"], "-x", "unexpected", "clawfarm new"),
            (&["new", "openclaw", "--dataset", "a-b", "--import", "/x"], "--dataset", "together", "leave"),
            (&["ps", "--json", "--json"], "--json", "once only", "leave"),
            (&["ps", "--json=yes"], "--json", "'yes'", "clawfarm ps"),
            (&["status"], "<INSTANCE>", "must be given", "clawfarm status"),
            (&["dataset", "rm"], "<DATASET>...", "must be given", "clawfarm dataset rm"),
        ] {
            let error = refused(arguments);
            assert_eq!(error.field_name(), Some(field), "{arguments:?}: {error}");
            assert!(error.message().contains(reason), "{arguments:?}: {error}");
            assert!(error.fix_text().is_some_and(|f| f.contains(fix)), "{arguments:?}: {error}");
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "x".repeat(100_000);
        assert!(refused(&["ps", &long]).to_string().len() < 2_000);
    }
}
