//! Images on their way: from a file to the controller, from there to a host. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests make images with the machine's tools")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Random bytes in a big image: enough to be caught in the middle of its transfer.
const RANDOM: u64 = 160 << 20;
/// When a transfer is in its middle.
const MIDDLE: u64 = 24 << 20;

/// Exit codes, as docs/exit-codes.md has them.
const PRECONDITION: i32 = 11;
const INTERNAL: i32 = 70;

/// A runnable image of more than `RANDOM` bytes that no compression makes smaller.
fn big_image(dir: &Path, name: &str) -> PathBuf {
    let (image, noise) = (dir.join(format!("{name}.squashfs")), dir.join(format!("{name}.bin")));
    fs::copy(busybox_image("1").unwrap(), &image).unwrap();
    let mut random = fs::File::open("/dev/urandom").unwrap().take(RANDOM);
    std::io::copy(&mut random, &mut fs::File::create(&noise).unwrap()).unwrap();
    let mut command = Command::new("mksquashfs");
    command.args([&noise, &image]).args(["-quiet", "-no-progress", "-noD"]).stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "mksquashfs failed");
    fs::remove_file(noise).unwrap();
    assert!(fs::metadata(&image).unwrap().len() > RANDOM);
    image
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "sha256sum {}", path.display());
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Whatever is there under the name of a complete image is that image, whole.
#[track_caller]
fn complete_files_are_whole(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "squashfs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert_eq!(sha256(&path), name, "a file is not what its name says");
            found.push(name);
        }
    }
    found
}

