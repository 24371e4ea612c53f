//! What to do next about one instance that is wanted.

use std::collections::BTreeSet;

use super::gate::Gate;
use super::infra::{Order, Upgrade};
use super::{Action, Machine, Observed, Plan, Step, Unit, add, step};
use crate::diff::FieldChange;
use crate::drift::Drift;
use crate::name::{InfraVersion, MachineName};
use crate::spec::{InstanceSpec, RunState};
use crate::time::Timestamp;
use crate::update::{Update, update};

/// One instance as it is wanted and as it is.
pub(super) struct Instance<'a> {
    pub(super) spec: &'a InstanceSpec,
    pub(super) machine: MachineName,
    pub(super) found: &'a Machine,
    /// Its hosts file, as it should be.
    pub(super) names: String,
    pub(super) observed: &'a Observed,
    pub(super) upgrade: &'a Upgrade<'a>,
    pub(super) now: Timestamp,
}

impl Instance<'_> {
    pub(super) fn plan(&self, plan: &mut Plan, gate: &mut Gate<'_>) {
        if self.spec.paused {
            return add(plan, &self.machine, self.leaving_alone());
        }
        let mut steps = self.hands_on();
        if self.spec.run == RunState::Stopped {
            steps.extend(stopping(self.found));
        } else {
            steps.extend(self.running(plan, gate));
        }
        add(plan, &self.machine, steps);
    }

    /// What a paused one needs: that systemd leaves it alone, too.
    fn leaving_alone(&self) -> Vec<Step> {
        if self.found.hands_off || self.found.applied.is_none() {
            return vec![];
        }
        vec![step(Action::HandsOff, "an operator paused it, so it stays down if it ends")]
    }

    fn hands_on(&self) -> Vec<Step> {
        if !self.found.hands_off {
            return vec![];
        }
        vec![step(Action::HandsOn, "it is not paused any more")]
    }

    fn running(&self, plan: &mut Plan, gate: &mut Gate<'_>) -> Vec<Step> {
        let staged = self.observed.images.contains(&self.spec.config.image.digest);
        if !staged {
            stage(plan, self.spec);
        }
        let ready = staged && self.has_secrets(plan);
        match self.upgrade.order(&self.machine, self.found.unit.is_down()) {
            Order::Free => {}
            Order::Stop(why) => return self.making_way(&why),
            Order::Hold(why) => {
                plan.waiting.insert(self.machine.clone(), why);
                return vec![];
            }
        }
        match (self.found.unit, self.update()) {
            (Unit::Active, Update::None) => self.keeping(plan, gate),
            (Unit::Activating, Update::None) => self.enabling(),
            (Unit::Active, Update::Refresh { reload, changes }) => {
                let spec = Box::new(self.spec.clone());
                vec![step(Action::Refresh(spec, reload), reasons(&changes))]
            }
            // What is on its way up has nothing to reload yet, and takes the rest as it is.
            (Unit::Activating, Update::Refresh { reload, changes }) if reload.is_empty() => {
                let spec = Box::new(self.spec.clone());
                vec![step(Action::Refresh(spec, reload), reasons(&changes))]
            }
            (Unit::Active | Unit::Activating, update) if ready => {
                self.replacing(plan, gate, &update)
            }
            (Unit::Inactive | Unit::Failed, update) if ready => self.starting(plan, gate, &update),
            _ => vec![],
        }
    }

    /// Whether the values of its secrets are here; notes what it waits for where one is not.
    fn has_secrets(&self, plan: &mut Plan) -> bool {
        let mut needed = self.spec.config.settings.secrets.values();
        let Some(missing) = needed.find(|secret| !self.observed.secrets.contains(secret)) else {
            return true;
        };
        // What runs as it should has its own already.
        if !self.runs_as_wanted() {
            let what = self.observed.unkept.get(missing).map_or_else(
                || format!("waits for the controller to send secret {missing}"),
                |why| format!("can't keep secret {missing}: {why}"),
            );
            plan.waiting.insert(self.machine.clone(), what);
        }
        false
    }

    fn runs_as_wanted(&self) -> bool {
        matches!(self.found.unit, Unit::Active | Unit::Activating) && self.update() == Update::None
    }

    fn update(&self) -> Update {
        match &self.found.applied {
            Some(applied)
                if applied.restarts == self.spec.restarts
                    && !applied.is_spent(self.spec)
                    && applied.is_under(self.upgrade.version()) =>
            {
                update(&applied.config, &self.spec.config)
            }
            _ => Update::Recreate { changes: Vec::new() },
        }
    }

    /// Why the container is not the wanted one.
    fn why(&self, update: &Update) -> Option<String> {
        match (&self.found.applied, update) {
            (None, _) => Some("not there yet".into()),
            (Some(applied), _) if applied.restarts != self.spec.restarts => {
                Some("a restart was asked for".into())
            }
            (Some(applied), _) if applied.is_spent(self.spec) => {
                Some(format!("revision {} has it made afresh", self.spec.recreate))
            }
            (Some(applied), _) if !applied.is_under(self.upgrade.version()) => {
                let shown = |v: Option<&InfraVersion>| v.map_or("none".into(), ToString::to_string);
                let (from, to) = (shown(applied.infra.as_ref()), shown(self.upgrade.version()));
                Some(format!("infra version: {from} → {to}"))
            }
            (_, Update::None) => None,
            (_, Update::Refresh { changes, .. } | Update::Recreate { changes }) => {
                Some(reasons(changes))
            }
        }
    }

    /// Stops it, and keeps it down should the host boot in between.
    fn making_way(&self, why: &str) -> Vec<Step> {
        if !matches!(self.found.unit, Unit::Active | Unit::Activating) {
            return vec![];
        }
        let disable = self.found.enabled.then(|| step(Action::Disable, why));
        disable.into_iter().chain([step(Action::Stop, why)]).collect()
    }

    fn enabling(&self) -> Vec<Step> {
        if self.found.enabled {
            return vec![];
        }
        vec![step(Action::Enable, "it must come back when the host boots")]
    }

    fn naming(&self) -> Option<Step> {
        let differs = self.found.names.as_ref() != Some(&self.names);
        differs.then(|| {
            let reason = match &self.found.names {
                Some(_) => "instances of its fleet are elsewhere than before",
                None => "it finds the others of its fleet by it",
            };
            step(Action::Names(self.names.clone()), reason)
        })
    }

    /// What keeps a container that is as wanted so.
    fn keeping(&self, plan: &mut Plan, gate: &Gate<'_>) -> Vec<Step> {
        let mut steps = self.enabling();
        steps.extend(self.naming());
        if self.found.drift.is_empty() {
            return steps;
        }
        if let Some(next) = self.found.repairs.wait_until(self.now) {
            plan.look_again(next);
            return steps;
        }
        let drift = &self.found.drift;
        let reason = drift.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if drift.iter().any(Drift::needs_restart) {
            // A container that limps is better than one that is down and waits for others.
            if let Some(what) = gate.waits_for(self.spec) {
                plan.waiting.insert(self.machine.clone(), what);
                return steps;
            }
            plan.repairs.insert(self.machine.clone());
            return vec![step(Action::Stop, reason)];
        }
        plan.repairs.insert(self.machine.clone());
        if drift.iter().any(|d| matches!(d, Drift::Unit(_))) {
            steps.push(step(Action::Configure, reason.clone()));
        }
        if drift.iter().any(|d| matches!(d, Drift::File(_))) {
            let spec = Box::new(self.spec.clone());
            steps.push(step(Action::Refresh(spec, self.reloads()), reason));
        }
        steps
    }

    /// The units that read a file which was changed.
    fn reloads(&self) -> BTreeSet<crate::spec::UnitName> {
        let files = &self.spec.config.settings.files;
        let changed = self.found.drift.iter().filter_map(|drift| match drift {
            Drift::File(path) => files.get(path),
            _ => None,
        });
        changed.filter_map(|file| file.reload.clone()).collect()
    }

    /// Stops a container that another is to take the place of, once that one could start.
    fn replacing(&self, plan: &mut Plan, gate: &Gate<'_>, update: &Update) -> Vec<Step> {
        let before =
            || gate.waits_for(self.spec).or_else(|| self.upgrade.holds_up(self.spec, gate));
        if let Some(what) = before().or_else(|| self.lacks_room()) {
            plan.waiting.insert(self.machine.clone(), what);
            return vec![];
        }
        vec![step(Action::Stop, self.why(update).unwrap_or_default())]
    }

    /// Why it can't be replaced now. A restart is let through: stopping it may be what makes room.
    fn lacks_room(&self) -> Option<String> {
        let applied = self.found.applied.as_ref()?;
        let restarts = applied.restarts != self.spec.restarts;
        self.observed.no_room.clone().filter(|_| !restarts)
    }

    fn starting(&self, plan: &mut Plan, gate: &mut Gate<'_>, update: &Update) -> Vec<Step> {
        let why = self.why(update);
        if why.is_none() && self.found.hook_failed {
            return vec![];
        }
        if let Some(next) = self.found.attempts.wait_until(self.now).filter(|_| why.is_none()) {
            plan.look_again(next);
            return vec![];
        }
        // What ran before and is as wanted comes back without asking for others: order is for
        // changes.
        let before =
            || gate.waits_for(self.spec).or_else(|| self.upgrade.holds_up(self.spec, gate));
        let before = why.as_ref().and_then(|_| before());
        let turn = before.map_or_else(|| gate.take_place(&self.machine), Err);
        if let Err(what) = turn {
            plan.waiting.insert(self.machine.clone(), what);
            return vec![];
        }
        let mut steps = Vec::new();
        let reason = match why {
            Some(why) => {
                let infra = self.upgrade.version().cloned();
                steps.push(step(Action::Write(Box::new(self.spec.clone()), infra), why.clone()));
                why
            }
            None if self.found.unit == Unit::Failed => "it has failed".into(),
            None => "it is not running".into(),
        };
        steps.extend(self.naming());
        steps.extend(self.enabling());
        steps.push(step(Action::Start, reason));
        steps
    }
}

fn stage(plan: &mut Plan, spec: &InstanceSpec) {
    let image = &spec.config.image;
    let same = |s: &Step| matches!(&s.action, Action::Stage(i) if i.digest == image.digest);
    if !plan.stage.iter().any(same) {
        let reason = format!("{} needs it", spec.id);
        plan.stage.push(step(Action::Stage(image.clone()), reason));
    }
}

fn stopping(found: &Machine) -> Vec<Step> {
    let mut steps = Vec::new();
    if found.enabled {
        steps.push(step(Action::Disable, "an operator stopped it, so it stays down at boot"));
    }
    if matches!(found.unit, Unit::Active | Unit::Activating) {
        steps.push(step(Action::Stop, "an operator stopped it"));
    }
    steps
}

/// Changes as a reason, which ends up in the host's journal: values of variables and of the
/// environment are left out, since people keep passwords there.
fn reasons(changes: &[FieldChange]) -> String {
    changes.iter().map(FieldChange::without_values).collect::<Vec<_>>().join("; ")
}
