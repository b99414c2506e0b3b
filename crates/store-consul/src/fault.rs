//! What a failure means for the call it ended: whether the request may have had an effect, and whether another agent may
//! do better.

use std::error::Error as StdError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request certainly had no effect; another agent may answer.
    NoEffect(String),
    /// The request may have been applied.
    Unknown(String),
    /// What listens there is not the Consul that was configured.
    WrongServer(String),
    LeaseGone,
    Refused(String),
}

impl Fault {
    pub(crate) fn text(&self) -> &str {
        match self {
            Fault::NoEffect(text) | Fault::Unknown(text) | Fault::WrongServer(text) | Fault::Refused(text) => text,
            Fault::LeaseGone => "the session has ended",
        }
    }

    pub(crate) fn of_transport(error: &reqwest::Error, over_tls: bool) -> Fault {
        let mut text = chain(error);
        // What the agent says of a certificate that it misses comes after the handshake, and is lost if the request was not
        // sent yet.
        if over_tls && text.contains("connection was not ready") {
            text.push_str(
                "; the agent ended the connection at once, perhaps for want of a certificate (`cert`, `key`)",
            );
        }
        if !error.is_connect() {
            return Fault::Unknown(text);
        }
        let tls = causes(Some(error)).any(|e| e.is::<rustls::Error>()) || text.contains("InvalidContentType");
        if !tls {
            return Fault::NoEffect(text);
        }
        let hint = if text.contains("certificate") {
            "check `cacert`, the host name in the agent's certificate, and the client's `cert` and `key`"
        } else {
            "check whether the agent is http instead of https (`scheme`)"
        };
        Fault::WrongServer(format!("no TLS session: {text}; {hint}"))
    }

    /// An answer that is none of those the request knows what to do with. `right` is what it needs of the token.
    pub(crate) fn of_answer(status: u16, body: &str, right: &str) -> Fault {
        let said = first_line(body);
        let has = |part: &str| body.contains(part);
        if has("Permission denied") || has("ACL not found") || status == 403 {
            return Fault::Refused(denied(said, right));
        }
        if has("HTTP request to an HTTPS server") {
            return Fault::WrongServer(format!("{said}; set `scheme: https`"));
        }
        // Nobody took the request in. All else the server may have passed on before it failed.
        let untouched = [
            "No cluster leader",
            "node is not the leader",
            "No known Consul servers",
            "failed to get conn",
            "No path to datacenter",
            "rate limit exceeded",
        ];
        if status == 429 || untouched.iter().any(|text| has(text)) {
            return Fault::NoEffect(format!("{said} ({status})"));
        }
        match status {
            400 | 401 | 405 | 413 | 415 | 422 => Fault::Refused(format!("{said} ({status})")),
            404 => Fault::WrongServer(format!("the server there answers, but not as Consul does ({status} {said})")),
            300..400 => Fault::WrongServer(format!("the server there sends its callers elsewhere ({status})")),
            _ => Fault::Unknown(format!("{said} ({status})")),
        }
    }
}

/// Which rule the token's policies lack.
pub(crate) fn denied(said: &str, right: &str) -> String {
    if said.contains("ACL not found") {
        return format!("{said}: Consul does not know the token; set `token` of consul to one that it knows");
    }
    format!("{said}: the token needs a policy with {right}")
}

fn first_line(body: &str) -> &str {
    let line = body.trim().lines().next().unwrap_or_default();
    let end = line.char_indices().nth(300).map_or(line.len(), |(at, _)| at);
    if line.is_empty() { "no text" } else { &line[..end] }
}

type Cause<'a> = &'a (dyn StdError + 'static);

fn causes(first: Option<Cause<'_>>) -> impl Iterator<Item = Cause<'_>> {
    fn next<'a>(error: &Cause<'a>) -> Option<Cause<'a>> {
        let error: Cause<'a> = *error;
        // An I/O error hides what it was made of from `source`.
        let inner = error.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
        inner.map(|e| e as Cause<'a>).or_else(|| error.source())
    }
    std::iter::successors(first, next)
}

/// What caused the error, without the repetitions that layers of libraries add.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for e in causes(Some(error)) {
        let text = e.to_string();
        // The URL is said beside it.
        if text.starts_with("error sending request") || parts.iter().any(|part| part.contains(&text)) {
            continue;
        }
        parts.push(text);
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_what_the_caller_can_do() {
        for (status, body, want) in [
            (500, "No cluster leader", "no effect"),
            (500, "rpc error getting client: failed to get conn: dial tcp 127.0.0.1:1: refused", "no effect"),
            (500, "node is not the leader", "no effect"),
            (429, "slow down", "no effect"),
            (500, "leadership lost while committing log", "unknown"),
            (500, "rpc error making call: EOF", "unknown"),
            (502, "bad gateway", "unknown"),
            (403, "Permission denied", "refused"),
            (403, "ACL not found", "refused"),
            (500, "rpc error making call: Permission denied", "refused"),
            (413, "Request body too large", "refused"),
            (400, "Client sent an HTTP request to an HTTPS server.\n", "wrong"),
            (404, "<html>", "wrong"),
            (301, "", "wrong"),
        ] {
            let fault = Fault::of_answer(status, body, "key_prefix \"x\"");
            let is = match &fault {
                Fault::NoEffect(_) => "no effect",
                Fault::Unknown(_) => "unknown",
                Fault::WrongServer(_) => "wrong",
                Fault::LeaseGone => "gone",
                Fault::Refused(_) => "refused",
            };
            assert_eq!(is, want, "{status} {body}: {fault:?}");
        }
        assert!(Fault::of_answer(403, "Permission denied", "key_prefix \"x\"").text().contains("key_prefix \"x\""));
    }
}
