//! One pass over one rollout: a look at its hosts, what follows of it, and the telling of hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use shoal_core::agent_upgrade::AgentSpec;
use shoal_core::cause::chain;
use shoal_core::host::{Host, HostSpec};
use shoal_core::image::{Digest, PinnedImage};
use shoal_core::infra::{HostInfra, Infra, is_infra};
use shoal_core::name::HostId;
use shoal_core::placement::{not_recreated, recreated, with_fleet};
use shoal_core::rollout::{self, Action, Observation, OnFailure, Outcome, Rollout};
use shoal_core::status::HostStatus;
use shoal_core::time::Timestamp;
use shoal_proto::convert::rollout_record;
use shoal_proto::v1::store::{FleetRecord, HostRecord, HostSpecRecord, RolloutRecord};
use tracing::warn;

use super::Driver;
use crate::agents_api::{Asked, wish};
use crate::fleets_api::revision::Revision;
use crate::fleets_api::{superseded, world};
use crate::inventory;
use crate::peers::{self, seats};
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, MAX_COMMIT_BYTES, MAX_OPERATIONS, Stored};

/// Characters of a host's reason that are kept: agents write them, and a rollout has many hosts.
pub(super) const LONGEST_REASON: usize = 300;

/// Looks and tellings of one pass; there is always an end before.
const MOST_ROUNDS: usize = 256;

/// Hosts that are told in one transaction: each takes two checks.
const MOST_TOLD: usize = (MAX_OPERATIONS - 8) / 2;

/// Bytes of a transaction that are left for all but records.
const ROOM: usize = 32 << 10;

/// A generation that no host ever has: of a host that can't be told.
const NEVER: u64 = u64::MAX;

const REMOVED: &str = "the host was removed";

/// Why a pass ended early.
pub(super) enum Interrupted {
    /// Something that it had read was changed; read again.
    Conflict,
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// One rollout as it was read, and what is done with it.
pub(super) struct Pass<'a> {
    driver: &'a Driver,
    now: Timestamp,
    fleet: Stored<FleetRecord>,
    stored: Stored<RolloutRecord>,
    rollout: Rollout,
    revision: Arc<Revision>,
}

/// A host's desired state, to take the place of the one that was read.
struct Telling {
    action: Action,
    host: HostId,
    before: Option<Stored<HostSpecRecord>>,
    spec: HostSpec,
    after: HostSpec,
}

impl<'a> Pass<'a> {
    /// `None` where there is nothing left to do.
    pub(super) async fn begin(
        driver: &'a Driver,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        let records = &driver.records;
        let Some(stored) = records.get::<RolloutRecord>(id).await? else { return Ok(None) };
        let rollout = world::rollout(&stored)?;
        if rollout.state.is_final() {
            return Ok(None);
        }
        let name = rollout.fleet.as_str();
        let fleet = records.get::<FleetRecord>(name).await?;
        let fleet =
            fleet.ok_or_else(|| inventory::damaged::<FleetRecord>(name, "it is not there"))?;
        let revision = driver.revision(name, rollout.revision).await?;
        Ok(Some(Self { driver, now, fleet, stored, rollout, revision }))
    }

    /// The rollout as it is afterwards.
    pub(super) async fn carry_out(mut self) -> Result<Rollout, Interrupted> {
        if self.fleet.record.revision != self.rollout.revision {
            let ended = superseded(&self.rollout, self.now);
            self.save(ended, Batch::new()).await?;
            return Ok(self.rollout);
        }
        for _ in 0..MOST_ROUNDS {
            let next = self.look().await?;
            if next != self.rollout {
                self.save(next, Batch::new()).await?;
            }
            let actions = rollout::actions(&self.rollout);
            if actions.is_empty() {
                break;
            }
            self.act(actions).await?;
        }
        Ok(self.rollout)
    }

