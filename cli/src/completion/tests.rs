//! Whole lines, from what a shell passes on to what it reads, with a source that answers at once.

use std::sync::Mutex;

use super::known::{Context, Fleet, Host, Image, Instance, Secret};
use super::values::Values;
use super::*;

/// A small installation, which remembers what it was asked.
#[derive(Debug, Default)]
struct Fake {
    asked: Mutex<Vec<&'static str>>,
}

impl Fake {
    fn note(&self, what: &'static str) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Source for Fake {
    fn hosts(&self) -> Vec<Host> {
        self.note("hosts");
        let host = |name: &str, role: &str| Host {
            name: name.into(),
            online: true,
            labels: [("role".to_owned(), role.to_owned())].into(),
        };
        vec![host("h1", "web"), host("h2", "db")]
    }

    fn fleets(&self) -> Vec<Fleet> {
        self.note("fleets");
        vec![Fleet { name: "shop".into(), revision: 3 }]
    }

    fn instances(&self) -> Vec<Instance> {
        self.note("instances");
        let on = |host: &str| Instance {
            id: "shop/web".into(),
            host: host.into(),
            state: "running".into(),
        };
        vec![on("h1"), on("h2")]
    }

    fn images(&self) -> Vec<Image> {
        self.note("images");
        let references = vec!["shop:1".to_owned(), "shop:2".to_owned()];
        vec![Image { digest: "ab".repeat(32), references, uses: 0 }]
    }

    fn secrets(&self) -> Vec<Secret> {
        self.note("secrets");
        let secret = |name: &str| Secret { name: name.into(), version: 1, uses: 0 };
        vec![secret("db/creator"), secret("tls")]
    }

    fn contexts(&self) -> Vec<Context> {
        self.note("contexts");
        let (name, controller) = ("eu:prod@1".to_owned(), "c".to_owned());
        vec![Context { name, controller, current: false }]
    }
}

/// What is answered to these words, and what was asked for it.
fn completed(shell: Shell, passed: &[&str]) -> (Vec<String>, Vec<&'static str>) {
    let fake = Arc::new(Fake::default());
    let line = shell.read(passed.iter().map(OsString::from).collect()).unwrap();
    let answer = complete(line.words.clone(), Arc::<Fake>::clone(&fake));
    let reply = shell.write(&line, &answer.expect("the line can be completed"));
    let reply = String::from_utf8(reply).unwrap();
    let asked = std::mem::take(&mut *fake.asked.lock().unwrap());
    (reply.lines().map(str::to_owned).collect(), asked)
}

/// The same in bash, of a line whose last part, behind `|`, is what bash would replace.
fn in_bash(line: &str) -> (Vec<String>, Vec<&'static str>) {
    let (before, replaced) = line.rsplit_once('|').unwrap();
    completed(Shell::Bash, &[&format!("{before}{replaced}"), replaced])
}

#[test]
fn what_there_is_takes_the_place_of_what_was_typed() {
    let table: &[(&str, &[&str], &[&str])] = &[
        ("shoal host |sh", &["show"], &[]),
        ("shoal host show |", &["h1", "h2"], &["hosts"]),
        ("shoal host show |h2", &["h2"], &["hosts"]),
        ("shoal host label |", &["h1", "h2"], &["hosts"]),
        ("shoal host cordon h1 |", &["h1", "h2"], &["hosts"]),
        ("shoal host uncordon |h", &["h1", "h2"], &["hosts"]),
        ("shoal host cordon -l role=|w", &["web"], &["hosts"]),
        ("shoal host drain |h2", &["h2"], &["hosts"]),
        ("shoal host remove |", &["h1", "h2"], &["hosts"]),
        ("shoal host label h1 role=|d", &["db"], &["hosts"]),
        ("shoal host label h1 a=b |", &["role=db", "role=web", "role-"], &["hosts"]),
        ("shoal host list -l |r", &["role=db", "role=web"], &["hosts"]),
        ("shoal ps --selector=role=|w", &["web"], &["hosts"]),
        ("shoal host token create --label |", &["role=db", "role=web"], &["hosts"]),
        ("shoal host token create --name |", &[], &[]),
        ("shoal status |", &["shop"], &["fleets"]),
        ("shoal rollout watch |s", &["shop"], &["fleets"]),
        (
            "shoal logs -f |sh",
            &["shop", "shop/web", "shop/web@h1", "shop/web@h2"],
            &["fleets", "instances"],
        ),
        ("shoal ps shop/|w", &["web", "web@h1", "web@h2"], &["instances"]),
        ("shoal stop shop/web|@", &["@h1", "@h2"], &["instances"]),
        ("shoal stop shop/web@|h1", &["h1"], &["instances"]),
        ("shoal exec |shop/web@h2", &["shop/web@h2"], &["instances"]),
        ("shoal exec shop/web -- |", &[], &[]),
        ("shoal image show |", &["shop:1", "shop:2"], &["images"]),
        ("shoal image rm shop:|", &["1", "2"], &["images"]),
        ("shoal image rm |aba", &["abababababab"], &["images"]),
        ("shoal image tag shop:1 shop:|2", &["2"], &["images"]),
        ("shoal secret set |", &["db/creator", "tls"], &["secrets"]),
        ("shoal secret generate |t", &["tls"], &["secrets"]),
        ("shoal secret rm db/|c", &["creator"], &["secrets"]),
        ("shoal --context |", &["eu:prod@1"], &["contexts"]),
        ("shoal ps --context=eu:|p", &["prod@1"], &["contexts"]),
        ("shoal context use |e", &["eu:prod@1"], &["contexts"]),
        ("shoal context rename x |", &[], &[]),
        ("shoal ps -o |", &["table", "json"], &[]),
        ("shoal completion |", &["bash", "zsh", "fish"], &[]),
    ];
    for (line, expected, expected_asked) in table {
        let (found, asked) = in_bash(line);
        assert_eq!(found[0], "words", "{line}");
        assert_eq!(found[1..], **expected, "{line}");
        assert_eq!(asked, *expected_asked, "{line}");
    }
}

#[test]
fn options_are_for_those_who_begin_one() {
    let (found, asked) = in_bash("shoal apply |--wa");
    assert_eq!((found[1..].to_vec(), asked), (vec!["--wait".to_owned()], vec![]));
    let (found, asked) = in_bash("shoal host show |--");
    assert!(found.contains(&"--context".to_owned()), "{found:?}");
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(in_bash("shoal version |").0, ["words"]);
}

#[test]
fn commands_that_are_hidden_stay_so() {
    let (found, _) = in_bash("shoal host |");
    assert!(found.contains(&"list".to_owned()) && !found.contains(&"ls".to_owned()), "{found:?}");
}

#[test]
fn files_are_left_to_the_shell() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a fleet.toml", "b.json", "c.squashfs"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let at = format!("{}/", dir.path().display());
    let names = |found: &[String]| {
        let names = found.iter().map(|path| path.strip_prefix(&at).unwrap_or(path).to_owned());
        names.collect::<Vec<_>>()
    };
    let table: &[(&str, &[&str])] = &[
        ("apply", &["fleets", "a fleet.toml", "b.json", "d"]),
        ("image push", &["files", "a fleet.toml", "b.json", "c.squashfs", "d"]),
        ("man", &["directories", "d"]),
    ];
    for (command, expected) in table {
        let (found, asked) = in_bash(&format!("shoal {command} |{at}"));
        assert_eq!(names(&found), *expected, "{command}");
        assert!(asked.is_empty(), "{command}: {asked:?}");
    }
    let (found, _) = in_bash(&format!(r"shoal apply |{at}a\ f"));
    assert_eq!(names(&found), ["fleets", "a fleet.toml"]);
    // What a shell expands is not found here, and still a file.
    assert_eq!(in_bash("shoal apply |$HOME/x").0, ["fleets"]);
}

