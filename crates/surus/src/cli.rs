//! The command line (`spec/cli.md §1` to `§3`): names and options are those operators already type.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(name = "surus", about = "Keeps PostgreSQL clusters alive", disable_version_flag = true)]
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
    #[arg(short = 'c', long, value_name = "PATH", env = "PATRONICTL_CONFIG_FILE", global = true)]
    pub config_file: Option<PathBuf>,
    /// Where the store is, for example etcd3://host:2379/service; overrides the configuration
    #[arg(short = 'd', long = "dcs-url", visible_alias = "dcs", value_name = "URL", env = "DCS_URL", global = true)]
    pub dcs_url: Option<String>,
    /// Do not check the certificates of members
    #[arg(short = 'k', long, global = true)]
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
    /// Show the versions of this program and of members
    Version(Version),
    /// Remove all that the store holds of a cluster
    Remove(Remove),
    /// Discard scheduled events
    Flush(Flush),
    /// Print a connection string for a member
    Dsn(Dsn),
    /// Run a voter of the embedded store, or manage its members
    Store(Store),
    /// Show that the fence, which ends PostgreSQL when its agent cannot, works on this machine
    Fence(Fence),
    /// Bring up a real cluster on this machine, to watch and to break
    Demo(crate::demo::DemoArgs),
}

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
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Tell what was lost, when, of which tables, and where its log is
    Show {
        id: String,
        #[command(flatten)]
        source: LossSource,
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove a receipt and the log that is kept with it
    Ack {
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
    pub cluster_name: String,
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
pub struct Switchover {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The member that leads now
    #[arg(long, visible_alias = "primary", value_name = "NAME")]
    pub leader: Option<String>,
    /// The member to lead next; the best one if left out
    #[arg(long, value_name = "NAME")]
    pub candidate: Option<String>,
    /// When: `now` or a time with its zone
    #[arg(long, value_name = "TIME")]
    pub scheduled: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Failover {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The member to lead next
    #[arg(long, value_name = "NAME")]
    pub candidate: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    pub members: MembersArg,
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    pub role: Role,
    /// Only one of the members, picked at random
    #[arg(long)]
    pub any: bool,
    /// When: `now` or a time with its zone
    #[arg(long, value_name = "TIME")]
    pub scheduled: Option<String>,
    /// Only servers older than this version
    #[arg(long, value_name = "VERSION")]
    pub pg_version: Option<String>,
    /// Only members with a pending restart
    #[arg(long)]
    pub pending: bool,
    /// How long the restart may take, in seconds or with a unit
    #[arg(long)]
    pub timeout: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Reload {
    #[command(flatten)]
    pub members: MembersArg,
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    pub role: Role,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Reinit {
    #[command(flatten)]
    pub members: MembersArg,
    /// Ask nothing, and end whatever the member is busy with
    #[arg(long)]
    pub force: bool,
    /// Copy from the leader, not from a replica
    #[arg(long)]
    pub from_leader: bool,
    /// Wait until the copy is done
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// Wait until every member knows
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct DemoteCluster {
    /// Default: `scope` of the configuration
    pub cluster_name: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
    /// The node to follow; several hosts separated by commas
    #[arg(long)]
    pub host: Option<String>,
    /// Its port
    #[arg(long)]
    pub port: Option<u16>,
    /// Fetches WAL from an archive
    #[arg(long)]
    pub restore_command: Option<String>,
    /// The replication slot to use on that node
    #[arg(long)]
    pub primary_slot_name: Option<String>,
}

#[derive(Debug, Args)]
pub struct PromoteCluster {
    /// Default: `scope` of the configuration
    pub cluster_name: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct EditConfig {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// Show no difference
    #[arg(short, long)]
    pub quiet: bool,
    /// Set a value; the key is a dotted path, `null` deletes
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Set a PostgreSQL parameter
    #[arg(short, long, value_name = "PARAMETER=VALUE")]
    pub pg: Vec<String>,
    /// Merge a YAML file, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub apply: Option<String>,
    /// Replace everything by a YAML file, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub replace: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
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
pub struct Remove {
    pub cluster_name: String,
    #[arg(long)]
    pub group: Option<u32>,
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Flush {
    /// CLUSTER_NAME [MEMBER_NAMES]... restart|switchover
    #[arg(required = true, num_args = 2.., value_names = ["CLUSTER_NAME", "MEMBER_NAMES", "restart|switchover"])]
    pub names: Vec<String>,
    #[arg(long)]
    pub group: Option<u32>,
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    pub role: Role,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
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
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Add a member: it must be running already, or be started soon
    Add {
        /// host:port, as its `self_addr` says
        address: String,
    },
    /// Remove a member, for example one that will not come back
    Remove { address: String },
}

/// What is understood when the program is called `patroni`.
#[derive(Debug, Parser)]
#[command(name = "patroni", disable_version_flag = true, infer_long_args = true)]
pub struct Daemon {
    /// File or directory; without it everything comes from the environment
    pub configfile: Option<PathBuf>,
    #[arg(long)]
    pub version: bool,
    /// Check the configuration and leave
    #[arg(long)]
    pub validate_config: bool,
    /// With --validate-config: the listen addresses may be in use
    #[arg(short, long)]
    pub ignore_listen_port: bool,
    #[arg(long, hide = true)]
    pub init: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Command {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}")).command
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
        Daemon::command().debug_assert();
    }

    #[test]
    fn lines_operators_type() {
        for line in [
            "patronictl switchover batman --primary postgres-0 --force",
            "patronictl edit-config -p superuser_reserved_connections=6 --force batman",
            "patronictl edit-config batman -s ttl=20 --force --group 2",
            "patronictl restart batman postgres-0 --force",
            "patronictl reinit batman postgres-1 --force --from-leader --wait",
            "patronictl -c x.yml list -e -f yml",
            "patronictl list batman -W",
            "patronictl -detcd3://h:1/ns topology --watch=0.5",
            "patronictl failover batman --group 0 --candidate X --force",
            "patronictl dsn -r standby-leader",
            "surus store members -f json",
            "surus store voter.yml",
            "surus store add 127.0.0.1:1",
            "surus run",
            "surus explain --since 10m batman",
            "surus explain --journal /a --journal /b --since 2026-10-01T12:00",
            "surus timeline batman --since 2h --member a --member b -f json",
            "surus timeline --journal /a",
            "surus replay /a /b/00000001.jsonl --step --from 1h --to 10m --rule 720",
            "surus check -i x.yml",
        ] {
            parse(line);
        }
        let Command::Switchover(Switchover { leader, .. }) = parse("surus switchover --primary a") else { panic!() };
        assert_eq!(leader.as_deref(), Some("a"));
        let Command::Flush(Flush { names, .. }) = parse("surus flush c m1 m2 restart --force") else { panic!() };
        assert_eq!(names, ["c", "m1", "m2", "restart"]);
        let Command::List(List { format, .. }) = parse("surus list -f yml") else { panic!() };
        assert_eq!(format, Format::Yaml);
    }

    #[test]
    fn lines_that_are_refused() {
        for line in [
            "surus",
            "surus swit",
            "surus list -f xml",
            "surus restart",
            "surus flush c",
            "surus list -w 0",
            "surus restart c --role king",
            "surus replay",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_daemon_takes_abbreviations() {
        let daemon = Daemon::try_parse_from(["patroni", "--valid", "x.yml"]).unwrap();
        assert!(daemon.validate_config && daemon.configfile == Some("x.yml".into()));
    }
}