    /// The rollout after a look at its hosts.
    async fn look(&self) -> Result<Rollout, Refusal> {
        let mut rollout = self.rollout.clone();
        let mut seen: BTreeMap<HostId, (bool, Option<Arc<HostStatus>>)> = BTreeMap::new();
        for (host, progress) in &mut rollout.hosts {
            let live = &self.driver.live;
            let untold = progress.generation.is_none() && progress.back.is_none();
            // A controller that has just started has heard of nobody yet.
            let awaited = untold && self.driver.awaits(host, self.now);
            let online = awaited || live.presence(host).is_some_and(|presence| presence.online);
            if !online && !matches!(progress.outcome, Outcome::Failed(_) | Outcome::Back) {
                let there = self.driver.records.get::<HostRecord>(host.as_str()).await?;
                if there.is_none() {
                    progress.outcome = Outcome::Failed(REMOVED.into());
                }
            }
            seen.insert(host.clone(), (online, live.fresh_status(host)));
        }
        let before = self.infra_before().await?;
        let before = before.as_deref();
        let observe = |host: &HostId| match seen.get(host) {
            Some((online, status)) => Observation {
                online: *online,
                status: status.as_deref(),
                staged: self.is_staged(host, status.as_deref()),
                unstaged: self.unstaged(host, status.as_deref()),
                infra: self.infra_of(host, before).map(|infra| &infra.version),
                agent: self.infra_of(host, before).and_then(|infra| infra.agent.as_ref()),
            },
            None => Observation {
                online: false,
                status: None,
                staged: false,
                unstaged: None,
                infra: None,
                agent: None,
            },
        };
        let mut next = rollout::step(rollout, observe, self.now);
        next.cause = next.cause.map(|why| shortened(&why));
        for (host, progress) in &mut next.hosts {
            match &mut progress.outcome {
                Outcome::Changing(why) | Outcome::GoingBack(why) => {
                    // An agent that refused its desired state is not merely slow.
                    let problem = self.driver.live.problems(host).into_iter().next();
                    *why = shortened(&problem.unwrap_or_else(|| std::mem::take(why)));
                }
                Outcome::Failed(why) => *why = shortened(why),
                Outcome::Pending
                | Outcome::Staging
                | Outcome::Ready
                | Outcome::Offline
                | Outcome::Back => {}
            }
        }
        Ok(next)
    }

    /// The revision that hosts go back to, where an infra version may be what they go back from.
    async fn infra_before(&self) -> Result<Option<Arc<Revision>>, Refusal> {
        let back = self.rollout.hosts.values().any(|host| host.back.is_some());
        match self.rollout.back_to {
            Some(number) if back && is_infra(&self.rollout.fleet) => {
                Ok(Some(self.driver.revision(self.rollout.fleet.as_str(), number).await?))
            }
            _ => Ok(None),
        }
    }

    /// The infra that a host was told last, where the rollout brings one.
    fn infra_of<'r>(&'r self, host: &HostId, before: Option<&'r Revision>) -> Option<&'r Infra> {
        let back = self.rollout.hosts.get(host).is_some_and(|progress| progress.back.is_some());
        let revision = if back { before? } else { self.revision.as_ref() };
        let there = revision.hosts.get(host).is_some_and(|configs| !configs.is_empty());
        revision.spec.infra.as_ref().filter(|_| there)
    }

    /// Whether a host has all images that the revision needs there.
    fn is_staged(&self, host: &HostId, status: Option<&HostStatus>) -> bool {
        let there = |image: &Digest| status.is_some_and(|status| status.images.contains(image));
        self.images(host).all(|image| there(&image.digest))
    }

