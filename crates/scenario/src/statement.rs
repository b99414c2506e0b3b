//! What a scenario can say. Generic over how a member is named: [`Who`] as written, `String` once it is resolved.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The comment at the top of the file, without its `#`.
    pub about: Vec<String>,
    pub setup: Setup,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    pub members: usize,
    /// `None`: whichever store the one who runs it chooses.
    pub store: Option<Store>,
    /// Dynamic configuration, such as `ttl`; values as written.
    pub settings: Vec<(String, String)>,
}

impl Setup {
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Inside the agents.
    Embedded,
    /// That many servers, named `store1`, `store2` ...
    Etcd(usize),
    ZooKeeper(usize),
    Consul(usize),
}

impl Store {
    /// Servers that are no members of the cluster.
    pub fn servers(self) -> usize {
        match self {
            Store::Embedded => 0,
            Store::Etcd(servers) | Store::ZooKeeper(servers) | Store::Consul(servers) => servers,
        }
    }
}

/// A statement and where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    pub statement: Statement<Who>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement<N> {
    /// Waits until this long after the cluster was started.
    At(Duration),
    After(Duration),
    /// All agents, and waits until the cluster is healthy. Time counts from here.
    StartAll,
    Start(Target<N>),
    /// In order: SIGTERM to the agent, which stops PostgreSQL.
    Stop(N),
    /// SIGKILL.
    Kill(Target<N>),
    /// SIGSTOP.
    Freeze(Target<N>),
    /// SIGCONT.
    Thaw(Target<N>),
    /// What happens to everything that `from` sends to `to`, and back unless it is one way.
    Link {
        from: N,
        to: Place<N>,
        one_way: bool,
        state: LinkState,
    },
    /// Every link is whole again.
    Heal,
    FillDisk(N),
    /// Writes to the disk of the data directory do not return.
    HangDisk(N),
    /// Ends `fill` and `hang`.
    FreeDisk(N),
    /// Moves the wall clock that the member's agent sees.
    StepClock {
        of: N,
        by: Duration,
        back: bool,
    },
    /// With `wait` the operator waits for the outcome, which has to be success.
    Operate {
        operation: Operation<N>,
        wait: bool,
    },
    /// Clients begin to write, and keep account of what was acknowledged by whom.
    Write,
    StopWriting,
    Remember {
        who: N,
        name: String,
    },
    /// [`Condition::NoFailover`] counts from here.
    Mark,
    Expect(Expectation<N>),
    /// It does not matter whether it succeeds.
    Try(Box<Statement<N>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<N> {
    pub parts: Vec<Part>,
    pub of: N,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Everything that runs on the member's machine.
    Node,
    Agent,
    Fence,
    Postmaster,
    /// One server process that works for a client.
    Backend,
    /// The processes that send WAL to replicas.
    Walsenders,
    /// One member of the store; of the embedded one, the agent it lives in.
    Store,
}

/// A member as it is written: by name, remembered or given, or by what it is at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Named(String),
    Role(Role),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    /// The first by name that is not the primary.
    Replica,
    /// The second.
    AnotherReplica,
    /// The member of the store that leads it: a member of the cluster with the embedded store, else `store1` ...
    StoreLeader,
    /// The first by name that does not lead the store.
    StoreFollower,
    All,
    AllReplicas,
    /// Every member of the store.
    AllStores,
}

/// The far side of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<N> {
    Store,
    Member(N),
    /// The store and every other member.
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connections are dropped and refused.
    Cut,
    /// Connections stay and nothing comes through.
    Stalled,
    /// Everything arrives that much later.
    Slow(Duration),
    /// Connections carry everything and are lost at random, with the answers that were under way.
    Flaky,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<N> {
    SwitchOver {
        to: Option<N>,
    },
    FailOver {
        to: N,
    },
    Pause,
    Resume,
    /// Of PostgreSQL.
    Restart(N),
    Reinit(N),
    /// A change of the dynamic configuration.
    Set {
        key: String,
        value: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation<N> {
    pub condition: Condition<N>,
    pub hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Now,
    /// It becomes true in that time.
    Within(Duration),
    /// It is true all that time.
    For(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition<N> {
    /// One member leads and accepts writes.
    Primary,
    PrimaryIs(N),
    /// Another member leads and accepts writes.
    PrimaryIsNot(N),
    AllStreaming,
    /// A standby may be promoted without a loss: `/sync` names it.
    SynchronousStandby,
    Streaming(N),
    /// Its PostgreSQL serves.
    Running(N),
    /// No process of its PostgreSQL is left.
    Down(N),
    /// Its PostgreSQL accepts no writes, whatever state it is in.
    ReadOnly(N),
    /// A write that was sent after the line was reached is acknowledged.
    Writes,
    /// No commit was acknowledged by a server after another one was promoted.
    NoTwoWriters,
    /// Every acknowledged write is on the primary.
    NothingLost,
    /// What is missing is no more than the settings allow an asynchronous failover to lose.
    LossWithinSettings,
    /// The lead never moved since the start or the last `mark`.
    NoFailover,
}
