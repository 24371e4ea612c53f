//! Instances of one file that surely meet on a host, and want the same thing of it. What depends
//! on which hosts there are, only the controller can say.

use crate::fleet::DeclaredInstance;
use crate::label::HostMatch;
use crate::name::InstanceId;
use crate::placement::Claims;

use super::report::Report;
use super::table::Span;

/// An instance of the file, and where its name is written.
pub(super) type Declared = (InstanceId, Span, DeclaredInstance);

/// Reports every clash at the later one of both.
pub(super) fn check(instances: &[Declared], report: &mut Report<'_>) {
    for (at, (id, span, declared)) in instances.iter().enumerate() {
        let claims = Claims::of(&declared.settings);
        for (other, other_span, theirs) in &instances[at + 1..] {
            if !surely_meet(declared, theirs) || report.is_full() {
                continue;
            }
            let (first, second) =
                ((id, span, &claims), (other, other_span, &Claims::of(&theirs.settings)));
            let (one, two) =
                if span.start < other_span.start { (first, second) } else { (second, first) };
            for conflict in two.2.conflicts(one.0, one.2) {
                report.error(two.1, format!("on a host that runs both: {conflict}"));
            }
        }
    }
}

/// Whether there is a host for both wherever there is one for the first.
fn surely_meet(one: &DeclaredInstance, other: &DeclaredInstance) -> bool {
    if one.count.is_some() || other.count.is_some() {
        return false;
    }
    match (&one.hosts, &other.hosts) {
        (HostMatch::All, _) | (_, HostMatch::All) => true,
        (HostMatch::Names(one), HostMatch::Names(other)) => one.iter().any(|h| other.contains(h)),
        (one, other) => one == other,
    }
}
