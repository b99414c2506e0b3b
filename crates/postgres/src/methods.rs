//! Data directories made by commands of the user: replica creation methods and bootstrap methods
//! (`spec/postgres.md §13.2, §14.2`).

use std::ffi::OsString;

use surus_core::cluster::Upstream;
use surus_core::postgres::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::SYNC_LIMIT;
use crate::clone::Meter;
use crate::conf_write::Writing;
use crate::config::{CustomBootstrap, InstanceConfig, MethodCommand};
use crate::conninfo::tool_conninfo;
use crate::disk::{IO_LIMIT, blocking};
use crate::in_place::InPlace;
use crate::instance::Instance;
use crate::os_user::OsUser;
use crate::synchronous::Chosen;
use crate::tool::Tool;
use crate::user_command::UserCommand;
use crate::{ErrorKind, PgError, Result};

impl Instance {
    /// Makes the data directory a copy by the method of that name. Failed or interrupted, it counts as empty.
    pub async fn run_replica_method(
        &self,
        name: &str,
        from: Option<&Upstream>,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let config = self.config();
        let Some(method) = config.replica_methods.get(name) else {
            let text = format!("there is no replica creation method {name}; correct postgresql.create_replica_methods");
            return Err(PgError::new(ErrorKind::Refused, text));
        };
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot make a copy").await?;
        self.kill_orphans().await?;
        let version = self.binaries_version().await?;
        let connstring = from.map(|from| tool_conninfo(&config.replication, from, None, false, version));
        let tool = self
            .user_tool(&method.command)
            .await?
            .args(method_arguments(method, &config, connstring.as_deref().unwrap_or_default()))
            .env("PGPASSFILE", config.pgpass.clone());
        let user = self.user().await?;
        if let Some(from) = from.cloned() {
            let (config, user) = (config.clone(), user.clone());
            blocking("writing the password file", IO_LIMIT, move || {
                let raised = std::collections::BTreeMap::new();
                Writing { config: &config, user: user.as_ref(), version, raised: &raised, names: Chosen::Unknown }
                    .pgpass(&from)
            })
            .await?;
        }
        let source = from.map_or_else(|| "without a leader".to_owned(), |from| format!("from {}", from.name));
        let what = format!("creating a replica {source} with {name}");
        let making = begin(&config, method.keep_data, user.clone()).await?;
        match fill(tool, &method.command, &making, what, progress, cancel).await {
            Ok(()) => blocking("putting the copy in place", SYNC_LIMIT, move || making.commit()).await?,
            Err(e) => {
                blocking("removing an unfinished copy", SYNC_LIMIT, move || making.abort()).await?;
                return Err(e);
            }
        }
        restore_missing(config, user, version).await
    }

    /// Has the bootstrap method fill the empty data directory. It counts as empty until [`Instance::end_custom_bootstrap`].
    pub async fn run_custom_bootstrap(
        &self,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let config = self.config();
        let method = config.custom_bootstrap.as_ref().ok_or_else(no_method)?;
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot create a cluster").await?;
        self.kill_orphans().await?;
        let version = self.binaries_version().await?;
        let tool = self.user_tool(&method.command).await?.args(bootstrap_arguments(method, &config));
        let user = self.user().await?;
        let what = format!("running custom bootstrap script ({})", method.name);
        let making = begin(&config, false, user.clone()).await?;
        // What a failure leaves is moved away by the caller, for whoever wants to know why.
        fill(tool, &method.command, &making, what, progress, cancel).await?;
        restore_missing(config, user, version).await
    }
}

pub(crate) fn no_method() -> PgError {
    PgError::new(ErrorKind::Refused, "no bootstrap method is configured (bootstrap.method)")
}

async fn begin(config: &InstanceConfig, keep: bool, user: Option<OsUser>) -> Result<InPlace> {
    let dir = config.data_dir.clone();
    blocking("preparing the data directory", SYNC_LIMIT, move || InPlace::begin(&dir, keep, user.as_ref())).await
}

/// Runs the command; its last words are the progress.
async fn fill(
    tool: Tool,
    command: &UserCommand,
    making: &InPlace,
    what: String,
    progress: &watch::Sender<Option<Progress>>,
    cancel: &CancellationToken,
) -> Result<()> {
    let tool = tool.note_process(making.marker.clone());
    let mut meter = Meter::new(what.clone());
    progress.send_replace(Some(meter.progress.clone()));
    let run = tool.run_watching(None, Some(cancel), |line| {
        let line = line.trim();
        if !meter.read(line) && !line.is_empty() {
            meter.progress.what = format!("{what}: {}", line.chars().take(120).collect::<String>());
        }
        progress.send_replace(Some(meter.progress.clone()));
    });
    let result = run.await.and_then(|output| output.of(command));
    progress.send_replace(None);
    result?;
    let (making, what) = (making.clone(), command.setting.clone());
    blocking("looking at the new data directory", SYNC_LIMIT, move || making.check(&what)).await
}

