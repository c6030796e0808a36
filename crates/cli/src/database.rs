//! Which database a server on this home has: said by an option, a file, the environment or the
//! home itself, in this order; SQLite in the home when nothing is said.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use clawfarm_model::{Code, Error};
use clawfarm_store::Database;
use secrecy::SecretString;

/// The URL of the database, for those who set environments rather than write arguments.
pub(crate) const DATABASE: &str = "CLAWFARM_DATABASE";
/// The file in the home that has the URL, so that each start finds the same database.
const URL_FILE: &str = "database.url";
/// The file in the home that says that its state is not in the home.
const MARK: &str = "database.elsewhere";

/// Where the state is kept.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DatabaseArgs {
    /// Keep the state in PostgreSQL: postgres://user@host/name, without a password
    #[arg(long, value_name = "URL", conflicts_with = "database_file")]
    database: Option<String>,
    /// The same, from a file that only you can read; with a password, if you like
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The same options for a server in the background.
    pub(crate) fn pass_on(&self) -> Result<Vec<std::ffi::OsString>, Error> {
        let mut arguments = Vec::new();
        if let Some(url) = &self.database {
            from_argument(url)?;
            arguments.extend(["--database".into(), url.into()]);
        }
        if let Some(file) = &self.database_file {
            let file = std::path::absolute(file).map_err(|e| unreadable(file, &e.to_string()))?;
            arguments.extend(["--database-file".into(), file.into()]);
        }
        Ok(arguments)
    }

    /// The database of this home.
    pub(crate) fn choose(&self, home: &Path) -> Result<Database, Error> {
        if let Some(url) = &self.database {
            return from_argument(url);
        }
        if let Some(file) = &self.database_file {
            return from_file(file)?.ok_or_else(|| unreadable(file, "it is not there"));
        }
        match std::env::var(DATABASE) {
            Ok(url) if !url.is_empty() => {
                return Database::postgres(&SecretString::from(url)).map_err(|e| e.field(DATABASE));
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(
                    Error::invalid(DATABASE, "it is not UTF-8").fix("write it as postgres://user@host/name")
                );
            }
            _ => {}
        }
        if let Some(database) = from_file(&home.join(URL_FILE))? {
            return Ok(database);
        }
        let mark = home.join(MARK);
        if let Ok(place) = fs::read_to_string(&mark) {
            let place: String = place.lines().next().unwrap_or_default().chars().take(200).collect();
            return Err(Error::new(
                Code::Conflict,
                format!("the state of {} is kept in {place}, and no database was given", home.display()),
            )
            .field("--database")
            .fix(format!(
                "give --database, or write its URL into {} (mode 0600) once for all; to begin anew without it, remove {}",
                home.join(URL_FILE).display(),
                mark.display()
            )));
        }
        Ok(Database::Sqlite(home.join("clawfarm.db")))
    }
}

/// What [`DATABASE`] says, kept in the home, so that a server finds it that has other variables: a
/// service. In a unit it could be read by everybody, and it may hold a password. Returns the
/// file, when there is something to keep and no option says otherwise.
///
/// # Errors
/// When the variable holds no such URL, or the file can't be written.
pub(crate) fn keep_for_service(
    args: &DatabaseArgs,
    home: &Path,
    owner: Option<(u32, u32)>,
) -> Result<Option<PathBuf>, Error> {
    if args.database.is_some() || args.database_file.is_some() {
        return Ok(None);
    }
    let Ok(url) = std::env::var(DATABASE) else { return Ok(None) };
    if url.is_empty() {
        return Ok(None);
    }
    Database::postgres(&SecretString::from(url.as_str())).map_err(|e| e.field(DATABASE))?;
    let path = home.join(URL_FILE);
    let write = || {
        use std::io::Write;
        use std::os::unix::fs::{DirBuilderExt, chown};
        fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
        let part = home.join(format!(".{URL_FILE}.{}", std::process::id()));
        let _ = fs::remove_file(&part);
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&part)?;
        writeln!(file, "{url}")?;
        file.sync_all()?;
        if let Some((uid, gid)) = owner {
            chown(&part, Some(uid), Some(gid))?;
            chown(home, Some(uid), Some(gid))?;
        }
        fs::rename(&part, &path)
    };
    write().map_err(|e| {
        Error::internal(format!("{} can't be written: {e}", path.display()), e)
            .fix("check that the home belongs to you, and that its disk has space")
    })?;
    Ok(Some(path))
}

