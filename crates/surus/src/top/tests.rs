use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use surus_core::cluster::{ClusterView, RawKey};
use surus_core::postgres::Progress;
use surus_core::report::Candidate;

use super::action::Action;
use super::model::{Key, Model, Overlay, Response, Seen};
use super::view;
use crate::context::Reading;
use crate::listing::Progresses;

const AT: &str = "11-26 10:00:00";

fn reading(keys: &[(&str, &str)]) -> Box<Reading> {
    let raw =
        |(key, value): &(&str, &str)| RawKey { key: (*key).into(), value: (*value).into(), version: 1, lease: None };
    Box::new(Reading::of("batman", ClusterView::read(1, &keys.iter().map(raw).collect::<Vec<_>>())))
}

const PG0: (&str, &str) =
    ("members/pg0", r#"{"role":"primary","state":"running","timeline":3,"api_url":"http://h/0"}"#);
const PG1: (&str, &str) = (
    "members/pg1",
    r#"{"role":"replica","state":"running","replication_state":"streaming","timeline":3,"api_url":"http://h/1","receive_lsn":67108864,"replay_lsn":64108864}"#,
);
const PG2: (&str, &str) =
    ("members/pg2", r#"{"role":"uninitialized","state":"creating replica","api_url":"http://h/2"}"#);
const COMMON: [(&str, &str); 4] = [
    ("initialize", "7277694203142172922"),
    ("status", r#"{"optime":67108864}"#),
    ("config", r#"{"ttl":30}"#),
    (
        "history",
        r#"[[1,25623960,"no recovery target specified","2026-07-01T10:00:00+00:00","pg1"],[2,35623960,"no recovery target specified","2026-07-02T10:00:00+00:00","pg0"]]"#,
    ),
];

fn healthy() -> Box<Reading> {
    reading(&[&COMMON[..], &[("leader", "pg0"), PG0, PG1, PG2]].concat())
}

fn candidates() -> Vec<Candidate> {
    vec![
        Candidate { name: "pg1".into(), fit: true, why: "reachable, at 0/4000000".into() },
        Candidate { name: "pg2".into(), fit: false, why: "not reachable (connection refused)".into() },
    ]
}

fn progresses() -> Progresses {
    let what = "copying from pg0".to_owned();
    let progress = Progress { what, done_bytes: 1 << 30, total_bytes: Some(4 << 30), eta_seconds: Some(9) };
    Progresses::from([("pg2".into(), progress)])
}

fn model() -> Model {
    let mut model = Model::new("batman", TimeZone::UTC);
    model.saw(AT, Seen::Cluster(healthy(), progresses()));
    model
}

/// The screen as text, without blanks at the ends of lines.
fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model, "2026-11-26 10:00:00")).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..height).map(line).collect()
}

#[test]
fn a_cluster_on_the_smallest_screen() {
    let mut model = model();
    model.saw(AT, Seen::Candidates(candidates()));
    for _ in 0..3 {
        model.saw(AT, Seen::Cluster(healthy(), progresses()));
    }
    assert_eq!(screen(&model, 80, 24), include_str!("healthy.txt"));
}

#[test]
fn nothing_is_known_yet() {
    let text = screen(&Model::new("batman", TimeZone::UTC), 80, 24);
    assert!(text.starts_with(" 2026-11-26 10:00:00  reading cluster batman ...\n"), "{text}");
    assert!(text.contains("asking the members ..."), "{text}");
}

#[test]
fn any_size_can_be_drawn() {
    let mut model = model();
    model.saw(AT, Seen::Candidates(candidates()));
    for overlay in [None, Some(Overlay::Help), Some(Overlay::Confirm(Action::Pause(true)))] {
        model.overlay = overlay;
        for width in [1, 2, 10, 40, 80, 300] {
            for height in [1, 2, 5, 12, 24, 100] {
                screen(&model, width, height);
            }
        }
    }
}

#[test]
fn many_members_scroll_with_the_selection() {
    let names: Vec<String> = (10..50).map(|n| format!("members/pg{n}")).collect();
    let mut keys: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), PG1.1)).collect();
    keys.push(("leader", "pg10"));
    let mut model = Model::new("batman", TimeZone::UTC);
    model.saw(AT, Seen::Cluster(reading(&keys), Progresses::new()));
    for _ in 0..60 {
        model.key(AT, Key::Down);
    }
    let text = screen(&model, 80, 24);
    assert!(text.contains("pg49") && !text.contains("+ pg11 "), "{text}");
    assert!(text.contains("q quit"), "{text}");
}

