//! Transfers against an origin that does what a test tells it to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use shoal_core::transfer::Phase;
use shoal_image::Sha256Sum;
use shoal_image::recipe::{Base, Head, Kind, SegmentHead};

use super::*;

const MIB: usize = 1 << 20;

/// How a sender behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Good,
    /// A bit of this segment is another.
    Flipped(usize),
    /// Says nothing after so many bytes.
    Silent(usize),
    /// Ends after so many bytes.
    Short(usize),
    Refuses,
}

#[derive(Default)]
struct Stage {
    image: Vec<u8>,
    /// What is planned; in place of a whole image.
    planned: Option<Head>,
    peers: Vec<Peer>,
    ways: BTreeMap<String, Way>,
    wishes: Vec<Wish>,
    /// Who was asked, and from which segment on.
    asked: Vec<(String, usize)>,
}

/// An origin with a memory.
#[derive(Default)]
struct Fake(Mutex<Stage>);

impl Fake {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap()
    }
}

/// An image of so many segments of a MiB each, and its head.
fn image(segments: u8) -> (Vec<u8>, Head) {
    let bytes: Vec<u8> =
        (0..segments).flat_map(|number| std::iter::repeat_n(number, MIB)).collect();
    (bytes.clone(), whole(&bytes))
}

fn whole(bytes: &[u8]) -> Head {
    let segments = bytes.chunks(MIB).map(|segment| SegmentHead {
        output: u64::try_from(segment.len()).unwrap(),
        encoded: u32::try_from(segment.len()).unwrap(),
        hash: blake3::hash(segment).into(),
    });
    let (target, size) = (Sha256Sum::of(bytes), u64::try_from(bytes.len()).unwrap());
    Head { target, size, kind: Kind::Whole, segments: segments.collect() }
}

#[async_trait]
impl Origin for Fake {
    async fn plan(&self, wish: Wish, progress: origin::Progress<'_>) -> Result<Plan, String> {
        progress(1, 2);
        let mut stage = self.stage();
        let head = match stage.planned.clone().filter(|_| !wish.whole) {
            Some(planned) => planned,
            None => whole(&stage.image),
        };
        let peers = stage.peers.iter().filter(|peer| !wish.failed.contains(&peer.id));
        let peers = peers.cloned().collect();
        stage.wishes.push(wish);
        Ok(Plan { head, peers })
    }

    async fn segments(
        &self,
        sender: &Sender,
        _: RecipeId,
        first: usize,
    ) -> Result<Bytestream, String> {
        let mut stage = self.stage();
        stage.asked.push((sender.name().to_owned(), first));
        let way = stage.ways.get(sender.name()).copied().unwrap_or(Way::Good);
        let mut bytes = stage.image.get(first * MIB..).unwrap_or_default().to_vec();
        match way {
            Way::Flipped(segment) => {
                if let Some(byte) = bytes.get_mut((segment - first) * MIB + 77) {
                    *byte ^= 1;
                }
            }
            Way::Silent(length) | Way::Short(length) => bytes.truncate(length),
            Way::Refuses => return Err("enough hosts are served here".into()),
            Way::Good => {}
        }
        let chunks: Vec<_> =
            bytes.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let sent = stream::iter(chunks);
        Ok(match way {
            Way::Silent(_) => sent.chain(stream::pending()).boxed(),
            _ => sent.boxed(),
        })
    }
}

