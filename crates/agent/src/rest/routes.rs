//! Every request that has an answer of its own. The router finds its work in this table and `GET /openapi.json` is
//! written from it, so that neither knows a request that the other does not.

use axum::http::Method;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Read(Read),
    Change(Change),
}

/// Requests that change nothing and are never refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Also every path that is none of the others.
    Health,
    Liveness,
    Readiness,
    Status,
    Cluster,
    History,
    Config,
    Failsafe,
    Metrics,
    Explain,
    Loss,
    Migrate,
    Settings,
    OpenApi,
    Page,
}

/// Requests that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Reload,
    Restart,
    CancelRestart,
    Reinitialize,
    Switchover,
    CancelSwitchover,
    Failover,
    Failsafe,
    Consent,
    PatchConfig,
    PutConfig,
    AcknowledgeLoss,
    PrepareMove,
    MoveStore,
    ForgetMove,
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    None,
    /// A JSON object of this schema, or nothing.
    Optional(&'static str),
    Required(&'static str),
}

/// What the answers with code 200 are; all others but those of health checks are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The code says everything.
    Nothing,
    Text,
    Page,
    /// JSON of this schema.
    Json(&'static str),
}

pub struct Route {
    pub method: &'static str,
    /// The first segment decides; `{id}` stands for the second one.
    pub path: &'static str,
    pub endpoint: Endpoint,
    pub summary: &'static str,
    pub parameters: &'static [Parameter],
    pub input: Input,
    pub output: Output,
    /// Codes and what each means here, besides those that every request of the kind can get.
    pub answers: &'static [(u16, &'static str)],
}

pub struct Parameter {
    pub name: &'static str,
    pub description: &'static str,
    pub values: &'static [&'static str],
}

const fn parameter(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, description, values: &[] }
}

const LAG: Parameter = parameter(
    "lag",
    "Largest replay lag in bytes, as a number with an optional unit B, kB, MB, GB or TB. What cannot be read is no limit",
);
const STATE: Parameter =
    parameter("replication_state", "How the standby must receive: streaming, or in archive recovery");
const MODE: Parameter = Parameter {
    name: "mode",
    description: "Which position the lag is counted from: what is replayed, or what is received",
    values: &["apply", "write"],
};
const SINCE: Parameter =
    parameter("since", "What the journal tells since then: a number of seconds such as 600s, or a time in ISO 8601");
const OF_STANDBYS: &[Parameter] = &[LAG, STATE];

/// The checks by name, and when each passes.
pub const HEALTH: &[(&str, &str, &[Parameter])] = &[
    ("/", "Like /primary", &[]),
    ("/primary", "This member leads and may write", &[]),
    ("/master", "Older spelling of /primary", &[]),
    ("/read-write", "Like /primary", &[]),
    ("/leader", "This member leads, also as the leader of a standby cluster", &[]),
    ("/standby-leader", "This member leads a standby cluster", &[]),
    ("/standby_leader", "Like /standby-leader", &[]),
    ("/replica", "A running standby that may serve readers", OF_STANDBYS),
    ("/read-only", "The leader, or a standby as in /replica", OF_STANDBYS),
    ("/sync", "A synchronous standby", OF_STANDBYS),
    ("/synchronous", "Like /sync", OF_STANDBYS),
    ("/read-only-sync", "The leader, or a synchronous standby", OF_STANDBYS),
    ("/read-only-synchronous", "Like /read-only-sync", OF_STANDBYS),
    ("/quorum", "A standby that counts for the quorum", OF_STANDBYS),
    ("/read-only-quorum", "The leader, or a standby that counts for the quorum", OF_STANDBYS),
    ("/async", "A standby that no commit waits for", OF_STANDBYS),
    ("/asynchronous", "Like /async", OF_STANDBYS),
    ("/health", "PostgreSQL runs", &[]),
];

const PASSES: &[(u16, &str)] = &[(200, "It does"), (503, "It does not")];
const STORE_AWAY: (u16, &str) = (503, "The store does not answer, or not in time; the text says more");
const MOVE_REFUSED: (u16, &str) = (412, "Not done, and why");
const AGENT_STARTING: (u16, &str) = (503, "The agent is starting");
const NOT_KEPT: (u16, &str) = (502, "The store refuses");

