//! How far something is that is no operation of a server: a bar on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Ui;
use crate::terminal::Modes;

/// How often it turns.
const TICK: Duration = Duration::from_millis(120);
const UNKNOWN: &str = "  {spinner} {msg}  {elapsed}";
const SO_FAR: &str = "  {spinner} {msg}  {binary_bytes}";
const OF_ALL: &str = "  {spinner} {msg}  [{bar:24}] {binary_bytes}/{binary_total_bytes}";

/// One line that changes until it is dropped, which takes it away.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    /// The terminal, as bars need it.
    _modes: Option<Modes>,
}

impl Meter {
    /// Something that takes a while, of which there is nothing to count yet.
    pub(crate) fn new(ui: &Ui, message: &str) -> Self {
        let bar = (ui.err_is_terminal && !ui.json).then(ProgressBar::new_spinner);
        let modes = bar.as_ref().and_then(|_| Modes::without_caret());
        if let Some(bar) = &bar {
            bar.set_style(style(UNKNOWN));
            bar.set_message(message.to_owned());
            bar.enable_steady_tick(TICK);
        }
        Self { bar, _modes: modes }
    }

    /// From now on bytes are counted, of so many where that is known.
    pub(crate) fn count(&self, message: &str, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        bar.set_message(message.to_owned());
        bar.set_style(style(if total.is_some() { OF_ALL } else { SO_FAR }));
        bar.set_position(0);
        if let Some(total) = total {
            bar.set_length(total);
        }
    }

    /// So many bytes are done.
    pub(crate) fn at(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// The bar itself, for what counts on another thread.
    pub(crate) fn counter(&self) -> impl Fn(u64) + Send + Sync + 'static {
        let bar = self.bar.clone();
        move |bytes| {
            if let Some(bar) = &bar {
                bar.set_position(bytes);
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; the fallback is a bar without words.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for template in [UNKNOWN, SO_FAR, OF_ALL] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