struct Bench {
    origin: Arc<Fake>,
    stager: Stager,
    bell: Arc<Notify>,
    events: Events,
    stop: CancellationToken,
    dir: tempfile::TempDir,
    wanted: PinnedImage,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bench {
    fn new(image: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        std::fs::create_dir(dir.path().join("recipes")).unwrap();
        let origin = Arc::new(Fake::default());
        image.clone_into(&mut origin.stage().image);
        let (bell, events) = (Arc::new(Notify::new()), Events::new());
        let stop = CancellationToken::new();
        let shelf = Shelf::open(dir.path().join("recipes"), images.clone());
        let (bell_too, events_too) = (bell.clone(), events.clone());
        let setup = Setup {
            origin: origin.clone(),
            dir: images,
            shelf,
            bell: bell_too,
            events: events_too,
        };
        let stager = Stager::start(setup, stop.clone());
        let digest = Digest::from(<[u8; 32]>::from(Sha256Sum::of(image)));
        let size = u64::try_from(image.len()).unwrap();
        let reference = "app:1".parse().unwrap();
        let wanted = PinnedImage { reference, digest, size, signed: None };
        Self { origin, stager, bell, events, stop, dir, wanted }
    }

    fn want(&self) {
        let action = Action::Stage(self.wanted.clone());
        self.stager.want(&[Step { action, reason: "shop/main needs it".into() }]);
    }

    fn peers(&self, peers: &[(&str, Way)]) {
        let mut stage = self.origin.stage();
        for (number, (name, way)) in (1..).zip(peers) {
            stage.ways.insert((*name).to_owned(), *way);
            stage.peers.push(Peer {
                id: format!("id-{name}").parse().unwrap(),
                name: name.parse().unwrap(),
                address: ([10, 0, 0, number], 7445).into(),
                identity: format!("spiffe://x/agent/id-{name}").parse().unwrap(),
            });
        }
    }

    async fn until<T>(&self, mut look: impl FnMut(&Stager) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&self.stager) {
                return found;
            }
            self.bell.notified().await;
        }
    }

    /// Waits for the image, and looks at it.
    async fn come(&self) -> TransferStatus {
        self.want();
        let done = |stager: &Stager| {
            let mut statuses = stager.statuses().into_iter();
            statuses.find(|status| status.phase == Phase::Done)
        };
        let status = self.until(done).await;
        let path = self.dir.path().join(format!("images/{}.squashfs", self.wanted.digest));
        assert!(std::fs::read(path).unwrap() == self.origin.stage().image, "another image");
        assert_eq!(status.received, self.wanted.size);
        status
    }

    fn asked(&self) -> Vec<(String, usize)> {
        self.origin.stage().asked.clone()
    }

    async fn events(&self) -> String {
        let events = self.events.next_batch().await.events;
        events.iter().map(|event| format!("{}\n", event.message)).collect()
    }
}