#[test]
fn what_happens_is_told_once() {
    let mut model = model();
    let past: Vec<_> = model.events.iter().map(|e| format!("{} {}", e.at, e.text)).collect();
    assert_eq!(past, ["07-01 10:00:00 pg1 took over from timeline 1", "07-02 10:00:00 pg0 took over from timeline 2"]);
    model.events.clear();
    let dead = ("members/pg0", r#"{"role":"demoted","state":"stopped","api_url":"http://h/0"}"#);
    let new = ("members/pg1", r#"{"role":"primary","state":"running","timeline":4,"pending_restart":true}"#);
    let paused = ("config", r#"{"pause":true}"#);
    for keys in [vec![dead, PG1, PG2], vec![("leader", "pg1"), dead, new, PG2], vec![("leader", "pg1"), paused, new]] {
        for _ in 0..2 {
            model.saw(AT, Seen::Cluster(reading(&keys), Progresses::new()));
        }
    }
    for _ in 0..2 {
        model.saw(AT, Seen::NoStore("connection refused".into()));
    }
    assert!(screen(&model, 80, 24).contains("not read, what follows is older: connection refused"));
    model.saw(AT, Seen::Cluster(reading(&[("leader", "pg1"), paused, new]), Progresses::new()));
    let told: Vec<_> = model.events.iter().map(|e| e.text.as_str()).collect();
    assert_eq!(
        told,
        [
            "pg0 gave the lead up: nobody leads",
            "pg0: demoted, stopped",
            "pg1 has taken the lead",
            "pg1: primary, running",
            "pg1: on timeline 4",
            "pg1: waits for a restart",
            "the cluster is paused",
            "pg0 is gone: its agent does not renew its key",
            "pg2 is gone: its agent does not renew its key",
            "the store cannot be read: connection refused",
            "the store answers again",
        ]
    );
    let text = screen(&model, 80, 24);
    assert!(text.contains("Maintenance mode: on") && text.contains("running *restart"), "{text}");
}

#[test]
fn who_could_take_over_and_what_would_be_lost() {
    let verdict = |keys: &[(&str, &str)], candidates: Vec<Candidate>| {
        let mut model = Model::new("batman", TimeZone::UTC);
        model.saw(AT, Seen::Cluster(reading(keys), Progresses::new()));
        model.saw(AT, Seen::Candidates(candidates));
        let verdict = super::readiness::of(&model);
        (verdict.ready, [vec![verdict.text], verdict.why].concat().join("\n"))
    };
    let behind = ("members/pg1", r#"{"state":"running","receive_lsn":64108864,"replay_lsn":64108864}"#);
    let status = COMMON[1];
    let sync = ("sync", r#"{"leader":"pg0","sync_standby":"pg1"}"#);
    let synchronous = ("config", r#"{"synchronous_mode":true}"#);
    let fit = || vec![candidates().remove(0)];
    for (keys, candidates, ready, text) in [
        (vec![status, PG0, PG1], fit(), true, "lost: nothing, as far as is known"),
        (vec![status, PG0, behind], fit(), true, "lost: about the last 2.9 MB"),
        (vec![status, PG0, behind, sync, synchronous], fit(), true, "lost: nothing that was acknowledged"),
        // The key of a mode that is over promises nothing.
        (vec![status, PG0, behind, sync], fit(), true, "lost: about the last 2.9 MB"),
        (vec![status, PG0, PG1, ("config", r#"{"pause":true}"#)], fit(), false, "the cluster is paused"),
        (vec![status, PG0, PG1], vec![], false, "nobody could take over"),
        (
            vec![
                status,
                PG0,
                PG1,
                ("config", r#"{"synchronous_mode":"quorum"}"#),
                ("sync", r#"{"leader":"pg0","sync_standby":"pg1,pg2","quorum":1}"#),
            ],
            fit(),
            false,
            "too few members could vouch",
        ),
    ] {
        let (is, says) = verdict(&[&[("leader", "pg0")][..], &keys].concat(), candidates);
        assert_eq!(is, Some(ready), "{says}");
        assert!(says.contains(text), "{text:?} is not in {says:?}");
    }
    let many = (1..9).map(|n| Candidate { name: format!("pg{n}").as_str().into(), fit: false, why: "no".into() });
    assert_eq!(verdict(&[("leader", "pg0"), PG0], many.collect()).1.lines().count(), 4);
}

#[test]
fn keys_ask_before_they_act() {
    let mut model = model();
    assert_eq!(model.selected.as_ref().unwrap().as_str(), "pg1", "a replica is selected at first");
    for (key, action) in [
        ('s', Action::Switchover { leader: "pg0".into(), candidate: "pg1".into() }),
        ('l', Action::Reload("pg1".into())),
        ('p', Action::Pause(true)),
        ('i', Action::Reinit("pg1".into())),
    ] {
        assert_eq!(model.key(AT, Key::Char(key)), Response::Nothing);
        assert_eq!(model.overlay, Some(Overlay::Confirm(action.clone())));
        assert!(screen(&model, 80, 24).contains("y  do it"));
        assert_eq!(model.key(AT, Key::Char('n')), Response::Nothing);
        assert_eq!(model.overlay, None);
        assert_eq!(model.events.back().unwrap().text, format!("left alone: {}", action.short()));
        model.key(AT, Key::Char(key));
        assert_eq!(model.key(AT, Key::Char('y')), Response::Do(action));
        assert_eq!(model.overlay, None);
    }
    // On the leader, and where nothing waits, there is nothing to do.
    model.key(AT, Key::Up);
    for (key, why) in [('s', "pg0 leads already"), ('i', "pg0 leads: its data"), ('r', "no member waits for a restart")]
    {
        assert_eq!(model.key(AT, Key::Char(key)), Response::Nothing);
        assert_eq!(model.overlay, None);
        assert!(model.events.back().unwrap().text.starts_with(why));
    }
    for _ in 0..5 {
        model.key(AT, Key::Down);
    }
    assert_eq!(model.selected.as_ref().unwrap().as_str(), "pg2");
    model.key(AT, Key::Char('?'));
    assert!(screen(&model, 80, 24).contains("hand the lead over to the selected member"));
    assert_eq!(model.key(AT, Key::Char('q')), Response::Nothing, "any key closes the help");
    assert_eq!(model.key(AT, Key::Char('q')), Response::Quit);
    model.overlay = Some(Overlay::Help);
    assert_eq!(model.key(AT, Key::Interrupt), Response::Quit);
}