async fn restore_missing(config: std::sync::Arc<InstanceConfig>, user: Option<OsUser>, version: u32) -> Result<()> {
    blocking("restoring configuration files", IO_LIMIT, move || {
        let raised = std::collections::BTreeMap::new();
        Writing { config: &config, user: user.as_ref(), version, raised: &raised, names: Chosen::Unknown }
            .restore_missing()
    })
    .await
}

/// `--key=value` in the order written, then what the cluster knows. A key that names one of the latter gives way.
fn method_arguments(method: &MethodCommand, config: &InstanceConfig, connstring: &str) -> Vec<OsString> {
    if method.no_params {
        const SWITCHES: [&str; 3] = ["no_params", "no_leader", "keep_data"];
        return method.arguments.iter().filter(|(k, _)| !SWITCHES.contains(&k.as_str())).map(option).collect();
    }
    const OURS: [&str; 4] = ["scope", "role", "datadir", "connstring"];
    let mut out: Vec<OsString> =
        method.arguments.iter().filter(|(k, _)| !OURS.contains(&k.as_str())).map(option).collect();
    out.push(format!("--scope={}", config.cluster_name).into());
    out.push("--role=replica".into());
    out.push(data_dir(config));
    out.push(format!("--connstring={connstring}").into());
    out
}

fn bootstrap_arguments(method: &CustomBootstrap, config: &InstanceConfig) -> Vec<OsString> {
    let mut out = Vec::new();
    if !method.no_params {
        out.push(format!("--scope={}", config.cluster_name).into());
        out.push(data_dir(config));
    }
    out.extend(method.arguments.iter().map(option));
    out
}

fn option((name, value): &(String, String)) -> OsString {
    format!("--{name}={value}").into()
}

fn data_dir(config: &InstanceConfig) -> OsString {
    let mut arg = OsString::from("--datadir=");
    arg.push(&config.data_dir);
    arg
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn config() -> InstanceConfig {
        InstanceConfig { data_dir: "/data dir".into(), cluster_name: "orders".into(), ..InstanceConfig::default() }
    }

    fn method(no_params: bool, arguments: Vec<(String, String)>) -> MethodCommand {
        MethodCommand { command: UserCommand::default(), no_params, no_leader: false, keep_data: false, arguments }
    }

    #[test]
    fn arguments_of_a_replica_method() {
        let ours = ["--scope=orders", "--role=replica", "--datadir=/data dir", "--connstring=host=h"];
        for (no_params, keys, expected) in [
            (false, vec![], vec![]),
            (
                false,
                vec![("threads", "4"), ("no_leader", "1"), ("a", "b c")],
                vec!["--threads=4", "--no_leader=1", "--a=b c"],
            ),
            (false, vec![("no_params", "false"), ("keep_data", "true")], vec!["--no_params=false", "--keep_data=true"]),
            (false, vec![("scope", "x"), ("role", "y"), ("datadir", "z"), ("connstring", "")], vec![]),
            (
                true,
                vec![("no_params", "true"), ("keep_data", "1"), ("no_leader", "1"), ("x", "1"), ("role", "y")],
                vec!["--x=1", "--role=y"],
            ),
        ] {
            let made = method_arguments(&method(no_params, pairs(&keys)), &config(), "host=h");
            let expected: Vec<&str> =
                expected.into_iter().chain(if no_params { &[][..] } else { &ours }.iter().copied()).collect();
            assert_eq!(made, expected, "{keys:?}");
        }
    }

    #[test]
    fn arguments_of_a_bootstrap_method() {
        let method = |no_params| CustomBootstrap {
            no_params,
            arguments: pairs(&[("b", "1"), ("a", "2")]),
            ..CustomBootstrap::default()
        };
        assert_eq!(
            bootstrap_arguments(&method(false), &config()),
            ["--scope=orders", "--datadir=/data dir", "--b=1", "--a=2"]
        );
        assert_eq!(bootstrap_arguments(&method(true), &config()), ["--b=1", "--a=2"]);
    }

    proptest! {
        /// Whatever the keys are, each of the four is given once and is the cluster's.
        #[test]
        fn the_clusters_own_arguments_cannot_be_forged(
            keys in proptest::collection::vec(("scope|role|datadir|connstring|[a-z_]{1,9}", ".*"), 0..6),
            connstring in "[ -~]*",
        ) {
            let made = method_arguments(&method(false, keys.clone()), &config(), &connstring);
            for (name, value) in [("scope", "orders"), ("role", "replica"), ("datadir", "/data dir"), ("connstring", connstring.as_str())] {
                let given: Vec<_> = made.iter().filter(|a| a.to_string_lossy().starts_with(&format!("--{name}="))).collect();
                let ours = OsString::from(format!("--{name}={value}"));
                prop_assert_eq!(given, vec![&ours]);
            }
            let others = keys.iter().filter(|(k, _)| !["scope", "role", "datadir", "connstring"].contains(&k.as_str()));
            prop_assert_eq!(made.len(), others.count() + 4);
        }
    }
}
