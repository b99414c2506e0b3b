use surus_core::cluster::{ClusterView, RawKey};

use super::*;

fn reading(keys: &[(&str, &str)]) -> Reading {
    let raws: Vec<RawKey> = keys
        .iter()
        .map(|(key, value)| RawKey { key: (*key).into(), value: (*value).into(), version: 1, lease: None })
        .collect();
    let view = ClusterView::read(1, &raws);
    let settings = surus_core::settings::ClusterSettings {
        pause: keys.iter().any(|(key, _)| *key == "failover"),
        ..Default::default()
    };
    Reading { document: surus_api::cluster_document("batman", &view, &settings), view, settings }
}

const REFERENCE: [(&str, &str); 6] = [
    ("initialize", "7277694203142172922"),
    ("leader", "pg0"),
    ("status", r#"{"optime":67108864}"#),
    (
        "members/pg0",
        r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","role":"primary","timeline":3}"#,
    ),
    (
        "members/pg1",
        r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"replica","receive_lsn":67108864,"replay_lsn":64108864,"replication_state":"streaming","timeline":3}"#,
    ),
    (
        "members/pg2",
        r#"{"conn_url":"postgres://127.0.0.1:5434/postgres","api_url":"http://127.0.0.1:8010/patroni","state":"stopped","role":"replica"}"#,
    ),
];

fn table(reading: &Reading, layout: Layout, progresses: &Progresses) -> String {
    let rows = rows("batman", None, reading, layout, progresses, Format::Pretty);
    pretty(&title("batman", None, reading), false, layout, &rows) + &footer(reading)
}

#[test]
fn the_reference_rendering() {
    let expected = "\
+ Cluster: batman (7277694203142172922) --------+----+-------------+-----+------------+-----+
| Member | Host           | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+----------------+---------+-----------+----+-------------+-----+------------+-----+
| pg0    | 127.0.0.1:5432 | Leader  | running   |  3 |             |     |            |     |
| pg1    | 127.0.0.1:5433 | Replica | streaming |  3 |   0/4000000 |   0 |  0/3D23940 |   3 |
| pg2    | 127.0.0.1:5434 | Replica | stopped   |    |     unknown |     |    unknown |     |
+--------+----------------+---------+-----------+----+-------------+-----+------------+-----+
";
    assert_eq!(table(&reading(&REFERENCE), Layout::default(), &Progresses::new()), expected);
}

