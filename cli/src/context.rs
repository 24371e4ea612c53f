//! The file of contexts: which controller to talk to, and as whom.
//!
//! ```toml
//! current = "prod"
//!
//! [context.prod]
//! controller = "shoal.example.org:7443"
//! ca = "-----BEGIN CERTIFICATE-----…"
//! certificate = "-----BEGIN CERTIFICATE-----…"
//! key = "-----BEGIN PRIVATE KEY-----…"
//! ```
//!
//! `shoal-controller init` writes the first one. Keys that this version does not know are kept
//! when the file is written again.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_tls::{PrivateFileError, write_private};

/// One context.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Context {
    /// `HOST:PORT`; the port may be left out.
    pub(crate) controller: String,
    /// PEM: the CAs that may sign the controller's certificate.
    pub(crate) ca: String,
    /// PEM: this user's certificate, leaf first.
    pub(crate) certificate: String,
    /// PEM: its key.
    pub(crate) key: String,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("controller", &self.controller).finish_non_exhaustive()
    }
}

/// Why there is no context to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error(
        "there is no home directory to look for the file of contexts in; name the file with \
         --config or SHOAL_CONFIG"
    )]
    NoHome,
    #[error(
        "there is no file of contexts at {path}; `shoal-controller init` writes one: copy it from \
         there, or name it with --config or SHOAL_CONFIG"
    )]
    Missing { path: PathBuf },
    #[error("cannot read the file of contexts {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}:{line}: {message}")]
    Parse { path: PathBuf, line: usize, message: String },
    #[error(
        "{path} does not say which context is the current one; choose one with `shoal context use \
         NAME` or --context (there {})", listed(.known)
    )]
    NoCurrent { path: PathBuf, known: Vec<String> },
    #[error("there is no context {name:?} in {path}; there {}", listed(.known))]
    Unknown { name: String, path: PathBuf, known: Vec<String> },
    #[error("there is a context {name:?} in {path} already; choose another name")]
    Taken { name: String, path: PathBuf },
    #[error("cannot write the file of contexts")]
    Write(#[source] PrivateFileError),
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "are none".to_owned(),
        [name] => format!("is {name}"),
        names => format!("are {}", names.join(", ")),
    }
}

/// The file of contexts, as read.
#[derive(Debug)]
pub(crate) struct ContextFile {
    path: PathBuf,
    table: toml::Table,
    readable_by_others: bool,
}

/// Where the file is where no one says otherwise.
pub(crate) fn default_path(home: Option<PathBuf>) -> Result<PathBuf, ContextError> {
    let home = home.filter(|home| home.is_absolute()).ok_or(ContextError::NoHome)?;
    Ok(home.join(".config/shoal/config.toml"))
}

impl ContextFile {
    /// Reads the file and checks every context in it.
    pub(crate) fn read(path: &Path) -> Result<Self, ContextError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ContextError::Missing { path: path.to_owned() },
            _ => ContextError::Read { path: path.to_owned(), source },
        };
        let text = fs::read_to_string(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        let table = parse(path, &text)?;
        Ok(Self { path: path.to_owned(), table, readable_by_others: mode & 0o077 != 0 })
    }

    /// What to tell the user where others can read the keys.
    pub(crate) fn warning(&self) -> Option<String> {
        self.readable_by_others.then(|| {
            let path = self.path.display();
            format!("{path} holds private keys and others can read it; run `chmod 600 {path}`")
        })
    }

    /// The names of the contexts.
    pub(crate) fn names(&self) -> Vec<String> {
        self.contexts().map(|contexts| contexts.keys().cloned().collect()).unwrap_or_default()
    }

    /// The name of the current context, where the file gives one.
    pub(crate) fn current(&self) -> Option<&str> {
        self.table.get("current").and_then(toml::Value::as_str)
    }

    /// The context of this name, or the current one, with its name.
    pub(crate) fn choose(&self, name: Option<&str>) -> Result<(String, Context), ContextError> {
        let name = match name.or_else(|| self.current()) {
            Some(name) => name,
            None => {
                let (path, known) = (self.path.clone(), self.names());
                return Err(ContextError::NoCurrent { path, known });
            }
        };
        let value = self.contexts().and_then(|contexts| contexts.get(name));
        let value = value.ok_or_else(|| self.unknown(name))?;
        let context = value.clone().try_into().map_err(|error: toml::de::Error| {
            let message = format!("context {name:?}: {}", error.message());
            ContextError::Parse { path: self.path.clone(), line: 1, message }
        })?;
        Ok((name.to_owned(), context))
    }

    /// Makes a context the current one.
    pub(crate) fn make_current(&mut self, name: &str) -> Result<(), ContextError> {
        self.choose(Some(name))?;
        self.table.insert("current".to_owned(), name.into());
        self.write()
    }

    /// Gives a context another name.
    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Result<(), ContextError> {
        self.choose(Some(from))?;
        let is_current = self.current() == Some(from);
        if self.names().iter().any(|name| name == to) {
            return Err(ContextError::Taken { name: to.to_owned(), path: self.path.clone() });
        }
        let contexts = self.table.get_mut("context").and_then(toml::Value::as_table_mut);
        if let Some(contexts) = contexts
            && let Some(context) = contexts.remove(from)
        {
            contexts.insert(to.to_owned(), context);
        }
        if is_current {
            self.table.insert("current".to_owned(), to.into());
        }
        self.write()
    }

    fn contexts(&self) -> Option<&toml::Table> {
        self.table.get("context").and_then(toml::Value::as_table)
    }

    fn unknown(&self, name: &str) -> ContextError {
        ContextError::Unknown {
            name: name.to_owned(),
            path: self.path.clone(),
            known: self.names(),
        }
    }

    fn write(&self) -> Result<(), ContextError> {
        write_private(&self.path, self.table.to_string().as_bytes()).map_err(ContextError::Write)
    }
}

/// Reads the text twice: as its shape, whose errors know their line, and as a table, which keeps
/// what this version does not know.
fn parse(path: &Path, text: &str) -> Result<toml::Table, ContextError> {
    #[derive(Deserialize)]
    struct Shape {
        #[serde(rename = "current")]
        _current: Option<String>,
        #[serde(default, rename = "context")]
        _contexts: std::collections::BTreeMap<String, Context>,
    }
    let failed = |error: toml::de::Error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ContextError::Parse { path: path.to_owned(), line, message: error.message().to_owned() }
    };
    toml::from_str::<Shape>(text).map_err(failed)?;
    text.parse::<toml::Table>().map_err(failed)
}

#[cfg(test)]
mod tests;
