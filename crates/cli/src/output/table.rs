//! Tables in columns, without lines: they can be cut and grepped.

use clawfarm_model::Phase;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table as Grid, presets};
use console::truncate_str;

use super::{Ui, clean_line};

/// A column's heading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column(pub(crate) &'static str);

/// A table for standard output.
pub(crate) struct Table {
    grid: Grid,
    colours: bool,
    width: Option<u16>,
}

impl Table {
    /// An empty one. On a terminal a line never wraps: it is cut at the right edge.
    pub(crate) fn new(ui: &Ui, columns: &[Column]) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if ui.out.is_on() {
            grid.enforce_styling();
        } else {
            grid.force_no_tty();
        }
        let heading = columns.iter().map(|c| {
            let cell = Cell::new(c.0);
            if ui.out.is_on() { cell.add_attribute(Attribute::Bold) } else { cell }
        });
        grid.set_header(heading);
        for column in grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { grid, colours: ui.out.is_on(), width: ui.width() }
    }

    /// Adds a row; what the cells say is cleaned.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.grid.add_row(cells);
    }

    /// A cell of text that a server or a claw has had a hand in.
    pub(crate) fn text(&self, text: &str) -> Cell {
        Cell::new(clean_line(text))
    }

    /// A cell with a phase in its colour.
    pub(crate) fn phase(&self, phase: Phase, unknown: bool) -> Cell {
        let word = if unknown { format!("{}?", phase.as_str()) } else { phase.as_str().to_owned() };
        let cell = Cell::new(word);
        if !self.colours {
            return cell;
        }
        match phase {
            Phase::Ready => cell.fg(Color::Green),
            Phase::Failed => cell.fg(Color::Red),
            Phase::Unhealthy | Phase::Exited => cell.fg(Color::Yellow),
            Phase::Warm | Phase::Suspended | Phase::Stopped | Phase::Destroyed => {
                cell.add_attribute(Attribute::Dim)
            }
            _ => cell.fg(Color::Cyan),
        }
    }

    /// The table as text, without a line end after the last row.
    pub(crate) fn render(self) -> String {
        let fit = |line: &str| match self.width {
            // At the right edge, not in each column: half an address or half a time is of no use.
            Some(width) => truncate_str(line, usize::from(width), "…").into_owned(),
            None => line.to_owned(),
        };
        let lines: Vec<String> = self.grid.lines().map(|line| fit(line.trim_end())).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_cuts_the_line_and_no_column_before_its_edge() {
        let mut table = Table { grid: Grid::new(), colours: false, width: Some(20) };
        table.grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        for column in ["one two three", "\u{1b}[32mfour five six"] {
            let cells = [column, column].map(Cell::new).into();
            table.row(cells);
        }
        for line in table.render().lines() {
            assert!(console::measure_text_width(line) <= 20 && line.ends_with('…'), "{line:?}");
        }
    }
}
