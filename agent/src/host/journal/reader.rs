//! One journalctl on one journal.

use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{ALL, Entries, Entry, Filter, JournalError, MOST_LINES, WAITING};

/// The fields that are read; journalctl leaves out the others.
const FIELDS: &str =
    "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,PRIORITY,_TRANSPORT,_SOURCE_REALTIME_TIMESTAMP";
/// Bytes of one entry as journalctl writes it. What is longer is left out: an instance can put
/// hundreds of megabytes into one.
const LONGEST_LINE: usize = 1 << 20;
/// Bytes of journalctl's own complaints that are kept.
const LONGEST_COMPLAINT: u64 = 2000;

/// A journal to read, and which of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// All that the unit said on the host's journal.
    Unit(String),
    /// What systemd said of the unit on the host's journal, but not the container's console,
    /// which repeats what is in the container's own.
    UnitWithoutConsole(String),
    /// The container's own journal.
    Directory(PathBuf),
}

/// Which part of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// What there is: the last `lines`, or [`ALL`].
    Past { lines: u32 },
    /// What comes, from the filter's `since` on, for ever.
    Coming,
}

/// A journalctl that is about to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reader {
    arguments: Vec<String>,
    console: bool,
    /// It gives the newest first.
    reversed: bool,
}

impl Reader {
    pub(super) fn new(source: Source, filter: &Filter, range: Range) -> Self {
        // `--all`: without it, fields of over 4096 bytes come out empty.
        let mut arguments = vec!["--quiet".into(), "--all".into(), "--output=json".into()];
        arguments.push(FIELDS.into());
        arguments.extend(filter.arguments());
        let mut reversed = false;
        match range {
            Range::Past { lines: ALL } => {}
            Range::Past { lines } => {
                arguments.push(format!("--lines={}", lines.min(MOST_LINES)));
                // Otherwise some versions count the lines first and look for the pattern in these.
                reversed = filter.grep.is_some();
            }
            // `--merge`: without it, following shows one boot only, and a host or a container
            // that is restarted boots anew (`--boot=all` does not help, systemd 252).
            Range::Coming => {
                arguments.extend(["--follow".into(), "--lines=all".into(), "--merge".into()]);
            }
        }
        if reversed {
            arguments.push("--reverse".into());
        }
        let console = !matches!(source, Source::UnitWithoutConsole(_));
        arguments.extend(source.arguments(filter));
        Self { arguments, console, reversed }
    }

