//! Signing as a person or CI does it: keys, manifests and signatures in files, without a
//! controller.

#![allow(clippy::disallowed_methods)] // running the programs is what is tested
#![allow(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with an image in it.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree/usr/lib");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("os-release"), "ID=debian\nVERSION_ID=\"12\"\n").unwrap();
        let made = Command::new("mksquashfs")
            .args(["tree", "shop.squashfs", "-noappend", "-no-progress", "-quiet", "-all-root"])
            .current_dir(dir.path())
            .output()
            .expect("squashfs-tools are installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.args(line.split(' ')).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path());
        command
    }

    /// What it prints, which is to succeed.
    fn shoal(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        assert!(status.success(), "{line}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// What it says, which is to fail as bad input does.
    fn refused(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        let error = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stdout.as_slice()), (Some(2), &b""[..]), "{line}: {error}");
        error
    }
}

fn change(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

const SIGN: &str = "image sign shop.squashfs shop:1 --key ci.key --release 41 --expires 90d";

#[test]
fn what_is_signed_is_verified_and_what_was_altered_is_not() {
    let desk = Desk::new();
    let made = desk.shoal("image keygen ci.key --no-password");
    let key = fs::read_to_string(desk.path("ci.pub")).unwrap();
    let key = key.lines().nth(1).unwrap();
    assert!(made.contains(&format!("\"*\" = [\"{key}\"]")), "{made}");
    assert!(desk.refused("image keygen ci.key --no-password").contains("is there already"));
    let signed = desk.shoal(SIGN);
    assert!(signed.contains("shop:1") && signed.contains("41"), "{signed}");
    for by in ["ci.pub", key] {
        let verified = desk.shoal(&format!("image verify shop.squashfs --key {by} -o json"));
        assert!(verified.contains("\"verified\": true"), "{verified}");
        assert!(verified.contains("\"release\": 41"), "{verified}");
    }
    let unchecked = desk.shoal("image verify shop.squashfs");
    assert!(unchecked.contains("not checked: no --key was given"), "{unchecked}");
    desk.shoal("image keygen other.key --no-password");
    let other = desk.refused("image verify shop.squashfs --key other.pub");
    assert!(other.contains("is not among those that are asked for"), "{other}");
    assert!(
        desk.refused("image verify shop.squashfs --key x").contains("neither a file nor a key")
    );

    let manifest = desk.path("shop.squashfs.manifest");
    change(&manifest, "release = 41", "release = 42");
    let altered = desk.refused("image verify shop.squashfs --key ci.pub");
    assert!(altered.contains("the text or the signature was altered"), "{altered}");
    change(&manifest, "release = 42", "release = 41");
    let mut image = fs::read(desk.path("shop.squashfs")).unwrap();
    image.extend([0; 4096]);
    fs::write(desk.path("shop.squashfs"), image).unwrap();
    let longer = desk.refused("image verify shop.squashfs --key ci.pub");
    assert!(longer.contains("shop.squashfs.manifest is of shop:1 ("), "{longer}");
}

#[test]
fn a_push_of_what_is_not_signed_as_such_calls_no_one() {
    let desk = Desk::new();
    desk.shoal("image keygen ci.key --no-password");
    desk.shoal(SIGN);
    // There is no controller, and so what comes before one is asked is what is said.
    let push = |line: &str| desk.refused(&format!("image push shop.squashfs {line}"));
    let manifest = "--manifest shop.squashfs.manifest";
    assert!(push(&format!("shop:1 {manifest}")).contains("shoal-controller init"));
    let other = push(&format!("shop:2 {manifest}"));
    assert!(other.contains("is of shop:1 (") && other.contains("this is shop:2"), "{other}");
    let unsent = push("shop:1");
    assert!(unsent.contains("is not sent along; --manifest"), "{unsent}");
    assert!(push("shop:1 --sign-key none.key").contains("cannot read the key none.key"));
    assert!(push("shop:1 --sign-key ci.pub").contains("is not a secret key"));
    assert!(push("shop:1 --sign-key ci.key --expires 2020-01-01").contains("a time to come"));
    assert!(push("shop:1 --release 2").contains("--sign-key"));
    change(&desk.path("shop.squashfs.manifest"), "expires = \"20", "expires = \"19");
    assert!(push(&format!("shop:1 {manifest}")).contains("its expires is not a time"));
    let text = fs::read_to_string(desk.path("shop.squashfs.manifest")).unwrap();
    let old = |line: &str| match line.split_once(" = ") {
        Some(("created", _)) => "created = \"2020-01-01T00:00:00Z\"\n".to_owned(),
        Some(("expires", _)) => "expires = \"2020-01-02T00:00:00Z\"\n".to_owned(),
        _ => format!("{line}\n"),
    };
    let text: String = text.lines().map(old).collect();
    fs::write(desk.path("shop.squashfs.manifest"), text).unwrap();
    let expired = push(&format!("shop:1 {manifest}"));
    assert!(expired.contains("has expired: it was to be used before 2020-01-02"), "{expired}");
    fs::remove_file(desk.path("shop.squashfs.manifest.minisig")).unwrap();
    assert!(push(&format!("shop:1 {manifest}")).contains("cannot read shop.squashfs.manifest.min"));
}

#[test]
fn a_password_comes_from_the_environment_where_no_one_can_type_it() {
    let desk = Desk::new();
    let run = |line: &str, password: Option<&str>| {
        let mut command = desk.command(line);
        command.envs(password.map(|password| ("SHOAL_KEY_PASSWORD", password)));
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (made, error) = run("image keygen ci.key", None);
    assert!(!made && error.contains("set SHOAL_KEY_PASSWORD"), "{error}");
    assert!(run("image keygen ci.key", Some("hunter2")).0);
    let (signed, error) = run(SIGN, None);
    assert!(!signed && error.contains("password is needed for ci.key"), "{error}");
    let (signed, error) = run(SIGN, Some("hunter3"));
    assert!(!signed && error.contains("can't be opened with this password"), "{error}");
    assert!(run(SIGN, Some("hunter2")).0);
    desk.shoal("image verify shop.squashfs --key ci.pub");
}
