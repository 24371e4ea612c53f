//! Having a unit inside an instance read its files again.

use std::time::Duration;

use shoal_core::name::InstanceId;
use shoal_core::spec::UnitName;

use super::enter::{self, Container};
use super::probe::program::{self, Ended};
use super::probe::quoted;

/// How long a unit may take. The agent waits for it, with all else that it has to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a unit has not read its files again. They are in place by then, and it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is no such unit.
    #[error(
        "{unit} of {instance} can't be reloaded: there is no such unit inside; name one that the \
         image has, or leave `reload` out of the file, and the container is made anew instead"
    )]
    Absent {
        /// The unit.
        unit: UnitName,
        /// Of which instance.
        instance: InstanceId,
    },
    /// It has no way to.
    #[error(
        "{unit} of {instance} can't be reloaded: it has no ExecReload=; give it one, or leave \
         `reload` out of the file, and the container is made anew instead"
    )]
    Unable {
        /// The unit.
        unit: UnitName,
        /// Of which instance.
        instance: InstanceId,
    },
    /// It tried and failed.
    #[error(
        "{unit} of {instance} was not reloaded: {why}; look with `shoal logs {instance} --unit \
         {unit}`"
    )]
    Failed {
        /// The unit.
        unit: UnitName,
        /// Of which instance.
        instance: InstanceId,
        /// What was said.
        why: String,
    },
}

/// Has `unit` inside `container` read its files again. One that does not run has nothing to read:
/// it will when it starts.
///
/// # Errors
/// Where it can't, or does not in time.
pub async fn reload(
    container: &Container,
    instance: &InstanceId,
    unit: &UnitName,
) -> Result<(), ReloadError> {
    let (unit_name, id) = (unit.clone(), instance.clone());
    let failed = |why: String| ReloadError::Failed { unit: unit_name, instance: id, why };
    let complaint = match systemctl(container, &["reload", "--", unit.as_str()]).await {
        Ok(Said { success: true, .. }) => return Ok(()),
        Ok(said) => said.err,
        Err(why) => return Err(failed(why)),
    };
    let properties = ["show", "--property=LoadState,ActiveState,CanReload", "--", unit.as_str()];
    let state = systemctl(container, &properties).await.map(|said| said.out).unwrap_or_default();
    let (unit, instance) = (unit.clone(), instance.clone());
    match verdict(&state) {
        Verdict::NotRunning => Ok(()),
        Verdict::Absent => Err(ReloadError::Absent { unit, instance }),
        Verdict::Unable => Err(ReloadError::Unable { unit, instance }),
        Verdict::Unknown => Err(failed(complaint)),
    }
}

/// What a unit's properties tell of why it was not reloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Absent,
    NotRunning,
    Unable,
    Unknown,
}

fn verdict(properties: &str) -> Verdict {
    let has = |line: &str| properties.split_whitespace().any(|other| other == line);
    if has("LoadState=not-found") {
        Verdict::Absent
    } else if has("ActiveState=inactive") || has("ActiveState=failed") {
        Verdict::NotRunning
    } else if has("CanReload=no") {
        Verdict::Unable
    } else {
        Verdict::Unknown
    }
}

struct Said {
    success: bool,
    out: String,
    err: String,
}

/// Asks the instance's own systemd. Whatever is inside, it ends in time.
async fn systemctl(container: &Container, words: &[&str]) -> Result<Said, String> {
    let words: Vec<String> =
        ["systemctl"].iter().chain(words).map(|word| (*word).to_owned()).collect();
    let ran = program::run(enter::command(container, &words, &[]));
    let late = |_| format!("it took longer than {PATIENCE:?}");
    match tokio::time::timeout(PATIENCE, ran).await.map_err(late)? {
        Ok(Ended::With { status, out, err }) => {
            Ok(Said { success: status.success(), out: quoted(&out), err: quoted(&err) })
        }
        Ok(Ended::SaidTooMuch) => Err("the systemctl inside talks without end".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_told_apart() {
        for (properties, wanted) in [
            ("LoadState=not-found ActiveState=inactive CanReload=no", Verdict::Absent),
            ("LoadState=loaded ActiveState=inactive CanReload=no", Verdict::NotRunning),
            ("LoadState=loaded ActiveState=failed CanReload=yes", Verdict::NotRunning),
            ("LoadState=loaded ActiveState=active CanReload=no", Verdict::Unable),
            ("LoadState=loaded ActiveState=active CanReload=yes", Verdict::Unknown),
            ("", Verdict::Unknown),
        ] {
            assert_eq!(verdict(properties), wanted, "{properties}");
        }
    }
}
