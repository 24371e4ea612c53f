//! Going back without being told to (`shoal_core::fallback`), kept on the disk: one small file for
//! each fleet, written when something has proved good or was rejected.
//!
//! What is rejected counts once it is written, so that no power cut has it tried again. A file that
//! can't be read costs no more than the way back: it is left out and written anew.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shoal_core::fallback::{Change, Memory, Past, Seen, Way, WentBack, Wishes};
use shoal_core::host::HostSpec;
use shoal_core::image::Digest;
use shoal_core::infra::is_infra;
use shoal_core::name::{FleetName, InfraVersion};
use shoal_core::secret::{PinnedSecret, needed};
use shoal_core::spec::InstanceSpec;
use shoal_core::time::Timestamp;
use tracing::{error, info, warn};

use crate::files::{FileError, names, read_if_there, remove_file, write_whole};
use crate::paths::Paths;

/// The newest form of the files that this agent knows.
const VERSION: u32 = 1;

/// What a fleet's file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Content<P> {
    version: u32,
    #[serde(flatten)]
    past: P,
}

/// Why a fleet's file can't be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    #[error("it has version {0}, this agent knows {VERSION}")]
    TooNew(u32),
}

/// What the fleets of this host can go back to, and have gone back from. One owner.
#[derive(Debug)]
pub struct Fallback {
    dir: PathBuf,
    memory: Memory,
    /// Fleets whose files don't hold what is remembered of them.
    unsaved: BTreeSet<FleetName>,
    /// What all of it needs of the host's secrets.
    secrets: BTreeSet<PinnedSecret>,
}

impl Fallback {
    /// What is remembered on this host.
    ///
    /// # Errors
    /// Where the files can't be listed.
    pub fn open(paths: &Paths) -> Result<Self, FileError> {
        let dir = paths.fallback();
        let mut pasts = BTreeMap::new();
        for name in names(&dir)? {
            let fleet = name.strip_suffix(".json").and_then(|fleet| fleet.parse().ok());
            let Some(fleet) = fleet else { continue };
            match read(&dir.join(&name)) {
                Ok(Some(past)) => drop(pasts.insert(fleet, past)),
                Ok(None) => {}
                Err(error) => warn!(
                    %fleet, file = name, error = %crate::chain(&error),
                    "cannot read what the fleet can go back to; it has nothing until it is healthy again"
                ),
            }
        }
        let (memory, unsaved) = (Memory::new(pasts), BTreeSet::new());
        Ok(Self { dir, memory, unsaved, secrets: BTreeSet::new() })
    }

    /// The fleets that went back, with why, as the agent has noted it: for whoever only looks.
    ///
    /// # Errors
    /// Where the files can't be listed.
    pub fn noted(
        paths: &Paths,
        desired: &HostSpec,
    ) -> Result<BTreeMap<FleetName, String>, FileError> {
        let mut fallback = Self::open(paths)?;
        fallback.memory.want(wishes(desired));
        Ok(fallback.back(desired))
    }

    /// Takes in what is wanted from now on.
    pub fn want(&mut self, desired: &HostSpec) {
        let changed = self.memory.want(wishes(desired));
        self.unsaved.extend(changed);
        self.secrets = needed(desired);
        self.save();
    }

