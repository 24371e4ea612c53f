//! How an image is to come to a host: by which recipe, and from whom.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::cause::chain;
use shoal_core::image::{Digest, ImageRef};
use shoal_core::name::{HostId, ImageName};
use shoal_core::sources::{Candidate, choose};
use shoal_core::time::Timestamp;
use shoal_core::transfer::RecipeId;
use shoal_proto::convert::{digest, parse, recipe_bytes};
use shoal_proto::v1::store::{HostSpecRecord, ImageRecord, TagRecord};
use shoal_proto::v1::{
    PlanTransferRequest, PlanTransferResponse, RecipeProgress, TransferPlan, plan_transfer_response,
};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::holders::Question;
use super::indexes::{IndexError, Indexes, added, hashes};
use super::making::Making;
use super::recipes::Job;
use super::{Transfers, permitted};
use crate::inventory;
use crate::refusal::Refusal;

/// Messages of progress that the agent has not taken yet: only the newest matters.
const OUTBOX: usize = 2;

/// How often an agent hears how far the making of its recipe is, at most.
const NEWS: Duration = Duration::from_millis(500);

/// How often it hears something at least: it gives a controller up that is silent for a minute.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Every host waits so long for a recipe: most are made in that time.
const SHORTEST_WAIT: Duration = Duration::from_secs(5);

/// A recipe is used where it is smaller than this part of the image, in percent.
const WORTH: u64 = 95;

type Messages = mpsc::Sender<Result<PlanTransferResponse, Status>>;

/// What an agent asks for.
#[derive(Debug)]
struct Wish {
    digest: Digest,
    have: BTreeSet<Digest>,
    failed: Vec<HostId>,
    /// Whether its compression libraries are the controller's, and it has not asked otherwise.
    recipes: bool,
}

impl TryFrom<PlanTransferRequest> for Wish {
    type Error = Refusal;

    fn try_from(wire: PlanTransferRequest) -> Result<Self, Refusal> {
        let PlanTransferRequest { digest: wanted, have, codecs, failed_sources, whole } = wire;
        let have = have.iter().map(|bytes| digest("have", bytes));
        let failed = failed_sources.iter().map(|id| parse("failed_sources", id));
        Ok(Self {
            digest: digest("digest", &wanted)?,
            have: have.collect::<Result<_, _>>()?,
            failed: failed.collect::<Result<_, _>>()?,
            recipes: !whole && codecs == shoal_image::codecs(),
        })
    }
}

