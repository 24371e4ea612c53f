use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::*;
use crate::args::Cli;

fn all() -> Vec<Page> {
    pages(Cli::command())
}

fn page_of(name: &str) -> String {
    all().into_iter().find(|page| page.file_name == name).unwrap().text
}

#[test]
fn every_command_has_a_page() {
    fn walk(command: &Command, name: &str, names: &mut BTreeSet<String>) {
        names.insert(format!("{name}.1"));
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            walk(sub, &format!("{name}-{}", sub.get_name()), names);
        }
    }
    let mut expected = BTreeSet::new();
    walk(&Cli::command(), "shoal", &mut expected);
    let pages: Vec<String> = all().into_iter().map(|page| page.file_name).collect();
    assert_eq!(pages.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(pages.len(), expected.len());
    assert_eq!(pages[0], "shoal.1");
}

#[test]
fn the_same_version_makes_the_same_pages() {
    assert_eq!(all(), all());
    assert!(
        page_of("shoal.1")
            .contains(&format!(".TH shoal 1 \"\" \"shoal {}\" Shoal\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn a_page_of_a_command() {
    insta::assert_snapshot!(page_of("shoal-host-label.1"));
}

#[test]
fn a_page_of_a_group() {
    insta::assert_snapshot!(page_of("shoal-host-token.1"));
}

/// What a reader of pages needs to read them: one definition of the apostrophe, one title, the
/// sections in their order, no macro that `man` does not have, no argument that ends early.
#[test]
fn pages_are_well_formed() {
    let macros = ["TH", "SH", "TP", "PP", "IP", "RS", "RE", "br", "ie", "el"];
    for Page { file_name, text } in all() {
        let controls: Vec<_> = text.lines().filter_map(|line| line.strip_prefix('.')).collect();
        for control in &controls {
            let name = control.split(' ').next().unwrap();
            assert!(macros.contains(&name), "{file_name}: .{control}");
            let quotes = control.matches('"').count();
            assert!(quotes % 2 == 0, "{file_name}: .{control}");
        }
        assert_eq!(
            controls.iter().filter(|line| line.starts_with("TH ")).count(),
            1,
            "{file_name}"
        );
        assert_eq!(text.lines().filter(|line| line.starts_with(".ie ")).count(), 1, "{file_name}");
        let open = |name| controls.iter().filter(|control| control.starts_with(name)).count();
        assert_eq!(open("RS"), open("RE"), "{file_name}");
        let sections: Vec<_> =
            controls.iter().filter_map(|control| control.strip_prefix("SH ")).collect();
        assert_eq!(sections[..3], ["NAME", "SYNOPSIS", "DESCRIPTION"], "{file_name}");
        let end = ["\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "SEE ALSO"];
        let own: Vec<_> = sections.iter().filter(|name| end.contains(&name.trim())).collect();
        assert!(own.len() >= 3, "{file_name}: {sections:?}");
        assert!(text.lines().all(|line| !line.starts_with('\'')), "{file_name}");
        assert!(text.ends_with('\n'), "{file_name}");
    }
}

#[test]
fn codes_and_variables_are_those_of_the_help() {
    let text = page_of("shoal-plan.1");
    for exit in Exit::ALL {
        assert!(text.contains(&format!("\\fB{}\\fR\n", exit.code())), "{exit:?}");
    }
    for variable in ["SHOAL_CONTEXT", "SHOAL_CONFIG", "NO_COLOR"] {
        assert!(text.contains(&format!("\\fB{variable}\\fR\n")), "{variable}");
    }
    assert!(!text.contains("SHOAL_SOURCE") && page_of("shoal-apply.1").contains("SHOAL_SOURCE"));
}
