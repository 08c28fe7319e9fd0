//! The way from a request to an answer: who asks, what for, whether it may, and what came of it.
//!
//! Must not know: sockets, how a page or a document is made.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER, SERVER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
use tokio::sync::mpsc;

use crate::admin::api::{self, Answer, METRICS, PREFIX};
use crate::admin::audit::{self, Who};
use crate::admin::http::auth::{Denied, Identity};
use crate::admin::http::form::{Change, Form, Outcome};
use crate::admin::http::settings::Settings;
use crate::admin::http::{Shared, body, guard};
use crate::admin::page::{self, View};
use crate::admin::{csv, openapi, operations, server};
use crate::controller::request::{Document, Reply, Request, Verb};
use crate::model::Role;

/// One request, with all that is known of it.
struct Ask<'a, E> {
    head: &'a Parts,
    peer: SocketAddr,
    is_secure: bool,
    identity: Identity,
    settings: &'a Settings,
    shared: &'a Shared<E>,
}

/// An answer with headers of its own.
struct Answered {
    answer: Answer,
    headers: Vec<(HeaderName, String)>,
}

impl From<Answer> for Answered {
    fn from(answer: Answer) -> Self {
        Self { answer, headers: Vec::new() }
    }
}

/// Answers a request.
pub(super) async fn handle<E: From<Request> + Send + 'static>(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    is_secure: bool,
    shared: &Shared<E>,
) -> Response<Full<Bytes>> {
    let settings = shared.settings.borrow().clone();
    let Some(settings) = settings else {
        let gone = "the configuration has no admin.http any more";
        return response(Answer::error(StatusCode::SERVICE_UNAVAILABLE, gone).into(), None);
    };
    let answered = answer(request, peer, is_secure, shared, &settings).await;
    response(answered, Some(&settings))
}

async fn answer<E: From<Request> + Send + 'static>(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    is_secure: bool,
    shared: &Shared<E>,
    settings: &Arc<Settings>,
) -> Answered {
    let (mut head, body) = request.into_parts();
    if head.method == Method::HEAD {
        // hyper sends the head of a GET's answer.
        head.method = Method::GET;
    }
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        let text = "a request has one Host header";
        return Answer::error(StatusCode::BAD_REQUEST, text).into();
    }
    if settings.users.is_open() && !guard::is_for_loopback(&head.headers) {
        let text = "without users only this host may ask, by a name of its own: localhost";
        return Answer::error(StatusCode::MISDIRECTED_REQUEST, text).into();
    }
    let authorization = head.headers.get(AUTHORIZATION);
    let identity = settings.users.identify(authorization, peer.ip(), &shared.throttle).await;
    let identity = match identity {
        Ok(identity) => identity,
        Err(denied) => return unauthorised(&denied, peer, settings),
    };
    let ask = Ask { head: &head, peer, is_secure, identity, settings, shared };
    ask.dispatch(body).await
}