    /// Runs it. Dropping what it gives ends it.
    pub(super) fn start(self) -> Result<Entries, JournalError> {
        let mut command = Command::new("journalctl");
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(JournalError::Run)?;
        let missing = || JournalError::Run(std::io::ErrorKind::BrokenPipe.into());
        let output = child.stdout.take().ok_or_else(missing)?;
        let complaints = complaints(child.stderr.take().ok_or_else(missing)?);
        let (out, entries) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            if !self.pass_on(output, &out).await {
                return;
            }
            // By its words, not its code: without a match for a pattern the code is no success.
            let ended = child.wait().await;
            let said = complaints.await.unwrap_or_default();
            if !ended.is_ok_and(|code| code.success()) && !said.is_empty() {
                let _ = out.send(Err(JournalError::Refused(said))).await;
            }
        });
        Ok(entries)
    }

    /// Whether there was someone to take it all.
    async fn pass_on(
        &self,
        output: ChildStdout,
        out: &mpsc::Sender<Result<Entry, JournalError>>,
    ) -> bool {
        let mut lines = Lines { from: BufReader::new(output), line: Vec::new() };
        let mut turned = Vec::new();
        let mut time = 0;
        loop {
            // Waiting for a line can be dropped, since nothing is read after it.
            let line = tokio::select! {
                () = out.closed() => return false,
                line = lines.next() => line,
            };
            let Some(line) = line else { break };
            let Some(entry) = self.entry(&line, time) else { continue };
            time = entry.time;
            if self.reversed {
                turned.push(entry);
            } else if out.send(Ok(entry)).await.is_err() {
                return false;
            }
        }
        for entry in turned.into_iter().rev() {
            if out.send(Ok(entry)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The entry of a line. One that is too long is told of at the time of the one before.
    fn entry(&self, line: &Line<'_>, before: u64) -> Option<Entry> {
        match line {
            Line::Whole(line) => {
                let (entry, transport) = parse(line)?;
                (self.console || transport != "stdout").then_some(entry)
            }
            Line::TooLong => {
                let message = format!("an entry of over {LONGEST_LINE} bytes is left out here");
                Some(Entry { time: before, source: "shoal-agent".into(), priority: 4, message })
            }
        }
    }
}

impl Source {
    fn arguments(&self, filter: &Filter) -> Vec<String> {
        match self {
            Self::Unit(unit) | Self::UnitWithoutConsole(unit) => vec![format!("--unit={unit}")],
            Self::Directory(path) => {
                let mut arguments = vec![format!("--directory={}", path.display())];
                // Also what its systemd said of the unit; `.service` is added where it lacks.
                arguments.extend(filter.unit.iter().map(|unit| format!("--unit={unit}")));
                arguments
            }
        }
    }
}

impl Filter {
    /// What is the same for each journal.
    fn arguments(&self) -> Vec<String> {
        let at = |time: u64| format!("@{}.{:06}", time / 1_000_000, time % 1_000_000);
        let since = self.since.map(|time| format!("--since={}", at(time)));
        let until = self.until.map(|time| format!("--until={}", at(time)));
        let priority = self.priority.map(|priority| format!("--priority={priority}"));
        let grep = self.grep.as_ref().map(|pattern| format!("--grep={pattern}"));
        since.into_iter().chain(until).chain(priority).chain(grep).collect()
    }
}

/// The beginning of what it complains of; the rest is read too, so that it does not stand still.
fn complaints(mut stderr: ChildStderr) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut said = Vec::new();
        let _ = (&mut stderr).take(LONGEST_COMPLAINT).read_to_end(&mut said).await;
        drain(stderr).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    })
}

async fn drain(mut from: impl AsyncRead + Unpin) {
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
}

/// Lines of at most [`LONGEST_LINE`].
struct Lines<R> {
    from: R,
    line: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Whole(std::borrow::Cow<'a, str>),
    TooLong,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line; `None` at the end, also of what can't be read.
    async fn next(&mut self) -> Option<Line<'_>> {
        self.line.clear();
        let mut too_long = false;
        loop {
            let piece = self.from.fill_buf().await.ok().filter(|piece| !piece.is_empty())?;
            let end = piece.iter().position(|byte| *byte == b'\n');
            let part = &piece[..end.unwrap_or(piece.len())];
            too_long |= self.line.len() + part.len() > LONGEST_LINE;
            if !too_long {
                self.line.extend_from_slice(part);
            }
            let taken = part.len() + usize::from(end.is_some());
            self.from.consume(taken);
            if end.is_some() {
                break;
            }
        }
        Some(if too_long {
            Line::TooLong
        } else {
            Line::Whole(String::from_utf8_lossy(&self.line))
        })
    }
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_SOURCE_REALTIME_TIMESTAMP")]
    source_time: Option<String>,
    #[serde(rename = "MESSAGE", default)]
    message: serde_json::Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: serde_json::Value,
    #[serde(rename = "PRIORITY", default)]
    priority: serde_json::Value,
    #[serde(rename = "_TRANSPORT", default)]
    transport: String,
}

/// An entry and how it came into the journal; `None` for a line that is none.
fn parse(line: &str) -> Option<(Entry, String)> {
    let line: Fields = serde_json::from_str(line).ok()?;
    let time = line.source_time.as_deref().unwrap_or(&line.time).parse().ok()?;
    let priority = text(&line.priority).parse().ok().filter(|p| *p < 8).unwrap_or(6);
    let source = text(&line.identifier);
    Some((Entry { time, source, priority, message: text(&line.message) }, line.transport))
}

