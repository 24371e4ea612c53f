//! The agent's stream to its controller: kept open for ever, with growing, jittered pauses.
//!
//! What comes down goes to the ledger and from there to the reconcile loop; what the loop reports
//! goes up. Losing the controller changes nothing on the host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::image::Digest;
use shoal_core::name::InstanceId;
use shoal_core::secret::{PinnedSecret, SecretValue};
use shoal_core::status::HostStatus;
use shoal_proto::v1::agent_link_client::AgentLinkClient;
use shoal_proto::v1::{self, agent_message, controller_message};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::connect::{connect, reason};
use crate::events::Events;
use crate::host::facts::disk;
use crate::host::haste::Haste;
use crate::identity::Identity;
use crate::ledger::{Ledger, LedgerError};
use crate::paths::Paths;
use crate::renew;
use crate::secrets::Secrets;
use crate::sessions::Sessions;
use crate::stage::{Bytestream, Source};

/// Pauses between attempts, before jitter: from the first to the longest, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the controller may take to say welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// Messages on their way up: a status each time something changes, and heartbeats. More would
/// only be older news.
const WAITING: usize = 8;

/// How long keeping secrets may hold up the stream. Then the desired state that names them is taken
/// before they are here, and waits for them.
const KEEPING: Duration = Duration::from_secs(10);

/// The channel in use, for whoever else calls the controller. `None` while there is none.
pub type CurrentChannel = watch::Sender<Option<Channel>>;

/// The task that keeps the stream open.
#[derive(Debug)]
pub struct Link {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Where our files are.
    pub paths: Paths,
    /// What we know of the host.
    pub facts: HostFacts,
    /// What was accepted; shared with nobody else who writes.
    pub ledger: Arc<Mutex<Ledger>>,
    /// For the reconcile loop.
    pub desired: watch::Sender<Option<HostSpec>>,
    /// For the reconcile loop too: what the controller says is ready elsewhere.
    pub ready: watch::Sender<Option<BTreeSet<InstanceId>>>,
    /// From the reconcile loop.
    pub news: News,
    /// For transfers and sessions.
    pub channel: Arc<CurrentChannel>,
    /// What the controller asks for besides.
    pub sessions: Sessions,
    /// Begun with each new desired state: something will start or stop.
    pub haste: Haste,
    /// For the secrets that it sends.
    pub kept: Kept,
}

/// Where secrets go that come down.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The secrets of this host.
    pub secrets: Arc<Secrets>,
    /// Rung when there are others than before.
    pub bell: Arc<Notify>,
}

impl Kept {
    async fn keep(&self, sent: v1::SecretValues) {
        let values = sent.values.into_iter().filter_map(|value| {
            valid(value).inspect_err(|why| warn!(why, "the controller sent no secret")).ok()
        });
        let values = values.collect();
        let Self { secrets, bell } = self.clone();
        let keeping = tokio::task::spawn_blocking(move || {
            secrets.keep(values);
            bell.notify_one();
        });
        let _ = tokio::time::timeout(KEEPING, keeping).await;
    }

    /// Has those kept that could not be, without waiting for it.
    fn keep_again(&self) {
        let Self { secrets, bell } = self.clone();
        if !secrets.is_behind() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            secrets.keep_again();
            bell.notify_one();
        });
    }
}

fn valid(sent: v1::SecretValue) -> Result<(PinnedSecret, SecretValue), String> {
    let v1::SecretValue { secret, value } = sent;
    let secret = PinnedSecret::try_from(secret.unwrap_or_default()).map_err(|e| e.to_string())?;
    let value = SecretValue::new(value.into()).map_err(|e| format!("{secret}: {e}"))?;
    Ok((secret, value))
}

/// What goes up.
#[derive(Debug)]
pub struct News {
    /// How the host is.
    pub status: watch::Receiver<HostStatus>,
    /// What happened on it.
    pub events: Events,
}

/// Why a stream ended.
enum End {
    /// The agent stops.
    Stopped,
    /// The stream broke, or was never there.
    Lost(String),
    /// The certificate is new: the next stream shows it. This one stays until then, so that the
    /// host is online all the time.
    Renewed(Box<Stream>),
}

/// A desired state that the disk had no room for, and is offered to the ledger again.
type Unkept = Option<v1::HostSpec>;

/// Why a desired state was not taken.
struct NotTaken {
    reason: String,
    /// Whether it may be later.
    later: bool,
}

/// An open stream, both ways.
struct Stream {
    up: mpsc::Sender<v1::AgentMessage>,
    down: tonic::Streaming<v1::ControllerMessage>,
}

