//! `history`.

use serde_json::Value;

use crate::cli::History;
use crate::context::Context;
use crate::failure::Outcome;
use crate::table;
use crate::terminal::Terminal;

const COLUMNS: [&str; 5] = ["TL", "LSN", "Reason", "Timestamp", "New Leader"];

pub async fn history(context: &Context, terminal: &mut Terminal, args: &History) -> Outcome {
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    let entries = reading.view.history.map(|h| h.0).unwrap_or_default();
    let rows: Vec<Vec<Value>> = entries
        .into_iter()
        .map(|entry| {
            vec![
                entry.timeline.0.into(),
                entry.switch_lsn.0.into(),
                entry.reason.into(),
                entry.timestamp.unwrap_or_default().into(),
                entry.new_leader.unwrap_or_default().into(),
            ]
        })
        .collect();
    table::print(terminal, args.format, &COLUMNS, &rows, false)
}
