//! Templates of the fleet file, with every variable that they use having to be set.
//!
//! The same code checks a template when a fleet is planned and renders it on the host. Rendering
//! is bounded in work and in size, so that no template can loop or fill a disk.

pub(crate) mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::name::{CredentialName, HostName, InstanceId};
use crate::secret::Credentials;
use crate::spec::Vars;

/// Bytes that one file of a fleet may have, before and after rendering.
pub const LARGEST_FILE: usize = 512 << 10;

/// What no other error of a template is, marks those of `secret()`.
const NO_SECRET: minijinja::ErrorKind = minijinja::ErrorKind::BadSerialization;

/// Instructions of minijinja's machine that rendering one file may take.
const FUEL: u64 = 1_000_000;

/// What a template can name, besides the fleet file's own `vars`: the object `shoal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// `shoal.host`: the host's name.
    pub host: String,
    /// `shoal.fleet`: the fleet's name.
    pub fleet: String,
    /// `shoal.instance`: the instance's name.
    pub instance: String,
}

impl Place {
    /// Where `instance` runs.
    #[must_use]
    pub fn new(host: &HostName, instance: &InstanceId) -> Self {
        Self {
            host: host.to_string(),
            fleet: instance.fleet.to_string(),
            instance: instance.instance.to_string(),
        }
    }
}

/// What `secret('NAME')` gives in a template.
#[derive(Clone, Default)]
pub struct Secrets {
    /// `None`: a text of which no part may be secret.
    by_name: Option<Arc<BTreeMap<String, Secret>>>,
}

#[derive(Clone)]
enum Secret {
    Text(Zeroizing<String>),
    /// Not UTF-8.
    Bytes,
}

impl Secrets {
    /// For a text that is seen by more than the instance: no secret may go into it.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// For trying a template where values are not known: each stands for itself.
    pub fn stand_ins<'a>(names: impl IntoIterator<Item = &'a CredentialName>) -> Self {
        let text = |name| Secret::Text(Zeroizing::new(format!("(the secret {name})")));
        let all = names.into_iter().map(|name| (name.to_string(), text(name)));
        Self { by_name: Some(Arc::new(all.collect())) }
    }

    /// The values.
    #[must_use]
    pub fn known(credentials: &Credentials) -> Self {
        let all = credentials.iter().map(|(name, value)| {
            let text = std::str::from_utf8(value.reveal());
            let text = text.map(|text| Secret::Text(Zeroizing::new(text.to_owned())));
            (name.to_string(), text.unwrap_or(Secret::Bytes))
        });
        Self { by_name: Some(Arc::new(all.collect())) }
    }

    fn get(&self, name: &str) -> Result<String, String> {
        let Some(by_name) = &self.by_name else {
            return Err("secrets go into files and credentials only: everyone on the host can \
                        read the rest"
                .to_owned());
        };
        match by_name.get(name) {
            Some(Secret::Text(text)) => Ok(text.to_string()),
            Some(Secret::Bytes) => {
                Err(format!("the secret `{name}` is no text; use it as a credential"))
            }
            None => {
                let shown: String = name.chars().take(60).collect();
                Err(format!(
                    "the instance's `secrets` names no `{shown}`; write {shown} = \"SECRET\" there"
                ))
            }
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.by_name.iter().flat_map(|all| all.keys());
        f.debug_set().entries(names).finish()
    }
}

/// Why a template does not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RenderError {
    /// Line in the template, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// The names that `template` uses and does not set itself; `shoal` is left out.
///
/// # Errors
/// Where the template is not one.
pub fn variables(template: &str) -> Result<BTreeSet<String>, RenderError> {
    tags::check(template)?;
    let environment = environment(&Secrets::none());
    let parsed = environment.template_from_str(template).map_err(explain)?;
    let mut names: BTreeSet<String> = parsed.undeclared_variables(false).into_iter().collect();
    names.remove("shoal");
    for name in environment.globals().map(|(name, _)| name) {
        names.remove(name);
    }
    Ok(names)
}

/// Renders `template`.
///
/// # Errors
/// Where the template is not one, names a variable that is not set or a secret that is not the
/// instance's, does too much work, or renders to more than [`LARGEST_FILE`] bytes.
pub fn render(
    template: &str,
    vars: &Vars,
    place: &Place,
    secrets: &Secrets,
) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct Context<'a> {
        #[serde(flatten)]
        vars: &'a Vars,
        shoal: &'a Place,
    }
    tags::check(template)?;
    let environment = environment(secrets);
    let parsed = environment.template_from_str(template).map_err(explain)?;
    let mut out = Bounded(Vec::new());
    parsed
        .render_captured_to(Context { vars, shoal: place }, &mut out)
        .map_err(|e| if out.0.len() >= LARGEST_FILE { too_large() } else { explain(e) })?;
    String::from_utf8(out.0).map_err(|_| too_large())
}

fn environment(secrets: &Secrets) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment.set_fuel(Some(FUEL));
    // It lets a loop put values into one another without end; dropping them overflows the stack.
    environment.remove_global("namespace");
    // It shows variables that the template does not name, and people have one of that name.
    environment.remove_global("debug");
    let secrets = secrets.clone();
    environment.add_function("secret", move |name: &str| {
        secrets.get(name).map_err(|why| minijinja::Error::new(NO_SECRET, why))
    });
    environment
}

