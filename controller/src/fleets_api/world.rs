//! Everything that deciding about a fleet needs to know, read before anything is decided.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::fleet::FleetSpec;
use shoal_core::host::{Host, HostSpec};
use shoal_core::image::{Digest, ImageRef, PinnedImage, SignedManifest};
use shoal_core::name::{FleetName, HostId, InstanceId, InstanceName};
use shoal_core::placement::{Claims, Order, order_of};
use shoal_core::rollout::{Rollout, State};
use shoal_core::secret::{PinnedSecret, SecretName};
use shoal_core::spec::Settings;
use shoal_proto::convert::{self, Invalid};
use shoal_proto::v1::store::{
    FleetRecord, HostRecord, HostStatusRecord, ImageRecord, RolloutRecord, SecretHeadRecord,
    TagRecord,
};

use super::infra::Same;
use super::revision::Revision;
use crate::agents_api::{Asked, wish};
use crate::inventory::{self, InPlay};
use crate::locks::Held;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::secrets;
use crate::store::{Records, Stored};

/// The state that a fleet's plan is made against.
#[derive(Debug, Clone)]
pub struct World {
    /// Every enrolled host, ordered by name.
    pub hosts: Vec<Host>,
    /// What the images that the fleet names stand for; those not known are missing.
    pub images: BTreeMap<ImageRef, PinnedImage>,
    /// Their records.
    pub image_records: Vec<Stored<ImageRecord>>,
    /// The newest versions of the secrets that the fleet names; those not known are missing.
    pub secrets: BTreeMap<SecretName, u64>,
    /// Their heads.
    pub secret_heads: Vec<Stored<SecretHeadRecord>>,
    /// The desired state of every host that has one.
    pub specs: BTreeMap<HostId, HostSpec>,
    /// What the instances of all other fleets take of their hosts: as the newest revisions say,
    /// and those that are still on a host although these don't name them.
    pub others: BTreeMap<HostId, BTreeMap<InstanceId, Claims>>,
    /// The secrets of the same instances; those without one are missing.
    pub others_secrets: BTreeMap<HostId, BTreeMap<InstanceId, BTreeSet<PinnedSecret>>>,
    /// What those of the newest revisions come after.
    pub order: Order,
    /// The fleet's newest revision; `None` where the fleet is new.
    pub newest: Option<Newest>,
    /// Who keeps others from changing the fleet.
    pub lock: Held,
    /// The fleet's newest revision that was proved; the one to go back to.
    pub proved: Option<u64>,
    /// The hosts whose agents took the fleet back to what had proved healthy, with why: they don't
    /// run what they were told to, and try what they are told next.
    pub went_back: BTreeMap<HostId, String>,
    /// Where the fleet is the infra: what its version was before.
    pub same: Option<Same>,
    /// Where the fleet is an infra that names an agent: why hosts can't have it.
    pub agentless: BTreeMap<HostId, String>,
    /// Rollouts of other fleets that have not ended.
    pub under_way: Vec<UnderWay>,
}

/// A rollout of another fleet that has not ended.
#[derive(Debug, Clone)]
pub struct UnderWay {
    /// The rollout.
    pub rollout: Rollout,
    /// Who applied its revision.
    pub author: String,
    /// Whether it brings an infra version.
    pub is_infra: bool,
}

/// A fleet's newest revision and its rollout, as they were read.
#[derive(Debug, Clone)]
pub struct Newest {
    /// Says which it is.
    pub fleet: Stored<FleetRecord>,
    /// The revision.
    pub revision: Revision,
    /// The rollout as read, to be replaced.
    pub rollout_record: Stored<RolloutRecord>,
    /// The same as the domain has it.
    pub rollout: Rollout,
}

impl World {
    /// Reads what `spec` needs. The parts are not of one moment: whoever writes checks that the
    /// records that matter have not changed.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged.
    pub async fn load(records: &Records, spec: &FleetSpec) -> Result<Self, Refusal> {
        let newest = Newest::load(records, &spec.fleet).await?;
        let proved = match &newest {
            Some(newest) => newest.proved(records).await?,
            None => None,
        };
        let mut world = Self {
            hosts: inventory::hosts(records).await?,
            images: BTreeMap::new(),
            image_records: Vec::new(),
            secrets: BTreeMap::new(),
            secret_heads: Vec::new(),
            specs: inventory::specs(records).await?,
            others: BTreeMap::new(),
            others_secrets: BTreeMap::new(),
            order: Order::new(),
            newest,
            lock: Held::load(records, spec.fleet.as_str()).await?,
            proved,
            went_back: went_back(records, &spec.fleet).await?,
            same: Same::load(records, spec).await?,
            agentless: BTreeMap::new(),
            under_way: Vec::new(),
        };
        world.load_others(records, &spec.fleet).await?;
        world.load_images(records, spec).await?;
        world.load_secrets(records, spec).await?;
        world.load_agents(records, spec).await?;
        if let Some(same) = world.same.clone() {
            same.pin(&mut world);
        }
        Ok(world)
    }

