//! Logs and commands that the controller asks for. Each runs in a call of its own that the agent
//! opens, so that nothing of it gets into the way of the stream.

use std::process::Stdio;
use std::sync::Arc;

use shoal_core::name::InstanceId;
use shoal_core::spec::InstanceSpec;
use shoal_proto::v1::agent_link_client::AgentLinkClient;
use shoal_proto::v1::{self, open_session, session_down, session_up};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::warn;

use crate::host::{enter, journal, systemd::Systemd};
use crate::paths::Paths;
use crate::record::Record;

/// Sessions at once: far more than people open, and few enough that they can't starve a host.
const AT_ONCE: usize = 64;
/// Messages of one session on their way: HTTP/2's windows do the rest.
const WAITING: usize = 16;
/// Bytes of output in one message.
const PIECE: usize = 32 << 10;

/// Opens sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    paths: Paths,
    systemd: Systemd,
    places: Arc<Semaphore>,
}

type Up = mpsc::Sender<v1::SessionUp>;
type Down = tonic::Streaming<v1::SessionDown>;

impl Sessions {
    /// For this host.
    #[must_use]
    pub fn new(paths: Paths, systemd: Systemd) -> Self {
        Self { paths, systemd, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Begins a session in a task of its own.
    pub fn open(&self, open: v1::OpenSession, client: AgentLinkClient<Channel>) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(status) = this.carry(open, client).await {
                warn!(error = status.message(), "a session ended early");
            }
        });
    }

    async fn carry(
        self,
        open: v1::OpenSession,
        mut client: AgentLinkClient<Channel>,
    ) -> Result<(), tonic::Status> {
        let (up, receiver) = mpsc::channel(WAITING);
        let first = session_up::Message::SessionId(open.session_id);
        let _ = up.send(wrap(first)).await;
        let mut down = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        let place = self.places.clone().try_acquire_owned();
        let result = match (place, open.kind) {
            (Err(_), _) => Err(format!("the host has {AT_ONCE} sessions open already")),
            (Ok(_place), Some(open_session::Kind::Logs(logs))) => {
                self.logs(logs, &up, &mut down).await
            }
            (Ok(_place), Some(open_session::Kind::Exec(exec))) => {
                self.exec(exec, &up, &mut down).await
            }
            (Ok(_), None) => Err("the agent does not know this kind of session; upgrade it".into()),
        };
        if let Err(message) = result {
            let error = v1::SessionError { message };
            let _ = up.send(wrap(session_up::Message::Error(error))).await;
        }
        // Ending our side and waiting for the other's: cutting the call would lose what is still
        // on its way up.
        drop(up);
        while let Ok(Some(_)) = down.message().await {}
        Ok(())
    }

    fn record(&self, instance: &str) -> Result<Record, String> {
        let id: InstanceId = instance.parse().map_err(|e| format!("{e}"))?;
        let record = Record::load(&self.paths, &id.machine()).map_err(|e| crate::chain(&e))?;
        if record.spec.id != id {
            return Err(format!("{instance} is not on this host; {} is", record.spec.id));
        }
        Ok(record)
    }

    async fn logs(&self, logs: v1::LogsSession, up: &Up, down: &mut Down) -> Result<(), String> {
        let v1::LogsSession { instance, lines, follow, filter } = logs;
        let id: InstanceId = instance.parse().map_err(|e| format!("{e}"))?;
        let query = journal::Query { machine: id.machine(), lines, follow };
        let filter = filter_of(filter.unwrap_or_default())?;
        let mut entries = journal::read(&self.paths, &query, &filter);
        loop {
            // Both can be dropped: entries wait in their channel, and nothing comes down but the end.
            let entry = tokio::select! {
                entry = entries.recv() => entry,
                ended = down.message() => match ended {
                    Ok(Some(_)) => continue,
                    _ => return Ok(()),
                },
            };
            let Some(entry) = entry else { return Ok(()) };
            let journal::Entry { time, source, priority, message } =
                entry.map_err(|error| crate::chain(&error))?;
            let host = String::new();
            let entry = v1::LogEntry { time_us: time, source, priority, message, host };
            if up.send(wrap(session_up::Message::Log(entry))).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn exec(&self, exec: v1::ExecSession, up: &Up, down: &mut Down) -> Result<(), String> {
        let v1::ExecSession { instance, command } = exec;
        let record = self.record(&instance)?;
        let machine = record.spec.id.machine();
        let leader = self.systemd.leader(&machine).await;
        let leader = leader.ok_or_else(|| {
            format!("{instance} is not running; see `shoal ps`, and start it with `shoal start`")
        })?;
        let container = enter::Container { leader, unit: machine.unit() };
        let mut command = enter::command(&container, &command, &environment(&record.spec));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn();
        let mut child = child.map_err(|e| format!("can't start the helper: {e}"))?;
        let missing = || "the helper has no pipes".to_owned();
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let outputs = async {
            tokio::join!(
                send(stdout, up, session_up::Message::Stdout),
                send(stderr, up, session_up::Message::Stderr),
            );
            child.wait().await
        };
        // When the caller goes away the child is dropped, and so killed.
        let status = tokio::select! {
            status = outputs => status,
            () = feed(stdin, down) => return Ok(()),
            // A command that does not read keeps `feed` busy; this still tells that nobody waits.
            () = up.closed() => return Ok(()),
        };
        let status = status.map_err(|e| format!("lost the helper: {e}"))?;
        let code = status.code().unwrap_or(137);
        let _ = up.send(wrap(session_up::Message::ExitCode(code))).await;
        Ok(())
    }
}

fn filter_of(wire: v1::LogFilter) -> Result<journal::Filter, String> {
    let v1::LogFilter { since_us, until_us, unit, priority, grep } = wire;
    if let Some(priority) = priority.filter(|priority| *priority > 7) {
        return Err(format!("there is no priority {priority}; they go from 0 to 7"));
    }
    Ok(journal::Filter { since: since_us, until: until_us, unit, priority, grep })
}

fn environment(spec: &InstanceSpec) -> Vec<(String, String)> {
    spec.config.settings.env.iter().map(|(k, v)| (k.to_string(), v.clone())).collect()
}

fn wrap(message: session_up::Message) -> v1::SessionUp {
    v1::SessionUp { message: Some(message) }
}

/// Sends what a pipe gives until it ends.
async fn send(
    mut pipe: impl AsyncRead + Unpin,
    up: &Up,
    message: fn(bytes::Bytes) -> session_up::Message,
) {
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = pipe.read(&mut piece).await {
        let bytes = bytes::Bytes::copy_from_slice(&piece[..count]);
        if up.send(wrap(message(bytes))).await.is_err() {
            return;
        }
    }
}

/// Writes what comes down into the command's standard input. Returns when the caller is gone.
async fn feed(stdin: tokio::process::ChildStdin, down: &mut Down) {
    let mut stdin = Some(stdin);
    while let Ok(Some(v1::SessionDown { message })) = down.message().await {
        match message {
            Some(session_down::Message::Stdin(bytes)) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    // The command has closed its standard input; it may well go on without.
                    stdin = None;
                }
            }
            Some(session_down::Message::StdinClosed(_)) => stdin = None,
            None => {}
        }
    }
}