fn partial(dir: &Path, digest: &str) -> PathBuf {
    dir.join(format!("{digest}.partial"))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn flip_a_byte(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], length(path) / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn push(site: &Deployment, image: &Path, reference: &str) -> Value {
    site.json(&["image", "push", image.to_str().unwrap(), reference]).unwrap()
}

fn images(site: &Deployment) -> Vec<Value> {
    site.json(&["image", "list"]).unwrap()["images"].as_array().unwrap().clone()
}

/// A fleet of one instance of `image` on every host.
fn fleet(site: &Deployment, image: &str) {
    let text = format!(
        "fleet = \"test\"\n[instance.web]\nimage = \"{image}\"\nhosts = \"*\"\n\
         command = [\"/bin/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n"
    );
    site.file("fleet.toml", &text).unwrap();
}

#[test]
fn an_image_is_pushed_named_used_and_removed() {
    let site = Deployment::new("images", 1).unwrap();
    let (one, two) = (busybox_image("1").unwrap(), busybox_image("2").unwrap());
    let (first, second) = (sha256(&one), sha256(&two));
    let store = site.controller_dir().join("images");

    let pushed = push(&site, &one, "busybox:1");
    assert_eq!(pushed["sent_bytes"], size(&one), "{pushed}");
    assert_eq!(pushed["image"]["digest"], *first, "the digest is that of sha256sum");
    assert_eq!(pushed["image"]["os_id"], "busybox", "{pushed}");
    assert_eq!(pushed["image"]["architecture"], std::env::consts::ARCH.replace('_', "-"));
    let file = store.join(format!("{first}.squashfs"));
    let before = fs::metadata(&file).unwrap();
    for reference in ["busybox:1", "busybox:one", "other:1"] {
        let again = push(&site, &one, reference);
        assert_eq!(again["sent_bytes"], 0, "{again}");
    }
    let after = fs::metadata(&file).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    let sent = push(&site, &two, "busybox:2")["sent_bytes"].as_u64().unwrap();
    assert!((1..=size(&two)).contains(&sent), "{sent}");
    assert_eq!(complete_files_are_whole(&store).len(), 2);

    assert_eq!(images(&site).len(), 2);
    for name in ["busybox:1", "other:1", &first, &first[..12]] {
        let shown = site.json(&["image", "show", name]).unwrap();
        assert_eq!(shown["digest"], *first, "{name}");
        assert_eq!(shown["references"], json!(["busybox:1", "busybox:one", "other:1"]));
    }
    let tagged = site.json(&["image", "tag", "busybox:2", "other:1"]).unwrap();
    assert_eq!((&tagged["digest"], &tagged["previous"]), (&json!(second), &json!(first)));
    assert_eq!(site.json(&["image", "show", "other:1"]).unwrap()["digest"], *second);

    fleet(&site, "busybox:1");
    site.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    let shown = site.json(&["image", "show", "busybox:1"]).unwrap();
    assert!(shown["used_by"].to_string().contains("test/web"), "{shown}");
    assert_eq!(shown["staged_on"], json!(["h1"]));
    removal(&site, &first, &store);
}

fn removal(site: &Deployment, first: &str, store: &Path) {
    // One of two names may go; the last one, or the digest, not while it is in use.
    let removed = site.json(&["image", "rm", "busybox:one"]).unwrap();
    assert_eq!(removed["file_removed"], false);
    for name in ["busybox:1", first] {
        let said = site.shoal(&["image", "rm", name]).unwrap().fails_with(PRECONDITION).unwrap();
        for word in ["in use by", "test/web", "h1"] {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
    assert_eq!(images(site).len(), 2);

    fleet(site, "busybox:2");
    site.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    let removed = site.json(&["image", "rm", "busybox:1"]).unwrap();
    assert_eq!(removed["file_removed"], true, "no instance uses it any more");
    assert_eq!(images(site).len(), 1);
    assert!(!store.join(format!("{first}.squashfs")).exists());
    complete_files_are_whole(&site.lab().host(0).disk().join("shoal/images"));
}

/// Starts a push and kills it, as kill -9 does, when the controller has its middle. Returns how
/// much the controller kept.
fn push_and_kill(site: &Deployment, image: &Path, reference: &str) -> u64 {
    let kept = partial(&site.controller_dir().join("images"), &sha256(image));
    let mut child = pushing(site, image, reference);
    wait_until("the push to be in its middle", PATIENCE, || Ok(length(&kept) > MIDDLE)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(kept.exists(), "the push was not caught in the middle; make the image larger");
    // What was on its way may still be written; the next push waits for that as well.
    let mut last = 0;
    wait_until("the controller to notice", PATIENCE, || {
        let now = length(&kept);
        let settled = now == last;
        last = now;
        Ok(settled)
    })
    .unwrap();
    assert!((MIDDLE..size(image)).contains(&last), "{last} bytes were kept");
    last
}

fn pushing(site: &Deployment, image: &Path, reference: &str) -> Child {
    let arguments = ["image", "push", image.to_str().unwrap(), reference, "-o", "json"];
    let mut command = site.shoal_command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_broken_off_push_goes_on_and_spoilt_bytes_are_refused() {
    let mut site = Deployment::without_hosts("pushes").unwrap();
    let image = big_image(site.dir(), "big");
    let (digest, whole) = (sha256(&image), size(&image));
    let store = site.controller_dir().join("images");

    // Killed in the middle, and spoilt before it goes on.
    push_and_kill(&site, &image, "big:1");
    assert_eq!(images(&site).len(), 0, "half an image is none");
    flip_a_byte(&partial(&store, &digest));
    let ran = site.shoal(&["image", "push", image.to_str().unwrap(), "big:1"]).unwrap();
    let said = ran.fails_with(INTERNAL).unwrap();
    for word in ["SHA-256", &digest, "thrown away", "again"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert_eq!(images(&site).len(), 0, "spoilt bytes were recorded");
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "spoilt bytes were kept");
    let audit = site.json(&["audit"]).unwrap();
    assert!(!audit.to_string().contains("Images/Push"), "{audit}");

    // Killed in the middle again: the next one sends the rest only.
    let kept = push_and_kill(&site, &image, "big:1");
    let ran =
        site.shoal(&["image", "push", image.to_str().unwrap(), "big:1", "-o", "json"]).unwrap();
    let pushed: Value = serde_json::from_str(&ran.ok().unwrap()).unwrap();
    assert!(ran.stderr().contains("are there already"), "{}", ran.stderr());
    let sent = pushed["sent_bytes"].as_u64().unwrap();
    assert!(sent > 0 && sent <= whole - kept, "{sent} of {whole} sent, {kept} were there");
    assert_eq!(complete_files_are_whole(&store), [&*digest]);
    assert!(!partial(&store, &digest).exists());
    site.shoal(&["image", "rm", "big:1"]).unwrap().ok().unwrap();

    killed_controller(&mut site, &image);
    assert_eq!(complete_files_are_whole(&store), [&*digest]);
    assert_eq!(images(&site).len(), 1);
    assert_eq!(push(&site, &image, "big:1")["sent_bytes"], 0);
}

/// The controller dies in the middle: the push that is under way waits for the next one and sends
/// the rest.
fn killed_controller(site: &mut Deployment, image: &Path) {
    let kept = partial(&site.controller_dir().join("images"), &sha256(image));
    let child = pushing(site, image, "big:1");
    wait_until("the push to be in its middle", PATIENCE, || Ok(length(&kept) > MIDDLE)).unwrap();
    site.kill_controller().unwrap();
    let left = length(&kept);
    assert!((MIDDLE..size(image)).contains(&left), "{left} bytes were left by the controller");
    site.start_controller().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("going on in") && said.contains("are there already"), "{said}");
}

/// Waits in the host until its agent has the middle of an image, then runs `then` there.
fn in_the_middle_of_staging(site: &Deployment, digest: &str, then: &str) {
    let script = format!(
        "file=/var/lib/shoal/images/{digest}.partial\n\
         agent=$(systemctl show --property=MainPID --value shoal-agent)\n\
         for try in $(seq 6000); do\n\
           if [ \"$(stat -c %s $file 2>/dev/null || echo 0)\" -gt {MIDDLE} ]; then {then}; exit; fi\n\
           sleep 0.01\n\
         done\n\
         echo no transfer; exit 1"
    );
    site.lab().host(0).sh(&script).unwrap();
}

#[test]
fn staging_goes_on_after_a_kill_and_spoilt_bytes_are_never_used() {
    let site = Deployment::new("staging", 1).unwrap();
    let host = site.lab().host(0);
    let dir = host.disk().join("shoal/images");

    // Killed in the middle: the next agent appends to the same file.
    let image = big_image(site.dir(), "one");
    let digest = sha256(&image);
    push(&site, &image, "big:1");
    fleet(&site, "big:1");
    site.shoal(&["apply"]).unwrap().ok().unwrap();
    in_the_middle_of_staging(&site, &digest, "kill -KILL $agent");
    let left = fs::metadata(partial(&dir, &digest)).expect("the transfer was caught in the middle");
    assert!(complete_files_are_whole(&dir).is_empty(), "half an image has the name of a whole one");
    let mut least = u64::MAX;
    wait_until("the image to be staged", PATIENCE, || {
        let complete = complete_files_are_whole(&dir);
        if complete.is_empty() {
            least = least.min(length(&partial(&dir, &digest)).max(1));
        }
        Ok(!complete.is_empty())
    })
    .unwrap();
    assert!(least >= MIDDLE, "the transfer began again: the file had {least} bytes");
    let whole = fs::metadata(dir.join(format!("{digest}.squashfs"))).unwrap();
    assert_eq!(whole.ino(), left.ino(), "the transfer went into another file");
    site.shoal(&["rollout", "watch", "test"]).unwrap().ok().unwrap();

    // Spoilt while the agent was away: told, thrown away, fetched anew.
    let image = big_image(site.dir(), "two");
    let digest = sha256(&image);
    push(&site, &image, "big:2");
    fleet(&site, "big:2");
    site.shoal(&["apply"]).unwrap().ok().unwrap();
    in_the_middle_of_staging(&site, &digest, "kill -STOP $agent");
    let spoilt = partial(&dir, &digest);
    flip_a_byte(&spoilt);
    let before = fs::metadata(&spoilt).unwrap().ino();
    host.sh("systemctl kill --signal=KILL shoal-agent").unwrap();
    wait_until("the image to be staged", PATIENCE, || {
        Ok(complete_files_are_whole(&dir).contains(&digest))
    })
    .unwrap();
    assert_ne!(fs::metadata(dir.join(format!("{digest}.squashfs"))).unwrap().ino(), before);
    let log = host.sh("journalctl --no-pager -q -o cat -u shoal-agent").unwrap();
    assert!(log.contains("are not those that were announced"), "the agent did not say why:\n{log}");
    site.shoal(&["rollout", "watch", "test"]).unwrap().ok().unwrap();
    let instances = site.json(&["ps"]).unwrap();
    assert_eq!(instances["instances"][0]["digest"], *digest, "{instances}");
    assert_eq!(instances["instances"][0]["ready"], true, "{instances}");
}
