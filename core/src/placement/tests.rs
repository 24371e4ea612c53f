//! Tables over whole placements. The properties of `count` are in `hosts`, orders in `order`.

use std::net::IpAddr;

use super::tests_support::{World, fleet, host, matched, seats};
use super::*;
use crate::fleet::Override;
use crate::host::HostFacts;
use crate::spec::tests_support::settings;
use crate::spec::{
    File, FileBody, InterfaceName, Limits, Link, Memory, Mount, Network, Value, Vars,
};

fn vars(pairs: &[(&str, &str)]) -> Vars {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::Text((*v).to_owned()))).collect()
}

fn over(hosts: &str, pairs: &[(&str, &str)]) -> Override {
    Override { hosts: matched(hosts), vars: vars(pairs) }
}

fn template(text: &str) -> File {
    let body = FileBody::Template(text.into());
    File { body, mode: 0o644, owner: Default::default(), reload: None }
}

/// A fleet of one instance `main`, changed.
fn one(hosts: &str, change: impl FnOnce(&mut crate::fleet::DeclaredInstance)) -> FleetSpec {
    let mut fleet = fleet("shop", &[("main", hosts)]);
    fleet.instances.values_mut().for_each({
        let mut change = Some(change);
        move |declared| (change.take().unwrap())(declared)
    });
    fleet
}

fn on<'a>(placement: &'a Placement, host: &str) -> &'a Settings {
    let there = &placement.hosts[&format!("id-{host}").parse::<HostId>().unwrap()];
    &there.values().next().unwrap().settings
}

#[test]
fn every_match_runs_one() {
    let placed = World::new().place(&fleet("shop", &[("main", "role=web"), ("db", "h3")]));
    assert_eq!(seats(&placed.unwrap()), ["main@h1", "main@h2", "db@h3"]);
}

#[test]
fn problems_are_told_together_by_instance() {
    let mut spec = fleet("shop", &[("a", "role=mail"), ("b", "h9"), ("c", "role=web")]);
    for (name, image) in [("a", "app:7"), ("b", "app:1"), ("c", "app:8")] {
        let name: InstanceName = name.parse().unwrap();
        spec.instances.get_mut(&name).unwrap().image = image.parse().unwrap();
    }
    let problems = World::new().problems(&spec);
    let wanted = [
        "instance a: no host matches \"role=mail\"",
        "instance a: image app:7 is not known",
        "instance b: host h9 is not enrolled",
        "instance c: image app:8 is not known",
    ];
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
    for (problem, wanted) in problems.iter().zip(wanted) {
        assert!(problem.starts_with(wanted), "{problem}");
    }
}

#[test]
fn two_fleets_never_share_a_machine_name() {
    let mut world = World::new();
    world.order.insert("a/b-c".parse().unwrap(), BTreeSet::new());
    let problems = world.problems(&fleet("a-b", &[("c", "*")]));
    assert!(problems[0].contains("named a-b-c, as that of a/b-c is"), "{problems:?}");
    world.order.clear();
    world.other("h1", "a/b-c", &settings());
    assert_eq!(world.problems(&fleet("a-b", &[("c", "*")])).len(), 1, "also one that is leaving");
}

#[test]
fn a_name_goes_before_labels_and_these_before_everywhere() {
    let spec = one("*", |main| {
        main.settings.files.insert("/etc/x".parse().unwrap(), template("{{ a }}{{ b }}{{ c }}"));
        main.settings.vars = vars(&[("a", "all"), ("b", "all"), ("c", "all"), ("gone", "all")]);
        main.overrides = vec![
            over("h1", &[("c", "h1")]),
            over("role=web", &[("b", "web"), ("c", "web")]),
            over("role=db", &[("a", "db")]),
        ];
    });
    let placed = World::new().place(&spec).unwrap();
    assert_eq!(on(&placed, "h1").vars, vars(&[("a", "all"), ("b", "web"), ("c", "h1")]));
    assert_eq!(on(&placed, "h2").vars, vars(&[("a", "all"), ("b", "web"), ("c", "web")]));
    assert_eq!(on(&placed, "h3").vars, vars(&[("a", "db"), ("b", "all"), ("c", "all")]));
}

