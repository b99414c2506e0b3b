//! The runner on a world of paper: roles and names, time, expectations, and how it ends.

use std::time::Duration;

use surus_scenario::{
    Condition, LinkState, Operation, Part, Place, Role, Setup, Step, Trouble, World, now_or_never, parse, run,
};

/// Three members; whoever is killed stops leading, the next by number leads two seconds later.
#[derive(Default)]
struct Paper {
    now: Duration,
    primary: usize,
    promoted: Duration,
    told: Vec<String>,
}

impl Paper {
    fn tell(&mut self, what: String) -> Result<(), Trouble> {
        self.told.push(format!("{}s {what}", self.now.as_secs()));
        Ok(())
    }

    fn name(&self, offset: usize) -> String {
        format!("node{}", (self.primary + offset) % 3 + 1)
    }
}

impl World for Paper {
    async fn cluster(&mut self, setup: &Setup) -> Result<(), Trouble> {
        self.tell(format!("{setup}"))
    }
    async fn start_all(&mut self) -> Result<(), Trouble> {
        self.now += Duration::from_secs(100);
        self.tell("start".into())
    }
    fn now(&self) -> Duration {
        self.now
    }
    async fn wait_until(&mut self, time: Duration) -> Result<(), Trouble> {
        self.now = self.now.max(time);
        Ok(())
    }
    async fn pause_looking(&mut self) {
        self.now += Duration::from_millis(500);
    }
    fn begins(&mut self, _: &Step) {}
    async fn find(&mut self, role: Role) -> Result<Vec<String>, Trouble> {
        match role {
            Role::Primary if self.now < self.promoted => Err(Trouble::Failed("nobody leads".into())),
            Role::Primary => Ok(vec![self.name(0)]),
            Role::Replica => Ok(vec![self.name(1)]),
            Role::AnotherReplica => Ok(vec![self.name(2)]),
            Role::AllReplicas => Ok(vec![self.name(1), self.name(2)]),
            Role::All => Ok((1..=3).map(|n| format!("node{n}")).collect()),
            Role::StoreLeader | Role::StoreFollower | Role::AllStores => {
                Err(Trouble::NotAvailable("paper has no store".into()))
            }
        }
    }
    async fn start(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        self.tell(format!("start {part} {of}"))
    }
    async fn stop(&mut self, of: &str) -> Result<(), Trouble> {
        self.tell(format!("stop {of}"))
    }
    async fn kill(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        if of == self.name(0) {
            self.primary = (self.primary + 1) % 3;
            self.promoted = self.now + Duration::from_secs(2);
        }
        self.tell(format!("kill {part} {of}"))
    }
    async fn freeze(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        self.tell(format!("freeze {part} {of}"))
    }
    async fn thaw(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        self.tell(format!("thaw {part} {of}"))
    }
    async fn link(&mut self, from: &str, to: &Place<String>, one_way: bool, _: LinkState) -> Result<(), Trouble> {
        self.tell(format!("cut {from} {to:?} {one_way}"))
    }
    async fn heal(&mut self) -> Result<(), Trouble> {
        self.tell("heal".into())
    }
    async fn fill_disk(&mut self, _: &str) -> Result<(), Trouble> {
        Err(Trouble::NotAvailable("paper never fills".into()))
    }
    async fn hang_disk(&mut self, of: &str) -> Result<(), Trouble> {
        self.tell(format!("hang {of}"))
    }
    async fn free_disk(&mut self, of: &str) -> Result<(), Trouble> {
        self.tell(format!("free {of}"))
    }
    async fn step_clock(&mut self, of: &str, by: Duration, back: bool) -> Result<(), Trouble> {
        self.tell(format!("clock {of} {by:?} {back}"))
    }
    async fn operate(&mut self, operation: &Operation<String>, wait: bool) -> Result<(), Trouble> {
        self.tell(format!("{operation} {wait}"))
    }
    async fn write(&mut self) -> Result<(), Trouble> {
        self.tell("write".into())
    }
    async fn stop_writing(&mut self) -> Result<(), Trouble> {
        self.tell("stop writing".into())
    }
    async fn mark(&mut self) -> Result<(), Trouble> {
        self.tell("mark".into())
    }
    async fn look(&mut self, condition: &Condition<String>, _: Duration) -> Result<Result<(), String>, Trouble> {
        let leads = self.now >= self.promoted;
        Ok(match condition {
            Condition::Primary if !leads => Err("nobody leads".into()),
            Condition::PrimaryIs(who) if !leads || *who != self.name(0) => Err(format!("{who} does not lead")),
            Condition::PrimaryIsNot(who) if !leads || *who == self.name(0) => Err(format!("not {who} leads")),
            Condition::NoFailover if self.primary != 0 => Err("the lead moved".into()),
            _ => Ok(()),
        })
    }
}

fn played(text: &str) -> (Vec<String>, Option<String>) {
    let mut world = Paper::default();
    let scenario = parse(&format!("cluster 3 members\n{text}")).expect("a scenario");
    let end = now_or_never(run(&scenario, &mut world)).expect("paper never waits");
    (world.told, end.err().map(|end| end.to_string()))
}

#[test]
fn roles_are_looked_up_where_they_stand_and_names_stay() {
    let (told, end) = played(
        "start\nremember primary as old\nat 5s kill primary\nexpect primary is not old within 3s\n\
         kill agent and fence of old\nkill primary\ncut a replica from another replica one way\ncut all from node1",
    );
    assert_eq!(end, None);
    assert_eq!(
        told[1..],
        [
            "100s start",
            "105s kill node node1",
            "107s kill agent node1",
            "107s kill fence node1",
            "107s kill node node2",
            "107s cut node1 Member(\"node2\") true",
            "107s cut node2 Member(\"node1\") false",
            "107s cut node3 Member(\"node1\") false",
        ]
    );
}

#[test]
fn time_counts_from_the_start() {
    let (told, end) = played("start\nat 2s pause\nafter 3s resume\nat 1s request switch over\nat 10s heal");
    assert_eq!(end, None);
    assert_eq!(told[2..], ["102s pause true", "105s resume true", "105s switch over false", "110s heal"]);
}

#[test]
fn ends_at_the_first_line_that_does_not_hold() {
    for (text, end) in [
        ("start\nexpect primary\n", None),
        ("kill primary\nexpect primary\n", Some("line 3: expect primary: not so: nobody leads")),
        ("kill primary\nexpect primary within 2s\n", None),
        (
            "kill primary\nexpect primary within 1s\n",
            Some("line 3: expect primary within 1s: not so in that time: nobody leads"),
        ),
        ("expect no failover for 5s\n", None),
        (
            "kill primary\nexpect no failover for 5s\n",
            Some("line 3: expect no failover for 5s: not so all the time: the lead moved"),
        ),
        ("kill primary\nexpect primary running within 2s\n", None),
        ("kill primary\ntry kill primary\ntry fill disk of node1\n", None),
        ("kill primary\nkill primary\n", Some("line 3: kill primary: nobody leads")),
        ("fill disk of node1\n", Some("line 2: fill disk of node1: not available here: paper never fills")),
        ("kill store leader\n", Some("line 2: kill store leader: not available here: paper has no store")),
        ("fill disk of all\n", Some("line 2: fill disk of all: all are several: node1, node2, node3")),
    ] {
        assert_eq!(played(text).1.as_deref(), end, "{text}");
    }
}
