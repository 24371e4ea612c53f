use super::*;
use std::cell::Cell;
use std::io;

struct World {
    dir: tempfile::TempDir,
    paths: Paths,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths { state: dir.path().into(), ..Paths::default() };
    make_private_dir(&paths.snapshots()).unwrap();
    World { dir, paths }
}

fn before(revision: u64) -> Before {
    let (from, to) = (Some("1".parse().unwrap()), "2".parse().unwrap());
    Before { revision, from, to }
}

impl World {
    fn put(&self, path: &str, content: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Every file below `path`, with what is in it.
    fn files(&self, path: &str) -> BTreeMap<String, String> {
        let root = self.dir.path().join(path);
        let (mut all, mut left) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if let Ok(content) = fs::read_to_string(&path) {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                all.insert(name, content);
            }
        }
        all
    }

    fn take(&self, revision: u64, rename: Rename<'_>) -> Result<u64, DataError> {
        take(&self.paths, &before(revision), &Progress::default(), rename, Timestamp(7))
    }

    fn complete(&self) -> Vec<u64> {
        complete(&self.paths).unwrap().into_iter().collect()
    }

    /// What a host has before the new version, of which a snapshot is taken, and after it.
    fn upgrade(&self) {
        self.put("instances/infra-db/data/var/x", "old");
        self.put("instances/infra-db/data/log/x", "old");
        self.put("instances/infra-db/hooks.json", "old");
        self.put("instances/infra-db/instance.json", "a record");
        self.put("instances/gone-app/data/var/x", "of one that is not wanted any more");
        self.take(4, &copy::rename).unwrap();
        self.put("instances/infra-db/data/var/x", "new");
        self.put("instances/infra-db/hooks.json", "new");
        self.put("instances/infra-db/data/made/x", "new");
        fs::remove_dir_all(self.dir.path().join("instances/infra-db/data/log")).unwrap();
        self.put("instances/infra-new/data/var/x", "new");
        self.put("instances/infra-new/hooks.json", "new");
    }

    fn assert_is_back(&self) {
        let instances = self.files("instances");
        let expected = [
            ("gone-app/data/var/x", "of one that is not wanted any more"),
            ("infra-db/data/log/x", "old"),
            ("infra-db/data/var/x", "old"),
            ("infra-db/hooks.json", "old"),
            ("infra-db/instance.json", "a record"),
        ];
        let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
        assert_eq!(instances, expected.into());
        let mut aside = self.files("undone/4");
        assert!(aside.remove("manifest.json").is_some());
        let expected = [
            ("gone-app/var/x", "of one that is not wanted any more"),
            ("infra-db/made/x", "new"),
            ("infra-db/var/x", "new"),
            ("infra-new/.hooks.json", "new"),
            ("infra-new/var/x", "new"),
        ];
        let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
        assert_eq!(aside, expected.into());
        assert_eq!((self.complete(), half_back(&self.paths).unwrap()), (vec![], None));
    }
}

/// Renames as often as is given, then is killed: before the next one, or right after it.
fn killed(times: usize, after: bool) -> impl Fn(&Path, &Path) -> Result<(), FileError> {
    let left = Cell::new(times);
    move |from, to| {
        if left.get() > 0 {
            left.set(left.get() - 1);
            return copy::rename(from, to);
        }
        if after {
            copy::rename(from, to)?;
        }
        Err(crate::files::failed("move away", from)(io::Error::other("killed")))
    }
}

#[test]
fn a_snapshot_has_all_data_and_is_taken_once() {
    let world = world();
    world.put("instances/infra-db/data/var/x", "old");
    world.put("instances/infra-db/hooks.json", "what is remembered");
    world.put("instances/infra-db/scratch/upper/x", "no data");
    assert!(world.take(4, &copy::rename).unwrap() > 0);
    let mut files = world.files("snapshots/4");
    let manifest: Manifest = serde_json::from_str(&files.remove(MANIFEST).unwrap()).unwrap();
    assert_eq!((manifest.revision, manifest.at), (4, Timestamp(7)));
    assert_eq!((manifest.from, manifest.to.as_str()), (Some("1".parse().unwrap()), "2"));
    let expected = [("infra-db/.hooks.json", "what is remembered"), ("infra-db/var/x", "old")];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
    assert_eq!(files, expected.into());
    world.put("instances/infra-db/data/var/x", "new");
    assert_eq!(world.take(4, &copy::rename).unwrap(), 0);
    assert_eq!(world.files("snapshots/4")["infra-db/var/x"], "old");
}

