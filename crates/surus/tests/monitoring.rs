//! What watches a cluster from outside: Prometheus with the alert rules and the dashboard of `contrib/`, and the log.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, Port, http, wait_for};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib").join(path)
}

fn promtool(args: &[&str], input: &str) -> Result<(i32, String)> {
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(contrib("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool comes with Debian's package prometheus; `cargo xtask install` installs it")?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().unwrap_or(-1), text))
}

#[test]
fn alert_rules_fire_when_they_should() -> Result<()> {
    let (code, text) = promtool(&["check", "rules", "surus.rules.yml"], "")?;
    assert_eq!(code, 0, "{text}");
    let (code, text) = promtool(&["test", "rules", "surus.test.yml"], "")?;
    assert_eq!(code, 0, "{text}");
    Ok(())
}

struct Prometheus {
    _dir: TempDir,
    port: Port,
    process: Child,
}

impl Prometheus {
    async fn scraping(targets: &[String]) -> Result<Prometheus> {
        let (dir, port) = (tempfile::tempdir()?, Port::free()?);
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [contrib("prometheus/surus.rules.yml").canonicalize()?],
            "scrape_configs": [{"job_name": "surus", "static_configs": [{"targets": targets}]}],
        });
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config.to_string())?;
        let log = std::fs::File::create(dir.path().join("prometheus.log"))?;
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("prometheus is Debian's package prometheus; `cargo xtask install` installs it")?;
        Ok(Prometheus { _dir: dir, port, process })
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = http::get(&self.port.address(), path).await?.json()?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].clone())
    }

    /// The samples that an expression has now.
    async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let encoded: String = expression
            .bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Every expression of the dashboard, with the name of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().replace("$scope", "SCOPE");
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let mut all: Vec<_> = panels
        .flat_map(|panel| {
            let targets = panel["targets"].as_array().into_iter().flatten();
            targets.map(|target| (text(&panel["title"]), text(&target["expr"]))).collect::<Vec<_>>()
        })
        .collect();
    let notes = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    all.extend(notes.map(|note| (text(&note["name"]), text(&note["expr"]))));
    all
}

/// Names of series in an expression, without what a histogram appends.
fn names(expression: &str) -> BTreeSet<&str> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("surus_") || word.starts_with("patroni_"))
        .map(|word| ["_bucket", "_sum", "_count"].iter().find_map(|s| word.strip_suffix(s)).unwrap_or(word))
        .collect()
}

