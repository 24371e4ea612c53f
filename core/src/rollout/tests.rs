//! What a rollout promises, one promise each.

use super::*;
use crate::status::{Health, HostStatus, InstanceStatus, State as InstanceState};

pub(super) const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

pub(super) fn rollout(hosts: &[&str]) -> Rollout {
    let hosts = hosts.iter().enumerate();
    let place = |at: usize| HostProgress::pending(u32::try_from(at).unwrap());
    Rollout {
        fleet: "shop".parse().unwrap(),
        revision: 2,
        back_to: Some(1),
        policy: Policy::default(),
        offline: Offline::Wait,
        timeout: Duration::from_secs(600),
        state: State::Planned,
        hold: None,
        batch: 0,
        proofs: 0,
        promoted: 0,
        ready_since: None,
        cause: None,
        hosts: hosts.map(|(at, host)| (host.parse().unwrap(), place(at))).collect(),
        started: Timestamp(0),
        deadline: Timestamp(10 * MINUTE),
        ended: None,
    }
}

pub(super) fn status_of(generation: u64, state: InstanceState, health: Health) -> HostStatus {
    let instance = InstanceStatus {
        id: "shop/main".parse().unwrap(),
        revision: 2,
        image: "app:1".parse().unwrap(),
        digest: [1; 32].into(),
        state,
        health,
        since: Timestamp(0),
        current: true,
        leader: None,
        restarts: 0,
        uid_base: None,
        message: Some("exited with 1".into()),
        paused: false,
        drift: vec![],
        last_exit: None,
        went_back: None,
        addresses: vec![],
    };
    HostStatus {
        observed_generation: generation,
        instances: vec![instance],
        ..HostStatus::default()
    }
}

/// What the instance of a host does with a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Works,
    Fails,
    /// Never gets ready, and never says why.
    Hangs,
    /// Its agent goes back by itself.
    GoesBack,
}
use Does::{Fails, GoesBack, Hangs, Works};

#[derive(Debug, Clone)]
struct Host {
    online: bool,
    new: Does,
    old: Does,
    restarts: u32,
    staged: bool,
    /// What it was told last: its generation, and whether that is the new revision.
    told: (u64, bool),
}

/// Hosts `a`, `b`, … that do what they are told within a second, and the rollout over them.
#[derive(Debug, Clone)]
struct Lab {
    seconds: u64,
    hosts: BTreeMap<String, Host>,
    rollout: Rollout,
    /// The hosts that were changed, `<` before those that were taken back; those of one pass are
    /// apart by a space, passes by a bar.
    told: String,
}

const HOSTS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

impl Lab {
    fn of(count: usize) -> Self {
        let host = Host {
            online: true,
            new: Works,
            old: Works,
            restarts: 0,
            staged: true,
            told: (1, false),
        };
        let hosts = HOSTS[..count].iter().map(|name| ((*name).to_owned(), host.clone()));
        let rollout = rollout(&HOSTS[..count]);
        Self { seconds: 0, hosts: hosts.collect(), rollout, told: String::new() }
    }

    fn with(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.rollout.policy);
        self
    }

    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.get_mut(name).unwrap()
    }

    fn each(&mut self, names: &str, change: impl Fn(&mut Host)) {
        names.split(' ').for_each(|name| change(self.host(name)));
    }

    fn progress(&mut self, name: &str) -> &mut HostProgress {
        self.rollout.hosts.get_mut(&name.parse::<HostId>().unwrap()).unwrap()
    }

    fn statuses(&self) -> BTreeMap<HostId, HostStatus> {
        let status = |host: &Host| {
            let (generation, new) = host.told;
            let (state, health) = match if new { host.new } else { host.old } {
                Works => (InstanceState::Running, Health::Healthy),
                Fails | GoesBack => (InstanceState::Failed, Health::None),
                Hangs => (InstanceState::Starting, Health::None),
            };
            let mut status = status_of(generation, state, health);
            let went_back = new && host.new == GoesBack;
            status.instances[0].went_back = went_back.then(|| "it failed".into());
            status.instances[0].restarts = host.restarts;
            status
        };
        self.hosts.iter().map(|(name, host)| (name.parse().unwrap(), status(host))).collect()
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.seconds * SECOND)
    }

    /// One pass of the driver: it looks, decides, and does what is to be done.
    fn pass(&mut self) {
        self.look();
        let mut told = Vec::new();
        for action in actions(&self.rollout) {
            let (Action::Stage(id) | Action::Change(id) | Action::Return(id)) = &action;
            let (rollout, now) = (self.rollout.clone(), self.now());
            let host = self.host(id.as_str());
            host.told.0 += 1;
            let generation = host.told.0;
            self.rollout = match action {
                Action::Stage(_) => staging(rollout, id, generation, now),
                Action::Change(_) => {
                    self.host(id.as_str()).told.1 = true;
                    told.push(id.to_string());
                    super::told(rollout, id, generation, now)
                }
                Action::Return(_) => {
                    self.host(id.as_str()).told.1 = false;
                    told.push(format!("<{id}"));
                    returned(rollout, id, generation, now)
                }
            };
        }
        if !told.is_empty() {
            let bar = if self.told.is_empty() { "" } else { " | " };
            self.told.push_str(&format!("{bar}{}", told.join(" ")));
        }
    }

    fn look(&mut self) {
        let statuses = self.statuses();
        let observe = |id: &HostId| {
            let host = &self.hosts[id.as_str()];
            Observation {
                online: host.online,
                status: Some(&statuses[id]),
                staged: host.staged,
                unstaged: None,
                infra: None,
                agent: None,
            }
        };
        self.rollout = step(self.rollout.clone(), observe, self.now());
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass();
            self.seconds += 1;
        }
    }

    /// Runs it to its end, an hour at most.
    fn end(&mut self) -> State {
        for _ in 0..3_600 {
            if self.rollout.state.is_final() {
                return self.rollout.state;
            }
            self.run(1);
        }
        panic!("it does not end: {:#?}", self.rollout);
    }

    fn say(&mut self, said: Command) -> Result<(), Refused> {
        self.rollout = command(self.rollout.clone(), said, ("ann", "lunch"), self.now())?;
        Ok(())
    }

    fn held(&self) -> Option<HoldKind> {
        self.rollout.hold.as_ref().map(|hold| hold.kind)
    }

    fn cause(&self) -> &str {
        self.rollout.cause.as_deref().unwrap_or("")
    }

    fn outcome(&self, name: &str) -> &Outcome {
        &self.rollout.hosts[&name.parse::<HostId>().unwrap()].outcome
    }
}

