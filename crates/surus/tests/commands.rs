//! Operator commands against a real etcd and members that are played: what they print, ask, send and exit with.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test like the test itself")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use surus_testbed::{Etcd, Port};

const CONFIG: &str = r#"{"ttl":30,"loop_wait":1,"postgresql":{"parameters":{"max_connections":100}}}"#;

/// `METHOD /path` to status and body; anything else is answered with 404.
type Answers = BTreeMap<&'static str, (u16, &'static str)>;

/// A member's REST API, for as long as the test runs.
struct Member {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Member {
    fn play(answers: Answers) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &answers, &seen);
            }
        });
        Member { port, requests }
    }

    /// Requests so far, `METHOD /path body`.
    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answers: &Answers, seen: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
        if body.len() < length {
            continue;
        }
        let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
        seen.lock().unwrap().push(format!("{line} {body}").trim_end().to_owned());
        let (code, answer) = answers.get(line).copied().unwrap_or((404, ""));
        let _ = write!(stream, "HTTP/1.0 {code} x\r\n\r\n{answer}");
        return;
    }
}

/// The cluster `batman` in an etcd of its own: pg0 leads, pg1 streams, pg2 copies data.
struct Stage {
    dir: tempfile::TempDir,
    etcd: Etcd,
    members: Vec<Member>,
}