#[test]
fn a_snapshot_that_was_cut_off_is_none_and_leaves_nothing() {
    let world = world();
    world.put("instances/infra-db/data/var/x", "old");
    world.take(4, &killed(0, false)).unwrap_err();
    assert_eq!(world.complete(), [0; 0]);
    world.put("snapshots/5.0badcafe.partial/infra-db/var/x", "half");
    world.take(4, &copy::rename).unwrap();
    assert_eq!(names(&world.paths.snapshots()).unwrap(), ["4"]);
    let progress = Progress::default();
    progress.call_off();
    let called_off = take(&world.paths, &before(6), &progress, &copy::rename, Timestamp(7));
    assert!(matches!(called_off, Err(DataError::Copy(CopyError::CalledOff))));
    assert_eq!(world.complete(), [4]);
}

#[test]
fn a_host_without_data_has_a_snapshot_too() {
    let world = world();
    world.take(4, &copy::rename).unwrap();
    assert_eq!(world.complete(), [4]);
    assert!(put_back(&world.paths, 4, &copy::rename).unwrap().is_some());
    assert_eq!(world.complete(), [0; 0]);
}

#[test]
fn data_goes_back_and_what_was_there_is_kept() {
    let world = world();
    world.upgrade();
    let aside = put_back(&world.paths, 4, &copy::rename).unwrap();
    assert_eq!(aside, Some(world.paths.undone().join("4")));
    world.assert_is_back();
    assert_eq!(put_back(&world.paths, 4, &copy::rename).unwrap(), None, "it has been done");
    // The same revision once more is kept beside.
    world.take(4, &copy::rename).unwrap();
    let aside = put_back(&world.paths, 4, &copy::rename).unwrap();
    assert_eq!(aside, Some(world.paths.undone().join("4-2")));
}

#[test]
fn whoever_is_killed_while_data_goes_back_goes_on_from_there() {
    for after in [false, true] {
        let mut killed_at = 0;
        loop {
            let world = world();
            world.upgrade();
            if put_back(&world.paths, 4, &killed(killed_at, after)).is_ok() {
                break;
            }
            killed_at += 1;
            // After its last rename, the snapshot is gone, and all is done.
            if !world.complete().is_empty() {
                assert_eq!(half_back(&world.paths).unwrap(), Some(4));
                put_back(&world.paths, 4, &killed(1, after)).err();
                put_back(&world.paths, 4, &copy::rename).unwrap();
            }
            world.assert_is_back();
        }
        assert!(killed_at > 6, "each of them was tried: {killed_at}");
    }
}

#[test]
fn a_snapshot_that_can_t_be_read_is_not_put_back() {
    let world = world();
    world.upgrade();
    world.put("snapshots/4/manifest.json", "{");
    let error = put_back(&world.paths, 4, &copy::rename).unwrap_err().to_string();
    assert!(error.contains("snapshots/4/manifest.json is damaged"), "{error}");
    assert_eq!(world.files("instances")["infra-db/data/var/x"], "new");
}

#[test]
fn the_newest_few_are_kept() {
    let world = world();
    for revision in [2, 9, 10] {
        world.take(revision, &copy::rename).unwrap();
    }
    clear_old(&world.paths).unwrap();
    assert_eq!(world.complete(), [9, 10]);
    assert_eq!(names(&world.paths.snapshots()).unwrap(), ["10", "9"]);
}

#[test]
fn what_can_t_be_copied_or_put_back_is_told_before() {
    let world = world();
    world.put("instances/infra-db/data/var/x", "old");
    assert_eq!(unfit(&world.paths, true).unwrap(), None);
    let (elsewhere, link) = (world.dir.path().join("big"), "instances/infra-db/data/link");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.dir.path().join(link)).unwrap();
    let why = unfit(&world.paths, false).unwrap().unwrap();
    assert!(why.contains("data/link is a link"), "{why}");
}

/// The form on disk is a promise to every later version.
#[test]
fn the_form_on_disk_stays() {
    let golden = serde_json::json!({
        "format": 1, "revision": 4, "from": "1", "to": "2", "at": 7, "bytes": 9,
        "machines": {"infra-db": ["var"]},
    });
    let manifest: Manifest = serde_json::from_value(golden.clone()).unwrap();
    assert_eq!(serde_json::to_value(&manifest).unwrap(), golden);
}
