//! The command line (`spec/cli.md §1` to `§3`): names and options are those operators already type.

mod act;
mod place;
mod show;
mod tell;

pub use act::*;
pub use place::{definition, read};
pub use show::*;
pub use tell::*;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  something failed: the reason is on standard error, or on standard output where a member refused; also \"Aborted!\"
     after the end of input at a question
  2  wrong usage: nothing was done

Called as `patronictl` the program exits with 0 when a member refused, as patronictl does.";

#[derive(Debug, Parser)]
#[command(name = "surus", about = "Keeps PostgreSQL clusters alive", disable_version_flag = true, after_long_help = EXIT_STATUS)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    /// Run as the first process of a container: a small parent reaps orphans and forwards signals.
    #[arg(long, hide = true, global = true)]
    pub init: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Configuration file or directory of a member or of an operator
    #[arg(short = 'c', long, value_name = "PATH", env = "PATRONICTL_CONFIG_FILE", hide_env_values = true)]
    pub config_file: Option<PathBuf>,
    /// Where the store is, for example etcd3://host:2379/service; overrides the configuration
    #[arg(
        short = 'd',
        long = "dcs-url",
        visible_alias = "dcs",
        value_name = "URL",
        env = "DCS_URL",
        hide_env_values = true
    )]
    pub dcs_url: Option<String>,
    /// Do not check the certificates of members
    #[arg(short = 'k', long)]
    pub insecure: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent beside a PostgreSQL server
    Run(Run),
    /// List the members of clusters
    List(List),
    /// Show the members as a tree of who replicates from whom
    Topology(Topology),
    /// Show a cluster live on the whole screen, with keys for what is safe to do
    Top(Top),
    /// Hand the lead over to another member
    Switchover(Switchover),
    /// Make a member the leader of a cluster whose leader is gone
    Failover(Failover),
    /// Restart PostgreSQL of members
    Restart(Restart),
    /// Make members read their configuration again
    Reload(Reload),
    /// Throw the data of replicas away and copy them anew
    Reinit(Reinit),
    /// Stop managing a cluster: no failover, no restarts
    Pause(Pause),
    /// Manage a paused cluster again
    Resume(Pause),
    /// Make a whole cluster a standby cluster that follows another one
    DemoteCluster(DemoteCluster),
    /// Make a standby cluster one with a primary of its own
    PromoteCluster(PromoteCluster),
    /// Show the dynamic configuration
    ShowConfig(ClusterArg),
    /// Change the dynamic configuration
    EditConfig(EditConfig),
    /// Show what a change of the dynamic configuration would do, member by member, without making it
    Plan(Plan),
    /// Show the history of failovers and switchovers
    History(History),
    /// Explain who leads and why, who could take over and who not, and what members wait for
    Explain(Explain),
    /// Tell what happened in a cluster, from the journals of its members: who led when, and how the lead went on
    Timeline(Timeline),
    /// Take the decisions of a journal again, without a cluster, and show where they come out differently
    Replay(Replay),
    /// Show what only one member had before it was rewound or copied anew, and acknowledge it
    Loss(Loss),
    /// Check a configuration without starting anything
    Check(Check),
    /// Write the first configuration of a member, from a running PostgreSQL or a sample
    GenerateConfig(GenerateConfig),
    /// Show the versions of this program and of members
    Version(Version),
    /// Remove all that the store holds of a cluster
    Remove(Remove),
    /// Discard scheduled events
    Flush(Flush),
    /// Print a connection string for a member
    Dsn(Dsn),
    /// Run SQL on a member
    Query(Query),
    /// Run a voter of the embedded store, or manage its members
    Store(Store),
    /// Show that the fence, which ends PostgreSQL when its agent cannot, works on this machine
    Fence(Fence),
    /// Print what a shell needs to complete this program's verbs and options
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
    /// Bring up a real cluster on this machine, to watch and to break
    Demo(crate::demo::DemoArgs),
}

