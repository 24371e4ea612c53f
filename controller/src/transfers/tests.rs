//! Planning and sending over real images: small ones, made by mksquashfs.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::StreamExt as _;
use shoal_core::host::HostSpec;
use shoal_core::status::HostStatus;
use shoal_image::recipe::Head;
use shoal_image::{Assembler, Sha256Sum};
use shoal_proto::convert::{digest_bytes, recipe_id};
use shoal_proto::v1::plan_transfer_response::Message;
use shoal_proto::v1::store::{ImageRecord, TagRecord};
use shoal_proto::v1::{self, PlanTransferRequest, TransferPlan};

use super::*;
use crate::fleets_api::tests_support::{Lab, NOON};
use crate::fleets_api::world::tag_id;

/// Bytes of each image, about: more than what is always sent whole.
const NOISE: usize = 3 << 20;

/// An image whose content is noise, but for one file.
fn image(dir: &Path, name: &str, seed: u8, text: &str) -> Vec<u8> {
    let tree = dir.join(name);
    std::fs::create_dir_all(&tree).unwrap();
    let mut noise = Vec::with_capacity(NOISE);
    let mut last = Sha256Sum::of(&[seed]);
    while noise.len() < NOISE {
        noise.extend(last.as_bytes());
        last = Sha256Sum::of(last.as_bytes());
    }
    std::fs::write(tree.join("noise"), noise).unwrap();
    std::fs::write(tree.join("text"), text).unwrap();
    let file = tree.with_extension("squashfs");
    #[allow(clippy::disallowed_methods)] // a test makes its images
    let output = std::process::Command::new("mksquashfs")
        .args([&tree, &file])
        .args(["-noappend", "-no-progress", "-quiet", "-all-root", "-comp", "zstd"])
        .output()
        .expect("squashfs-tools are installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(file).unwrap()
}

struct World {
    lab: Lab,
    transfers: Transfers,
    images: BTreeMap<Digest, Vec<u8>>,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::new().await;
        std::fs::create_dir(lab.dir.path().join("images")).unwrap();
        let transfers = lab.transfers().await;
        Self { lab, transfers, images: BTreeMap::new() }
    }

    /// Has an image pushed under a name.
    async fn push(&mut self, reference: &str, seed: u8, text: &str) -> Digest {
        let bytes = image(self.lab.dir.path(), &reference.replace(':', "-"), seed, text);
        let digest = Digest::from(<[u8; 32]>::from(Sha256Sum::of(&bytes)));
        let path = self.lab.dir.path().join(format!("images/{digest}.squashfs"));
        std::fs::write(path, &bytes).unwrap();
        let record = ImageRecord {
            digest: digest_bytes(&digest),
            size: u64::try_from(bytes.len()).unwrap(),
            pushed_ms: NOON.0 + u64::try_from(self.images.len()).unwrap(),
            ..ImageRecord::default()
        };
        self.lab.put(&digest.to_string(), &record).await;
        let tag = TagRecord { digest: digest_bytes(&digest) };
        self.lab.put(&tag_id(&reference.parse().unwrap()), &tag).await;
        self.images.insert(digest, bytes);
        digest
    }

    /// Has a host be wanted to have images.
    async fn want(&self, host: &str, images: &[Digest]) {
        let stage = images.iter().map(|digest| v1::PinnedImage {
            reference: "app:1".into(),
            digest: digest_bytes(digest),
            size: u64::try_from(self.images[digest].len()).unwrap(),
        });
        let spec = v1::HostSpec { generation: 1, stage: stage.collect(), ..Default::default() };
        assert!(HostSpec::try_from(spec.clone()).is_ok());
        self.lab.put(host, &HostSpecRecord { spec: Some(spec) }).await;
    }

    async fn plan(&self, host: &str, request: PlanTransferRequest) -> Result<TransferPlan, String> {
        let host = host.parse().unwrap();
        let asked = self.transfers.plan(host, request).await.map_err(|error| error.to_string());
        let mut answers = asked?;
        while let Some(answer) = answers.next().await {
            match answer.map_err(|status| status.message().to_owned())?.message.unwrap() {
                Message::Making(_) => {}
                Message::Plan(plan) => return Ok(plan),
            }
        }
        panic!("no plan came")
    }

    /// Carries a plan out on a host that has `have`. Gives the bytes that were sent.
    async fn carry_out(&self, host: &str, plan: &TransferPlan, have: &[Digest]) -> usize {
        let here = tempfile::tempdir().unwrap();
        for digest in have {
            let path = here.path().join(format!("{digest}.squashfs"));
            std::fs::write(path, &self.images[digest]).unwrap();
        }
        let head = Head::decode(&plan.head).unwrap();
        let mut assembler = Assembler::open(head.clone(), here.path(), here.path(), 0).unwrap();
        let id = recipe_id("recipe", &plan.recipe).unwrap();
        let mut bytes = Vec::new();
        let mut stream = self.transfers.send(&host.parse().unwrap(), id, 0).await.unwrap();
        while let Some(chunk) = stream.next().await {
            bytes.extend(chunk.unwrap().data);
        }
        let mut at = 0;
        for (number, segment) in head.segments.iter().enumerate() {
            let end = at + usize::try_from(segment.encoded).unwrap();
            assembler.apply(number, &bytes[at..end]).unwrap();
            at = end;
        }
        assert_eq!(at, bytes.len());
        let path = assembler.finish().unwrap();
        let target = Digest::from(<[u8; 32]>::from(head.target));
        assert!(std::fs::read(path).unwrap() == self.images[&target], "another image");
        bytes.len()
    }
}

