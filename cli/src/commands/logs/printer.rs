//! Entries as people and scripts read them.

use serde::Serialize;
use shoal_proto::v1::LogEntry;

use super::Source;
use crate::output::table::Tone;
use crate::output::text::printable;
use crate::output::time::At;
use crate::output::{Console, OutputError};

/// ANSI colours of names; no red, which says that something is wrong.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

#[derive(Debug, Serialize)]
struct LogView {
    time: At,
    host: String,
    instance: String,
    source: String,
    /// Syslog's: 0 is the worst, 7 is for debugging.
    priority: u32,
    message: String,
}

/// Whoever is shown what was read.
pub(super) trait Show {
    /// An entry of the instance at that place.
    fn entry(&mut self, at: usize, entry: LogEntry) -> Result<(), OutputError>;

    /// Something besides, such as that a host is gone.
    fn note(&mut self, text: &str);
}

/// Writes entries, each with the name of its instance where there are several.
#[derive(Debug)]
pub(super) struct Printer {
    console: Console,
    sources: Vec<Source>,
    /// Empty where there is one instance.
    prefixes: Vec<String>,
}

impl Printer {
    pub(super) fn new(console: Console, sources: &[Source]) -> Self {
        let prefixes = if sources.len() == 1 {
            vec![String::new()]
        } else {
            prefixes(sources, console.color())
        };
        Self { console, sources: sources.to_vec(), prefixes }
    }
}

impl Show for Printer {
    fn entry(&mut self, at: usize, entry: LogEntry) -> Result<(), OutputError> {
        let view = LogView::of(entry, &self.sources[at]);
        let text = || {
            view.text(&self.prefixes[at], self.console.stdout_is_terminal(), self.console.color())
        };
        let text = if self.console.is_json() { String::new() } else { text() };
        self.console.stream(text, &view)
    }

    fn note(&mut self, text: &str) {
        self.console.note(text);
    }
}

impl LogView {
    fn of(wire: LogEntry, from: &Source) -> Self {
        let LogEntry { time_us, source, priority, message, host: _ } = wire;
        let Source { instance, host } = from.clone();
        Self { time: At::new(time_us / 1000), host, instance, source, priority, message }
    }

    /// As journalctl shows it. A terminal obeys control characters, a file does not care.
    fn text(&self, prefix: &str, for_terminal: bool, color: bool) -> String {
        let Self { time, source, message, priority, .. } = self;
        let lines = message
            .lines()
            .map(|line| if for_terminal { printable(line) } else { line.to_owned() })
            .map(|line| tone(*priority).paint(&line, color));
        let message = lines.collect::<Vec<_>>().join(&format!("\n{prefix}    "));
        format!("{prefix}{time} {}: {message}", printable(source))
    }
}

/// What errors and warnings look like.
fn tone(priority: u32) -> Tone {
    match priority {
        0..=3 => Tone::Bad,
        4 => Tone::Waiting,
        _ => Tone::Plain,
    }
}

fn prefixes(sources: &[Source], color: bool) -> Vec<String> {
    let labels: Vec<String> = sources.iter().map(Source::label).collect();
    let widest = labels.iter().map(String::len).max().unwrap_or(0);
    let prefix = |label: &String| {
        let padded = format!("{label:widest$} │");
        if color { format!("\u{1b}[{}m{padded}\u{1b}[0m ", colour(label)) } else { padded + " " }
    };
    labels.iter().map(prefix).collect()
}

/// The same for an instance each time.
fn colour(label: &str) -> u8 {
    let sum = label.bytes().fold(7_usize, |sum, byte| sum * 31 % 65_521 + usize::from(byte));
    COLOURS[sum % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(host: &str) -> Source {
        Source { instance: "shop/web".into(), host: host.into() }
    }

    fn view(message: &str, priority: u32) -> LogView {
        let entry = LogEntry {
            time_us: 1_800_000_000_123_456,
            source: "nginx".into(),
            priority,
            message: message.into(),
            host: "h1".into(),
        };
        LogView::of(entry, &source("h1"))
    }

    #[test]
    fn entries_read_as_in_the_journal() {
        assert_eq!(view("up", 6).text("", true, false), "2027-01-15T08:00:00Z nginx: up");
        let lines = view("a\nb", 6).text("p │ ", true, false);
        assert_eq!(lines, "p │ 2027-01-15T08:00:00Z nginx: a\np │     b");
        let bad = view("bad", 3).text("", true, true);
        assert_eq!(bad, "2027-01-15T08:00:00Z nginx: \u{1b}[31mbad\u{1b}[0m");
    }

    #[test]
    fn an_instance_cant_drive_the_terminal_of_who_reads_its_logs() {
        let evil = view("\u{1b}]0;owned\u{7}", 6);
        assert!(!evil.text("", true, false).contains('\u{1b}'));
        assert!(evil.text("", false, false).contains('\u{1b}'));
    }

    #[test]
    fn the_json_shape_is_stable() {
        let json = serde_json::to_string(&view("up", 6)).unwrap();
        assert_eq!(
            json,
            r#"{"time":"2027-01-15T08:00:00Z","host":"h1","instance":"shop/web","source":"nginx","priority":6,"message":"up"}"#
        );
    }

    #[test]
    fn prefixes_are_aligned_and_their_colours_stay() {
        let sources = [source("h1"), source("host-2")];
        assert_eq!(prefixes(&sources, false), ["shop/web@h1     │ ", "shop/web@host-2 │ "]);
        let of = |label: &str| format!("\u{1b}[{}m{label}", colour(label));
        for (prefix, source) in prefixes(&sources, true).iter().zip(&sources) {
            assert!(prefix.starts_with(&of(&source.label())), "{prefix:?}");
        }
        assert_ne!(colour("shop/web@h1"), colour("shop/web@h2"));
    }
}
