use std::io::Cursor;

use minisign::KeyPair;
use shoal_core::spec::InstanceSpec;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A host whose root pinned `key` for images called app.
struct Host {
    _dir: tempfile::TempDir,
    paths: Paths,
    name: HostName,
    trust: Trust,
    key: KeyPair,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        std::fs::create_dir_all(paths.agent()).unwrap();
        std::fs::create_dir_all(paths.images()).unwrap();
        let key = KeyPair::generate_unencrypted_keypair().unwrap();
        let pinned = format!("[keys]\napp = [\"{}\"]\n", key.pk.to_base64());
        let trust = toml::from_str(&pinned).unwrap();
        Self { _dir: dir, paths, name: "h1".parse().unwrap(), trust, key }
    }

    fn sign(&self, text: &str) -> Option<Box<SignedManifest>> {
        let signature = minisign::sign(None, &self.key.sk, Cursor::new(text), None, None).unwrap();
        Some(Box::new(SignedManifest::new(text.into(), signature.into_string()).unwrap()))
    }

    /// An image of this release, signed.
    fn image(&self, digest: u8, release: u64) -> PinnedImage {
        let image = unsigned(digest);
        let text = manifest(&image, release);
        PinnedImage { signed: self.sign(&text), ..image }
    }

    fn start_at(&self, image: &PinnedImage, now: Timestamp) -> Result<(), String> {
        let taken = take_into_use(&self.paths, &self.name, &self.trust, image, now);
        taken.map_err(|error| crate::chain(&error))
    }

    fn start(&self, image: &PinnedImage) -> Result<(), String> {
        self.start_at(image, NOW)
    }

    /// What an observation finds of it.
    fn seen(&self, image: &PinnedImage) -> Option<String> {
        let host = Signatures::new(self.paths.clone(), self.name.clone(), self.trust.clone());
        let spec = HostSpec { stage: vec![image.clone()], ..HostSpec::default() };
        let found = host.untrusted(&spec, NOW);
        // The second time, it is remembered.
        assert_eq!(host.untrusted(&spec, NOW), found);
        found.get(image).cloned()
    }
}

fn unsigned(digest: u8) -> PinnedImage {
    let reference = format!("app:{digest}").parse().unwrap();
    PinnedImage { reference, digest: [digest; 32].into(), size: 4096, signed: None }
}

fn manifest(image: &PinnedImage, release: u64) -> String {
    let PinnedImage { reference, digest, size, .. } = image;
    format!(
        "manifest = 1\nname = \"{}\"\ntag = \"{}\"\ndigest = \"{digest}\"\nsize = {size}\n\
         release = {release}\ncreated = \"2026-11-20T09:00:00Z\"\nexpires = \"2027-01-15T08:00:01Z\"\n",
        reference.name, reference.tag
    )
}

#[test]
fn what_the_right_key_signed_runs_and_nothing_else() {
    let (host, other) = (Host::new(), Host::new());
    let good = host.image(1, 1);
    assert_eq!((host.seen(&good), host.start(&good)), (None, Ok(())));
    let both = |image: &PinnedImage| {
        let why = host.seen(image).expect("it is not trusted");
        assert_eq!(host.start(image).unwrap_err(), why);
        why
    };
    let why = both(&unsigned(2));
    assert!(why.starts_with("host h1 does not trust image app:2: it is not signed"), "{why}");
    let why = both(&other.image(2, 1));
    assert!(why.contains("it is signed by key ") && why.contains("pin the other key"), "{why}");
    // The manifest of an image, at another.
    let why = both(&PinnedImage { signed: good.signed.clone(), ..unsigned(2) });
    assert!(why.contains("signed is of app:1 (010101010101"), "{why}");
    let mut exchanged = good.clone();
    exchanged.digest = [9; 32].into();
    assert!(both(&exchanged).contains("not of app:1 (090909090909"));
    let mut text = manifest(&unsigned(2), 1);
    let signed = host.sign(&text).unwrap();
    text = text.replace("release = 1", "release = 9");
    let altered = SignedManifest::new(text, signed.signature().into()).unwrap();
    let why = both(&PinnedImage { signed: Some(Box::new(altered)), ..unsigned(2) });
    assert!(why.contains("the text or the signature was altered; sign and push it"), "{why}");
    let why = both(&PinnedImage { signed: host.sign("any text"), ..unsigned(2) });
    assert!(why.contains("though it is signed: it is no manifest"), "{why}");
}