const fn get(path: &'static str, read: Read, output: Output, summary: &'static str) -> Route {
    Route {
        method: "GET",
        path,
        endpoint: Endpoint::Read(read),
        summary,
        parameters: &[],
        input: Input::None,
        output,
        answers: &[],
    }
}

const fn change(
    method: &'static str,
    path: &'static str,
    change: Change,
    input: Input,
    summary: &'static str,
) -> Route {
    Route {
        method,
        path,
        endpoint: Endpoint::Change(change),
        summary,
        parameters: &[],
        input,
        output: Output::Text,
        answers: &[],
    }
}

impl Route {
    const fn answers(self, answers: &'static [(u16, &'static str)]) -> Route {
        Route { answers, ..self }
    }

    const fn parameters(self, parameters: &'static [Parameter]) -> Route {
        Route { parameters, ..self }
    }

    const fn json(self, schema: &'static str) -> Route {
        Route { output: Output::Json(schema), ..self }
    }

    fn segment(&self) -> &'static str {
        first_segment(self.path)
    }
}

pub fn first_segment(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// What answers a request that reads; HEAD and OPTIONS are answered as GET.
pub fn read(path: &str) -> Read {
    let segment = first_segment(path);
    let found = ROUTES.iter().find_map(|route| match route.endpoint {
        Endpoint::Read(read) if route.segment() == segment => Some(read),
        _ => None,
    });
    found.unwrap_or(Read::Health)
}

/// The change that a request asks for, if there is one of that name.
pub fn change_of(method: &Method, path: &str) -> Option<Change> {
    let segment = first_segment(path);
    ROUTES.iter().find_map(|route| match route.endpoint {
        Endpoint::Change(change) if route.method == method.as_str() && route.segment() == segment => Some(change),
        _ => None,
    })
}

/// All but the health checks.
pub const ROUTES: &[Route] = &[
    get("/liveness", Read::Liveness, Output::Nothing, "The agent works: its loop turns").answers(PASSES),
    get(
        "/readiness",
        Read::Readiness,
        Output::Nothing,
        "This member leads, or streams closely enough behind the leader",
    )
    .parameters(&[LAG, MODE])
    .answers(PASSES),
    get("/patroni", Read::Status, Output::Json("Status"), "The state of this member"),
    get("/cluster", Read::Cluster, Output::Json("Cluster"), "All members, read from the store").answers(&[STORE_AWAY]),
    get("/history", Read::History, Output::Json("History"), "The changes of timeline").answers(&[STORE_AWAY]),
    get("/config", Read::Config, Output::Json("Configuration"), "The dynamic configuration")
        .answers(&[(502, "The store holds no valid one"), STORE_AWAY]),
    get("/failsafe", Read::Failsafe, Output::Json("Failsafe"), "The members that a primary without the store asks")
        .answers(&[(502, "Failsafe mode is off")]),
    get("/metrics", Read::Metrics, Output::Text, "Metrics in the text format of Prometheus"),
    get("/explain", Read::Explain, Output::Json("Explanation"), "Why this member does what it does")
        .parameters(&[SINCE])
        .answers(&[(400, "since is no time"), (404, "No journal is kept"), (503, "The journal cannot be read")]),
    get("/loss", Read::Loss, Output::Json("Losses"), "The loss receipts of this member")
        .answers(&[(503, "The disk does not answer")]),
    get("/migrate", Read::Migrate, Output::Json("Move"), "This member's part in a move to another store")
        .answers(&[(503, "The agent is starting")]),
    get(
        "/settings",
        Read::Settings,
        Output::Json("Settings"),
        "What PostgreSQL is set to here, and where from; texts and files only for who may change something",
    )
    .answers(&[(503, "The agent is busy or ends")]),
    get("/openapi.json", Read::OpenApi, Output::Json("OpenApi"), "This document"),
    get("/ui", Read::Page, Output::Page, "The cluster in a browser"),
    change("POST", "/reload", Change::Reload, Input::None, "Read the configuration file of this member again")
        .answers(&[(202, "Taken in"), (503, "Not taken in, and why")]),
    change("POST", "/restart", Change::Restart, Input::Optional("Restart"), "Restart PostgreSQL, now or at a time")
        .answers(&[
            (200, "Restarted"),
            (202, "Scheduled"),
            (409, "Another restart is scheduled"),
            (422, "The time cannot be understood, or has passed"),
            (500, "Nothing is scheduled while the cluster is paused"),
            (503, "Not restarted, and why"),
        ]),
    change("DELETE", "/restart", Change::CancelRestart, Input::None, "Take a scheduled restart back").answers(&[
        (200, "Taken back"),
        (404, "None is scheduled"),
        (503, "The agent does not answer"),
    ]),
    change(
        "POST",
        "/reinitialize",
        Change::Reinitialize,
        Input::Optional("Reinitialize"),
        "Replace the data directory of this standby by a new copy",
    )
    .answers(&[(200, "Begun"), (503, "Not begun, and why")]),
    change(
        "POST",
        "/switchover",
        Change::Switchover,
        Input::Required("Switchover"),
        "Hand the lead over, now or at a time",
    )
    .answers(HANDOVER),
    change("DELETE", "/switchover", Change::CancelSwitchover, Input::None, "Take a scheduled switchover back").answers(
        &[(200, "Taken back"), (404, "None is scheduled"), (409, "It was changed meanwhile"), NOT_KEPT, STORE_AWAY],
    ),
    change("POST", "/failover", Change::Failover, Input::Required("Failover"), "Give the lead to a member")
        .answers(HANDOVER),
    change(
        "POST",
        "/failsafe",
        Change::Failsafe,
        Input::Required("FailsafeCall"),
        "A primary without the store asks whether it may go on",
    )
    .answers(&[
        (200, "Accepted: it may"),
        (409, "This member has promised another that it may not, or cannot promise anything yet"),
        (500, "This member leads"),
        (502, "Failsafe mode is off"),
    ]),
    change(
        "POST",
        "/consent",
        Change::Consent,
        Input::Required("ConsentCall"),
        "A member asks whether it may lead although another may go on without the store",
    )
    .answers(&[
        (200, "Accepted: this member vouches for nobody else meanwhile"),
        (409, "This member has promised another that it may not, or cannot promise anything yet"),
        (500, "This member leads"),
    ]),
    change(
        "PATCH",
        "/config",
        Change::PatchConfig,
        Input::Required("Configuration"),
        "Change the dynamic configuration",
    )
    .json("Configuration")
    .answers(&[(200, "The whole of it"), (409, "It was changed meanwhile"), NOT_KEPT, STORE_AWAY]),
    change("PUT", "/config", Change::PutConfig, Input::Required("Configuration"), "Replace the dynamic configuration")
        .json("Configuration")
        .answers(&[(200, "The new one"), NOT_KEPT, STORE_AWAY]),
    change(
        "DELETE",
        "/loss/{id}",
        Change::AcknowledgeLoss,
        Input::None,
        "Acknowledge a loss receipt and remove its log",
    )
    .answers(&[(200, "Acknowledged"), (404, "There is no such receipt"), (503, "The disk does not answer")]),
    change(
        "POST",
        "/migrate",
        Change::PrepareMove,
        Input::Required("NewStore"),
        "Open the store that the cluster is to be moved to; `surus store migrate` asks for it",
    )
    .answers(&[(200, "It is open; whether it answers, GET tells"), MOVE_REFUSED, AGENT_STARTING]),
    change("PUT", "/migrate", Change::MoveStore, Input::Required("MoveOf"), "Move the cluster, which the leader does")
        .answers(&[(200, "The cluster has moved"), MOVE_REFUSED, (503, "The agent ends")]),
    change(
        "DELETE",
        "/migrate",
        Change::ForgetMove,
        Input::Required("MoveOf"),
        "Close a store that was opened in vain",
    )
    .answers(&[(200, "It is closed, or was not open"), MOVE_REFUSED, AGENT_STARTING]),
];

const HANDOVER: &[(u16, &str)] = &[
    (200, "Done; the text names the new leader"),
    (202, "Scheduled"),
    (409, "Who leads has changed meanwhile"),
    (412, "Not possible, and why"),
    (422, "The time cannot be understood, or has passed"),
    (503, "Failed or not known yet, and why"),
];
