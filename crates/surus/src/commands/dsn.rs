//! `dsn`.

use crate::cli::{Dsn, Role};
use crate::commands::select;
use crate::context::Context;
use crate::failure::{Outcome, failed};
use crate::terminal::{Terminal, say};

pub async fn dsn(context: &Context, terminal: &mut Terminal, args: &Dsn) -> Outcome {
    if args.role.is_some() && args.member.is_some() {
        return failed("--role and --member are mutually exclusive options");
    }
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    let role = match (&args.member, args.role) {
        (Some(_), _) => Role::Any,
        (None, role) => role.unwrap_or(Role::Leader),
    };
    let members = select::with_role(&reading, role);
    let wanted = |name: &str| args.member.as_deref().is_none_or(|m| m == name);
    let found = members.iter().filter(|m| wanted(m.name.as_str())).find_map(surus_core::cluster::Member::upstream);
    match found {
        Some(upstream) => say!(terminal, "host={} port={}", upstream.host, upstream.port),
        None => return failed("Can not find a suitable member"),
    }
    Ok(())
}
