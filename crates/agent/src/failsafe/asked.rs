//! Whether members let each other in when they ask (`restapi`), which failsafe mode needs in both directions: nobody could be
//! vouched for without it, and nobody could take over.

use std::net::IpAddr;

use ipnet::IpNet;
use surus_config::{Ctl, RestApi, VerifyClient};

/// As this one's configuration tells: members have the same, as a rule. `Err`: what keeps them out.
pub fn members_may_ask(rest: &RestApi, ctl: &Ctl) -> Result<(), String> {
    let host = rest.connect_address.host.as_str();
    if !rest.allowlist.is_empty() && !rest.allowlist.iter().any(|entry| names(entry, host)) {
        return Err(format!("restapi.allowlist does not have the addresses of members (as {host}, this one's)"));
    }
    let verifies = rest.tls.as_ref().is_some_and(|tls| tls.verify_client != VerifyClient::None);
    if verifies && ctl.certfile.is_none() {
        return Err("restapi.verify_client asks for certificates, and members have none to show (ctl.certfile)".into());
    }
    if rest.authentication.is_some() && rest.authentication != ctl.authentication {
        return Err("ctl.authentication is not what restapi.authentication asks for".into());
    }
    Ok(())
}

fn names(entry: &str, host: &str) -> bool {
    let within = || {
        let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
        let network = entry.parse::<IpNet>().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some(network.contains(&address))
    };
    entry == host || within() == Some(true)
}

#[cfg(test)]
mod tests {
    use surus_config::{BasicAuth, RestTls, Secret};

    use super::*;
    use crate::rest::testing::rest_api;

    #[test]
    fn who_is_let_in() {
        let (mut rest, mut ctl) = (rest_api(), Ctl::default());
        assert_eq!(members_may_ask(&rest, &ctl), Ok(()));
        rest.connect_address.host = "10.0.0.5".into();
        for (allowlist, allowed) in [
            (vec!["10.0.0.0/24"], true),
            (vec!["10.1.0.1", "10.0.0.5"], true),
            (vec!["10.1.0.1"], false),
            (vec!["operators.example"], false),
        ] {
            rest.allowlist = allowlist.iter().map(ToString::to_string).collect();
            assert_eq!(members_may_ask(&rest, &ctl).is_ok(), allowed, "{allowlist:?}");
        }
        rest.connect_address.host = "node1.example".into();
        rest.allowlist = vec!["node1.example".into(), "node2.example".into()];
        assert!(members_may_ask(&rest, &ctl).is_ok());
        let basic = |name: &str| Some(BasicAuth { username: name.into(), password: Secret::new("x") });
        (rest.authentication, ctl.authentication) = (basic("a"), basic("a"));
        assert!(members_may_ask(&rest, &ctl).is_ok());
        ctl.authentication = basic("b");
        assert!(members_may_ask(&rest, &ctl).unwrap_err().contains("ctl.authentication"));
        ctl.authentication = basic("a");
        rest.tls = Some(RestTls {
            certfile: "c".into(),
            keyfile: None,
            keyfile_password: None,
            cafile: None,
            verify_client: VerifyClient::Optional,
        });
        assert!(members_may_ask(&rest, &ctl).unwrap_err().contains("ctl.certfile"));
        ctl.certfile = Some("c".into());
        assert!(members_may_ask(&rest, &ctl).is_ok());
    }
}
