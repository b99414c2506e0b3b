//! The document in the store (`spec/config.md §6`).

use super::kind::{Kind, Others, PORT, Word};
use super::{Key, key, postgresql};

const SECONDS: Kind = Kind::Int { min: 0, max: u32::MAX as i64, what: "a whole number of seconds, 0 or more" };
const MODES: &[Word] = &[("off", &["false", "no", "0"]), ("on", &["true", "yes", "1"]), ("quorum", &[])];

pub(crate) const DYNAMIC: &[Key] = &[
    key("ttl", Kind::WholeSeconds, "Seconds the lead lasts without being renewed; at least 5").is("30"),
    key("loop_wait", Kind::WholeSeconds, "Longest time between two rounds of a member; at least 1").is("10"),
    key(
        "retry_timeout",
        Kind::WholeSeconds,
        "Seconds a failing store or server is tried again; `loop_wait + 2 * retry_timeout <= ttl`",
    )
    .is("10"),
    key(
        "maximum_lag_on_failover",
        Kind::Int { min: 0, max: i64::MAX, what: "a whole number of bytes without a unit, 0 or more" },
        "Bytes a replica may lack and still take over",
    )
    .is("1048576"),
    key(
        "maximum_lag_on_syncnode",
        Kind::Int { min: -1, max: i64::MAX, what: "a whole number of bytes, or -1 for no limit" },
        "Bytes a synchronous standby may be behind before another takes its place; -1 is no limit",
    )
    .is("-1"),
    key(
        "max_timelines_history",
        Kind::Int { min: 0, max: u32::MAX as i64, what: "a whole number, 0 or more" },
        "Lines kept of the history; 0 is all",
    )
    .is("0"),
    key(
        "primary_start_timeout",
        SECONDS,
        "Seconds a primary may take to come up while a member could take over; 0 fails over at once",
    )
    .is("300"),
    key("master_start_timeout", SECONDS, "Older name of `primary_start_timeout`").older(),
    key(
        "primary_stop_timeout",
        SECONDS,
        "Seconds a leader may take to stop in synchronous mode before it is killed; 0 is no limit",
    )
    .is("0"),
    key("master_stop_timeout", SECONDS, "Older name of `primary_stop_timeout`").older(),
    key(
        "primary_race_backoff",
        SECONDS,
        "Seconds a standby leaves a free lead alone while its primary still sends; 0 is off",
    )
    .is("0"),
    key("check_timeline", Kind::Bool, "A member on an older timeline does not take over").is("false"),
    key("synchronous_mode", Kind::Word(MODES), "Whether commits wait for standbys, named ones or a quorum").is("off"),
    key("synchronous_mode_strict", Kind::Bool, "Commits wait also while there is no standby").is("false"),
    key(
        "synchronous_node_count",
        Kind::Int { min: 1, max: u32::MAX as i64, what: "a whole number, at least 1" },
        "Standbys that commits wait for",
    )
    .is("1"),
    key(
        "failsafe_mode",
        Kind::Bool,
        "A primary without the store goes on while a majority of the members vouch for it. Absent: written as `true` by the leader where Surus drives all members",
    )
    .is("false"),
    key("pause", Kind::Bool, "Use `surus pause` and `surus resume`").is("false"),
    key("disk_guard", Kind::Map(DISK_GUARD, Others::Unknown), "What is to stay free on the disk of the log").ours(),
    key("member_slots_ttl", Kind::Time, "How long the slot of a member that is away is kept").is("30min"),
    key(
        "slots",
        Kind::Slots,
        "Permanent replication slots: name and `type`, `database`, `plugin`, `cluster_type`, `failover`",
    ),
    key("permanent_slots", Kind::Slots, "Older name of `slots`").older(),
    key("permanent_replication_slots", Kind::Slots, "Older name of `slots`").older(),
    key(
        "ignore_slots",
        Kind::Maps(IGNORE_SLOT),
        "Slots that are left alone; one matches if all that is given is equal",
    ),
    key(
        "standby_cluster",
        Kind::Map(STANDBY_CLUSTER, Others::Unknown),
        "The cluster that this one follows; in force with one of `host`, `port` and `restore_command`",
    ),
    key(
        "postgresql",
        Kind::Map(postgresql::POSTGRESQL, Others::ReplicaMethods),
        "The PostgreSQL servers; what a member's own file says there comes before it",
    ),
];

const DISK_GUARD: &[Key] = &[
    key("warn", Kind::Reserve, "Less is told").otherwise("10% (128MB to 20GB)").ours(),
    key("switchover", Kind::Reserve, "With less a member with more room is to lead")
        .otherwise("3% (64MB to 5GB)")
        .ours(),
    key("drop_absent_slots", Kind::Bool, "Slots of members that are away go when it is told").is("false").ours(),
];

pub(crate) const IGNORE_SLOT: &[Key] = &[
    key("name", Kind::Text, "Name of the slot"),
    key("type", Kind::Text, "`physical` or `logical`"),
    key("database", Kind::Text, "Its database"),
    key("plugin", Kind::Text, "Its plugin"),
];

const STANDBY_CLUSTER: &[Key] = &[
    key("host", Kind::Text, "Where to stream from; several with commas between"),
    key("port", PORT, "Its port").is("5432"),
    key("primary_slot_name", Kind::Text, "Slot to use there"),
    key("create_replica_methods", Kind::TextsOrCsv, "How the first member is made").is("[basebackup]"),
    key("restore_command", Kind::Text, "Gets files of the archive"),
    key("archive_cleanup_command", Kind::Text, "Told which files of the archive are not needed any more"),
    key("recovery_min_apply_delay", Kind::Text, "How far the leader of this cluster stays behind"),
];
