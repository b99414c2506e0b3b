//! Commands that tell what was decided and why, and what was lost on the way.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ClusterArg, Format};

#[derive(Debug, Args)]
pub struct Loss {
    #[command(subcommand)]
    pub command: LossCommand,
}

#[derive(Debug, Subcommand)]
pub enum LossCommand {
    /// List the receipts that nobody has acknowledged
    List {
        #[command(flatten)]
        source: LossSource,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Tell what was lost, when, of which tables, and where its log is; with --dir also the rows
    Show {
        /// As `loss list` shows it
        id: String,
        #[command(flatten)]
        source: LossSource,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove a receipt and the log that is kept with it
    Ack {
        /// As `loss list` shows it
        id: String,
        #[command(flatten)]
        source: LossSource,
    },
}

#[derive(Clone, Debug, Args)]
pub struct LossSource {
    /// Default: `scope` of the configuration
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// Read the receipts beside this data directory, or in this directory, instead of asking members; may be repeated
    #[arg(long, value_name = "DIR")]
    pub dir: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// What was decided since then, from the members' journals: 10m, 2h, or a time
    #[arg(long, value_name = "TIME|DURATION")]
    pub since: Option<String>,
    /// Read this journal (a directory) instead of asking members; may be repeated
    #[arg(long, value_name = "DIR")]
    pub journal: Vec<PathBuf>,
    /// Only `pretty` and `json`
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Timeline {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// 10m, 2h, or a time. Default: one hour, and everything of a journal on disk
    #[arg(long, value_name = "TIME|DURATION")]
    pub since: Option<String>,
    /// Only what these members tell; may be repeated
    #[arg(long, value_name = "NAME")]
    pub member: Vec<String>,
    /// Read this journal (a directory) instead of asking members; one for each member
    #[arg(long, value_name = "DIR")]
    pub journal: Vec<PathBuf>,
    /// Only how the lead went from one member to another
    #[arg(long)]
    pub changes: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// Journals, or single files of them
    #[arg(required = true, value_name = "FILE|DIR")]
    pub journals: Vec<PathBuf>,
    /// Show each decision with what changed before it, why it was made and what was ordered
    #[arg(long)]
    pub step: bool,
    /// Only decisions from then on: 10m (ago), 2h, or a time
    #[arg(long, value_name = "TIME|DURATION")]
    pub from: Option<String>,
    /// Only decisions until then
    #[arg(long, value_name = "TIME|DURATION")]
    pub to: Option<String>,
    /// Only decisions of this rule
    #[arg(long, value_name = "N")]
    pub rule: Option<u16>,
    /// `pretty` or `json`: one object a line
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
}
