//! Commands that show something, of the cluster or of this program.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

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

impl Watch {
    pub fn interval(&self) -> Option<Duration> {
        self.every.or(self.two_seconds.then_some(2.0)).map(Duration::from_secs_f64)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s: &f64| *s > 0.0 && *s < 1e9).ok_or_else(|| "is not a positive number".to_owned())
}

#[derive(Debug, Args)]
pub struct List {
    /// Default: `scope` of the configuration
    pub cluster_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// Show pending and scheduled restarts and tags even where there are none
    #[arg(short, long)]
    pub extended: bool,
    /// Print the time first
    #[arg(short, long)]
    pub timestamp: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Topology {
    /// Default: `scope` of the configuration
    pub cluster_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    pub cluster: ClusterArg,
}

#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// How to print it
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
    /// Print the configuration as well, the environment merged into it
    #[arg(short, long)]
    pub print: bool,
    /// Do not ask the store and the members
    #[arg(long)]
    pub offline: bool,
    /// Print a JSON schema of the file, for editors, and check nothing
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

#[derive(Debug, Args)]
pub struct GenerateConfig {
    /// Where to write it; standard output if left out
    pub file: Option<PathBuf>,
    /// How to connect to PostgreSQL, as libpq has it; the PG* variables fill what is left out
    #[arg(long, value_name = "DSN", conflicts_with = "sample")]
    pub dsn: Option<String>,
    /// No server is asked: a sample to be filled in
    #[arg(long)]
    pub sample: bool,
}

#[derive(Debug, Args)]
pub struct Version {
    /// Without it only this program is asked
    pub cluster_name: Option<String>,
    /// Default: all
    pub member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Dsn {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The first member with this role. Default: leader
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// This member
    #[arg(short, long, value_name = "NAME")]
    pub member: Option<String>,
}

#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The statements
    #[arg(short, long, value_name = "SQL")]
    pub command: Option<String>,
    /// A file of statements, `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Tsv)]
    pub format: Format,
    /// Stands between the columns of `tsv`
    #[arg(long, value_name = "TEXT", default_value = "\t", hide_default_value = true)]
    pub delimiter: String,
    /// As whom. Default: PGUSER, or the user of this shell
    #[arg(short = 'U', long, value_name = "NAME")]
    pub username: Option<String>,
    /// Ask for the password. Default: PGPASSWORD, or the password file of libpq
    #[arg(long)]
    pub password: bool,
    /// Default: PGDATABASE, or the name of the user
    #[arg(short, long, value_name = "NAME")]
    pub dbname: Option<String>,
    /// Of the members with this role the first that answers. Default: leader
    #[arg(short, long, value_enum)]
    pub role: Option<Role>,
    /// This member
    #[arg(short, long, value_name = "NAME")]
    pub member: Option<String>,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Where to; it is made if it is not there
    pub dir: PathBuf,
}