impl Link {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSES.0;
        let mut old = None;
        loop {
            let end = tokio::select! {
                () = stop.cancelled() => End::Stopped,
                end = self.once(old.take()) => end,
            };
            // There is a channel from the controller's welcome on.
            let welcomed = self.channel.send_replace(None).is_some();
            if !matches!(end, End::Renewed(_)) {
                // Nothing here waits for instances elsewhere while nobody says how they are.
                self.ready.send_replace(None);
            }
            match end {
                End::Stopped => return,
                End::Renewed(stream) => {
                    old = Some(stream);
                    continue;
                }
                End::Lost(why) => warn!(why, "no stream to the controller; trying again"),
            }
            if welcomed {
                pause = PAUSES.0;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(jittered(pause)) => {},
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One stream, from dialling to its end. It takes the place of `old`, where there is one.
    async fn once(&mut self, old: Option<Box<Stream>>) -> End {
        if let Err(why) = renew::recover_if_expired(&self.identity, &self.paths).await {
            return End::Lost(why);
        }
        let tls = shoal_tls::client_config(&self.identity.roots, &self.identity.certificate);
        let about = &self.identity.about;
        let connection = match connect(&about.controller, about.link_port, tls).await {
            Ok(connection) => connection,
            Err(error) => return End::Lost(crate::chain(&error)),
        };
        let (up, receiver) = mpsc::channel(WAITING);
        let hello = self.hello(connection.local);
        // Cannot fail: the receiver is right here and the channel is empty.
        let _ = up.send(message(agent_message::Message::Hello(hello))).await;
        let mut client = client(connection.channel.clone());
        let connected = client.connect(ReceiverStream::new(receiver));
        let down = match tokio::time::timeout(WELCOME, connected).await {
            Err(_) => return End::Lost(format!("the controller did not answer in {WELCOME:?}")),
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                let lost = connection.lost(&status).map(|error| crate::chain(&error));
                return End::Lost(lost.unwrap_or_else(|| status.message().to_owned()));
            }
        };
        self.talk(connection.channel, Stream { up, down }, old).await
    }

    /// `address` is that of our end of the connection, which is how others reach this host.
    fn hello(&self, address: Option<IpAddr>) -> v1::Hello {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        v1::Hello {
            facts: Some(HostFacts { address, ..self.facts.clone() }.into()),
            accepted_generation: ledger.desired().map_or(0, |spec| spec.generation),
            epoch: ledger.epoch(),
        }
    }

    async fn talk(
        &mut self,
        channel: Channel,
        Stream { up, mut down }: Stream,
        old: Option<Box<Stream>>,
    ) -> End {
        let welcome = match tokio::time::timeout(WELCOME, down.message()).await {
            Ok(Ok(Some(first))) => self.welcomed(first),
            Ok(Ok(None)) => Err("the controller ended the stream".into()),
            Ok(Err(status)) => Err(reason(&status)),
            Err(_) => Err(format!("the controller said no welcome within {WELCOME:?}")),
        };
        let heartbeat = match welcome {
            Ok(heartbeat) => heartbeat,
            Err(why) => return End::Lost(why),
        };
        drop(old);
        self.channel.send_replace(Some(channel.clone()));
        let mut unkept = Unkept::None;
        let mut beats = tokio::time::interval(heartbeat);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let renewal = tokio::time::sleep(renew::due_in(&self.identity));
        tokio::pin!(renewal);
        self.news.status.mark_changed();
        self.news.events.new_stream();
        // Each branch can be dropped while it waits: messages stay in the stream, the status in
        // its watch, events in their queue, and the time of renewal is fixed.
        loop {
            let sent = tokio::select! {
                received = down.message() => match received {
                    Ok(Some(received)) => {
                        self.received(received, &mut unkept, &channel, &up).await
                    }
                    Ok(None) => return End::Lost("the controller ended the stream".into()),
                    Err(status) => return End::Lost(reason(&status)),
                },
                changed = self.news.status.changed() => {
                    if changed.is_err() { return End::Stopped }
                    let status = self.news.status.borrow_and_update().clone();
                    up.send(message(agent_message::Message::Status(status.into()))).await.is_ok()
                },
                batch = self.news.events.next_batch() => {
                    up.send(message(agent_message::Message::Events(batch))).await.is_ok()
                },
                _ = beats.tick() => {
                    self.offer_again(&mut unkept);
                    self.kept.keep_again();
                    let beat = v1::Heartbeat { disk_free: disk(&self.paths.state).1 };
                    up.send(message(agent_message::Message::Heartbeat(beat))).await.is_ok()
                },
                () = &mut renewal => match renew::renew(&self.identity, &self.paths, &channel).await {
                    Ok(()) => return End::Renewed(Box::new(Stream { up, down })),
                    Err(why) => {
                        warn!(why, "cannot renew the certificate; trying again");
                        renewal.set(tokio::time::sleep(renew::again_in(&self.identity)));
                        true
                    }
                },
            };
            if !sent {
                return End::Lost("the stream was cut".into());
            }
        }
    }

    fn welcomed(&self, first: v1::ControllerMessage) -> Result<Duration, String> {
        let Some(controller_message::Message::Welcome(welcome)) = first.message else {
            return Err("the controller's first message is no welcome".into());
        };
        let v1::Welcome { host_name, epoch, heartbeat_ms, controller_version } = welcome;
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match ledger.see_epoch(epoch) {
            // A full disk must not cut the host off: it holds until it can be written down.
            Err(error @ LedgerError::File(_)) => {
                warn!(error = %crate::chain(&error), "cannot note the controller's epoch");
            }
            seen => seen.map_err(|e| crate::chain(&e))?,
        }
        info!(
            host = host_name,
            controller = controller_version,
            epoch,
            "connected to the controller"
        );
        Ok(Duration::from_millis(heartbeat_ms.clamp(100, 600_000)))
    }

    /// Deals with one message; `false` where an answer could not be sent.
    async fn received(
        &mut self,
        received: v1::ControllerMessage,
        unkept: &mut Unkept,
        channel: &Channel,
        up: &mpsc::Sender<v1::AgentMessage>,
    ) -> bool {
        match received.message {
            Some(controller_message::Message::Desired(desired)) => {
                let generation = desired.generation;
                *unkept = None;
                let Err(NotTaken { reason, later }) = self.accept(desired.clone()) else {
                    return true;
                };
                *unkept = later.then_some(desired);
                warn!(generation, reason, "refused a desired state");
                let refused = v1::SpecRefused { generation, reason };
                up.send(message(agent_message::Message::Refused(refused))).await.is_ok()
            }
            Some(controller_message::Message::OpenSession(open)) => {
                self.sessions.open(open, client(channel.clone()));
                true
            }
            Some(controller_message::Message::ReadyElsewhere(ready)) => {
                let ready = ready.instances.iter().filter_map(|id| id.parse().ok());
                self.ready.send_replace(Some(ready.collect()));
                true
            }
            Some(controller_message::Message::Secrets(sent)) => {
                self.kept.keep(sent).await;
                true
            }
            // A second welcome, or a message of a newer controller: nothing to us.
            Some(controller_message::Message::Welcome(_)) | None => true,
        }
    }

    /// Offers the ledger again what it had no room for. The controller hears of it by the next
    /// report, which is of that generation.
    fn offer_again(&self, unkept: &mut Unkept) {
        let Some(desired) = unkept.take() else { return };
        if self.accept(desired.clone()).is_err_and(|not_taken| not_taken.later) {
            *unkept = Some(desired);
        }
    }

    fn accept(&self, desired: v1::HostSpec) -> Result<(), NotTaken> {
        let refused = |reason| NotTaken { reason, later: false };
        let spec = HostSpec::try_from(desired).map_err(|e| refused(e.to_string()))?;
        let generation = spec.generation;
        self.haste.begin();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = ledger.accept(spec).map_err(|error| NotTaken {
            reason: crate::chain(&error),
            later: matches!(error, LedgerError::File(_)),
        });
        if accepted? {
            info!(generation, "accepted a desired state");
            self.desired.send_replace(ledger.desired().cloned());
        }
        if let Some(desired) = ledger.desired() {
            self.kept.secrets.settle(desired);
        }
        Ok(())
    }
}

fn message(message: agent_message::Message) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn client(channel: Channel) -> AgentLinkClient<Channel> {
    AgentLinkClient::new(channel).max_decoding_message_size(shoal_proto::LARGEST_MESSAGE)
}

/// Between half of `pause` and one and a half of it, so that agents do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut dice = [0; 1];
    // Without random bytes they come back in step, which is no reason not to come back.
    let _ = getrandom::fill(&mut dice);
    pause / 2 + pause * u32::from(dice[0]) / 255
}

