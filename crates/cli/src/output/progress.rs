//! How many of how many: a bar on a terminal, a line for each change of the words elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Ui;
use crate::terminal::Modes;

/// How often it turns.
const TICK: Duration = Duration::from_millis(120);
const BAR: &str = "  {spinner} {msg}  [{bar:24}] {pos}/{len}  {elapsed}";

/// One line that changes until this is dropped, which takes it away.
pub(crate) struct Progress {
    ui: Ui,
    bar: Option<ProgressBar>,
    /// The terminal, as bars need it.
    _modes: Option<Modes>,
    said: String,
}

impl Progress {
    /// A bar on a terminal, lines elsewhere, nothing with `--json`.
    pub(crate) fn new(ui: &Ui) -> Self {
        let bar = (ui.err_is_terminal && !ui.json).then(|| ProgressBar::new(0));
        let modes = bar.as_ref().and_then(|_| Modes::without_caret());
        if let Some(bar) = &bar {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.enable_steady_tick(TICK);
        }
        Self { ui: ui.clone(), bar, _modes: modes, said: String::new() }
    }

    /// So many of all are done.
    pub(crate) fn update(&mut self, words: &str, done: u32, all: u32) {
        if self.ui.json {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(words.to_owned());
            bar.set_length(all.into());
            bar.set_position(done.into());
        } else if self.said != words {
            self.ui.note(format_args!("  {words} ({done}/{all})"));
        }
        words.clone_into(&mut self.said);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
