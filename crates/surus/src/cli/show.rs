//! Commands that show something, of the cluster or of this program.

use std::path::PathBuf;

use clap::Args;

use super::{ClusterArg, Format, Role};

#[derive(Clone, Debug, Default, Args)]
pub struct Watch {
    /// Refresh every two seconds
    #[arg(short = 'W')]
    pub two_seconds: bool,
    /// Refresh every so many seconds
    #[arg(short = 'w', long = "watch", value_name = "SECONDS", value_parser = seconds)]
    pub every: Option<f64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0).ok_or_else(|| "is not a positive number".to_owned())
}

#[derive(Debug, Args)]
pub struct List {
    /// Default: `scope` of the configuration
    pub cluster_names: Vec<String>,
    #[arg(long)]
    pub group: Option<u32>,
    /// Show pending and scheduled restarts and tags even where there are none
    #[arg(short, long)]
    pub extended: bool,
    /// Print the time first
    #[arg(short, long)]
    pub timestamp: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Topology {
    /// Default: `scope` of the configuration
    pub cluster_names: Vec<String>,
    #[arg(long)]
    pub group: Option<u32>,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Check {
    /// File or directory; without it the environment is checked
    pub config: Option<PathBuf>,
    /// The listen addresses may be in use: the member may be running
    #[arg(short, long)]
    pub ignore_listen_port: bool,
}

#[derive(Debug, Args)]
pub struct Version {
    pub cluster_name: Option<String>,
    pub member_names: Vec<String>,
    #[arg(long)]
    pub group: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Dsn {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    #[arg(short, long, value_name = "NAME")]
    pub member: Option<String>,
}