impl Transfers {
    /// Answers an agent that wants an image: with progress until its recipe is made, then with
    /// the plan.
    ///
    /// # Errors
    /// The host is not to have the image, or the controller does not have it.
    pub(crate) async fn plan(
        &self,
        host: HostId,
        request: PlanTransferRequest,
    ) -> Result<ReceiverStream<Result<PlanTransferResponse, Status>>, Refusal> {
        let wish = Wish::try_from(request)?;
        permitted(&self.records, &host, &wish.digest).await?;
        for failed in &wish.failed {
            let image = wish.digest.short();
            tracing::warn!(%host, %failed, image, "a host got no good bytes of an image from another");
        }
        let (messages, stream) = mpsc::channel(OUTBOX);
        let transfers = self.clone();
        self.tasks.spawn(async move {
            let answer = transfers.answer(&host, &wish, &messages);
            let closed = messages.closed();
            tokio::select! {
                // The recipe is made to its end all the same.
                () = closed => {}
                result = answer => {
                    let plan = result.map(plan_transfer_response::Message::Plan);
                    let last = plan.map(message).map_err(Status::from);
                    // Where the agent is gone, nobody wants it.
                    let _ = messages.send(last).await;
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    async fn answer(
        &self,
        host: &HostId,
        wish: &Wish,
        messages: &Messages,
    ) -> Result<TransferPlan, Refusal> {
        let id = match self.delta(host, wish, messages).await? {
            Some(id) => id,
            None => {
                let whole = self.made(&Job::Whole(wish.digest), messages).await;
                whole.ok_or_else(|| no_head(&wish.digest))?
            }
        };
        let recipe = self.read(id).await?;
        let size = recipe.head().size;
        let hosts = inventory::hosts(&self.records).await?;
        let question = Question { host, recipe: id, size, failed: &wish.failed };
        let live = &self.live;
        let status = |host: &HostId| live.fresh_status(host).filter(|_| live.is_connected(host));
        let peers = self.holders.answer(question, &hosts, &self.trust_domain, status);
        let bytes = recipe.head().encoded();
        tracing::info!(
            %host, image = wish.digest.short(), recipe = %id, size, bytes, peers = peers.len(),
            "planned how an image comes to a host"
        );
        Ok(TransferPlan { head: recipe.head().encode().into(), recipe: recipe_bytes(&id), peers })
    }

    /// The recipe that makes the image from what the host has, where there is one that is worth it.
    async fn delta(
        &self,
        host: &HostId,
        wish: &Wish,
        messages: &Messages,
    ) -> Result<Option<RecipeId>, Refusal> {
        if !wish.recipes {
            return Ok(None);
        }
        let Some(job) = self.job(host, wish.digest, &wish.have).await? else { return Ok(None) };
        let patience = self.patience(wish.digest).await?;
        let Ok(made) = timeout(patience, self.made(&job, messages)).await else {
            tracing::info!(%host, image = wish.digest.short(), ?patience, "a host waits no longer for a recipe");
            return Ok(None);
        };
        let Some(id) = made else { return Ok(None) };
        let recipe = self.read(id).await?;
        let head = recipe.head();
        let is_worth = head.encoded().saturating_mul(100) < head.size.saturating_mul(WORTH);
        Ok(is_worth.then_some(id))
    }

    /// How long a host waits for a recipe: as long as the whole image would take over the slowest
    /// link. So it has the image at most twice as late as by the better of the two ways, whichever
    /// that is; a recipe that comes too late for it is there for the next.
    async fn patience(&self, image: Digest) -> Result<Duration, Refusal> {
        let stored = self.records.get::<ImageRecord>(&image.to_string()).await?;
        let size = stored.map_or(0, |stored| stored.record.size);
        Ok(SHORTEST_WAIT.max(Duration::from_secs(size / self.slowest_link)))
    }

    /// What to make for a host that has `have`; `None` where the image should be sent whole.
    pub(super) async fn job(
        &self,
        host: &HostId,
        target: Digest,
        have: &BTreeSet<Digest>,
    ) -> Result<Option<Job>, Refusal> {
        let names = self.names(host).await?;
        let of_target = names.get(&target).cloned().unwrap_or_default();
        let mut candidates = Vec::new();
        let mut size = 0;
        for stored in self.records.list::<ImageRecord>().await?.records {
            let id = digest("digest", &stored.record.digest)?;
            if id == target {
                size = stored.record.size;
            } else if have.contains(&id) {
                let same_name = names.get(&id).is_some_and(|names| !names.is_disjoint(&of_target));
                let pushed = Timestamp(stored.record.pushed_ms);
                candidates.push(Candidate { digest: id, same_name, pushed });
            }
        }
        let indexes = Arc::clone(&self.indexes);
        let chosen = spawn_blocking(move || sources(&indexes, &target, size, &candidates)).await;
        let chosen = chosen.map_err(|error| Refusal::Internal(error.to_string()))?;
        match chosen {
            Ok(sources) if sources.is_empty() => Ok(None),
            Ok(sources) => Ok(Some(Job::Delta { target, sources })),
            Err(error) => {
                tracing::warn!(error = chain(&error), "an image is sent whole");
                Ok(None)
            }
        }
    }

    /// The names by which images go, by tags and on this host.
    async fn names(&self, host: &HostId) -> Result<BTreeMap<Digest, BTreeSet<ImageName>>, Refusal> {
        let mut names: BTreeMap<Digest, BTreeSet<ImageName>> = BTreeMap::new();
        let mut note = |digest: Digest, name: ImageName| {
            names.entry(digest).or_default().insert(name);
        };
        for tag in self.records.list::<TagRecord>().await?.records {
            let name = tag.id.split_once('/').and_then(|(name, _)| name.parse().ok());
            if let Some(name) = name {
                note(digest("digest", &tag.record.digest)?, name);
            }
        }
        if let Some(spec) = self.records.get::<HostSpecRecord>(host.as_str()).await? {
            let spec = spec.record.spec.unwrap_or_default();
            let used = spec.instances.iter().filter_map(|i| i.config.as_ref()?.image.as_ref());
            for image in used.chain(&spec.stage) {
                if let Ok(reference) = image.reference.parse::<ImageRef>() {
                    note(digest("digest", &image.digest)?, reference.name);
                }
            }
        }
        let status = self.live.status(host);
        for instance in status.iter().flat_map(|status| &status.instances) {
            note(instance.digest, instance.image.name.clone());
        }
        Ok(names)
    }

    /// Waits for a recipe, and tells how far it is. `None` where it can't be made.
    async fn made(&self, job: &Job, messages: &Messages) -> Option<RecipeId> {
        let mut making = self.maker.get(job);
        loop {
            match making.borrow_and_update().clone() {
                Making::Made(id) => return Some(id),
                Making::Failed => return None,
                Making::Waiting => tell(messages, 0, 0),
                Making::Going { done, total } => tell(messages, done, total),
            }
            wait(&mut making).await?;
        }
    }

    /// Makes what hosts that have an image of the same name are going to ask for. For right after
    /// a push.
    pub(crate) fn make_ahead(&self, target: Digest) {
        let transfers = self.clone();
        let making = async move {
            if let Err(error) = transfers.ahead(target).await {
                let (image, error) = (target.short(), chain(&error));
                tracing::warn!(image, error, "recipes of an image are not made ahead");
            }
        };
        self.tasks.spawn(self.shutdown.clone().run_until_cancelled_owned(making));
    }

    pub(super) async fn ahead(&self, target: Digest) -> Result<(), Refusal> {
        self.maker.get(&Job::Whole(target));
        let mut jobs = HashSet::new();
        for host in inventory::hosts(&self.records).await? {
            let Some(status) = self.live.status(&host.id) else { continue };
            let have: BTreeSet<Digest> = status.images.iter().copied().collect();
            let Some(job) = self.job(&host.id, target, &have).await? else { continue };
            let names = self.names(&host.id).await?;
            let of = |digest| names.get(digest).cloned().unwrap_or_default();
            let is_like = |source| !of(source).is_disjoint(&of(&target));
            if job.sources().first().is_some_and(is_like) {
                jobs.insert(job);
            }
        }
        for job in &jobs {
            self.maker.get(job);
        }
        Ok(())
    }
}

/// Waits for the next news, or until the agent should hear that all is well; `None` where whoever
/// makes it has broken off.
async fn wait(making: &mut watch::Receiver<Making>) -> Option<()> {
    let seen = making.borrow().clone();
    match timeout(SIGN_OF_LIFE, making.changed()).await {
        Ok(changed) => changed.ok()?,
        Err(_) => return Some(()),
    }
    // How far it is changes all the time; how it ended must not wait.
    if matches!(seen, Making::Going { .. }) {
        let ended = making.wait_for(|now| matches!(now, Making::Made(_) | Making::Failed));
        if let Ok(Err(_)) = timeout(NEWS, ended).await {
            return None;
        }
        making.mark_changed();
    }
    Some(())
}

/// Tells how far it is, unless the agent has not taken what it was told before.
fn tell(messages: &Messages, done: u64, total: u64) {
    let making = plan_transfer_response::Message::Making(RecipeProgress { done, total });
    let _ = messages.try_send(Ok(message(making)));
}

fn message(message: plan_transfer_response::Message) -> PlanTransferResponse {
    PlanTransferResponse { message: Some(message) }
}

fn no_head(digest: &Digest) -> Refusal {
    Refusal::NotFound(format!(
        "the file of image {} can't be read here; see the controller's log, and push it again",
        digest.short()
    ))
}

fn sources(
    indexes: &Indexes,
    target: &Digest,
    size: u64,
    candidates: &[Candidate],
) -> Result<Vec<Digest>, IndexError> {
    if candidates.is_empty() {
        return Ok(vec![]);
    }
    let index = indexes.of(target)?;
    let mut blocks = BTreeMap::new();
    let mut usable = Vec::new();
    for candidate in candidates {
        // An image that can't be indexed is no source, and no obstacle.
        if let Ok(index) = indexes.of(&candidate.digest) {
            blocks.insert(candidate.digest, hashes(&index));
            usable.push(*candidate);
        }
    }
    Ok(choose(size, &usable, |before, digest| {
        let before: Vec<_> = before.iter().filter_map(|digest| blocks.get(digest)).collect();
        blocks.get(digest).map_or(0, |there| added(&index, &before, there))
    }))
}
