use clap::CommandFactory as _;

use super::*;

/// Every command with a name of its own, deepest last.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(name: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{name} {}", sub.get_name());
            walk(&name, sub, found);
        }
        found.push((name.to_owned(), command.clone()));
    }
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut found = Vec::new();
    walk("shoal", &root, &mut found);
    found.reverse();
    found
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_of_each_command() {
    for (name, mut command) in commands() {
        let help = command.render_long_help().to_string();
        insta::assert_snapshot!(name.replace(' ', "-"), help);
    }
}

#[test]
fn every_command_and_argument_has_help() {
    for (name, command) in commands() {
        assert!(command.get_about().is_some(), "{name} has no help");
        for argument in command.get_arguments() {
            let is_hidden = argument.is_hide_set();
            assert!(is_hidden || argument.get_help().is_some(), "{name} {}", argument.get_id());
        }
    }
}

fn error(line: &str) -> String {
    let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

#[test]
fn what_is_wrong_on_the_command_line_is_said() {
    let long = "x".repeat(200);
    let table = [
        ("shoal image push f.squashfs shop", "write NAME:TAG"),
        ("shoal image push f.squashfs ../x:1", "image name"),
        ("shoal start shop", "write FLEET/INSTANCE"),
        ("shoal start Shop/main", "contains 'S'"),
        ("shoal start shop/../main", "instance name"),
        (&format!("shoal status {long}"), "is 200 bytes long"),
        ("shoal host label h1 role", "KEY=VALUE"),
        ("shoal host label h1", "required"),
        ("shoal ps -l a=b=c", "is not a label"),
        ("shoal apply --wait --dry-run", "cannot be used with"),
        ("shoal apply --timeout 5x", "such as 90s"),
        ("shoal exec shop/main ls", "unexpected argument"),
        ("shoal logs", "required"),
        ("shoal logs shop/main/x", "contains '/'"),
        ("shoal logs shop --since soon", "write an age such as 10m"),
        ("shoal logs shop --until 1h --follow", "cannot be used with"),
        ("shoal logs shop --priority bad", "emerg, alert, crit, err, warning"),
        ("shoal logs shop --unit=", "a value is required"),
        ("shoal events -n 0", "not in 1.."),
        ("shoal pause shop", "write FLEET/INSTANCE"),
        ("shoal apply a.toml -f b.toml", "cannot be used with"),
        ("shoal rollout watch shop --revision 0", "not in 1.."),
        ("shoal rollout undo shop --to-revision 0", "not in 1.."),
        ("shoal rollout pause shop --for 25h", "at most 24h"),
        ("shoal rollout lock shop", "--reason"),
        ("shoal rollout lock shop --reason=", "write one line"),
        (&format!("shoal rollout abort shop --reason {}", "x".repeat(501)), "at most 500"),
        ("shoal apply --lock-wait 1m --dry-run", "cannot be used with"),
        ("shoal apply -l role=log", "--recreate"),
        ("shoal plan -l role=log", "--recreate"),
        ("shoal apply --recreate -l a=b=c", "is not a label"),
        ("shoal secret set db hunter2", "unexpected argument"),
        ("shoal secret set DB", "contains 'D'"),
        ("shoal secret generate db --length 7", "not in 8..=1024"),
        ("shoal chekc", "check"),
    ];
    for (line, expected) in table {
        let error = error(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn exec_takes_everything_after_the_dashes() {
    let cli =
        Cli::try_parse_from(["shoal", "exec", "a/b@h1", "--", "ls", "-l", "--", "x"]).unwrap();
    let Command::Exec(args) = cli.command else { panic!("another command") };
    assert_eq!(args.command, ["ls", "-l", "--", "x"]);
    assert_eq!(args.target.to_string(), "a/b@h1");
}

#[test]
fn global_options_may_come_last() {
    let cli = Cli::try_parse_from(["shoal", "host", "list", "-o", "json", "--context", "lab"]);
    let globals = cli.unwrap().globals;
    assert_eq!((globals.output, globals.context.as_deref()), (Format::Json, Some("lab")));
}

#[test]
fn priorities_have_names_and_numbers() {
    let number = |text: &str| {
        let cli = Cli::try_parse_from(["shoal", "logs", "shop", "-p", text]).unwrap();
        let Command::Logs(args) = cli.command else { panic!("another command") };
        args.priority.unwrap().number()
    };
    let names = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
    for (wanted, name) in (0_u32..).zip(names) {
        assert_eq!((number(name), number(&wanted.to_string())), (wanted, wanted));
    }
    assert_eq!((number("error"), number("warn")), (3, 4));
}

#[test]
fn a_fleet_file_may_also_be_named_as_elsewhere() {
    for line in ["shoal apply b.toml", "shoal apply -f b.toml", "shoal apply --file b.toml"] {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Apply(args) = cli.command else { panic!("another command") };
        assert_eq!(args.file.path(), std::path::Path::new("b.toml"), "{line}");
    }
}