const ALL_OF_TEN: &str = "a | b c d e | f g h i j";

fn batches(of: &[&str]) -> Vec<Reach> {
    of.iter().map(|reach| reach.parse().unwrap()).collect()
}

// Forward.

#[test]
fn a_good_revision_gets_everywhere_batch_by_batch() {
    let mut lab = Lab::of(10);
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.told, ALL_OF_TEN, "10 % of ten is the canary, 50 % is five, then all");
    assert!(lab.rollout.is_proof() && lab.rollout.cause.is_none());
}

#[test]
fn a_fleet_without_hosts_is_there_at_once() {
    let mut lab = Lab::of(0);
    assert_eq!((lab.end(), lab.seconds), (State::Completed, 1));
}

#[test]
fn what_the_last_batch_leaves_over_is_a_further_one() {
    let mut lab = Lab::of(6).with(|policy| policy.batches = batches(&["2", "50%"]));
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.told, "a b | c | d e f");
}

#[test]
fn hosts_of_one_place_go_together() {
    let mut lab = Lab::of(6);
    for (name, place) in [("a", 2), ("b", 2), ("c", 2), ("d", 1), ("e", 1), ("f", 3)] {
        lab.progress(name).place = place;
    }
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.told, "d e | a b c | f", "by their places, and whole ones");
}

#[test]
fn a_place_that_does_not_fit_into_a_batch_waits_for_the_next() {
    let mut lab = Lab::of(6).with(|policy| policy.batches = batches(&["3", "100%"]));
    for (name, place) in [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2), ("f", 2)] {
        lab.progress(name).place = place;
    }
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.told, "a b | c d e f");
}

#[test]
fn a_batch_never_takes_all_of_a_site() {
    let mut lab = Lab::of(6).with(|policy| policy.batches = batches(&["1", "100%"]));
    for (name, site) in [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "y"), ("f", "z")] {
        lab.progress(name).spread = Some(site.into());
    }
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.told, "a | b c d f | e");
}

