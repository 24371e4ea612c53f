//! `[Files]`: the root, and what else is seen inside.

use crate::spec::Root;

use super::draft::Draft;
use super::mount;
use super::settings::{Settings, flag};

const FILES: &str = "Files";

/// Keys that a fleet file has nothing for, and what to do instead.
const LEFT: &[(&str, &str)] = &[
    ("BindUser", "users of the host are not known inside; make the user in the image"),
    ("BindUserShell", "users of the host are not known inside; make the user in the image"),
    (
        "TemporaryFileSystem",
        "what is written there is discarded with the root anyway; root = \"memory\" keeps all of \
         that in memory",
    ),
    ("Inaccessible", "leave the path out of the image, or make it unreadable there"),
    ("Overlay", "make an image of both, or let a unit in the image mount the overlay"),
    ("OverlayReadOnly", "make an image of both"),
    ("PrivateUsersOwnership", "Shoal maps the owners of the image and of data by itself"),
    ("PrivateUsersChown", "Shoal maps the owners of the image and of data by itself"),
];

/// Carries the section over.
pub(super) fn carry(settings: &mut Settings, draft: &mut Draft) {
    root(settings, draft);
    mount::carry(settings, draft);
    for (key, why) in LEFT {
        settings.leave(FILES, key, why);
    }
    if draft.root.is_none() && !draft.keeps_nothing {
        settings.general(
            "root",
            "what the container writes outside its data volumes is discarded whenever it is made \
             anew; give every directory with data of its own a [instance.main.data.NAME]",
        );
    }
}

fn root(settings: &mut Settings, draft: &mut Draft) {
    if let Some((true, _)) = settings.flag(FILES, "ReadOnly") {
        draft.root = Some(Root::ReadOnly);
    }
    let Some(assignment) = settings.last(FILES, "Volatile") else { return };
    let why = match (assignment.value.as_str(), flag(&assignment.value)) {
        ("overlay", _) => None,
        (_, Some(false)) => return,
        (_, Some(true)) => Some("all of the image is seen, not its /usr alone"),
        ("state", _) => {
            Some("all of the root can be written to, not /var alone, and starts as in the image")
        }
        _ => {
            settings.note(&assignment, "it is no mode of Volatile=, and systemd-nspawn ignores it");
            return;
        }
    };
    draft.root = Some(Root::Memory);
    if let Some(why) = why {
        settings.note(&assignment, format!("root = \"memory\" is near to it: {why}"));
    }
}
