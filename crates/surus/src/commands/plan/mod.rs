//! `plan`: what a change of the dynamic configuration would do, before it is made. Changes nothing.

mod effects;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use surus_api::MemberSettings;
use surus_config::{DynamicConfig, LocalConfig};

pub use self::effects::LIMITS;
use self::effects::{Effect, Order, Row};
use crate::cli::{Format, Plan};
use crate::commands::edit_config::{self, Changes};
use crate::context::{Context, Reading};
use crate::failure::{Failure, OrFail, Outcome, failed};
use crate::table;
use crate::terminal::{Terminal, say};

const LIMIT: Duration = Duration::from_secs(4);

pub async fn plan(context: &Context, terminal: &mut Terminal, args: &Plan) -> Outcome {
    let cluster = context.cluster(args.cluster.as_deref(), args.group)?;
    let reading = cluster.read().await?;
    let Some(config) = &reading.view.config else {
        return failed(format!("The config key does not exist in the cluster {}", cluster.name));
    };
    let changes =
        Changes { apply: args.file.as_deref(), replace: args.replace.as_deref(), set: &args.set, pg: &args.pg };
    if changes.is_empty() {
        return Err(Failure::Usage(
            "nothing to plan: give a YAML file to merge, --replace FILE, -s KEY=VALUE or -p PARAMETER=VALUE".to_owned(),
        ));
    }
    let asked = ask(context, &reading).await;
    let plan = match args.file.as_deref().filter(|file| is_of_a_member(file)) {
        Some(file) => of_file(file, &config.value, &asked)?,
        None => {
            let mut document = config.value.clone();
            edit_config::change(terminal, &mut document, &changes)?;
            effects::plan(&config.value, &document, &asked.members)
        }
    };
    if args.format == Format::Pretty {
        show(terminal, &plan, &asked.silent)?;
    } else {
        let silent: Vec<Value> = asked.silent.iter().map(|(name, why)| json!({"member": name, "why": why})).collect();
        let whole =
            json!({"changes": plan.rows, "restart_order": plan.order, "restarts": plan.restarts, "not_asked": silent});
        table::objects_out(terminal, args.format, &whole)?;
    }
    if plan.rows.iter().any(|row| row.effect == Effect::Refused) { Err(Failure::Said) } else { Ok(()) }
}

/// A file of a member, or a directory, in place of a change of the dynamic configuration.
fn is_of_a_member(file: &str) -> bool {
    let path = Path::new(file);
    let own = |document: Value| document.get("restapi").is_some() || document.pointer("/postgresql/listen").is_some();
    file != "-" && (path.is_dir() || surus_config::merged(Some(path), &BTreeMap::new()).is_ok_and(own))
}

fn of_file(file: &str, stored: &Value, asked: &Asked) -> Outcome<effects::Plan> {
    let local = LocalConfig::load(Some(Path::new(file)), &surus_config::environment()).or_fail()?;
    let name = local.name.as_str();
    let Some(member) = asked.members.iter().find(|member| member.name == name) else {
        let why = asked.silent.iter().find(|(silent, _)| silent == name);
        let why = why.map_or("it is not in the cluster", |(_, why)| why.as_str());
        return failed(format!("{name}, whose file this is, tells nothing to compare with: {why}"));
    };
    let dynamic = DynamicConfig::read(stored).0;
    Ok(effects::of_file(&local, &dynamic, member))
}

/// What `edit-config` shows before it asks: that something is refused, or has no effect, or needs a restart.
pub async fn preview(
    context: &Context,
    terminal: &mut Terminal,
    reading: &Reading,
    before: &Value,
    after: &Value,
) -> Outcome {
    let asked = ask(context, reading).await;
    let mut plan = effects::plan(before, after, &asked.members);
    plan.rows.retain(|row| !matches!(row.effect, Effect::AtOnce | Effect::Reload));
    if plan.rows.is_empty() {
        return Ok(());
    }
    // Who does not answer is told by `plan`; here it would be noise in front of a question.
    show(terminal, &plan, &[])
}

struct Asked {
    members: Vec<MemberSettings>,
    /// Those that did not answer, and why.
    silent: Vec<(String, String)>,
}

async fn ask(context: &Context, reading: &Reading) -> Asked {
    let settings = member_settings(context, reading).await;
    let mut asked = Asked { members: Vec::new(), silent: Vec::new() };
    for (name, answer) in settings {
        match answer {
            Ok(settings) => asked.members.push(settings),
            Err(why) => asked.silent.push((name, why)),
        }
    }
    asked
}

/// What every member says of its settings, the leader first.
pub async fn member_settings(context: &Context, reading: &Reading) -> Vec<(String, Result<MemberSettings, String>)> {
    join_all(reading.askable().into_iter().map(|(member, url)| one(context, member.name.to_string(), url))).await
}

async fn one(context: &Context, name: String, url: &str) -> (String, Result<MemberSettings, String>) {
    let settings = match context.api.get(url, "/settings", LIMIT).await {
        Ok(answer) if answer.is_success() => answer
            .json::<MemberSettings>()
            .map_err(|_| "it does not tell its settings: it is Patroni, or an older version".to_owned()),
        Ok(answer) => Err(format!("it answered {}", answer.code)),
        Err(e) => Err(e.to_string()),
    };
    (name, settings)
}

const COLUMNS: [&str; 7] = ["Member", "Role", "Setting", "From", "To", "Takes effect", "Why"];

fn show(terminal: &mut Terminal, plan: &effects::Plan, silent: &[(String, String)]) -> Outcome {
    if plan.rows.is_empty() {
        say!(terminal, "Nothing would change");
    } else {
        let rows: Vec<Vec<String>> = plan.rows.iter().map(cells).collect();
        terminal.write(&table::draw(None, &COLUMNS, &rows))?;
    }
    if let Some(order) = &plan.order {
        let restarts = plan.restarts.join(", ");
        match order {
            Order::Any => say!(
                terminal,
                "A restart of PostgreSQL is needed on {restarts}, in any order: `surus restart CLUSTER --pending`"
            ),
            Order::ReplicasFirst => say!(
                terminal,
                "A restart of PostgreSQL is needed, replicas before the leader, because a limit rises: {restarts}"
            ),
            Order::LeaderFirst => say!(
                terminal,
                "A restart of PostgreSQL is needed, the leader before the replicas, because a limit falls: {restarts}"
            ),
            Order::InTwoSteps => say!(
                terminal,
                "Some limits rise and some fall: change those that rise first, restart replicas before the leader, then the others"
            ),
        }
    }
    for (name, why) in silent {
        say!(terminal, "{name} was not asked: {why}");
    }
    Ok(())
}

fn cells(row: &Row) -> Vec<String> {
    let or_default = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let now = match (&row.now, &row.from) {
        (Some(now), None) => format!("({now})"),
        _ => or_default(&row.from),
    };
    let role = row.role.as_deref().unwrap_or_default().replace('_', " ");
    vec![
        row.member.clone().unwrap_or_else(|| "all".to_owned()),
        role,
        row.setting.strip_prefix("postgresql.parameters.").unwrap_or(&row.setting).to_owned(),
        now,
        or_default(&row.to),
        row.effect.words().to_owned(),
        row.why.clone(),
    ]
}