/// Shown only while there is something to show.
const SOMETIMES: &[&str] =
    &["surus_slot_withheld_bytes", "surus_slot_disk_full_seconds", "surus_certificate_expiry_seconds"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_and_the_alerts_know_a_real_cluster() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let done = cluster.surus(0, &["switchover", "--force"]).await?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    cluster.wait_healthy().await?;

    let mut known = BTreeSet::new();
    for node in 0..3 {
        let page = cluster.get(node, "/metrics").await?.body;
        known.extend(page.lines().filter_map(|l| Some(l.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())));
        // The names of peers are what they are, counters without a suffix among them.
        let (_, lint) = promtool(&["check", "metrics"], &page)?;
        let complaints: Vec<_> = lint.lines().filter(|l| !l.is_empty() && !l.starts_with("patroni_")).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
    }
    known.extend(SOMETIMES.iter().map(|name| (*name).to_owned()));

    let targets: Vec<String> = (0..3).map(|node| cluster.node(node).rest.address()).collect();
    let prometheus = Prometheus::scraping(&targets).await?;
    wait_for("every member was scraped twice", SOON, async || {
        let seen = prometheus.query("count_over_time(up{job=\"surus\"}[1m]) > 1 and up == 1").await?;
        ensure!(seen.len() == 3, "{seen:?}");
        Ok(())
    })
    .await?;

    // The switchover was measured, each phase once.
    for (phase, kind) in [
        ("checkpoint", "switchover"),
        ("stop", "switchover"),
        ("catch_up", "switchover"),
        ("release", "switchover"),
        ("race", "switchover"),
        ("prepare", "switchover"),
        ("promote", "switchover"),
    ] {
        let expression = format!("sum(surus_leader_change_phase_seconds_count{{phase=\"{phase}\",kind=\"{kind}\"}})");
        let counted = prometheus.query(&expression).await?;
        assert_eq!(counted[0]["value"][1], "1", "{phase}");
    }

    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(contrib("grafana/surus.json"))?)?;
    let scope = cluster.node(0).config["scope"].as_str().unwrap_or_default().to_owned();
    let all = expressions(&dashboard);
    assert!(all.len() > 20, "{}", all.len());
    for (panel, expression) in &all {
        let used = names(expression);
        assert!(!used.is_empty(), "{panel}: {expression}");
        let unknown: Vec<_> = used.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{panel}: no such series: {unknown:?}");
        let expression = expression.replace("SCOPE", &scope);
        let data = prometheus.query(&expression).await.with_context(|| panel.clone())?;
        // What happened once, before the first scrape, has no increase.
        let quiet = panel.contains("last day") || panel == "Promotions" || used.iter().any(|n| SOMETIMES.contains(n));
        assert!(quiet || !data.is_empty(), "{panel} shows nothing: {expression}");
    }
    let shown = |data: Vec<Value>| data.first().map(|d| d["value"][1].clone()).unwrap_or_default();
    assert_eq!(shown(prometheus.query("max(surus_failover_ready)").await?), "1");
    assert_eq!(shown(prometheus.query("sum(surus_failover_candidate_fit)").await?), "2");

    let rules = wait_for("every alert rule was evaluated", SOON, async || {
        let rules = prometheus.get("/api/v1/rules").await?["groups"][0]["rules"].clone();
        let all = rules.as_array().context("no rules")?;
        ensure!(all.iter().all(|rule| rule["health"] == "ok"), "{rules}");
        Ok(all.clone())
    })
    .await?;
    for rule in &rules {
        let used: Vec<_> = names(rule["query"].as_str().unwrap_or_default()).into_iter().map(str::to_owned).collect();
        let unknown: Vec<_> = used.iter().filter(|name| *name != "surus_stall_" && !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{}: no such series: {unknown:?}", rule["name"]);
        // Which disk this runs on is not the cluster's doing.
        assert!(rule["state"] == "inactive" || rule["name"] == "SurusDiskLow", "{rule}");
    }
    cluster.passed();
    Ok(())
}

/// What an agent wrote itself: PostgreSQL's lines have a point before the milliseconds.
fn own_lines(cluster: &Cluster, node: usize) -> Vec<String> {
    let ours = |line: &&str| line.as_bytes().get(19) == Some(&b',');
    cluster.node(node).log().lines().filter(ours).map(str::to_owned).collect()
}

/// And a log that is asked for line by line has everything that makes a line useful.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_logged_while_nothing_happens() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let renewals = async |node: usize| {
        let page = cluster.get(node, "/metrics").await?.body;
        let line = page.lines().find(|l| l.starts_with("surus_lease_renewals_total{")).context("no such series")?;
        Ok::<u64, anyhow::Error>(line.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    let ahead = async |rounds: u64| {
        let mut since = Vec::new();
        for node in 0..3 {
            since.push(renewals(node).await?);
        }
        wait_for("some rounds have passed", SOON, async || {
            for (node, since) in since.iter().enumerate() {
                ensure!(renewals(node).await? >= since + rounds, "node {node}");
            }
            Ok(())
        })
        .await
    };
    // What a young cluster still does: slots, the first status.
    ahead(3).await?;
    let before: Vec<_> = (0..3).map(|node| own_lines(&cluster, node).len()).collect();
    ahead(10).await?;
    for node in 0..3 {
        let lines = own_lines(&cluster, node);
        assert!(lines.len() == before[node], "{:?}", &lines[before[node]..]);
    }
    cluster.passed();
    Ok(())
}