#[derive(Debug, Args)]
pub struct Fence {
    /// Try it on processes that stand for a server, and say how fast it was
    #[arg(long)]
    pub test: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    /// File or directory; without it everything comes from the environment
    pub config: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArg {
    /// Default: `scope` of the configuration
    pub cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
}

#[derive(Clone, Debug, Args)]
pub struct MembersArg {
    /// Which cluster
    pub cluster_name: String,
    /// Default: all
    pub member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Leader,
    Primary,
    StandbyLeader,
    Replica,
    Standby,
    Any,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Primary => "primary",
            Role::StandbyLeader => "standby-leader",
            Role::Replica => "replica",
            Role::Standby => "standby",
            Role::Any => "any",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Pretty,
    Tsv,
    Json,
    #[value(alias = "yml")]
    Yaml,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Store {
    /// Configuration with a `raft` section: runs a voter without PostgreSQL
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<StoreCommand>,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// List the members of the embedded store
    Members {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Add a member: it must be running already, or be started soon
    Add {
        /// host:port, as its `self_addr` says
        address: String,
    },
    /// Remove a member, for example one that will not come back
    Remove {
        /// host:port, as `store members` shows it
        address: String,
    },
    /// Write what the store, any store, holds of a cluster to a file
    Snapshot(StoreSnapshot),
    /// Write a snapshot back: what lasts, nothing of who leads, who is there or who has every commit
    Restore(StoreRestore),
    /// The majority of the embedded store is lost for good: make a new group of this stopped node. Always asks
    Recover(StoreRecover),
    /// Move the cluster to another store while it runs
    Migrate(Migrate),
}

#[derive(Debug, Args)]
pub struct StoreSnapshot {
    /// JSON; readable by its owner only
    pub file: PathBuf,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct StoreRestore {
    /// As `store snapshot` wrote it
    pub file: PathBuf,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// Write over what is there; below a leader only in a pause
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct StoreRecover {
    /// host:port of a voter whose data_dir is gone for good; once for each
    #[arg(long, value_name = "HOST:PORT")]
    pub lost: Vec<String>,
    /// Another stopped node that still has its log, and how far it goes, as this command shows it there
    #[arg(long, value_name = "HOST:PORT=POSITION")]
    pub survivor: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// The cluster, if it is not the one of the configuration
    pub cluster_name: Option<String>,
    /// File with the section of the new store; what differs between members is below `members`
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Only try whether every member can use the new store
    #[arg(long, requires = "to")]
    pub dry_run: bool,
    /// Do not ask; with --clean: also if members still name the old store
    #[arg(long)]
    pub force: bool,
    /// Give up a move that is not made yet
    #[arg(long, conflicts_with = "to")]
    pub abort: bool,
    /// Remove what is left in a store that the cluster has left
    #[arg(long, conflicts_with_all = ["to", "abort"])]
    pub clean: bool,
}

/// What is understood when the program is called `patroni`.
#[derive(Debug, Parser)]
#[command(name = "patroni", disable_version_flag = true, infer_long_args = true)]
pub struct Daemon {
    /// File or directory; without it everything comes from the environment
    pub configfile: Option<PathBuf>,
    /// Print the version and leave
    #[arg(long)]
    pub version: bool,
    /// Check the configuration and leave
    #[arg(long)]
    pub validate_config: bool,
    /// With --validate-config: the listen addresses may be in use
    #[arg(short, long)]
    pub ignore_listen_port: bool,
    /// With --validate-config: print the configuration, the environment merged into it
    #[arg(short, long)]
    pub print: bool,
    /// Write a configuration for a PostgreSQL that runs on this machine
    #[arg(long, conflicts_with_all = ["validate_config", "generate_sample_config", "version"])]
    pub generate_config: bool,
    /// Write a sample configuration
    #[arg(long, conflicts_with_all = ["validate_config", "version"])]
    pub generate_sample_config: bool,
    /// With --generate-config: how to connect
    #[arg(long, value_name = "DSN")]
    pub dsn: Option<String>,
    #[arg(long, hide = true)]
    pub init: bool,
}

#[cfg(test)]
mod tests;
