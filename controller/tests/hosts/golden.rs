//! The bytes of every kind of record: what a controller wrote, each later one has to read.

use shoal_controller::store::{Batch, Record, Write};
use shoal_proto::v1;
use shoal_proto::v1::store::{
    AgentProgramRecord, AuditRecord, EpochRecord, EventRecord, FleetRecord, HostNameRecord,
    HostProgress, HostRecord, HostSpecRecord, HostStatusRecord, ImageRecord, LockRecord,
    PlacedHost, PresenceRecord, RevisionRecord, RolloutRecord, SecretHeadRecord, SecretRecord,
    StagedRecord, TagRecord, TokenRecord, TokenUse, UserRecord,
};

/// The key and the bytes in hex.
fn written<R: Record>(id: &str, record: &R) -> String {
    let mut batch = Batch::new();
    batch.put(id, record).unwrap();
    let transaction = batch.into_transaction();
    let [Write::Put(key, bytes)] = transaction.writes.as_slice() else { panic!("one write") };
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{key} {hex}")
}

fn instance_config() -> v1::InstanceConfig {
    let (reference, digest) = ("a:1".into(), vec![7; 2].into());
    let image = v1::PinnedImage { reference, digest, size: 5, signed: None };
    let settings = v1::Settings {
        start: Some(v1::settings::Start::Boot(v1::Boot {})),
        network: v1::Network::Host.into(),
        env: [("K".to_owned(), "v".to_owned())].into_iter().collect(),
        ..v1::Settings::default()
    };
    v1::InstanceConfig { image: Some(image), settings: Some(settings) }
}

fn of_hosts() -> [String; 6] {
    let facts = v1::HostFacts {
        os: "Debian".into(),
        kernel: "6.1".into(),
        architecture: "x86-64".into(),
        systemd: "252".into(),
        cpus: 2,
        memory: 3,
        disk_total: 4,
        disk_free: 5,
        idmapped_squashfs: true,
        agent: "0.1.0".into(),
        boot_id: "b".into(),
        ..v1::HostFacts::default()
    };
    let host = HostRecord {
        id: "h1".into(),
        name: "web-1".into(),
        labels: [("role".to_owned(), "web".to_owned())].into_iter().collect(),
        facts: Some(facts),
        enrolled_ms: 1000,
        key_sha256: vec![1, 2].into(),
        certificate_expires_ms: 2000,
        cordon: None,
    };
    let spec = v1::HostSpec {
        generation: 9,
        instances: vec![v1::InstanceSpec {
            id: "f/i".into(),
            revision: 2,
            config: Some(instance_config()),
            run: v1::RunState::Running.into(),
            restarts: 1,
            ..v1::InstanceSpec::default()
        }],
        ..v1::HostSpec::default()
    };
    let status = v1::HostStatus {
        observed_generation: 9,
        instances: vec![v1::InstanceStatus {
            id: "f/i".into(),
            revision: 2,
            image: "a:1".into(),
            digest: vec![7; 2].into(),
            state: v1::InstanceState::Running.into(),
            health: v1::InstanceHealth::Healthy.into(),
            since_ms: 3000,
            current: true,
            leader: Some(77),
            restarts: 1,
            uid_base: Some(65536),
            message: Some("m".into()),
            ..v1::InstanceStatus::default()
        }],
        images: vec![vec![7; 2].into()],
        retained: vec![v1::RetainedData { machine: "f-i".into(), volumes: vec!["v".into()] }],
        problems: vec!["p".into()],
        ..v1::HostStatus::default()
    };
    let used = TokenUse {
        key_sha256: vec![1].into(),
        host_id: "h1".into(),
        certificate_chain: "pem".into(),
    };
    let token = TokenRecord {
        secret_sha256: vec![3].into(),
        expires_ms: 4000,
        host_name: Some("web-1".into()),
        labels: [("role".to_owned(), "web".to_owned())].into_iter().collect(),
        created_by: "ann".into(),
        used: Some(used),
    };
    let presence = PresenceRecord { online: true, since_ms: 5, last_heard_ms: 6 };
    [
        written("h1", &host),
        written("web-1", &HostNameRecord { id: "h1".into() }),
        written("h1", &presence),
        written("h1", &HostSpecRecord { spec: Some(spec) }),
        written("h1", &HostStatusRecord { status: Some(status) }),
        written("t1", &token),
    ]
}

