//! `shoal logs`.

use serde::Serialize;
use shoal_proto::v1::{LogEntry, LogsRequest};

use super::Shell;
use crate::args::instance::LogsArgs;
use crate::exit::{Exit, Failure};
use crate::output::text::printable;
use crate::output::time::At;

#[derive(Debug, Serialize)]
struct LogView {
    time: At,
    host: String,
    source: String,
    /// Syslog's: 0 is the worst, 7 is for debugging.
    priority: u32,
    message: String,
}

impl From<LogEntry> for LogView {
    fn from(wire: LogEntry) -> Self {
        let LogEntry { time_us, source, priority, message, host } = wire;
        Self { time: At::new(time_us / 1000), host, source, priority, message }
    }
}

impl LogView {
    /// As journalctl shows it. A terminal obeys control characters, a file does not care.
    fn text(&self, for_terminal: bool) -> String {
        let Self { time, source, message, .. } = self;
        let lines = message
            .lines()
            .map(|line| if for_terminal { printable(line) } else { line.to_owned() });
        let message = lines.collect::<Vec<_>>().join("\n    ");
        format!("{time} {}: {message}", printable(source))
    }
}

pub(super) async fn run(shell: &Shell, args: LogsArgs) -> Result<Exit, Failure> {
    let LogsArgs { target, follow, lines } = args;
    let client = shell.client().await?;
    let request = LogsRequest {
        instance: target.instance.to_string(),
        host: target.host_name(),
        lines,
        follow,
        filter: None,
    };
    let doing = format!("show the logs of {target}");
    let stream = client.instances().logs(request).await;
    let mut stream = stream.map_err(client.refused_for_host(&doing))?.into_inner();
    while let Some(entry) = stream.message().await.map_err(client.refused_for_host(&doing))? {
        let view = LogView::from(entry);
        shell.console.stream(view.text(shell.console.stdout_is_terminal()), &view)?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> LogView {
        LogView::from(LogEntry {
            time_us: 1_800_000_000_123_456,
            source: "nginx".into(),
            priority: 6,
            message: message.into(),
            host: "h1".into(),
        })
    }

    #[test]
    fn entries_read_as_in_the_journal() {
        assert_eq!(entry("up").text(true), "2027-01-15T08:00:00Z nginx: up");
        assert_eq!(entry("a\nb").text(true), "2027-01-15T08:00:00Z nginx: a\n    b");
    }

    #[test]
    fn an_instance_cant_drive_the_terminal_of_who_reads_its_logs() {
        assert!(!entry("\u{1b}]0;owned\u{7}").text(true).contains('\u{1b}'));
        assert!(entry("\u{1b}[1mbold").text(false).contains('\u{1b}'));
    }

    #[test]
    fn the_json_shape_is_stable() {
        let json = serde_json::to_string(&entry("up")).unwrap();
        assert_eq!(
            json,
            r#"{"time":"2027-01-15T08:00:00Z","host":"h1","source":"nginx","priority":6,"message":"up"}"#
        );
    }
}
