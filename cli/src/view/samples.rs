//! Messages as a controller would send them.

use shoal_core::rollout::Policy;
use shoal_proto::v1;

/// Noon of some day, in milliseconds since the Unix epoch.
pub(crate) const NOW: u64 = 1_800_014_400_000;
pub(crate) const MINUTE: u64 = 60_000;

pub(crate) fn image(digit: u8, references: &[&str]) -> v1::Image {
    v1::Image {
        digest: vec![digit; 32].into(),
        size: 97 << 20,
        references: references.iter().map(ToString::to_string).collect(),
        os_id: Some("debian".into()),
        os_version: Some("12".into()),
        os_name: Some("Debian GNU/Linux 12 (bookworm)".into()),
        architecture: Some("x86-64".into()),
        pushed_ms: NOW - 3 * MINUTE,
        pushed_by: "spiffe://example.org/ci/build".into(),
        compression: "zstd".into(),
        used_by: references.iter().map(|_| "shop/main@h1".to_owned()).collect(),
        staged_on: vec!["h1".into(), "h2".into()],
    }
}

pub(crate) fn host(name: &str, online: bool) -> v1::Host {
    v1::Host {
        id: format!("{name}-id"),
        name: name.into(),
        labels: [("role".into(), "web".into()), ("zone".into(), "a".into())].into(),
        facts: Some(v1::HostFacts {
            os: "Debian GNU/Linux 12 (bookworm)".into(),
            kernel: "6.12.0".into(),
            architecture: "x86-64".into(),
            systemd: "252".into(),
            cpus: 4,
            memory: 8 << 30,
            disk_total: 100 << 30,
            disk_free: 40 << 30,
            idmapped_squashfs: online,
            agent: "0.1.0".into(),
            boot_id: "b00t".into(),
            address: Some("10.0.0.7".into()),
            max_files: 1_048_576,
            max_tasks: 32_768,
            policy: None,
        }),
        online,
        since_ms: NOW - 90 * MINUTE,
        last_heard_ms: NOW - 5 * MINUTE,
        enrolled_ms: NOW - 60 * 24 * 3 * MINUTE,
        generation: 7,
        certificate_expires_ms: NOW + 20 * 60 * MINUTE,
        status: Some(v1::HostStatus {
            observed_generation: if online { 7 } else { 6 },
            instances: vec![observed(3, v1::InstanceState::Running, v1::InstanceHealth::Healthy)],
            images: vec![vec![1; 32].into()],
            retained: vec![v1::RetainedData {
                machine: "shop-old".into(),
                volumes: vec!["var".into(), "log".into()],
            }],
            problems: if online { vec![] } else { vec!["disk is 97 % full".into()] },
            agent: None,
            infra: None,
            transfers: vec![],
            serves: vec![],
        }),
        cordon: None,
        agent: None,
    }
}

pub(crate) fn observed(
    revision: u64,
    state: v1::InstanceState,
    health: v1::InstanceHealth,
) -> v1::InstanceStatus {
    v1::InstanceStatus {
        id: "shop/main".into(),
        revision,
        image: "shop:1".into(),
        digest: vec![1; 32].into(),
        state: state.into(),
        health: health.into(),
        since_ms: NOW - 3 * MINUTE,
        current: true,
        leader: Some(4711),
        restarts: 0,
        uid_base: Some(524_288),
        message: None,
        paused: false,
        drift: vec![],
        last_exit: None,
        addresses: vec![],
        went_back: None,
    }
}

fn wanted(run: v1::RunState) -> v1::InstanceSpec {
    v1::InstanceSpec {
        id: "shop/main".into(),
        revision: 3,
        config: Some(v1::InstanceConfig {
            image: Some(v1::PinnedImage {
                reference: "shop:1".into(),
                digest: vec![1; 32].into(),
                size: 4096,
            }),
            settings: Some(v1::Settings {
                start: Some(v1::settings::Start::Boot(v1::Boot {})),
                network: v1::Network::Host.into(),
                ..Default::default()
            }),
        }),
        run: run.into(),
        restarts: 0,
        recreate: 0,
        paused: false,
        gate_ms: None,
    }
}

/// An instance that should run on a host that is online.
pub(crate) fn instance(host: &str, observed: Option<v1::InstanceStatus>) -> v1::Instance {
    v1::Instance {
        host: host.into(),
        host_online: true,
        host_last_heard_ms: NOW - 5 * MINUTE,
        wanted: Some(wanted(v1::RunState::Running)),
        observed,
    }
}

