//! The one error of clawfarm.
//!
//! An [`Error`] has two sides. The outside (`code`, `message`, `field`, `fix`) is written
//! for the person who will read it and is what the API, the events and `last_error` show.
//! The inside (`source`) is for the server's log and never leaves it, because a driver's
//! error can carry paths, SQL or worse.
//!
//! What to do about an error is decided once, by [`Code::class`], and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What stands between reason and fix in the text of a serde error.
const FIX_MARK: &str = "\nfix: ";

/// A result with clawfarm's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the terms a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// A field has a value that can't be accepted.
    InvalidInput,
    /// No credentials, or wrong ones.
    Unauthenticated,
    /// Known, but not allowed. Objects of another tenant are `NotFound` instead.
    Forbidden,
    /// Nothing by that name here (or not visible to the caller).
    NotFound,
    /// It exists already, or another change is under way.
    Conflict,
    /// `If-Match` named another version than the stored one.
    PreconditionFailed,
    /// The claw is working; it says what on.
    Busy,
    /// Not enough memory, disk, ports or quota; the message has the figures.
    Insufficient,
    /// The runtime, claw type or kernel can't do this.
    Unsupported,
    /// It was here and is gone for good.
    Gone,
    /// Too many requests; try again later.
    Overloaded,
    /// Something that is needed does not answer at the moment.
    Unavailable,
    /// A wait reached its limit.
    Timeout,
    /// The claw itself failed: it exited, crashed or refused its configuration.
    ClawFailed,
    /// A defect or a broken machine: full disk, unreadable state, a bug.
    Internal,
}

/// What a reconciler does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try again later, with backoff and jitter.
    Retryable,
    /// Only its author can mend it; do not try again until the input changes.
    User,
    /// The object no longer exists.
    Gone,
    /// Trying again can't help.
    Fatal,
}

impl Code {
    /// Every code, in the order in which they are told of.
    pub const ALL: [Self; 15] = [
        Self::InvalidInput,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::Busy,
        Self::Insufficient,
        Self::Unsupported,
        Self::Gone,
        Self::Overloaded,
        Self::Unavailable,
        Self::Timeout,
        Self::ClawFailed,
        Self::Internal,
    ];

    /// What it means, and what to do about it, for the reference. An error's own `fix` says
    /// more.
    #[must_use]
    pub const fn explained(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidInput => (
                "Something that was typed or sent can't be accepted; `field` names it. Nothing was changed",
                "mend that field; the same again is refused again",
            ),
            Self::Unauthenticated => (
                "The token is missing, or is not this server's",
                "send the one in the server's `admin.token`",
            ),
            Self::Forbidden => ("Known, but not allowed", "ask whoever owns it"),
            Self::NotFound => (
                "There is nothing by that name, or it is another tenant's",
                "list what there is: `clawfarm ps`, `clawfarm secret ls`, `clawfarm dataset ls`",
            ),
            Self::Conflict => (
                "It exists already, is in use, or another change is under way",
                "wait for the change, or choose another name or port",
            ),
            Self::PreconditionFailed => {
                ("It was changed since the version in `If-Match`", "read it again, and change what it is now")
            }
            Self::Busy => ("The claw is working; the message says what on", "wait, or say `--force`"),
            Self::Insufficient => (
                "Not enough memory, disk, ports or quota is left; the message has the figures",
                "ask for less, remove something, or accept less room with `--overcommit`",
            ),
            Self::Unsupported => (
                "The runtime, the claw type, the kernel or the server's version can't do this",
                "see `clawfarm doctor`",
            ),
            Self::Gone => ("It was here, and was removed or has ended for good", "make another, or start it"),
            Self::Overloaded => {
                ("As many requests as can be served are under way", "try again after `Retry-After`")
            }
            Self::Unavailable => (
                "Something that is needed does not answer at the moment",
                "try again; `clawfarm status` and `clawfarm doctor` say what is missing",
            ),
            Self::Timeout => (
                "A wait reached its limit; what was accepted goes on",
                "look at the instance or the operation before trying again",
            ),
            Self::ClawFailed => (
                "The claw itself ended, crashed, or refused its configuration",
                "read `clawfarm logs`; what it says last is in the message as a rule",
            ),
            Self::Internal => (
                "A defect, or a broken machine: a full disk, a state that can't be read",
                "read the server's log at `request_id`; free some disk; report it",
            ),
        }
    }

    /// How an error of this code is handled. Exhaustive, so that a new code must decide.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::InvalidInput
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::Conflict
            | Self::PreconditionFailed
            | Self::Busy
            | Self::Unsupported => Class::User,
            Self::NotFound | Self::Gone => Class::Gone,
            Self::Insufficient | Self::Overloaded | Self::Unavailable | Self::Timeout | Self::ClawFailed => {
                Class::Retryable
            }
            Self::Internal => Class::Fatal,
        }
    }

    /// The stable name used in JSON and metrics labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition_failed",
            Self::Busy => "busy",
            Self::Insufficient => "insufficient",
            Self::Unsupported => "unsupported",
            Self::Gone => "gone",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::ClawFailed => "claw_failed",
            Self::Internal => "internal",
        }
    }
}

