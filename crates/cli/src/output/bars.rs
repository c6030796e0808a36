//! The steps of operations: a bar or spinner each on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clawfarm_model::operation::Step;
use clawfarm_model::{Operation, Timestamp};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Ui, clean_line, duration};
use crate::terminal::Modes;

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);
/// Steps shorter than this get one line instead of two where lines are written.
const WORTH_ANNOUNCING: Duration = Duration::from_millis(300);

/// Shows how far operations are.
pub(crate) struct Steps {
    ui: Ui,
    bars: Option<MultiProgress>,
    /// The terminal, as bars need it.
    modes: Option<Modes>,
    shown: HashMap<(String, usize), Shown>,
}

struct Shown {
    bar: Option<ProgressBar>,
    announced: bool,
    ended: bool,
}

impl Steps {
    /// Bars on a terminal, lines elsewhere, nothing with `--json`.
    pub(crate) fn new(ui: &Ui) -> Self {
        let bars = (ui.err_is_terminal && !ui.json).then(MultiProgress::new);
        let modes = bars.as_ref().and_then(|_| Modes::without_caret());
        Self { ui: ui.clone(), bars, modes, shown: HashMap::new() }
    }

    /// Shows an operation as it is now. `label` tells several of them apart.
    pub(crate) fn update(&mut self, operation: &Operation, label: Option<&str>) {
        if self.ui.json {
            return;
        }
        for (index, step) in operation.steps.iter().enumerate() {
            // What is left open when the operation has ended is the step that it ended in.
            let broken = operation.state.ended() && step.ended_at.is_none();
            let title = title(step, label);
            let key = (operation.id.clone(), index);
            if self.shown.get(&key).is_some_and(|s| s.ended) {
                continue;
            }
            match self.bars.clone() {
                Some(bars) => self.update_bar(&bars, key, step, title, broken),
                None => self.update_line(key, step, &title, broken),
            }
        }
    }

    /// Takes away what is not finished. Finished steps stay.
    pub(crate) fn close(&mut self) {
        for shown in self.shown.values_mut().filter(|s| !s.ended) {
            if let Some(bar) = &shown.bar {
                bar.finish_and_clear();
            }
            shown.ended = true;
        }
        self.modes = None;
    }

    fn update_bar(
        &mut self,
        bars: &MultiProgress,
        key: (String, usize),
        step: &Step,
        title: String,
        broken: bool,
    ) {
        let colours = self.ui.err.is_on();
        let shown = self.shown.entry(key).or_insert_with(|| {
            let bar = bars.add(new_bar(step));
            // Not before it is one of the bars: until then it draws by itself, over theirs.
            bar.enable_steady_tick(TICK);
            Shown { bar: Some(bar), announced: true, ended: false }
        });
        let Some(bar) = &shown.bar else { return };
        bar.set_style(if step.total.is_some() { bar_style(&step.unit) } else { spinner_style() });
        bar.set_message(title);
        if let Some(total) = step.total {
            bar.set_length(total);
        }
        bar.set_position(step.done);
        if step.ended_at.is_some() || broken {
            // A finished bar that stays one is sometimes drawn twice; a line is there for good.
            bar.finish_and_clear();
            // A terminal that is gone is noticed by what is written next.
            let _ = bars.println(end_line(colours, broken, &bar.message(), &duration(took(step))));
            shown.ended = true;
        }
    }

    fn update_line(&mut self, key: (String, usize), step: &Step, title: &str, broken: bool) {
        let ended = step.ended_at.is_some() || broken;
        let shown = self.shown.entry(key).or_insert(Shown { bar: None, announced: false, ended: false });
        if !shown.announced && (!ended && Timestamp::now().since(step.started_at) >= WORTH_ANNOUNCING) {
            shown.announced = true;
            self.ui.note(format_args!("  {title} ..."));
        }
        if ended {
            shown.ended = true;
            let word = if broken { "failed after" } else { "took" };
            self.ui.note(format_args!("  {title}: {word} {}", duration(took(step))));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.close();
    }
}

fn title(step: &Step, label: Option<&str>) -> String {
    let message = clean_line(if step.message.is_empty() { &step.name } else { &step.message });
    match label {
        Some(label) => format!("{}: {message}", clean_line(label)),
        None => message,
    }
}

fn took(step: &Step) -> Duration {
    step.ended_at.unwrap_or_else(Timestamp::now).since(step.started_at)
}

fn new_bar(step: &Step) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // The step may have begun before anybody watched it.
    if let Some(begun) = Instant::now().checked_sub(Timestamp::now().since(step.started_at)) {
        bar.set_elapsed(begun.elapsed());
    }
    bar
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; the fallback is a bar without words.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn spinner_style() -> ProgressStyle {
    style("  {spinner} {msg}  {elapsed}")
}

fn bar_style(unit: &str) -> ProgressStyle {
    match unit {
        "bytes" => style("  {spinner} {msg}  [{bar:24}] {binary_bytes}/{binary_total_bytes}"),
        "milliseconds" => style("  {spinner} {msg}  [{bar:24}] {elapsed}"),
        _ => style("  {spinner} {msg}  [{bar:24}] {pos}/{len}"),
    }
}

fn end_line(colours: bool, broken: bool, message: &str, took: &str) -> String {
    let (mark, colour) = if broken { ('✗', 31) } else { ('✓', 32) };
    if colours {
        format!("  \u{1b}[{colour}m{mark}\u{1b}[0m {message}  {took}")
    } else {
        format!("  {mark} {message}  {took}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for template in [
            "  {spinner} {msg}  {elapsed}",
            "  {spinner} {msg}  [{bar:24}] {binary_bytes}/{binary_total_bytes}",
            "  {spinner} {msg}  [{bar:24}] {elapsed}",
            "  {spinner} {msg}  [{bar:24}] {pos}/{len}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_finished_step_is_one_line() {
        assert_eq!(end_line(false, false, "starting", "0.1 s"), "  ✓ starting  0.1 s");
        assert_eq!(end_line(true, true, "starting", "0.1 s"), "  \u{1b}[31m✗\u{1b}[0m starting  0.1 s");
    }
}
