//! Two agents on loopback, with real mutual TLS.

use std::time::SystemTime;

use futures_util::StreamExt as _;
use shoal_core::transfer::RecipeId;
use shoal_image::Sha256Sum;
use shoal_image::recipe::{Head, Kind, SegmentHead};
use shoal_tls::{Ca, LeafKey, ReloadableIdentity, Roots};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::identity::About;
use crate::link::ControllerSource;
use crate::stage::origin::{Origin as _, Peer, Sender};
use crate::stage::{Shelf, Wire};

const SEGMENT: usize = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    crate::clock::system_time()
}

fn ca() -> Ca {
    Ca::generate(&"x".parse().unwrap(), now(), 2 * DAY).unwrap()
}

/// Someone with a certificate of `ca`.
fn identity(ca: &Ca, name: &str) -> Arc<Identity> {
    let key = LeafKey::generate().unwrap();
    let whom = format!("spiffe://x/{name}").parse().unwrap();
    let issued = ca.issue(&key.csr_der().unwrap(), &whom, now(), DAY).unwrap();
    let certificate = ReloadableIdentity::from_pem(&issued.chain_pem, &key.to_pem()).unwrap();
    let about = About::new("h1".parse().unwrap(), "web-1".parse().unwrap(), "c".into(), 7443, 7444);
    let roots = Roots::from_pem(ca.cert_pem()).unwrap();
    Arc::new(Identity::new(about, key, certificate, roots, issued.chain_pem))
}

struct Host {
    peer: Peer,
    shelf: Shelf,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A host that serves, whose agent is `agent/h1`.
async fn host(ca: &Ca, rate: Option<Memory>) -> Host {
    let dir = tempfile::tempdir().unwrap();
    for name in ["images", "recipes"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let shelf = Shelf::open(dir.path().join("recipes"), dir.path().join("images"));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = free.local_addr().unwrap();
    drop(free);
    let stop = CancellationToken::new();
    let policy = PeerPolicy { listen, rate };
    let serving = serve(policy, identity(ca, "agent/h1"), shelf.clone(), stop.clone());
    tokio::spawn(serving);
    while tokio::net::TcpStream::connect(listen).await.is_err() {
        tokio::task::yield_now().await;
    }
    let peer = Peer {
        id: "h1".parse().unwrap(),
        name: "web-1".parse().unwrap(),
        address: listen,
        identity: "spiffe://x/agent/h1".parse().unwrap(),
    };
    Host { peer, shelf, stop, dir }
}

fn head(bytes: &[u8]) -> Head {
    let segments = bytes.chunks(SEGMENT).map(|segment| SegmentHead {
        output: u64::try_from(segment.len()).unwrap(),
        encoded: u32::try_from(segment.len()).unwrap(),
        hash: [0; 32],
    });
    let (target, size) = (Sha256Sum::of(bytes), u64::try_from(bytes.len()).unwrap());
    Head { target, size, kind: Kind::Whole, segments: segments.collect() }
}

fn id(head: &Head) -> RecipeId {
    RecipeId::from(*head.id().as_bytes())
}

async fn fetch(
    who: Arc<Identity>,
    peer: &Peer,
    recipe: RecipeId,
    first: usize,
) -> Result<Vec<u8>, String> {
    let (_, channel) = watch::channel(None);
    let wire = Wire { controller: ControllerSource { channel }, identity: who };
    let mut stream = wire.segments(&Sender::Peer(peer.clone()), recipe, first).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend(chunk?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_image_is_passed_on_while_it_comes_in() {
    let ca = ca();
    let host = host(&ca, None).await;
    let image: Vec<u8> = (0..3).flat_map(|number| vec![number; SEGMENT]).collect();
    let head = head(&image);
    let who = identity(&ca, "agent/h2");
    // Asked for before this host knows of it, which it does in a moment.
    let asked = {
        let (peer, recipe) = (host.peer.clone(), id(&head));
        tokio::spawn(async move { fetch(who, &peer, recipe, 1).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let partial = host.dir.path().join(format!("images/{}.partial", head.target));
    std::fs::write(&partial, &image[..SEGMENT]).unwrap();
    let mut shelved = host.shelf.begin(&head, Some(1)).await.unwrap();
    for number in 1..3 {
        std::fs::write(&partial, &image[..(number + 1) * SEGMENT]).unwrap();
        shelved.keep(number, &image[number * SEGMENT..(number + 1) * SEGMENT]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(asked.await.unwrap().unwrap() == image[SEGMENT..], "other bytes");
}

#[tokio::test]
async fn what_does_not_come_any_more_is_said() {
    let ca = ca();
    let host = host(&ca, None).await;
    let head = head(&vec![5; SEGMENT]);
    let shelved = host.shelf.begin(&head, Some(0)).await.unwrap();
    let who = identity(&ca, "agent/h2");
    let (peer, recipe) = (host.peer.clone(), id(&head));
    let asked = tokio::spawn(async move { fetch(who, &peer, recipe, 0).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(shelved);
    let why = asked.await.unwrap().unwrap_err();
    assert_eq!(why, "this host does not get it any more");
    let who = identity(&ca, "agent/h2");
    let why = fetch(who, &host.peer, id(&head), 0).await.unwrap_err();
    assert!(why.contains("is not here"), "{why}");
}

#[tokio::test]
async fn only_agents_of_the_same_installation_come_in() {
    let ours = ca();
    let host = host(&ours, None).await;
    let recipe = RecipeId::from([1; 32]);
    for who in [identity(&ours, "user/ann"), identity(&ca(), "agent/h2")] {
        let why = fetch(who, &host.peer, recipe, 0).await.unwrap_err();
        assert!(!why.contains("is not here"), "{why}");
    }
    let why = fetch(identity(&ours, "agent/h2"), &host.peer, recipe, 0).await.unwrap_err();
    assert!(why.contains("is not here"), "{why}");
}

#[tokio::test]
async fn only_the_host_that_was_named_is_asked() {
    let ca = ca();
    let host = host(&ca, None).await;
    let peer = Peer { identity: "spiffe://x/agent/h3".parse().unwrap(), ..host.peer.clone() };
    let who = identity(&ca, "agent/h2");
    let why = fetch(who, &peer, RecipeId::from([1; 32]), 0).await.unwrap_err();
    assert!(why.contains("is not to be trusted"), "{why}");
}

#[tokio::test]
async fn no_more_is_passed_on_than_the_policy_allows() {
    let ca = ca();
    let host = host(&ca, Some(Memory(2 << 20))).await;
    let image = vec![1; SEGMENT];
    let head = head(&image);
    let path = host.dir.path().join(format!("images/{}.squashfs", head.target));
    std::fs::write(path, &image).unwrap();
    let shelved = host.shelf.begin(&head, None).await.unwrap();
    shelved.finish().await;
    assert_eq!(host.shelf.serves(), [id(&head)]);
    let begin = Instant::now();
    let who = identity(&ca, "agent/h2");
    assert!(fetch(who, &host.peer, id(&head), 0).await.unwrap() == image, "other bytes");
    assert!(begin.elapsed() >= Duration::from_millis(250), "{:?}", begin.elapsed());
}
