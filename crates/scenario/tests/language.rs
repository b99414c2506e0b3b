//! What the language takes, what it says about what it does not take, and that it can be written back.

use surus_scenario::{Hold, LinkState, Part, Place, Role, Setup, Statement, Store, Target, Who, parse};

const HEADER: &str = "cluster 3 members, store etcd of 3\n";

/// Every statement of the language, as it is written back.
const EVERY: &str = "\
at 10s
after 1500ms
start
start node1
start agent of primary
start store of node2
start all stores
stop node2
kill agent of primary
kill fence of a replica
kill backend of primary
kill walsenders of primary
kill agent and postmaster of all
kill store leader
kill store2
freeze agent and postmaster of primary
thaw all replicas
cut node1 from store
cut node1 from node2 one way
cut primary from everything
cut store leader from store follower
stall primary from all replicas
slow primary from store by 200ms one way
disturb node1 from store
heal
fill disk of primary
hang disk of primary
free disk of primary
step clock of primary by 1h
step clock of node3 back by 2min
switch over
switch over to another replica
fail over to node2
pause
resume
restart primary
reinit a replica
set ttl to 10
request switch over to node3
try kill backend of primary
try request switch over
write
stop writing
remember primary as old
mark
expect primary
expect primary within 10s
expect primary is old
expect primary is not old within 30s
expect primary running
expect all streaming within 1min
expect old streaming
expect all replicas running for 5s
expect old down
expect old read-only
expect writes within 10s
expect no two writers
expect nothing acknowledged is lost
expect losses within settings
expect no failover for 20s
";

fn statements(text: &str) -> Vec<Statement<Who>> {
    parse(&format!("{HEADER}{text}")).expect("a scenario").steps.into_iter().map(|step| step.statement).collect()
}

#[test]
fn every_statement_is_read_and_written_back() {
    let scenario = parse(&format!("{HEADER}{EVERY}")).unwrap();
    assert_eq!(scenario.to_string(), format!("{HEADER}{EVERY}"));
    let lines: Vec<usize> = scenario.steps.iter().map(|step| step.line).collect();
    assert_eq!(lines, (2..2 + EVERY.lines().count()).collect::<Vec<_>>());
}

#[test]
fn says_the_same_in_other_words() {
    for (one, other) in [
        ("at 10 seconds kill the primary", "at 10s\nkill primary"),
        ("after 2min, kill store", "after 2min\nkill all stores"),
        ("kill the store leader # why", "kill store leader"),
        ("  cut   node1  from node2", "cut node1 from node2"),
    ] {
        assert_eq!(statements(one), statements(other), "{one}");
    }
}

#[test]
fn means_what_it_says() {
    let named = |name: &str| Who::Named(name.to_owned());
    let wanted = [
        Statement::Link {
            from: named("node1"),
            to: Place::Member(named("node2")),
            one_way: true,
            state: LinkState::Cut,
        },
        Statement::Freeze(Target { parts: vec![Part::Agent, Part::Postmaster], of: Who::Role(Role::Primary) }),
        Statement::Kill(Target { parts: vec![Part::Node], of: named("node3") }),
        Statement::Kill(Target { parts: vec![Part::Store], of: named("store3") }),
    ];
    let text = "cut node1 from node2 one way\nfreeze agent and postmaster of primary\nkill node3\nkill store3\n";
    assert_eq!(statements(text), wanted);
    let Statement::Expect(expectation) = statements("expect no failover for 2min").remove(0) else { panic!() };
    assert_eq!(expectation.hold, Hold::For(std::time::Duration::from_secs(120)));
}

#[test]
fn the_first_line_says_what_runs() {
    let scenario = parse("# One\n#two\n\ncluster 5 members, store embedded, ttl 5, quorum\nstart\n").unwrap();
    assert_eq!(scenario.about, ["One", "two"]);
    let settings = [("ttl", "5"), ("synchronous_mode", "quorum")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(scenario.setup, Setup { members: 5, store: Some(Store::Embedded), settings: settings.to_vec() });
    assert_eq!(scenario.setup.setting("ttl"), Some("5"));
    assert_eq!(parse(&scenario.to_string()).unwrap().setup, scenario.setup);
    assert_eq!(parse("cluster 3 members").unwrap().setup.store, None);
}

#[test]
fn an_error_points_at_the_word_and_says_what_belongs_there() {
    for (text, at, expected, found) in [
        ("", (1, 1), "\"cluster N members\" as the first line", None),
        ("start\n", (1, 1), "\"cluster N members\" as the first line", Some("start")),
        ("cluster three members", (1, 9), "the number of members", Some("three")),
        ("cluster 3 members, ttl", (1, 23), "its value", None),
        ("cluster 3 members\ncluster 3 members", (2, 1), "one cluster in a file", Some("cluster")),
        ("cluster 3 members\n\n  destroy primary", (3, 3), "a statement: at, after, start", Some("destroy")),
        ("cluster 3 members\nkill agent primary", (2, 12), "\"of\"", Some("primary")),
        ("cluster 3 members\nkill agent and heart of primary", (2, 16), "what: agent, fence", Some("heart")),
        ("cluster 3 members\nkill node4", (2, 6), "what: agent, fence", Some("node4")),
        ("cluster 3 members\nkill agent of node4", (2, 15), "a member: node1 to node3", Some("node4")),
        ("cluster 3 members\nstop old", (2, 6), "a member: node1 to node3", Some("old")),
        ("cluster 3 members\nkill store1", (2, 6), "what: agent, fence", Some("store1")),
        ("cluster 3 members\nremember primary as node1", (2, 21), "a name that is not taken", Some("node1")),
        ("cluster 3 members\ncut node1 with node2", (2, 11), "\"from\"", Some("with")),
        ("cluster 3 members\nafter ten", (2, 7), "a time such as 500ms", Some("ten")),
        ("cluster 3 members\nafter 10", (2, 9), "a unit: ms, s, min or h", None),
        ("cluster 3 members\nafter 99999999999999999999s", (2, 7), "a time such as", Some("99999999999999999999s")),
        ("cluster 3 members\nexpect", (2, 7), "what to expect: primary", None),
        ("cluster 3 members\nexpect no problem", (2, 8), "what to expect: primary", Some("no")),
        ("cluster 3 members\nexpect primary is node1 soon", (2, 25), "\"within\", \"for\"", Some("soon")),
        ("cluster 3 members\nexpect node1 happy", (2, 14), "its state: streaming, running", Some("happy")),
        ("cluster 3 members\nrequest a coffee", (2, 9), "what an operator can ask for", Some("a")),
        ("cluster 3 members\nheal everything", (2, 6), "the end of the line", Some("everything")),
        ("cluster 3 members\nübel node1 ü", (2, 1), "a statement", Some("übel")),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.line, error.column), at, "{text:?}: {error}");
        assert!(error.expected.starts_with(expected), "{text:?}: {error}");
        assert_eq!(error.found.as_deref(), found, "{text:?}: {error}");
    }
}

#[test]
fn every_file_of_the_repository_is_read_and_written_back() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let scenario = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!scenario.about.is_empty(), "{} does not say what it is about", path.display());
        let again = parse(&scenario.to_string()).unwrap();
        let told = |scenario: &surus_scenario::Scenario| {
            let steps: Vec<_> = scenario.steps.iter().map(|step| step.statement.clone()).collect();
            (scenario.about.clone(), scenario.setup.clone(), steps)
        };
        assert_eq!(told(&again), told(&scenario), "{}", path.display());
        files += 1;
    }
    assert!(files > 10, "only {files} files");
}