fn of_fleets() -> [String; 5] {
    let image = ImageRecord {
        digest: vec![7; 2].into(),
        size: 5,
        os_id: Some("debian".into()),
        os_version: Some("12".into()),
        os_name: Some("Debian 12".into()),
        architecture: Some("x86-64".into()),
        pushed_ms: 1,
        pushed_by: "ann".into(),
        compression: "zstd".into(),
        ..ImageRecord::default()
    };
    let declared = v1::DeclaredInstance {
        image: "a:1".into(),
        hosts: Some(v1::HostMatch {
            r#match: Some(v1::host_match::Match::Selector("role=web".into())),
        }),
        settings: instance_config().settings,
        ..v1::DeclaredInstance::default()
    };
    let spec = v1::FleetSpec {
        fleet: "f".into(),
        instances: [("i".to_owned(), declared)].into_iter().collect(),
        rollout: None,
        infra: None,
    };
    let placed =
        PlacedHost { instances: [("i".to_owned(), instance_config())].into_iter().collect() };
    let revision = RevisionRecord {
        fleet: "f".into(),
        revision: 2,
        spec: Some(spec),
        hosts: [("h1".to_owned(), placed)].into_iter().collect(),
        created_ms: 8,
        author: "ann".into(),
        source: "git".into(),
        recreate: vec![],
        undo_data: false,
    };
    let progress = HostProgress {
        generation: Some(9),
        outcome: v1::OutcomeKind::Ready.into(),
        reason: "r".into(),
        ..HostProgress::default()
    };
    let rollout = RolloutRecord {
        fleet: "f".into(),
        revision: 2,
        state: v1::RolloutState::Completed.into(),
        hosts: [("h1".to_owned(), progress)].into_iter().collect(),
        started_ms: 1,
        deadline_ms: 2,
        ended_ms: Some(3),
        ..RolloutRecord::default()
    };
    [
        written("07", &image),
        written("a/1", &TagRecord { digest: vec![7; 2].into(), signed: None }),
        written("f", &FleetRecord { revision: 2 }),
        written("f/2", &revision),
        written("f/2", &rollout),
    ]
}

fn of_the_rest() -> [String; 4] {
    let audit = AuditRecord {
        time_ms: 1,
        who: "ann".into(),
        what: "Fleets/Apply".into(),
        target: "f".into(),
        detail: "d".into(),
    };
    let event = v1::Event {
        at_ms: 1,
        instance: Some("f/i".into()),
        kind: v1::EventKind::Drift.into(),
        message: "m".into(),
        host: "h".into(),
    };
    [
        written("ann", &UserRecord { role: "admin".into(), created_ms: 1 }),
        written("1-a", &audit),
        written("current", &EpochRecord { epoch: 3 }),
        written("1-a", &EventRecord { event: Some(event), host_id: "h1".into() }),
    ]
}