fn explain(error: minijinja::Error) -> RenderError {
    use minijinja::ErrorKind;
    let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::UndefinedError => {
            let name = undefined_name(&error);
            format!("{name} is not set; set it in [vars], or test it with `is defined`")
        }
        ErrorKind::OutOfFuel => "it does too much work; does it loop?".to_owned(),
        NO_SECRET => error.detail().unwrap_or("it can't have that secret").to_owned(),
        kind => format!("{kind}{detail}"),
    };
    RenderError { line: error.line(), message }
}

/// The text of the template that the error points to, which is the variable's name.
fn undefined_name(error: &minijinja::Error) -> String {
    let pointed = error.range().zip(error.template_source()).and_then(|(range, source)| {
        source.get(range).map(|text| text.trim().trim_matches(['{', '}']).trim().to_owned())
    });
    match pointed {
        Some(name) if !name.is_empty() && name.len() < 80 => format!("variable `{name}`"),
        _ => "a variable that it uses".to_owned(),
    }
}

fn too_large() -> RenderError {
    let message = format!("it renders to more than {LARGEST_FILE} bytes, the most a file may have");
    RenderError { line: None, message }
}

/// A buffer that takes no more than [`LARGEST_FILE`] bytes.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = LARGEST_FILE - self.0.len();
        if bytes.len() > room {
            self.0.extend_from_slice(&bytes[..room]);
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Value;

    fn place() -> Place {
        Place::new(&"h1".parse().unwrap(), &"shop/main".parse().unwrap())
    }

    fn vars() -> Vars {
        [("domain".to_owned(), Value::Text("vote.example.org".into()))].into()
    }

    #[test]
    fn renders_vars_and_place() {
        let text = "host={{ domain }} on {{ shoal.host }}/{{ shoal.instance }}\n";
        let rendered = render(text, &vars(), &place(), &Secrets::none()).unwrap();
        assert_eq!(rendered, "host=vote.example.org on h1/main\n");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named_with_its_line() {
        let error = render("ok\n{{ domian }}\n", &vars(), &place(), &Secrets::none()).unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.message.contains("`domian` is not set"), "{error}");
    }

    #[test]
    fn a_template_says_what_it_needs() {
        let names = variables("{{ a }} {% for x in list %}{{ x }}{% endfor %} {{ shoal.host }}");
        assert_eq!(names.unwrap().into_iter().collect::<Vec<_>>(), ["a", "list"]);
        assert!(variables("{{ a").is_err());
    }

    #[test]
    fn nesting_at_the_bounds_still_renders() {
        let chains = ["not ", "-"].map(|c| format!("{{{{ {}1 }}}}", c.repeat(500)));
        let calls = format!("{{{{ domain{} }}}}", "|d".repeat(255));
        let indices = format!("{{% if 0 %}}{{{{ domain{} }}}}{{% endif %}}", "[0]".repeat(170));
        let sets = format!("{{% set x = 1 %}}{}{{{{ x }}}}", "{% set x = [x] %}".repeat(255));
        let elifs = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(256));
        let ifs = format!("{{% if 1 %}}{calls}")
            + &"{% if 1 %}".repeat(100)
            + &calls
            + &"{% endif %}".repeat(101);
        for template in chains.iter().chain([&calls, &indices, &sets, &elifs, &ifs]) {
            assert!(variables(template).is_ok(), "{template}");
            assert_eq!(
                render(template, &vars(), &place(), &Secrets::none()).err(),
                None,
                "{template}"
            );
        }
        let growing = "{% set ns = namespace(a=1) %}{{ ns.a }}";
        assert!(render(growing, &vars(), &place(), &Secrets::none()).is_err());
    }

    #[test]
    fn loops_and_floods_end_with_a_word() {
        let looping =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let error = render(looping, &vars(), &place(), &Secrets::none()).unwrap_err();
        assert!(error.message.contains("too much work"), "{error}");
        let flood = format!("{{% for a in range(2000) %}}{}{{% endfor %}}", "x".repeat(1000));
        let error = render(&flood, &vars(), &place(), &Secrets::none()).unwrap_err();
        assert!(error.message.contains("524288 bytes"), "{error}");
    }

    #[test]
    fn secrets_are_for_those_who_name_them() {
        let names: [CredentialName; 1] = ["db-password".parse().unwrap()];
        let text = "p={{ secret('db-password') }}";
        let tried = render(text, &vars(), &place(), &Secrets::stand_ins(&names)).unwrap();
        assert_eq!(tried, "p=(the secret db-password)");
        let value = |bytes: &[u8]| {
            let value = crate::secret::SecretValue::new(bytes.to_vec()).unwrap();
            Secrets::known(&[(names[0].clone(), value)].into())
        };
        assert_eq!(render(text, &vars(), &place(), &value(b"x")).unwrap(), "p=x");
        let why = |template: &str, secrets: &Secrets| {
            render(template, &vars(), &place(), secrets).unwrap_err().message
        };
        assert!(why(text, &value(b"\xff")).contains("is no text"));
        let other = why("{{ secret('db-pasword') }}", &value(b"x"));
        assert!(other.contains("names no `db-pasword`"), "{other}");
        assert!(why(text, &Secrets::none()).contains("files and credentials only"));
        assert!(variables(text).unwrap().is_empty(), "it is no variable");
        assert!(!format!("{:?}", value(b"hunter2")).contains("hunter2"));
    }
}
