//! `shoal image keygen`, `sign` and `verify`, and what a push sends along. All without a
//! controller: what is signed is worth as much as the machine that signs.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use shoal_core::image::{ImageRef, SignedManifest};
use shoal_core::name::InvalidName;
use shoal_image::{Manifest, ManifestError, NoPublicKey, PublicKey, Signature, SignatureError};

use super::Shell;
use super::push::{self, Prepared};
use super::secret::hidden;
use crate::args::image::{KeygenArgs, SignArgs, Signing, VerifyArgs};
use crate::clock;
use crate::exit::Failure;
use crate::expiry::Expiry;
use crate::output::table::details;
use crate::output::time::At;
use crate::signing::{self, KeyError, Locked, Signer};

/// Holds the password of a key, where no one is there to type it.
const PASSWORD: &str = "SHOAL_KEY_PASSWORD";

/// Why nothing was signed, or why what was can't be relied on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignatureFailure {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("a password is needed for {path}, and no one is there to type it; set {PASSWORD}")]
    NoPassword { path: PathBuf },
    #[error("the two passwords are not the same; nothing was made: try again")]
    Differ,
    #[error("the password in {0} is not text")]
    NoText(&'static str),
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} can't be used")]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("{path} has a name that no image can have")]
    Name { path: PathBuf, source: InvalidName },
    #[error("{path} is too long to be sent")]
    TooLong { path: PathBuf, source: shoal_core::image::InvalidSignedManifest },
    #[error("{path} can't be relied on")]
    Signature { path: PathBuf, source: SignatureError },
    #[error("{text} is neither a file nor a key")]
    PublicKey { text: String, source: NoPublicKey },
    #[error(
        "{manifest} is of {signed}, and this is {found}; sign this file under this name: \
         `shoal image sign`"
    )]
    Other { manifest: PathBuf, signed: String, found: String },
    #[error("{manifest} has expired: it was to be used before {at}; sign the file anew")]
    Expired { manifest: PathBuf, at: At },
    #[error("the image can't be described in a manifest")]
    Describe(#[source] ManifestError),
    #[error("--expires has to be a time to come")]
    Past,
}

impl SignatureFailure {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }
}

#[derive(Debug, Serialize)]
struct KeyView {
    secret_key: PathBuf,
    public_key_file: PathBuf,
    key_id: String,
    public_key: String,
}

/// `shoal image keygen`.
pub(super) async fn keygen(shell: &Shell, args: KeygenArgs) -> Result<(), Failure> {
    let KeygenArgs { file, no_password } = args;
    // Before a password is asked for.
    signing::places(&file).map_err(SignatureFailure::from)?;
    let password = if no_password { None } else { Some(new_password(&file).await?) };
    let made = signing::generate(&file, password).map_err(SignatureFailure::from)?;
    let view = KeyView {
        secret_key: made.secret,
        public_key_file: made.public,
        key_id: made.id,
        public_key: made.key,
    };
    let said = format!(
        "{} signs images as key {}; keep it where only that is done\n{} is its public key. Hosts \
         pin it in /etc/shoal/policy.toml:\n\n[trust.keys]\n\"*\" = [\"{}\"]",
        view.secret_key.display(),
        view.key_id,
        view.public_key_file.display(),
        view.public_key
    );
    Ok(shell.console.result(said, &view)?)
}

async fn new_password(path: &Path) -> Result<String, Failure> {
    if let Some(password) = from_environment()? {
        return Ok(password);
    }
    let first = typed(path, "Password for the new key: ").await?;
    let again = typed(path, "The same again: ").await?;
    if first == again { Ok(first) } else { Err(SignatureFailure::Differ.into()) }
}

fn from_environment() -> Result<Option<String>, SignatureFailure> {
    let text =
        |value: OsString| value.into_string().map_err(|_| SignatureFailure::NoText(PASSWORD));
    std::env::var_os(PASSWORD).map(text).transpose()
}

async fn typed(path: &Path, prompt: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(SignatureFailure::NoPassword { path: path.to_owned() }.into());
    }
    let typed = hidden(prompt).await?;
    Ok(String::from_utf8(typed).map_err(|_| SignatureFailure::NoText("the terminal"))?)
}

/// The key in a file, opened.
async fn signer(path: &Path) -> Result<Signer, Failure> {
    let locked = Locked::read(path).map_err(SignatureFailure::from)?;
    if let Some(signer) = locked.open().map_err(SignatureFailure::from)? {
        return Ok(signer);
    }
    let password = match from_environment()? {
        Some(password) => password,
        None => typed(path, &format!("Password of {}: ", path.display())).await?,
    };
    Ok(locked.unlock(password).map_err(SignatureFailure::from)?)
}

