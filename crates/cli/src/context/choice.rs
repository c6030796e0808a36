//! Which server a command is for: what was typed before what the environment says, before the
//! current context, before this machine's own.

use clap::ArgMatches;
use clap::parser::ValueSource;
use clawfarm_model::Error;

use super::{Contexts, LOCAL, Named};
use crate::cli::Global;

/// Which of the options that name a server were typed; the others come from the environment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Typed {
    /// `--context`.
    pub(crate) context: bool,
    /// `--host`.
    pub(crate) host: bool,
    /// `--home`.
    pub(crate) home: bool,
    /// `--token-file`.
    pub(crate) token_file: bool,
}

impl Typed {
    /// From what clap read.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let typed = |id: &str| {
            // One that this command does not have was not typed.
            matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        Self {
            context: typed("context"),
            host: typed("host"),
            home: typed("home"),
            token_file: typed("token_file"),
        }
    }
}

/// What made the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// An option.
    Option,
    /// An environment variable.
    Environment,
    /// `clawfarm context use`.
    Current,
    /// Nothing was said.
    Nothing,
}

impl By {
    /// In a few words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Option => "the options of this command",
            Self::Environment => "the environment",
            Self::Current => "clawfarm context use",
            Self::Nothing => "nothing else was said",
        }
    }
}

/// The server that is meant.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// This machine's, in the home folder.
    Local,
    /// The one of `--host`.
    Host,
    /// A context.
    Context(String, Named),
}

/// Decides. `contexts` is read only where a context can be meant.
///
/// # Errors
/// `InvalidInput` when two servers are named with the same weight; `NotFound` for a context that
/// there is not.
pub(crate) fn choose(
    global: &Global,
    contexts: impl FnOnce() -> Result<Contexts, Error>,
) -> Result<(Choice, By), Error> {
    let typed = global.typed;
    let context = global.context.as_deref().filter(|name| !name.is_empty());
    let host = global.host.as_deref().filter(|host| !host.is_empty());
    for (by, is) in [(By::Option, true), (By::Environment, false)] {
        let context = context.filter(|_| typed.context == is);
        let host = host.filter(|_| typed.host == is);
        match (context, host) {
            (Some(_), Some(_)) => return Err(both(by)),
            (Some(name), None) => {
                if typed.token_file {
                    return Err(Error::invalid("--token-file", "a context has a token of its own")
                        .fix("leave it out, or name the server with --host"));
                }
                return Ok((find(name, contexts()?)?, by));
            }
            (None, Some(_)) => return Ok((Choice::Host, by)),
            (None, None) => {}
        }
        if global.home.is_some() && typed.home == is {
            return Ok((Choice::Local, by));
        }
    }
    if global.local_only {
        return Ok((Choice::Local, By::Nothing));
    }
    let mut contexts = contexts()?;
    match contexts.current.take() {
        Some(name) => Ok((find(&name, contexts)?, By::Current)),
        None => Ok((Choice::Local, By::Nothing)),
    }
}

fn find(name: &str, mut contexts: Contexts) -> Result<Choice, Error> {
    if name == LOCAL {
        return Ok(Choice::Local);
    }
    match contexts.contexts.remove(name) {
        Some(named) => Ok(Choice::Context(name.to_owned(), named)),
        None => Err(unknown(name)),
    }
}

/// The error about a context that there is not.
pub(crate) fn unknown(name: &str) -> Error {
    let shown = name.chars().take(100).flat_map(char::escape_debug).collect::<String>();
    Error::not_found("context", shown).field("context").fix(
        "see those there are with 'clawfarm context ls', or make it: clawfarm context add NAME --server URL",
    )
}

fn both(by: By) -> Error {
    let (context, host) = match by {
        By::Option => ("--context", "--host"),
        _ => ("CLAWFARM_CONTEXT", "CLAWFARM_HOST"),
    };
    Error::invalid(context, format!("{context} and {host} name a server each")).fix("give one of them")
}

