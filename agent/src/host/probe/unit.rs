//! Whether a unit inside is active.

use shoal_core::spec::UnitName;

use super::program::{self, Ended};
use super::quoted;
use crate::host::enter::{self, Container};

/// Asks the instance's own systemd, which also works where the image has no D-Bus daemon.
pub(super) async fn check(container: &Container, unit: &UnitName) -> Result<(), String> {
    let words = ["systemctl", "show", "--property=ActiveState", "--value", "--", unit.as_str()];
    let command = enter::command(container, &words.map(str::to_owned), &[]);
    let ended = program::run(command).await.map_err(|e| format!("can't look at {unit}: {e}"))?;
    verdict(unit, &ended)
}

fn verdict(unit: &UnitName, ended: &Ended) -> Result<(), String> {
    let Ended::With { out, err, .. } = ended else {
        return Err(format!("can't look at {unit}: the systemctl inside talks without end"));
    };
    match quoted(out).as_str() {
        "active" => Ok(()),
        "" => Err(format!("can't look at {unit}: {}", quoted(err))),
        state => Err(format!("{unit} is {state}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_unit_is_active_or_not_or_nobody_knows() {
        let unit: UnitName = "app.service".parse().unwrap();
        let said = |out: &str, err: &str| {
            let status = std::process::ExitStatus::from_raw(0);
            let ended = Ended::With { status, out: out.into(), err: err.into() };
            verdict(&unit, &ended)
        };
        assert_eq!(said("active\n", ""), Ok(()));
        assert_eq!(said("failed\n", "").unwrap_err(), "app.service is failed");
        let unknown = said("", "shoal: can't run systemctl\n").unwrap_err();
        assert_eq!(unknown, "can't look at app.service: shoal: can't run systemctl");
        assert!(verdict(&unit, &Ended::SaidTooMuch).unwrap_err().contains("without end"));
    }
}