#[test]
fn hosts_that_nothing_changes_on_prove_nothing() {
    let mut lab = Lab::of(3);
    lab.progress("a").kept = true;
    lab.each("b", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a b | <a <b", "a is told with the canary, and is ready, and b decides");
}

#[test]
fn a_host_that_nothing_changes_on_fails_nobody() {
    let mut lab = Lab::of(3);
    lab.progress("a").kept = true;
    lab.each("a", |host| (host.new, host.old) = (Fails, Fails));
    assert_eq!(lab.end(), State::Partial);
    assert!(lab.rollout.is_proof());
    assert_eq!(lab.told, "a b | c");
}

#[test]
fn no_complaint_is_not_success() {
    let mut lab = Lab::of(4);
    lab.each("a", |host| host.new = Hangs);
    lab.run(200);
    assert_eq!((lab.told.as_str(), lab.rollout.state), ("a", State::Changing));
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | <a");
    assert!(lab.cause().contains("not ready within 5 min"), "{}", lab.cause());
}

#[test]
fn a_status_of_before_is_no_proof() {
    let mut lab = Lab::of(2);
    lab.pass();
    // The agent has not taken the new generation yet: all it says is about the one before.
    let told = lab.host("a").told;
    lab.host("a").told = (told.0 - 1, false);
    lab.run(60);
    assert_eq!(lab.outcome("a"), &Outcome::Changing("waits for the agent".into()));
    lab.host("a").told = told;
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_canary_that_fails_stalls_nothing() {
    let mut lab = Lab::of(10);
    lab.each("a", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | <a");
    assert!(lab.seconds <= 30, "{} s", lab.seconds);
    assert!(lab.cause().contains("shop/main: exited with 1"), "{}", lab.cause());
}

#[test]
fn an_agent_that_went_back_by_itself_is_a_failure_at_once() {
    let mut lab = Lab::of(10);
    lab.each("a", |host| host.new = GoesBack);
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.seconds < 5, "{} s", lab.seconds);
    assert!(lab.cause().contains("went back"), "{}", lab.cause());
}

#[test]
fn a_failure_that_passes_is_none() {
    let mut lab = Lab::of(2);
    lab.each("a", |host| host.new = Fails);
    lab.run(10);
    lab.each("a", |host| host.new = Works);
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn failing_over_and_over_is_a_failure() {
    let mut lab = Lab::of(2);
    for _ in 0..10 {
        lab.each("a", |host| host.new = Fails);
        lab.run(1);
        lab.each("a", |host| host.new = Hangs);
        lab.run(4);
    }
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.seconds < 60, "{} s", lab.seconds);
}

#[test]
fn a_bad_batch_is_taken_back_with_the_canary() {
    let mut lab = Lab::of(10);
    lab.each("b c d e f g h i j", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | b c d e | <b <c <d <e | <a", "those that don't work first");
}

// Monitor time.

#[test]
fn a_batch_is_watched_before_the_next() {
    let mut lab = Lab::of(3).with(|policy| policy.monitor = Duration::from_secs(30));
    lab.run(30);
    assert_eq!((lab.told.as_str(), lab.rollout.state), ("a", State::Monitoring));
    lab.run(5);
    assert_eq!(lab.told, "a | b");
    assert_eq!(lab.end(), State::Completed);
    assert!((90..100).contains(&lab.seconds), "{} s", lab.seconds);
}

#[test]
fn a_restart_begins_the_monitor_time_anew() {
    let mut lab = Lab::of(2).with(|policy| policy.monitor = Duration::from_secs(30));
    lab.run(20);
    lab.host("a").restarts += 1;
    lab.run(28);
    assert_eq!(lab.told, "a", "it was restarted 28 s ago");
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_canary_that_restarts_over_and_over_fails() {
    let mut lab = Lab::of(2).with(|policy| {
        policy.monitor = Duration::from_secs(30);
        policy.batch_timeout = Duration::from_secs(60);
    });
    for _ in 0..20 {
        lab.run(10);
        lab.host("a").restarts += 1;
    }
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | <a");
    assert!(lab.cause().contains("an instance was restarted"), "{}", lab.cause());
}

#[test]
fn a_restart_on_a_host_that_was_proved_holds_up_nobody() {
    let mut lab = Lab::of(3).with(|policy| policy.monitor = Duration::from_secs(30));
    lab.run(40);
    assert_eq!(lab.told, "a | b");
    for _ in 0..20 {
        lab.host("a").restarts += 1;
        lab.run(5);
    }
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_failure_in_the_monitor_time_counts() {
    let mut lab = Lab::of(3).with(|policy| policy.monitor = Duration::from_secs(60));
    lab.run(30);
    lab.each("a", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | <a");
}

#[test]
fn a_failure_on_a_host_that_was_proved_counts() {
    let mut lab = Lab::of(10).with(|policy| policy.monitor = Duration::from_secs(30));
    lab.run(40);
    assert_eq!(lab.told, "a | b c d e");
    lab.each("a", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.told.starts_with("a | b c d e | <a | <"), "{}", lab.told);
}

#[test]
fn a_connection_that_breaks_for_a_moment_fails_nobody() {
    let mut lab = Lab::of(2).with(|policy| policy.monitor = Duration::from_secs(400));
    lab.rollout.deadline = Timestamp(60 * MINUTE);
    // Long after the time that a batch may take, and while it is watched.
    lab.run(330);
    lab.host("a").online = false;
    lab.run(3);
    lab.host("a").online = true;
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.told, "a | b");
}

#[test]
fn an_agent_cut_off_while_nobody_looked_has_its_time_from_when_it_heard() {
    let mut lab = Lab::of(2);
    lab.pass();
    // The controller is down for longer than a batch may take, and the order did not get through.
    let told = lab.host("a").told;
    lab.host("a").told = (told.0 - 1, false);
    lab.seconds += 6 * 60;
    // The agent is back before the first look, and has only just begun.
    lab.host("a").told = told;
    lab.each("a", |host| host.new = Hangs);
    lab.run(10);
    assert_eq!(lab.rollout.state, State::Changing, "{}", lab.cause());
    lab.each("a", |host| host.new = Works);
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_proved_host_has_its_time_anew_when_it_is_lost() {
    let mut lab = Lab::of(3).with(|policy| policy.monitor = Duration::from_secs(400));
    lab.rollout.deadline = Timestamp(60 * MINUTE);
    lab.run(850);
    assert_eq!(lab.told, "a | b | c");
    lab.each("a", |host| host.new = Hangs);
    lab.run(10);
    assert_eq!(lab.rollout.state, State::Monitoring, "it was told a quarter of an hour ago");
    lab.each("a", |host| host.new = Works);
    assert_eq!(lab.end(), State::Completed);
}

// Failures that a policy allows.

#[test]
fn as_many_may_fail_as_the_policy_says() {
    for (most, wanted) in [(1, State::RolledBack), (2, State::Partial)] {
        let mut lab = Lab::of(10).with(|policy| policy.max_failures = most);
        lab.each("c g", |host| host.new = Fails);
        assert_eq!(lab.end(), wanted, "{most}");
    }
}

#[test]
fn the_canary_may_not_fail_whatever_the_policy_says() {
    let mut lab = Lab::of(10).with(|policy| policy.max_failures = 5);
    lab.each("a", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | <a");
}

#[test]
fn failures_are_counted_by_what_is_written_down() {
    let mut lab = Lab::of(10).with(|policy| policy.max_failures = 1);
    lab.each("b f", |host| host.new = Fails);
    lab.run(18);
    assert!(matches!(lab.outcome("b"), Outcome::Failed(_)), "{:?}", lab.rollout);
    // The controller is started anew: it has nothing but the rollout's value. Nobody has told it
    // of `b` since.
    let mut lab = Lab { rollout: lab.rollout.clone(), ..lab };
    lab.host("b").online = false;
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.cause().starts_with("2 hosts failed"), "{}", lab.cause());
}

#[test]
fn a_policy_may_leave_a_failure_to_people() {
    let pause = |policy: &mut Policy| policy.on_failure = OnFailure::Pause;
    let mut lab = Lab::of(4).with(pause);
    lab.each("a", |host| host.new = Fails);
    lab.run(120);
    assert_eq!((lab.held(), lab.told.as_str()), (Some(HoldKind::Failure), "a"));
    assert!(lab.cause().contains("exited with 1"), "{}", lab.cause());
    // It is mended by hand, and someone says so.
    lab.each("a", |host| host.new = Works);
    assert_eq!(lab.say(Command::Pause { hold: None }), Err(Refused::Held));
    lab.say(Command::Resume).unwrap();
    assert_eq!(lab.end(), State::Completed);
    assert_eq!(lab.rollout.cause, None);
    // Or it is not.
    let mut lab = Lab::of(4).with(pause);
    lab.each("a", |host| host.new = Fails);
    lab.run(30);
    lab.say(Command::Resume).unwrap();
    lab.run(30);
    assert_eq!((lab.held(), lab.told.as_str()), (Some(HoldKind::Failure), "a"), "it fails again");
    lab.seconds += 25 * 3_600;
    assert_eq!(lab.end(), State::Failed, "nobody came");
}

// Images.

#[test]
fn a_batch_has_its_images_before_anything_is_disturbed() {
    let mut lab = Lab::of(3);
    lab.hosts.values_mut().for_each(|host| host.staged = false);
    lab.run(20);
    assert_eq!((lab.rollout.state, lab.told.as_str()), (State::Staging, ""));
    assert_eq!(lab.outcome("a"), &Outcome::Staging);
    assert_eq!(lab.outcome("b"), &Outcome::Pending, "each batch its own");
    lab.hosts.values_mut().for_each(|host| host.staged = true);
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn all_have_their_images_ahead_where_that_is_wanted() {
    let mut lab = Lab::of(3).with(|policy| policy.stage_ahead = true);
    lab.hosts.values_mut().for_each(|host| host.staged = false);
    lab.run(5);
    assert_eq!(lab.outcome("c"), &Outcome::Staging);
    lab.each("a b", |host| host.staged = true);
    lab.run(5);
    assert_eq!(lab.told, "", "c has none yet");
    lab.host("c").online = false;
    lab.run(5);
    assert_eq!(lab.told, "a | b | c", "one that is offline holds up nobody");
    lab.each("c", |host| (host.online, host.staged) = (true, true));
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_host_that_gets_no_image_is_not_changed() {
    let mut lab = Lab::of(4).with(|policy| {
        policy.max_failures = 1;
        policy.batches = batches(&["1", "100%"]);
    });
    lab.host("c").staged = false;
    assert_eq!(lab.end(), State::Partial);
    assert_eq!(lab.told, "a | b d");
    assert!(lab.cause().contains("its images did not arrive within 5 min"), "{}", lab.cause());
}

#[test]
fn a_host_that_comes_back_before_it_is_told_gets_its_images_first() {
    let mut lab = Lab::of(1);
    lab.each("a", |host| (host.online, host.staged) = (false, false));
    // It is to be told although it is offline, and the controller is killed before it does.
    lab.look();
    assert_eq!((lab.rollout.state, actions(&lab.rollout).len()), (State::Changing, 1));
    lab.host("a").online = true;
    lab.run(10);
    assert_eq!((lab.rollout.state, lab.told.as_str()), (State::Staging, ""));
    lab.host("a").staged = true;
    assert_eq!(lab.end(), State::Completed);
}

// Hosts that are offline.

#[test]
fn a_host_that_is_offline_delays_only_itself() {
    let mut lab = Lab::of(4);
    lab.host("a").online = false;
    lab.run(10);
    assert_eq!(lab.rollout.state, State::Waiting);
    assert_eq!(lab.told, "b | c | d | a", "told last, for when it returns");
    lab.host("a").online = true;
    assert_eq!(lab.end(), State::Completed);
    assert!(lab.seconds < 20, "{} s", lab.seconds);
}

#[test]
fn it_is_waited_for_until_the_deadline_or_not_at_all() {
    for (offline, most) in [(Offline::Wait, 602), (Offline::Skip, 20)] {
        let mut lab = Lab::of(4);
        (lab.rollout.offline, lab.host("c").online) = (offline, false);
        assert_eq!(lab.end(), State::Partial);
        assert!(lab.seconds <= most, "{offline:?}: {} s", lab.seconds);
        assert_eq!(lab.outcome("c"), &Outcome::Offline);
        assert!(lab.rollout.is_proof());
    }
}

#[test]
fn nobody_watches_hosts_that_are_not_there() {
    let mut lab = Lab::of(2).with(|policy| policy.monitor = Duration::from_secs(60));
    (lab.rollout.offline, lab.host("b").online) = (Offline::Skip, false);
    assert_eq!(lab.end(), State::Partial);
    assert!(lab.seconds < 70, "{} s", lab.seconds);
}

#[test]
fn a_host_that_goes_offline_in_the_middle_holds_up_its_batch_for_a_minute() {
    let mut lab = Lab::of(10);
    lab.each("c", |host| host.new = Hangs);
    lab.run(10);
    assert_eq!(lab.told, "a | b c d e");
    lab.host("c").online = false;
    lab.run(40);
    assert_eq!(lab.rollout.batch, 2);
    lab.run(40);
    assert_eq!(lab.told, ALL_OF_TEN);
    lab.each("c", |host| (host.online, host.new) = (true, Works));
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn two_canaries_that_vanish_are_no_chance() {
    let mut lab = Lab::of(10);
    lab.each("a b", |host| host.new = Hangs);
    lab.run(1);
    lab.host("a").online = false;
    lab.run(62);
    assert_eq!(lab.told, "a | b", "a further canary");
    lab.host("b").online = false;
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | b | <a <b", "told, for when they return");
    assert!(lab.cause().contains("2 hosts that were changed are offline"), "{}", lab.cause());
}

#[test]
fn a_canary_that_vanishes_after_one_that_was_never_there_is_no_chance() {
    let mut lab = Lab::of(4);
    lab.hosts.values_mut().for_each(|host| host.online = false);
    lab.run(5);
    lab.host("c").online = true;
    lab.each("c", |host| host.new = Hangs);
    lab.run(5);
    assert_eq!(lab.told, "a | c");
    lab.host("c").online = false;
    lab.run(5);
    lab.host("d").online = true;
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(lab.told, "a | c | <a <c");
}

#[test]
fn where_all_are_offline_only_one_is_told() {
    let mut lab = Lab::of(4);
    lab.hosts.values_mut().for_each(|host| host.online = false);
    lab.run(30);
    assert_eq!((lab.rollout.state, lab.told.as_str()), (State::Waiting, "a"));
    // Another one comes first.
    lab.host("c").online = true;
    lab.run(30);
    assert_eq!(lab.told, "a | c | b d", "c has proved it");
    lab.hosts.values_mut().for_each(|host| host.online = true);
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn the_first_that_returns_is_watched_as_a_canary_is() {
    let mut lab = Lab::of(1).with(|policy| policy.monitor = Duration::from_secs(30));
    lab.host("a").online = false;
    lab.run(10);
    lab.host("a").online = true;
    lab.run(5);
    assert_eq!((lab.told.as_str(), lab.rollout.state), ("a", State::Monitoring));
    // It restarts all the time, and is ready in between.
    for _ in 0..80 {
        lab.run(5);
        lab.host("a").restarts += 1;
    }
    assert_eq!(lab.end(), State::RolledBack);
}

#[test]
fn a_rollout_that_found_nobody_proves_nothing() {
    for offline in [Offline::Wait, Offline::Skip] {
        let mut lab = Lab::of(4);
        lab.rollout.offline = offline;
        lab.hosts.values_mut().for_each(|host| host.online = false);
        assert_eq!(lab.end(), State::Partial);
        assert!(!lab.rollout.is_proof(), "{offline:?}");
    }
}

#[test]
fn a_host_that_comes_back_and_goes_again_has_no_time_for_ever() {
    let mut lab = Lab::of(3).with(|policy| policy.batch_timeout = Duration::from_secs(120));
    lab.each("a", |host| host.new = Hangs);
    for _ in 0..12 {
        lab.host("a").online = false;
        lab.run(10);
        lab.host("a").online = true;
        lab.run(10);
    }
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.seconds < 300, "{} s", lab.seconds);
}

// Deadlines.

#[test]
fn what_is_under_way_at_the_deadline_goes_back() {
    let mut lab = Lab::of(3).with(|policy| policy.batch_timeout = Duration::from_secs(3_600));
    lab.each("a", |host| host.new = Hangs);
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.seconds < 610, "{} s", lab.seconds);
}

#[test]
fn a_deadline_with_nothing_wrong_takes_nothing_back() {
    let mut lab = Lab::of(3).with(|policy| policy.monitor = Duration::from_secs(400));
    assert_eq!(lab.end(), State::TimedOut);
    assert_eq!(lab.told, "a | b");
    assert_eq!(lab.cause(), "its deadline came before batch 2 was through");
    assert!(!lab.rollout.is_proof());
}

#[test]
fn a_controller_that_was_away_at_the_deadline_takes_nothing_back() {
    let mut lab = Lab::of(4);
    lab.host("d").online = false;
    lab.run(10);
    assert_eq!(lab.rollout.state, State::Waiting);
    // It is started anew after the deadline, and no agent has come back to it yet.
    lab.seconds += 3_600;
    lab.hosts.values_mut().for_each(|host| host.online = false);
    assert_eq!(lab.end(), State::Partial);
    assert!(!lab.told.contains('<'), "{}", lab.told);
}

#[test]
fn hosts_that_are_not_back_yet_at_the_deadline_are_not_under_way() {
    let mut lab = Lab::of(3).with(|policy| policy.monitor = Duration::from_secs(400));
    lab.run(450);
    assert_eq!(lab.told, "a | b");
    lab.seconds += 3_600;
    lab.hosts.values_mut().for_each(|host| host.online = false);
    assert_eq!(lab.end(), State::TimedOut);
    assert_eq!(lab.told, "a | b", "nothing is taken back that worked when it was last seen");
}

#[test]
fn all_that_are_ready_at_the_deadline_are_there() {
    let mut lab = Lab::of(1);
    lab.pass();
    lab.seconds += 3_600;
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_failure_that_the_policy_allows_takes_nothing_back_at_the_deadline() {
    let mut lab = Lab::of(10).with(|policy| policy.max_failures = 1);
    lab.each("c", |host| host.new = Fails);
    lab.host("d").online = false;
    assert_eq!(lab.end(), State::Partial);
    assert!(!lab.told.contains('<'), "{}", lab.told);
}

#[test]
fn a_host_that_returns_just_before_the_deadline_delays_only_itself() {
    let mut lab = Lab::of(4);
    lab.host("d").online = false;
    lab.run(595);
    lab.each("d", |host| (host.online, host.new) = (true, Hangs));
    assert_eq!(lab.end(), State::Partial);
    assert!(!lab.told.contains('<'), "{}", lab.told);
}

#[test]
fn an_unsteady_host_is_waited_for_at_the_end() {
    let mut lab = Lab::of(2);
    lab.run(2);
    lab.each("a", |host| host.new = Hangs);
    lab.run(20);
    assert_eq!(lab.rollout.state, State::Waiting);
    lab.each("a", |host| host.new = Works);
    assert_eq!(lab.end(), State::Completed);
}

// Going back.

#[test]
fn what_works_goes_back_batch_by_batch() {
    let mut lab = Lab::of(10);
    lab.run(3);
    assert_eq!(lab.told, ALL_OF_TEN);
    lab.each("g", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    let back = lab.told.strip_prefix(ALL_OF_TEN).unwrap();
    // In the same reaches as forward, of the ten: one is back, then five, then all.
    assert_eq!(back, " | <g | <a <b <c <d | <e <f <h <i <j");
}

#[test]
fn going_back_that_does_not_help_kills_nothing_that_works() {
    let mut lab = Lab::of(10);
    lab.hosts.values_mut().for_each(|host| host.old = Fails);
    lab.each("e", |host| host.new = Fails);
    assert_eq!(lab.end(), State::Failed);
    assert_eq!(lab.told, "a | b c d e | <e");
    assert!(lab.cause().ends_with("; 4 hosts are left at revision 2, which works there"));
}

#[test]
fn what_a_rollout_before_has_changed_goes_back_too() {
    let mut lab = Lab::of(6);
    for name in ["c", "d", "e", "f"] {
        lab.progress(name).stray = true;
    }
    lab.progress("c").kept = true;
    lab.host("d").online = false;
    lab.host("a").new = Fails;
    assert_eq!(lab.end(), State::RolledBack);
    // `c` is told at once, since nothing is disturbed there; going back disturbs it.
    assert_eq!(lab.told, "a c | <a <d | <c | <e <f");
    assert!(!lab.host("d").told.1 && *lab.outcome("b") == Outcome::Pending);
}

#[test]
fn before_anything_is_told_what_was_changed_before_can_go_back() {
    let mut lab = Lab::of(3);
    lab.say(Command::GoBack).unwrap_err();
    lab.progress("b").stray = true;
    lab.say(Command::GoBack).unwrap();
    assert_eq!((lab.end(), &*lab.told), (State::RolledBack, "<b"));
}

#[test]
fn why_a_host_failed_outlives_its_going_back() {
    let mut lab = Lab::of(3);
    lab.each("a", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert_eq!(*lab.outcome("a"), Outcome::Back);
    assert_eq!(lab.progress("a").failed.as_deref(), Some("shop/main: exited with 1"));
    assert_eq!(lab.progress("b").failed, None);
    let mut late = Lab::of(2).with(|policy| policy.batch_timeout = Duration::from_secs(7_200));
    late.each("a", |host| host.new = Hangs);
    assert_eq!(late.end(), State::RolledBack);
    let why = late.progress("a").failed.clone().unwrap();
    assert!(why.starts_with("not ready by the deadline: shop/main: starting"), "{why}");
}

#[test]
fn a_controller_that_starts_anew_does_not_take_all_for_broken() {
    let mut lab = Lab::of(10);
    lab.run(3);
    assert_eq!(lab.told, ALL_OF_TEN);
    lab.each("g", |host| (host.new, host.old) = (GoesBack, Hangs));
    lab.run(2);
    assert_eq!(lab.rollout.state, State::RollingBack);
    // It hears of nobody for a moment, and of `g` first.
    lab.hosts.values_mut().for_each(|host| host.online = false);
    lab.run(1);
    lab.each("g", |host| (host.online, host.old) = (true, Works));
    lab.run(5);
    lab.hosts.values_mut().for_each(|host| host.online = true);
    assert_eq!(lab.end(), State::RolledBack);
    let back = lab.told.strip_prefix(ALL_OF_TEN).unwrap();
    assert_eq!(back, " | <g | <a <b <c <d | <e <f <h <i <j");
}

#[test]
fn going_back_needs_no_monitor_time() {
    let mut lab = Lab::of(10).with(|policy| policy.monitor = Duration::from_secs(100));
    lab.run(250);
    assert_eq!(lab.told, ALL_OF_TEN);
    lab.say(Command::GoBack).unwrap();
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.seconds < 260, "{} s", lab.seconds);
    assert!(lab.cause().contains("ann took it back: lunch"), "{}", lab.cause());
}

#[test]
fn hosts_that_are_offline_are_told_to_go_back() {
    let mut lab = Lab::of(10);
    lab.run(2);
    lab.host("c").online = false;
    lab.say(Command::GoBack).unwrap();
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.told.contains("<c"), "{}", lab.told);
    assert!(!lab.host("c").told.1);
}

#[test]
fn a_connection_that_breaks_on_the_way_back_fails_nobody() {
    let mut lab = Lab::of(10);
    lab.run(3);
    lab.each("j", |host| host.old = Hangs);
    lab.say(Command::GoBack).unwrap();
    lab.run(280);
    // The others went back long ago.
    lab.host("a").online = false;
    lab.run(30);
    lab.host("a").online = true;
    lab.each("j", |host| host.old = Works);
    assert_eq!(lab.end(), State::RolledBack, "{}", lab.cause());
}

#[test]
fn going_back_has_a_deadline_of_its_own() {
    let mut lab = Lab::of(2).with(|policy| policy.batch_timeout = Duration::from_secs(7_200));
    lab.each("a", |host| (host.new, host.old) = (Fails, Hangs));
    assert_eq!(lab.end(), State::Failed);
    assert!(lab.cause().contains("took longer than it may"), "{}", lab.cause());
    assert!((600..650).contains(&lab.seconds), "{} s", lab.seconds);
}

#[test]
fn a_controller_that_was_away_while_it_went_back_sees_that_it_is() {
    let mut lab = Lab::of(2);
    lab.each("a", |host| host.new = GoesBack);
    lab.run(3);
    assert_eq!(lab.told, "a | <a");
    lab.rollout.state = State::RollingBack;
    (lab.rollout.ended, lab.seconds) = (None, 7_200);
    assert_eq!(lab.end(), State::RolledBack);
}

#[test]
fn where_there_is_nothing_to_go_back_to_no_further_host_is_changed() {
    let mut lab = Lab::of(10);
    lab.rollout.back_to = None;
    lab.each("b", |host| host.new = GoesBack);
    lab.each("c d", |host| host.new = Hangs);
    lab.run(2);
    // The controller was killed before it had told them all.
    lab.progress("e").generation = None;
    lab.progress("e").outcome = Outcome::Pending;
    let told = lab.told.clone();
    lab.run(10);
    assert_eq!((lab.told.as_str(), lab.rollout.state), (told.as_str(), State::Changing));
    assert_eq!(lab.end(), State::Failed, "once those under way have had their time");
    assert_eq!(lab.told, told);
    assert_eq!(lab.say(Command::GoBack), Err(Refused::Ended));
}

// What operators say.

#[test]
fn a_pause_holds_until_someone_resumes_it() {
    let mut lab = Lab::of(10);
    lab.run(1);
    lab.say(Command::Pause { hold: None }).unwrap();
    lab.run(3_000);
    assert_eq!((lab.told.as_str(), lab.held()), ("a", Some(HoldKind::Operator)));
    assert_eq!(lab.rollout.hold.as_ref().unwrap().why, "ann paused it: lunch");
    assert_eq!(lab.say(Command::Pause { hold: None }), Err(Refused::Held));
    assert_eq!(lab.say(Command::Promote), Err(Refused::NoGate));
    lab.say(Command::Resume).unwrap();
    assert!(lab.rollout.deadline > lab.now(), "its own time did not run");
    assert_eq!(lab.say(Command::Resume), Err(Refused::NotPaused));
    assert_eq!(lab.end(), State::Completed);
}

#[test]
fn a_pause_ends_by_itself_and_so_does_the_rollout() {
    let mut lab = Lab::of(10);
    lab.run(1);
    lab.say(Command::Pause { hold: Some(Duration::from_secs(100)) }).unwrap();
    assert_eq!(lab.end(), State::TimedOut);
    assert_eq!(lab.cause(), "nobody let it go on: ann paused it: lunch");
    assert!((100..105).contains(&lab.seconds), "{} s", lab.seconds);
}

#[test]
fn nothing_is_decided_in_a_pause() {
    let mut lab = Lab::of(10);
    lab.run(1);
    lab.say(Command::Pause { hold: None }).unwrap();
    lab.each("a", |host| host.new = Fails);
    lab.run(100);
    assert_eq!((lab.told.as_str(), lab.held()), ("a", Some(HoldKind::Operator)));
    lab.say(Command::Resume).unwrap();
    assert_eq!(lab.end(), State::RolledBack);
}

#[test]
fn a_pause_stops_the_way_back_too() {
    let mut lab = Lab::of(10);
    lab.run(2);
    lab.say(Command::GoBack).unwrap();
    lab.say(Command::Pause { hold: None }).unwrap();
    lab.run(100);
    assert!(!lab.told.contains('<'), "{}", lab.told);
    assert_eq!(lab.say(Command::GoBack), Err(Refused::GoingBack));
    lab.say(Command::Resume).unwrap();
    assert_eq!(lab.end(), State::RolledBack);
}

#[test]
fn gates_wait_for_promote() {
    for (promote, gates) in [(Promote::Auto, 0), (Promote::Canary, 1), (Promote::Each, 2)] {
        let mut lab = Lab::of(10).with(|policy| policy.promote = promote);
        for _ in 0..gates {
            lab.run(100);
            assert_eq!(lab.held(), Some(HoldKind::Promotion), "{promote:?}");
            assert_eq!(lab.say(Command::Resume), Err(Refused::Held));
            lab.say(Command::Promote).unwrap();
        }
        assert_eq!(lab.say(Command::Promote), Err(Refused::NoGate));
        assert_eq!(lab.end(), State::Completed, "{promote:?}");
    }
}

#[test]
fn a_gate_is_behind_proof() {
    let mut lab = Lab::of(10).with(|policy| policy.promote = Promote::Canary);
    lab.run(1);
    lab.host("a").online = false;
    lab.run(70);
    // The first canary vanished and proved nothing; the second did.
    assert_eq!((lab.told.as_str(), lab.held()), ("a | b", Some(HoldKind::Promotion)));
}

#[test]
fn what_was_healthy_must_be_so_when_the_gate_opens() {
    let mut lab = Lab::of(10).with(|policy| policy.promote = Promote::Canary);
    lab.run(10);
    lab.each("a", |host| host.new = Hangs);
    lab.run(10);
    lab.say(Command::Promote).unwrap();
    lab.run(10);
    assert_eq!(lab.told, "a");
    assert_eq!(lab.end(), State::RolledBack);
}

#[test]
fn a_failure_behind_a_gate_is_seen() {
    let mut lab = Lab::of(10).with(|policy| policy.promote = Promote::Canary);
    lab.run(10);
    lab.each("a", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
}

#[test]
fn windows_are_waited_for() {
    let mut lab = Lab::of(2).with(|policy| policy.windows = vec!["00:20-00:30".parse().unwrap()]);
    lab.run(60);
    assert_eq!((lab.held(), lab.told.as_str()), (Some(HoldKind::Window), ""));
    assert_eq!(lab.say(Command::Resume), Err(Refused::Window));
    assert_eq!(lab.end(), State::Completed);
    assert!((1_200..1_210).contains(&lab.seconds), "{} s", lab.seconds);
}

#[test]
fn what_has_begun_is_brought_to_its_end_and_going_back_waits_for_no_window() {
    let mut lab = Lab::of(3).with(|policy| {
        policy.windows = vec!["00:00-00:01".parse().unwrap()];
        policy.monitor = Duration::from_secs(55);
    });
    lab.run(120);
    assert_eq!((lab.held(), lab.told.as_str()), (Some(HoldKind::Window), "a | b"));
    lab.each("b", |host| host.new = Fails);
    assert_eq!(lab.end(), State::RolledBack);
    assert!(lab.seconds < 180, "{} s", lab.seconds);
}

#[test]
fn an_end_is_one() {
    let mut lab = Lab::of(10);
    lab.run(1);
    lab.say(Command::Abort).unwrap();
    assert_eq!((lab.rollout.state, lab.cause()), (State::Aborted, "ann aborted it: lunch"));
    lab.run(100);
    assert_eq!(lab.told, "a", "all is left as it was");
    for said in [Command::Resume, Command::Promote, Command::Abort, Command::GoBack] {
        assert_eq!(lab.say(said), Err(Refused::Ended));
    }
}

#[test]
fn nothing_is_taken_back_that_was_not_changed() {
    let mut lab = Lab::of(10);
    assert_eq!(lab.say(Command::GoBack), Err(Refused::NothingBefore));
    lab.rollout.back_to = None;
    lab.run(2);
    assert_eq!(lab.say(Command::GoBack), Err(Refused::NothingBefore));
    assert_eq!(lab.end(), State::Completed);
}