    /// Why a host can't get one of these images; its agent names the image.
    fn unstaged<'s>(&self, host: &HostId, status: Option<&'s HostStatus>) -> Option<&'s str> {
        let about =
            |problem: &str, image: &PinnedImage| problem.contains(&image.reference.to_string());
        let mut problems = status?.problems.iter().map(String::as_str);
        problems.find(|problem| self.images(host).any(|image| about(problem, image)))
    }

    /// The images that the revision needs on a host.
    fn images(&self, host: &HostId) -> impl Iterator<Item = &PinnedImage> {
        let there = self.revision.hosts.get(host).into_iter().flat_map(|there| there.values());
        there.map(|config| &config.image)
    }

    /// Carries out what was decided, as many hosts at once as go into a transaction.
    async fn act(&mut self, actions: Vec<Action>) -> Result<(), Interrupted> {
        let hosts = inventory::hosts(&self.driver.records).await?;
        let known: BTreeSet<&HostId> = hosts.iter().map(|host| &host.id).collect();
        let (there, gone): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| known.contains(host_of(action)));
        for action in gone {
            self.give_up(&action, REMOVED).await?;
        }
        let mut group = Vec::new();
        let mut room = self.room();
        for telling in self.tellings(&hosts, there).await? {
            let size = HostSpecRecord { spec: Some(telling.after.clone().into()) }.encoded_len();
            if group.len() == MOST_TOLD || (size > room && !group.is_empty()) {
                self.tell(std::mem::take(&mut group)).await?;
                room = self.room();
            }
            room = room.saturating_sub(size);
            group.push(telling);
        }
        if !group.is_empty() {
            self.tell(group).await?;
        }
        Ok(())
    }

    /// Bytes that desired states may take in a transaction with the rollout.
    fn room(&self) -> usize {
        MAX_COMMIT_BYTES.saturating_sub(ROOM + rollout_record(&self.rollout).encoded_len())
    }

    /// The desired states that make `actions` so. Hosts are told where instances are by what all
    /// hosts have once these are told.
    async fn tellings(
        &self,
        hosts: &[Host],
        actions: Vec<Action>,
    ) -> Result<Vec<Telling>, Interrupted> {
        let listed = self.driver.records.list::<HostSpecRecord>().await?.records;
        let mut stored = BTreeMap::new();
        let mut specs = BTreeMap::new();
        for one in listed {
            let host = inventory::host_id(&one.id)?;
            specs.insert(host.clone(), inventory::spec(&one)?);
            stored.insert(host, one);
        }
        let mut tellings = Vec::with_capacity(actions.len());
        for action in actions {
            let host = host_of(&action).clone();
            let spec = specs.get(&host).cloned().unwrap_or_default();
            let after = self.changed(&action, &spec).await?;
            let after = after.keeping(&self.rollout.fleet, self.kept(&host).await?);
            tellings.push(Telling { before: stored.remove(&host), action, host, spec, after });
        }
        for telling in &tellings {
            specs.insert(telling.host.clone(), telling.after.clone());
        }
        let fleets = seats(&specs, hosts);
        let by_id: BTreeMap<&HostId, &Host> = hosts.iter().map(|host| (&host.id, host)).collect();
        for telling in &mut tellings {
            if let Some(host) = by_id.get(&telling.host).filter(|_| !is_stage(&telling.action)) {
                telling.after.peers = peers::wanted(host, &telling.after, &fleets);
            }
            let status = self.driver.live.status(&telling.host);
            let seen = status.map_or(0, |status| status.observed_generation);
            telling.after = numbered(&telling.spec, telling.after.clone(), seen);
        }
        Ok(tellings)
    }

    /// `spec` once `action` is done, but for its generation and where other instances are.
    async fn changed(&self, action: &Action, spec: &HostSpec) -> Result<HostSpec, Refusal> {
        let host = host_of(action);
        let revision = match action {
            Action::Stage(_) => return Ok(self.staged_ahead(host, spec)),
            Action::Change(_) => Some(Arc::clone(&self.revision)),
            Action::Return(_) => match self.rollout.back_to {
                Some(number) => {
                    Some(self.driver.revision(self.rollout.fleet.as_str(), number).await?)
                }
                None => None,
            },
        };
        let policy = &self.rollout.policy;
        let gate = (policy.on_failure == OnFailure::Rollback).then_some(policy.batch_timeout);
        let nothing = BTreeMap::new();
        let configs = revision.as_ref().and_then(|r| r.hosts.get(host)).unwrap_or(&nothing);
        let number = revision.as_ref().map_or(0, |revision| revision.number);
        let infra = revision.as_ref().and_then(|r| self.infra_after(action, r, spec));
        let fleet = &self.rollout.fleet;
        let mut after = with_fleet(spec, fleet, number, configs, &[], gate, infra.as_ref());
        if let Some(infra) = revision.as_ref().and_then(|r| r.spec.infra.as_ref()) {
            after.agent = self.agent(host, infra, spec).await?;
        }
        let number = self.rollout.revision;
        if matches!(action, Action::Return(_)) {
            // What was made afresh is so, and runs what it is to go back to; the rest stays.
            after = not_recreated(after, fleet, number);
        } else if self.revision.recreate.contains(host) {
            after = recreated(after, fleet, number);
        }
        let used: BTreeSet<Digest> =
            after.instances.iter().map(|instance| instance.config.image.digest).collect();
        after.stage.retain(|image| !used.contains(&image.digest));
        Ok(after)
    }

    /// The images of the revision that the fleet goes back to, now or by an undo, on `host`. Those
    /// of revisions before are let go with the first word of this one: they may be what makes
    /// room for it.
    async fn kept(&self, host: &HostId) -> Result<BTreeSet<Digest>, Refusal> {
        let Some(number) = self.rollout.back_to else { return Ok(BTreeSet::new()) };
        let before = self.driver.revision(self.rollout.fleet.as_str(), number).await?;
        let configs = before.hosts.get(host).into_iter().flat_map(|there| there.values());
        Ok(configs.map(|config| config.image.digest).collect())
    }

    /// The infra that a host is to have under `revision`, once `action` is done.
    fn infra_after(
        &self,
        action: &Action,
        revision: &Revision,
        spec: &HostSpec,
    ) -> Option<HostInfra> {
        let infra = HostInfra::of(revision.spec.infra.as_ref()?, revision.number);
        // Where it has the version already, nothing was tried, and there is nothing to undo.
        let had = spec.infra.as_ref().filter(|had| had.version != infra.version);
        Some(match (action, had) {
            // What was tried says what goes back.
            (Action::Return(_), Some(tried)) => infra.instead_of(tried),
            (Action::Change(_), Some(had)) if self.revision.undo_data => {
                HostInfra { undo: Some(had.revision), ..infra }
            }
            _ => infra,
        })
    }

    /// The agent that a host is to run under `infra`; as before where none is named.
    async fn agent(
        &self,
        host: &HostId,
        infra: &Infra,
        spec: &HostSpec,
    ) -> Result<Option<AgentSpec>, Refusal> {
        let records = &self.driver.records;
        let Some(version) = infra.agent.clone() else { return Ok(spec.agent.clone()) };
        let there = records.get::<HostRecord>(host.as_str()).await?;
        let Some(there) = there else { return Ok(spec.agent.clone()) };
        let asked = Asked::of_infra(version);
        let program = match wish(records, &there.record, &asked).await {
            Ok((program, _)) => program,
            // It was there when this was applied. The host is seen not to get it.
            Err(Refusal::Precondition(why)) => {
                warn!(%host, why, "the infra's agent is not to be had any more");
                return Ok(spec.agent.clone());
            }
            Err(refusal) => return Err(refusal),
        };
        let status = self.driver.live.fresh_status(host);
        let reported = status.as_ref().and_then(|status| status.agent.as_ref());
        Ok(Some(AgentSpec::after(spec.agent.as_ref(), program, reported).0))
    }

    /// `spec` with the images that the revision needs on `host`.
    fn staged_ahead(&self, host: &HostId, spec: &HostSpec) -> HostSpec {
        let mut after = spec.clone();
        for image in self.images(host) {
            let same = |other: &PinnedImage| other.digest == image.digest;
            let used = spec.instances.iter().any(|instance| same(&instance.config.image));
            match after.stage.iter_mut().find(|other| same(other)) {
                // Of the same file, what was signed last counts.
                Some(there) => there.clone_from(image),
                None if !used => after.stage.push(image.clone()),
                None => {}
            }
        }
        after
    }

    /// Writes desired states, and that these hosts were told.
    async fn tell(&mut self, group: Vec<Telling>) -> Result<(), Interrupted> {
        let mut batch = Batch::new();
        let mut next = self.rollout.clone();
        for Telling { action, host, before, spec, after } in &group {
            batch.exists::<HostRecord>(host.as_str())?;
            put_spec(&mut batch, host, before.as_ref(), spec, after)?;
            next = noted(next, action, after.generation, self.now);
        }
        match self.save(next, batch).await {
            // Only what goes alone can be too large.
            Err(Interrupted::Refused(refusal)) if is_permanent(&refusal) => {
                for telling in &group {
                    self.give_up(&telling.action, &refusal.to_string()).await?;
                }
                Ok(())
            }
            saved => saved,
        }
    }

    /// Notes that a host can't be told, and goes on with the others.
    async fn give_up(&mut self, action: &Action, why: &str) -> Result<(), Interrupted> {
        let mut next = self.rollout.clone();
        if matches!(action, Action::Return(_)) {
            next = noted(next, action, NEVER, self.now);
        }
        let Some(progress) = next.hosts.get_mut(host_of(action)) else { return Ok(()) };
        progress.outcome = Outcome::Failed(shortened(why));
        if next == self.rollout { Ok(()) } else { self.save(next, Batch::new()).await }
    }

    /// Writes `next` in the rollout's place together with what is in `batch`, if the fleet and
    /// the rollout are as they were read.
    async fn save(&mut self, next: Rollout, mut batch: Batch) -> Result<(), Interrupted> {
        let record = rollout_record(&next);
        batch.unchanged(&self.fleet)?.replace(&self.stored, &record)?;
        let modified = match self.driver.records.commit(batch).await {
            Ok(revision) => revision,
            Err(CommitError::Conflict { .. }) => return Err(Interrupted::Conflict),
            Err(error @ CommitError::TooLarge { .. }) => {
                return Err(Refusal::Exhausted(chain(&error)).into());
            }
            Err(error) => return Err(error.into()),
        };
        self.stored = Stored { record, modified, ..self.stored.clone() };
        self.rollout = next;
        Ok(())
    }
}