/// journalctl gives texts that are not UTF-8 as lists of bytes, and repeated fields as lists.
fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(parts) => {
            let bytes: Option<Vec<u8>> =
                parts.iter().map(|p| p.as_u64().and_then(|n| u8::try_from(n).ok())).collect();
            match bytes {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => parts.first().map(text).unwrap_or_default(),
            }
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journalctls_forms_are_read() {
        let (entry, transport) = parse(
            r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":"hello","SYSLOG_IDENTIFIER":"app","PRIORITY":"3","_TRANSPORT":"stdout"}"#,
        )
        .unwrap();
        assert_eq!(transport, "stdout");
        let wanted = Entry { time: 2, source: "app".into(), priority: 3, message: "hello".into() };
        assert_eq!(entry, wanted);
        let bytes = r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":[104,105,255]}"#;
        assert_eq!(parse(bytes).unwrap().0.message, "hi\u{fffd}");
        let twice = r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":["one","two"]}"#;
        assert_eq!(parse(twice).unwrap().0.message, "one");
        assert_eq!(parse(r#"{"__REALTIME_TIMESTAMP":"2","MESSAGE":null}"#).unwrap().0.message, "");
        assert!(parse("-- No entries --").is_none());
    }

    fn arguments(source: Source, filter: &Filter, range: Range) -> String {
        let reader = Reader::new(source, filter, range);
        let own = |argument: &&String| {
            !["--quiet", "--all", "--output=json", FIELDS].contains(&argument.as_str())
        };
        let own: Vec<&str> = reader.arguments.iter().filter(own).map(String::as_str).collect();
        assert_eq!(reader.reversed, own.contains(&"--reverse"));
        own.join(" ")
    }

    #[test]
    fn filters_are_journalctls_own() {
        let of = |source: &Source, filter, range| arguments(source.clone(), filter, range);
        let unit = Source::Unit("u.service".into());
        let inside = Source::Directory("/j".into());
        let all = Filter::default();
        assert_eq!(of(&unit, &all, Range::Past { lines: 5 }), "--lines=5 --unit=u.service");
        assert_eq!(of(&unit, &all, Range::Past { lines: ALL }), "--unit=u.service");
        assert_eq!(
            of(&unit, &all, Range::Past { lines: 60_000 }),
            "--lines=50000 --unit=u.service"
        );
        let some = Filter {
            since: Some(1_500_000_000_000_001),
            until: Some(1_600_000_000_000_000),
            unit: Some("-x".into()),
            priority: Some(3),
            grep: Some("-e".into()),
        };
        assert_eq!(
            of(&inside, &some, Range::Past { lines: 5 }),
            "--since=@1500000000.000001 --until=@1600000000.000000 --priority=3 --grep=-e --lines=5 \
             --reverse --directory=/j --unit=-x"
        );
        let coming = Filter { since: Some(1), ..Filter::default() };
        assert_eq!(
            of(&inside, &coming, Range::Coming),
            "--since=@0.000001 --follow --lines=all --merge --directory=/j"
        );
    }

    #[tokio::test]
    async fn a_line_without_end_fills_no_memory() {
        let text = format!("short\n{}\nlast\ncut", "x".repeat(LONGEST_LINE + 1));
        let mut lines = Lines { from: text.as_bytes(), line: Vec::new() };
        assert_eq!(lines.next().await, Some(Line::Whole("short".into())));
        assert_eq!(lines.next().await, Some(Line::TooLong));
        assert!(lines.line.capacity() <= 2 * LONGEST_LINE);
        assert_eq!(lines.next().await, Some(Line::Whole("last".into())));
        assert_eq!(lines.next().await, None, "without its end it is no line");
    }
}