/// Writes down that this home's state is elsewhere: a start that forgets to say where must not
/// begin with an empty SQLite, from which all claws would seem to be gone.
pub(crate) fn remember(home: &Path, database: &Database, description: &str) -> Result<(), Error> {
    if matches!(database, Database::Sqlite(_)) {
        return Ok(());
    }
    let path = home.join(MARK);
    let write = || {
        use std::io::Write;
        let mut file =
            fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        writeln!(file, "{description}")
    };
    if fs::read_to_string(&path).is_ok_and(|text| text.trim_end() == description) {
        return Ok(());
    }
    write().map_err(|e| {
        Error::internal(format!("{} can't be written: {e}", path.display()), e)
            .fix("check that the home belongs to you, and that its disk has space")
    })
}

fn from_argument(url: &str) -> Result<Database, Error> {
    let database = Database::postgres(&SecretString::from(url)).map_err(|e| e.field("--database"))?;
    match &database {
        Database::Postgres(url) if url.has_password() => Err(Error::invalid(
            "--database",
            "a password must not be an argument: everyone on this machine can read it there",
        )
        .fix(format!(
            "put the URL into a file that only you can read and give --database-file, or use {DATABASE}, PGPASSWORD or ~/.pgpass; change the password if others use this machine"
        ))),
        _ => Ok(database),
    }
}

fn from_file(path: &Path) -> Result<Option<Database>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => SecretString::from(text),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(path, &e.to_string())),
    };
    let database = Database::postgres(&text).map_err(|e| {
        Error::invalid("--database-file", format!("{}: {}", path.display(), e.message()))
            .fix(e.fix_text().unwrap_or_default().to_owned())
    })?;
    if let Database::Postgres(url) = &database
        && url.has_password()
    {
        let mode = fs::metadata(path).map_err(|e| unreadable(path, &e.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(unreadable(
                path,
                &format!("it holds a password, and others can read it (mode {:04o})", mode & 0o7777),
            )
            .fix(format!("chmod 600 {}; change the password if others may have read it", path.display())));
        }
    }
    Ok(Some(database))
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::invalid("--database-file", format!("{} can't be used: {why}", path.display())).fix(
        "give a file that holds one line, postgres://user:password@host/name, and that only you can read",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn args(database: Option<&str>, file: Option<PathBuf>) -> DatabaseArgs {
        DatabaseArgs { database: database.map(str::to_owned), database_file: file }
    }

    #[test]
    fn the_home_has_sqlite_unless_something_else_is_said() {
        let home = tempfile::tempdir().unwrap();
        let none = DatabaseArgs::default();
        assert!(matches!(none.choose(home.path()).unwrap(), Database::Sqlite(_)));
        let given = args(Some("postgres://u@h/d"), None);
        let database = given.choose(home.path()).unwrap();
        assert!(matches!(database, Database::Postgres(_)));
        assert_eq!(given.pass_on().unwrap(), ["--database", "postgres://u@h/d"]);
        // Once there, a start that does not say where is no start from nothing.
        remember(home.path(), &database, "PostgreSQL 15, 'd' at h:5432").unwrap();
        let error = none.choose(home.path()).unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(
            error.message().contains("'d' at h:5432") && error.fix_text().unwrap().contains(URL_FILE),
            "{error}"
        );
        file(home.path(), URL_FILE, "postgres://u:s3cret@h/d\n", 0o600);
        assert!(matches!(none.choose(home.path()).unwrap(), Database::Postgres(_)));
    }

    #[test]
    fn a_password_is_taken_from_where_only_its_owner_reads_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        let url = "postgres://u:s3cret@h/d";
        let error = args(Some(url), None).choose(home.path()).unwrap_err();
        assert!(
            error.message().contains("argument") && !format!("{error:?}").contains("s3cret"),
            "{error:?}"
        );
        assert!(args(Some(url), None).pass_on().is_err());
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let path = file(home.path(), &format!("url{mode:o}"), url, mode);
            let chosen = args(None, Some(path)).choose(home.path());
            assert_eq!(chosen.is_ok(), fine, "{mode:o}");
            assert!(!format!("{chosen:?}").contains("s3cret"));
        }
        // Without a password it is no secret.
        let path = file(home.path(), "plain", "postgres://u@h/d", 0o644);
        assert!(args(None, Some(path)).choose(home.path()).is_ok());
        let path = file(home.path(), "junk", "s3cret", 0o600);
        let error = args(None, Some(path)).choose(home.path()).unwrap_err();
        assert!(error.message().contains("junk") && !format!("{error:?}").contains("s3cret"), "{error:?}");
        assert!(args(None, Some(home.path().join("nowhere"))).choose(home.path()).is_err());
    }
}
