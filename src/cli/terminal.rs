//! What stdout is: whether it takes colours, and how wide it is.

use std::io::IsTerminal as _;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// Whether it is one at all.
    pub(super) interactive: bool,
    /// Whether colours are wanted: on a terminal, unless `NO_COLOR` (or `TERM=dumb`) says otherwise.
    pub(super) colours: bool,
    /// Its columns; `None` where it is no terminal.
    pub(super) width: Option<usize>,
    /// Its lines; `None` where it is no terminal.
    pub(super) height: Option<usize>,
}

/// The colours that are used, by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Warning,
    High,
    Critical,
    Faint,
    Strong,
}

impl Colour {
    fn style(self) -> anstyle::Style {
        use anstyle::AnsiColor::{Green, Magenta, Red, Yellow};
        match self {
            Colour::Good => Green.on_default(),
            Colour::Warning => Yellow.on_default(),
            Colour::High => Magenta.on_default(),
            Colour::Critical => Red.on_default().bold(),
            Colour::Faint => anstyle::Style::new().dimmed(),
            Colour::Strong => anstyle::Style::new().bold(),
        }
    }
}

impl Terminal {
    /// As stdout is now.
    pub(super) fn of_stdout() -> Terminal {
        let stdout = std::io::stdout();
        let interactive = stdout.is_terminal();
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|size| interactive && size.ws_col > 0);
        Terminal {
            interactive,
            colours: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            width: size.map(|size| usize::from(size.ws_col)),
            height: size.map(|size| usize::from(size.ws_row)),
        }
    }

    /// The text in that colour, where colours are wanted.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let style = colour.style();
        format!("{style}{text}{style:#}")
    }
}

/// Cuts a line, which may have colours, to so many columns; what is cut is told by an ellipsis.
pub(super) fn cut(line: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return line.to_owned() };
    if anstream::adapter::strip_str(line).to_string().chars().map(columns_of).sum::<usize>() <= columns {
        return line.to_owned();
    }
    let (mut kept, mut used, mut escape) = (String::with_capacity(line.len()), 0, false);
    for c in line.chars() {
        if escape || c == '\u{1b}' {
            // A colour takes no column, and its end is kept even where its text is not.
            escape = c != 'm';
            kept.push(c);
        } else if used + columns_of(c) < columns {
            used += columns_of(c);
            kept.push(c);
        } else if used < columns {
            used = columns;
            kept.push('…');
        }
    }
    kept
}

/// How many columns a character takes. East Asian wide characters and emoji take two; what joins the one before, none.
pub(super) fn columns_of(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036F | 0x200B..=0x200F | 0x20D0..=0x20FF | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_its_columns_and_keeps_its_colours() {
        assert_eq!(cut("abcdef", Some(6)), "abcdef");
        assert_eq!(cut("abcdef", Some(4)), "abc…");
        assert_eq!(cut("abcdef", None), "abcdef");
        assert_eq!(cut("\u{1b}[31mabcdef\u{1b}[0m", Some(4)), "\u{1b}[31mabc…\u{1b}[0m");
        assert_eq!(cut("漢字漢字", Some(5)), "漢字…");
        assert_eq!(cut("\u{1b}[31mabc\u{1b}[0m", Some(3)), "\u{1b}[31mabc\u{1b}[0m");
    }
}
