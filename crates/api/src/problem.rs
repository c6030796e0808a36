//! Errors, as RFC 9457 problem details (`application/problem+json`).

use clawfarm_model::error::ErrorReport;
use clawfarm_model::{Code, Error};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:clawfarm:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem, in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, in words, for this request.
    pub detail: String,
    /// The stable code to branch on.
    pub code: Code,
    /// The field or object at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Why it is at fault.
    pub reason: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The request's id, to find it in the server's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

impl Problem {
    /// The problem of an error.
    #[must_use]
    pub fn new(error: &Error, request_id: impl Into<String>) -> Self {
        let code = error.code();
        Self {
            kind: format!("urn:clawfarm:problem:{}", code.as_str()),
            title: title(code).to_owned(),
            status: status(code),
            detail: error.to_string(),
            code,
            field: error.field_name().map(str::to_owned),
            reason: error.message().to_owned(),
            fix: error.fix_text().map(str::to_owned),
            request_id: request_id.into(),
        }
    }

    /// The same problem under a status of HTTP itself, which no [`Code`] stands for: 405, 406, 413, 415, 431.
    #[must_use]
    pub fn with_status(mut self, status: u16, title: &str) -> Self {
        self.status = status;
        title.clone_into(&mut self.title);
        self
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        ErrorReport { code: problem.code, message: problem.reason, field: problem.field, fix: problem.fix }
            .into()
    }
}

/// The HTTP status of a code: the one place where errors become statuses.
#[must_use]
pub const fn status(code: Code) -> u16 {
    match code {
        Code::InvalidInput => 400,
        Code::Unauthenticated => 401,
        Code::Forbidden => 403,
        Code::NotFound => 404,
        Code::Gone => 410,
        Code::Conflict | Code::Busy | Code::Insufficient => 409,
        Code::PreconditionFailed => 412,
        Code::Unsupported => 422,
        Code::Overloaded => 429,
        Code::ClawFailed => 502,
        Code::Unavailable => 503,
        Code::Timeout => 504,
        _ => 500,
    }
}

const fn title(code: Code) -> &'static str {
    match code {
        Code::InvalidInput => "The input can't be accepted",
        Code::Unauthenticated => "Credentials are needed",
        Code::Forbidden => "Not allowed",
        Code::NotFound => "Not found",
        Code::Gone => "No longer here",
        Code::Conflict => "In conflict with what is there",
        Code::Busy => "The claw is working",
        Code::Insufficient => "Not enough left",
        Code::PreconditionFailed => "Changed in the meantime",
        Code::Unsupported => "Can't be done here",
        Code::Overloaded => "Too many requests",
        Code::ClawFailed => "The claw failed",
        Code::Unavailable => "Not available at the moment",
        Code::Timeout => "It took too long",
        _ => "Something is broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_field_reason_and_fix_and_hides_the_inside() {
        let error = Error::invalid("resources.cpus", "0 cores can't be given")
            .fix("give 1")
            .source(std::io::Error::other("inner"));
        let problem = Problem::new(&error, "r1");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["status"], 400);
        assert_eq!(json["field"], "resources.cpus");
        assert_eq!(json["reason"], "0 cores can't be given");
        assert_eq!(json["fix"], "give 1");
        assert!(!json.to_string().contains("inner"));
        assert_eq!(Error::from(problem).report(), error.report());
    }
}
