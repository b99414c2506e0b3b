//! `check`: what is wrong with a configuration, before it is used.

mod cluster;

use surus_config::{CheckOptions, ClientConfig, Finding, LocalConfig, Place, Severity, Source};

use crate::cli::Check;
use crate::failure::{Failure, Outcome};
use crate::terminal::{Terminal, say};
use crate::yaml;

pub fn check(terminal: &mut Terminal, args: &Check, quiet: bool) -> Outcome {
    if args.schema {
        let text = serde_json::to_string_pretty(&surus_config::schema()).unwrap_or_default();
        return terminal.line(format_args!("{text}"));
    }
    let path = args.config.as_deref();
    if let Some(path) = path
        && let Err(error) = std::fs::metadata(path)
    {
        return Err(Failure::Message(format!("{}: {error}", path.display())));
    }
    let env = surus_config::environment();
    let options = CheckOptions { ignore_listen_port: args.ignore_listen_port };
    let mut findings = surus_config::check(path, &env, options);
    let local = LocalConfig::load(path, &env);
    findings.extend(local.as_ref().ok().and_then(passfile));
    let mut wrong = tell(&findings);
    if let (false, Ok(local), Ok(client)) = (wrong || args.offline, local, ClientConfig::load(path, &env)) {
        match cluster::check(&local, client) {
            Ok(found) => findings = found,
            Err(why) => {
                crate::complain(&format!("Not compared with the cluster, as with --offline: {why}"));
                findings.clear();
            }
        }
        wrong = tell(&findings);
    }
    if args.print {
        let document = surus_config::merged(path, &env).map_err(|e| Failure::Message(e.to_string()))?;
        terminal.write(&yaml::block(&document))?;
    }
    if wrong {
        return Err(Failure::Said);
    }
    if !quiet {
        let what = path.map_or("The configuration from the environment".to_owned(), |p| p.display().to_string());
        say!(terminal, "{what} is valid");
    }
    Ok(())
}

/// An agent does not start with one that the server could not read.
fn passfile(local: &LocalConfig) -> Option<Finding> {
    let postgresql = &local.postgresql;
    postgresql.authentication.replication.password.as_ref()?;
    let (key, data_dir) = ("postgresql.pgpass", &postgresql.data_dir);
    let file = postgresql.pgpass.clone().unwrap_or_else(|| surus_postgres::default_passfile(data_dir));
    let fault = surus_postgres::check_passfile(data_dir, &file).err()?.to_string();
    let place = local.source_of(key).or_else(|| local.source_of("postgresql")).or_else(|| local.source_of("")).cloned();
    Some(Finding {
        severity: Severity::Error,
        place: place.unwrap_or_else(|| Place::of(Source::Default)),
        path: key.to_owned(),
        message: fault.strip_prefix("postgresql.pgpass: ").unwrap_or(&fault).to_owned(),
    })
}

/// `true`: there is an error among them.
fn tell(findings: &[Finding]) -> bool {
    for finding in findings {
        match finding.severity {
            Severity::Error => crate::complain(&finding.to_string()),
            Severity::Warning => crate::warn(&finding.to_string()),
        }
    }
    findings.iter().any(|finding| finding.severity == Severity::Error)
}
