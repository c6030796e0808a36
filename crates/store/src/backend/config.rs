//! Which database: a file, or a PostgreSQL server by its URL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clawfarm_model::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// The parameters of a URL that are understood. Another one is refused: the driver would
/// write it into the log, and a mistyped `password` with it.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where the state is kept.
#[derive(Clone, Debug)]
pub enum Database {
    /// A SQLite file, made when it is missing. Its folder must exist.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server. It must exist; its tables are made.
    Postgres(PostgresUrl),
}

/// A checked `postgres://` URL. `Debug` shows no password.
#[derive(Clone)]
pub struct PostgresUrl {
    options: Box<PgConnectOptions>,
    has_password: bool,
}

impl Database {
    /// Reads a `postgres://` or `postgresql://` URL. What it does not say is taken from the
    /// environment, as by PostgreSQL's own programs: `PGHOST`, `PGUSER`, `PGPASSWORD` and so
    /// on, and `~/.pgpass`.
    ///
    /// # Errors
    /// `InvalidInput` on the field `database`; the text itself is not repeated, for it may
    /// hold a password.
    pub fn postgres(url: &SecretString) -> Result<Self> {
        PostgresUrl::read(url.expose_secret().trim()).map(Self::Postgres)
    }
}

impl PostgresUrl {
    fn read(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::invalid("database", format!("the URL of the database can't be used: {why}"))
                .fix("write it as postgres://user@host:5432/name, with special characters percent-encoded")
        };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("postgres" | "postgresql")) {
            return Err(refuse("it does not begin with 'postgres://'"));
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(refuse("it contains blanks or control characters"));
        }
        let query = text.split_once('?').map_or("", |(_, query)| query);
        let mut has_password = false;
        for name in query.split('&').filter(|p| !p.is_empty()).map(|p| p.split('=').next().unwrap_or(p)) {
            has_password |= name == "password";
            if !PARAMETERS.contains(&name) {
                let name: String = name.chars().take(40).flat_map(char::escape_default).collect();
                return Err(refuse(&format!("it has an unknown parameter '{name}'")));
            }
        }
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?']).next().unwrap_or_default();
        has_password |= authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        // What the driver says of it may repeat parts of the text.
        let options = PgConnectOptions::from_str(text)
            .map_err(|_| refuse("a part of it is malformed (host, port, sslmode or an encoded character)"))?;
        Ok(Self { options: Box::new(options.disable_statement_logging()), has_password })
    }

    /// Whether the URL itself holds a password, so that it must not be shown or be an argument.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.has_password
    }

    pub(super) fn options(&self) -> PgConnectOptions {
        let named = self.options.get_application_name().is_some();
        let options = PgConnectOptions::clone(&self.options);
        if named { options } else { options.application_name("clawfarm") }
    }

    /// The server and database, for people.
    pub(super) fn place(&self) -> String {
        let options = &self.options;
        let name = options.get_database().unwrap_or(options.get_username());
        match options.get_socket() {
            Some(folder) => format!("'{name}' at {}", folder.display()),
            None => format!("'{name}' at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PostgresUrl> {
        match Database::postgres(&SecretString::from(text))? {
            Database::Postgres(url) => Ok(url),
            Database::Sqlite(_) => panic!("it is no file"),
        }
    }

    #[test]
    fn a_url_names_the_place_and_hides_the_password() {
        let url = read("postgresql://farm:s3cret@db.example:6432/claws?sslmode=verify-full\n").unwrap();
        assert!(url.has_password());
        assert_eq!(url.place(), "'claws' at db.example:6432");
        assert_eq!(
            format!("{:?}", Database::Postgres(url)),
            "Postgres(PostgresUrl('claws' at db.example:6432))"
        );
        let url = read("postgres://farm@%2Frun%2Fpostgresql/claws").unwrap();
        assert_eq!((url.place().as_str(), url.has_password()), ("'claws' at /run/postgresql", false));
        assert!(read("postgres://h/claws?user=a&password=s3cret").unwrap().has_password());
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for text in [
            "",
            "mysql://u:s3cret@h/d",
            "s3cret",
            "postgres://u:s3cret@h:port/d",
            "postgres://u:s3cret@h/d?sslmode=s3cret",
            "postgres://u@h/d?passwd=s3cret",
            "postgres://u:s3cret@h/d\r\nx",
            "postgres://u:s3cret@[h/d",
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.field_name(), Some("database"), "{text}");
            let told = format!("{error:?} {:?}", error.inner());
            assert!(!told.contains("s3cret") && error.fix_text().is_some(), "{told}");
        }
    }
}
