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
