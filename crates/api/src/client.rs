//! The client for the members' REST API: one connection pool, a time limit on every call, no
//! proxies, no redirects, and no retries behind the caller's back.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Url, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::options::{ClientError, ClientOptions, Credentials};
use crate::tls;

/// More than any document of a member; a peer that sends more is not what it claims to be.
const MAX_BODY: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Patch,
    Put,
    Delete,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: String,
    pub headers: HeaderMap,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.body)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// Cheap to clone; clones share one pool.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    authentication: Option<Credentials>,
}

impl Client {
    pub fn new(options: &ClientOptions) -> Result<Client, ClientError> {
        // The library's own TLS settings read the system's certificate store at once, and fail where
        // there is none, even for plain http.
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(options)?)
            .user_agent(concat!("Surus/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(5))
            // A kept connection to a member that was restarted would eat the time of the next call.
            .pool_idle_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(1)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| ClientError::Options(causes(&e)))?;
        Ok(Client { http, authentication: options.authentication.clone() })
    }

    /// `endpoint` replaces the path of the member's `api_url`.
    pub async fn call(
        &self,
        method: Method,
        api_url: &str,
        endpoint: &str,
        body: Option<String>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let mut url = parse(api_url)?;
        let (path, query) = endpoint.split_once('?').map_or((endpoint, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        self.send(method, url.as_str(), body, timeout).await
    }

    pub async fn get(&self, api_url: &str, endpoint: &str, timeout: Duration) -> Result<Answer, ClientError> {
        self.call(Method::Get, api_url, endpoint, None, timeout).await
    }

    pub async fn post(
        &self,
        api_url: &str,
        endpoint: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.call(Method::Post, api_url, endpoint, Some(encode(body)?), timeout).await
    }

    pub async fn patch(
        &self,
        api_url: &str,
        endpoint: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        self.call(Method::Patch, api_url, endpoint, Some(encode(body)?), timeout).await
    }

    pub async fn delete(&self, api_url: &str, endpoint: &str, timeout: Duration) -> Result<Answer, ClientError> {
        self.call(Method::Delete, api_url, endpoint, None, timeout).await
    }

    /// One request to exactly this URL; the limit covers everything from the connection to the last byte.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<String>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let mut request = self.http.request(method.into(), parse(url)?).timeout(timeout);
        if let Some(Credentials { username, password }) = &self.authentication {
            request = request.basic_auth(username, Some(password));
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let failed = |e: reqwest::Error| {
            let url = url.to_owned();
            if e.is_timeout() {
                ClientError::TimedOut { url, after: timeout }
            } else if e.is_connect() {
                ClientError::Unreachable { url, problem: causes(&e.without_url()) }
            } else {
                ClientError::Broken { url, problem: causes(&e.without_url()) }
            }
        };
        let mut response = request.send().await.map_err(failed)?;
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > MAX_BODY {
                let problem = format!("its answer is longer than {MAX_BODY} bytes");
                return Err(ClientError::Broken { url: url.to_owned(), problem });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { code, body: String::from_utf8_lossy(&bytes).into_owned(), headers })
    }
}

impl From<Method> for reqwest::Method {
    fn from(method: Method) -> reqwest::Method {
        match method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Patch => reqwest::Method::PATCH,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        }
    }
}

fn parse(url: &str) -> Result<Url, ClientError> {
    let bad = |problem: String| ClientError::Url { url: url.to_owned(), problem };
    let parsed = Url::parse(url).map_err(|e| bad(e.to_string()))?;
    match parsed.scheme() {
        "http" | "https" => Ok(parsed),
        other => Err(bad(format!("it begins with \"{other}\" and not with http or https"))),
    }
}

fn encode(body: &impl Serialize) -> Result<String, ClientError> {
    serde_json::to_string(body).map_err(|e| ClientError::Options(format!("the request cannot be put into JSON: {e}")))
}

/// The library says "error sending request" and hides why in the sources.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    let mut texts: Vec<String> = Vec::new();
    while let Some(source) = last.source() {
        last = source;
        let text = last.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
    }
    if texts.is_empty() {
        return error.to_string();
    }
    let text = texts.join(": ");
    if text.contains("invalid peer certificate") {
        return format!(
            "{text}; ctl.cacert (or restapi.cafile) must hold the authority that signed it, and the certificate the name \
             that is called; ctl.insecure: true or --insecure checks neither"
        );
    }
    text
}
