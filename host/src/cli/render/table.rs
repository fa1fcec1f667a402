//! Tables without lines: a heading, columns two spaces apart, one row per thing.

use super::super::terminal::Terminal;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, TableStyle};

/// Narrowest terminal that cells are wrapped for, columns.
const LEAST_WIDTH: u16 = 60;

/// A table being filled.
pub struct Rows {
    table: Table,
    colours: bool,
}

impl Rows {
    /// A table with these headings. A heading that starts with `#` names a column of numbers.
    pub fn new(terminal: Terminal, headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        // On a terminal cells wrap to its width; elsewhere, and where that would leave a letter per line, a row is a line.
        let wraps = terminal.shows_results && table.width().is_some_and(|width| width >= LEAST_WIDTH);
        table.set_content_arrangement(if wraps { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
        if terminal.colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let bold = |text: &str| {
            let cell = Cell::new(text.trim_start_matches('#'));
            if terminal.colours { cell.add_attribute(Attribute::Bold) } else { cell }
        };
        table.set_header(headings.iter().map(|h| bold(h)).collect::<Vec<_>>());
        for (at, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_padding((0, 2));
                if heading.starts_with('#') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { table, colours: terminal.colours }
    }

    /// Adds a row; a cell may have a colour.
    pub fn row(&mut self, cells: Vec<(String, Option<Color>)>) {
        let colours = self.colours;
        let painted = |(text, colour): (String, Option<Color>)| match colour {
            Some(colour) if colours => Cell::new_owned(text).fg(colour),
            _ => Cell::new_owned(text),
        };
        self.table.add_row(cells.into_iter().map(painted).collect::<Vec<_>>());
    }

    /// The text; no blanks at the ends of lines.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A cell without a colour.
pub fn cell(text: impl Into<String>) -> (String, Option<Color>) {
    (text.into(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPED: Terminal = Terminal { shows_results: false, shows_progress: false, colours: false };

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut rows = Rows::new(PIPED, &["STEP", "#TASKS", "STATE"]);
        rows.row(vec![cell("detect"), cell("1"), ("DONE".into(), Some(Color::Green))]);
        rows.row(vec![cell("read"), cell("1024"), cell("DEAD")]);
        assert_eq!(rows.render(), "STEP    TASKS  STATE\ndetect      1  DONE\nread     1024  DEAD\n");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let shown = Terminal { shows_results: true, shows_progress: true, colours: true };
        let mut rows = Rows::new(shown, &["A"]);
        rows.row(vec![("x".into(), Some(Color::Red))]);
        assert!(rows.render().contains('\u{1b}'));
    }
}
