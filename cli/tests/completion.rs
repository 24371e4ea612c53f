//! Completion and man pages as shells and `man` meet them.

#![allow(clippy::disallowed_methods)] // running programs is what is tested

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SHOAL: &str = env!("CARGO_BIN_EXE_shoal");

/// The program, as a shell's script runs it in the directory that is its home too.
fn asked(home: &Path, shell: &str, passed: &[&str]) -> Output {
    Command::new(SHOAL)
        .arg("--")
        .args(passed)
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("SHOAL_COMPLETE", shell)
        .output()
        .expect("the program was just built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Contexts of a controller that is not there.
fn write_contexts(home: &Path) {
    let context = |name: &str| {
        format!(
            "[context.{name:?}]\ncontroller = \"127.0.0.1:1\"\nca = \"\"\ncertificate = \"\"\n\
             key = \"\"\n"
        )
    };
    let config = home.join(".config/shoal");
    std::fs::create_dir_all(&config).expect("a home is writable");
    let contexts = format!("current = \"lab\"\n{}{}", context("lab"), context("prod@eu:1"));
    std::fs::write(config.join("config.toml"), contexts).expect("a home is writable");
}

#[test]
fn without_a_controller_nothing_is_offered_and_nothing_said() {
    let (home, with_contexts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_contexts(with_contexts.path());
    for command in ["host show", "status", "logs", "image show", "ps -l", "host label h1"] {
        let line = format!("shoal {command} ");
        let words: Vec<&str> = line.split(' ').collect();
        for home in [home.path(), with_contexts.path()] {
            let passed: [(&str, &[&str]); 3] =
                [("bash", &[&line, ""]), ("zsh", &words), ("fish", &words)];
            for (shell, passed) in passed {
                let output = asked(home, shell, passed);
                assert_eq!(output.status.code(), Some(0), "{shell}: {line}");
                assert_eq!(text(&output.stdout), "words\n", "{shell}: {line}");
                assert_eq!(text(&output.stderr), "", "{shell}: {line}");
            }
        }
    }
    assert!(!home.path().join(".cache").exists());
}

#[test]
fn what_no_script_would_pass_on_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    for passed in [&[][..], &[""], &["shoal", "x"], &["", ""], &["a", "b", "c"]] {
        for shell in ["bash", "zsh", "fish"] {
            let output = asked(home.path(), shell, passed);
            assert_eq!(output.status.code(), Some(0), "{shell}: {passed:?}");
            assert_eq!(text(&output.stderr), "", "{shell}: {passed:?}");
        }
    }
    // Not a shell that it knows: a run like any other.
    let output = asked(home.path(), "tcsh", &[]);
    assert_eq!(output.status.code(), Some(2));
}

/// What an interactive bash writes that was given these keys.
fn in_bash(home: &Path, keys: &str) -> Option<String> {
    let mut bash = match Command::new("bash")
        .args(["--noprofile", "--norc", "-i"])
        .current_dir(home)
        .env_clear()
        .envs([("HOME", home), ("INPUTRC", Path::new("/dev/null"))])
        .envs([("TERM", "dumb"), ("PATH", "/usr/bin:/bin"), ("LC_ALL", "C.UTF-8")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
    {
        Ok(bash) => bash,
        Err(error) => {
            eprintln!("not tried, since bash cannot be run: {error}");
            return None;
        }
    };
    let mut stdin = bash.stdin.take().expect("it is piped");
    stdin.write_all(keys.as_bytes()).expect("bash reads to the end");
    drop(stdin);
    Some(text(&bash.wait_with_output().expect("bash ends").stdout))
}

#[test]
fn bash_completes() {
    let dir = tempfile::tempdir().unwrap();
    // A place that takes some quoting, and whose name is none of the word's breaks' business.
    let home = dir.path().join("it's home");
    std::fs::create_dir_all(home.join("fleets here")).unwrap();
    write_contexts(&home);
    std::fs::write(home.join("my fleet.toml"), "").unwrap();
    std::os::unix::fs::symlink(SHOAL, home.join("shoal")).unwrap();
    let table = [
        ("host sh\t", "<host><show>"),
        ("apply --wa\t", "<apply><--wait>"),
        ("context use l\t", "<context><use><lab>"),
        ("context use p\t", "<context><use><prod@eu:1>"),
        ("context use prod@\t", "<context><use><prod@eu:1>"),
        ("context use prod@eu:\t", "<context><use><prod@eu:1>"),
        ("ps --context=pr\t", "<ps><--context=prod@eu:1>"),
        ("context use \"pr\t", "<context><use><prod@eu:1>"),
        ("apply my\t", "<apply><my fleet.toml>"),
        ("plan ~/my\\ f\t", &format!("<plan><{}/my fleet.toml>", home.display())),
        ("man fl\t", "<man><fleets here/>"),
        ("host show x\t", "<host><show><x>"),
    ];
    // What is typed for `s` is completed as for `shoal`, and shown as bash understands it.
    let mut keys = "source <(./shoal completion bash)\ncomplete -F _shoal s\n\
                    s() { printf '<%s>' \"$@\"; echo; }\n"
        .to_owned();
    for (typed, _) in &table {
        keys.push_str(&format!("s {typed}\n"));
    }
    // And for itself.
    keys.push_str("./shoal vers\t--cl\t\nexit\n");
    let Some(written) = in_bash(&home, &keys) else { return };
    let mut lines = written.lines();
    for (typed, expected) in table {
        assert_eq!(lines.next(), Some(expected), "{typed}");
    }
    assert_eq!(lines.next(), Some(concat!("Client:  ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn pages_are_written_and_groff_has_nothing_against_them() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("share/man/man1");
    let shoal = |directory: &Path| {
        Command::new(SHOAL).arg("man").arg(directory).env_clear().output().unwrap()
    };
    let output = shoal(&man);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let mut pages: Vec<_> =
        std::fs::read_dir(&man).unwrap().map(|page| page.unwrap().path()).collect();
    pages.sort();
    assert!(pages.contains(&man.join("shoal-host-token-create.1")), "{pages:?}");
    assert_eq!(text(&output.stdout), format!("{} pages in {}\n", pages.len(), man.display()));

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = shoal(&file.join("man1"));
    assert_eq!(output.status.code(), Some(11));
    assert!(text(&output.stderr).contains("that you may write to"), "{}", text(&output.stderr));

    let groff =
        Command::new("groff").args(["-man", "-ww", "-Kutf8", "-Tutf8", "-z"]).args(&pages).output();
    match groff {
        Ok(output) => {
            let said = (text(&output.stdout), text(&output.stderr));
            assert_eq!((output.status.code(), said), (Some(0), Default::default()));
        }
        Err(error) => eprintln!("groff was not asked, since it cannot be run: {error}"),
    }
}
