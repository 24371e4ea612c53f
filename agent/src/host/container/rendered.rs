//! The files of the deployment: rendered, and put where the container sees them.
//!
//! Each is one file in memory that is bind-mounted, so a running container sees new contents just
//! where they are written into that same file.

use std::path::Path;

use shoal_core::image::Digest;
use shoal_core::render::{Place, RenderError, Secrets, render};
use shoal_core::secret::Credentials;
use shoal_core::spec::{File, FileBody, InstancePath, Owner, Settings, Start};

use super::Bind;
use crate::files::{FileError, make_private_dir};
use crate::host::inplace::{self, Look};
use crate::host::manifest::MadeFile;
use crate::host::network;
use crate::host::parents::Kind;
use crate::record::Record;

/// A template that does not render.
#[derive(Debug, thiserror::Error)]
#[error("the template of {file} does not render{}", line(.source))]
pub struct TemplateError {
    /// The file inside.
    pub file: InstancePath,
    /// What is wrong.
    pub source: RenderError,
}

fn line(error: &RenderError) -> String {
    error.line.map(|line| format!(" (line {line})")).unwrap_or_default()
}

/// A file as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its name among the machine's rendered files.
    pub name: String,
    /// Where it is seen inside.
    pub path: InstancePath,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its mode, and its owner on the host.
    pub look: Look,
}

/// Whether rendering the files of a container may take its secrets.
#[must_use]
pub fn uses_secrets(settings: &Settings) -> bool {
    let mut files = settings.files.values();
    // A template can't call the function without naming it.
    !settings.secrets.is_empty()
        && files.any(|file| matches!(&file.body, FileBody::Template(t) if t.contains("secret")))
}

/// All files of a container, rendered with its secrets, where they use them. The order is that of the fleet file's paths, so that the
/// same paths have the same names.
///
/// # Errors
/// Where a template does not render.
pub fn rendered(
    record: &Record,
    credentials: &Credentials,
) -> Result<Vec<Rendered>, TemplateError> {
    let settings = &record.spec.config.settings;
    let secrets = Secrets::known(credentials);
    let mut files = Vec::new();
    for (number, (path, file)) in settings.files.iter().enumerate() {
        let look = look(record, file.mode, file.owner);
        let content = content(record, path, file, &secrets)?;
        files.push(Rendered { name: number.to_string(), path: path.clone(), content, look });
    }
    if settings.start == Start::Boot {
        let look = look(record, 0o644, Owner::default());
        for (name, inside, text) in
            system_files(settings).into_iter().chain(network::file(settings))
        {
            let (path, content) = (Bind::known(inside), text.into_bytes());
            files.push(Rendered { name: name.into(), path, content, look });
        }
    }
    Ok(files)
}

fn look(record: &Record, mode: u32, owner: Owner) -> Look {
    let base = record.uid_base.unwrap_or(0);
    Look { mode, uid: base + owner.uid, gid: base + owner.gid }
}

fn content(
    record: &Record,
    path: &InstancePath,
    file: &File,
    secrets: &Secrets,
) -> Result<Vec<u8>, TemplateError> {
    let template = match &file.body {
        FileBody::Text(text) => return Ok(text.clone().into_bytes()),
        FileBody::Bytes(bytes) => return Ok(bytes.clone()),
        FileBody::Template(template) => template,
    };
    let place = Place::new(&record.host, &record.spec.id);
    let rendered = render(template, &record.spec.config.settings.vars, &place, secrets);
    let failed = |source| TemplateError { file: path.clone(), source };
    rendered.map(String::into_bytes).map_err(failed)
}

/// Writes files into `dir`, each where it is.
///
/// # Errors
/// Where one can't be written.
pub fn put(dir: &Path, files: &[Rendered]) -> Result<Vec<MadeFile>, FileError> {
    make_private_dir(dir)?;
    let put = |file: &Rendered| {
        let inode = inplace::write(&dir.join(&file.name), &file.content, file.look)?;
        let sha256 = Digest::from(*shoal_image::Sha256Sum::of(&file.content).as_bytes());
        let (name, path) = (file.name.clone(), file.path.clone());
        Ok(MadeFile { name, path, sha256, look: file.look, inode })
    };
    files.iter().map(put).collect()
}

pub(super) fn prepare(
    dir: &Path,
    files: &[Rendered],
) -> Result<(Vec<Bind>, Vec<MadeFile>), FileError> {
    let made = put(dir, files)?;
    let binds = made.iter().map(|file| {
        let (from, to) = (dir.join(&file.name), file.path.clone());
        Bind { from, to, kind: Kind::File, writable: false, shift: false }
    });
    Ok((binds.collect(), made))
}

