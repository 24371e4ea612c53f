//! How images come to hosts: by which recipe, from whom, how fast.
//!
//! Way in: [`Transfers`], which clones share. An agent asks by `AgentLink.PlanTransfer` ([`plan`]):
//! the sources are chosen among what it has (`shoal_core::sources`), the recipe is made once
//! ([`making`]) and kept ([`recipes`]), and hosts that have it already are named
//! (`shoal_core::fanout`, [`holders`]). Its bytes come by the service `Segments` ([`segments`]),
//! from here or from another agent. After a push, the recipes that will be asked for are made
//! ahead. docs/decisions/0015-image-transfer.md says why it is so.

mod chunks;
mod holders;
mod indexes;
mod making;
mod plan;
mod rates;
mod recipes;
mod segments;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_core::image::Digest;
use shoal_core::name::HostId;
use shoal_core::spec::Memory;
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::RecipeFile;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_tls::TrustDomain;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::chunks::Chunks;
use self::holders::Holders;
use self::indexes::Indexes;
use self::making::Maker;
pub(crate) use self::rates::Lane;
use self::rates::Rates;
use self::recipes::{Recipes, RecipesError};
use crate::config;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::Records;
use shoal_core::cause::chain;

/// Why the recipes can't be taken into use.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the recipes in {dir}")]
pub struct TransfersError {
    dir: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What transfers need of the controller.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) records: Records,
    pub(crate) live: Live,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// The transfers of one controller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transfers {
    records: Records,
    live: Live,
    trust_domain: TrustDomain,
    recipes: Arc<Recipes>,
    indexes: Arc<Indexes>,
    maker: Maker,
    holders: Arc<Holders>,
    chunks: Arc<Chunks>,
    rates: Arc<Rates>,
    /// Bytes in a second of the slowest link to a host.
    slowest_link: u64,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Transfers {
    /// Of the recipes in `dir` and the images in `images`.
    ///
    /// # Errors
    /// The directory can't be made or read.
    pub(crate) async fn open(
        dir: &Path,
        images: &Path,
        limits: config::Transfers,
        parts: Parts,
    ) -> Result<Self, TransfersError> {
        let Parts { records, live, trust_domain, tasks, shutdown } = parts;
        let config::Transfers { rate, rate_per_host, keep: Memory(keep), slowest_link } = limits;
        let (opened, images) = (dir.to_owned(), images.to_owned());
        let opening = spawn_blocking(move || {
            let indexes = Indexes::open(images.clone());
            Recipes::open(opened, images, keep).map(|recipes| (recipes, indexes))
        });
        let failed = |source| TransfersError { dir: dir.to_owned(), source };
        let opened = opening.await.map_err(|error| failed(error.into()))?;
        let (recipes, indexes) = opened.map_err(|error| failed(error.into()))?;
        let (recipes, indexes) = (Arc::new(recipes), Arc::new(indexes));
        let maker = Maker::new(Arc::clone(&recipes), tasks.clone(), shutdown.clone());
        Ok(Self {
            records,
            live,
            trust_domain,
            recipes,
            indexes,
            maker,
            holders: Arc::default(),
            chunks: Arc::default(),
            rates: Arc::new(Rates::new(rate, rate_per_host)),
            slowest_link: slowest_link.0.max(1),
            tasks,
            shutdown,
        })
    }

    /// Removes what is kept for the sake of an image that is gone.
    pub(crate) async fn forget(&self, image: Digest) {
        let (recipes, indexes) = (Arc::clone(&self.recipes), Arc::clone(&self.indexes));
        let forgetting = spawn_blocking(move || {
            recipes.forget(&image);
            indexes.forget(&image);
        });
        if let Err(error) = forgetting.await {
            tracing::error!(%error, "cannot remove the recipes of an image");
        }
    }

    /// What a transfer of an image to `host` has to keep to.
    pub(crate) fn lane(&self, host: &HostId) -> Lane {
        self.rates.lane(host)
    }

    async fn read(&self, id: RecipeId) -> Result<Arc<RecipeFile>, Refusal> {
        let recipes = Arc::clone(&self.recipes);
        let broken = |error: JoinError| Refusal::Internal(error.to_string());
        Ok(spawn_blocking(move || recipes.read(id)).await.map_err(broken)??)
    }
}

impl From<RecipesError> for Refusal {
    fn from(error: RecipesError) -> Self {
        let text = chain(&error);
        match error {
            RecipesError::Unknown { .. } | RecipesError::NoImage { .. } => Self::NotFound(text),
            RecipesError::File(_) | RecipesError::Io { .. } | RecipesError::Head { .. } => {
                Self::Internal(text)
            }
        }
    }
}

/// Whether a host is to have an image.
///
/// # Errors
/// It is not: [`Refusal::Denied`].
pub(crate) async fn permitted(
    records: &Records,
    host: &HostId,
    image: &Digest,
) -> Result<(), Refusal> {
    let stored = records.get::<HostSpecRecord>(host.as_str()).await?;
    let spec = stored.and_then(|stored| stored.record.spec).unwrap_or_default();
    let used = spec.instances.iter().filter_map(|wanted| wanted.config.as_ref()?.image.as_ref());
    if used.chain(&spec.stage).any(|named| *named.digest == image.as_bytes()[..]) {
        return Ok(());
    }
    Err(Refusal::Denied(format!(
        "image {} is not in the desired state of this host, so it gets no byte of it",
        image.short()
    )))
}
