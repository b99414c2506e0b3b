//! Which request is answered by what (`spec/rest-api.md §1.1`).
//!
//! The first segment of the path decides ([`routes`]), and for reading every path has an answer: a load
//! balancer that asks for something unknown is told that the check does not pass.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use surus_api::cluster_document;

use super::access::Peer;
use super::app::App;
use super::facts::Facts;
use super::outcome::Action;
use super::query::Query;
use super::respond::Refusal;
use super::routes::{Change, Read};
use super::switchover;
use super::{
    body, configuration, explain, failsafe, health, loss, metrics, migrate, node, openapi, respond, routes, ui,
};

/// What the requests are answered from may be exchanged.
pub fn router(app: Arc<ArcSwap<App>>) -> Router {
    Router::new().fallback(dispatch).with_state(app)
}

async fn dispatch(State(app): State<Arc<ArcSwap<App>>>, request: Request) -> Response {
    let app = app.load_full();
    let method = request.method().clone();
    let path = format!("/{}", request.uri().path().trim_start_matches('/'));
    let reads = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let answer = if reads {
        let query = Query::parse(request.uri().query());
        match routes::read(&path) {
            Read::Settings => {
                let peer = request.extensions().get::<Peer>().copied();
                configuration::settings(&app, may_change(&app, peer, request.headers()).await).await
            }
            asked => read(&app, asked, &path, &query).await,
        }
    } else {
        match routes::change_of(&method, &path) {
            Some(change) => perform(&app, change, request).await,
            None => Ok(respond::text(
                StatusCode::NOT_IMPLEMENTED,
                format!(
                    "Unsupported method ('{method}') for /{}: Server does not support this operation",
                    routes::first_segment(&path)
                ),
            )),
        }
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    if method == Method::OPTIONS {
        // Load balancers check with it and want the status alone; for HEAD the connection drops the body.
        *response.body_mut() = Body::empty();
    }
    response.headers_mut().extend(app.policy.load().headers.iter().cloned());
    response
}

async fn read(app: &App, asked: Read, path: &str, query: &Query) -> Result<Response, Refusal> {
    let handle = &app.handle;
    let passes = |ok| if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match asked {
        Read::Status | Read::Metrics => {
            let observed = app.observe().await;
            let published = handle.read();
            let facts = Facts::new(&published, observed.as_deref(), handle.now());
            return Ok(match asked {
                Read::Metrics => respond::metrics(metrics::render(&facts, app.policy.load().validity())),
                _ => respond::json(StatusCode::OK, &facts.document()),
            });
        }
        Read::Cluster => {
            let view = app.fresh_view().await?;
            let document = cluster_document(&handle.read().scope, &view, &app.settings(&view));
            return Ok(respond::json(StatusCode::OK, &json!(document)));
        }
        Read::History => {
            let history = app.view().await?.history.clone().unwrap_or_default();
            // The key's own text is the document.
            let rows = serde_json::from_str(&history.to_text()).unwrap_or_else(|_| json!([]));
            return Ok(respond::json(StatusCode::OK, &rows));
        }
        Read::Config => return configuration::get(app).await,
        Read::Migrate => return migrate::status(app).await,
        Read::Loss => return loss::list(app).await,
        Read::Page => return Ok(ui::file(path)),
        Read::OpenApi => {
            let password = app.policy.load().access.asks_for_password();
            return Ok(respond::json(StatusCode::OK, &openapi::document(password)));
        }
        Read::Explain if let Some(since) = query.get("since") => return explain::since(app, since).await,
        _ => {}
    }
    // From here on only what the agent last published counts: these answers never wait.
    let published = handle.read();
    let facts = Facts::new(&published, published.observed.as_deref(), handle.now());
    Ok(match asked {
        Read::Liveness => respond::status(passes(health::is_live(&facts))),
        Read::Readiness => respond::status(passes(health::is_ready(&facts, query))),
        Read::Explain => respond::json(StatusCode::OK, &explain::document(&facts, app.policy.load().validity())),
        Read::Failsafe => match published.view.as_ref().map(|(view, _)| &view.failsafe) {
            None => respond::json(StatusCode::OK, &json!({})),
            Some(Some(members)) => respond::json(StatusCode::OK, &json!(members)),
            Some(None) => respond::text(StatusCode::BAD_GATEWAY, "failsafe mode is off"),
        },
        _ => respond::json(passes(health::check(&facts, path, query)), &facts.document()),
    })
}

async fn may_change(app: &App, peer: Option<Peer>, headers: &HeaderMap) -> bool {
    let view = app.handle.read().view.as_ref().map(|(view, _)| view.clone());
    app.policy.load_full().access.refusal(peer, headers, view.as_deref(), false).await.is_none()
}

async fn perform(app: &App, change: Change, request: Request) -> Result<Response, Refusal> {
    let peer = request.extensions().get::<Peer>().copied();
    let view = app.handle.read().view.as_ref().map(|(view, _)| view.clone());
    let policy = app.policy.load_full();
    // Before the body is read: a stranger cannot make the server wait for one.
    let refusal = policy.access.refusal(
        peer,
        request.headers(),
        view.as_deref(),
        matches!(change, Change::Failsafe | Change::Consent),
    );
    if let Some(refusal) = refusal.await {
        return Ok(respond::closing(refusal));
    }
    let limits = &app.limits;
    match change {
        Change::Reload => node::reload(app).await,
        Change::Restart => node::restart(app, body::optional(request, limits).await?).await,
        Change::CancelRestart => node::cancel_restart(app).await,
        Change::Reinitialize => node::reinitialize(app, &body::optional(request, limits).await?).await,
        Change::Switchover => {
            switchover::request(app, Action::Switchover, body::required(request, limits).await?).await
        }
        Change::CancelSwitchover => switchover::cancel(app).await,
        Change::Failover => switchover::request(app, Action::Failover, body::required(request, limits).await?).await,
        Change::Failsafe if !app.handle.read().settings.failsafe_mode => Err(failsafe::off()),
        Change::Failsafe => failsafe::vouch(app, body::required(request, limits).await?),
        Change::Consent => failsafe::consent(app, body::required(request, limits).await?),
        Change::PatchConfig => configuration::patch(app, body::required(request, limits).await?).await,
        Change::PutConfig => configuration::put(app, body::required(request, limits).await?).await,
        Change::PrepareMove => migrate::prepare(app, &body::required(request, limits).await?).await,
        Change::MoveStore => migrate::make(app, &body::required(request, limits).await?).await,
        Change::ForgetMove => migrate::forget(app, &body::required(request, limits).await?).await,
        Change::AcknowledgeLoss => loss::acknowledge(app, request.uri().path()).await,
    }
}