#[test]
fn a_copy_in_progress_and_a_footer() {
    let mut keys = REFERENCE.to_vec();
    keys[5].1 = r#"{"conn_url":"postgres://127.0.0.1:5434/postgres","state":"creating replica","role":"replica"}"#;
    keys.push(("failover", r#"{"leader":"pg0","member":"pg1","scheduled_at":"2030-01-01T12:00:00+00:00"}"#));
    let progress = Progress {
        what: "copying from pg0".into(),
        done_bytes: 1_288_490_189,
        total_bytes: Some(2_899_102_925),
        eta_seconds: Some(72),
    };
    let progresses = Progresses::from([("pg2".into(), progress)]);
    let text = table(&reading(&keys), Layout::default(), &progresses);
    let row = "| pg2    | 127.0.0.1:5434 | Replica | creating replica 44% (1.2 GB of 2.7 GB, 1 min 12 s left) |";
    assert!(text.contains(row), "{text}");
    let footer = " Maintenance mode: on\n Switchover scheduled at: 2030-01-01T12:00:00+00:00\n                    from: pg0\n                      to: pg1\n";
    assert!(text.ends_with(footer), "{text}");
}

#[test]
fn what_to_do_when_everybody_waits_for_one_that_was_left_alone() {
    let mut keys = REFERENCE.to_vec();
    keys.push(("unguarded", "pg0"));
    let told = "because pg0 was left alone in a pause";
    assert!(!table(&reading(&keys), Layout::default(), &Progresses::new()).contains(told), "it leads");
    keys.retain(|(key, _)| *key != "leader");
    let text = table(&reading(&keys), Layout::default(), &Progresses::new());
    assert!(text.contains(told) && text.contains("surus failover --candidate NAME"), "{text}");
}

#[test]
fn a_member_that_forked_is_told_with_the_way_out() {
    let mut keys = REFERENCE.to_vec();
    let forked = r#"{"state":"running","role":"replica","forked":"its history forked from that of pg0: why"}"#;
    keys.push(("members/pg9", forked));
    let text = table(&reading(&keys), Layout::default(), &Progresses::new());
    assert!(text.contains(" pg9 is not to lead, its history forked from that of pg0: why\n"), "{text}");
    assert!(text.contains("surus reinit ") && text.contains(" pg9)\n"), "{text}");
}

#[test]
fn what_is_wrong_with_a_member_has_a_column() {
    let mut keys = REFERENCE.to_vec();
    keys[4].1 = r#"{"state":"running","role":"replica","disk":"low: less than 400 of 4000 MB free (disk_guard.warn)"}"#;
    let text = table(&reading(&keys), Layout::default(), &Progresses::new());
    assert!(
        text.contains("| Disk ") && text.contains("| low: less than 400 of 4000 MB free (disk_guard.warn) |"),
        "{text}"
    );
    assert!(
        !table(&reading(&REFERENCE), Layout { extended: true, topology: false }, &Progresses::new()).contains("Disk")
    );
}

#[test]
fn tags_and_restarts_have_columns_when_there_are_any() {
    let pg1 = r#"{"conn_url":"postgres://h1/postgres","state":"running","role":"replica","replication_state":"streaming","xlog_location":67108864,"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"},"shared_preload_libraries":{"old_value":"","new_value":"a_very_long_library_name_that_does_not_fit"}},"tags":{"nosync":true,"clonefrom":true},"scheduled_restart":{"schedule":"2030-01-01T00:00:00+00:00","postgres_version":"15.9"}}"#;
    let keys = [
        ("leader", "pg0"),
        ("members/pg0", r#"{"conn_url":"postgres://h0/postgres","state":"running","role":"primary","timeline":1}"#),
        ("members/pg1", pg1),
    ];
    let expected = "\
+ Cluster: batman (uninitialized) +----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+-------------------------------------------+-----------------+
| Member | Host | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Pending restart | Pending restart reason                        | Scheduled restart                         | Tags            |
+--------+------+---------+-----------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+-------------------------------------------+-----------------+
| pg0    | h0   | Leader  | running   |  1 |             |     |            |     |                 |                                               |                                           |                 |
+--------+------+---------+-----------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+-------------------------------------------+-----------------+
| pg1    | h1   | Replica | streaming |    |   0/4000000 |   0 |    unknown |     | *               | max_connections: 100->200                     | 2030-01-01T00:00:00+00:00 if version < 15.9 | clonefrom: true |
|        |      |         |           |    |             |     |            |     |                 | shared_preload_libraries: [hidden - too long] |                                           | nosync: true    |
+--------+------+---------+-----------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+-------------------------------------------+-----------------+
";
    let text = table(&reading(&keys), Layout::default(), &Progresses::new());
    let squeeze = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ").replace('-', "");
    assert_eq!(squeeze(&text), squeeze(expected), "{text}");
    let widths: Vec<usize> = text.lines().map(str::len).collect();
    assert!(widths.iter().all(|w| *w == widths[0]), "{text}");
}

#[test]
fn for_programs() {
    let reading = reading(&REFERENCE);
    let rows = rows("batman", None, &reading, Layout::default(), &Progresses::new(), Format::Json);
    let objects: Vec<Value> = rows.iter().map(|r| r.object(&Progresses::new())).collect();
    let texts: Vec<String> = objects.iter().map(|o| surus_api::to_python_json(o).unwrap()).collect();
    assert_eq!(
        texts,
        [
            r#"{"Cluster": "batman", "Member": "pg0", "Host": "127.0.0.1:5432", "Role": "Leader", "State": "running", "TL": 3}"#,
            r#"{"Cluster": "batman", "Member": "pg1", "Host": "127.0.0.1:5433", "Role": "Replica", "State": "streaming", "TL": 3, "Receive LSN": "0/4000000", "Receive Lag": 0, "Replay LSN": "0/3D23940", "Replay Lag": 3}"#,
            r#"{"Cluster": "batman", "Member": "pg2", "Host": "127.0.0.1:5434", "Role": "Replica", "State": "stopped", "Receive LSN": "unknown", "Replay LSN": "unknown"}"#,
        ]
    );
    assert_eq!(
        header(&rows, false, Layout { extended: true, topology: false }),
        [
            "Cluster",
            "Member",
            "Host",
            "Role",
            "State",
            "TL",
            "Receive LSN",
            "Receive Lag",
            "Replay LSN",
            "Replay Lag",
            "Pending restart",
            "Pending restart reason",
            "Scheduled restart",
            "Tags"
        ]
    );
}

#[test]
fn trees() {
    let names = |keys: &[(&str, &str)]| {
        let reading = reading(keys);
        tree(&reading.document.members).into_iter().map(|branch| branch.shown).collect::<Vec<_>>()
    };
    let from = |name: &'static str| format!(r#"{{"tags":{{"replicatefrom":"{name}"}}}}"#);
    let (via_b, via_c, via_d, ghost) = (from("b"), from("c"), from("d"), from("ghost"));
    let mut keys = vec![
        ("members/a", "{}"),
        ("members/b", "{}"),
        ("members/c", via_b.as_str()),
        ("members/d", via_c.as_str()),
        ("members/e", ghost.as_str()),
    ];
    assert_eq!(names(&keys), ["+ a", "+ b", "  + c", "    + d", "+ e"]);
    keys.push(("leader", "b"));
    assert_eq!(names(&keys), ["b", "+ a", "+ c", "  + d", "+ e"]);
    keys[2].1 = via_d.as_str();
    assert_eq!(names(&keys), ["b", "+ a", "+ e"], "c and d replicate from each other");
}

#[test]
fn words_for_amounts() {
    assert_eq!([megabytes(0), megabytes(524_288), megabytes(524_289), megabytes(1_572_864)], [0, 0, 1, 2]);
    for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (20 << 20, "20 MB"), (5 << 40, "5.0 TB")] {
        assert_eq!(size(bytes), text);
    }
    for (seconds, text) in [(5, "5 s"), (65, "1 min 5 s"), (7260, "2 h 1 min")] {
        assert_eq!(duration(seconds), text);
    }
    assert_eq!(describe(&Progress { done_bytes: 10, ..Default::default() }), "10 B");
}
