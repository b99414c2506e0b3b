//! Commands that change something: who leads, what runs, what is configured, what is in the store.

use clap::Args;

use super::{ClusterArg, Format, MembersArg, Role};

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
    /// Only members with this role
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
    /// Only members with this role
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
pub struct Plan {
    /// A YAML file to merge into the dynamic configuration, `-` for standard input; or the changed file of a member
    pub file: Option<String>,
    /// Default: `scope` of the configuration
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// Set a value; the key is a dotted path, `null` deletes
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Set a PostgreSQL parameter
    #[arg(short, long, value_name = "PARAMETER=VALUE")]
    pub pg: Vec<String>,
    /// Replace everything by a YAML file, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub replace: Option<String>,
    /// How to print it
    #[arg(short, long, visible_alias = "output", value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Which cluster
    pub cluster_name: String,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Flush {
    /// CLUSTER_NAME [MEMBER_NAMES]... restart|switchover
    #[arg(required = true, num_args = 2.., value_names = ["CLUSTER_NAME", "MEMBER_NAMES", "restart|switchover"])]
    pub names: Vec<String>,
    /// Citus group
    #[arg(long)]
    pub group: Option<u32>,
    /// Only members with this role
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    pub role: Role,
    /// Ask nothing
    #[arg(long)]
    pub force: bool,
}