#[test]
fn two_selectors_that_disagree_on_a_host_are_refused() {
    let disagree = |more: &[Override]| {
        let mut overrides = vec![over("role=web", &[("a", "1")]), over("role!=db", &[("a", "2")])];
        overrides.extend_from_slice(more);
        World::new().problems(&one("*", |main| main.overrides = overrides))
    };
    assert_eq!(
        disagree(&[]),
        [
            "instance main on hosts h1, h2: variable a has different values for \"role=web\" and for \
          \"role!=db\", and the host matches both; narrow one of them, or set it for the host by \
          its name"
        ]
    );
    assert!(disagree(&[over("h1", &[("a", "3")])])[0].starts_with("instance main on host h2: "));
    assert_eq!(disagree(&[over("h1,h2", &[("a", "3")])]), [""; 0]);
    let agree = vec![over("role=web", &[("a", "1")]), over("role!=db", &[("a", "1")])];
    assert_eq!(World::new().problems(&one("*", |main| main.overrides = agree)), [""; 0]);
}

#[test]
fn texts_are_rendered_for_each_host_and_only_files_keep_variables() {
    let spec = one("role=web", |main| {
        main.settings.network = Network::Bridge("br0".parse().unwrap(), Link::default());
        main.settings.vars = vars(&[("net", "10.0.0"), ("last", "1"), ("site", "a")]);
        main.overrides = vec![over("h2", &[("last", "2")])];
        main.settings.files.insert("/etc/x".parse().unwrap(), template("{{ site }}"));
        main.settings.env.insert("PLAIN".parse().unwrap(), "{{ net }}".into());
        let env = "{{ shoal.host }}:{{ last }}".to_owned();
        main.templates.env.insert("WHERE".parse().unwrap(), env);
        main.templates.address = Some("{{ net }}.{{ last }}/24".into());
    });
    let placed = World::new().place(&spec).unwrap();
    for (host, where_, address) in [("h1", "h1:1", "10.0.0.1/24"), ("h2", "h2:2", "10.0.0.2/24")] {
        let settings = on(&placed, host);
        let env: Vec<&str> = settings.env.values().map(String::as_str).collect();
        assert_eq!(env, ["{{ net }}", where_]);
        let link = settings.network.link().unwrap();
        assert_eq!(link.address.unwrap().to_string(), address);
        assert_eq!(settings.vars, vars(&[("site", "a")]));
    }
}

#[test]
fn a_text_that_does_not_render_is_named_with_its_place() {
    let spec = one("*", |main| {
        let gateway = Some("10.9.0.1".parse().unwrap());
        main.settings.network =
            Network::Zone("z".parse().unwrap(), Link { address: None, gateway });
        main.settings.files.insert("/etc/x".parse().unwrap(), template("\n{{ nothing }}"));
        main.overrides =
            vec![over("h1", &[("ip", "10.0.0.1/24")]), over("h2,h3", &[("ip", "ten")])];
        main.templates.env.insert("X".parse().unwrap(), "{{ absent }}".into());
        main.templates.address = Some("{{ ip }}".into());
    });
    let problems = World::new().problems(&spec);
    let wanted = [
        "instance main on host h1: env.X line 1: variable `absent` is not set",
        "instance main on host h1: template of file /etc/x line 2: variable `nothing` is not set",
        "instance main on host h1: gateway 10.9.0.1 is not in the network of address 10.0.0.1/24",
        "instance main on hosts h2, h3: address renders to something else: \"ten\" is not an",
    ];
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
    for (problem, wanted) in problems.iter().zip(wanted) {
        assert!(problem.starts_with(wanted), "{problem}");
    }
}

