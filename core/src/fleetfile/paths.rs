//! Data volumes, mounts and files of one instance never lie on or in one another.

use std::collections::BTreeMap;
use std::fmt;

use crate::spec::InstancePath;

use super::report::Report;
use super::table::Span;

/// What is at a path.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// The data volume of this name.
    Volume(String),
    /// A file.
    File,
    /// Something of the host.
    Mount,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(name) => write!(f, "data volume `{name}`"),
            Self::File => f.write_str("file"),
            Self::Mount => f.write_str("mount"),
        }
    }
}

/// The paths of one instance.
#[derive(Debug, Default)]
pub(super) struct Paths(BTreeMap<String, (What, Span)>);

impl Paths {
    /// Notes a path; reports one that is there already.
    pub(super) fn add(
        &mut self,
        path: &InstancePath,
        what: What,
        span: Span,
        report: &mut Report<'_>,
    ) {
        let Some((there, other)) = self.0.get(path.as_str()) else {
            self.0.insert(path.as_str().to_owned(), (what, span));
            return;
        };
        conflict((&what, &span), "is at the same path as", (there, other), report);
    }

    /// Reports every path that is inside another one.
    pub(super) fn check(&self, report: &mut Report<'_>) {
        for (path, (what, span)) in &self.0 {
            let inside = parents(path).find_map(|parent| self.0.get(parent));
            if let Some((there, other)) = inside {
                conflict((what, span), "is inside", (there, other), report);
            }
        }
    }
}

/// Reports at the later one of both.
fn conflict(
    (what, span): (&What, &Span),
    relation: &str,
    (there, other): (&What, &Span),
    report: &mut Report<'_>,
) {
    let line = |span: &Span| report.line(span.start);
    let (message, at) = if span.start >= other.start {
        (format!("this {what} {relation} the {there} of line {}", line(other)), span)
    } else {
        (format!("the {what} of line {} {relation} this {there}", line(span)), other)
    };
    report.error_help(at, message, "give each a place of its own, none inside another");
}

/// `/a/b` and `/a` for `/a/b/c`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.rmatch_indices('/').map(|(at, _)| &path[..at]).filter(|parent| !parent.is_empty())
}