    /// What the host is to be brought to.
    #[must_use]
    pub fn effective<'a>(&self, desired: &'a HostSpec) -> Cow<'a, HostSpec> {
        self.memory.effective(desired, |fleet| !self.unsaved.contains(fleet))
    }

    /// The fleets that went back, with why.
    #[must_use]
    pub fn back(&self, desired: &HostSpec) -> BTreeMap<FleetName, String> {
        let back = |fleet: &FleetName| {
            let rejected =
                self.memory.went_back(fleet).filter(|_| !self.unsaved.contains(fleet))?;
            Some((fleet.clone(), rejected.why.clone()))
        };
        desired.instances.iter().filter_map(|spec| back(&spec.id.fleet)).collect()
    }

    /// Whether something has yet to prove itself.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.memory.is_trying()
    }

    /// Secrets that are wanted, or that going back would need.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<PinnedSecret> {
        let good = self.memory.good().flat_map(|good| good.config.settings.secrets.values());
        self.secrets.iter().chain(good).cloned().collect()
    }

    /// Images that going back would need.
    #[must_use]
    pub fn images(&self) -> BTreeSet<Digest> {
        self.memory.good().map(|good| good.config.image.digest).collect()
    }

    /// Takes in a look at the host, and at the way that it is on to an infra version. Gives the fleets that go back from now on.
    pub fn look(
        &mut self,
        desired: &HostSpec,
        see: impl Fn(&InstanceSpec) -> Seen,
        way: Option<Way<'_>>,
        now: Timestamp,
    ) -> Vec<(FleetName, WentBack)> {
        let mut back = Vec::new();
        for change in self.memory.look(desired, see, way, now) {
            let fleet = match change {
                Change::Proved(fleet) => fleet,
                Change::WentBack(fleet, went_back) => {
                    back.push((fleet.clone(), went_back));
                    fleet
                }
            };
            self.unsaved.insert(fleet);
        }
        self.save();
        for (fleet, WentBack { instance, from, to, why }) in &back {
            info!(%fleet, %instance, from, to, why, "goes back to what was healthy before");
        }
        back
    }

    /// Writes what is not on the disk yet. What can't be written is tried again with the next look.
    fn save(&mut self) {
        let (dir, memory) = (&self.dir, &self.memory);
        self.unsaved.retain(|fleet| {
            let path = dir.join(format!("{fleet}.json"));
            let written = match memory.past(fleet) {
                Some(past) => {
                    let content = Content { version: VERSION, past };
                    let bytes = serde_json::to_vec_pretty(&content).expect("it is plain data");
                    write_whole(&path, &bytes)
                }
                None => remove_file(&path),
            };
            if let Err(error) = &written {
                error!(%fleet, error = %crate::chain(error), "cannot note what proved healthy");
            }
            written.is_err()
        });
    }
}

fn read(path: &std::path::Path) -> Result<Option<Past>, Unusable> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    let content: Content<Past> = serde_json::from_slice(&bytes)?;
    if content.version > VERSION {
        return Err(Unusable::TooNew(content.version));
    }
    Ok(Some(content.past))
}

fn wishes(desired: &HostSpec) -> Wishes {
    let fleets = desired.instances.chunk_by(|a, b| a.id.fleet == b.id.fleet);
    let wish_of = |wanted: &[InstanceSpec]| {
        let fleet = wanted.first()?.id.fleet.clone();
        let infra = desired.infra.as_ref().filter(|_| is_infra(&fleet));
        let wish = wish(wanted, infra.map(|infra| &infra.version));
        Some((fleet, wish))
    };
    fleets.filter_map(wish_of).collect()
}