/// What is signed, for scripts and people.
#[derive(Debug, Serialize)]
struct SignedView {
    reference: String,
    digest: String,
    size_bytes: u64,
    manifest: Option<PathBuf>,
    key_id: String,
    /// Whether the signature was checked with a key.
    verified: bool,
    release: u64,
    created: At,
    expires: Option<At>,
}

impl SignedView {
    fn new(manifest: &Manifest, path: Option<PathBuf>, key_id: String, verified: bool) -> Self {
        Self {
            reference: format!("{}:{}", manifest.name, manifest.tag),
            digest: manifest.digest.to_string(),
            size_bytes: manifest.size,
            manifest: path,
            key_id,
            verified,
            release: manifest.release,
            created: at(manifest.created),
            expires: manifest.expires.map(at),
        }
    }

    fn text(&self) -> String {
        let checked = if self.verified { "" } else { " (not checked: no --key was given)" };
        let release = if self.release == 0 { "none".into() } else { self.release.to_string() };
        details(&[
            ("Image", self.reference.clone()),
            ("Digest", self.digest.clone()),
            ("Signed by", format!("key {}{checked}", self.key_id)),
            ("Release", release),
            ("Created", self.created.to_string()),
            ("Expires", self.expires.map_or("never".into(), |at| at.to_string())),
        ])
    }
}