fn request(digest: &Digest, have: &[Digest]) -> PlanTransferRequest {
    PlanTransferRequest {
        digest: digest_bytes(digest),
        have: have.iter().map(digest_bytes).collect(),
        codecs: shoal_image::codecs(),
        ..PlanTransferRequest::default()
    }
}

#[tokio::test]
async fn what_a_host_has_is_not_sent_again() {
    let mut world = World::new().await;
    let old = world.push("app:1", 1, "old").await;
    let new = world.push("app:2", 1, "new").await;
    world.want("id-h1", &[old, new]).await;
    let first = world.plan("id-h1", request(&old, &[])).await.unwrap();
    assert!(world.carry_out("id-h1", &first, &[]).await >= NOISE);
    let second = world.plan("id-h1", request(&new, &[old])).await.unwrap();
    let sent = world.carry_out("id-h1", &second, &[old]).await;
    assert!(sent < NOISE / 100, "{sent} bytes were sent");
    // For the next host it is there.
    world.want("id-h2", &[new]).await;
    let again = world.plan("id-h2", request(&new, &[old])).await.unwrap();
    assert_eq!(again.recipe, second.recipe);
    // And after a restart.
    let id = recipe_id("recipe", &second.recipe).unwrap();
    assert!(world.lab.transfers().await.recipes.job(&id).is_some());
}

#[tokio::test]
async fn an_image_comes_whole_where_nothing_else_can_be() {
    let mut world = World::new().await;
    let old = world.push("app:1", 1, "old").await;
    let new = world.push("app:2", 1, "new").await;
    let other = world.push("other:1", 9, "other").await;
    world.want("id-h1", &[new, other]).await;
    let whole = PlanTransferRequest { whole: true, ..request(&new, &[old]) };
    let codecs = PlanTransferRequest { codecs: "others".into(), ..request(&new, &[old]) };
    for (why, asked) in [
        ("it was asked for", whole),
        ("the host compresses otherwise", codecs),
        ("the host has nothing", request(&new, &[])),
        ("the host has what is not known here", request(&new, &[[5; 32].into()])),
    ] {
        let plan = world.plan("id-h1", asked).await.unwrap();
        let head = Head::decode(&plan.head).unwrap();
        assert_eq!(head.kind, shoal_image::recipe::Kind::Whole, "{why}");
        assert_eq!(head.encoded(), head.size, "{why}");
    }
    // What it has is too unlike.
    let plan = world.plan("id-h1", request(&other, &[old])).await.unwrap();
    assert_eq!(world.carry_out("id-h1", &plan, &[]).await, world.images[&other].len());
}

#[tokio::test]
async fn a_host_gets_only_what_it_is_to_have() {
    let mut world = World::new().await;
    let digest = world.push("app:1", 1, "old").await;
    let refused = world.plan("id-h1", request(&digest, &[])).await.unwrap_err();
    assert!(refused.contains("is not in the desired state of this host"), "{refused}");
    world.want("id-h1", &[digest]).await;
    let plan = world.plan("id-h1", request(&digest, &[])).await.unwrap();
    let id = recipe_id("recipe", &plan.recipe).unwrap();
    for (host, id, first, wanted) in [
        ("id-h2", id, 0, "is not in the desired state"),
        ("id-h1", id, 99, "has no segment 99"),
        ("id-h1", [9; 32].into(), 0, "is not kept here"),
    ] {
        let error = world.transfers.send(&host.parse().unwrap(), id, first).await.unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn what_will_be_asked_for_is_made_ahead_once() {
    let mut world = World::new().await;
    let old = world.push("app:1", 1, "old").await;
    let _agent = world.lab.connect("h1");
    let status = HostStatus { images: vec![old], ..HostStatus::default() };
    world.lab.live.report(&"id-h1".parse().unwrap(), status);
    let new = world.push("app:2", 1, "new").await;
    world.transfers.ahead(new).await.unwrap();
    let job = recipes::Job::Delta { target: new, sources: vec![old] };
    let mut making = world.transfers.maker.get(&job);
    let made = making.wait_for(|now| matches!(now, making::Making::Made(_))).await.unwrap().clone();
    world.want("id-h1", &[new]).await;
    let plan = world.plan("id-h1", request(&new, &[old])).await.unwrap();
    assert_eq!(made, making::Making::Made(recipe_id("recipe", &plan.recipe).unwrap()));
}

#[tokio::test]
async fn recipes_go_with_the_images_that_they_are_of() {
    let mut world = World::new().await;
    let old = world.push("app:1", 1, "old").await;
    let new = world.push("app:2", 1, "new").await;
    world.want("id-h1", &[old, new]).await;
    let delta = world.plan("id-h1", request(&new, &[old])).await.unwrap();
    let whole = world.plan("id-h1", request(&new, &[])).await.unwrap();
    let known = |transfers: &Transfers, plan: &TransferPlan| {
        transfers.recipes.job(&recipe_id("recipe", &plan.recipe).unwrap()).is_some()
    };
    let recipes = world.lab.dir.path().join("recipes");
    let files = || std::fs::read_dir(&recipes).unwrap().count();
    assert_eq!(files(), 2);
    // What a crash left of one.
    std::fs::write(recipes.join("x.unfinished"), b"half").unwrap();
    std::fs::write(recipes.join("x.recipe"), b"damaged").unwrap();
    let again = world.lab.transfers().await;
    assert!(known(&again, &delta) && known(&again, &whole));
    assert_eq!(files(), 2);
    world.transfers.forget(old).await;
    assert!(!known(&world.transfers, &delta) && known(&world.transfers, &whole));
    std::fs::remove_file(world.lab.dir.path().join(format!("images/{new}.squashfs"))).unwrap();
    assert!(!known(&world.lab.transfers().await, &whole));
    assert_eq!(files(), 0);
}