impl Stage {
    async fn set(answers: [Answers; 3]) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(&dir.path().join("etcd")).await.unwrap();
        let members: Vec<Member> = answers.into_iter().map(Member::play).collect();
        let stage = Stage { dir, etcd, members };
        stage.put("initialize", "7277694203142172922").await;
        stage.put("config", CONFIG).await;
        stage.put("leader", "pg0").await;
        stage.put("status", r#"{"optime":67108864}"#).await;
        stage
            .put("history", r#"[[1,25623960,"no recovery target specified","2026-07-01T10:00:00+00:00","pg0"]]"#)
            .await;
        stage.member(0, r#""state":"running","role":"primary","timeline":3"#).await;
        stage
            .member(
                1,
                r#""state":"running","role":"replica","receive_lsn":67108864,"replay_lsn":64108864,"replication_state":"streaming","timeline":3"#,
            )
            .await;
        stage.member(2, r#""state":"creating replica","role":"uninitialized""#).await;
        stage
    }

    async fn put(&self, key: &str, value: &str) {
        self.etcd.put(&format!("/service/batman/{key}"), value.as_bytes()).await.unwrap();
    }

    async fn get(&self, key: &str) -> String {
        let value = self.etcd.get(&format!("/service/batman/{key}")).await.unwrap();
        String::from_utf8(value.unwrap_or_default()).unwrap()
    }

    async fn member(&self, n: usize, rest: &str) {
        let api = self.members[n].port;
        let text = format!(
            r#"{{"conn_url":"postgres://127.0.0.1:{}/postgres","api_url":"http://127.0.0.1:{api}/patroni",{rest}}}"#,
            5432 + n
        );
        self.put(&format!("members/pg{n}"), &text).await;
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = surus(args);
        command
            .env("PATRONI_SCOPE", "batman")
            .env("PATRONI_ETCD3_HOST", format!("127.0.0.1:{}", self.etcd.port()))
            .env("XDG_CONFIG_HOME", self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.answer(args, "")
    }

    fn answer(&self, args: &[&str], input: &str) -> Ended {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ended::of(child.wait_with_output().unwrap())
    }
}

fn surus(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_surus"));
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TZ", "UTC");
    command
}

#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Ended {
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn expect(self, code: i32, parts: &[&str]) -> Ended {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "{all}");
        for part in parts {
            assert!(all.contains(part), "no \"{part}\" in:\n{all}");
        }
        self
    }
}

const COPYING: (u16, &str) = (
    200,
    r#"{"state":"creating replica","role":"uninitialized","progress":{"what":"copying from pg0","done_bytes":1073741824,"total_bytes":4294967296,"eta_seconds":9}}"#,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown() {
    let explain = r#"{"member":"pg0","rule":7,"goal":"no action","why":"it leads","candidates":[{"name":"pg1","fit":true,"why":"streams"}]}"#;
    let status = r#"{"state":"running","role":"primary","server_version":150020,"patroni":{"version":"4.1.4"}}"#;
    let stage = Stage::set([
        Answers::from([("GET /explain", (200, explain)), ("GET /patroni", (200, status))]),
        Answers::new(),
        Answers::from([("GET /patroni", COPYING)]),
    ])
    .await;

    let listed = stage.run(&["list"]).expect(0, &["creating replica 25% (1.0 GB of 4.0 GB, 9 s left)"]);
    assert!(listed.out.starts_with("+ Cluster: batman (7277694203142172922) ---"), "{}", listed.out);
    let json = stage.run(&["list", "batman", "-f", "json"]).expect(0, &[]).out;
    assert!(json.contains(r#""Replay LSN": "0/3D23940", "Replay Lag": 3}"#), "{json}");
    assert!(json.contains(r#""Progress": {"what": "copying from pg0""#), "{json}");
    stage.run(&["topology"]).expect(0, &["| pg0 ", "| + pg1 ", "| + pg2 "]);
    let history = stage.run(&["history", "-f", "tsv"]).expect(0, &[]).out;
    assert_eq!(
        history,
        "TL\tLSN\tReason\tTimestamp\tNew Leader\n1\t25623960\tno recovery target specified\t2026-07-01T10:00:00+00:00\tpg0\n"
    );
    let config = stage.run(&["show-config"]).expect(0, &[]).out;
    assert_eq!(config, "loop_wait: 1\npostgresql:\n  parameters:\n    max_connections: 100\nttl: 30\n\n");
    assert_eq!(stage.run(&["dsn"]).expect(0, &[]).out, "host=127.0.0.1 port=5432\n");
    assert_eq!(stage.run(&["dsn", "-r", "replica"]).expect(0, &[]).out, "host=127.0.0.1 port=5433\n");
    stage.run(&["version", "batman"]).expect(0, &["surus version ", "pg0: Patroni 4.1.4 PostgreSQL 15.20", "pg1: "]);
    stage.run(&["explain"]).expect(
        0,
        &[
            "batman: pg0 leads.\n  no action\n  because it leads\n  (rule 7)",
            "weighed: yes pg1: streams",
            "Who could take over:\n  no  pg1: not reachable",
            "pg1: does not explain itself",
        ],
    );
    stage.run(&["list", "nowhere"]).expect(0, &["+ Cluster: nowhere (uninitialized) "]);
    stage
        .run(&["-d", &format!("etcd3://127.0.0.1:{}/other", stage.etcd.port()), "list"])
        .expect(0, &["(uninitialized)"]);

    stage.put("members/pg1", "{ spoilt").await;
    stage.run(&["list"]).expect(0, &["Warning: the key members/pg1 of cluster batman is not JSON"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_early_is_no_failure() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    let mut child = stage.command(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_edited() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    let pg = ["edit-config", "-p", "superuser_reserved_connections=6", "--force", "batman"];
    stage.run(&pg).expect(0, &["+    superuser_reserved_connections: 6", "Configuration changed"]);
    let set = ["edit-config", "batman", "-s", "ttl=20", "-s", "postgresql.parameters.max_connections=null", "--force"];
    stage.run(&set).expect(0, &["+ttl: 20", "-ttl: 30"]);
    let stored = r#"{"ttl":20,"loop_wait":1,"postgresql":{"parameters":{"superuser_reserved_connections":6}}}"#;
    assert_eq!(stage.get("config").await, stored);
    stage.run(&["edit-config", "-s", "ttl=20", "--force"]).expect(0, &["Not changed"]);
    stage.answer(&["edit-config", "-s", "ttl=21"], "n\n").expect(0, &["Apply these changes? [y/N]: "]);
    stage.answer(&["edit-config", "-s", "ttl=21"], "").expect(1, &["Aborted!"]);
    stage.answer(&["edit-config", "--apply", "-"], "ttl: 22\n").expect(0, &["Use --force option to apply changes"]);
    assert_eq!(stage.get("config").await, stored, "nothing was applied");
    stage.answer(&["edit-config", "--apply", "-", "--force", "-q"], "ttl: 22\nloop_wait: null\n").expect(0, &[]);
    assert!(stage.get("config").await.starts_with(r#"{"ttl":22,"postgresql""#));
    stage.answer(&["edit-config", "--replace", "-", "--force"], "just text\n").expect(1, &["holds no mapping"]);
    stage
        .run(&["edit-config", "nowhere", "-s", "a=1"])
        .expect(1, &["The config key does not exist in the cluster nowhere"]);
    let editor = stage.dir.path().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i s/22/23/ \"$1\"\n").unwrap();
    let mut edit = stage.command(&["edit-config", "--force"]);
    let ended = Ended::of(edit.env("EDITOR", format!("sh {}", editor.display())).output().unwrap());
    ended.expect(0, &["+ttl: 23"]);
    let ended = Ended::of(stage.command(&["edit-config"]).env("EDITOR", "exit 3 #").output().unwrap());
    ended.expect(1, &["Editor exited with return code 3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_asked() {
    let stage = Stage::set([
        Answers::from([
            ("POST /restart", (200, "restarted successfully")),
            ("POST /reload", (202, "reload scheduled")),
            ("PATCH /config", (200, "{}")),
        ]),
        Answers::from([
            ("POST /restart", (503, "restart failed")),
            ("POST /reload", (202, "reload scheduled")),
            ("POST /reinitialize", (200, "reinitialize started")),
            ("GET /patroni", (200, r#"{"state":"running","role":"replica"}"#)),
        ]),
        Answers::from([("POST /reinitialize", (503, "restart already in progress"))]),
    ])
    .await;
    stage.run(&["restart", "batman", "pg0", "--force"]).expect(0, &["Success: restart on member pg0", "| pg1 "]);
    stage
        .run(&["restart", "batman", "--role", "replica", "--force"])
        .expect(1, &["Failed: restart for member pg1, status code=503, (restart failed)", "member pg2"]);
    let dialog = "now\ny\n15.9\n";
    stage.answer(&["restart", "batman", "pg0"], dialog).expect(
        0,
        &[
            "When should the restart take place (e.g. ",
            ")  [now]: ",
            "Are you sure you want to restart members pg0? [y/N]: ",
            "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)  []: ",
        ],
    );
    assert_eq!(stage.members[0].requests(), ["POST /restart {}", r#"POST /restart {"postgres_version":"15.9"}"#]);
    stage.answer(&["restart", "batman", "pg0"], "now\nn\n").expect(1, &["Error: Aborted restart"]);
    stage.run(&["restart", "batman", "pg9", "--force"]).expect(1, &["No 'any' among provided members"]);
    stage.run(&["restart", "batman", "pg0", "pg9", "--force"]).expect(1, &["no such member in cluster batman: pg9"]);
    stage
        .run(&["reload", "batman", "pg0", "pg1", "--force"])
        .expect(0, &["Reload request received for member pg1 and will be processed within 1 seconds"]);
    stage.run(&["reinit", "batman", "pg0", "--force"]).expect(1, &["No 'replica' among provided members"]);
    stage.run(&["reinit", "batman", "pg1", "--force", "--from-leader", "--wait"]).expect(
        0,
        &[
            "Success: reinitialize for member pg1",
            "Waiting for reinitialize to complete on: pg1",
            "Reinitialize is completed on: pg1",
        ],
    );
    assert!(
        stage.members[1].requests().contains(&r#"POST /reinitialize {"force":true,"from_leader":true}"#.to_owned())
    );
    stage.answer(&["reinit", "batman", "pg2"], "y\nn\n").expect(
        1,
        &["Failed: reinitialize for member pg2", "Do you want to cancel it and reinitialize anyway? [y/N]: "],
    );
    stage.run(&["pause"]).expect(0, &["Success: cluster management is paused"]);
    stage.run(&["resume"]).expect(1, &["Error: Cluster is not paused"]);
    stage.run(&["pause", "--wait"]).expect(1, &["pg0, pg1, pg2 members didn't recognized pause state after 1 seconds"]);
    stage.put("config", r#"{"pause":true,"loop_wait":1}"#).await;
    stage.run(&["resume", "--wait"]).expect(0, &["'resume' request sent", "Success: cluster management is resumed"]);
    stage.run(&["pause"]).expect(1, &["Error: Cluster is already paused"]);
    stage.run(&["list"]).expect(0, &["\n Maintenance mode: on\n"]);
    stage
        .run(&["restart", "batman", "pg0", "--scheduled", "2030-01-01 10:00+00:00", "--force"])
        .expect(1, &["Can't schedule restart in the paused state"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_ends_as_the_name_lets_expect() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    let restart = ["restart", "batman", "pg0", "--force"];
    let refused = "Failed: restart for member pg0, status code=404";
    stage.run(&restart).expect(1, &[refused]);
    let link = stage.dir.path().join("patronictl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_surus"), &link).unwrap();
    let mut command = Command::new(link);
    command.args(restart).env_clear().env("PATRONI_ETCD3_HOST", format!("127.0.0.1:{}", stage.etcd.port()));
    Ended::of(command.output().unwrap()).expect(0, &[refused]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_nobody_answers() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    for (args, code, said) in [
        (vec![], 1, "Error: You need to specify either --command or --file"),
        (vec!["-c", "x", "-f", "x"], 1, "Error: --file and --command are mutually exclusive options"),
        (vec!["-c", "x", "-m", "pg0", "-r", "any"], 1, "Error: --role and --member are mutually exclusive options"),
        (vec!["-f", "/nowhere.sql"], 2, "Invalid value for '--file' / '-f': '/nowhere.sql': No such file"),
        (vec!["-c", "x", "-m", "pg9"], 1, "\tNo connection to member pg9 is available\n"),
        (vec!["-c", "x", "-r", "standby-leader"], 1, "\tNo connection to role 'standby-leader' is available\n"),
        (vec!["nowhere", "-c", "x"], 1, "\tNo connection is available\n"),
        (vec!["nowhere", "-c", "x", "--format", "json"], 1, "\"Error\": \"No connection is available\"}]\n"),
    ] {
        stage.run(&[vec!["query"], args].concat()).expect(code, &[said]);
    }
    // A port that nobody listens on.
    let free = Port::free().unwrap();
    stage.put("members/pg1", &format!(r#"{{"conn_url":"postgres://{}/postgres"}}"#, free.address())).await;
    stage
        .run(&["query", "-c", "select 1", "-m", "pg1"])
        .expect(1, &["\tERROR, SQLSTATE: cannot connect to PostgreSQL at"]);
}

#[test]
fn shells_and_man_take_what_is_made_for_them() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script =
            Ended::of(surus(&["completions", shell]).output().unwrap()).expect(0, &["switchover", "edit-config"]).out;
        let file = dir.path().join(shell);
        std::fs::write(&file, script).unwrap();
        // Shells that are not there cannot be asked; bash always is.
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(e) => assert!(shell != "bash" && e.kind() == std::io::ErrorKind::NotFound, "{shell}: {e}"),
        }
    }
    let complete =
        "source \"$0\"; COMP_WORDS=(surus swi); COMP_CWORD=1; _surus surus swi surus; echo \"${COMPREPLY[*]}\"";
    let output = Command::new("bash").args(["-c", complete]).arg(dir.path().join("bash")).output().unwrap();
    assert_eq!(Ended::of(output).out, "switchover\n");
    Ended::of(surus(&["completions", "tcsh"]).output().unwrap()).expect(2, &["bash, zsh, fish"]);

    let pages = dir.path().join("man/man1");
    Ended::of(surus(&["man", pages.to_str().unwrap()]).output().unwrap()).expect(0, &["man -l"]);
    for page in ["surus.1", "surus-switchover.1", "surus-query.1", "surus-store-add.1"] {
        let page = pages.join(page);
        assert!(page.is_file(), "{}", page.display());
        let Ok(output) = Command::new("man").args(["--warnings", "-l"]).arg(&page).env("MANPAGER", "cat").output()
        else {
            continue;
        };
        let ended = Ended::of(output).expect(0, &["SYNOPSIS", "OPTIONS"]);
        assert_eq!(ended.err, "", "{}", page.display());
    }
    let text = std::fs::read_to_string(pages.join("surus.1")).unwrap();
    assert!(text.contains("Exit status"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over() {
    let leader = Answers::from([
        ("POST /switchover", (200, r#"Successfully switched over to "pg1""#)),
        ("POST /failover", (412, "failover is not possible: no good candidates have been found")),
        ("DELETE /switchover", (200, "scheduled switchover deleted")),
    ]);
    let stage = Stage::set([leader, Answers::new(), Answers::new()]).await;
    stage
        .run(&["switchover", "batman", "--primary", "pg0", "--force"])
        .expect(0, &["Current cluster topology", "Successfully switched over to \"pg1\""]);
    let schedule = ["switchover", "--candidate", "pg1", "--scheduled", "2030-07-24 10:00:05.123456+00:00", "--force"];
    stage.run(&schedule).expect(0, &[]);
    assert_eq!(
        stage.members[0].requests(),
        [
            r#"POST /switchover {"leader":"pg0","candidate":null}"#,
            r#"POST /switchover {"leader":"pg0","candidate":"pg1","scheduled_at":"2030-07-24T10:00:05.123456+00:00"}"#
        ]
    );
    stage.answer(&["switchover"], "\npg2\n\ny\n").expect(
        0,
        &[
            "Primary [pg0]: ",
            "Candidate ['pg1', 'pg2'] []: ",
            "When should the switchover take place (e.g. ",
            "Are you sure you want to switchover cluster batman, demoting current leader pg0? [y/N]: ",
        ],
    );
    stage
        .run(&["failover", "--candidate", "pg1", "--force"])
        .expect(1, &["Failover failed, details: 412, failover is not"]);
    stage.run(&["failover", "--force"]).expect(1, &["Failover could be performed only to a specific candidate"]);
    stage
        .run(&["switchover", "--leader", "pg1", "--force"])
        .expect(1, &["Member pg1 is not the leader of cluster batman"]);
    stage
        .run(&["switchover", "--candidate", "pg0", "--force"])
        .expect(1, &["Member pg0 is already the leader of cluster batman"]);
    stage
        .run(&["switchover", "--scheduled", "soon", "--force"])
        .expect(1, &["Unable to parse scheduled timestamp (soon)"]);
    stage.run(&["flush", "batman", "switchover"]).expect(0, &["No pending scheduled switchover"]);
    stage.put("failover", r#"{"leader":"pg0","scheduled_at":"2030-01-01T12:00:00+00:00"}"#).await;
    stage
        .run(&["list"])
        .expect(0, &[" Switchover scheduled at: 2030-01-01T12:00:00+00:00\n                    from: pg0\n"]);
    stage.run(&["flush", "batman", "switchover"]).expect(0, &["Success: scheduled switchover deleted"]);
    stage.run(&["flush", "batman", "pg1", "restart", "--force"]).expect(0, &["No scheduled restart for member pg1"]);
    stage.run(&["flush", "batman", "x"]).expect(2, &["neither 'restart' nor 'switchover'"]);

    stage.put("members/pg0", r#"{"api_url":"http://127.0.0.1:1/patroni","role":"primary","state":"running"}"#).await;
    stage
        .run(&["switchover", "--candidate", "pg1", "--force"])
        .expect(0, &["Could not switchover using Patroni api, falling back to DCS"]);
    assert_eq!(stage.get("failover").await, r#"{"leader":"pg0","member":"pg1"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_hand_over_to() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    stage.put("members/pg1", r#"{"tags":{"nofailover":true}}"#).await;
    stage.put("members/pg2", r#"{"tags":{"failover_priority":0}}"#).await;
    stage.run(&["switchover", "--force"]).expect(1, &["Error: No candidates found to switchover to"]);
    stage.run(&["failover", "--candidate", "pg1", "--force"]).expect(1, &["Error: No candidates found to failover to"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_holds_is_written_to_a_file_and_back() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    stage.put("sync", r#"{"leader":"pg0","sync_standby":"pg1"}"#).await;
    let path = stage.dir.path().join("batman.json");
    let file = path.to_str().unwrap();
    stage.run(&["store", "snapshot", file]).expect(0, &["9 keys of cluster batman at revision ", file]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let document: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((&document["format"], &document["version"]), (&"surus store snapshot".into(), &1.into()));
    assert_eq!((&document["prefix"], &document["cluster"]), (&"/service/batman/".into(), &"batman".into()));
    let config = document["keys"].as_array().unwrap().iter().find(|k| k["key"] == "config").unwrap();
    assert_eq!(config["value"], CONFIG);
    stage.run(&["store", "snapshot", file]).expect(1, &["is there already", "--force"]);
    stage.run(&["store", "snapshot", file, "--force"]).expect(0, &[]);
    stage.run(&["store", "snapshot", "/nowhere/x.json"]).expect(1, &["/nowhere/x.json cannot be written"]);

    // Not below a leader, not over anything, and nothing that was true at its moment only.
    stage.run(&["store", "restore", file, "--force"]).expect(1, &["pg0 leads this cluster", "surus pause"]);
    assert_eq!(stage.get("config").await, CONFIG);
    let other = format!("etcd3://127.0.0.1:{}/other", stage.etcd.port());
    stage.run(&["-d", &other, "store", "restore", file]).expect(
        0,
        &[
            "config: written",
            "history: written",
            "sync: left out",
            "leader: left out",
            "members/pg1: left out",
            "Restored",
        ],
    );
    let restored = stage.etcd.get("/other/batman/config").await.unwrap().unwrap();
    assert_eq!(restored, CONFIG.as_bytes());
    for absent in ["leader", "sync", "status", "members/pg0"] {
        assert!(stage.etcd.get(&format!("/other/batman/{absent}")).await.unwrap().is_none(), "{absent}");
    }
    stage.run(&["-d", &other, "store", "restore", file]).expect(1, &["the store holds 3 keys", "--force writes"]);
    stage.run(&["-d", &other, "store", "restore", file, "--force"]).expect(0, &["config: the same", "Nothing to do"]);

    stage.put("config", r#"{"ttl":20,"pause":true}"#).await;
    stage.run(&["store", "restore", file]).expect(1, &["pg0 leads"]);
    stage
        .run(&["store", "restore", file, "--force"])
        .expect(0, &["config: replaced, and still paused", "initialize: the same"]);
    let now: serde_json::Value = serde_json::from_str(&stage.get("config").await).unwrap();
    assert_eq!((&now["ttl"], &now["pause"]), (&30.into(), &true.into()));
    assert_eq!(stage.get("leader").await, "pg0");
    std::fs::write(&path, "{}").unwrap();
    stage.run(&["store", "restore", file]).expect(1, &["no snapshot of a store"]);
    stage.run(&["store", "recover"]).expect(1, &["about the embedded store"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_removed_only_with_care() {
    let stage = Stage::set([Answers::new(), Answers::new(), Answers::new()]).await;
    for (input, error) in [
        ("robin\n", "Cluster names specified do not match"),
        ("batman\nyes\n", "You did not exactly type \"Yes I am aware\""),
        ("batman\nYes I am aware\npg1\n", "You did not specify the current leader of the cluster"),
        ("batman\n", "Aborted!"),
    ] {
        stage.answer(&["remove", "batman"], input).expect(1, &[error]);
    }
    assert_eq!(stage.get("leader").await, "pg0");
    stage.etcd.put("/service/batman2/leader", b"other").await.unwrap();
    stage.answer(&["remove", "batman"], "batman\nYes I am aware\npg0\n").expect(0, &[]);
    assert_eq!(stage.get("leader").await, "");
    assert!(stage.etcd.get("/service/batman2/leader").await.unwrap().is_some(), "a cluster of a longer name stays");
}

#[test]
fn a_store_that_is_not_there_is_named() {
    let (etcd, raft) = (Port::free().unwrap(), Port::free().unwrap());
    let output = surus(&["list", "batman"]).env("PATRONI_ETCD3_HOST", etcd.address()).output().unwrap();
    Ended::of(output).expect(1, &["Error: the store", &etcd.address(), "Check that etcd runs"]);
    let dir = tempfile::tempdir().unwrap();
    let config = write(
        dir.path(),
        &format!("scope: batman\nraft:\n  self_addr: {}\n  data_dir: {}\n", raft.address(), dir.path().display()),
    );
    let output = surus(&["-c", &config, "list"]).output().unwrap();
    Ended::of(output).expect(1, &["Error: the store", &raft.address(), "The embedded store lives in the agents"]);
    for (args, error) in [
        (vec!["list", "batman"], "Can not find suitable configuration of distributed configuration store"),
        (vec!["-c", "/nowhere.yml", "list"], "Provided config file /nowhere.yml not existing or no read rights"),
        (vec!["-d", "etcd://h", "list"], "the v2 interface of etcd is not supported"),
        (vec!["-d", "carrier-pigeon://h", "list"], "Unknown dcs scheme: carrier-pigeon"),
    ] {
        Ended::of(surus(&args).env("HOME", dir.path()).output().unwrap()).expect(1, &["Error: ", error]);
    }
}

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("surus.yml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_name_it_is_called_by_counts() {
    let dir = tempfile::tempdir().unwrap();
    let called = |name: &str, args: &[&str]| {
        let link = dir.path().join(name);
        let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_surus"), &link);
        Ended::of(Command::new(link).args(args).env_clear().output().unwrap())
    };
    let version = env!("CARGO_PKG_VERSION");
    let ours = format!("4.1.5 (Surus {version})");
    assert_eq!(called("patronictl", &["version"]).expect(0, &[]).out, format!("patronictl version {ours}\n"));
    assert_eq!(called("patroni", &["--version"]).expect(0, &[]).out, format!("patroni {ours}\n"));
    called("patronictl", &["list", "--nothing"]).expect(2, &["Usage: patronictl list"]);
    called("patronictl", &["list"]).expect(1, &["Error: Can not find suitable configuration"]);
    called("patroni", &["--validate-config", "/nowhere.yml"]).expect(1, &["Error: /nowhere.yml: No such file"]);
    called("patroni", &["--nothing"]).expect(2, &["Usage: patroni"]);
    assert_eq!(Ended::of(surus(&["version"]).output().unwrap()).out, format!("surus version {version}\n"));
    Ended::of(surus(&["nothing"]).output().unwrap()).expect(2, &["unrecognized subcommand 'nothing'"]);
    let sample = dir.path().join("etc/patroni.yml").display().to_string();
    called("patroni", &["--generate-sample-config", &sample]).expect(0, &[]);
    let text = std::fs::read_to_string(&sample).unwrap();
    assert!(text.starts_with("scope: '#FIXME'\n") && text.contains("wal_keep_size: 128MB"), "{text}");
    let refused = called("patroni", &["--validate-config", &sample]);
    refused.expect(1, &["names no store"]);
    called("patroni", &["--validate-config", "--generate-config"]).expect(2, &["cannot be used with"]);
    let minimal = "scope: demo\nname: n\nrestapi: {listen: '127.0.0.1:1'}\nraft: {self_addr: '127.0.0.1:2'}\npostgresql:\n  listen: 127.0.0.1:3\n  \
                   data_dir: /nowhere/data\n  authentication: {superuser: {username: a}, replication: {username: b}}\n";
    let path = write(dir.path(), minimal);
    let printed = called("patroni", &["--validate-config", "--print", "-i", &path]).expect(0, &[]).out;
    assert!(printed.starts_with("name: n\npostgresql:\n  authentication:\n"), "{printed}");
    let schema = Ended::of(surus(&["check", "--schema"]).output().unwrap()).expect(0, &[]).out;
    assert!(serde_json::from_str::<serde_json::Value>(&schema).unwrap()["properties"]["restapi"].is_object());
    Ended::of(surus(&["check", "/nowhere.yml"]).output().unwrap()).expect(1, &["Error: /nowhere.yml: No such file"]);
}
