//! One agent's stream, from its hello to its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shoal_core::name::{HostId, InstanceId};
use shoal_core::status::HostStatus;
use shoal_proto::v1::store::{HostRecord, HostSpecRecord};
use shoal_proto::v1::{
    self, AgentMessage, ControllerMessage, Heartbeat, Hello, HostFacts, HostSpec, ReadyElsewhere,
    SpecRefused, Welcome, agent_message, controller_message,
};
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::{order, values};
use crate::app::App;
use crate::clock;
use crate::events::Reporter;
use crate::live::{Attached, Outbox};
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;
use crate::store::{Batch, Revision, Stored};

/// How long an agent has for its first message.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// So many heartbeats may be missing.
const MISSED: u32 = 3;
/// From a change of what is ready elsewhere to telling it: changes come in swarms.
const GATHERING: Duration = Duration::from_millis(50);
/// How long a desired state waits for what is known of other hosts.
const CATCHING_UP: Duration = Duration::from_secs(2);
/// How often facts are written again that someone else's change came before.
const TRIES: usize = 5;

/// Holds the conversation until either side, or another stream of the same host, ends it.
pub(super) async fn hold(
    app: Arc<App>,
    host: HostId,
    mut inbound: Streaming<AgentMessage>,
    outbox: Outbox,
) {
    let (name, order) = (String::new(), Order::default());
    let mut conversation = Conversation { app, host, name, outbox, sent: None, order };
    let ended = conversation.run(&mut inbound).await;
    let Conversation { host, outbox, .. } = conversation;
    match ended {
        Ok(()) => tracing::info!(%host, "agent has gone"),
        Err(refusal) => {
            tracing::info!(%host, reason = %refusal, "agent's stream ended");
            // Where the agent takes nothing any more, the stream just ends.
            let _ = outbox.try_send(Err(Status::from(refusal)));
        }
    }
}

struct Conversation {
    app: Arc<App>,
    host: HostId,
    /// The host's name, from the hello on.
    name: String,
    outbox: Outbox,
    /// The generation that was sent last.
    sent: Option<u64>,
    order: Order,
}

/// What the host's instances come after.
#[derive(Default)]
struct Order {
    after: BTreeSet<InstanceId>,
    /// Those elsewhere that the agent was told are ready; `None` where it was told of none yet.
    told: Option<BTreeSet<InstanceId>>,
}

impl Conversation {
    async fn run(&mut self, inbound: &mut Streaming<AgentMessage>) -> Result<(), Refusal> {
        let hello = timeout(HELLO_DEADLINE, hello(inbound)).await.map_err(|_| no_hello())??;
        let Hello { facts, accepted_generation, epoch } = hello;
        let facts = facts.ok_or_else(|| Refusal::Invalid("the hello has no facts".into()))?;
        let name = self.keep_facts(&facts).await?;
        self.name.clone_from(&name);
        let attached = self.app.live.attach(&self.host, self.outbox.clone(), clock::now());
        self.app.live.set_disk_free(&self.host, facts.disk_free);
        tracing::info!(host = name, id = %self.host, accepted_generation, "agent connected");
        if epoch > self.app.epoch {
            let ours = self.app.epoch;
            tracing::error!(
                host = name,
                epoch,
                ours,
                "the agent has seen a later epoch of the controller and may refuse this one; was \
                 the store restored from a backup?"
            );
        }
        self.say(self.welcome(name)).await?;
        self.push().await?;
        self.listen(inbound, &attached).await
    }

