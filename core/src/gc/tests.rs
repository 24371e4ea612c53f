use proptest::prelude::*;

use super::*;

const DAY: u64 = 86_400_000;
const NOW: Timestamp = Timestamp(100 * DAY);
const MIB: u64 = 1 << 20;

/// A whole image of 100 MiB that was needed so many days ago.
fn image(number: u8, name: &str, days: u64) -> File {
    File {
        digest: [number; 32].into(),
        kind: Kind::Whole,
        size: 100 * MIB,
        name: Some(name.parse().unwrap()),
        needed: Timestamp(NOW.0 - days * DAY),
        held: false,
    }
}

fn held(file: File) -> File {
    File { held: true, ..file }
}

/// Free MiB, of which none has to stay, and what transfers lack.
fn room(free: u64, lacking: &[u64]) -> Room {
    Room { free: free * MIB, reserve: 0, lacking: lacking.iter().map(|mib| mib * MIB).collect() }
}

fn going(files: &[File], room: &Room) -> Vec<(u8, bool)> {
    let plan = plan(files, room, &Limits::HOST, NOW);
    plan.iter().map(|r| (r.digest.as_bytes()[0], matches!(r.reason, Reason::Old(_)))).collect()
}

#[test]
fn what_is_old_goes_but_for_the_last_of_each_name() {
    let files = [image(1, "app", 30), image(2, "app", 20), image(3, "app", 6), image(4, "db", 90)];
    assert_eq!(going(&files, &room(1000, &[])), [(1, true), (2, true)]);
    let files = [image(1, "app", 30), image(2, "app", 20), held(image(3, "app", 90))];
    assert_eq!(going(&files, &room(1000, &[])), [(1, true)], "what is held is no reserve");
    let nameless = File { name: None, ..image(1, "app", 7) };
    assert_eq!(going(&[nameless], &room(1000, &[])), [(1, true)]);
}

#[test]
fn where_room_is_short_the_oldest_goes_first_and_no_more_than_has_to() {
    let files = [image(1, "app", 3), image(2, "app", 2), image(3, "db", 1), image(4, "db", 5)];
    assert_eq!(going(&files, &room(0, &[])), []);
    assert_eq!(going(&files, &room(0, &[100])), [(4, false)]);
    assert_eq!(going(&files, &room(0, &[101])), [(4, false), (1, false)]);
    assert_eq!(going(&files, &room(60, &[100, 50])), [(4, false)]);
    let all = [(4, false), (1, false), (2, false), (3, false)];
    assert_eq!(going(&files, &room(0, &[400])), all);
    assert_eq!(going(&files, &room(0, &[401])), [], "it would not fit if all went");
    assert_eq!(going(&files, &room(0, &[401, 90])), [(4, false)], "another one does");
    let files = files.map(held);
    assert_eq!(going(&files, &room(0, &[100])), []);
}

#[test]
fn what_is_to_stay_free_is_made_free_also_where_nothing_is_to_come() {
    let files = [image(1, "app", 3), image(2, "app", 2)];
    let short = Room { free: 10 * MIB, reserve: 64 * MIB, lacking: vec![] };
    assert_eq!(going(&files, &short), [(1, false)]);
    let never = Room { reserve: 1000 * MIB, ..short };
    assert_eq!(going(&files, &never), [(1, false), (2, false)]);
}

#[test]
fn a_broken_off_transfer_is_kept_for_a_day() {
    let partial = |days| File { kind: Kind::Partial, ..image(1, "app", days) };
    assert_eq!(going(&[partial(0)], &room(1000, &[])), []);
    assert_eq!(going(&[partial(1)], &room(1000, &[])), [(1, true)]);
    assert_eq!(going(&[held(partial(1))], &room(1000, &[])), []);
    let files = [image(1, "app", 0), partial(0)];
    let plan = plan(&files, &room(0, &[100]), &Limits::HOST, NOW);
    assert_eq!(plan.iter().map(|r| r.kind).collect::<Vec<_>>(), [Kind::Partial]);
}

#[test]
fn a_clock_that_was_set_back_removes_nothing_early() {
    let future = File { needed: Timestamp(NOW.0 + 50 * DAY), ..image(1, "app", 0) };
    let files = [future, image(2, "app", 8), image(3, "app", 1)];
    assert_eq!(going(&files, &room(1000, &[])), [(2, true)]);
}

#[test]
fn a_reason_reads_well() {
    let (hour, week) = (Duration::from_secs(3600), Duration::from_secs(8 * 86_400));
    assert_eq!(Reason::Old(week).to_string(), "nothing has needed it for 8 days");
    let text = "its room is needed, and nothing has needed it for 1 hour";
    assert_eq!(Reason::Room(hour).to_string(), text);
}