/// The way to the controller, for those that fetch from it.
#[derive(Debug, Clone)]
pub struct ControllerSource {
    /// The channel in use.
    pub channel: watch::Receiver<Option<Channel>>,
}

impl ControllerSource {
    /// The channel in use, as soon as there is one.
    ///
    /// # Errors
    /// The agent stops.
    pub async fn channel(&self) -> Result<Channel, String> {
        let mut channel = self.channel.clone();
        let current = channel.wait_for(Option::is_some).await.map(|c| c.clone());
        Ok(current.ok().flatten().ok_or("the agent stops")?)
    }

    /// As [`Self::channel`], for calls.
    ///
    /// # Errors
    /// The agent stops.
    pub async fn client(&self) -> Result<AgentLinkClient<Channel>, String> {
        Ok(client(self.channel().await?))
    }
}

/// Programs of the agent, from the controller.
#[derive(Debug)]
pub struct AgentSource(pub ControllerSource);

#[async_trait]
impl Source for AgentSource {
    async fn fetch(&self, digest: &Digest, offset: u64) -> Result<Bytestream, String> {
        let digest = shoal_proto::convert::digest_bytes(digest);
        let request = v1::FetchAgentRequest { digest, offset };
        let answer = self.0.client().await?.fetch_agent(request).await;
        let stream = answer.map_err(|status| reason(&status))?.into_inner();
        let bytes = |chunk: Result<v1::ImageChunk, tonic::Status>| {
            chunk.map(|c| c.data).map_err(|status| reason(&status))
        };
        Ok(stream.map(bytes).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_spread_around_their_length() {
        let pause = Duration::from_secs(10);
        for _ in 0..100 {
            let jittered = jittered(pause);
            assert!(jittered >= pause / 2 && jittered <= pause * 3 / 2, "{jittered:?}");
        }
    }
}
