//! The program as a process: what reaches the exit code, standard output and standard error.

#![allow(clippy::disallowed_methods)] // running the program is what is tested

use std::path::Path;
use std::process::{Command, Output};

fn shoal(dir: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(line.split(' '))
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .output()
        .expect("the program was just built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn errors_go_to_standard_error_with_their_code() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rootfs"), vec![b'x'; 5000]).unwrap();
    std::fs::write(dir.path().join("bad.toml"), "fleet = 5\n").unwrap();
    let table = [
        ("status", 2, "shoal-controller init"),
        ("apply", 2, "fleet.toml"),
        ("check bad.toml", 2, "bad.toml:1:"),
        ("check none.toml -o json", 2, "none.toml"),
        // No context is needed to be told so: nothing is sent before the file is known to be good.
        ("image push rootfs shop:1", 2, "is not a squashfs file"),
        ("image push none shop:1", 2, "could not be opened"),
        ("bogus", 2, "unrecognized subcommand"),
        ("exec a/b -- true", 125, "shoal-controller init"),
    ];
    for (line, code, expected) in table {
        let output = shoal(dir.path(), line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}: {err}");
        assert!(err.contains(expected), "{line}: {err}");
        assert_eq!(out, "", "{line}");
        assert!(!err.contains('\u{1b}'), "{line}: {err}");
    }
}

#[test]
fn results_go_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = "fleet = \"shop\"\n[instance.main]\nimage = \"a:1\"\nhosts = \"*\"\nboot = true\n";
    std::fs::write(dir.path().join("fleet.toml"), fleet).unwrap();
    let table = [
        ("check", "fleet.toml: fleet shop with 1 instance\n"),
        ("check -o json", "\"instances\": [\n    \"main\"\n  ]"),
        ("version --client", "Client:  0.1.0\n"),
        ("completion bash", "complete -F _shoal"),
        ("--help", "Exit codes:"),
    ];
    for (line, expected) in table {
        let output = shoal(dir.path(), line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{line}: {err}");
        assert!(out.contains(expected), "{line}: {out}");
        assert_eq!(err, "", "{line}");
    }
}