fn host_of(action: &Action) -> &HostId {
    let (Action::Stage(host) | Action::Change(host) | Action::Return(host)) = action;
    host
}

fn is_stage(action: &Action) -> bool {
    matches!(action, Action::Stage(_))
}

/// The rollout after `action` was done in `generation` of the host's desired state.
fn noted(rollout: Rollout, action: &Action, generation: u64, now: Timestamp) -> Rollout {
    match action {
        Action::Stage(host) => rollout::staging(rollout, host, generation, now),
        Action::Change(host) => rollout::told(rollout, host, generation, now),
        Action::Return(host) => rollout::returned(rollout, host, generation, now),
    }
}

/// `after` under a generation that the host takes: the same where nothing in it changes.
fn numbered(spec: &HostSpec, after: HostSpec, seen: u64) -> HostSpec {
    let after = HostSpec { generation: spec.generation, ..after };
    let generation = if after == *spec { spec.generation } else { spec.generation + 1 };
    spec.followed_by(HostSpec { generation, ..after }, seen)
}

/// Adds the host's new desired state to `batch`; where nothing in it changes, that it has not.
fn put_spec(
    batch: &mut Batch,
    host: &HostId,
    before: Option<&Stored<HostSpecRecord>>,
    spec: &HostSpec,
    after: &HostSpec,
) -> Result<(), Refusal> {
    let same = after == spec;
    let record = HostSpecRecord { spec: Some(after.clone().into()) };
    match before {
        Some(stored) if same => batch.unchanged(stored)?,
        Some(stored) => batch.replace(stored, &record)?,
        None if same => batch.absent::<HostSpecRecord>(host.as_str())?,
        None => batch.create(host.as_str(), &record)?,
    };
    Ok(())
}

/// Whether telling the same again can't help.
fn is_permanent(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Exhausted(_))
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}
