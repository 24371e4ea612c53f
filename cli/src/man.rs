//! Man pages: one for each command, as git has them, made of what `--help` is made of.
//!
//! Way in: [`pages`]. Deliberately absent: dates, so that the same version makes the same pages.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::exit::Exit;

/// The section of the manual that commands are in.
const SECTION: &str = "1";

/// What the environment says to every command, but for what options say it of themselves.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("NO_COLOR", "Where it is set and not empty, there is no colour without --color always."),
    ("CI", "Where it is set and not empty, nothing changes in place on the terminal."),
    ("TERM", "dumb has the same effect as CI."),
    (
        "XDG_RUNTIME_DIR",
        "Where completion keeps what the controller said a few seconds ago; else $XDG_CACHE_HOME.",
    ),
    ("HOME", "Where the file of contexts is looked for."),
];

const FILES: [(&str, &str); 3] = [
    (
        "~/.config/shoal/config.toml",
        "The contexts: controllers, and the keys to them. It must be readable by its owner only.",
    ),
    ("fleet.toml", "The fleet file that is meant where none is named, in the current directory."),
    (
        "$XDG_RUNTIME_DIR/shoal/",
        "Answers that completion may give again within seconds; ~/.cache/shoal/ where there is no \
         such directory. It can be deleted at any time.",
    ),
];

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Of its file, such as `shoal-host-list.1`.
    pub(crate) file_name: String,
    /// In roff.
    pub(crate) text: String,
}

/// The pages of a command and of all below it, in the order of the help.
pub(crate) fn pages(root: Command) -> Vec<Page> {
    let version = root.get_version().unwrap_or_default().to_owned();
    let mut root = root.disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add_pages(&root, None, &version, &mut pages);
    pages
}

fn add_pages(command: &Command, parent: Option<&str>, version: &str, pages: &mut Vec<Page>) {
    let page = Page {
        file_name: format!("{}.{SECTION}", name(command)),
        text: page(command, parent, version),
    };
    pages.push(page);
    for sub in visible(command) {
        add_pages(sub, Some(name(command)), version, pages);
    }
}

/// `shoal-host-list`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

fn page(command: &Command, parent: Option<&str>, version: &str) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    let man = Man::new(command.clone().override_usage(usage))
        // An empty argument has to be written as one, or the next would take its place.
        .date("\"\"")
        .source(format!("shoal {version}"))
        .manual("Shoal");
    let has_commands = visible(command).next().is_some();
    let mut parts: Vec<Render<'_>> = vec![
        &Man::render_title,
        &Man::render_name_section,
        &Man::render_synopsis_section,
        &Man::render_description_section,
    ];
    if has_commands {
        parts.push(&Man::render_subcommands_section);
    }
    parts.push(&Man::render_options_section);
    let mut text = Vec::new();
    let written = parts.iter().try_for_each(|render| render(&man, &mut text));
    let own = own_sections(command, parent).to_writer(&mut text);
    written.and(own).expect("a vector takes all that is written");
    with_one_preamble(&String::from_utf8(text).expect("help is text, and so is its markup"))
}

type Render<'a> = &'a dyn Fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>;

/// What is not in the options: how it ends, what it reads, where more is said.
fn own_sections(command: &Command, parent: Option<&str>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        entry(&mut roff, bold(exit.code().to_string()), exit.meaning());
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, help) in variables(command) {
        entry(&mut roff, bold(variable), &help);
    }
    roff.control("SH", ["FILES"]);
    for (path, help) in FILES {
        entry(&mut roff, italic(path), help);
    }
    let related = see_also(command, parent);
    if !related.is_empty() {
        roff.control("SH", ["SEE ALSO"]);
        roff.text(related);
    }
    roff
}

fn entry(roff: &mut Roff, name: Inline, help: &str) {
    roff.control("TP", []);
    roff.text([name]);
    roff.text([roman(help)]);
}

/// Those that stand for options, then those of all commands.
fn variables(command: &Command) -> Vec<(String, String)> {
    let options = command.get_arguments().filter_map(|arg| {
        let (variable, long) = (arg.get_env()?.to_str()?, arg.get_long()?);
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Some((variable.to_owned(), format!("Stands for --{long}: {help}")))
    });
    let common =
        ENVIRONMENT.iter().map(|(variable, help)| (variable.to_string(), help.to_string()));
    options.chain(common).collect()
}

/// The page above, and those below.
fn see_also(command: &Command, parent: Option<&str>) -> Vec<Inline> {
    let below = visible(command).map(name);
    let mut related = Vec::new();
    for page in parent.into_iter().chain(below) {
        if !related.is_empty() {
            related.push(roman(", "));
        }
        related.extend([bold(page), roman(format!("({SECTION})"))]);
    }
    related
}

/// Each part was rendered as a document of its own, with the definition of an apostrophe; the
/// first is enough.
fn with_one_preamble(text: &str) -> String {
    let is_preamble = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let preamble = text.lines().take_while(is_preamble);
    let rest = text.lines().filter(|line| !is_preamble(line));
    preamble.chain(rest).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests;