/// Settings with every key that the first version did not know.
fn wider_settings() -> v1::Settings {
    let port = v1::Port { host: 8001, inside: 80, protocol: v1::Protocol::Tcp.into() };
    let limits = v1::Limits { memory: Some(1), cpu: Some(2), tasks: Some(3), nofile: Some(4) };
    let security = v1::Security {
        capabilities_add: vec!["CAP_SYS_NICE".into()],
        capabilities_drop: vec!["CAP_NET_RAW".into()],
        new_privileges: true,
        shared_users: true,
        system_calls_allow: vec!["bpf".into()],
    };
    let mount = v1::Mount { source: "/srv".into(), writable: true, shared: true };
    let text = v1::file::Body::Text("t".into());
    let file = v1::File { body: Some(text), reload: Some("u".into()), ..v1::File::default() };
    let health = v1::HealthChecks {
        http: Some("http://127.0.0.1/".into()),
        exec: vec!["/x".into()],
        ..v1::HealthChecks::default()
    };
    v1::Settings {
        network: v1::Network::Bridge.into(),
        network_name: Some("br0".into()),
        address: Some("10.0.0.2/24".into()),
        gateway: Some("10.0.0.1".into()),
        ports: vec![port],
        limits: Some(limits),
        security: Some(security),
        mounts: [("/m".to_owned(), mount)].into_iter().collect(),
        files: [("/f".to_owned(), file)].into_iter().collect(),
        health: Some(health),
        root: v1::Root::Memory.into(),
        after: vec!["f/db".into()],
        ..v1::Settings::default()
    }
}

fn wider_host() -> HostRecord {
    let policy = v1::HostPolicy {
        user_namespace: v1::UserNamespace::Optional.into(),
        host_network: true,
        any_bridge: true,
        bridges: vec!["br0".into()],
        capabilities: vec!["CAP_SYS_NICE".into()],
        new_privileges: true,
        system_calls: vec!["bpf".into()],
        bind: vec![v1::AllowedBind { path: "/srv".into(), writable: true, idmap: true }],
        no_agent_upgrade: false,
        ..v1::HostPolicy::default()
    };
    let facts = v1::HostFacts {
        address: Some("192.0.2.1".into()),
        max_files: 1,
        max_tasks: 2,
        policy: Some(policy),
        ..v1::HostFacts::default()
    };
    HostRecord { facts: Some(facts), ..HostRecord::default() }
}

