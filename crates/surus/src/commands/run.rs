//! `run`: the agent.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use surus_agent::ConfigSource;
use surus_config::LocalConfig;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Outcome};
use crate::logging;

/// What may still be running when everything is told to end.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Two workers, so that one long poll never delays the lease.
pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).thread_stack_size(1024 * 1024).enable_all().build()
}

pub fn run(path: Option<PathBuf>) -> Outcome<ExitCode> {
    let source = ConfigSource { path, env: surus_config::environment(), store: None };
    let config = source.load().map_err(|errors| Failure::Message(errors.to_string()))?;
    let logs = logging::start(&config.log).map_err(Failure::Message)?;
    let to_file = config.log.dir.is_some();
    let runtime = runtime().map_err(|e| Failure::Message(format!("the runtime cannot be started: {e}")))?;
    let ended = runtime.block_on(async {
        tokio::spawn(follow_log_settings(source.clone(), config.log.clone()));
        surus_agent::run(config, source).await
    });
    runtime.shutdown_timeout(END_LIMIT);
    let Err(error) = ended else { return Ok(ExitCode::SUCCESS) };
    let text = format!("{error:#}");
    tracing::error!(critical = true, "{text}");
    drop(logs);
    // Whoever started this in a terminal must not have to look for the log.
    if to_file { Err(Failure::Message(text)) } else { Err(Failure::Said) }
}

/// The agent reloads everything else itself; the log belongs to the process.
async fn follow_log_settings(source: ConfigSource, mut current: surus_config::Log) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        // What is wrong with the file the agent says.
        let Ok(LocalConfig { log, .. }) = source.load() else { continue };
        if log == current {
            continue;
        }
        match logging::reconfigure(&log) {
            Ok(()) => current = log,
            Err(problem) => tracing::error!("{problem}; the log stays as it is"),
        }
    }
}
