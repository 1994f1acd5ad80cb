//! Tables: columns as wide as their widest cell, and no wider than the screen.
//!
//! A table that is too wide for the screen gives way in this order: headings take several lines; cells of text take several lines,
//! the widest column first; columns that still do not fit go into a second table below, which repeats the columns that name the rows.

use std::io::{self, IsTerminal, Write};

/// Between two columns.
const GAP: usize = 2;
/// Columns of text are not made narrower than this.
const NARROWEST: usize = 12;

/// Whether a column's cells stand left or right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text, which may take several lines.
    Left,
    /// Numbers.
    Right,
}

/// Columns of the screen that stdout goes to: what `COLUMNS` says, else what the terminal says. `None` where stdout is a file or a pipe:
/// there a row is a line.
pub fn width() -> Option<usize> {
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let of_terminal = || {
        let terminal = io::stdout().is_terminal();
        terminal.then(|| terminal_size::terminal_size_of(io::stdout())).flatten().map(|(width, _)| width.0.into())
    };
    given.or_else(of_terminal).filter(|&width| width > 0)
}

/// Writes rows under headings, two spaces between columns.
///
/// # Errors
/// If they cannot be written.
pub fn table(out: &mut dyn Write, columns: &[(&str, Align)], rows: &[Vec<String>]) -> io::Result<()> {
    within(out, columns, rows, width())
}

/// A column on its way to the screen.
struct Column<'a> {
    title: &'a str,
    align: Align,
    cells: Vec<&'a str>,
    width: usize,
}

impl Column<'_> {
    /// The widest cell.
    fn cell(&self) -> usize {
        self.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    /// The longest word of the heading.
    fn word(&self) -> usize {
        self.title.split(' ').map(|word| word.chars().count()).max().unwrap_or(0)
    }

    /// The least width that is of use.
    fn least(&self) -> usize {
        match self.align {
            Align::Left => self.cell().min(NARROWEST).max(self.word()),
            Align::Right => self.cell().max(self.word()),
        }
    }
}

fn within(
    out: &mut dyn Write,
    columns: &[(&str, Align)],
    rows: &[Vec<String>],
    screen: Option<usize>,
) -> io::Result<()> {
    let mut columns: Vec<Column<'_>> = columns
        .iter()
        .enumerate()
        .map(|(i, &(title, align))| {
            let cells = rows.iter().map(|row| row.get(i).map_or("", String::as_str)).collect();
            let mut column = Column { title, align, cells, width: 0 };
            column.width = column.cell().max(title.chars().count());
            column
        })
        .collect();
    let screen = screen.unwrap_or(usize::MAX);
    if total(&columns) > screen {
        columns.iter_mut().for_each(|column| column.width = column.cell().max(column.word()));
        let widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
        shrink(&mut columns, screen);
        if total(&columns) > screen {
            // There will be several tables, so no text needs to be that narrow.
            columns
                .iter_mut()
                .zip(widths)
                .for_each(|(column, width)| column.width = width.min(screen).max(column.least()));
        }
    }
    // What names the rows leads every table, unless that is half of it already.
    let named = columns.iter().take_while(|column| column.align == Align::Left).count().max(1);
    let lead =
        (1..=named.min(columns.len())).rev().find(|&n| n == 1 || 2 * total(&columns[..n]) <= screen).unwrap_or(0);
    if total(&columns) > screen {
        // A column of a later table stands beside those that name the rows.
        let beside = screen.saturating_sub(total(&columns[..lead]) + GAP);
        for column in columns.iter_mut().skip(lead).filter(|column| column.align == Align::Left) {
            column.width = column.width.min(beside.max(column.least()));
        }
    }
    let mut begin = 0;
    while begin < columns.len() {
        let led = if begin == 0 { 0 } else { lead };
        let before = if led == 0 { 0 } else { total(&columns[..led]) + GAP };
        let mut end = (begin + 1).max(lead);
        while end < columns.len() && before + total(&columns[begin..=end]) <= screen {
            end += 1;
        }
        let part: Vec<&Column<'_>> = columns[..led].iter().chain(&columns[begin..end]).collect();
        if begin > 0 {
            writeln!(out)?;
        }
        write(out, &part, rows.len())?;
        begin = end;
    }
    Ok(())
}

