//! `version`.

use surus_agent::rest::COMPATIBLE_VERSION;
use surus_api::PatroniStatus;

use crate::cli::{Global, Version};
use crate::commands::API_LIMIT;
use crate::context::Context;
use crate::failure::Outcome;
use crate::terminal::{Terminal, say};

pub async fn version(args: &Version, global: &Global, terminal: &mut Terminal) -> Outcome {
    match (crate::program_name().as_str(), env!("CARGO_PKG_VERSION")) {
        // Scripts compare it with the versions they know.
        (name @ "patronictl", own) => say!(terminal, "{name} version {COMPATIBLE_VERSION} (Surus {own})"),
        (name, own) => say!(terminal, "{name} version {own}"),
    }
    let Some(name) = &args.cluster_name else { return Ok(()) };
    let context = Context::open(global).await?;
    let cluster = context.cluster(Some(name), args.group)?;
    let reading = cluster.read().await?;
    say!(terminal);
    for member in reading.view.members.values() {
        let wanted = args.member_names.is_empty() || args.member_names.iter().any(|n| n == member.name.as_str());
        let Some(url) = member.api_url.as_deref().filter(|_| wanted) else { continue };
        let status = match context.api.get(url, "/patroni", API_LIMIT).await {
            Ok(answer) => answer.json::<PatroniStatus>().map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        match status {
            Ok(status) => {
                let server = status.server_version.map(|v| format!(" PostgreSQL {}", server_version(v)));
                say!(terminal, "{}: Patroni {}{}", member.name, status.patroni.version, server.unwrap_or_default());
            }
            Err(error) => say!(terminal, "{}: failed to get version: {error}", member.name),
        }
    }
    Ok(())
}

fn server_version(number: u32) -> String {
    if number >= 100_000 {
        format!("{}.{}", number / 10_000, number % 10_000)
    } else {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_numbers() {
        assert_eq!([server_version(160_004), server_version(90_624)], ["16.4", "9.6.24"]);
    }
}
