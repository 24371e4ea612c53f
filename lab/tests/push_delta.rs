//! Pushes that send what differs, comparisons, and images staged ahead. Needs root.
#![allow(clippy::disallowed_methods, reason = "the tests make images with the machine's tools")]
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use shoal_lab::images::busybox_image;
use shoal_lab::{Deployment, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Exit codes, as docs/exit-codes.md has them.
const DIFFERS: i32 = 1;
const USAGE: i32 = 2;
const PARTIAL: i32 = 5;
const NOT_FOUND: i32 = 10;
const PRECONDITION: i32 = 11;

/// Random bytes that a push is killed in the middle of.
const RANDOM: u64 = 96 << 20;

/// A directory that becomes images: a text, and noise that does not compress.
struct Tree(PathBuf);

impl Tree {
    fn new(site: &Deployment) -> Self {
        let dir = site.dir().join("tree");
        fs::create_dir_all(dir.join("usr/lib")).unwrap();
        let tree = Self(dir);
        tree.noise("old", 12 << 20);
        tree.text("line 7 ");
        tree
    }

    fn noise(&self, name: &str, bytes: u64) {
        let mut random = fs::File::open("/dev/urandom").unwrap().take(bytes);
        let path = self.0.join("usr/lib").join(name);
        std::io::copy(&mut random, &mut fs::File::create(path).unwrap()).unwrap();
    }

    fn text(&self, seventh: &str) {
        let text: String = (0..200_000).map(|line| format!("line {line} of a text\n")).collect();
        fs::write(self.0.join("usr/lib/text"), text.replace("line 7 ", seventh)).unwrap();
    }

    fn image(&self, name: &str) -> String {
        let image = self.0.with_file_name(format!("{name}.squashfs"));
        let mut command = Command::new("mksquashfs");
        command.args([&self.0, &image]).args([
            "-quiet",
            "-no-progress",
            "-noappend",
            "-comp",
            "zstd",
        ]);
        command.args(["-all-root", "-all-time", "1700000000", "-mkfs-time", "1700000000"]);
        assert!(command.stdout(Stdio::null()).status().unwrap().success(), "mksquashfs failed");
        image.into_os_string().into_string().unwrap()
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn size(path: &str) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn sha256(path: &str) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_push_sends_what_is_not_there_and_says_it_beforehand() {
    let site = Deployment::without_hosts("push-delta").unwrap();
    let tree = Tree::new(&site);
    let one = tree.image("one");
    tree.text("line 7, changed ");
    tree.noise("new", 1 << 20);
    let two = tree.image("two");
    let (all, store) = (size(&two), site.controller_dir().join("images"));

    let first = site.json(&["image", "push", &one, "app:1"]).unwrap();
    assert_eq!((number(&first, "sent_bytes"), number(&first, "saved_bytes")), (size(&one), 0));
    let would = site.json(&["image", "push", "--dry-run", &two, "app:2"]).unwrap();
    site.shoal(&["image", "show", "app:2"]).unwrap().fails_with(NOT_FOUND).unwrap();
    let second = site.json(&["image", "push", &two, "app:2"]).unwrap();
    let sent = number(&second, "sent_bytes");
    assert_eq!(sent, number(&would, "wire_bytes"), "{would}");
    assert!(sent < all / 4, "{sent} of {all}");
    assert_eq!(sent + number(&second, "saved_bytes"), all);
    let file = store.join(format!("{}.squashfs", sha256(&two)));
    assert_eq!(sha256(file.to_str().unwrap()), sha256(&two));
    let again = site.shoal(&["image", "push", &two, "app:2"]).unwrap().ok().unwrap();
    assert!(again.contains("already there, nothing sent"), "{again}");

    // With the old file at hand, less still; by its name, or by both files, the same is said.
    let by_files = site.json(&["image", "diff", &one, &two]).unwrap();
    let by_names = site.json(&["image", "diff", "app:1", "app:2"]).unwrap();
    assert_eq!(by_files["changes"], by_names["changes"]);
    assert_eq!(by_files["wire_bytes"], by_names["wire_bytes"]);
    let paths: Vec<&str> = by_names["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/usr/lib/new", "/usr/lib/text"]);
    site.shoal(&["image", "rm", "app:2"]).unwrap().ok().unwrap();
    let third = site.json(&["image", "push", "--base", &one, &two, "app:2"]).unwrap();
    let less = number(&third, "sent_bytes");
    let said = number(&by_files, "wire_bytes");
    assert!(less < sent && less.abs_diff(said) < said / 20, "{less}, {sent}, {said}");

    site.shoal(&["image", "diff", &one, "app:2"]).unwrap().fails_with(USAGE).unwrap();
    site.shoal(&["image", "lint", &two]).unwrap().fails_with(DIFFERS).unwrap();
    let found = site.shoal(&["image", "lint", &two, "-o", "json"]).unwrap().stdout();
    assert!(found.contains("export-table"), "{found}");
    killed_in_the_middle(&site, &tree, &store);
}

/// The command is killed in the middle of what differs; the next one sends the rest.
fn killed_in_the_middle(site: &Deployment, tree: &Tree, store: &Path) {
    tree.noise("large", RANDOM);
    let three = tree.image("three");
    let partial = store.join(format!("{}.partial", sha256(&three)));
    let arguments = ["image", "push", &three, "app:3"];
    let mut command = site.shoal_command(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Beyond what is copied from the image that is there.
    let middle = 40 << 20;
    let length = || fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    wait_until("the push to be in its middle", PATIENCE, || Ok(length() > middle)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(partial.exists(), "the push was not caught in the middle");
    let would = site.json(&["image", "push", "--dry-run", &three, "app:3"]).unwrap();
    let rest = site.json(&["image", "push", &three, "app:3"]).unwrap();
    let sent = number(&rest, "sent_bytes");
    assert!(sent <= number(&would, "wire_bytes"), "{rest} {would}");
    assert!(sent < size(&three) - middle, "{sent} of {} were sent again", size(&three));
    let file = store.join(format!("{}.squashfs", sha256(&three)));
    assert_eq!(sha256(file.to_str().unwrap()), sha256(&three));
}

#[test]
fn an_image_is_staged_ahead_used_and_taken_back() {
    let site = Deployment::new("stage", 2).unwrap();
    for (number, image) in ["1", "2", "3"].into_iter().zip(["1", "2", "3"].map(busybox_image)) {
        site.push(&image.unwrap(), &format!("busybox:{number}")).unwrap();
    }
    let on = |host: usize, digest: &str| {
        let path = site.lab().host(host).disk().join(format!("shoal/images/{digest}.squashfs"));
        fs::metadata(path).ok().map(|metadata| (metadata.ino(), metadata.mtime_nsec()))
    };
    let digest = |name: &str| {
        let shown = site.json(&["image", "show", name]).unwrap();
        shown["digest"].as_str().unwrap().to_owned()
    };
    let staged = || site.json(&["image", "staged"]).unwrap()["staged"].as_array().unwrap().clone();

    // On one of two hosts: it is there when the command ends, and the apply brings nothing.
    let first = digest("busybox:1");
    let ended = site.json(&["image", "stage", "busybox:1", "h1"]).unwrap();
    assert_eq!(ended["staged"][0]["state"], "staged", "{ended}");
    let before = on(0, &first).expect("the image is there");
    assert_eq!(on(1, &first), None);
    let listed = staged();
    assert_eq!((listed.len(), &listed[0]["host"]), (1, &json!("h1")), "{listed:?}");
    let said = site.shoal(&["image", "rm", "busybox:1"]).unwrap().fails_with(PRECONDITION).unwrap();
    assert!(said.contains("image stage --cancel busybox:1"), "{said}");
    let text = "fleet = \"test\"\n[instance.web]\nimage = \"busybox:1\"\nhosts = \"*\"\n\
                command = [\"/bin/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n";
    site.file("fleet.toml", text).unwrap();
    site.shoal(&["apply", "--wait"]).unwrap().ok().unwrap();
    assert_eq!(on(0, &first), Some(before), "the file that was staged is the one that runs");
    assert!(on(1, &first).is_some());
    wait_until("the staging to end by its use", PATIENCE, || Ok(staged().is_empty())).unwrap();

    // Everywhere but on a host that is away; it is taken back from all.
    let host = site.lab().host(1);
    host.sh("systemctl stop shoal-agent").unwrap();
    wait_until("h2 to be offline", PATIENCE, || Ok(!site.is_online("h2").unwrap())).unwrap();
    let ran = site.shoal(&["image", "stage", "busybox:2", "h1", "h2"]).unwrap();
    let said = ran.fails_with(PARTIAL).unwrap();
    let (_, error) = said.split_once("error:").unwrap();
    assert!(error.contains("h2: offline") && !error.contains("h1:"), "{said}");
    host.sh("systemctl start shoal-agent").unwrap();
    let second = digest("busybox:2");
    wait_until("h2 to catch up", PATIENCE, || Ok(on(1, &second).is_some())).unwrap();
    site.shoal(&["image", "stage", "--cancel", "busybox:2"]).unwrap().ok().unwrap();
    assert_eq!(staged().len(), 0);
    let ran = site.shoal(&["image", "stage", "--cancel", "busybox:2"]).unwrap();
    ran.fails_with(NOT_FOUND).unwrap();
    let audit = site.json(&["audit"]).unwrap().to_string();
    assert!(audit.contains("Images/Stage") && audit.contains("Images/Unstage"), "{audit}");
    site.shoal(&["image", "stage", "busybox:9", "h1"]).unwrap().fails_with(NOT_FOUND).unwrap();
    site.json(&["image", "stage", "busybox:3", "-l", "!none", "--no-wait"]).unwrap();
    assert_eq!(staged().len(), 2);
}