fn unauthorised(denied: &Denied, peer: SocketAddr, settings: &Settings) -> Answered {
    let (status, text, headers) = match denied {
        Denied::Unknown | Denied::Wrong(_) => {
            let realm = format!("Basic realm=\"{}\", charset=\"UTF-8\"", settings.http.realm);
            let headers = vec![(WWW_AUTHENTICATE, realm)];
            (StatusCode::UNAUTHORIZED, "a user's name and password are needed", headers)
        }
        Denied::Wait(seconds) => {
            let headers = vec![(RETRY_AFTER, seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, "too many wrong passwords: wait", headers)
        }
        Denied::Busy => {
            let headers = vec![(RETRY_AFTER, "1".to_owned())];
            (StatusCode::SERVICE_UNAVAILABLE, "too many log in at once: try again", headers)
        }
    };
    if let Denied::Wrong(name) = denied {
        tracing::warn!("admin: wrong password for {:?} from {}", name, peer.ip());
    }
    Answered { answer: Answer::error(status, text), headers }
}

impl<E: From<Request> + Send + 'static> Ask<'_, E> {
    async fn dispatch(&self, body: Incoming) -> Answered {
        let path = self.head.uri.path();
        let stats = path.strip_prefix(self.settings.http.stats_path.as_str());
        if let Some(rest) = stats.filter(|rest| rest.is_empty() || rest.starts_with(';')) {
            return self.stats(rest, body).await;
        }
        if path == OPENAPI {
            return match self.head.method {
                Method::GET => document(openapi::DOCUMENT.clone(), JSON).into(),
                _ => not_allowed(path, "GET, HEAD").into(),
            };
        }
        self.api(body).await
    }

    /// The dashboard and what else is at its path.
    async fn stats(&self, rest: &str, body: Incoming) -> Answered {
        let mut options = page::Options::default();
        let mut wants_csv = false;
        for word in rest.split(';').skip(1) {
            match word {
                "csv" => wants_csv = true,
                "norefresh" => options.norefresh = true,
                "up" => options.up_only = true,
                _ => {
                    let text = "there is no such form; the page knows ;csv, ;norefresh and ;up";
                    return Answer::error(StatusCode::NOT_FOUND, text).into();
                }
            }
        }
        match (&self.head.method, wants_csv) {
            (&Method::GET, true) => self.csv().await.into(),
            (&Method::GET, false) => self.page(options).await.into(),
            (&Method::POST, false) => self.form(body).await,
            (_, true) => not_allowed(self.head.uri.path(), "GET, HEAD").into(),
            (_, false) => not_allowed(self.head.uri.path(), "GET, HEAD, POST").into(),
        }
    }

    async fn csv(&self) -> Answer {
        match self.ask(Verb::Status).await {
            Ok(Document::Status(status)) => {
                document(csv::render(&status, SystemTime::now()).into_bytes(), CSV)
            }
            other => api::respond(&other),
        }
    }

    async fn page(&self, mut options: page::Options) -> Answer {
        let query = api::parameters(self.head.uri.query().unwrap_or("")).unwrap_or_default();
        let mut shows_result = false;
        for (key, value) in query {
            match key.as_str() {
                "scope" => options.scope = value.chars().take(64).collect(),
                "st" => shows_result = true,
                _ => {}
            }
        }
        let status = match self.ask(Verb::Status).await {
            Ok(Document::Status(status)) => status,
            other => return api::respond(&other),
        };
        let stats = match self.ask(Verb::Stats).await {
            Ok(Document::Stats(stats)) => stats,
            other => return api::respond(&other),
        };
        let (now, user) = (Instant::now(), &self.identity.name);
        let may_change = self.identity.role == Role::Admin;
        let token = may_change.then(|| self.shared.tokens.issue(user, now)).flatten();
        let result = shows_result.then(|| self.shared.results.get(user, now)).flatten();
        let view = View {
            status: &status,
            stats: &stats,
            history: match self.ask(Verb::History).await {
                Ok(Document::History(history)) => Some(history),
                _ => None,
            },
            events: match self.ask(Verb::Events).await {
                Ok(Document::Events(events)) => Some(events),
                _ => None,
            },
            user,
            role: if self.settings.users.is_open() { "" } else { self.identity.role.name() },
            token: token.as_deref(),
            result: result.as_ref().map(|outcome| (outcome.done, outcome.text.as_str())),
            stats_path: &self.settings.http.stats_path,
            refresh: self.settings.http.refresh,
            hide_version: self.settings.http.hide_version,
            uptime: now.saturating_duration_since(self.shared.started),
            now: SystemTime::now(),
            options,
        };
        document(page::render(&view).into_bytes(), HTML)
    }

    /// HAProxy's form.
    async fn form(&self, body: Incoming) -> Answered {
        if let Err(refused) = self.may_change() {
            return self.refused("change by the page", refused).into();
        }
        if guard::content_type(&self.head.headers).as_deref() != Some(FORM) {
            let text = format!("the page's form is {FORM}");
            return Answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into();
        }
        let form = match body::read(body).await.and_then(|body| Form::read(&body)) {
            Ok(form) => form,
            Err(answer) => return answer.into(),
        };
        let user = &self.identity.name;
        if let Err(error) = self.shared.tokens.take(user, &form.token, Instant::now()) {
            let text = match form.token.as_str() {
                "" => "the field csrf_token is missing".to_owned(),
                _ => format!("csrf_token: {error}"),
            };
            let answer = Answer::error(StatusCode::FORBIDDEN, text);
            return self.refused("change by the page", answer).into();
        }
        let changes = match form.changes {
            Ok(changes) => changes,
            Err(fault) => return Answer::error(StatusCode::BAD_REQUEST, fault).into(),
        };
        // All of them, also when whoever asked hangs up in between.
        let (who, requests) = (self.who(), self.shared.requests.clone());
        let made = tokio::spawn(make(changes, who, requests)).await;
        let outcome = made.unwrap_or_else(|_| Outcome {
            done: false,
            text: "what became of it is in the daemon's log".to_owned(),
        });
        let code = if outcome.done { "DONE" } else { "DENY" };
        self.shared.results.put(user, outcome, Instant::now());
        let location = format!("{}?st={code}", self.settings.http.stats_path);
        Answered {
            answer: Answer {
                status: StatusCode::SEE_OTHER,
                body: Vec::new(),
                content_type: JSON,
                allow: None,
            },
            headers: vec![(LOCATION, location)],
        }
    }

    /// The API and the metrics.
    async fn api(&self, body: Incoming) -> Answered {
        let (method, path, query) =
            (&self.head.method, self.head.uri.path(), self.head.uri.query());
        let operation = path.strip_prefix(PREFIX).and_then(operations::find);
        let operation = match operation.filter(|operation| operation.changes) {
            Some(operation) if method == Method::POST => operation,
            _ => {
                return match api::route(method, path, query) {
                    Ok(verb) => self.tell(verb).await.into(),
                    Err(answer) if path == METRICS || path.starts_with(PREFIX) => answer.into(),
                    Err(answer) if answer.status == StatusCode::NOT_FOUND => {
                        let stats = &self.settings.http.stats_path;
                        let text =
                            format!("there is no such page; try {stats}, {METRICS}, {OPENAPI}");
                        Answer::error(StatusCode::NOT_FOUND, text).into()
                    }
                    Err(answer) => answer.into(),
                };
            }
        };
        if let Err(refused) = self.may_change() {
            return self.refused(operation.name, refused).into();
        }
        if let Err(refused) = self.is_meant() {
            return self.refused(operation.name, refused).into();
        }
        let verb =
            match body::read(body).await.and_then(|body| body::query(operation, query, &body)) {
                Ok(query) => api::route(method, path, Some(&query)),
                Err(answer) => Err(answer),
            };
        match verb {
            Ok(verb) => self.tell(verb).await.into(),
            Err(answer) => answer.into(),
        }
    }

    /// The role, and that no other site asks.
    fn may_change(&self) -> Result<(), Answer> {
        let forbidden = |text| Err(Answer::error(StatusCode::FORBIDDEN, text));
        if self.settings.users.is_open() {
            return forbidden("there are no users in admin.http, so nobody may change anything");
        }
        if self.identity.role != Role::Admin {
            return forbidden("your role is read-only: an admin may change this");
        }
        guard::same_origin(&self.head.headers, self.is_secure)
    }

    /// A request that no form of a browser can send, or a token.
    fn is_meant(&self) -> Result<(), Answer> {
        let token = self.head.headers.get(guard::TOKEN_HEADER);
        if let Some(token) = token {
            // One that is given has to be right, whatever else there is.
            let token = token.to_str().unwrap_or("");
            let taken = self.shared.tokens.take(&self.identity.name, token, Instant::now());
            taken
                .map_err(|e| Answer::error(StatusCode::FORBIDDEN, format!("x-csrf-token: {e}")))?;
        }
        match (guard::content_type(&self.head.headers).as_deref(), token) {
            (Some(JSON), _) | (None, Some(_)) => Ok(()),
            (Some(_), _) => {
                let text = "parameters come as application/json, or in the query";
                Err(Answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
            }
            (None, None) => {
                let text = "add content-type: application/json, or a token as x-csrf-token: \
                            this could come from another site's page";
                Err(Answer::error(StatusCode::FORBIDDEN, text))
            }
        }
    }

    async fn ask(&self, verb: Verb) -> Reply {
        server::reply(verb, &self.shared.requests).await
    }

    /// Asks, and logs what became of a change.
    async fn tell(&self, verb: Verb) -> Answer {
        match (&verb, audit::change(&verb)) {
            (Verb::Connections { limit, .. }, _) if *limit > MAX_LIMIT => {
                let text = format!("limit={limit} is above {MAX_LIMIT}: ask on the admin socket");
                Answer::error(StatusCode::BAD_REQUEST, text)
            }
            (_, None) => api::respond(&self.ask(verb).await),
            (_, Some(change)) => {
                let requests = self.shared.requests.clone();
                server::change(verb, change, std::future::ready(self.who()), requests).await
            }
        }
    }

    fn refused(&self, change: &str, answer: Answer) -> Answer {
        audit::refused(&self.who(), change, &audit::reason(&answer));
        answer
    }

    fn who(&self) -> Who {
        Who { name: self.identity.name.clone(), from: self.peer.ip().to_string() }
    }
}

/// Makes changes one after the other; gives what became of them.
async fn make<E: From<Request> + Send + 'static>(
    changes: Vec<Change>,
    who: Who,
    requests: mpsc::Sender<E>,
) -> Outcome {
    let mut outcome = Outcome { done: true, text: String::new() };
    for change in changes {
        let verb = api::route(&Method::POST, &change.path, Some(&change.query));
        let audited = verb.map(|verb| (audit::change(&verb), verb));
        let answer = match audited {
            Ok((said, verb)) => {
                let said = said.unwrap_or_else(|| change.what.clone());
                let who = std::future::ready(who.clone());
                server::change(verb, said, who, requests.clone()).await
            }
            Err(answer) => {
                audit::refused(&who, &change.what, &audit::reason(&answer));
                answer
            }
        };
        let became = if answer.status.is_success() {
            "done".to_owned()
        } else {
            outcome.done = false;
            format!("refused: {}", audit::reason(&answer))
        };
        let separator = if outcome.text.is_empty() { "" } else { "; " };
        outcome.text = format!("{}{separator}{}: {became}", outcome.text, change.what);
    }
    outcome
}

fn document(body: Vec<u8>, content_type: &'static str) -> Answer {
    Answer { status: StatusCode::OK, body, content_type, allow: None }
}

fn not_allowed(path: &str, allow: &'static str) -> Answer {
    let answer = Answer::error(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {allow}"));
    Answer { allow: Some(allow), ..answer }
}

fn response(full: Answered, settings: Option<&Settings>) -> Response<Full<Bytes>> {
    let Answered { answer, headers: own } = full;
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, answer.content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // Without a referrer a browser does not name the origin of the page's own form either.
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (SERVER, server_name(settings)),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&page::POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(allow) = answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    for (name, value) in own {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

fn server_name(settings: Option<&Settings>) -> &'static str {
    match settings {
        Some(settings) if !settings.http.hide_version => concat!("lb/", env!("CARGO_PKG_VERSION")),
        _ => "lb",
    }
}

/// Connections that are listed over the network, at most: a longer list is made for a while.
const MAX_LIMIT: usize = 10_000;
/// Where the API's description is.
const OPENAPI: &str = "/api/v1/openapi.json";
const JSON: &str = "application/json";
const CSV: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const FORM: &str = "application/x-www-form-urlencoded";
