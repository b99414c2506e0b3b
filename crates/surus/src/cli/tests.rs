use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Command {
    read(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}")).command
}

#[test]
fn definitions_are_consistent() {
    definition().debug_assert();
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
        "surus store snapshot demo.json --force",
        "surus store restore demo.json --group 0",
        "surus store recover --lost 10.0.0.2:7800 --lost 10.0.0.3:7800 --survivor 10.0.0.4:7800=3-7-12",
        "surus run",
        "surus explain --since 10m batman",
        "surus explain --journal /a --journal /b --since 2026-10-01T12:00",
        "surus timeline batman --since 2h --member a --member b -f json",
        "surus timeline --journal /a",
        "surus replay /a /b/00000001.jsonl --step --from 1h --to 10m --rule 720",
        "surus check -i x.yml",
        "surus -c x.yml query batman -c SQL -d postgres -U me --role replica -w 1 --format json",
        "surus query -f - -m pg0 --delimiter , --password --config-file x.yml",
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
        assert_eq!(read(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn the_daemon_takes_abbreviations() {
    let daemon = Daemon::try_parse_from(["patroni", "--valid", "x.yml"]).unwrap();
    assert!(daemon.validate_config && daemon.configfile == Some("x.yml".into()));
}

#[test]
fn global_options_before_and_behind_the_verb() {
    let global = |line: &str| {
        let cli = read(line.split(' ')).unwrap();
        (cli.global.config_file.map(|p| p.display().to_string()), cli.global.dcs_url, cli.global.insecure)
    };
    let (x, y) = (Some("x".to_owned()), Some("y".to_owned()));
    assert_eq!(global("surus -c x -d y -k list"), (x.clone(), y.clone(), true));
    assert_eq!(global("surus list -c x -d y -k"), (x.clone(), y.clone(), true));
    assert_eq!(global("surus -c y store members -c x"), (x.clone(), None, false));
    assert_eq!(global("surus -c x query -c y -d z"), (x.clone(), None, false));
    assert_eq!(global("surus query -c y --config-file x --dcs y"), (x, y, false));
}

#[test]
fn every_option_is_described() {
    fn look(command: &clap::Command) {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "{} of {}", arg.get_id(), command.get_name());
        }
        command.get_subcommands().for_each(look);
    }
    look(&definition());
    look(&Daemon::command());
}
