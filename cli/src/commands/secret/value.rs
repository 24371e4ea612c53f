//! Where a secret's value comes from: a file, standard input, or someone who types it.
//!
//! Deliberately absent: the command line. Everyone sees that.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use shoal_core::secret::{InvalidSecret, LARGEST_SECRET, SecretName, SecretValue};
use tokio::sync::oneshot;

use crate::commands::interrupted;
use crate::output::Console;

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("cannot read {what}; nothing was kept")]
    Read { what: String, source: io::Error },
    #[error("cannot keep the terminal from showing what is typed; use --from-file or a pipe")]
    Terminal(#[source] io::Error),
    #[error(
        "{what} is empty; nothing was kept: give the value on standard input or with --from-file"
    )]
    Empty { what: String },
    #[error("{what} has more than {LARGEST_SECRET} bytes, the most a secret may have")]
    TooLarge { what: String },
    #[error("the two values are not the same; nothing was kept: try again")]
    Differ,
    #[error("interrupted; nothing was kept")]
    Interrupted,
}

/// Reads the value of `name`.
pub(super) async fn read(
    console: Console,
    name: &SecretName,
    file: Option<PathBuf>,
    keep_newline: bool,
) -> Result<SecretValue, ValueError> {
    let file = file.filter(|path| path != Path::new("-"));
    if file.is_none() && io::stdin().is_terminal() {
        return typed(name).await;
    }
    let what = file.as_ref().map_or("standard input".to_owned(), |path| path.display().to_string());
    let reading = move || match file {
        Some(path) => File::open(path).and_then(bounded),
        None => bounded(io::stdin().lock()),
    };
    let read = unless_interrupted(reading).await?;
    let read = read.map_err(|source| ValueError::Read { what: what.clone(), source })?;
    let trimmed = if keep_newline { None } else { read.strip_suffix(b"\n") };
    if trimmed.is_some() {
        console.note("a newline at the end was left out; --keep-newline keeps it");
    }
    value(what, trimmed.unwrap_or(&read))
}

fn value(what: String, bytes: &[u8]) -> Result<SecretValue, ValueError> {
    SecretValue::new(bytes.to_vec()).map_err(|error| match error {
        InvalidSecret::Empty => ValueError::Empty { what },
        InvalidSecret::TooLarge(_) => ValueError::TooLarge { what },
    })
}

/// As much as is enough to know that it is too much, with a newline that does not count.
fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(LARGEST_SECRET).unwrap_or(u64::MAX).saturating_add(2);
    let mut bytes = Vec::new();
    from.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Asks whoever is at the terminal, twice: nobody sees what they type, and nobody could look it up
/// later.
async fn typed(name: &SecretName) -> Result<SecretValue, ValueError> {
    let _unseen = Unseen::begin().map_err(ValueError::Terminal)?;
    let first = line(&format!("Value of {name}: ")).await?;
    let value = value("the value".to_owned(), &first)?;
    let again = line("The same again: ").await?;
    if again == value.reveal() { Ok(value) } else { Err(ValueError::Differ) }
}

/// What someone types at the terminal, where nobody sees it.
pub(crate) async fn hidden(prompt: &str) -> Result<Vec<u8>, ValueError> {
    let _unseen = Unseen::begin().map_err(ValueError::Terminal)?;
    line(prompt).await
}

async fn line(prompt: &str) -> Result<Vec<u8>, ValueError> {
    // A prompt that can't be shown is no reason not to read.
    let _ = write!(io::stderr(), "{prompt}");
    let read = unless_interrupted(one_line).await.inspect_err(|_| {
        // What is said next begins a line.
        let _ = writeln!(io::stderr());
    })?;
    read.map_err(|source| ValueError::Read { what: "the terminal".into(), source })
}

fn one_line() -> io::Result<Vec<u8>> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.strip_suffix('\n').unwrap_or(&line).as_bytes().to_vec())
}

/// What `read` gives; on Ctrl-C, the terminal is put right before the command ends. A read can't be
/// called off, so it is left to a thread that nobody waits for.
async fn unless_interrupted<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>, ValueError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || drop(sender.send(read())));
    tokio::select! {
        read = receiver => Ok(read.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))),
        () = interrupted() => Err(ValueError::Interrupted),
    }
}

/// While this lives, the terminal does not show what is typed.
struct Unseen {
    before: Termios,
}

impl Unseen {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        // But for the end of the line, so that what comes next begins one.
        unseen.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self { before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // Where it fails, the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Color, Format};
    use crate::output::Surroundings;

    async fn from_file(text: &[u8], keep_newline: bool) -> Result<Vec<u8>, String> {
        let around = Surroundings {
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            no_color: true,
            plain: true,
        };
        let console = Console::new(Format::Table, Color::Never, around);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, text).unwrap();
        let read = read(console, &"db".parse().unwrap(), Some(path), keep_newline).await;
        let shown =
            |error: ValueError| error.to_string().replace(&dir.path().display().to_string(), "DIR");
        read.map(|value| value.reveal().to_vec()).map_err(shown)
    }

    #[tokio::test]
    async fn one_newline_at_the_end_does_not_count() {
        for (text, kept, wanted) in [
            ("x", false, "x"),
            ("x\n", false, "x"),
            ("x\n", true, "x\n"),
            ("x\n\n", false, "x\n"),
            ("a\nb", false, "a\nb"),
            (" x ", false, " x "),
        ] {
            assert_eq!(from_file(text.as_bytes(), kept).await.unwrap(), wanted.as_bytes());
        }
        assert_eq!(from_file(&[0, 255, 10, 0], false).await.unwrap(), [0, 255, 10, 0]);
    }

    #[tokio::test]
    async fn what_can_not_be_kept_is_told() {
        let empty = "DIR/value is empty; nothing was kept:";
        assert!(from_file(b"", false).await.unwrap_err().starts_with(empty));
        assert!(from_file(b"\n", false).await.unwrap_err().starts_with(empty));
        let full = vec![b'x'; LARGEST_SECRET];
        assert_eq!(from_file(&[&full[..], b"\n"].concat(), false).await.unwrap(), full);
        for over in [&b"x"[..], b"x\n", &[b'x'; 100_000]] {
            let error = from_file(&[&full[..], over].concat(), false).await.unwrap_err();
            assert_eq!(error, "DIR/value has more than 65536 bytes, the most a secret may have");
        }
        assert!(from_file(&[&full[..], b"\n"].concat(), true).await.is_err());
    }
}
