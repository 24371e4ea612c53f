//! How each shell asks, and how it wants to be answered.
//!
//! The scripts and this code are one protocol. Asked is with the words up to the cursor, or in
//! bash with the line; answered with a line that says what kind of thing is completed, then a line
//! for each candidate. Both have stayed compatible when a script that was sourced long ago still
//! gets candidates from a newer command: the first line is the place for anything new.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::ValueEnum;
use clap_complete::engine::CompletionCandidate;

use super::values::Files;
use super::{Answer, line};

/// A shell that can be completed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Up to the one that is being typed.
    pub(super) words: Vec<OsString>,
    /// The beginning of the last word, where the shell keeps it and replaces only the rest.
    pub(super) kept: String,
}

impl Shell {
    pub(super) fn named(name: &OsStr) -> Option<Self> {
        Self::from_str(name.to_str()?, false).ok()
    }

    /// What to source, so that the shell asks `command`.
    pub(crate) fn script(self, command: &str) -> String {
        match self {
            Self::Bash => BASH.replace("COMMAND", &quoted(command, r"'\''")),
            Self::Zsh => ZSH.replace("COMMAND", &quoted(command, r"'\''")),
            Self::Fish => FISH.replace("COMMAND", &quoted(&command.replace('\\', r"\\"), r"\'")),
        }
    }

    /// What was typed, from what the script passes on. `None` where that makes no sense.
    pub(super) fn read(self, passed: Vec<OsString>) -> Option<Line> {
        match (self, passed.as_slice()) {
            (Self::Bash, [line, replaced]) => Some(read_bash(line.to_str()?, replaced.to_str()?)),
            (Self::Zsh | Self::Fish, [_, ..]) => Some(Line { words: passed, kept: String::new() }),
            _ => None,
        }
    }

    /// What the script reads.
    pub(super) fn write(self, line: &Line, answer: &Answer) -> Vec<u8> {
        let mut reply = kind(answer.files).as_bytes().to_vec();
        reply.push(b'\n');
        for candidate in &answer.candidates {
            let Some(written) = self.candidate(line, answer, candidate) else { continue };
            reply.extend(written);
            reply.push(b'\n');
        }
        reply
    }

    fn candidate(self, line: &Line, answer: &Answer, of: &CompletionCandidate) -> Option<Vec<u8>> {
        let value = of.get_value().as_bytes();
        match self {
            Self::Bash => {
                let shown = value.strip_prefix(line.kept.as_bytes())?;
                // It adds the slash itself, and takes one that is there for part of the name.
                let is_file = answer.files.is_some();
                Some(shown.strip_suffix(b"/").filter(|_| is_file).unwrap_or(shown).to_vec())
            }
            Self::Zsh => Some([escaped_for_zsh(value), with_help(b":", of)].concat()),
            Self::Fish => Some([value.to_vec(), with_help(b"\t", of)].concat()),
        }
    }
}

/// The first line of an answer.
fn kind(files: Option<Files>) -> &'static str {
    match files {
        None => "words",
        Some(Files::Any) => "files",
        Some(Files::Fleet) => "fleets",
        Some(Files::Directories) => "directories",
    }
}

/// Bash gives the whole line, and what it will replace: the last word, or what of it is behind the
/// last of its word breaks, among which are `:`, `=` and `@`.
fn read_bash(typed: &str, replaced: &str) -> Line {
    let words = line::words(typed);
    let replaced = line::unquoted(replaced);
    let last = words.last().map(String::as_str).unwrap_or_default();
    let kept = last.strip_suffix(&replaced).unwrap_or_default().to_owned();
    Line { words: words.into_iter().map(OsString::from).collect(), kept }
}

fn escaped_for_zsh(value: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'\\' | b':' => vec![b'\\', *byte],
        byte => vec![*byte],
    };
    value.iter().flat_map(escape).collect()
}

fn with_help(separator: &[u8], candidate: &CompletionCandidate) -> Vec<u8> {
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    match help.lines().next() {
        Some(line) => [separator, line.as_bytes()].concat(),
        None => Vec::new(),
    }
}

/// In single quotes, with `quote` for those that are in it.
fn quoted(text: &str, quote: &str) -> String {
    format!("'{}'", text.replace('\'', quote))
}

const BASH: &str = r#"# Completion of shoal in bash, by the command itself.
_shoal() {
    local kind line
    COMPREPLY=()
    {
        IFS= read -r kind
        while IFS= read -r line; do
            COMPREPLY+=("$line")
        done
    } < <(SHOAL_COMPLETE=bash COMMAND -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    case $kind in
        files | fleets) compopt -o filenames -o default 2>/dev/null ;;
        directories) compopt -o filenames -o dirnames 2>/dev/null ;;
    esac
}
complete -F _shoal shoal
"#;

const ZSH: &str = r#"#compdef shoal
# Completion of shoal in zsh, by the command itself.
_shoal() {
    local kind
    local -a found
    found=("${(@f)$(SHOAL_COMPLETE=zsh COMMAND -- "${(@Q)words[1,CURRENT]}" 2>/dev/null)}")
    kind=$found[1]
    shift found
    [[ $kind != words && $PREFIX == --*=* ]] && compset -P '*='
    case $kind in
        words) (( $#found )) && _describe -t values value found ;;
        files) _files ;;
        fleets) _files -g '*.(toml|json)' ;;
        directories) _files -/ ;;
    esac
}
if [[ $funcstack[1] == _shoal ]]; then
    _shoal "$@"
else
    compdef _shoal shoal
fi
"#;

// A condition that fails leaves it to fish, which then completes files.
const FISH: &str = r#"# Completion of shoal in fish, by the command itself.
function __shoal_find
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l word (commandline --current-token --cut-at-cursor)
    set -g __shoal_found (env SHOAL_COMPLETE=fish COMMAND -- $words "$word" 2>/dev/null)
    test (count $__shoal_found) -gt 0; or return 0
    set -l kind $__shoal_found[1]
    set -e __shoal_found[1]
    switch $kind
        case files
            return 1
        case fleets directories
            test (count $__shoal_found) -gt 0
        case '*'
            return 0
    end
end
complete --command shoal --condition __shoal_find --no-files --arguments '$__shoal_found'
"#;
