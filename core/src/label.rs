//! Labels of hosts, and the selectors that pick hosts by them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::HostName;
use crate::text::as_text;

/// A host's labels.
pub type Labels = BTreeMap<String, String>;

/// Why a label or a selector can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct InvalidLabel {
    text: String,
    problem: &'static str,
}

fn invalid(text: &str, problem: &'static str) -> InvalidLabel {
    InvalidLabel { text: text.chars().take(80).collect(), problem }
}

/// Reads `key=value`.
///
/// # Errors
/// Where there is no `=`, or a part has characters outside `A-Za-z0-9._/-` or over 63 of them.
pub fn parse_label(text: &str) -> Result<(String, String), InvalidLabel> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| invalid(text, "is not a label; write KEY=VALUE, such as role=web"))?;
    Ok((part(key, text)?, part(value, text)?))
}

/// Whether `text` can be the key of a label.
#[must_use]
pub fn is_label_key(text: &str) -> bool {
    part(text, text).is_ok()
}

fn part(part: &str, whole: &str) -> Result<String, InvalidLabel> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    if part.is_empty() || part.len() > 63 || !part.chars().all(good) {
        let problem =
            "is not a label; keys and values are 1 to 63 characters of A-Z a-z 0-9 . _ / -";
        return Err(invalid(whole, problem));
    }
    Ok(part.to_owned())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Equals(String, String),
    Differs(String, String),
    Has(String),
    Lacks(String),
}

/// A label selector: comma-separated `key=value`, `key!=value`, `key` and `!key`, all of which
/// must hold. Kubernetes' equality syntax.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: String,
    terms: Vec<Term>,
}

impl Selector {
    /// Whether a host with these labels is picked.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Equals(key, value) => labels.get(key) == Some(value),
            Term::Differs(key, value) => labels.get(key) != Some(value),
            Term::Has(key) => labels.contains_key(key),
            Term::Lacks(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let terms = text.split(',').map(|term| parse_term(term.trim(), text));
        Ok(Self { text: text.to_owned(), terms: terms.collect::<Result<_, _>>()? })
    }
}

fn parse_term(term: &str, whole: &str) -> Result<Term, InvalidLabel> {
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(Term::Differs(part(key.trim(), whole)?, part(value.trim(), whole)?));
    }
    if let Some((key, value)) = term.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return Ok(Term::Equals(part(key.trim(), whole)?, part(value.trim(), whole)?));
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(Term::Lacks(part(key.trim(), whole)?)),
        None => Ok(Term::Has(part(term, whole)?)),
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Which hosts run an instance: those with certain labels, or those named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostMatch {
    /// Every host; written `"*"`.
    All,
    /// Every host whose labels match; written `"role=web"`.
    Selector(Selector),
    /// Just these; written `"h1"` or `["h1", "h2"]`.
    Names(Vec<HostName>),
}

impl HostMatch {
    /// Whether the host of this name and these labels is meant.
    #[must_use]
    pub fn matches(&self, name: &HostName, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Selector(selector) => selector.matches(labels),
            Self::Names(names) => names.contains(name),
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Selector(selector) => write!(f, "{selector}"),
            Self::Names(names) => {
                let names: Vec<&str> = names.iter().map(HostName::as_str).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

as_text!(Selector);

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(' ').filter(|l| !l.is_empty()).map(|l| parse_label(l).unwrap()).collect()
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let cases = [
            ("role=web", "role=web site=a", true),
            ("role==web", "role=web", true),
            ("role=web,site=b", "role=web site=a", false),
            ("role=web, site!=b", "role=web site=a", true),
            ("site!=b", "", true),
            ("site", "site=a", true),
            ("!site", "site=a", false),
            ("!site", "role=web", true),
        ];
        for (selector, host, wanted) in cases {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&labels(host)), wanted, "{selector} on {host}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "role=", "=web", "a b", "role=web,,x", "!"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
        assert!(parse_label("role").unwrap_err().to_string().contains("KEY=VALUE"));
    }
}
