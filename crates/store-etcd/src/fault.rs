//! What an error of the client means for the call it ended: whether the request may have had an
//! effect, and whether another endpoint may do better (`spec/dcs.md §5`).

use std::error::Error as StdError;
use std::io;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request certainly had no effect; another endpoint may answer.
    NoEffect(String),
    /// The request may have been applied.
    Unknown(String),
    /// What listens there is not the etcd that was configured.
    WrongServer(String),
    /// The token was not accepted: a new one may be.
    Token(String),
    LeaseGone,
    Refused(String),
}

impl Fault {
    pub(crate) fn of(error: &Error) -> Fault {
        match error {
            Error::GRpcStatus(status) => of_status(status),
            Error::LeaseKeepAliveError(text) if text.contains("lease not found") => Fault::LeaseGone,
            Error::TransportError(e) => Fault::Unknown(chain(e)),
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Fault::Refused(error.to_string())
            }
            other => Fault::Unknown(other.to_string()),
        }
    }

    /// For a step before the request proper: whatever became of it, the request was not sent.
    pub(crate) fn before_sending(self) -> Fault {
        match self {
            Fault::Unknown(text) => Fault::NoEffect(text),
            other => other,
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Fault::NoEffect(text)
            | Fault::Unknown(text)
            | Fault::WrongServer(text)
            | Fault::Token(text)
            | Fault::Refused(text) => text,
            Fault::LeaseGone => "the lease has ended",
        }
    }
}

fn of_status(status: &Status) -> Fault {
    let causes = || causes(status.source());
    if let Some(connect) = causes().find(|e| e.is::<ConnectError>()) {
        return of_connect(connect);
    }
    let text = status.message();
    if text.contains("grpc-status header missing") {
        return match status.code() {
            // A proxy in between: it may have passed the request on before it failed.
            Code::Unavailable => Fault::Unknown(format!("a proxy answered in etcd's place: {text}")),
            _ => Fault::WrongServer(format!("the server there answers, but not as etcd v3 does ({text})")),
        };
    }
    let has = |part: &str| text.contains(part);
    if has("requested lease not found") {
        return Fault::LeaseGone;
    }
    let token = ["invalid auth token", "auth token expired", "user name is empty", "auth store is old"];
    if token.iter().any(|t| has(t)) || has("permission denied") {
        return Fault::Token(text.to_owned());
    }
    if let Some(alarm) = refuses_writes(text) {
        return Fault::Refused(format!("{text}: {alarm}"));
    }
    let untouched = ["not a primary lessor", "no leader", "too many requests", "not supported for learner"];
    if untouched.iter().any(|t| has(t)) {
        return Fault::NoEffect(text.to_owned());
    }
    match status.code() {
        Code::FailedPrecondition => Fault::NoEffect(text.to_owned()),
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => Fault::Refused(text.to_owned()),
        _ => Fault::Unknown(match causes().last() {
            Some(cause) => format!("{text}: {cause}"),
            None => text.to_owned(),
        }),
    }
}

/// What an alarm of etcd means: it answers, renews leases and lets go of keys, and no write has an effect until an operator
/// has ended it. By the text of an error, or of the alarm in etcd's status.
pub(crate) fn refuses_writes(text: &str) -> Option<&'static str> {
    let has = |parts: [&str; 2]| parts.iter().any(|part| text.contains(part));
    if has(["database space exceeded", "alarm:NOSPACE"]) {
        return Some(
            "etcd answers, and refuses every write because its database is full (alarm NOSPACE); free space with `etcdctl \
             compact` and `etcdctl defrag`, or raise its quota, then end the alarm with `etcdctl alarm disarm`",
        );
    }
    has(["etcdserver: corrupt cluster", "alarm:CORRUPT"]).then_some(
        "etcd answers, and refuses every write because one of its members has other data than the rest (alarm CORRUPT); \
         replace the member that `etcdctl alarm list` names, then end the alarm with `etcdctl alarm disarm`",
    )
}

/// No connection, so no effect. A TLS failure is not cured by waiting.
fn of_connect(error: &(dyn StdError + 'static)) -> Fault {
    let text = chain(error);
    let io_kind = causes(Some(error)).find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
    // rustls reports every failed handshake as invalid data; a peer that only closes is not told apart from a crash.
    if io_kind == Some(io::ErrorKind::InvalidData) || text.contains("HTTP/2 was not negotiated") {
        let hint = if text.contains("certificate") {
            "check `cacert`, the host name in the server's certificate, and the client's `cert` and `key`"
        } else {
            "check whether the endpoint is http instead of https"
        };
        return Fault::WrongServer(format!("no TLS session: {text}; {hint}"));
    }
    Fault::NoEffect(text)
}

type Cause<'a> = &'a (dyn StdError + 'static);

fn causes(first: Option<Cause<'_>>) -> impl Iterator<Item = Cause<'_>> {
    fn next<'a>(error: &Cause<'a>) -> Option<Cause<'a>> {
        let error: Cause<'a> = *error;
        error.source()
    }
    std::iter::successors(first, next)
}

/// The error and what caused it, without the repetitions that layers of libraries add.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for e in causes(Some(error)) {
        let text = e.to_string();
        match parts.last() {
            Some(last) if last.contains(&text) => {}
            _ => parts.push(text),
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_what_the_caller_can_do() {
        let fault = |code, text: &str| Fault::of(&Error::GRpcStatus(Status::new(code, text)));
        let same = |text: &str| text.to_owned();
        for (code, text, want) in [
            (Code::NotFound, "etcdserver: requested lease not found", Fault::LeaseGone),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Fault::Token(same("etcdserver: invalid auth token")),
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                Fault::Token(same("etcdserver: user name is empty")),
            ),
            (Code::Unknown, "lessor: not a primary lessor", Fault::NoEffect(same("lessor: not a primary lessor"))),
            (Code::Unavailable, "etcdserver: no leader", Fault::NoEffect(same("etcdserver: no leader"))),
            (Code::Unavailable, "etcdserver: leader changed", Fault::Unknown(same("etcdserver: leader changed"))),
            (Code::Unavailable, "etcdserver: request timed out", Fault::Unknown(same("etcdserver: request timed out"))),
            (Code::Cancelled, "Timeout expired", Fault::Unknown(same("Timeout expired"))),
            (Code::FailedPrecondition, "etcdserver: x", Fault::NoEffect(same("etcdserver: x"))),
            (Code::InvalidArgument, "etcdserver: duplicate key", Fault::Refused(same("etcdserver: duplicate key"))),
        ] {
            assert_eq!(fault(code, text), want, "{text}");
        }
        for (code, text, alarm) in [
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "NOSPACE"),
            (Code::DataLoss, "etcdserver: corrupt cluster", "CORRUPT"),
        ] {
            let Fault::Refused(told) = fault(code, text) else { panic!("{text}") };
            assert!(told.starts_with(text) && told.contains(alarm) && told.contains("etcdctl alarm disarm"), "{told}");
            let status = format!("memberID:10276657743932975437 alarm:{alarm} ");
            assert_eq!(refuses_writes(&status), Some(&told[text.len() + 2..]));
        }
        assert_eq!(Fault::of(&Error::LeaseKeepAliveError("lease not found".into())), Fault::LeaseGone);
        assert_eq!(Fault::Unknown("x".into()).before_sending(), Fault::NoEffect("x".into()));
    }
}