    /// Every await is safe to drop half-way: a message stays in `inbound`, a notification is kept
    /// until it is taken, and the others only wait.
    async fn listen(
        &mut self,
        inbound: &mut Streaming<AgentMessage>,
        attached: &Attached,
    ) -> Result<(), Refusal> {
        let patience = self.patience();
        let mut silent_at = Instant::now() + patience;
        let (mut reports, mut told) = (self.app.live.changes(), self.app.told.subscribe());
        // When to look what is ready elsewhere.
        let mut look_at: Option<Instant> = None;
        loop {
            let idle = look_at.is_none() && !self.order.after.is_empty();
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        silent_at = Instant::now() + patience;
                        self.take_in(message)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(lost(&status)),
                },
                () = attached.spec_changed.notified() => self.push().await?,
                _ = reports.changed(), if idle => look_at = Some(Instant::now() + GATHERING),
                _ = told.changed(), if idle => look_at = Some(Instant::now() + GATHERING),
                () = tokio::time::sleep_until(look_at.unwrap_or(silent_at)), if look_at.is_some() => {
                    look_at = None;
                    self.tell_ready().await?;
                }
                () = attached.replaced.cancelled() => return Err(self.replaced().await?),
                () = self.app.shutdown.cancelled() => {
                    return Err(Refusal::Unavailable(SHUTTING_DOWN.into()));
                }
                () = tokio::time::sleep_until(silent_at) => return Err(silent(patience)),
            }
        }
    }

    /// Why someone else ended the stream.
    async fn replaced(&self) -> Result<Refusal, Refusal> {
        let host = self.app.records.get::<HostRecord>(self.host.as_str()).await?;
        Ok(if host.is_some() { replaced() } else { self.removed() })
    }

    fn removed(&self) -> Refusal {
        Refusal::Denied(format!("host {} was removed from this controller", self.host))
    }

    fn patience(&self) -> Duration {
        self.app.config.heartbeat() * MISSED
    }

    fn take_in(&self, message: AgentMessage) -> Result<(), Refusal> {
        let live = &self.app.live;
        live.heard(&self.host, clock::now());
        match message.message {
            Some(agent_message::Message::Heartbeat(Heartbeat { disk_free })) => {
                live.set_disk_free(&self.host, disk_free);
            }
            Some(agent_message::Message::Status(status)) => {
                self.take_in_status(status);
            }
            Some(agent_message::Message::Refused(SpecRefused { generation, reason })) => {
                tracing::error!(host = %self.host, generation, reason, "agent refused its desired state");
                live.refused(&self.host, generation, reason);
            }
            Some(agent_message::Message::Hello(_)) => {
                return Err(Refusal::Invalid("a hello comes once, at the beginning".into()));
            }
            Some(agent_message::Message::Events(batch)) => {
                let from = Reporter { host: &self.host, name: &self.name };
                self.app.events.take_in(from, batch, clock::now());
            }
            None => tracing::warn!(host = %self.host, "message of a kind that is not known here"),
        }
        Ok(())
    }

    /// A report that can't be read must not cost the host its stream: an agent may be newer.
    fn take_in_status(&self, status: v1::HostStatus) {
        match HostStatus::try_from(status) {
            Ok(status) => self.app.live.report(&self.host, status),
            Err(error) => {
                tracing::error!(host = %self.host, %error, "a host's report is unreadable");
                self.app.live.unreadable(&self.host, error.to_string());
            }
        }
    }

    /// Sends the desired state, unless there is none or the agent has been sent it on this stream.
    async fn push(&mut self) -> Result<(), Refusal> {
        let stored = self.app.records.get::<HostSpecRecord>(self.host.as_str()).await?;
        let Some(Stored { record, modified, .. }) = stored else { return Ok(()) };
        let Some(spec) = record.spec else { return Ok(()) };
        let generation = spec.generation;
        if self.sent == Some(generation) {
            return Ok(());
        }
        self.order.after = order::after(&spec);
        if !self.order.after.is_empty() {
            self.catch_up(modified).await;
            self.tell_ready().await?;
        }
        if let Some(secrets) = values::of(&self.app.secrets, &self.host, &spec).await? {
            self.say(secrets).await?;
        }
        self.say(desired(spec)).await?;
        self.sent = Some(generation);
        tracing::info!(host = %self.host, generation, "desired state sent");
        Ok(())
    }

    /// Waits until what is known of the other hosts is not older than this host's desired state:
    /// the ones that were told before it were told for its sake.
    async fn catch_up(&self, modified: Revision) {
        let mut told = self.app.told.subscribe();
        let caught_up = told.wait_for(|told| told.revision >= modified);
        if timeout(CATCHING_UP, caught_up).await.is_err() {
            tracing::warn!(host = %self.host, "what is ready on other hosts may be out of date");
        }
    }

    /// Tells the agent which instances elsewhere are ready that its own come after, where that
    /// has changed.
    async fn tell_ready(&mut self) -> Result<(), Refusal> {
        let live = &self.app.live;
        let status = |host: &HostId| {
            let online = live.presence(host).is_some_and(|presence| presence.online);
            live.fresh_status(host).filter(|_| online)
        };
        let Order { after, told } = &self.order;
        let ready = order::ready_elsewhere(&self.host, after, &self.app.told.borrow(), status);
        let Some(ready) = ready.filter(|ready| told.as_ref() != Some(ready)) else { return Ok(()) };
        let instances = ready.iter().map(ToString::to_string).collect();
        let message = controller_message::Message::ReadyElsewhere(ReadyElsewhere { instances });
        self.say(ControllerMessage { message: Some(message) }).await?;
        self.order.told = Some(ready);
        Ok(())
    }

    async fn say(&self, message: ControllerMessage) -> Result<(), Refusal> {
        let patience = self.patience();
        match timeout(patience, self.outbox.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Unavailable("the agent closed its stream".into())),
            Err(_) => {
                let within = patience.as_secs();
                Err(Refusal::TimedOut(format!("the agent took no message within {within} s")))
            }
        }
    }

    fn welcome(&self, host_name: String) -> ControllerMessage {
        let welcome = Welcome {
            host_name,
            epoch: self.app.epoch,
            heartbeat_ms: self.app.config.heartbeat_ms,
            controller_version: env!("CARGO_PKG_VERSION").into(),
        };
        ControllerMessage { message: Some(controller_message::Message::Welcome(welcome)) }
    }

    /// Stores what the agent says of its host, where it is news; returns the host's name.
    async fn keep_facts(&self, facts: &HostFacts) -> Result<String, Refusal> {
        for _ in 1..TRIES {
            match self.try_keep_facts(facts).await {
                Err(Refusal::Conflict(_)) => {}
                outcome => return outcome,
            }
        }
        self.try_keep_facts(facts).await
    }

    async fn try_keep_facts(&self, facts: &HostFacts) -> Result<String, Refusal> {
        let stored = self.app.records.get::<HostRecord>(self.host.as_str()).await?;
        let stored = stored.ok_or_else(|| self.removed())?;
        let name = stored.record.name.clone();
        if stored.record.facts.as_ref().is_some_and(|known| same(known, facts)) {
            return Ok(name);
        }
        let mut batch = Batch::new();
        let record = HostRecord { facts: Some(facts.clone()), ..stored.record.clone() };
        batch.replace(&stored, &record)?;
        self.app.records.commit(batch).await?;
        Ok(name)
    }
}

/// What is free on the disk is always news, and comes with each heartbeat.
fn same(known: &HostFacts, told: &HostFacts) -> bool {
    *known == HostFacts { disk_free: known.disk_free, ..told.clone() }
}

async fn hello(inbound: &mut Streaming<AgentMessage>) -> Result<Hello, Refusal> {
    let first = inbound.message().await.map_err(|status| lost(&status))?;
    match first.and_then(|first| first.message) {
        Some(agent_message::Message::Hello(hello)) => Ok(hello),
        _ => Err(no_hello()),
    }
}

fn desired(spec: HostSpec) -> ControllerMessage {
    ControllerMessage { message: Some(controller_message::Message::Desired(spec)) }
}

fn no_hello() -> Refusal {
    Refusal::Invalid("the first message of an agent's stream has to be its hello".into())
}

fn replaced() -> Refusal {
    Refusal::Conflict("another stream of this host has taken over; do two agents run?".into())
}

fn silent(patience: Duration) -> Refusal {
    Refusal::TimedOut(format!("nothing was heard of the agent for {} ms", patience.as_millis()))
}

fn lost(status: &Status) -> Refusal {
    Refusal::Unavailable(format!("the agent's stream broke off: {}", status.message()))
}