fn at(time: jiff::Timestamp) -> At {
    At::new(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

/// `shoal image sign`.
pub(super) async fn sign(shell: &Shell, args: SignArgs) -> Result<(), Failure> {
    let SignArgs { file, reference, key, release, expires } = args;
    let manifest_path = beside(&file, "manifest");
    let begun = begun_with(&key, release, expires).await?;
    let prepared = push::prepare(shell.console, &file, &reference)?;
    let (manifest, signed, by) = begun.sign(&prepared)?;
    write(&manifest_path, signed.manifest())?;
    write(&beside(&manifest_path, "minisig"), signed.signature())?;
    let view = SignedView::new(&manifest, Some(manifest_path), by, true);
    Ok(shell.console.result(view.text(), &view)?)
}

/// `shoal image verify`.
pub(super) fn verify(shell: &Shell, args: VerifyArgs) -> Result<(), Failure> {
    let VerifyArgs { file, key, manifest } = args;
    let key = key.as_deref().map(public_key).transpose()?;
    let path = manifest.unwrap_or_else(|| beside(&file, "manifest"));
    let read = Read::of(&path)?;
    let by = match &key {
        Some(key) => read.verified(std::slice::from_ref(key))?,
        None => read.signature.key(),
    };
    let prepared = push::prepare(shell.console, &file, &read.reference)?;
    read.fits(&prepared)?;
    let view = SignedView::new(&read.manifest, Some(path), format!("{by:016X}"), key.is_some());
    Ok(shell.console.result(view.text(), &view)?)
}

/// A key: a file of one, or itself.
fn public_key(text: &str) -> Result<PublicKey, SignatureFailure> {
    let path = Path::new(text);
    let content = match fs::read_to_string(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => text.to_owned(),
        Err(error) => return Err(SignatureFailure::read(path)(error)),
    };
    let text = text.to_owned();
    PublicKey::parse(&content).map_err(|source| SignatureFailure::PublicKey { text, source })
}

/// What a push is to send along, before it is known what is pushed.
#[derive(Debug)]
pub(super) enum Begun {
    /// What was signed before.
    Read(Box<Read>),
    /// What is signed now.
    Sign { by: Box<Signer>, release: u64, expires: Option<jiff::Timestamp>, now: jiff::Timestamp },
}

/// Reads what was signed, or the key that is to sign; `None` where nothing is to be sent along.
pub(super) async fn begin(how: &Signing, reference: &ImageRef) -> Result<Option<Begun>, Failure> {
    let Signing { manifest, sign_key, release, expires } = how;
    if let Some(path) = manifest {
        let read = Read::of(path)?;
        if read.reference != *reference {
            return Err(read.other(format!("{reference}")).into());
        }
        return Ok(Some(Begun::Read(Box::new(read))));
    }
    match sign_key {
        Some(key) => Ok(Some(begun_with(key, *release, *expires).await?)),
        None => Ok(None),
    }
}

async fn begun_with(key: &Path, release: u64, expires: Option<Expiry>) -> Result<Begun, Failure> {
    let now = second(clock::now());
    let expires = expires.map(|expires| expires.after(now).ok_or(SignatureFailure::Past));
    let expires = expires.transpose()?;
    Ok(Begun::Sign { by: Box::new(signer(key).await?), release, expires, now })
}

/// Now, without what is less than a second.
fn second(now: shoal_core::time::Timestamp) -> jiff::Timestamp {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX)
}

impl Begun {
    /// What is signed of `prepared`, and the number of the key.
    pub(super) fn sign(
        self,
        prepared: &Prepared,
    ) -> Result<(Manifest, SignedManifest, String), SignatureFailure> {
        match self {
            Self::Read(read) => {
                read.fits(prepared)?;
                let by = format!("{:016X}", read.signature.key());
                Ok((read.manifest, read.signed, by))
            }
            Self::Sign { by, release, expires, now } => {
                let Prepared { reference, digest, size, platform, .. } = prepared.clone();
                let (name, tag) = (reference.name.to_string(), reference.tag.to_string());
                let created = now;
                let manifest =
                    Manifest { name, tag, digest, size, platform, release, created, expires };
                let text = manifest.to_text().map_err(SignatureFailure::Describe)?;
                let comment = format!("shoal image {reference} release {release}");
                let signature = by.sign(&text, &comment)?;
                let too_long =
                    |source| SignatureFailure::TooLong { path: prepared.path.clone(), source };
                let signed = SignedManifest::new(text, signature).map_err(too_long)?;
                Ok((manifest, signed, by.id()))
            }
        }
    }
}

/// A manifest and its signature, read from their files.
#[derive(Debug)]
pub(super) struct Read {
    path: PathBuf,
    manifest: Manifest,
    reference: ImageRef,
    signature: Signature,
    signed: SignedManifest,
}

impl Read {
    fn of(path: &Path) -> Result<Self, SignatureFailure> {
        let text = fs::read(path).map_err(SignatureFailure::read(path))?;
        let manifest = |source| SignatureFailure::Manifest { path: path.to_owned(), source };
        let parsed = Manifest::parse(&text).map_err(manifest)?;
        let reference = format!("{}:{}", parsed.name, parsed.tag).parse();
        let reference =
            reference.map_err(|source| SignatureFailure::Name { path: path.to_owned(), source })?;
        let text = String::from_utf8(text).map_err(|_| manifest(ManifestError::NoText))?;
        let of = beside(path, "minisig");
        let signature = fs::read_to_string(&of).map_err(SignatureFailure::read(&of))?;
        let bad = |source| SignatureFailure::Signature { path: of.clone(), source };
        let read = Signature::parse(&signature).map_err(bad)?;
        let signed = SignedManifest::new(text, signature)
            .map_err(|source| SignatureFailure::TooLong { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), manifest: parsed, reference, signature: read, signed })
    }

    /// The number of the one among `keys` that signed it.
    fn verified(&self, keys: &[PublicKey]) -> Result<u64, SignatureFailure> {
        let by = self.signature.verify(self.signed.manifest().as_bytes(), keys);
        by.map_err(|source| SignatureFailure::Signature { path: self.path.clone(), source })
    }

    /// Refuses where it is not of this very file and name, or may not be used any more.
    fn fits(&self, prepared: &Prepared) -> Result<(), SignatureFailure> {
        let Prepared { reference, digest, size, .. } = prepared;
        let Manifest { digest: of, size: bytes, expires, .. } = &self.manifest;
        if (&self.reference, of, bytes) != (reference, digest, size) {
            return Err(self.other(shown(reference, &digest.to_string(), *size)));
        }
        let expires = expires.map(at);
        match expires.filter(|at| !at.is_after(clock::now())) {
            Some(at) => Err(SignatureFailure::Expired { manifest: self.path.clone(), at }),
            None => Ok(()),
        }
    }

    fn other(&self, found: String) -> SignatureFailure {
        let Manifest { digest, size, .. } = &self.manifest;
        let signed = shown(&self.reference, &digest.to_string(), *size);
        SignatureFailure::Other { manifest: self.path.clone(), signed, found }
    }
}

fn shown(reference: &ImageRef, digest: &str, size: u64) -> String {
    format!("{reference} ({}, {size} bytes)", digest.get(..12).unwrap_or(digest))
}

/// The file that is called like another, with `what` behind.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn write(path: &Path, text: &str) -> Result<(), SignatureFailure> {
    let path = path.to_owned();
    fs::write(&path, text).map_err(|source| SignatureFailure::Write { path, source })
}
