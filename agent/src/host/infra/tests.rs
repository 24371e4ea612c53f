use std::time::Instant;

use super::*;
use crate::files::names;

struct World {
    dir: tempfile::TempDir,
    paths: Paths,
    infra: Infra,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths { state: dir.path().into(), run: dir.path().join("run"), ..Paths::default() };
    paths.prepare().unwrap();
    let infra = Infra::new(paths.clone());
    World { dir, paths, infra }
}

fn wanted(version: &str, revision: u64) -> HostSpec {
    let infra = HostInfra {
        version: version.parse().unwrap(),
        revision,
        snapshot: true,
        going_back: GoingBack::ImageAndData,
        undo: None,
        restore: None,
        agent: None,
    };
    HostSpec { generation: 1, infra: Some(infra), ..HostSpec::default() }
}

impl World {
    fn put(&self, path: &str, content: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn record(&self, version: &str) {
        self.infra.record(&version.parse().unwrap()).unwrap();
    }

    fn look(&self, wanted: &HostSpec) -> Observation {
        let mut seen = Observation::default();
        self.infra.look(wanted, &mut seen).unwrap();
        seen
    }

    /// Looks until something is so, as the loop would.
    fn until(&self, wanted: &HostSpec, is_so: impl Fn(&Observation) -> bool) -> Observation {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.look(wanted);
            if is_so(&seen) {
                return seen;
            }
            assert!(Instant::now() < end, "{seen:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_host_at_rest_has_nothing_to_do() {
    let world = world();
    world.record("1");
    let seen = world.look(&wanted("1", 3));
    assert_eq!(seen.observed.infra.version.as_ref().map(InfraVersion::as_str), Some("1"));
    assert_eq!(seen.news, ["the host has infra version 1; it had no version"]);
    assert_eq!((seen.observed.data_blocked, seen.observed.data_work), (None, None));
    assert_eq!(world.look(&wanted("1", 3)).news, [""; 0], "told once");
}

#[test]
fn data_is_measured_copied_and_told_of() {
    let world = world();
    world.put("instances/infra-db/data/var/x", "old");
    world.record("1");
    let wanted = wanted("2", 4);
    assert!(world.look(&wanted).observed.data_blocked.unwrap().starts_with("measures"));
    let seen = world.until(&wanted, |seen| seen.observed.data_blocked.is_none());
    assert!(seen.observed.snapshots.is_empty());
    let step = data_step(wanted.infra.as_ref().unwrap(), &seen.observed).unwrap();
    world.infra.begin(&wanted, &step.action);
    world.infra.begin(&wanted, &step.action);
    let told = |seen: &Observation| seen.news.iter().any(|news| news.contains("revision 4: "));
    let seen = world.until(&wanted, told);
    assert!(
        seen.observed.snapshots.contains(&4) || world.look(&wanted).observed.snapshots.contains(&4)
    );
}

#[test]
fn what_does_not_fit_is_told_and_looked_at_again() {
    let world = world();
    let mut wanted = wanted("2", 4);
    wanted.infra.as_mut().unwrap().restore = Some("nightly".parse().unwrap());
    let blocked = |seen: &Observation| {
        seen.observed.data_blocked.as_ref().is_some_and(|why| why.contains("nightly is not here"))
    };
    world.until(&wanted, blocked);
    assert!(blocked(&world.look(&wanted)), "for a while it is not looked at again");
}

#[test]
fn a_copy_that_fails_says_so_and_rests() {
    let world = world();
    world.record("1");
    // No directory can be made below it.
    std::fs::remove_dir(world.paths.snapshots()).unwrap();
    world.put("snapshots", "");
    let wanted = wanted("2", 4);
    world.infra.begin(&wanted, &Action::Snapshot(4));
    let failed = |seen: &Observation| {
        let work = seen.observed.data_work.as_deref();
        work.is_some_and(|work| work.starts_with("copying data failed: ") && work.ends_with("30 s"))
    };
    world.until(&wanted, failed);
    world.infra.begin(&wanted, &Action::Snapshot(4));
    assert!(!world.infra.is_busy());
    // Another wish is another try.
    let other = self::wanted("3", 5);
    assert_eq!(world.look(&other).observed.data_work, None);
}

#[test]
fn what_is_not_wanted_any_more_has_no_effect() {
    let world = world();
    world.put("instances/infra-db/data/var/x", "old");
    world.record("1");
    let (two, one) = (wanted("2", 4), wanted("1", 3));
    world.infra.begin(&two, &Action::Snapshot(4));
    let progress = world.infra.state().job.as_ref().map(|(_, progress)| progress.clone());
    world.look(&one);
    assert!(!world.infra.is_busy());
    // Unless it had been done by then, it never is.
    let before = snapshot::complete(&world.paths).unwrap();
    let after = progress.unwrap().commit(|| Ok::<_, CopyError>(())).is_ok();
    assert!(!after);
    assert_eq!(snapshot::complete(&world.paths).unwrap(), before);
}

#[test]
fn what_can_t_be_read_is_a_problem_and_no_new_host() {
    let world = world();
    world.put("infra.json", "{");
    let seen = world.look(&wanted("2", 4));
    assert!(seen.observed.infra_unreadable.unwrap().contains("infra.json is damaged"));
    assert_eq!(seen.problems.len(), 1);
    assert!(world.infra.record(&"2".parse().unwrap()).is_err());
    assert_eq!(std::fs::read_to_string(world.paths.infra()).unwrap(), "{");
}

#[test]
fn what_was_cut_off_going_back_comes_first() {
    let world = world();
    world.put("instances/infra-db/data/var/x", "old");
    world.record("1");
    world.infra.begin(&wanted("2", 4), &Action::Snapshot(4));
    world.until(&wanted("2", 4), |seen| seen.observed.snapshots.contains(&4));
    world.put("snapshots/4/.aside", "4");
    assert_eq!(world.look(&wanted("3", 5)).half_back, Some(4));
    let mut seen = Observation::default();
    let up = shoal_core::plan::Machine { unit: Unit::Active, ..Default::default() };
    seen.observed.machines.insert("infra-db".parse().unwrap(), up);
    world.infra.look(&wanted("3", 5), &mut seen).unwrap();
    assert_eq!((seen.half_back, seen.problems.len()), (None, 1));
    world.infra.put_back(4).unwrap();
    let seen = world.look(&wanted("3", 5));
    assert_eq!(seen.half_back, None);
    assert!(seen.news.iter().any(|news| news.contains("kept in")), "{:?}", seen.news);
    assert_eq!(names(&world.paths.undone().join("4")).unwrap(), ["infra-db", "manifest.json"]);
}