fn total(columns: &[Column<'_>]) -> usize {
    columns.iter().map(|column| column.width).sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

/// Takes from the widest column of text, again and again, until all fit or none can give.
fn shrink(columns: &mut [Column<'_>], screen: usize) {
    loop {
        let over = total(columns).saturating_sub(screen);
        let widest =
            columns.iter_mut().filter(|column| column.width > column.least()).max_by_key(|column| column.width);
        match widest {
            Some(column) if over > 0 => {
                column.width = column.least().max(column.width.saturating_sub(over.div_ceil(2)))
            }
            _ => return,
        }
    }
}

fn write(out: &mut dyn Write, columns: &[&Column<'_>], rows: usize) -> io::Result<()> {
    let heading: Vec<Vec<String>> = columns.iter().map(|column| wrapped(column.title, column.width)).collect();
    let tallest = heading.iter().map(Vec::len).max().unwrap_or(0);
    // Headings stand on the line above the cells.
    let heading = heading.into_iter().map(|lines| {
        let above = tallest - lines.len();
        std::iter::repeat_n(String::new(), above).chain(lines).collect()
    });
    lines(out, columns, &heading.collect::<Vec<_>>())?;
    for row in 0..rows {
        let cells: Vec<Vec<String>> = columns.iter().map(|column| wrapped(column.cells[row], column.width)).collect();
        lines(out, columns, &cells)?;
    }
    Ok(())
}

/// The lines of a row: of each column those of its cell.
fn lines(out: &mut dyn Write, columns: &[&Column<'_>], cells: &[Vec<String>]) -> io::Result<()> {
    for i in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
        let mut line = String::new();
        for (column, cell) in columns.iter().zip(cells) {
            let (text, width) = (cell.get(i).map_or("", String::as_str), column.width);
            match column.align {
                Align::Left => line += &format!("{text:<width$}  "),
                Align::Right => line += &format!("{text:>width$}  "),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `text` in lines of at most `width` characters, cut after spaces, slashes, hyphens and commas where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let fits = |at: usize| {
            let spaces = rest[..at].iter().rev().take_while(|c| **c == ' ').count();
            at - spaces <= width
        };
        let cut = (1..=(width + 1).min(rest.len()))
            .rev()
            .find(|&at| {
                matches!(rest[at - 1], ' ' | '/' | '-' | ',' | '_') && fits(at) && rest[..at].iter().any(|c| *c != ' ')
            })
            .unwrap_or(width.max(1));
        let tail = rest.split_off(cut);
        lines.push(rest.iter().collect::<String>().trim_end().to_owned());
        rest = tail;
    }
    if !rest.is_empty() || lines.is_empty() {
        lines.push(rest.into_iter().collect());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(columns: &[(&str, Align)], rows: &[&[&str]], screen: Option<usize>) -> String {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        let mut out = Vec::new();
        within(&mut out, columns, &rows, screen).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_align() {
        let columns = [("name", Align::Left), ("n", Align::Right)];
        let rows: [&[&str]; 2] = [&["a", "10"], &["long", "5"]];
        let text = "name   n\na     10\nlong   5\n";
        assert_eq!(shown(&columns, &rows, None), text);
        assert_eq!(shown(&columns, &rows, Some(8)), text);
    }

    #[test]
    fn headings_and_text_take_several_lines_where_the_screen_is_narrow() {
        let columns = [("NAME", Align::Left), ("BITS PER WEIGHT", Align::Right), ("PATH", Align::Left)];
        let rows: [&[&str]; 2] = [&["a model", "2.125", "/home/user/models/a.gguf"], &["b", "16", "/b.gguf"]];
        assert_eq!(
            shown(&columns, &rows, Some(34)),
            "           BITS
            PER
NAME     WEIGHT  PATH
a model   2.125  /home/user/
                 models/a.gguf
b            16  /b.gguf
"
        );
        let whole = shown(&columns, &rows, None);
        assert_eq!(whole.lines().count(), 3);
        assert_eq!(whole, shown(&columns, &rows, Some(50)));
    }

    #[test]
    fn what_does_not_fit_goes_below() {
        let columns = [("N", Align::Left), ("ONE", Align::Right), ("TWO", Align::Right), ("THREE", Align::Right)];
        let rows: [&[&str]; 1] = [&["a", "123456", "234567", "345678"]];
        assert_eq!(shown(&columns, &rows, Some(18)), "N     ONE     TWO\na  123456  234567\n\nN   THREE\na  345678\n");
        // All columns that name the rows are repeated.
        let columns = [("A", Align::Left), ("B", Align::Left), ("ONE", Align::Right), ("TWO", Align::Right)];
        assert_eq!(
            shown(&columns, &[&["a", "b", "123456", "234567"]], Some(14)),
            "A  B     ONE\na  b  123456\n\nA  B     TWO\na  b  234567\n"
        );
        // A screen narrower than any column still shows everything.
        let text = shown(&columns, &rows, Some(1));
        assert!(["123456", "234567", "345678"].iter().all(|cell| text.contains(cell)), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_screen_and_no_character_is_lost() {
        let long = "words of several lengths, a/path/with-parts and averyveryverylongwordwithoutanybreakinit";
        for width in [1, 2, 5, 12, 13, 40, 88, 200] {
            let lines = wrapped(long, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
            let bare = |text: &str| text.replace(' ', "");
            assert_eq!(bare(&lines.concat()), bare(long), "{width}");
        }
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("äöü", 3), ["äöü"]);
    }
}