    /// The newest revision's number; 0 where there is none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.newest.as_ref().map_or(0, |newest| newest.revision.number)
    }

    /// Where the instances of `fleet` are: as its newest revision says, or on hosts that still
    /// have one that it does not name. What that revision says does not count where its rollout
    /// ended without success.
    #[must_use]
    pub fn now(&self, fleet: &FleetName) -> BTreeMap<InstanceName, BTreeSet<HostId>> {
        let mut now: BTreeMap<InstanceName, BTreeSet<HostId>> = BTreeMap::new();
        let newest = self.newest.iter().filter(|newest| counts(newest.rollout.state));
        for (host, configs) in newest.flat_map(|newest| &newest.revision.hosts) {
            for name in configs.keys() {
                now.entry(name.clone()).or_default().insert(host.clone());
            }
        }
        let named: BTreeSet<InstanceName> = now.keys().cloned().collect();
        for (host, spec) in &self.specs {
            for id in spec.instances.iter().map(|i| &i.id).filter(|id| id.fleet == *fleet) {
                if !named.contains(&id.instance) {
                    now.entry(id.instance.clone()).or_default().insert(host.clone());
                }
            }
        }
        now
    }

    async fn load_others(&mut self, records: &Records, fleet: &FleetName) -> Result<(), Refusal> {
        for InPlay { newest, rollout, before } in inventory::in_play(records).await? {
            if newest.fleet == *fleet {
                continue;
            }
            let state = rollout.state;
            if !state.is_final() {
                let (author, is_infra) = (newest.author.clone(), newest.spec.infra.is_some());
                self.under_way.push(UnderWay { rollout, author, is_infra });
            }
            let newest = Some(newest).filter(|_| counts(state) || before.is_none());
            // What they have in common is as the newest says.
            for revision in before.into_iter().chain(newest) {
                self.order.extend(order_of(&revision.spec));
                for (host, configs) in revision.hosts {
                    for (instance, config) in configs {
                        let id = InstanceId { fleet: revision.fleet.clone(), instance };
                        self.add_other(&host, &id, &config.settings);
                    }
                }
            }
        }
        let specs = std::mem::take(&mut self.specs);
        for (host, spec) in &specs {
            for instance in spec.instances.iter().filter(|i| i.id.fleet != *fleet) {
                let known = self.others.get(host).is_some_and(|on| on.contains_key(&instance.id));
                if !known {
                    self.add_other(host, &instance.id, &instance.config.settings);
                }
            }
        }
        self.specs = specs;
        Ok(())
    }

    fn add_other(&mut self, host: &HostId, id: &InstanceId, settings: &Settings) {
        let there = self.others.entry(host.clone()).or_default();
        there.insert(id.clone(), Claims::of(settings));
        if !settings.secrets.is_empty() {
            let there = self.others_secrets.entry(host.clone()).or_default();
            there.insert(id.clone(), settings.secrets.values().cloned().collect());
        }
    }

    async fn load_agents(&mut self, records: &Records, spec: &FleetSpec) -> Result<(), Refusal> {
        let version = spec.infra.as_ref().and_then(|infra| infra.agent.clone());
        let Some(version) = version else { return Ok(()) };
        let asked = Asked::of_infra(version);
        for Host { id, .. } in &self.hosts {
            let Some(host) = records.get::<HostRecord>(id.as_str()).await? else { continue };
            match wish(records, &host.record, &asked).await {
                Ok(_) => {}
                Err(Refusal::Precondition(why)) => drop(self.agentless.insert(id.clone(), why)),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    async fn load_secrets(&mut self, records: &Records, spec: &FleetSpec) -> Result<(), Refusal> {
        let named = spec.instances.values().flat_map(|declared| declared.secrets.values());
        for name in named.collect::<BTreeSet<_>>() {
            let newest = secrets::Newest::load(records, name).await?;
            let Some(newest) = newest.filter(|newest| newest.record.is_some()) else { continue };
            self.secrets.insert(name.clone(), newest.version());
            self.secret_heads.push(newest.head);
        }
        Ok(())
    }

    async fn load_images(&mut self, records: &Records, spec: &FleetSpec) -> Result<(), Refusal> {
        let references: BTreeSet<&ImageRef> = spec.instances.values().map(|i| &i.image).collect();
        for reference in references {
            let Some(Tagged { image: stored, signed }) = image(records, reference).await? else {
                continue;
            };
            let pinned = PinnedImage {
                reference: reference.clone(),
                digest: record_digest(&stored)?,
                size: stored.record.size,
                signed: signed.map(Box::new),
            };
            self.images.insert(reference.clone(), pinned);
            if !self.image_records.iter().any(|known| known.id == stored.id) {
                self.image_records.push(stored);
            }
        }
        Ok(())
    }
}

/// The hosts whose agents took `fleet` back, as they last reported.
async fn went_back(
    records: &Records,
    fleet: &FleetName,
) -> Result<BTreeMap<HostId, String>, Refusal> {
    let mut found = BTreeMap::new();
    for stored in records.list::<HostStatusRecord>().await?.records {
        let instances = stored.record.status.into_iter().flat_map(|status| status.instances);
        let mut why = instances.filter_map(|instance| {
            let id: InstanceId = instance.id.parse().ok()?;
            instance.went_back.filter(|_| id.fleet == *fleet)
        });
        if let Some(why) = why.next() {
            found.insert(inventory::host_id(&stored.id)?, why);
        }
    }
    Ok(found)
}

/// Whether what a revision says of its instances' places is so, or is being made so.
fn counts(state: State) -> bool {
    !state.is_final() || state.is_proof()
}

impl Newest {
    /// The newest revision up to this one that was proved.
    ///
    /// # Errors
    /// As [`World::load`].
    pub async fn proved(&self, records: &Records) -> Result<Option<u64>, Refusal> {
        if self.rollout.is_proof() {
            return Ok(Some(self.revision.number));
        }
        self.proved_before(records).await
    }

    /// The newest revision before this one that was proved.
    ///
    /// # Errors
    /// As [`World::load`].
    pub async fn proved_before(&self, records: &Records) -> Result<Option<u64>, Refusal> {
        let mut known = self.rollout.back_to;
        let mut number = self.revision.number;
        // Rollouts of before versions that go back don't say.
        while known.is_none() && number > 1 {
            number -= 1;
            let id = revision_id(self.revision.fleet.as_str(), number);
            let Some(stored) = records.get::<RolloutRecord>(&id).await? else { continue };
            let rollout = rollout(&stored)?;
            known = if rollout.is_proof() { Some(number) } else { rollout.back_to };
        }
        Ok(known)
    }

    /// The newest revision of `fleet`, or `None`.
    ///
    /// # Errors
    /// As [`World::load`].
    pub async fn load(records: &Records, fleet: &FleetName) -> Result<Option<Self>, Refusal> {
        let Some(stored) = records.get::<FleetRecord>(fleet.as_str()).await? else {
            return Ok(None);
        };
        let number = stored.record.revision;
        let revision = inventory::revision(records, fleet.as_str(), number).await?;
        let id = revision_id(fleet.as_str(), number);
        let rollout_record = records.get::<RolloutRecord>(&id).await?;
        let rollout_record = rollout_record
            .ok_or_else(|| inventory::damaged::<RolloutRecord>(&id, "it is not there"))?;
        let rollout = rollout(&rollout_record)?;
        Ok(Some(Self { fleet: stored, revision, rollout_record, rollout }))
    }
}

/// A rollout out of its record.
///
/// # Errors
/// The record is damaged.
pub fn rollout(stored: &Stored<RolloutRecord>) -> Result<Rollout, Refusal> {
    Rollout::try_from(stored.record.clone())
        .map_err(|error| inventory::damaged::<RolloutRecord>(&stored.id, &error.to_string()))
}

/// The id of a tag's record.
#[must_use]
pub fn tag_id(reference: &ImageRef) -> String {
    format!("{}/{}", reference.name, reference.tag)
}

/// The digest of an image's record.
///
/// # Errors
/// The record is damaged.
pub fn record_digest(stored: &Stored<ImageRecord>) -> Result<Digest, Refusal> {
    convert::digest("digest", &stored.record.digest)
        .map_err(|error| inventory::damaged::<ImageRecord>(&stored.id, &error.to_string()))
}

/// An image, and what is signed of it under the name that it was found by.
#[derive(Debug)]
pub struct Tagged {
    /// The image.
    pub image: Stored<ImageRecord>,
    /// What is signed; `None` where nothing is.
    pub signed: Option<SignedManifest>,
}

/// The image that `reference` points to; `None` where it is not known.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub async fn image(records: &Records, reference: &ImageRef) -> Result<Option<Tagged>, Refusal> {
    let id = tag_id(reference);
    let Some(tag) = records.get::<TagRecord>(&id).await? else { return Ok(None) };
    let damaged = |error: Invalid| inventory::damaged::<TagRecord>(&id, &error.to_string());
    let TagRecord { digest, signed } = tag.record;
    let digest = convert::digest("digest", &digest).map_err(damaged)?;
    let signed = signed.map(SignedManifest::try_from).transpose().map_err(damaged)?;
    let image = records.get::<ImageRecord>(&digest.to_string()).await?;
    Ok(image.map(|image| Tagged { image, signed }))
}
