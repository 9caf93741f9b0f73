//! Tables and colours: text that lines up, with colour only where a person reads it on a terminal.

use std::{
    io::IsTerminal,
    time::{Duration, SystemTime},
};

use comfy_table::{Attribute, Cell, Color, Table, presets};

/// How to print for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Use colours.
    pub(crate) colour: bool,
}

impl Style {
    /// Colours if standard output is a terminal and the user has not set `NO_COLOR` (<https://no-color.org>).
    pub(crate) fn detect() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: std::io::stdout().is_terminal() && !refused }
    }

    /// An empty table with these column heads.
    pub(crate) fn table(self, heads: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(heads.iter().map(|head| Cell::new(head.to_uppercase()).add_attribute(Attribute::Dim)));
        table
    }

    /// A headline, or a line of text in colour.
    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Bad => "31",
            Tone::Good => "32",
            Tone::Plain => "",
        };
        if self.colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What a text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A headline.
    Strong,
    /// Something to look after.
    Bad,
    /// As it should be.
    Good,
    /// Nothing special.
    Plain,
}

/// A cell of a table in a tone.
pub(crate) fn cell(text: impl AsRef<str>, tone: Tone) -> Cell {
    let cell = Cell::new(printable(text.as_ref()));
    match tone {
        Tone::Strong => cell.add_attribute(Attribute::Bold),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Good => cell.fg(Color::Green),
        Tone::Plain => cell,
    }
}

/// A table's text, without the spaces that fill its lines.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

/// The text without control characters: what others write must not steer the reader's terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// How long ago `then` was, in its two largest units: `3d 4h ago`.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    let Ok(age) = now.duration_since(then) else { return "just now".to_owned() };
    format!("{} ago", span(age))
}

/// A span in its two largest units.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, length)| seconds >= *length) else {
        return format!("{}ms", span.subsec_millis());
    };
    let mut rest = seconds;
    let parts = units.iter().skip(first).take(2).filter_map(|(name, length)| {
        let count = rest / length;
        rest %= length;
        (count > 0).then(|| format!("{count}{name}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in [
            (0.25, "250ms"),
            (5.0, "5s"),
            (60.0, "1m"),
            (61.0, "1m 1s"),
            (3_600.0, "1h"),
            (3_605.0, "1h"),
            (93_600.0, "1d 2h"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn a_clock_that_runs_behind_is_no_trouble() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(ago(then, SystemTime::UNIX_EPOCH), "just now");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn colours_are_used_only_when_wanted() {
        for colour in [true, false] {
            let style = Style { colour };
            let mut table = style.table(&["state"]);
            table.add_row([cell("down", Tone::Bad)]);
            assert_eq!(lines(&table).contains('\x1b'), colour);
            assert_eq!(style.paint("x", Tone::Bad).contains('\x1b'), colour);
        }
    }
}
