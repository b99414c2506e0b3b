//! `show-config`.

use crate::cli::ClusterArg;
use crate::context::Context;
use crate::failure::Outcome;
use crate::terminal::{Terminal, say};
use crate::yaml;

pub async fn show_config(context: &Context, terminal: &mut Terminal, args: &ClusterArg) -> Outcome {
    let cluster = context.cluster(args.cluster_name.as_deref(), args.group)?;
    let reading = cluster.read().await?;
    if let Some(config) = &reading.view.config {
        say!(terminal, "{}", yaml::block(&config.value));
    }
    Ok(())
}
