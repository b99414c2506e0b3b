//! Which members a command is for (`spec/cli.md §1.7`, `§1.8`).

use surus_core::cluster::{Member, MemberRole};

use crate::cli::Role;
use crate::context::{Cluster, Reading};
use crate::failure::{Outcome, failed};
use crate::listing;
use crate::terminal::Terminal;

pub fn has_role(reading: &Reading, member: &Member, role: Role) -> bool {
    let leads = reading.view.leader_name() == Some(&member.name);
    match role {
        Role::Any => true,
        Role::Leader => leads,
        Role::Primary => leads && member.role != MemberRole::StandbyLeader,
        Role::StandbyLeader => leads && member.role != MemberRole::Primary,
        Role::Replica | Role::Standby => !leads,
    }
}

pub fn with_role(reading: &Reading, role: Role) -> Vec<Member> {
    reading.view.members.values().filter(|m| has_role(reading, m, role)).cloned().collect()
}

/// Shows the table and picks; no names given means all of that role.
pub fn members(
    terminal: &mut Terminal,
    cluster: &Cluster,
    reading: &Reading,
    role: Role,
    names: &[String],
) -> Outcome<Vec<Member>> {
    let mut members = with_role(reading, role);
    if members.is_empty() && names.is_empty() {
        return match role {
            Role::Any => failed(format!("{} cluster doesn't have any members", cluster.name)),
            role => {
                failed(format!("{} cluster doesn't have any members with the role '{}'", cluster.name, role.word()))
            }
        };
    }
    listing::show_topology(terminal, cluster, reading)?;
    if !names.is_empty() {
        // A name that is wrong must not be passed over in silence next to names that are right.
        let unknown: Vec<&str> = names
            .iter()
            .filter(|name| !reading.view.members.keys().any(|m| m.as_str() == name.as_str()))
            .map(String::as_str)
            .collect();
        members.retain(|m| names.iter().any(|name| name == m.name.as_str()));
        if members.is_empty() {
            return failed(format!("No '{}' among provided members", role.word()));
        }
        if !unknown.is_empty() {
            return failed(format!("no such member in cluster {}: {}", cluster.name, unknown.join(", ")));
        }
    }
    Ok(members)
}

pub fn names(members: &[Member]) -> String {
    members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
}

pub fn confirm(terminal: &mut Terminal, force: bool, action: &str, members: &[Member]) -> Outcome {
    if !force && !terminal.confirm(&format!("Are you sure you want to {action} members {}?", names(members)))? {
        return failed(format!("Aborted {action}"));
    }
    Ok(())
}
