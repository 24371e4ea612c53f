//! What goes, what stays, and who may say that it stays.

use std::time::Duration;

use shoal_proto::v1::{PruneImagesRequest, PrunedImage, SetImagePinRequest};

use super::*;

const DAY: u64 = 86_400_000;

/// After anything that was pushed here, whatever this machine's clock says.
const LATE: u64 = 4_000_000_000_000;

fn after(days: u64) -> Timestamp {
    Timestamp(LATE + days * DAY)
}

fn days(days: u64) -> Option<Duration> {
    Some(Duration::from_millis(days * DAY))
}

fn digest(number: u8) -> Digest {
    [number; 32].into()
}

impl Store {
    async fn prune(&self, older_than_ms: u64, dry_run: bool, now: Timestamp) -> Vec<PrunedImage> {
        self.prune_also(older_than_ms, dry_run, false, now).await
    }

    async fn prune_also(
        &self,
        older_than_ms: u64,
        dry_run: bool,
        tagged: bool,
        now: Timestamp,
    ) -> Vec<PrunedImage> {
        let older_than_ms = Some(older_than_ms);
        let request = PruneImagesRequest { older_than_ms, tagged, dry_run };
        let response = self.images.prune(request, ADA, now).await.unwrap();
        assert_eq!(response.bytes, response.images.iter().map(|image| image.size).sum::<u64>());
        response.images
    }

    async fn pin(&self, name: &str, pinned: bool) -> shoal_proto::v1::Image {
        let request = SetImagePinRequest { name: name.into(), pinned };
        self.images.set_pin(request, ADA, NOON).await.unwrap().image.unwrap()
    }

    async fn untag(&self, reference: &str) {
        let id = tag_id(&reference.parse().unwrap());
        let stored = self.lab.records.get::<TagRecord>(&id).await.unwrap().unwrap();
        let mut batch = Batch::new();
        batch.remove(&stored).unwrap();
        self.lab.records.commit(batch).await.unwrap();
    }

    async fn is_there(&self, digest: &Digest) -> bool {
        self.images.records.get::<ImageRecord>(&digest.to_string()).await.unwrap().is_some()
    }

    async fn audited(&self, what: &str) -> usize {
        let audit = self.lab.records.list::<AuditRecord>().await.unwrap().records;
        audit.iter().filter(|entry| entry.record.what == what).count()
    }
}

#[tokio::test]
async fn an_untagged_image_goes_when_nothing_has_needed_it_for_a_week() {
    let store = Store::pushed("deb:12").await;
    let kept = days(7);
    let look = async |day: u64| store.images.look_after(kept, "c", after(day)).await.unwrap();
    look(0).await;
    store.untag("deb:12").await;
    look(1).await;
    assert_eq!(store.get(&store.digest().short()).await.unwrap().unneeded_ms, Some(after(1).0));
    look(7).await;
    assert!(store.is_there(&store.digest()).await, "six days");
    // Someone has it for a day.
    store.set_tag("deb:again", store.digest()).await.unwrap();
    look(7).await;
    store.untag("deb:again").await;
    look(8).await;
    look(14).await;
    assert!(store.is_there(&store.digest()).await, "six days since");
    store.images.look_after(None, "c", after(99)).await.unwrap();
    assert!(store.is_there(&store.digest()).await, "it is not to go by itself");
    look(99).await;
    assert!(!store.is_there(&store.digest()).await);
    assert_eq!((store.files(), store.audited("Images/Prune").await), (0, 1));
    assert!(store.is_there(&digest(1)).await, "what has a tag stays");
}

#[tokio::test]
async fn a_dry_run_says_what_goes_and_removes_nothing() {
    let store = Store::pushed("deb:12").await;
    store.untag("deb:12").await;
    assert_eq!(store.prune(7 * DAY, true, NOON).await, []);
    let listed = store.prune(0, true, NOON).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].size, length(&store.bytes));
    assert_eq!((store.files(), store.audited("Images/Prune").await), (1, 0));
    assert_eq!(store.prune(0, false, NOON).await, listed);
    assert_eq!((store.files(), store.audited("Images/Prune").await), (0, 1));
    assert_eq!(store.prune(0, false, NOON).await, []);
}

#[tokio::test]
async fn what_hosts_have_and_what_fleets_may_go_back_to_stays() {
    let store = Store::new().await;
    for number in 4..=9 {
        store.lab.image(&format!("app:{number}"), number).await;
    }
    let agent = store.lab.connect("h1");
    for number in 1..=7_u8 {
        let image = format!("app:{number}");
        store.lab.apply("shop", &[("main", image.as_str(), "h1")]).await.unwrap();
        store.lab.settle("shop", u64::from(number), &[&agent], NOON).await;
    }
    for number in 1..=9 {
        store.untag(&format!("app:{number}")).await;
    }
    let spec = store.lab.spec("h1").await;
    assert_eq!(spec.keep[0].images, [digest(6)], "what an undo needs");
    agent.converge(&spec);
    let gone = store.prune(0, true, after(99)).await;
    let gone: Vec<u8> = gone.iter().map(|image| image.digest[0]).collect();
    // The newest five are 3 to 7; no fleet ever had 8 and 9.
    assert_eq!(gone, [1, 2, 8, 9]);
    // A host that has one of them still is a reason to keep it.
    let mut status = (*store.lab.live.status(&"id-h1".parse().unwrap()).unwrap()).clone();
    status.images.push(digest(1));
    store.lab.live.report(&"id-h1".parse().unwrap(), status);
    assert_eq!(store.prune(0, true, after(99)).await.len(), 3);
}