#[test]
fn other_shells_show_what_a_candidate_is() {
    let (found, _) = completed(Shell::Fish, &["shoal", "host", "show", "h1"]);
    assert_eq!(found, ["words", "h1\tonline, role=web"]);
    let (found, _) = completed(Shell::Zsh, &["shoal", "image", "show", "shop:1"]);
    assert_eq!(found, ["words", r"shop\:1:abababababab, used by 0 instances"]);
    let (found, _) = completed(Shell::Zsh, &["shoal", "host", "sh"]);
    assert_eq!(found, ["words", "show:Show all that is known of a host"]);
}

#[test]
fn nonsense_has_no_answer() {
    let passed = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    assert_eq!(Shell::Bash.read(passed(&[])), None);
    assert_eq!(Shell::Bash.read(passed(&["shoal x"])), None);
    assert_eq!(Shell::Zsh.read(passed(&[])), None);
    assert!(complete(vec![], Arc::new(Fake::default())).is_none());
    assert!(complete(passed(&["shoal"]), Arc::new(Fake::default())).is_none());
    assert_eq!(in_bash("shoal host show h1 |").0, ["words"]);
    assert_eq!(Shell::named(OsStr::new("tcsh")), None);
}

#[test]
fn nothing_with_a_line_break_reaches_a_shell() {
    assert!(is_plain(OsStr::new("Käse")) && !is_plain(OsStr::new("a\nb")));
    assert!(!is_plain(OsStr::new("a\u{1b}[31m")));
}

#[test]
fn scripts_call_the_command_where_it_is() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = shell.script("/opt/it's/shoal");
        assert!(!script.contains("COMMAND"), "{script}");
        let path =
            if shell == Shell::Fish { r"'/opt/it\'s/shoal'" } else { r"'/opt/it'\''s/shoal'" };
        assert!(script.contains(path), "{script}");
    }
    insta::assert_snapshot!(Shell::Bash.script("shoal"));
}

/// Every argument that names something there is can be completed, also of commands to come.
#[test]
fn no_name_is_forgotten() {
    fn walk(command: &clap::Command, path: &str) {
        for arg in command.get_arguments() {
            let names = arg.get_value_names().unwrap_or_default().join(" ");
            let asks = ["FLEET", "INSTANCE", "IMAGE", "TAG", "SELECTOR", "HOST"];
            let is_exempt = (path, arg.get_id().as_str()) == ("shoal host token create", "name");
            if asks.iter().any(|word| names.contains(word)) && !is_exempt {
                assert_ne!(Values::of(arg), Values::New, "{path} {names}");
            }
        }
        for sub in command.get_subcommands() {
            walk(sub, &format!("{path} {}", sub.get_name()));
        }
    }
    let mut command = Cli::command();
    command.build();
    walk(&command, "shoal");
}