/// What happened, to which field or object, and what to do about it.
pub struct Error {
    code: Code,
    message: String,
    field: Option<String>,
    fix: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message for its reader. Start with what happened and name the object.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, fix: None, source: None }
    }

    /// A refused field: the path of the field (as in the API's JSON) and the reason.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidInput, message).field(field)
    }

    /// Nothing of this kind by this name.
    pub fn not_found(kind: &str, name: impl fmt::Display) -> Self {
        let error = Self::new(Code::NotFound, format!("no {kind} named '{name}'"));
        match kind {
            "instance" => error.field("id").fix("list them with 'clawfarm ps'"),
            "dataset" => error.field("id").fix("list them with 'clawfarm dataset ls'"),
            "secret" => error.field("name").fix("list them with 'clawfarm secret ls'"),
            "operation" => error.field("id").fix("list them with GET /api/v1/operations"),
            _ => error,
        }
    }

    /// A defect or broken machine; `source` goes to the log, `message` to the reader.
    pub fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::new(Code::Internal, message).source(source)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what the reader can do. An instruction, with the command where there is one.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Attaches the inner cause, for the log only.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The message, without field and fix.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field at fault, if one is.
    #[must_use]
    pub fn field_name(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// What to do about it, if it is known.
    #[must_use]
    pub fn fix_text(&self) -> Option<&str> {
        self.fix.as_deref()
    }

    /// The outside of the error, to store and send.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        ErrorReport {
            code: self.code,
            message: self.message.clone(),
            field: self.field.clone(),
            fix: self.fix.clone(),
        }
    }

    /// This error for serde, which carries text only: the reason, and the fix behind
    /// a mark of its own, so that [`Self::of_serde`] can tell them apart again.
    pub fn into_serde<E: serde::de::Error>(self) -> E {
        match &self.fix {
            Some(fix) => E::custom(format_args!("{}{FIX_MARK}{fix}", self.message)),
            None => E::custom(&self.message),
        }
    }

    /// The error of a field that serde refused: with the fix of the field's own type where
    /// that gave one ([`Self::into_serde`]), and without the text that was refused: it may be a
    /// key that was written where a reference to a secret belongs.
    #[must_use]
    pub fn of_serde(field: impl Into<String>, text: &str) -> Self {
        match text.split_once(FIX_MARK) {
            Some((message, fix)) => Self::invalid(field, without_texts(message)).fix(fix),
            None => Self::invalid(field, without_texts(text)),
        }
    }

    /// The inner causes on one line, for the log. `None` when there is no inner cause.
    #[must_use]
    pub fn inner(&self) -> Option<String> {
        let mut cause: &dyn std::error::Error = self.source.as_deref()?;
        let mut text = cause.to_string();
        while let Some(next) = cause.source() {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next;
        }
        Some(text)
    }
}

/// What serde says of a value, without the value where it is a text. The forms are those of
/// `serde::de::Unexpected` and of `serde::de::Error::unknown_variant` (serde 1).
fn without_texts(message: &str) -> String {
    const VARIANT: &str = "unknown variant `";
    let mut text = message.to_owned();
    // What was given comes before what is expected, and may have anything in it.
    if let Some(begin) = text.find(VARIANT) {
        let end = ["`, expected ", "`, there are no variants"].iter().filter_map(|it| text.rfind(it)).max();
        let end = end.filter(|end| *end >= begin + VARIANT.len()).map_or(text.len(), |end| end + 1);
        text.replace_range(begin..end, "unknown variant");
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, from)) = rest.split_once("string \"") {
        out.push_str(before);
        out.push_str("text");
        rest = after_quote(from).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// What follows a text that ends with a quote, written as Rust writes texts.
fn after_quote(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return text.get(at + 1..),
            _ => {}
        }
    }
    None
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(fix) = &self.fix {
            write!(f, " ({fix})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.code.as_str())?;
        if let Some(inner) = self.inner() {
            write!(f, " [{inner}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// The outside of an [`Error`], as stored in `last_error`, events and operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorReport {
    /// What kind of error it is.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// The field or object at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Self {
        Self {
            code: report.code,
            message: report.message,
            field: report.field,
            fix: report.fix,
            source: None,
        }
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Error::from(self.clone()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outside_never_shows_the_inside() {
        let error = Error::new(Code::Internal, "the store could not be written")
            .field("instances")
            .fix("free some disk space")
            .source(std::io::Error::other("SELECT secret FROM t"));
        let shown = format!("{error}");
        assert_eq!(shown, "instances: the store could not be written (free some disk space)");
        assert!(!serde_json::to_string(&error.report()).unwrap().contains("SELECT"));
        assert!(format!("{error:?}").contains("SELECT"));
    }

    #[test]
    fn a_fix_survives_serde() {
        let inner: serde_json::Error = Error::invalid("name", "too long").fix("shorten it").into_serde();
        let error = Error::of_serde("name", &inner.to_string());
        assert_eq!((error.message(), error.fix_text()), ("too long", Some("shorten it")));
        assert_eq!(Error::of_serde("name", "no such type").fix_text(), None);
    }

    #[test]
    fn a_text_that_serde_refused_is_not_shown() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            One,
        }
        for text in ["hunter2", "a \"quoted\" one`, expected `x`", "string \"x\\", "hunter2\n`"] {
            let value = serde_json::Value::from(text);
            let number = serde_json::from_value::<u32>(value.clone()).unwrap_err();
            let word = serde_json::from_value::<Word>(value).unwrap_err();
            for (refused, begins) in
                [(number, "invalid type: text, expected u32"), (word, "unknown variant, expected `one`")]
            {
                let error = Error::of_serde("model.api_key", &refused.to_string());
                assert_eq!(error.message(), begins, "{text}");
            }
        }
        let nested = Error::of_serde("env", "env: invalid value: string \"hunter2\", expected \"x\"");
        assert_eq!(nested.message(), "env: invalid value: text, expected \"x\"");
    }

    #[test]
    fn a_report_becomes_the_same_error_again() {
        let error = Error::invalid("cpus", "must be above 0").fix("give --cpus 1");
        assert_eq!(Error::from(error.report()).report(), error.report());
    }
}
