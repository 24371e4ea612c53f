//! `shoal-agent run`: puts the parts together and keeps them going until told to stop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use shoal_core::status::HostStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::events::Events;
use crate::fallback::Fallback;
use crate::host::real::RealHost;
use crate::host::{facts, sealed, systemd::Systemd, trial::Trials};
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::link::{AgentSource, ControllerSource, Kept, Link, News};
use crate::paths::Paths;
use crate::policy;
use crate::reconcile::{About, Reconciler};
use crate::secrets::Secrets;
use crate::sessions::Sessions;
use crate::stage::{self, Setup, Shelf, Stager, Wire};
use crate::upgrade::Upgrade;
use crate::version::version;

/// How long looking at the secrets that are kept may hold up the start.
const CHECKING: Duration = Duration::from_secs(20);

/// Runs the agent until SIGTERM or SIGINT. Instances are not touched when it ends.
///
/// # Errors
/// Where it can't start; each says what to do.
pub async fn run(paths: Paths) -> anyhow::Result<()> {
    let identity = Arc::new(Identity::load(&paths)?);
    let policy = policy::load(&paths)?;
    paths.prepare()?;
    let systemd = Systemd::connect().await?;
    let (facts, untried) = facts::gather(&paths, &systemd, policy).await;
    if let Some(why) = untried {
        anyhow::bail!(
            "can't find out whether squashfs can be idmapped here: {why}; `shoal-agent doctor` tells more"
        );
    }
    let ledger = Ledger::open(&paths)?;
    let stop = CancellationToken::new();
    let bell = Arc::new(Notify::new());
    let (desired, wanted) = watch::channel(ledger.desired().cloned());
    let (status, reported) = watch::channel(HostStatus::default());
    let channel = Arc::new(watch::Sender::new(None));
    let controller = ControllerSource { channel: channel.subscribe() };
    let shelf = match facts.policy.peers {
        Some(_) => Shelf::open(paths.recipes(), paths.images()),
        None => Shelf::none(),
    };
    let events = Events::new();
    let setup = Setup {
        origin: Arc::new(Wire { controller: controller.clone(), identity: identity.clone() }),
        dir: paths.images(),
        shelf: shelf.clone(),
        bell: bell.clone(),
        events: events.clone(),
    };
    let stager = Stager::start(setup, stop.clone());
    if let Some(peers) = facts.policy.peers {
        tokio::spawn(stage::serve(peers, identity.clone(), shelf, stop.clone()));
    }
    let (ready, ready_elsewhere) = watch::channel(None);
    let name = identity.about.host_name.clone();
    let secrets = Arc::new(Secrets::open(sealed::vault(&paths), ledger.desired())?);
    let checked = secrets.clone();
    let checking = tokio::task::spawn_blocking(move || checked.check());
    // What takes longer goes on beside the rest.
    let _ = tokio::time::timeout(CHECKING, checking).await;
    let host =
        RealHost::new(paths.clone(), systemd.clone(), name.clone(), facts.clone(), secrets.clone());
    let host = Arc::new(host);
    let (upgrade_told, agent) = watch::channel(None);
    let upgrade = Upgrade {
        paths: paths.clone(),
        trials: Trials::new(paths.clone(), systemd.clone()),
        allowed: facts.policy.agent_upgrade,
        source: Arc::new(AgentSource(controller)),
        desired: wanted.clone(),
        reached: channel.subscribe(),
        reported: reported.clone(),
        told: upgrade_told,
        bell: bell.clone(),
        events: events.clone(),
    };
    let about = About { name, facts: facts.clone(), ready_elsewhere, agent };
    let reconciler = Reconciler::new(
        host.clone(),
        about,
        stager,
        Fallback::open(&paths)?,
        bell.clone(),
        status,
        events.clone(),
    );
    let sessions = Sessions::new(paths.clone(), systemd);
    let ledger = Arc::new(Mutex::new(ledger));
    let news = News { status: reported, events };
    let kept = Kept { secrets, bell: bell.clone() };
    let haste = host.haste();
    let link = Link {
        identity,
        paths,
        facts,
        ledger,
        desired,
        ready,
        news,
        channel,
        sessions,
        kept,
        haste,
    };
    let mut reconciling = tokio::spawn(reconciler.run(wanted, stop.clone()));
    let mut linking = tokio::spawn(link.run(stop.clone()));
    let mut upgrading = tokio::spawn(upgrade.run(stop.clone()));
    let (scrubbed, told) = (host.clone(), bell.clone());
    let scrubbing = tokio::spawn(async move { scrubbed.scrub(&told).await });
    let mut ringing = tokio::spawn(async move { host.watch(&bell).await });
    info!(version = version(), "the agent is up");
    // Fails where systemd did not start us; then nobody waits for it.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    // A part that ends by itself has broken. Then the whole agent ends, and systemd starts it
    // anew: better than one that looks alive and does nothing. Instances are not touched.
    tokio::select! {
        told = stopped() => told?,
        ended = &mut reconciling => anyhow::bail!("the reconcile loop broke: {ended:?}"),
        ended = &mut linking => anyhow::bail!("the link broke: {ended:?}"),
        ended = &mut upgrading => anyhow::bail!("the agent's upgrade broke: {ended:?}"),
        ended = &mut ringing => anyhow::bail!("the system bus went away: {ended:?}"),
    }
    stop.cancel();
    ringing.abort();
    scrubbing.abort();
    reconciling.await.context("the reconcile loop broke")?;
    linking.await.context("the link broke")?;
    upgrading.await.context("the agent's upgrade broke")?;
    info!("the agent stops; instances keep running");
    Ok(())
}

async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {},
        _ = interrupt.recv() => {},
    }
    Ok(())
}
