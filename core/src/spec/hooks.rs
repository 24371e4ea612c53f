//! Commands that are run once, before a start.

use serde::{Deserialize, Serialize};

/// What is run once in the new image, with the data mounted, before the instance is started. Each
/// is a program with its arguments; empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Hooks {
    /// Before the first start, on empty data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init: Vec<String>,
    /// Before the first start of another image; of an instance of the infra, also of another infra
    /// version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub migrate: Vec<String>,
    /// Before the first start on data that came from a backup.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restore: Vec<String>,
}

impl Hooks {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Each with its name in the fleet file.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        let all = [("init", &self.init), ("migrate", &self.migrate), ("restore", &self.restore)];
        all.into_iter().filter(|(_, words)| !words.is_empty())
    }
}