#[cfg(test)]
mod tests {
    use clawfarm_model::Code;
    use secrecy::SecretString;

    use super::*;

    fn contexts(current: Option<&str>) -> Contexts {
        let mut contexts = Contexts::default();
        contexts.current = current.map(str::to_owned);
        for name in ["a", "b"] {
            let named = Named { server: format!("/{name}.sock"), ca: None, token: SecretString::from("t") };
            contexts.contexts.insert(name.to_owned(), named);
        }
        contexts
    }

    /// What is chosen, as one word; options are given as `o:`, variables as `e:`.
    fn chosen(given: &[&str], current: Option<&str>) -> Result<(String, By), Error> {
        let mut global = Global::default();
        for one in given {
            let (from, rest) = one.split_once(':').expect("o: or e:");
            let (what, value) = rest.split_once('=').expect("a value");
            let typed = from == "o";
            match what {
                "context" => (global.context, global.typed.context) = (Some(value.into()), typed),
                "host" => (global.host, global.typed.host) = (Some(value.into()), typed),
                "home" => (global.home, global.typed.home) = (Some(value.into()), typed),
                _ => (global.token_file, global.typed.token_file) = (Some(value.into()), typed),
            }
        }
        let (choice, by) = choose(&global, || Ok(contexts(current)))?;
        let word = match choice {
            Choice::Local => "local".to_owned(),
            Choice::Host => "host".to_owned(),
            Choice::Context(name, _) => name,
        };
        Ok((word, by))
    }

    #[test]
    fn options_come_before_the_environment_before_the_current_context() {
        use By::{Current, Environment, Nothing, Option as Typed};
        for (given, current, wanted, by) in [
            (&[][..], None, "local", Nothing),
            (&[], Some("a"), "a", Current),
            (&["e:context=b"], Some("a"), "b", Environment),
            (&["o:context=a", "e:context=b"][..1], Some("b"), "a", Typed),
            (&["o:context=a", "e:host=http://x:1"], Some("b"), "a", Typed),
            (&["e:context=a", "o:host=http://x:1"], Some("b"), "host", Typed),
            (&["e:host=http://x:1"], Some("b"), "host", Environment),
            (&["o:home=/h"], Some("a"), "local", Typed),
            (&["e:home=/h"], Some("a"), "local", Environment),
            (&["o:home=/h", "e:context=a"], None, "local", Typed),
            (&["e:home=/h", "o:context=a"], None, "a", Typed),
            (&["e:home=/h", "e:context=a"], None, "a", Environment),
            (&["e:home=/h", "e:host=http://x:1"], None, "host", Environment),
            (&["o:context=local"], Some("a"), "local", Typed),
            // A token for another server is not presented to this one.
            (&["o:context=a", "e:token=/f"], None, "a", Typed),
            (&["e:context="], Some("a"), "a", Current),
        ] {
            assert_eq!(chosen(given, current).expect("chosen"), (wanted.to_owned(), by), "{given:?}");
        }
    }

    #[test]
    fn two_servers_or_one_that_is_not_there_are_refused() {
        let field = |given: &[&str]| {
            let error = chosen(given, None).expect_err("refused");
            assert!(error.fix_text().is_some());
            (error.code(), error.field_name().unwrap_or_default().to_owned())
        };
        assert_eq!(field(&["o:context=a", "o:host=http://x:1"]), (Code::InvalidInput, "--context".into()));
        assert_eq!(
            field(&["e:context=a", "e:host=http://x:1"]),
            (Code::InvalidInput, "CLAWFARM_CONTEXT".into())
        );
        assert_eq!(field(&["o:context=c"]), (Code::NotFound, "context".into()));
        assert_eq!(field(&["o:context=a", "o:token=/f"]), (Code::InvalidInput, "--token-file".into()));
        assert!(chosen(&[], Some("gone")).is_err(), "a current one that is gone is not passed over");
    }
}
