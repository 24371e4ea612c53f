//! What changed from one image to another.

use serde::Serialize;
use shoal_image::{Change, Side};
use shoal_proto::v1;

use super::cost::CostView;
use crate::output::size::bytes;
use crate::output::table::{Cell, Table, Tone};
use crate::output::text::count;
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct DiffView {
    pub(crate) old: NamedView,
    pub(crate) new: NamedView,
    pub(crate) changes: Vec<ChangeView>,
    pub(crate) unchanged: u64,
    /// Paths that differ in nothing but their times.
    pub(crate) times_only: u64,
    pub(crate) cost: CostView,
    /// What a push to whoever has the old one sends.
    pub(crate) wire_bytes: u64,
}

/// An image that is compared.
#[derive(Debug, Serialize)]
pub(crate) struct NamedView {
    /// As it was named.
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ChangeView {
    change: What,
    path: String,
    /// In what it differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<FileView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<FileView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Added,
    Removed,
    Changed,
}

impl What {
    fn cell(self) -> Cell {
        match self {
            Self::Added => Cell::toned("added", Tone::Good),
            Self::Removed => Cell::toned("removed", Tone::Bad),
            Self::Changed => Cell::toned("changed", Tone::Waiting),
        }
    }
}

#[derive(Debug, Serialize)]
struct FileView {
    kind: String,
    size_bytes: u64,
    /// In octal, as `chmod` takes it.
    mode: String,
    uid: u32,
    gid: u32,
    modified: At,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<&Side> for FileView {
    fn from(side: &Side) -> Self {
        let Side { kind, size, mode, uid, gid, mtime, target } = side.clone();
        let modified = At::new(u64::from(mtime) * 1000);
        let (kind, mode) = (kind.to_owned(), format!("{mode:o}"));
        Self { kind, size_bytes: size, mode, uid, gid, modified, target }
    }
}

impl From<v1::ImageFile> for FileView {
    fn from(wire: v1::ImageFile) -> Self {
        let v1::ImageFile { kind, size, mode, uid, gid, mtime, target } = wire;
        let modified = At::new(mtime.saturating_mul(1000));
        let target = Some(target).filter(|target| !target.is_empty());
        Self { kind, size_bytes: size, mode: format!("{mode:o}"), uid, gid, modified, target }
    }
}

impl ChangeView {
    fn new(
        path: String,
        fields: Vec<String>,
        old: Option<FileView>,
        new: Option<FileView>,
    ) -> Self {
        let change = match (&old, &new) {
            (None, _) => What::Added,
            (_, None) => What::Removed,
            (Some(_), Some(_)) => What::Changed,
        };
        Self { change, path, fields, old, new }
    }

    /// In what it differs, in words.
    fn words(&self) -> String {
        let (Some(old), Some(new)) = (&self.old, &self.new) else {
            let either = self.new.as_ref().or(self.old.as_ref());
            return either.map(FileView::words).unwrap_or_default();
        };
        let word = |field: &String| match field.as_str() {
            "mode" => format!("mode {} → {}", old.mode, new.mode),
            "owner" => format!("owner {}:{} → {}:{}", old.uid, old.gid, new.uid, new.gid),
            "kind" => format!("{} → {}", old.kind, new.kind),
            "target" => {
                let target = |file: &FileView| file.target.clone().unwrap_or_default();
                format!("target {} → {}", target(old), target(new))
            }
            other => other.to_owned(),
        };
        self.fields.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    fn size(&self) -> String {
        let size = |file: &FileView| (file.kind == "file").then(|| bytes(file.size_bytes));
        let [old, new] = [&self.old, &self.new].map(|file| file.as_ref().and_then(size));
        match (old, new) {
            (Some(old), Some(new)) if old != new => format!("{old} → {new}"),
            (old, new) => new.or(old).unwrap_or_default(),
        }
    }
}

impl FileView {
    fn words(&self) -> String {
        match &self.target {
            Some(target) => format!("{} to {target}", self.kind),
            None => self.kind.clone(),
        }
    }
}

impl From<&Change> for ChangeView {
    fn from(change: &Change) -> Self {
        let Change { path, old, new, fields } = change;
        let fields = fields.iter().map(ToString::to_string).collect();
        let [old, new] = [old, new].map(|side| side.as_ref().map(FileView::from));
        Self::new(path.clone(), fields, old, new)
    }
}

impl From<v1::ImageChange> for ChangeView {
    fn from(wire: v1::ImageChange) -> Self {
        let v1::ImageChange { path, old, new, fields } = wire;
        Self::new(path, fields, old.map(Into::into), new.map(Into::into))
    }
}

impl DiffView {
    pub(crate) fn text(&self, color: bool) -> String {
        let mut table = Table::new(&["CHANGE", "SIZE", "PATH", "WHAT"]);
        for change in &self.changes {
            table.row(vec![
                change.change.cell(),
                change.size().into(),
                change.path.clone().into(),
                change.words().into(),
            ]);
        }
        let mut parts = Vec::new();
        if !self.changes.is_empty() {
            parts.push(table.render(color, ""));
        }
        parts.push(self.summary());
        parts.push(self.cost.table(color));
        let new = bytes(self.new.size_bytes);
        let sent = bytes(self.wire_bytes);
        parts.push(format!("{sent} are sent to who has the old one, for an image of {new}."));
        parts.join("\n\n")
    }

    fn summary(&self) -> String {
        let of = |what| self.changes.iter().filter(|change| change.change == what).count();
        let times = match self.times_only {
            0 => String::new(),
            only => format!("; {only} differ in nothing but their times"),
        };
        let hint = if self.times_only > 0 && !self.changes.iter().any(ChangeView::is_time) {
            " (--all lists them)"
        } else {
            ""
        };
        format!(
            "{} added, {} removed, {} changed, {} unchanged{times}{hint}.",
            count(of(What::Added), "path"),
            of(What::Removed),
            of(What::Changed),
            self.unchanged
        )
    }
}

impl ChangeView {
    fn is_time(&self) -> bool {
        self.fields == ["time"]
    }
}
