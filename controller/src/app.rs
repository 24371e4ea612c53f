//! What every service shares.
//!
//! Way in: [`App::open`], which takes a controller's directory into use: it counts the epoch up,
//! so that agents know this run of the controller from the ones before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use shoal_core::cause::chain;
use shoal_proto::v1::store::EpochRecord;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents_api::programs::Programs;
use crate::authority::{Authority, AuthorityError};
use crate::blobs::Blobs;
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::events::Events;
use crate::fleets_api::Applying;
use crate::link::desired::Told;
use crate::listener::Connections;
use crate::live::Live;
use crate::secrets::{Vault, VaultError};
use crate::store::{Batch, CommitError, OpenError, RecordError, Records, SqliteStore};
use crate::transfers::{Parts, Transfers, TransfersError};

/// The store's file in the controller's directory.
pub const STORE: &str = "store.db";
/// Where the image files are, in the controller's directory.
pub const IMAGES: &str = "images";
/// Where the files of the agent's programs are, in the controller's directory.
pub const AGENTS: &str = "agents";
/// Where the recipes are, in the controller's directory.
pub const RECIPES: &str = "recipes";
/// The id of the one epoch record.
pub const EPOCH: &str = "current";

/// Why a controller can't start on a directory.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    #[error("cannot read the store")]
    Read(#[from] RecordError),
    #[error("cannot count up the controller's epoch")]
    Epoch(#[from] CommitError),
    #[error("the store in {dir} has no epoch record: it is not a controller's, or not whole")]
    NoEpoch { dir: PathBuf },
    #[error(transparent)]
    Transfers(#[from] TransfersError),
    #[error("cannot look at the secrets")]
    Secrets(#[from] VaultError),
    #[error("cannot open the store in the background")]
    Task(#[source] io::Error),
}

/// The shared parts. Held in an `Arc` by every service and task.
#[derive(Debug)]
pub struct App {
    /// The controller's directory.
    pub dir: PathBuf,
    /// Everything durable.
    pub records: Records,
    /// Hosts as they are right now.
    pub live: Live,
    /// What every host was told to have.
    pub told: watch::Sender<Told>,
    /// What agents did and noticed.
    pub events: Events,
    /// Who makes a revision holds this.
    pub applying: Applying,
    /// Who is connected to the main port, once that is served.
    pub connections: OnceLock<Connections>,
    /// The image files.
    pub blobs: Blobs,
    /// How they come to hosts.
    pub transfers: Transfers,
    /// The files of the agent's programs.
    pub programs: Programs,
    /// The secrets.
    pub secrets: Arc<Vault>,
    /// The CA.
    pub authority: Authority,
    /// What the operator set.
    pub config: Config,
    /// Which run of the controller this is: rises with each start.
    pub epoch: u64,
    /// Cancelled when the controller shuts down: every stream that could last has to end then.
    pub shutdown: CancellationToken,
    /// Everything that runs beside the calls, so that the controller can wait for its end.
    pub tasks: TaskTracker,
}

impl App {
    /// Takes the controller's directory `dir` into use.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn open(dir: &Path) -> Result<Arc<Self>, AppError> {
        let config = Config::read(dir)?;
        let authority = Authority::open(dir)?;
        let records = open_store(dir).await?;
        let epoch = next_epoch(&records, dir).await?;
        let secrets = Vault::open(dir, records.clone()).await?;
        if let Some(problem) = secrets.problem() {
            tracing::error!(error = chain(problem), "secrets can't be used; all else goes on");
        }
        let live = Live::load(records.clone(), config.limits.sessions_per_host).await?;
        let events = Events::load(records.clone(), clock::now()).await?;
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let parts = Parts {
            records: records.clone(),
            live: live.clone(),
            trust_domain: authority.trust_domain().clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let (images, recipes) = (dir.join(IMAGES), dir.join(RECIPES));
        let transfers = Transfers::open(&recipes, &images, config.transfers, parts).await?;
        Ok(Arc::new(Self {
            dir: dir.into(),
            records,
            live,
            told: watch::Sender::new(Told::default()),
            events,
            applying: Applying::default(),
            connections: OnceLock::new(),
            blobs: Blobs::new(&images),
            transfers,
            programs: Programs::new(&dir.join(AGENTS)),
            secrets: Arc::new(secrets),
            authority,
            config,
            epoch,
            shutdown,
            tasks,
        }))
    }
}

async fn open_store(dir: &Path) -> Result<Records, AppError> {
    let path = dir.join(STORE);
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(path))
        .await
        .map_err(|error| AppError::Task(error.into()))??;
    Ok(Records::new(Arc::new(store)))
}

async fn next_epoch(records: &Records, dir: &Path) -> Result<u64, AppError> {
    let stored = records.get::<EpochRecord>(EPOCH).await?;
    let stored = stored.ok_or_else(|| AppError::NoEpoch { dir: dir.into() })?;
    // At least the time: a store that was restored from a backup must not fall behind what its
    // agents have seen, or none would listen to it.
    let seconds = clock::now().0 / 1000;
    let epoch = stored.record.epoch.saturating_add(1).max(seconds);
    let mut batch = Batch::new();
    batch.replace(&stored, &EpochRecord { epoch })?;
    records.commit(batch).await?;
    Ok(epoch)
}
