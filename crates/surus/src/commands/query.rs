//! `query`: SQL on a member (`spec/cli.md §3.14`).

mod libpq;
mod values;

use std::io::ErrorKind;
use std::time::Duration;

use surus_core::MemberName;
use surus_core::cluster::Upstream;
use surus_postgres::Console;
use tokio::time::Instant;

use crate::cli::{Format, Query, Role};
use crate::commands::select;
use crate::context::{Cluster, Context, Reading};
use crate::failure::{Failure, OrFail, Outcome, failed};
use crate::table;
use crate::terminal::{Terminal, say};
use crate::when;
use libpq::Identity;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

pub async fn query(context: &Context, terminal: &mut Terminal, args: &Query) -> Outcome {
    if args.role.is_some() && args.member.is_some() {
        return failed("--role and --member are mutually exclusive options");
    }
    let sql = match (&args.command, &args.file) {
        (Some(_), Some(_)) => return failed("--file and --command are mutually exclusive options"),
        (None, None) => return failed("You need to specify either --command or --file"),
        (Some(sql), None) => sql.clone(),
        (None, Some(file)) => read(terminal, file)?,
    };
    let password = if args.password { Some(terminal.ask_hidden("Password")?) } else { None };
    let identity = Identity::new(&surus_config::environment(), args.username.clone(), args.dbname.clone(), password);
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let mut asked = Asked { args, sql: &sql, identity, open: None };
    let Some(every) = args.watch.interval() else {
        return match asked.once(terminal, &cluster).await? {
            true => Ok(()),
            false => Err(Failure::Said),
        };
    };
    let mut next = Instant::now();
    loop {
        match asked.once(terminal, &cluster).await {
            Err(Failure::Message(text)) => say!(terminal, "Error: {text}"),
            other => {
                other?;
            }
        }
        next = (next + every).max(Instant::now());
        tokio::time::sleep_until(next).await;
    }
}

fn read(terminal: &mut Terminal, file: &str) -> Outcome<String> {
    if file == "-" {
        return terminal.read_all();
    }
    match std::fs::read_to_string(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(Failure::Usage(format!("Invalid value for '--file' / '-f': '{file}': No such file or directory")))
        }
        read => read.or_fail_with(format!("{file} cannot be read")),
    }
}

struct Asked<'a> {
    args: &'a Query,
    sql: &'a str,
    identity: Identity,
    /// Kept from one round of watching to the next.
    open: Option<(MemberName, Console)>,
}

impl Asked<'_> {
    /// Whether the server was asked and answered. What went wrong stands on the output, where the rows would be.
    async fn once(&mut self, terminal: &mut Terminal, cluster: &Cluster) -> Outcome<bool> {
        let reading = cluster.read().await?;
        let sql = self.sql;
        let problem = match self.connection(&reading).await {
            Err(problem) => problem,
            Ok(console) => match console.run(sql).await {
                Ok(Some(answer)) => {
                    values::print(terminal, self.args.format, &self.args.delimiter, &answer)?;
                    return Ok(true);
                }
                Ok(None) => return Ok(true),
                Err(error) => {
                    // Programs look for the code, and people need the text.
                    crate::complain(&format!("Error: {error}"));
                    format!("ERROR, SQLSTATE: {}", error.sqlstate().map_or_else(|| one_line(&error), str::to_owned))
                }
            },
        };
        let row = [when::stamp_seconds(), problem];
        match self.args.format {
            Format::Tsv => say!(terminal, "{}", row.join(&self.args.delimiter)),
            format => {
                let row = row.map(Into::into).to_vec();
                table::print(terminal, format, &["Time", "Error"], &[row], false)?;
            }
        }
        Ok(false)
    }

    /// The connection that is open already if it is still to whom it should be, or a new one.
    async fn connection(&mut self, reading: &Reading) -> Result<&Console, String> {
        let wanted = self.candidates(reading);
        let kept = match self.open.take() {
            Some((name, console)) if !console.is_closed() && wanted.iter().any(|u| u.name == name) => {
                self.suits(&console).await.unwrap_or(false).then_some((name, console))
            }
            _ => None,
        };
        let open = match kept {
            Some(open) => open,
            None => self.connect(&wanted).await?,
        };
        Ok(&self.open.insert(open).1)
    }

    fn candidates(&self, reading: &Reading) -> Vec<Upstream> {
        let members = match (&self.args.member, self.args.role) {
            (Some(name), _) => reading.view.members.values().filter(|m| m.name.as_str() == name).cloned().collect(),
            (None, role) => select::with_role(reading, role.unwrap_or(Role::Leader)),
        };
        members.iter().filter_map(|m| m.upstream()).collect()
    }

    async fn connect(&self, wanted: &[Upstream]) -> Result<(MemberName, Console), String> {
        let mut last = None;
        for upstream in wanted {
            let identity = &self.identity;
            let credentials = identity.credentials(&upstream.host, upstream.port);
            let limit = Instant::now() + CONNECT_LIMIT;
            let options = identity.options.clone();
            match Console::connect(upstream, &credentials, &identity.database, options, limit).await {
                Ok(console) => match self.suits(&console).await {
                    Ok(true) => return Ok((upstream.name.clone(), console)),
                    Ok(false) => {}
                    Err(error) => last = Some(error),
                },
                Err(error) => last = Some(one_line(&error)),
            }
        }
        Err(match (last, &self.args.member, self.args.role) {
            (Some(error), _, _) => format!("ERROR, SQLSTATE: {error}"),
            (None, Some(member), _) => format!("No connection to member {member} is available"),
            (None, None, Some(role)) => format!("No connection to role '{}' is available", role.word()),
            (None, None, None) => "No connection is available".to_owned(),
        })
    }

    /// Whether the server is in the role asked for, as it says itself: the store may not have heard yet.
    async fn suits(&self, console: &Console) -> Result<bool, String> {
        let in_recovery = match self.args.role {
            None | Some(Role::Leader | Role::Any) => return Ok(true),
            Some(Role::Primary) => false,
            Some(Role::Replica | Role::Standby | Role::StandbyLeader) => true,
        };
        console.in_recovery().await.map(|is| is == in_recovery).map_err(|e| one_line(&e))
    }
}

fn one_line(error: &surus_postgres::PgError) -> String {
    error.to_string().replace('\n', " ")
}