#[test]
fn a_stock_says_what_a_transfer_lacks() {
    let stored = |size| Stored { size, ..Stored::default() };
    let (one, two): (Digest, Digest) = ([1; 32].into(), [2; 32].into());
    let stock = Stock {
        whole: [(one, stored(7))].into(),
        partial: [(two, stored(30))].into(),
        ..Stock::default()
    };
    assert_eq!((stock.lacking(&one, 7), stock.lacking(&two, 100)), (0, 70));
    assert_eq!((stock.lacking(&[3; 32].into(), 5), stock.bytes()), (5, 7));
    let files = stock.files(&BTreeSet::new(), |_| false);
    assert_eq!(files.len(), 1, "one that is not verified is left alone");
    assert_eq!(stock.files(&[one].into(), |digest| *digest == one).len(), 2);
}

fn any_file() -> impl Strategy<Value = (u64, bool, u64, u8, bool)> {
    (0..20_u64, any::<bool>(), 0..150_u64, 0..3_u8, any::<bool>())
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    prop::collection::vec(any_file(), 0..12).prop_map(|found| {
        let numbered = found.into_iter().zip(0_u8..);
        numbered
            .map(|((days, partial, size, name, held), number)| File {
                kind: if partial { Kind::Partial } else { Kind::Whole },
                size: size * MIB,
                name: (name > 0).then(|| format!("app{name}").parse().unwrap()),
                held,
                ..image(number, "app", days)
            })
            .collect()
    })
}

fn any_room() -> impl Strategy<Value = Room> {
    let lacking = prop::collection::vec(0..400_u64, 0..3);
    (0..600_u64, 0..200_u64, lacking).prop_map(|(free, reserve, lacking)| Room {
        reserve: reserve * MIB,
        ..room(free, &lacking)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn nothing_held_goes_and_nothing_goes_without_need(files in any_files(), room in any_room()) {
        let plan = plan(&files, &room, &Limits::HOST, NOW);
        let file = |removal: &Removal| {
            files.iter().find(|f| (f.digest, f.kind) == (removal.digest, removal.kind)).unwrap()
        };
        prop_assert!(plan.iter().all(|removal| !file(removal).held));
        for removal in &plan {
            let old = NOW.since(file(removal).needed) >= Limits::HOST.of(removal.kind);
            prop_assert!(old || matches!(removal.reason, Reason::Room(_)), "{removal:?}");
        }
        let freed = |removals: &[Removal]| -> u64 { removals.iter().map(|r| r.size).sum() };
        let enough: u64 = room.reserve + room.lacking.iter().sum::<u64>();
        if room.free >= enough {
            prop_assert!(plan.iter().all(|r| matches!(r.reason, Reason::Old(_))));
        }
        // Without the last one there would not be room.
        if let Some((last, others)) = plan.split_last() && matches!(last.reason, Reason::Room(_)) {
            let most = room.reserve + room.lacking.iter().sum::<u64>();
            prop_assert!(room.free + freed(others) < most);
        }
    }

    #[test]
    fn room_is_made_wherever_it_can_be(files in any_files(), room in any_room()) {
        let plan = plan(&files, &room, &Limits::HOST, NOW);
        let freed: u64 = plan.iter().map(|removal| removal.size).sum();
        let all: u64 = files.iter().filter(|f| !f.held).map(|f| f.size).sum();
        let wanted = room.reserve + room.lacking.iter().sum::<u64>();
        if room.free + all >= wanted {
            prop_assert!(room.free + freed >= wanted);
        }
    }

    #[test]
    fn the_second_plan_is_empty(files in any_files(), room in any_room()) {
        let gone = plan(&files, &room, &Limits::HOST, NOW);
        let freed: u64 = gone.iter().map(|removal| removal.size).sum();
        let mut left = files.clone();
        left.retain(|f| !gone.iter().any(|r| (r.digest, r.kind) == (f.digest, f.kind)));
        let after = Room { free: room.free + freed, ..room };
        prop_assert_eq!(plan(&left, &after, &Limits::HOST, NOW), vec![]);
    }

    #[test]
    fn the_order_is_that_of_the_files_times_and_no_other(
        files in any_files().prop_shuffle(), room in any_room(),
    ) {
        let plan = plan(&files, &room, &Limits::HOST, NOW);
        let mut sorted = files.clone();
        sorted.sort_by_key(|file| file.digest);
        prop_assert_eq!(&plan, &super::plan(&sorted, &room, &Limits::HOST, NOW));
        let time = |r: &Removal| match r.reason { Reason::Old(t) | Reason::Room(t) => t };
        let is_old = |r: &Removal| matches!(r.reason, Reason::Old(_));
        let ordered = |a: &Removal, b: &Removal| {
            (is_old(a) && !is_old(b)) || (is_old(a) == is_old(b) && time(a) >= time(b))
        };
        prop_assert!(plan.windows(2).all(|pair| ordered(&pair[0], &pair[1])));
    }
}