/// What placing two instances on h1 and h2 says, one of the same fleet and one of another.
fn conflicts(ours: impl Fn(&mut Settings), theirs: impl Fn(&mut Settings)) -> Vec<String> {
    let mut spec = fleet("shop", &[("a", "role=web"), ("b", "h2")]);
    ours(&mut spec.instances.values_mut().next().unwrap().settings);
    theirs(&mut spec.instances.values_mut().next_back().unwrap().settings);
    let mut other = settings();
    theirs(&mut other);
    let mut world = World::new();
    world.other("h1", "mail/x", &other);
    world.problems(&spec)
}

#[test]
fn a_port_of_a_host_has_one_owner() {
    let ports = |text: &'static str| {
        move |s: &mut Settings| s.ports = text.split(' ').map(|p| p.parse().unwrap()).collect()
    };
    assert_eq!(
        conflicts(ports("80 443"), ports("80:8080")),
        [
            "instance a on host h1: port 80/tcp of the host is also that of mail/x; give one of \
             them another port or another host",
            "instance a on host h2: port 80/tcp of the host is also that of shop/b; give one of \
             them another port or another host"
        ]
    );
    assert_eq!(conflicts(ports("53/udp"), ports("53/tcp 8053:53/udp")), [""; 0]);
    let published = |s: &mut Settings| {
        s.network = Network::Veth(Link::default());
        s.ports = vec!["80:8080".parse().unwrap()];
    };
    assert_eq!(conflicts(published, ports("80")).len(), 2, "published and declared alike");
}

fn mounts(list: &'static [(&str, &str)]) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.mounts = list
            .iter()
            .map(|(path, how)| {
                let (writable, shared) = (how.contains("rw"), how.contains("shared"));
                let source = path.parse().unwrap();
                (path.parse().unwrap(), Mount { source, writable, shared })
            })
            .collect();
    }
}

#[test]
fn who_writes_alone_is_alone() {
    let told = conflicts(mounts(&[("/srv/db", "rw")]), mounts(&[("/srv/db", "rw")]));
    assert!(
        told[0].starts_with(
            "instance a on host h1: it mounts /srv/db of the host and mail/x mounts /srv/db, and \
             not both leave it to others: write shared = true"
        ),
        "{told:?}"
    );
    let cases = [
        ("/srv/db", "rw", "/srv/db", "ro", 2),
        ("/srv/db", "ro", "/srv/db", "rw", 2),
        ("/srv/db", "rw", "/srv", "ro", 2),
        ("/srv/db", "rw", "/srv/db/wal", "rw", 2),
        ("/srv/db", "rw shared", "/srv/db", "rw", 2),
        ("/srv/db", "rw shared", "/srv/db", "rw shared", 0),
        ("/srv/db", "rw shared", "/srv/db", "ro", 0),
        ("/srv/db", "ro", "/srv/db", "ro", 0),
        ("/srv/db", "rw", "/srv/db2", "rw", 0),
    ];
    for (ours, how, theirs, their_how, count) in cases {
        let told = conflicts(
            mounts(Box::leak(Box::new([(ours, how)]))),
            mounts(Box::leak(Box::new([(theirs, their_how)]))),
        );
        assert_eq!(told.len(), count, "{ours} {how}, {theirs} {their_how}: {told:?}");
    }
}

#[test]
fn an_address_is_given_once_in_a_network() {
    let bridge = |name: &'static str, address: &'static str| {
        move |s: &mut Settings| {
            let address = Some(address.parse().unwrap());
            let name: InterfaceName = name.parse().unwrap();
            s.network = Network::Bridge(name, Link { address, gateway: None });
        }
    };
    let told = conflicts(bridge("br0", "10.0.0.2/24"), bridge("br0", "10.0.0.2/16"));
    assert_eq!(
        told[0],
        "instance a on host h1: address 10.0.0.2 is also that of mail/x in the same network; give \
         one of them another"
    );
    assert_eq!(conflicts(bridge("br0", "10.0.0.2/24"), bridge("br1", "10.0.0.2/24")), [""; 0]);
    assert_eq!(conflicts(bridge("br0", "10.0.0.2/24"), bridge("br0", "10.0.0.3/24")), [""; 0]);
}

