//! Tables as kubectl's: no borders, capitals on top, three spaces between columns.

use comfy_table::{Cell as TableCell, Color, ContentArrangement, Table as Grid};

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// What a field's colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Waiting,
    Bad,
    Faint,
}

impl Tone {
    /// A text of that colour, where colours are wanted.
    pub(crate) fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            _ if !color => return text.to_owned(),
            Self::Good => 32,
            Self::Waiting => 33,
            Self::Bad => 31,
            Self::Faint => 90,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

impl Cell {
    pub(crate) fn toned(text: impl ToString, tone: Tone) -> Self {
        // What instances and images say of themselves must not reach the terminal as it is.
        Self { text: super::text::printable(&text.to_string()), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A table in the making.
#[derive(Debug)]
pub(crate) struct Table {
    header: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &'static [&'static str]) -> Self {
        Self { header, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table, or `empty` where it has no rows.
    pub(crate) fn render(&self, color: bool, empty: &str) -> String {
        if self.rows.is_empty() {
            return empty.to_owned();
        }
        let mut grid = Grid::new();
        grid.set_content_arrangement(ContentArrangement::Disabled);
        if color {
            grid.enforce_styling();
        } else {
            grid.force_no_tty();
        }
        grid.load_style(comfy_table::presets::NOTHING);
        grid.set_header(self.header.to_vec());
        for row in &self.rows {
            grid.add_row(row.iter().map(shown).collect::<Vec<_>>());
        }
        for column in grid.column_iter_mut() {
            column.set_padding((0, 3));
        }
        let lines: Vec<String> = grid.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }
}

fn shown(cell: &Cell) -> TableCell {
    let text = if cell.text.is_empty() { "-" } else { cell.text.as_str() };
    let shown = TableCell::new(text);
    match cell.tone {
        Tone::Plain => shown,
        Tone::Good => shown.fg(Color::Green),
        Tone::Waiting => shown.fg(Color::Yellow),
        Tone::Bad => shown.fg(Color::Red),
        Tone::Faint => shown.fg(Color::DarkGrey),
    }
}

/// `NAME:  value` lines, aligned, for one thing; values of several lines are indented.
pub(crate) fn details(fields: &[(&str, String)]) -> String {
    let widest = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut lines = Vec::new();
    for (name, value) in fields {
        let value = if value.is_empty() { "-" } else { value };
        for (at, line) in value.lines().enumerate() {
            let label = if at == 0 { format!("{name}:") } else { String::new() };
            lines.push(format!("{label:widest$}  {}", super::text::printable(line)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["HOST", "STATE", "SINCE"]);
        table.row(vec!["h1".into(), Cell::toned("running", Tone::Good), "3m ago".into()]);
        table.row(vec!["a-long-name".into(), Cell::toned("failed", Tone::Bad), "".into()]);
        table
    }

    #[test]
    fn tables_have_no_borders_and_no_trailing_blanks() {
        let lines = "HOST          STATE     SINCE\n\
                     h1            running   3m ago\n\
                     a-long-name   failed    -";
        assert_eq!(table().render(false, ""), lines);
        assert_eq!(Table::new(&["HOST"]).render(false, "No hosts."), "No hosts.");
    }

    #[test]
    fn colours_only_where_wanted() {
        assert!(!table().render(false, "").contains('\u{1b}'));
        assert!(table().render(true, "").contains("\u{1b}[38;5;10mrunning"));
    }

    #[test]
    fn what_others_wrote_cant_drive_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(vec!["x\u{1b}[2Jy\nz".into()]);
        assert_eq!(table.render(false, "").lines().nth(1), Some("x\u{fffd}[2Jy z"));
    }

    #[test]
    fn details_are_aligned() {
        let fields =
            [("Name", "h1".to_owned()), ("Labels", "a=b\nc=d".into()), ("Empty", String::new())];
        assert_eq!(details(&fields), "Name:    h1\nLabels:  a=b\n         c=d\nEmpty:   -");
    }
}
