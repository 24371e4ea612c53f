//! What can be said about a template before it meets a host.

use std::collections::{BTreeMap, BTreeSet};

use crate::render::tags::{Word, tags};
use crate::render::{self, Place, Secrets};

use super::problem::short;
use super::table::{did_you_mean, nearest};
use super::vars::Variables;

/// Faults of one template that are told; after so many it is probably not a template at all.
const MOST_FAULTS: usize = 20;

/// Groups of hosts whose variables a template is tried with here; the controller tries it for each
/// host.
const MOST_SAMPLES: usize = 32;

/// What is wrong with a template.
#[derive(Debug)]
pub(super) struct Fault {
    /// Line in the template, from 1, where it is known.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) help: Option<String>,
}

/// What a check has found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// The names of the variables that the template uses.
    pub(super) used: BTreeSet<String>,
    /// What is wrong with it.
    pub(super) faults: Vec<Fault>,
}

/// Checks that the template is one, that its variables are set, and that it renders.
///
/// A variable counts as used wherever it is named, also in a branch that is not taken here: the
/// host that takes it is no place to find out. Only `is defined` and `default` make it optional.
pub(super) fn check(text: &str, vars: &Variables, place: &Place, secrets: &Secrets) -> Checked {
    let used = match render::variables(text) {
        Ok(used) => used,
        Err(error) => return Checked { faults: vec![fault(error)], ..Checked::default() },
    };
    if vars.unreadable() {
        return Checked { used, faults: Vec::new() };
    }
    let uses = uses(text);
    let known: BTreeSet<&str> = vars.names().collect();
    let missing = used.iter().filter(|name| !known.contains(name.as_str()));
    let needed = missing.filter(|name| !uses.get(name.as_str()).is_some_and(|u| u.optional));
    let mut faults: Vec<Fault> = needed
        .take(MOST_FAULTS)
        .map(|name| unset(name, uses.get(name.as_str()).map(|u| u.line), vars))
        .collect();
    if faults.is_empty() && !vars.damaged {
        let mut samples = vars.samples(&used).into_iter().take(MOST_SAMPLES);
        let failed = samples.find_map(|sample| render::render(text, &sample, place, secrets).err());
        faults.extend(failed.map(fault));
    }
    Checked { used, faults }
}

fn fault(error: render::RenderError) -> Fault {
    Fault { line: error.line, message: error.message, help: None }
}

fn unset(name: &str, line: Option<usize>, vars: &Variables) -> Fault {
    let near = nearest(name, vars.names());
    let advice = || "set it in [vars], or test it with `is defined`".to_owned();
    let message = format!("variable `{}` is not set", short(name, 60));
    Fault { line, message, help: Some(near.map_or_else(advice, did_you_mean)) }
}

/// How a template uses a name.
#[derive(Debug)]
struct Use {
    /// The line of its first use, from 1.
    line: usize,
    /// Whether the template says that it may be left unset.
    optional: bool,
}

fn uses(template: &str) -> BTreeMap<&str, Use> {
    let mut uses = BTreeMap::new();
    for tag in tags(template) {
        for (at, word) in tag.words.iter().enumerate() {
            let attribute = at > 0 && tag.words[at - 1].text == ".";
            if !attribute {
                let found =
                    uses.entry(word.text).or_insert(Use { line: word.line, optional: false });
                found.optional |= is_guard(&tag.words[at + 1..]);
            }
        }
    }
    uses
}

fn is_guard(after: &[Word<'_>]) -> bool {
    let word = |at: usize| after.get(at).map_or("", |word| word.text);
    match (word(0), word(1)) {
        ("is", "not") => matches!(word(2), "defined" | "undefined"),
        ("is", test) => matches!(test, "defined" | "undefined"),
        ("|", filter) => matches!(filter, "default" | "d"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Value;

    fn check_with_domain(text: &str) -> Checked {
        let values = [("domain".to_owned(), Value::Text("vote.example.org".into()))].into();
        let place = Place { host: "h".into(), fleet: "f".into(), instance: "i".into() };
        check(text, &Variables { values, ..Variables::default() }, &place, &Secrets::none())
    }

    fn faults(text: &str) -> Vec<String> {
        let shown =
            |f: Fault| format!("{:?} {} ({})", f.line, f.message, f.help.as_deref().unwrap_or("-"));
        check_with_domain(text).faults.into_iter().map(shown).collect()
    }

    #[test]
    fn a_variable_that_is_not_set_is_found_in_every_branch() {
        let text =
            "{# domian #}\n'domian'\n{% if shoal.host == \"domian\" %}\n{{ domian }}{% endif %}";
        assert_eq!(faults(text), ["Some(4) variable `domian` is not set (did you mean `domain`?)"]);
        assert_eq!(
            faults("{{ domain }}\n{% for p in\n ports %}{{ p }}{% endfor %}"),
            [
                "Some(3) variable `ports` is not set (set it in [vars], or test it with `is defined`)"
            ]
        );
    }

    #[test]
    fn what_a_template_guards_may_be_left_unset() {
        for text in [
            "{% if port is defined %}{{ port }}{% endif %}",
            "{% if port is not defined %}-{% else %}{{ port }}{% endif %}",
            "{{ port | default(80) }} {{ port|d(1) }}",
        ] {
            assert_eq!(faults(text), [""; 0], "{text}");
        }
        let unguarded = faults("{{ domain.port is defined }}{{ port }}");
        assert!(unguarded[0].contains("`port` is not set"), "{unguarded:?}");
    }

    #[test]
    fn what_does_not_render_is_told_with_its_line() {
        let cases = [
            ("ok\n{{ domain", "Some(2) syntax error"),
            ("{% include 'x' %}", "Some(1) "),
            ("{{ shoal.port }}", "Some(1) variable `shoal.port` is not set"),
            ("\n{{ domain | nothing }}", "Some(2) unknown filter"),
            ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "Some(1) "),
        ];
        for (text, wanted) in cases {
            let found = faults(text);
            assert!(found[0].starts_with(wanted), "{text}: {found:?}");
        }
    }

    #[test]
    fn names_used_are_those_of_the_whole_template() {
        let checked = check_with_domain("{{ domain }}{{ other | default('x') }}{{ shoal.host }}");
        assert_eq!(checked.used.into_iter().collect::<Vec<_>>(), ["domain", "other"]);
    }
}