fn pairs(asked: &[(&str, usize)]) -> Vec<(String, usize)> {
    asked.iter().map(|(name, first)| ((*name).to_owned(), *first)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_image_comes_from_the_controller_and_is_told_of() {
    let (bytes, _) = image(3);
    let bench = Bench::new(&bytes);
    let status = bench.come().await;
    assert_eq!((status.wire, status.saved, status.source.as_str()), (3 << 20, 0, "controller"));
    assert_eq!(bench.asked(), pairs(&[("controller", 0)]));
    assert!(bench.events().await.contains("image app:1 came from the controller: 3145728 bytes"));
    assert!(bench.stager.transfers().is_empty());
    // Others can have it now.
    assert_eq!(bench.stager.serves(), [RecipeId::from(*whole(&bytes).id().as_bytes())]);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_is_said_and_not_fetched() {
    let (bytes, head) = image(1);
    let bench = Bench::new(&bytes);
    let size = 1 << 60;
    let segments = std::iter::repeat_n(SegmentHead { output: size, ..head.segments[0] }, 1);
    let huge = Head { size, segments: segments.collect(), ..head };
    bench.origin.stage().planned = Some(huge);
    let action = Action::Stage(PinnedImage { size, ..bench.wanted.clone() });
    bench.stager.want(&[Step { action, reason: "shop/main needs it".into() }]);
    let why = bench.until(|stager| match stager.transfers().into_values().next() {
        Some(Transfer::NoRoom(why)) => Some(why),
        _ => None,
    });
    let why = why.await;
    assert!(why.contains("not enough space"), "{why}");
    assert_eq!(bench.asked(), []);
    assert_eq!(std::fs::read_dir(bench.dir.path().join("images")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_wrong_bytes_is_found_out_and_not_asked_again() {
    let (bytes, _) = image(4);
    let bench = Bench::new(&bytes);
    bench.peers(&[("web-1", Way::Flipped(2)), ("web-2", Way::Short(MIB / 2))]);
    let short = Way::Short(MIB / 2);
    bench.origin.stage().ways.insert("controller".into(), short);
    bench.want();
    // Nobody could bring the rest; what came is kept, and the controller hears of both.
    bench.until(|_| (bench.origin.stage().wishes.len() == 2).then_some(())).await;
    bench.origin.stage().ways.remove("controller");
    let status = bench.come().await;
    assert_eq!(status.source, "controller");
    let wanted = [("web-1", 0), ("web-2", 2), ("controller", 2), ("controller", 2)];
    assert_eq!(bench.asked(), pairs(&wanted));
    let failed = bench.origin.stage().wishes[1].failed.clone();
    assert_eq!(failed, ["id-web-1", "id-web-2"].map(|id| id.parse().unwrap()));
    let events = bench.events().await;
    assert!(events.contains("host web-1 was of no help with image app:1"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_or_refuses_is_left_for_the_next() {
    let (bytes, _) = image(3);
    let bench = Bench::new(&bytes);
    bench.peers(&[
        ("web-1", Way::Refuses),
        ("web-2", Way::Silent(MIB + MIB / 2)),
        ("web-3", Way::Good),
    ]);
    let begin = tokio::time::Instant::now();
    let status = bench.come().await;
    assert_eq!(status.source, "web-3");
    assert_eq!(bench.asked(), pairs(&[("web-1", 0), ("web-2", 0), ("web-3", 1)]));
    assert!((5..7).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_is_left_where_the_controller_knows_a_better_one() {
    let (bytes, head) = image(2);
    let bench = Bench::new(&bytes);
    bench.peers(&[("web-1", Way::Good), ("web-2", Way::Good)]);
    let progress = Progress::new(bench.bell.clone(), Events::new());
    let shelf = Shelf::none();
    let dir = bench.dir.path().join("images");
    let attempt = Attempt {
        image: &bench.wanted,
        origin: &*bench.origin,
        shelf: &shelf,
        progress: &progress,
        have: vec![],
        dir: &dir,
        reserve: 0,
        wanted: &|| true,
    };
    let assembler = shoal_image::Assembler::open(head.clone(), &dir, &dir, 0).unwrap();
    let sender = Sender::Peer(bench.origin.stage().peers[0].clone());
    let note = Note::default();
    let mut work = transfer::Work::new(head, assembler, None);
    assert!(attempt.replan(&mut work, &sender, &note).await.is_none(), "it is too early");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(attempt.replan(&mut work, &sender, &note).await.is_none(), "it is the best");
    bench.origin.stage().peers.reverse();
    tokio::time::advance(Duration::from_secs(10)).await;
    let others = attempt.replan(&mut work, &sender, &note).await.expect("another is better");
    let names: Vec<&str> = others.iter().map(Sender::name).collect();
    assert_eq!(names, ["web-2", "web-1", "controller"]);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_was_cut_goes_on_where_it_was() {
    let (bytes, _) = image(3);
    let bench = Bench::new(&bytes);
    bench.origin.stage().ways.insert("controller".into(), Way::Short(MIB + 5));
    bench.want();
    bench.until(|_| (bench.asked().len() == 1).then_some(())).await;
    bench.origin.stage().ways.clear();
    let status = bench.come().await;
    assert_eq!(bench.asked(), pairs(&[("controller", 0), ("controller", 1)]));
    assert_eq!(status.wire, (3 << 20) + 5);
}

#[tokio::test(start_paused = true)]
async fn what_can_t_be_made_from_what_is_here_comes_whole() {
    let (bytes, head) = image(2);
    let bench = Bench::new(&bytes);
    let kind = Kind::Delta {
        sources: vec![Base { sum: Sha256Sum::of(b"gone"), size: 4 }],
        codecs: shoal_image::codecs(),
        compressor: shoal_image::Compressor::Zstd,
        options: vec![],
        block_size: 131_072,
    };
    bench.origin.stage().planned = Some(Head { kind, ..head });
    bench.come().await;
    let whole: Vec<bool> = bench.origin.stage().wishes.iter().map(|wish| wish.whole).collect();
    assert_eq!(whole, [false, true]);
    let events = bench.events().await;
    assert!(events.contains("image app:1 comes whole: "), "{events}");
}

#[tokio::test(start_paused = true)]
async fn another_image_than_the_one_that_is_wanted_is_not_taken() {
    let (bytes, _) = image(2);
    let bench = Bench::new(&bytes);
    bench.origin.stage().planned = Some(image(1).1);
    bench.want();
    let why = bench.until(|stager| match stager.transfers().into_values().next() {
        Some(Transfer::Failed(why)) => Some(why),
        _ => None,
    });
    assert!(why.await.starts_with("the controller planned another image"));
    assert_eq!(bench.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_at_once_when_there_is_room() {
    let (bytes, _) = image(2);
    let bench = Bench::new(&bytes);
    bench.origin.stage().planned = Some(image(1).1);
    bench.want();
    for tries in 1..6 {
        let tried = || bench.origin.stage().wishes.len() >= tries;
        let began = tokio::time::Instant::now();
        bench
            .until(|stager| {
                stager.retry();
                tried().then_some(())
            })
            .await;
        assert!(began.elapsed() < Duration::from_secs(1), "{tries}: {:?}", began.elapsed());
    }
}

#[test]
fn a_twentieth_of_a_disk_stays_free_within_bounds() {
    let gib = 1 << 30;
    assert_eq!(reserve(0), 64 << 20);
    assert_eq!(reserve(10 * gib), gib / 2);
    assert_eq!(reserve(4096 * gib), gib);
}