#[test]
fn what_was_taken_into_use_is_remembered_and_what_was_only_seen_is_not() {
    let host = Host::new();
    let (one, two, three) = (host.image(1, 1), host.image(2, 2), host.image(3, 3));
    assert_eq!(host.seen(&three), None);
    host.start(&one).unwrap();
    host.start(&three).unwrap();
    let why = host.start(&two).unwrap_err();
    assert!(why.contains("it is release 2, this host has run release 3 and never this"), "{why}");
    assert_eq!(host.seen(&two), Some(why));
    assert_eq!(host.start(&one), Ok(()), "it ran here");
    // Its signature has expired since, for all but what ran here.
    let later = NOW.after(std::time::Duration::from_secs(1));
    assert_eq!(host.start_at(&three, later), Ok(()));
    let why = host.start_at(&host.image(4, 4), later).unwrap_err();
    assert!(why.contains("expired at 2027-01-15 08:00:01 UTC"), "{why}");
}

/// The form on disk is a promise to every later version.
const GOLDEN: &str = r#"{
  "version": 1,
  "names": {
    "app": {
      "release": 7,
      "images": {
        "0101010101010101010101010101010101010101010101010101010101010101": 1800000000000
      }
    }
  }
}"#;

#[test]
fn the_form_on_disk_stays() {
    let host = Host::new();
    host.start(&host.image(1, 7)).unwrap();
    assert_eq!(std::fs::read_to_string(host.paths.accepted()).unwrap(), GOLDEN);
    host.start(&host.image(1, 7)).unwrap();
    assert_eq!(std::fs::read_to_string(host.paths.accepted()).unwrap(), GOLDEN);
}

#[test]
fn what_cannot_be_read_is_not_guessed() {
    let host = Host::new();
    let good = host.image(1, 1);
    for (text, wanted) in [("{", "is damaged"), (&GOLDEN.replace(": 1,", ": 2,"), "version 2")] {
        std::fs::write(host.paths.accepted(), text).unwrap();
        let why = host.start(&good).unwrap_err();
        assert!(why.contains(wanted) && why.contains("accepted.json"), "{why}");
        assert_eq!(host.seen(&good), Some(why));
        // What has no key pinned does not depend on it.
        let other = PinnedImage { reference: "other:1".parse().unwrap(), ..unsigned(2) };
        assert_eq!((host.seen(&other), host.start(&other)), (None, Ok(())));
    }
}

#[test]
fn a_host_that_pins_nothing_reads_and_writes_nothing() {
    let host = Host { trust: Trust::default(), ..Host::new() };
    std::fs::write(host.paths.accepted(), "{").unwrap();
    assert_eq!((host.seen(&unsigned(1)), host.start(&unsigned(1))), (None, Ok(())));
    assert_eq!(host.start(&host.image(1, 1)), Ok(()));
}

#[test]
fn images_of_instances_are_looked_at_too() {
    let host = Host::new();
    let signatures = Signatures::new(host.paths.clone(), host.name.clone(), host.trust.clone());
    let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
        "id": "shop/main", "revision": 1, "run": "running", "restarts": 0,
        "config": { "image": unsigned(1), "settings": { "start": "boot", "network": "host" } },
    }))
    .unwrap();
    let spec = HostSpec { instances: vec![spec], ..HostSpec::default() };
    let found = signatures.untrusted(&spec, NOW);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&unsigned(1)]);
}
