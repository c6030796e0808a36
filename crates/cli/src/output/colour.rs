//! Colours: on a terminal only, and never against `NO_COLOR` (<https://no-color.org>).

use std::env;
use std::fmt::Display;

use clap::ValueEnum;
use clawfarm_model::Phase;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColourMode {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Into files and pipes as well.
    Always,
    /// Not at all.
    Never,
}

impl ColourMode {
    /// Whether to colour a stream.
    pub(crate) fn on(self, is_terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let refused = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
                let dumb = env::var_os("TERM").is_some_and(|v| v == "dumb");
                is_terminal && !refused && !dumb
            }
        }
    }
}

/// The colours of one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// With colours, or without.
    pub(crate) const fn new(on: bool) -> Self {
        Self { on }
    }

    /// Whether there are colours.
    pub(crate) const fn is_on(self) -> bool {
        self.on
    }

    fn code(self, code: u8, text: impl Display) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// What went wrong.
    pub(crate) fn red(self, text: impl Display) -> String {
        self.code(31, text)
    }

    /// As it should be.
    pub(crate) fn green(self, text: impl Display) -> String {
        self.code(32, text)
    }

    /// Worth a look.
    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.code(33, text)
    }

    /// On its way.
    pub(crate) fn cyan(self, text: impl Display) -> String {
        self.code(36, text)
    }

    /// A heading.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.code(1, text)
    }

    /// Less important.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.code(2, text)
    }

    /// A phase in the colour of what it means.
    pub(crate) fn phase(self, phase: Phase) -> String {
        use Phase as P;
        let word = phase.as_str();
        match phase {
            P::Ready => self.green(word),
            P::Running | P::Creating | P::Booting | P::Waking | P::Updating | P::Stopping | P::Destroying => {
                self.cyan(word)
            }
            P::Unhealthy | P::Exited => self.yellow(word),
            P::Failed => self.red(word),
            P::Warm | P::Suspended | P::Stopped | P::Destroyed => self.dim(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_nothing_is_added() {
        for phase in Phase::ALL {
            assert_eq!(Paint::new(false).phase(phase), phase.as_str());
            assert!(Paint::new(true).phase(phase).contains(phase.as_str()));
        }
        assert!(!ColourMode::Never.on(true));
        assert!(ColourMode::Always.on(false));
        assert!(!ColourMode::Auto.on(false));
    }
}