/// What a booted system needs to be told: its services' environment and how many files they may
/// open, and to keep its journal, within bounds.
fn system_files(settings: &Settings) -> Vec<(&'static str, &'static str, String)> {
    let journal = "[Journal]\nStorage=persistent\nSystemMaxUse=256M\n".to_owned();
    let mut files = vec![("journald.conf", "/etc/systemd/journald.conf.d/50-shoal.conf", journal)];
    let mut lines = Vec::new();
    if !settings.env.is_empty() {
        let words = settings.env.iter().map(|(name, value)| unit_word(&format!("{name}={value}")));
        let words: Vec<String> = words.collect();
        lines.push(format!("DefaultEnvironment={}\n", words.join(" ")));
    }
    // What systemd-nspawn sets is the most that there can be; systemd gives its services less.
    lines.extend(settings.limits.nofile.map(|most| format!("DefaultLimitNOFILE={most}\n")));
    if !lines.is_empty() {
        let content = format!("[Manager]\n{}", lines.concat());
        files.push(("system.conf", "/etc/systemd/system.conf.d/50-shoal.conf", content));
    }
    files
}

/// A word as systemd's configuration files read it back (systemd.syntax(7), "Quoting").
fn unit_word(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::super::arguments::tests::record;
    use super::*;
    use shoal_core::policy::Isolation;

    #[test]
    fn environment_survives_systemds_quoting() {
        let mut record = record(Start::Boot, Isolation::Shared);
        record.spec.config.settings.limits.nofile = Some(4096);
        let files = rendered(&record, &Credentials::new()).unwrap();
        let system = files.iter().find(|file| file.name == "system.conf").unwrap();
        let wanted =
            "[Manager]\nDefaultEnvironment=\"A=50%% \\\"x\\\"\\\\ y\"\nDefaultLimitNOFILE=4096\n";
        assert_eq!(String::from_utf8_lossy(&system.content), wanted);
    }

    #[test]
    fn files_are_rendered_with_owners_of_the_instance() {
        let mut record = record(Start::Command(vec!["x".into()]), Isolation::UserNamespace);
        let body = FileBody::Template("{{ shoal.host }} runs {{ shoal.instance }}".into());
        let file = File { body, mode: 0o640, owner: "1:2".parse().unwrap(), reload: None };
        record.spec.config.settings.files = [("/etc/x".parse().unwrap(), file.clone())].into();
        let files = rendered(&record, &Credentials::new()).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].content, b"h1 runs main");
        assert_eq!(files[0].look, Look { mode: 0o640, uid: 524_289, gid: 524_290 });

        let body = FileBody::Template("{{ nothing }}".into());
        let broken = File { body, ..file };
        record.spec.config.settings.files = [("/etc/x".parse().unwrap(), broken)].into();
        let error = rendered(&record, &Credentials::new()).unwrap_err().to_string();
        assert!(error.contains("/etc/x") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn secrets_go_into_the_templates_that_ask_for_them() {
        let mut record = record(Start::Command(vec!["x".into()]), Isolation::UserNamespace);
        let settings = &mut record.spec.config.settings;
        let secret = serde_json::from_value(serde_json::json!({"name": "db", "version": 1}));
        settings.secrets = [("password".parse().unwrap(), secret.unwrap())].into();
        let file = |text: &str| {
            let body = FileBody::Template(text.into());
            File { body, mode: 0o640, owner: Owner::default(), reload: None }
        };
        settings.files = [("/etc/x".parse().unwrap(), file("{{ shoal.host }}"))].into();
        assert!(!uses_secrets(settings));
        settings.files.insert("/etc/y".parse().unwrap(), file("{{ secret('password') }}"));
        assert!(uses_secrets(settings));
        let value = shoal_core::secret::SecretValue::new(b"hunter2".to_vec()).unwrap();
        let known = [("password".parse().unwrap(), value)].into();
        assert_eq!(rendered(&record, &known).unwrap()[1].content, b"hunter2");
        assert!(rendered(&record, &Credentials::new()).is_err());
    }

    #[test]
    fn files_are_put_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let look = Look { mode: 0o600, uid, gid };
        let file = Rendered {
            name: "0".into(),
            path: "/etc/x".parse().unwrap(),
            content: b"one".to_vec(),
            look,
        };
        let made = put(dir.path(), std::slice::from_ref(&file)).unwrap();
        let again = Rendered { content: b"2".to_vec(), ..file };
        let after = put(dir.path(), &[again]).unwrap();
        assert_eq!(made[0].inode, after[0].inode, "a container sees the file, not its name");
        assert_ne!(made[0].sha256, after[0].sha256);
        assert_eq!(std::fs::read(dir.path().join("0")).unwrap(), b"2");
    }
}