#[test]
fn what_a_host_can_not_do_is_told_before_it_is_touched() {
    let mut world = World::new();
    let facts = HostFacts { memory: 1 << 30, idmapped_squashfs: true, ..HostFacts::default() };
    let roomy = HostFacts { memory: 8 << 30, ..facts.clone() };
    let [one, two, three] = world.hosts.as_mut_slice() else { panic!("three hosts") };
    (one.facts, two.facts, three.facts) = (Some(facts.clone()), Some(facts), Some(roomy));
    world.hosts.push(host("h4", "web"));
    let problems = world.problems(&fleet_with_needs());
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(
        problems[0].starts_with("instance main on hosts h1, h2, h3: /srv of the host may not be"),
        "h4 was never seen: {problems:?}"
    );
    assert!(problems[0].ends_with("`systemctl restart shoal-agent`"), "{problems:?}");
    assert!(
        problems[1].starts_with("instance main on hosts h1, h2: limits.memory is 4G, and the host"),
        "{problems:?}"
    );
}

fn fleet_with_needs() -> FleetSpec {
    one("*", |main| {
        mounts(&[("/srv", "ro")])(&mut main.settings);
        let memory = Some(Memory(4 << 30));
        main.settings.limits = Limits { memory, ..Limits::default() };
    })
}

#[test]
fn many_hosts_are_counted_and_few_named() {
    let hosts = |count: u32| {
        Hosts((1..=count).map(|n| format!("h{n}").parse().unwrap()).collect()).to_string()
    };
    assert_eq!(hosts(1), "host h1");
    assert_eq!(hosts(3), "hosts h1, h2, h3");
    assert_eq!(hosts(100), "hosts h1, h2, h3 and 97 more");
}

#[test]
fn a_template_that_fails_on_a_thousand_hosts_is_tried_once() {
    let slow = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let spec = one("*", |main| {
        for n in 0..20 {
            let path = format!("/etc/{n}").parse().unwrap();
            main.settings.files.insert(path, template(slow));
        }
    });
    let hosts = (0..1000).map(|n| host(&format!("h{n}"), "web")).collect();
    let problems = World { hosts, ..World::default() }.problems(&spec);
    assert_eq!(problems.len(), 20, "{problems:#?}");
}

#[test]
fn a_hosts_address_is_known_from_its_facts() {
    let mut host = host("h1", "web");
    assert_eq!(host.address(), None);
    let address: Option<IpAddr> = Some("192.0.2.1".parse().unwrap());
    host.facts = Some(HostFacts { address, ..HostFacts::default() });
    assert_eq!(host.address(), address);
}

/// What was placed once is judged by what is around it now: not by hosts that are gone, nor by
/// images that have moved.
#[test]
fn what_was_placed_once_may_not_fit_any_more() {
    let mut world = World::new();
    let mut spec = fleet("shop", &[("main", "*")]);
    let declared = spec.instances.values_mut().next().unwrap();
    declared.settings.ports = vec!["80".parse().unwrap()];
    let ports = declared.settings.clone();
    let placed = world.place(&spec).unwrap().hosts;
    let problems = |world: &World| {
        let around = Surroundings {
            hosts: &world.hosts,
            images: &BTreeMap::new(),
            secrets: &world.secrets,
            others: &world.others,
            order: &world.order,
            now: &world.now,
        };
        let problems = misplaced(&spec, &placed, &around);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    world.hosts.pop();
    assert_eq!(problems(&world), [""; 0]);
    world.other("h2", "mail/web", &ports);
    world.other("h3", "mail/web", &ports);
    let found = problems(&world);
    assert_eq!(found.len(), 1, "{found:?}");
    let wanted = "instance main on host h2: port 80/tcp of the host is also that of mail/web;";
    assert!(found[0].starts_with(wanted), "{found:?}");
}