/// Tells wishes for a fleet apart, without keeping them.
fn wish(wanted: &[InstanceSpec], infra: Option<&InfraVersion>) -> Digest {
    let mut hasher = Sha256::new();
    if let Some(infra) = infra {
        hasher.update(serde_json::to_vec(infra).expect("a version is plain data"));
    }
    for spec in wanted {
        // Another container is asked for by another revision.
        let InstanceSpec {
            id,
            revision,
            config,
            run: _,
            restarts,
            recreate: _,
            paused: _,
            gate: _,
        } = spec;
        let asked = (id, revision, restarts, config.image.digest, &config.settings);
        hasher.update(serde_json::to_vec(&asked).expect("settings are plain data"));
    }
    <[u8; 32]>::from(hasher.finalize()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::status::Verdict;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn instance(revision: u64) -> InstanceSpec {
        let digest = format!("{revision:02x}").repeat(32);
        serde_json::from_value(serde_json::json!({
            "id": "shop/web", "revision": revision, "run": "running", "restarts": 0,
            "gate": {"secs": 60, "nanos": 0},
            "config": {
                "image": {"reference": "app:1", "digest": digest, "size": 10},
                "settings": {
                    "start": "boot", "network": "host",
                    "secrets": {"db": {"name": "db", "version": revision}},
                },
            },
        }))
        .unwrap()
    }

    fn host(revision: u64) -> HostSpec {
        HostSpec { generation: 1, instances: vec![instance(revision)], ..HostSpec::default() }
    }

    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn paths(&self) -> Paths {
            let paths = Paths { state: self.0.path().into(), ..Paths::default() };
            paths.prepare().unwrap();
            paths
        }

        fn open(&self) -> Fallback {
            Fallback::open(&self.paths()).unwrap()
        }

        fn file(&self) -> PathBuf {
            self.paths().fallback().join("shop.json")
        }
    }

    fn look(fallback: &mut Fallback, desired: &HostSpec, verdict: Verdict, at: u64) -> usize {
        let see = |_: &InstanceSpec| Seen { begun: true, verdict: verdict.clone(), waits: false };
        fallback.look(desired, see, None, Timestamp(at)).len()
    }

    fn prove(fallback: &mut Fallback) {
        fallback.want(&host(1));
        assert_eq!(look(fallback, &host(1), Verdict::Ready, 0), 0);
    }

    fn fail(fallback: &mut Fallback) -> usize {
        fallback.want(&host(2));
        let failed = || Verdict::Failed("it broke".into());
        (0..5).map(|n| look(fallback, &host(2), failed(), n * 5000)).sum()
    }

    fn revision_planned(fallback: &Fallback) -> u8 {
        let desired = host(2);
        let planned = fallback.effective(&desired);
        planned.instances[0].config.image.digest.as_bytes()[0]
    }

    fn secrets(versions: &[u64]) -> BTreeSet<PinnedSecret> {
        versions.iter().flat_map(|version| needed(&host(*version))).collect()
    }

    #[test]
    fn what_was_healthy_and_what_was_not_outlive_the_agent() {
        let world = World::new();
        let mut fallback = world.open();
        prove(&mut fallback);
        let mut fallback = world.open();
        assert_eq!(fail(&mut fallback), 1);
        assert_eq!(fallback.secrets(), secrets(&[1, 2]));
        let mut fallback = world.open();
        fallback.want(&host(2));
        assert_eq!(revision_planned(&fallback), 1);
        let back = fallback.back(&host(2));
        assert_eq!(back.values().collect::<Vec<_>>(), ["shop/web failed: it broke"]);
        assert_eq!(Fallback::noted(&world.paths(), &host(2)).unwrap(), back);
        assert_eq!(Fallback::noted(&world.paths(), &host(1)).unwrap(), BTreeMap::new());
        let meta = std::fs::metadata(world.file()).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        fallback.want(&HostSpec::default());
        assert!(!world.file().exists(), "a fleet that is gone is forgotten");
    }

    #[test]
    fn a_rejection_counts_once_it_is_written() {
        let world = World::new();
        let mut fallback = world.open();
        prove(&mut fallback);
        let full = world.file().with_extension("new");
        std::os::unix::fs::symlink("/dev/full", full).unwrap();
        assert_eq!(fail(&mut fallback), 1);
        assert_eq!(revision_planned(&fallback), 2);
        assert!(fallback.back(&host(2)).is_empty());
        look(&mut fallback, &host(2), Verdict::Waiting("starts".into()), 30_000);
        assert_eq!(revision_planned(&fallback), 1);
        let mut again = world.open();
        again.want(&host(2));
        assert_eq!(revision_planned(&again), 1);
    }

    #[test]
    fn a_file_that_cant_be_read_costs_the_way_back_and_nothing_else() {
        let world = World::new();
        let mut fallback = world.open();
        prove(&mut fallback);
        for bad in [r#"{"version": 9, "good": []}"#, "{"] {
            std::fs::write(world.file(), bad).unwrap();
            let mut fallback = world.open();
            assert_eq!(fail(&mut fallback), 0);
            assert_eq!(revision_planned(&fallback), 2);
            prove(&mut fallback);
            assert_eq!(fail(&mut world.open()), 1);
        }
    }

    #[test]
    fn wishes_differ_where_something_else_is_to_run_or_to_be_tried_again() {
        let of = |change: fn(&mut InstanceSpec)| {
            let mut spec = instance(1);
            change(&mut spec);
            wish(&[spec], None)
        };
        let same = of(|_| {});
        assert_eq!(of(|spec| spec.paused = true), same);
        assert_eq!(of(|spec| spec.gate = None), same);
        assert_eq!(of(|spec| spec.gate = Some(Duration::ZERO)), same);
        assert_ne!(of(|spec| spec.restarts = 1), same);
        assert_ne!(of(|spec| spec.revision = 2), same);
        let under = |version: &str| wish(&[instance(1)], Some(&version.parse().unwrap()));
        assert_ne!(under("1"), same);
        assert_ne!(under("1"), under("2"));
        assert_ne!(of(|spec| spec.config.settings.vars = [("a".into(), 1)].map(var).into()), same);
    }

    fn var((name, value): (String, i64)) -> (String, shoal_core::spec::Value) {
        (name, shoal_core::spec::Value::Integer(value))
    }

    #[test]
    fn the_form_on_disk_stays() {
        let golden = serde_json::json!({
            "version": 1,
            "good": [instance(1)],
            "rejected": {
                "wish": "07".repeat(32), "revision": 2, "why": "it broke", "at": 9,
            },
        });
        let content: Content<Past> = serde_json::from_value(golden.clone()).unwrap();
        assert_eq!(serde_json::to_value(&content).unwrap(), golden);
    }
}
