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
        ("infra apply", 2, "infra.toml"),
        ("check bad.toml", 2, "bad.toml:1:"),
        ("check none.toml -o json", 2, "none.toml"),
        // No context is needed to be told so: nothing is sent before the file is known to be good.
        ("image push rootfs shop:1", 2, "is not a squashfs file"),
        ("image push none shop:1", 2, "could not be opened"),
        ("bogus", 2, "unrecognized subcommand"),
        ("exec a/b -- true", 125, "shoal-controller init"),
        // Wrong on the command line, so that it is no failure of the command.
        ("exec -it a/b -- bash", 2, "exec gives the command no terminal"),
        ("apply -f bad.toml", 2, "bad.toml:1:"),
        ("logs a/b --since 2h --until 3h", 2, "--since is later than --until"),
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

const UNTIDY: &str =
    "# The shop.\nfleet=\"shop\"\n[instance.main]\nboot=true\nimage=\"a:1\"\nhosts=\"*\"\n";
const TIDY: &str = "# The shop.\nfleet = \"shop\"\n\n[instance.main]\nimage = \"a:1\"\nhosts = \"*\"\n\
                    boot = true\n";

#[test]
fn fleet_files_are_formatted() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    std::fs::write(dir.path().join("fleet.toml"), UNTIDY).unwrap();
    std::fs::write(dir.path().join("bad.toml"), "fleet = shop\n").unwrap();
    let check = shoal(dir.path(), "fmt --check fleet.toml bad.toml");
    assert_eq!(check.status.code(), Some(2), "a bad file is worse than an untidy one");
    let check = shoal(dir.path(), "fmt --check");
    assert_eq!(check.status.code(), Some(1));
    assert!(text(&check.stdout).contains("\n+boot = true\n"), "{}", text(&check.stdout));
    assert!(text(&check.stderr).contains("fleet.toml"), "{}", text(&check.stderr));
    assert_eq!(file("fleet.toml"), UNTIDY);
    // One bad file is told, and keeps no other from being formatted.
    let both = shoal(dir.path(), "fmt bad.toml fleet.toml");
    assert_eq!(both.status.code(), Some(2));
    assert!(text(&both.stderr).contains("bad.toml:1:9:"), "{}", text(&both.stderr));
    assert_eq!((file("fleet.toml").as_str(), file("bad.toml").as_str()), (TIDY, "fleet = shop\n"));
    let again = shoal(dir.path(), "fmt --check");
    assert_eq!((again.status.code(), text(&again.stdout).as_str()), (Some(0), ""));
}

#[test]
fn json_is_a_fleet_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{ "fleet": "shop", "instance": { "main": { "image": "a:1", "hosts": "*", "boot": true } } }"#;
    std::fs::write(dir.path().join("fleet.json"), json).unwrap();
    std::fs::write(dir.path().join("bad.json"), "{\n  \"fleet\": \"shop\",\n}\n").unwrap();
    let good = shoal(dir.path(), "check fleet.json");
    assert_eq!(text(&good.stdout), "fleet.json: fleet shop with 1 instance\n");
    let bad = shoal(dir.path(), "check bad.json");
    assert_eq!(bad.status.code(), Some(2));
    assert!(
        text(&bad.stderr).starts_with("bad.json:2:18: error: not valid JSON"),
        "{}",
        text(&bad.stderr)
    );
    assert_eq!(shoal(dir.path(), "fmt fleet.json").status.code(), Some(2));
}

#[test]
fn the_schema_is_one_document_in_either_format() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, json) = (shoal(dir.path(), "schema"), shoal(dir.path(), "schema -o json"));
    assert_eq!(text(&plain.stdout), text(&json.stdout));
    let schema: serde_json::Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert!(schema.pointer("/properties/instance/additionalProperties/properties/image").is_some());
}

#[test]
fn what_runs_can_be_imported_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let drop_ins = dir.path().join("units/systemd-nspawn@shop.service.d");
    std::fs::create_dir_all(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("limits.conf"), "[Service]\nMemoryMax=1G\n").unwrap();
    let settings =
        "[Exec]\nBoot=yes\nHostname=x\n[Files]\nBind=/srv/shop:/var/shop\n[Network]\nZone=web\n";
    std::fs::write(dir.path().join("shop.nspawn"), settings).unwrap();
    let made = shoal(dir.path(), "import shop.nspawn --unit-dir units");
    let (out, err) = (text(&made.stdout), text(&made.stderr));
    assert_eq!(made.status.code(), Some(0), "{err}");
    assert!(
        out.contains("\nmemory = \"1G\"\n") && out.contains("\nnetwork = \"zone:web\"\n"),
        "{out}"
    );
    assert!(err.contains("shop.nspawn:3: Hostname:"), "{err}");
    for (line, code) in [
        ("import shop.nspawn --to fleet.toml", 0),
        ("import shop.nspawn --to fleet.toml", 2),
        ("import shop.nspawn --to fleet.toml --force -o json", 0),
        ("check", 0),
        ("fmt --check", 0),
        ("import none.nspawn", 2),
    ] {
        let output = shoal(dir.path(), line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stderr));
    }
}
