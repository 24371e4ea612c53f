//! The service `Instances`: what runs where, start and stop, logs and exec.
//!
//! Starting and stopping change the desired state ([`run`]), so that they hold through reboots
//! and new revisions; agents do the rest. Logs and exec go through a session that the agent opens
//! when asked ([`pipe`]). Watching sends lists ([`watch`]).
//!
//! Deliberately absent: knowing what an instance is to look like. Revisions say that.

pub mod listing;
mod pipe;
mod run;
mod target;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use shoal_core::label::Selector;
use shoal_core::name::InstanceId;
use shoal_core::time::Timestamp;
use shoal_proto::v1::{
    ExecRequest, ExecResponse, ExecSession, ExecStart, ListInstancesRequest, ListInstancesResponse,
    LogEntry, LogsRequest, LogsSession, SetRunRequest, SetRunResponse, exec_request,
    instances_server, open_session,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use self::listing::View;
use self::run::Verb;
use self::target::{Target, There, only, targets};
use crate::app::App;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::{Batch, Records};
use crate::{access, audit, clock, fleets_api};

/// How long a caller has to say what to run.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a command that go on record.
const AUDITED_COMMAND: usize = 300;

/// The service.
#[derive(Debug, Clone)]
pub struct Instances {
    records: Records,
    live: Live,
    shutdown: CancellationToken,
}

/// What a call sends back, a message at a time.
type Answers<T> = ReceiverStream<Result<T, Status>>;

impl Instances {
    /// The service over a controller's parts.
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self::over(app.records.clone(), app.live.clone(), app.shutdown.clone())
    }

    pub(crate) fn over(records: Records, live: Live, shutdown: CancellationToken) -> Self {
        Self { records, live, shutdown }
    }

    async fn views(&self) -> Result<Vec<View>, Refusal> {
        listing::load(&self.records, &self.live).await
    }

    pub(crate) async fn list(
        &self,
        request: ListInstancesRequest,
    ) -> Result<ListInstancesResponse, Refusal> {
        let ListInstancesRequest { fleet, selector } = request;
        if !fleet.is_empty() {
            // A mistyped name must not look like a fleet that runs nowhere.
            fleets_api::known(&self.records, &fleet).await?;
        }
        let mut hosts = self.views().await?;
        if !selector.is_empty() {
            let selector: Selector =
                selector.parse().map_err(|error| Refusal::Invalid(format!("selector {error}")))?;
            hosts.retain(|view| selector.matches(&view.host.labels));
        }
        let of = |id: &InstanceId| fleet.is_empty() || id.fleet.as_str() == fleet;
        let instances = listing::instances(&hosts, of);
        Ok(ListInstancesResponse { instances, retained: listing::retained(&hosts, &fleet) })
    }

    /// The list that [`Self::list`] gives, and again at each change.
    pub(crate) async fn watch(
        &self,
        request: ListInstancesRequest,
    ) -> Result<Answers<ListInstancesResponse>, Refusal> {
        // Changes are gathered from before the first list, so that none is missed in between.
        let changes = watch::Changes::from_now(self).await?;
        let first = self.list(request.clone()).await?;
        let (out, answers) = mpsc::channel(watch::WAITING);
        tokio::spawn(watch::send(self.clone(), request, changes, first, out));
        Ok(ReceiverStream::new(answers))
    }

    pub(crate) async fn set_run(
        &self,
        request: SetRunRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<SetRunResponse, Refusal> {
        let SetRunRequest { instance, host, verb } = request;
        let verb = Verb::parse(verb)?;
        let hosts = self.views().await?;
        let targets = targets(&hosts, &instance, host.as_deref(), There::Wanted)?;
        // Before the first of them: what is refused on one host is done on none.
        run::check(verb, &hosts, &targets)?;
        let mut done = Vec::new();
        for target in targets {
            // A transaction for each host: their desired states may be large.
            let seen = self.live.status(&target.host).map_or(0, |s| s.observed_generation);
            done.push(run::set(&self.records, &target, seen, verb, who, now).await?);
        }
        Ok(SetRunResponse { targets: done })
    }

    /// The one host to open a session on.
    async fn target(&self, instance: &str, host: Option<&str>) -> Result<Target, Refusal> {
        only(targets(&self.views().await?, instance, host, There::AtAll)?)
    }

    pub(crate) async fn logs(&self, request: LogsRequest) -> Result<Answers<LogEntry>, Refusal> {
        let LogsRequest { instance, host, lines, follow, filter } = request;
        let target = self.target(&instance, host.as_deref()).await?;
        let logs = LogsSession { instance: target.id.to_string(), lines, follow, filter };
        let kind = open_session::Kind::Logs(logs);
        let session = self.live.open_session(&target.host, kind).await?;
        let (out, answers) = mpsc::channel(pipe::WAITING);
        let live = self.live.clone();
        let is_connected = move || live.is_connected(&target.host);
        let shutdown = self.shutdown.clone();
        tokio::spawn(pipe::logs(session, target.host_name, is_connected, out, shutdown));
        Ok(ReceiverStream::new(answers))
    }

    pub(crate) async fn exec(
        &self,
        mut input: impl Stream<Item = Result<ExecRequest, Status>> + Send + Unpin + 'static,
        who: &str,
        now: Timestamp,
    ) -> Result<Answers<ExecResponse>, Refusal> {
        let ExecStart { instance, host, command } = start(&mut input).await?;
        let target = self.target(&instance, host.as_deref()).await?;
        self.note_exec(&target, &command, who, now).await?;
        let exec = ExecSession { instance: target.id.to_string(), command };
        let kind = open_session::Kind::Exec(exec);
        let session = self.live.open_session(&target.host, kind).await?;
        let (out, answers) = mpsc::channel(pipe::WAITING);
        let shutdown = self.shutdown.clone();
        tokio::spawn(pipe::exec(session, target.host_name, input, out, shutdown));
        Ok(ReceiverStream::new(answers))
    }

    /// On record before it happens: what it will do can't be known.
    async fn note_exec(
        &self,
        target: &Target,
        command: &[String],
        who: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let name = format!("{}@{}", target.id, target.host_name);
        let command = command.join(" ");
        let detail: String = command.chars().take(AUDITED_COMMAND).collect();
        let (id, record) = audit::entry(&who, "Instances/Exec", &name, &detail, now);
        let mut batch = Batch::new();
        batch.create(&id, &record)?;
        self.records.commit(batch).await?;
        Ok(())
    }
}

/// The first message, which says what to run.
async fn start(
    input: &mut (impl Stream<Item = Result<ExecRequest, Status>> + Unpin),
) -> Result<ExecStart, Refusal> {
    let first = timeout(START_DEADLINE, input.next()).await;
    let first = first.map_err(|_| Refusal::TimedOut("nothing was said to be run".into()))?;
    let message = first.and_then(Result::ok).and_then(|request| request.message);
    let Some(exec_request::Message::Start(start)) = message else {
        return Err(Refusal::Invalid("the first message has to say what to run, and where".into()));
    };
    if start.command.first().is_none_or(String::is_empty) {
        return Err(Refusal::Invalid("there is no command; write it after `--`".into()));
    }
    Ok(start)
}

#[async_trait]
impl instances_server::Instances for Instances {
    async fn list(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        Ok(Response::new(Self::list(self, request.into_inner()).await?))
    }

    async fn set_run(
        &self,
        request: Request<SetRunRequest>,
    ) -> Result<Response<SetRunResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let done = Self::set_run(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(done))
    }

    type WatchStream = Answers<ListInstancesResponse>;

    async fn watch(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Self::watch(self, request.into_inner()).await?))
    }

    type LogsStream = Answers<LogEntry>;

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        Ok(Response::new(Self::logs(self, request.into_inner()).await?))
    }

    type ExecStream = Answers<ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let who = access::caller(&request)?.to_string();
        let answers = Self::exec(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(answers))
    }
}
