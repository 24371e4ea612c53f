//! How a container gets from one configuration to another: as it runs, or by being made anew.
//!
//! What a running container can take: another signature of its image, new checks, hooks, another order, other limits of its control
//! group, and new contents of files whose unit can be reloaded. All else needs a new one.

use std::collections::BTreeSet;

use crate::diff::{FieldChange, config_changes};
use crate::render;
use crate::spec::{File, FileBody, InstanceConfig, Settings, UnitName};

/// What it takes to get from one configuration to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Nothing: both make the same container.
    None,
    /// The container that runs can be brought there.
    Refresh {
        /// The units inside that have to read their files again.
        reload: BTreeSet<UnitName>,
        /// What differs.
        changes: Vec<FieldChange>,
    },
    /// It must be made anew.
    Recreate {
        /// What differs.
        changes: Vec<FieldChange>,
    },
}

/// What it takes to get from `from` to `to`.
#[must_use]
pub fn update(from: &InstanceConfig, to: &InstanceConfig) -> Update {
    let changes = config_changes(from, to);
    if changes.is_empty() {
        return Update::None;
    }
    let mut reachable = from.clone();
    reachable.image.clone_from(&to.image);
    let same_image = from.image.digest == to.image.digest;
    let reload = refresh(&mut reachable.settings, &to.settings);
    if same_image && reachable.settings == to.settings {
        Update::Refresh { reload, changes }
    } else {
        Update::Recreate { changes }
    }
}

/// Brings `settings` as near to `to` as a running container can get; gives the units to reload.
fn refresh(settings: &mut Settings, to: &Settings) -> BTreeSet<UnitName> {
    let before = settings.clone();
    settings.hooks.clone_from(&to.hooks);
    settings.health.clone_from(&to.health);
    settings.after.clone_from(&to.after);
    // The limit of open files is each process's own, given when the container starts.
    settings.limits = crate::spec::Limits { nofile: before.limits.nofile, ..to.limits.clone() };
    let mut reload = BTreeSet::new();
    for (path, wanted) in &to.files {
        let (Some(file), Some(unit)) = (settings.files.get_mut(path), &wanted.reload) else {
            continue;
        };
        if !renders_alike(file, &before, wanted, to) {
            reload.insert(unit.clone());
        }
        file.clone_from(wanted);
    }
    // A variable that only such files use may change with them.
    let fixed = fixed_variables(to);
    let differs = |name: &String| before.vars.get(name) != to.vars.get(name);
    if !fixed.iter().any(differs) {
        settings.vars.clone_from(&to.vars);
    }
    reload
}

/// Whether a file surely looks the same under both settings.
fn renders_alike(a: &File, a_settings: &Settings, b: &File, b_settings: &Settings) -> bool {
    if (&a.body, a.mode, a.owner) != (&b.body, b.mode, b.owner) {
        return false;
    }
    let same = |name: &String| a_settings.vars.get(name) == b_settings.vars.get(name);
    used(&a.body).iter().all(same)
}

/// The variables that files use which can't be changed while the container runs.
fn fixed_variables(settings: &Settings) -> BTreeSet<String> {
    let fixed = settings.files.values().filter(|file| file.reload.is_none());
    fixed.flat_map(|file| used(&file.body)).collect()
}

fn used(body: &FileBody) -> BTreeSet<String> {
    match body {
        FileBody::Template(template) => render::variables(template).unwrap_or_default(),
        FileBody::Text(_) | FileBody::Bytes(_) => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Value;
    use crate::spec::tests_support::instance;

    fn template(text: &str, reload: Option<&str>) -> File {
        let reload = reload.map(|unit| unit.parse().unwrap());
        let body = FileBody::Template(text.into());
        File { body, mode: 0o644, owner: Default::default(), reload }
    }

    fn config(change: impl FnOnce(&mut Settings)) -> InstanceConfig {
        let mut config = instance("a/b", 1).config;
        let files = [
            ("/etc/a", template("{{ a }}", Some("a.service"))),
            ("/etc/b", template("{{ b }}", Some("b.service"))),
            ("/etc/c", template("{{ c }}", None)),
        ];
        config.settings.files = files.map(|(p, f)| (p.parse().unwrap(), f)).into();
        config.settings.vars =
            ["a", "b", "c"].map(|name| (name.to_owned(), Value::Integer(1))).into();
        change(&mut config.settings);
        config
    }

    fn reloads(change: impl FnOnce(&mut Settings)) -> Option<Vec<String>> {
        match update(&config(|_| {}), &config(change)) {
            Update::None => panic!("something differs"),
            Update::Refresh { reload, .. } => {
                Some(reload.iter().map(ToString::to_string).collect())
            }
            Update::Recreate { .. } => None,
        }
    }

    fn set(settings: &mut Settings, name: &str) {
        settings.vars.insert(name.into(), Value::Integer(2));
    }

    #[test]
    fn files_with_a_unit_to_reload_need_no_new_container() {
        assert_eq!(update(&config(|_| {}), &config(|_| {})), Update::None);
        let file = |s: &mut Settings, path: &str, file| {
            s.files.insert(path.parse().unwrap(), file);
        };
        let a = || template("{{ a }}!", Some("a.service"));
        assert_eq!(reloads(|s| file(s, "/etc/a", a())), Some(vec!["a.service".into()]));
        assert_eq!(reloads(|s| file(s, "/etc/c", template("!", None))), None);
        assert_eq!(reloads(|s| file(s, "/etc/new", a())), None, "it needs a new mount");
        assert_eq!(reloads(|s| drop(s.files.pop_first())), None);
    }

    #[test]
    fn a_variable_reloads_what_uses_it() {
        assert_eq!(reloads(|s| set(s, "b")), Some(vec!["b.service".into()]));
        assert_eq!(reloads(|s| set(s, "c")), None);
    }

    #[test]
    fn checks_order_and_limits_are_changed_in_place() {
        use crate::spec::{Limits, Memory};
        let none = Some(Vec::new());
        assert_eq!(reloads(|s| s.after.extend(["a/db".parse().unwrap()])), none);
        let memory = Some(Memory(1 << 20));
        assert_eq!(reloads(|s| s.limits = Limits { memory, ..Limits::default() }), none);
        let nofile = Some(1024);
        assert_eq!(reloads(|s| s.limits = Limits { nofile, ..Limits::default() }), None);
    }

    #[test]
    fn another_signature_needs_no_new_container() {
        let from = instance("a/b", 1).config;
        let mut to = from.clone();
        let signed = crate::image::SignedManifest::new("x".into(), "y".into()).unwrap();
        to.image.signed = Some(Box::new(signed));
        let Update::Refresh { reload, .. } = update(&from, &to) else { panic!("not in place") };
        assert!(reload.is_empty());
    }

    #[test]
    fn an_image_needs_a_new_container() {
        let (from, to) = (instance("a/b", 1).config, instance("a/b", 2).config);
        assert!(matches!(update(&from, &to), Update::Recreate { .. }));
    }
}
