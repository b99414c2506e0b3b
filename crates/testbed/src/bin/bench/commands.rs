//! How long an operator waits for a command: from its start to its end, the start of the process included.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use surus_testbed::StoreKind;

use crate::cluster;
use crate::record::{Recorder, milliseconds};

pub async fn command(args: &[&str], store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let cluster = cluster(store, None)?.healthy().await?;
    // What is read from the disk for the first time is no part of it.
    cluster.surus(0, args).await?;
    for run in 0..runs {
        let node = cluster.node(run % cluster.nodes.len());
        let mut command = Command::new(cluster.binary());
        command.arg("-c").arg(node.config_path()).args(args).stdin(Stdio::null());
        let took = tokio::task::spawn_blocking(move || {
            let begin = Instant::now();
            let done = command.output()?;
            let took = begin.elapsed();
            ensure!(done.status.success(), "{}{}", show(&done.stdout), show(&done.stderr));
            Ok(took)
        });
        recorder.run(&[("took_ms", milliseconds(took.await??))])?;
    }
    cluster.passed();
    Ok(())
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