/// What later versions added to records that were there before.
fn wider() -> [String; 4] {
    let settings = Some(wider_settings());
    let config = v1::InstanceConfig { image: None, settings: settings.clone() };
    let spec = v1::HostSpec {
        instances: vec![v1::InstanceSpec {
            config: Some(config),
            paused: true,
            ..v1::InstanceSpec::default()
        }],
        peers: vec![v1::Peer { id: "f/i".into(), host: "h".into(), address: "192.0.2.1".into() }],
        ..v1::HostSpec::default()
    };
    let status = v1::InstanceStatus {
        paused: true,
        drift: vec!["d".into()],
        last_exit: Some(v1::LastExit { at_ms: 1, reason: "r".into() }),
        addresses: vec!["10.0.0.2".into()],
        ..v1::InstanceStatus::default()
    };
    let status = v1::HostStatus { instances: vec![status], ..v1::HostStatus::default() };
    let value = v1::Value { kind: Some(v1::value::Kind::Text("v".into())) };
    let over = v1::VarsOverride {
        hosts: Some(v1::HostMatch { r#match: Some(v1::host_match::Match::All(v1::AllHosts {})) }),
        vars: [("k".to_owned(), value)].into_iter().collect(),
    };
    let declared = v1::DeclaredInstance {
        settings,
        count: Some(2),
        overrides: vec![over],
        env_templates: [("E".to_owned(), "{{ k }}".to_owned())].into_iter().collect(),
        address_template: Some("{{ k }}".into()),
        ..v1::DeclaredInstance::default()
    };
    let instances = [("i".to_owned(), declared)].into_iter().collect();
    let spec_of_fleet = v1::FleetSpec { fleet: "f".into(), instances, ..Default::default() };
    let revision = RevisionRecord { spec: Some(spec_of_fleet), ..RevisionRecord::default() };
    [
        written("h2", &wider_host()),
        written("h2", &HostSpecRecord { spec: Some(spec) }),
        written("h2", &HostStatusRecord { status: Some(status) }),
        written("f/3", &revision),
    ]
}

fn of_secrets() -> [String; 4] {
    let secret = SecretRecord {
        nonce: vec![1; 12].into(),
        sealed: vec![2, 3].into(),
        created_ms: 4,
        created_by: "ann".into(),
        generated: true,
    };
    let pinned = v1::PinnedSecret { name: "db/creator".into(), version: 3 };
    let settings = v1::Settings {
        start: Some(v1::settings::Start::Boot(v1::Boot {})),
        secrets: [("password".to_owned(), pinned)].into_iter().collect(),
        ..v1::Settings::default()
    };
    let config = v1::InstanceConfig { image: None, settings: Some(settings) };
    let instance =
        v1::InstanceSpec { id: "f/i".into(), config: Some(config), ..v1::InstanceSpec::default() };
    let spec = v1::HostSpec { generation: 1, instances: vec![instance], ..v1::HostSpec::default() };
    let declared = v1::DeclaredInstance {
        secrets: [("password".to_owned(), "db/creator".to_owned())].into_iter().collect(),
        ..v1::DeclaredInstance::default()
    };
    let instances = [("i".to_owned(), declared)].into_iter().collect();
    let spec_of_fleet = v1::FleetSpec { fleet: "f".into(), instances, ..Default::default() };
    let revision = RevisionRecord { spec: Some(spec_of_fleet), ..RevisionRecord::default() };
    [
        written("db/creator", &SecretHeadRecord { version: 3 }),
        written("db/creator@00000000000000000003", &secret),
        written("h3", &HostSpecRecord { spec: Some(spec) }),
        written("f/4", &revision),
    ]
}

/// What rollouts that go in batches added.
fn of_rollouts() -> [String; 5] {
    let policy = v1::RolloutPolicy {
        batches: vec!["1".into(), "50%".into()],
        monitor_ms: 1,
        max_failures: 2,
        on_failure: v1::OnFailure::Pause.into(),
        batch_timeout_ms: 3,
        spread: Some("site".into()),
        promote: v1::Promote::Canary.into(),
        windows: vec!["22:00-04:00".into()],
        stage_ahead: true,
    };
    let progress = HostProgress {
        generation: Some(9),
        outcome: v1::OutcomeKind::GoingBack.into(),
        reason: "r".into(),
        failing_since_ms: Some(1),
        place: 2,
        spread: Some("b".into()),
        kept: true,
        batch: Some(3),
        staged: true,
        staging: Some(8),
        returning: true,
        back: Some(10),
        lost: true,
        since_ms: Some(4),
        offline_since_ms: Some(5),
        restarts: Some(6),
        ..HostProgress::default()
    };
    let newer = HostProgress {
        heard: true,
        stray: true,
        failed: Some("f".into()),
        ..HostProgress::default()
    };
    let newer = RolloutRecord {
        hosts: [("h1".to_owned(), newer)].into_iter().collect(),
        ..RolloutRecord::default()
    };
    let hold = v1::Hold {
        kind: v1::HoldKind::Promotion.into(),
        why: "w".into(),
        since_ms: 1,
        remaining_ms: 2,
    };
    let rollout = RolloutRecord {
        fleet: "f".into(),
        revision: 2,
        state: v1::RolloutState::RollingBack.into(),
        hosts: [("h1".to_owned(), progress)].into_iter().collect(),
        started_ms: 1,
        deadline_ms: 2,
        ended_ms: None,
        back_to: Some(1),
        policy: Some(policy.clone()),
        offline: v1::OfflineHosts::Skip.into(),
        timeout_ms: 3,
        hold: Some(hold),
        batch: 4,
        proofs: 5,
        promoted: 6,
        ready_since_ms: Some(7),
        cause: Some("c".into()),
    };
    let lock = v1::Lock { holder: "ann".into(), reason: "r".into(), since_ms: 1, until_ms: 2 };
    let spec = v1::FleetSpec { fleet: "f".into(), rollout: Some(policy), ..Default::default() };
    let revision = RevisionRecord { spec: Some(spec), ..RevisionRecord::default() };
    let (reference, digest) = ("a:1".into(), vec![7].into());
    let stage = vec![v1::PinnedImage { reference, digest, size: 5, signed: None }];
    let spec = v1::HostSpec { generation: 1, stage, ..v1::HostSpec::default() };
    [
        written("f/5", &rollout),
        written("f/6", &newer),
        written("f", &LockRecord { lock: Some(lock) }),
        written("f/5", &revision),
        written("h4", &HostSpecRecord { spec: Some(spec) }),
    ]
}

fn of_signatures() -> [String; 3] {
    let signed = || {
        let (manifest, signature) = ("m".as_bytes().into(), "s".into());
        Some(v1::SignedManifest { manifest, signature })
    };
    let (reference, digest) = ("a:2".into(), vec![7].into());
    let stage = vec![v1::PinnedImage { reference, digest, size: 5, signed: signed() }];
    let spec = v1::HostSpec { generation: 1, stage, ..v1::HostSpec::default() };
    let keys = vec![v1::PinnedKeys { name: "*".into(), keys: vec!["k".into()] }];
    let policy = v1::HostPolicy { keys, unsigned: Some(true), ..v1::HostPolicy::default() };
    let facts = v1::HostFacts { policy: Some(policy), ..v1::HostFacts::default() };
    [
        written("a/2", &TagRecord { digest: vec![7; 2].into(), signed: signed() }),
        written("h9", &HostSpecRecord { spec: Some(spec) }),
        written("h9", &HostRecord { facts: Some(facts), ..HostRecord::default() }),
    ]
}

fn of_a_cordon() -> String {
    let cordon = v1::Cordon { by: "a".into(), reason: "r".into(), since_ms: 3, drains: true };
    written("h5", &HostRecord { cordon: Some(cordon), ..HostRecord::default() })
}

/// What the agent's own upgrade added.
fn of_agents() -> [String; 3] {
    let program = AgentProgramRecord {
        digest: vec![1; 32].into(),
        size: 2,
        pushed_ms: 3,
        pushed_by: "ann".into(),
    };
    let agent = v1::AgentSpec {
        version: "1.0.0".into(),
        digest: vec![1; 32].into(),
        size: 2,
        deadline_ms: 3,
        asked: 4,
    };
    let spec = v1::HostSpec { generation: 1, agent: Some(agent), ..v1::HostSpec::default() };
    let agent = v1::AgentStatus {
        version: "1.0.0".into(),
        digest: vec![1; 32].into(),
        asked: 4,
        phase: v1::AgentPhase::Rejected.into(),
        message: "w".into(),
    };
    let status = v1::HostStatus { agent: Some(agent), ..v1::HostStatus::default() };
    [
        written("1.0.0/x86-64", &program),
        written("h6", &HostSpecRecord { spec: Some(spec) }),
        written("h6", &HostStatusRecord { status: Some(status) }),
    ]
}

/// What infra versions added.
fn of_an_infra() -> [String; 5] {
    let infra = v1::Infra {
        version: "1".into(),
        snapshot: true,
        going_back: v1::GoingBack::ImageAndData.into(),
        restore: Some("b".into()),
        agent: Some("0.3.0".into()),
    };
    let of_host = v1::HostInfra {
        version: "1".into(),
        revision: 2,
        snapshot: true,
        going_back: v1::GoingBack::Image.into(),
        undo: Some(3),
        restore: Some("b".into()),
        ..v1::HostInfra::default()
    };
    let newer = v1::HostInfra { agent: Some("0.3.0".into()), ..v1::HostInfra::default() };
    let newer = v1::HostSpec { infra: Some(newer), ..v1::HostSpec::default() };
    let status = v1::InfraStatus {
        has: Some("1".into()),
        since_ms: Some(4),
        wants: Some("2".into()),
        phase: v1::InfraPhase::Starting.into(),
        waits: Some("w".into()),
        snapshots: vec![2, 3],
    };
    let spec = v1::FleetSpec { fleet: "infra".into(), infra: Some(infra), ..Default::default() };
    let revision = RevisionRecord { spec: Some(spec), ..RevisionRecord::default() };
    let spec = v1::HostSpec { generation: 1, infra: Some(of_host), ..v1::HostSpec::default() };
    let status = v1::HostStatus { infra: Some(status), ..v1::HostStatus::default() };
    [
        written("infra/1", &revision),
        written("h6", &HostSpecRecord { spec: Some(spec) }),
        written("h6", &HostStatusRecord { status: Some(status) }),
        written("infra/2", &RevisionRecord { undo_data: true, ..RevisionRecord::default() }),
        written("h7", &HostSpecRecord { spec: Some(newer) }),
    ]
}

/// What making containers afresh added.
fn of_recreations() -> [String; 2] {
    let instance = v1::InstanceSpec { id: "f/i".into(), recreate: 6, ..Default::default() };
    let spec = v1::HostSpec { instances: vec![instance], ..v1::HostSpec::default() };
    let revision = RevisionRecord { recreate: vec!["h6".into()], ..RevisionRecord::default() };
    [written("h6", &HostSpecRecord { spec: Some(spec) }), written("f/6", &revision)]
}

/// What keeping and pruning images added.
fn of_kept_images() -> [String; 3] {
    let keep = vec![v1::KeptImages { fleet: "f".into(), digests: vec![vec![7].into()] }];
    let spec = v1::HostSpec { generation: 1, keep, ..v1::HostSpec::default() };
    let status = v1::HostStatus { image_bytes: 5, ..v1::HostStatus::default() };
    let pin = Some(v1::ImagePin { by: "ann".into(), at_ms: 3 });
    let image = ImageRecord { pin, unneeded_ms: Some(4), ..ImageRecord::default() };
    [
        written("h8", &HostSpecRecord { spec: Some(spec) }),
        written("h8", &HostStatusRecord { status: Some(status) }),
        written("02", &image),
    ]
}

/// What transfers by recipe added.
fn of_transfers() -> [String; 2] {
    let peers = v1::PeerPolicy { listen: "l".into(), rate: Some(5) };
    let policy = v1::HostPolicy { peers: Some(peers), ..v1::HostPolicy::default() };
    let facts = v1::HostFacts { policy: Some(policy), ..v1::HostFacts::default() };
    let host = HostRecord { facts: Some(facts), ..HostRecord::default() };
    let transfer = v1::TransferStatus {
        digest: vec![1; 2].into(),
        image: "a:1".into(),
        phase: v1::TransferPhase::Receiving.into(),
        received: 4,
        total: 5,
        wire: 6,
        saved: 7,
        source: "c".into(),
        left_ms: Some(8),
        recipe: vec![2].into(),
        made: 9,
    };
    let serves = vec![vec![3].into()];
    let status = v1::HostStatus { transfers: vec![transfer], serves, ..v1::HostStatus::default() };
    [written("ht", &host), written("ht", &HostStatusRecord { status: Some(status) })]
}

/// What staging by people added.
fn of_staging() -> String {
    let record = StagedRecord {
        reference: "a:1".into(),
        digest: vec![1, 2].into(),
        size: 3,
        by: "ann".into(),
        since_ms: 4,
        until_ms: 5,
        signed: None,
    };
    written("0102/h1", &record)
}

#[test]
fn records_are_written_as_ever() {
    let found: Vec<String> = of_hosts()
        .into_iter()
        .chain(of_fleets())
        .chain(of_the_rest())
        .chain(wider())
        .chain(of_secrets())
        .chain(of_rollouts())
        .chain([of_a_cordon()])
        .chain(of_agents())
        .chain(of_recreations())
        .chain(of_an_infra())
        .chain(of_kept_images())
        .chain(of_signatures())
        .chain(of_transfers())
        .chain([of_staging()])
        .collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(found, golden, "the store of a controller that is in use could not be read");
}