#[tokio::test]
async fn a_pinned_image_stays_until_it_is_unpinned() {
    let store = Store::pushed("deb:12").await;
    let pinned = store.pin("deb:12", true).await;
    assert_eq!(pinned.pin.as_ref().map(|pin| pin.by.as_str()), Some(ADA));
    assert_eq!(store.pin("deb:12", true).await, pinned);
    assert_eq!(store.audited("Images/SetPin").await, 1, "saying it again changes nothing");
    let short = store.digest().short();
    let error = store.remove("deb:12").await.unwrap_err();
    let Refusal::Precondition(text) = error else { panic!("{error}") };
    assert!(text.contains("pinned by ada") && text.contains("image unpin"), "{text}");
    store.untag("deb:12").await;
    assert_eq!(store.prune_also(0, false, true, after(99)).await.len(), 3, "the others only");
    assert!(store.remove(&short).await.is_err());
    assert_eq!(store.pin(&short, false).await.pin, None);
    assert!(store.remove(&short).await.unwrap().file_removed);
}

#[tokio::test]
async fn tagged_images_go_only_where_that_is_asked_for_and_their_tags_with_them() {
    let store = Store::pushed("deb:12").await;
    store.set_tag("deb:new", store.digest()).await.unwrap();
    store.lab.apply("shop", &[("main", "app:1", "h1")]).await.unwrap();
    assert_eq!(store.prune(0, true, after(9)).await, []);
    let gone = store.prune_also(0, false, true, Timestamp(u64::MAX)).await;
    let mut references: Vec<_> = gone.iter().flat_map(|image| image.references.clone()).collect();
    references.sort();
    assert_eq!(references, ["app:2", "app:3", "deb:12", "deb:new"]);
    assert!(matches!(store.get("deb:12").await, Err(Refusal::NotFound(_))));
    assert_eq!(store.images.list().await.unwrap().images.len(), 1);
}

#[tokio::test]
async fn the_beginning_of_a_push_goes_unless_someone_goes_on_with_it() {
    let store = Store::new().await;
    let most = store.bytes.slice(..2000);
    store.push("deb:12", 0, most).await.unwrap_err();
    let later = Timestamp(u64::MAX);
    let listed = store.prune(7 * DAY, true, later).await;
    assert!(listed[0].partial && listed.len() == 1, "{listed:?}");
    assert_eq!(listed[0].size, 2000);
    assert_eq!(store.prune(7 * DAY, true, clock::now()).await, [], "it came just now");
    let claim = store.images.blobs.claim(&store.digest()).unwrap();
    assert_eq!(store.prune(0, false, later).await, []);
    drop(claim);
    assert_eq!(store.prune(7 * DAY, false, later).await, listed);
    assert_eq!(store.files(), 0);
}

#[tokio::test]
async fn a_push_that_has_no_room_is_told_what_could_go() {
    let store = Store::pushed("deb:12").await;
    let dir = store.lab.dir.path().to_owned();
    let no_space = || shoal_image::PartialError::NoSpace {
        dir: dir.clone(),
        needed: 5 << 30,
        reserve: 1,
        available: 7,
    };
    let refused = store.images.no_room(no_space().into()).await.to_string();
    assert!(refused.contains("5.0 GiB") && !refused.contains("image prune"), "{refused}");
    store.untag("deb:12").await;
    let refused = store.images.no_room(no_space().into()).await;
    assert!(matches!(refused, Refusal::Exhausted(_)));
    let text = refused.to_string();
    assert!(text.contains("1 MiB of images") && text.contains("--dry-run"), "{text}");
}

/// The one who prunes has looked before the tag came and writes after it.
#[tokio::test]
async fn a_prune_that_a_tag_overtakes_leaves_the_image() {
    let store = Store::pushed("deb:12").await;
    store.untag("deb:12").await;
    let (images, digest) = (&store.images, store.digest());
    let claim = images.blobs.claim(&digest).unwrap();
    assert_eq!(store.prune(0, false, NOON).await, [], "someone is pushing it");
    drop(claim);
    let before = store.lab.records.get::<ImageRecord>(&digest.to_string()).await.unwrap().unwrap();
    store.set_tag("deb:again", digest).await.unwrap();
    let mut batch = Batch::new();
    batch.remove(&before).unwrap();
    let outcome = store.lab.records.commit(batch).await;
    assert!(matches!(outcome, Err(CommitError::Conflict { .. })), "{outcome:?}");
    assert_eq!(store.prune(0, false, NOON).await, []);
}