/// One of each kind.
pub(crate) fn instances() -> Vec<v1::Instance> {
    use v1::{InstanceHealth as Health, InstanceState as State};
    let running = observed(3, State::Running, Health::Healthy);
    let failed = v1::InstanceStatus {
        message: Some("exit code 1".into()),
        ..observed(3, State::Failed, Health::None)
    };
    let stopped = observed(3, State::Stopped, Health::None);
    vec![
        instance("h1", Some(running.clone())),
        v1::Instance { host_online: false, ..instance("h2", Some(running.clone())) },
        instance("h3", Some(failed)),
        instance("h4", None),
        instance("h5", Some(v1::InstanceStatus { revision: 2, ..running.clone() })),
        v1::Instance {
            wanted: Some(wanted(v1::RunState::Stopped)),
            ..instance("h6", Some(stopped.clone()))
        },
        instance("h7", Some(stopped)),
        v1::Instance { wanted: None, ..instance("h8", Some(running)) },
    ]
}

pub(crate) fn rollout(
    state: v1::RolloutState,
    hosts: &[(&str, v1::OutcomeKind, &str)],
) -> v1::Rollout {
    let hosts = hosts.iter().map(|(name, outcome, reason)| v1::RolloutHost {
        id: format!("{name}-id"),
        name: (*name).to_owned(),
        outcome: (*outcome).into(),
        reason: (*reason).to_owned(),
        generation: Some(7),
        batch: 1,
        kept: false,
        staged: true,
        failed: String::new(),
        stray: false,
    });
    v1::Rollout {
        fleet: "shop".into(),
        revision: 3,
        state: state.into(),
        hosts: hosts.collect(),
        started_ms: NOW - 2 * MINUTE,
        deadline_ms: NOW + 8 * MINUTE,
        ended_ms: None,
        author: "spiffe://example.org/user/ada".into(),
        batch: 1,
        hold: None,
        ready_since_ms: None,
        back_to: Some(2),
        cause: String::new(),
        policy: Some(Policy::default().into()),
        offline: v1::OfflineHosts::Wait.into(),
    }
}

/// Why a rollout does not go on.
pub(crate) fn hold(kind: v1::HoldKind, why: &str) -> Option<v1::Hold> {
    let remaining_ms = 8 * MINUTE;
    Some(v1::Hold { kind: kind.into(), why: why.into(), since_ms: NOW - MINUTE, remaining_ms })
}

/// Three hosts through, one at it, one away, two to come.
pub(crate) fn second_batch(state: v1::RolloutState) -> v1::Rollout {
    use v1::OutcomeKind as Kind;
    let hosts = [
        ("h1", Kind::Ready, ""),
        ("h2", Kind::Ready, ""),
        ("h3", Kind::Changing, "shop/main: waits for its checks"),
        ("h4", Kind::Ready, ""),
        ("h5", Kind::Offline, ""),
        ("h6", Kind::Pending, ""),
        ("h7", Kind::Pending, ""),
    ];
    let mut rollout = v1::Rollout { batch: 2, ..rollout(state, &hosts) };
    let batches = [1, 2, 2, 1, 0, 0, 0];
    for (host, batch) in rollout.hosts.iter_mut().zip(batches) {
        host.batch = batch;
        host.kept = host.name == "h4";
        host.generation = (batch > 0).then_some(7);
    }
    rollout
}

pub(crate) fn plan() -> v1::PlanResponse {
    use v1::ChangeKind as Kind;
    let field = |field: &str, from: Option<&str>, to: Option<&str>| v1::FieldChange {
        field: field.into(),
        from: from.map(Into::into),
        to: to.map(Into::into),
    };
    let change = |host: &str, instance: &str, kind: Kind, fields| v1::InstanceChange {
        host: host.into(),
        instance: instance.into(),
        kind: kind.into(),
        fields,
        host_online: host != "h2",
        data: vec![],
    };
    v1::PlanResponse {
        base_revision: 2,
        changes: vec![
            change(
                "h1",
                "main",
                Kind::Replace,
                vec![
                    field("image", Some("shop:1 (010101010101)"), Some("shop:2 (020202020202)")),
                    field("env.DEBUG", Some("\"1\""), None),
                    field("env.MODE", None, Some("\"fast\"")),
                ],
            ),
            change("h2", "main", Kind::Create, vec![field("image", None, Some("shop:2"))]),
            change("h1", "old", Kind::Remove, vec![]),
            change("h1", "web", Kind::Refresh, vec![field("after", None, Some("shop/main"))]),
            change("h3", "main", Kind::Keep, vec![]),
        ],
        changes_anything: true,
        retries: false,
        notes: vec![],
        infra: vec![],
    }
}
