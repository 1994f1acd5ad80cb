//! HTTP as downloads need it: redirects followed here, so that a token stays with the host it is for; failures sorted into
//! those worth another try and those that are final.

use std::io::ErrorKind;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::error::{FetchError, Result};
use super::{Event, Watcher};

/// Hops followed before a redirect counts as a loop.
const MAX_REDIRECTS: usize = 8;
/// A connection that brings nothing for this long is dropped and tried again.
const STALL: Duration = Duration::from_secs(60);
/// No server may make us wait longer than this between two tries.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Asks servers.
pub struct Client {
    agent: Agent,
    token: Option<Token>,
    waits: Vec<Duration>,
}

/// A secret for one host.
struct Token {
    origin: Uri,
    secret: String,
}

/// Why one try failed.
pub enum Failure {
    /// Trying again cannot help.
    Final(FetchError),
    /// It can, after at least `after`.
    Passing {
        /// Said when the tries are used up.
        error: FetchError,
        /// What the server asked for.
        after: Option<Duration>,
    },
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::Final(error)
    }
}

/// What to ask for.
#[derive(Default)]
pub struct Request<'a> {
    /// Full address.
    pub url: &'a str,
    /// Start at this byte.
    pub from: u64,
    /// Only if the content still has this (strong) ETag; otherwise all of it.
    pub if_range: Option<&'a str>,
}

/// A 200, 206 or 416.
pub struct Answer {
    /// The last hop's answer.
    pub response: Response<Body>,
    /// `x-linked-etag`, which the Hugging Face hub sends on its own redirect: the file's SHA-256.
    pub linked_etag: Option<String>,
}

impl Client {
    /// `waits`: the pauses between tries; one more try than pauses.
    pub fn new(waits: Vec<Duration>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sterna/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .build()
            .new_agent();
        Self { agent, token: None, waits }
    }

    /// Shows `token` to the host (scheme and port too) of the address `origin`, to nobody else.
    pub fn with_token(mut self, origin: &str, token: Option<String>) -> Self {
        self.token = origin.parse().ok().zip(token).map(|(origin, secret)| Token { origin, secret });
        self
    }

    /// Runs `attempt` until it succeeds, fails for good, or the tries are used up. `attempt` gets `true` to report that
    /// the one before it brought something, which makes the count start again.
    pub fn retrying<T>(
        &self,
        watcher: &mut dyn Watcher,
        mut attempt: impl FnMut(&mut dyn Watcher, &mut bool) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut used = 0;
        loop {
            let mut progress = false;
            match attempt(watcher, &mut progress) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { error, after }) => {
                    if progress {
                        used = 0;
                    }
                    let Some(wait) = self.waits.get(used) else { return Err(error) };
                    used += 1;
                    let wait = after.unwrap_or_default().max(*wait).min(MAX_WAIT);
                    let (next, tries) = (used as u32 + 1, self.tries());
                    watcher.event(Event::Retrying { why: &error, wait, next, tries });
                    self.pause(wait, watcher)?;
                }
            }
        }
    }

    /// How often a thing is tried.
    pub fn tries(&self) -> u32 {
        self.waits.len() as u32 + 1
    }

    /// One GET, redirects followed. Statuses other than 200, 206 and 416 become errors.
    pub fn get(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut url = request.url.to_owned();
        let mut linked_etag = None;
        for _ in 0..MAX_REDIRECTS {
            let uri: Uri = url.parse().map_err(|_| bad_redirect(request, &url, "which is no address"))?;
            let mut get = self.agent.get(&url);
            if let Some(token) = self.token.as_ref().filter(|token| token.is_for(&uri)) {
                get = get.header("Authorization", format!("Bearer {}", token.secret));
            }
            if request.from > 0 {
                get = get.header("Range", format!("bytes={}-", request.from));
                if let Some(etag) = request.if_range {
                    get = get.header("If-Range", etag);
                }
            }
            let response = get.call().map_err(|error| self.network(request.url, error))?;
            linked_etag = linked_etag.or_else(|| header(&response, "x-linked-etag"));
            if !response.status().is_redirection() {
                self.check(request, &response)?;
                return Ok(Answer { response, linked_etag });
            }
            let target = header(&response, "location")
                .ok_or_else(|| bad_redirect(request, "", "but the answer does not say where to"))?;
            url = follow(&uri, &target).map_err(|why| bad_redirect(request, &target, why))?;
        }
        Err(bad_redirect(request, &url, "in a loop").into())
    }

    /// A failure below HTTP: worth another try unless the name, the address or the certificate is wrong.
    pub fn network(&self, url: &str, error: ureq::Error) -> Failure {
        let passing = match &error {
            ureq::Error::Io(error) => error.kind() != ErrorKind::ConnectionRefused,
            ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
            _ => false,
        };
        let tries = if passing { self.tries() } else { 1 };
        let error = FetchError::Network { url: url.to_owned(), tries, source: Box::new(error) };
        if passing { Failure::Passing { error, after: None } } else { Failure::Final(error) }
    }

    fn check(&self, request: &Request<'_>, response: &Response<Body>) -> Result<(), Failure> {
        let url = request.url.to_owned();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(()),
            StatusCode::TOO_MANY_REQUESTS => {
                let after = header(response, "retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
                Err(Failure::Passing { error: FetchError::TooManyRequests { url }, after })
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                let error = FetchError::ServerFailed { url, status: status.as_u16(), tries: self.tries() };
                Err(Failure::Passing { error, after: None })
            }
            status => {
                let reason = header(response, "x-error-code").unwrap_or_default();
                Err(FetchError::Refused { url, status: status.as_u16(), reason }.into())
            }
        }
    }

    /// Sleeps, in steps short enough that Ctrl-C is felt.
    fn pause(&self, wait: Duration, watcher: &mut dyn Watcher) -> Result<()> {
        let step = Duration::from_millis(50);
        let mut left = wait;
        while !left.is_zero() {
            if watcher.interrupted() {
                return Err(FetchError::Interrupted);
            }
            std::thread::sleep(left.min(step));
            left = left.saturating_sub(step);
        }
        Ok(())
    }
}

impl Token {
    /// Whether `uri` has the token's scheme, host and port.
    fn is_for(&self, uri: &Uri) -> bool {
        let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        uri.scheme() == self.origin.scheme()
            && uri.host().zip(self.origin.host()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
            && port(uri) == port(&self.origin)
    }
}

/// Whether `text` is an address that requests can begin with: http or https, a host, no query.
pub fn is_address(text: &str) -> bool {
    let uri: Result<Uri, _> = text.parse();
    uri.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
    })
}

/// The value of a header, if it is there and text.
pub fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn bad_redirect(request: &Request<'_>, target: &str, why: &'static str) -> FetchError {
    FetchError::BadRedirect { url: request.url.to_owned(), target: target.to_owned(), why }
}

/// The address that `target` means when `from` redirects to it.
fn follow(from: &Uri, target: &str) -> Result<String, &'static str> {
    let (Some(scheme), Some(authority)) = (from.scheme_str(), from.authority()) else {
        return Err("which cannot be resolved");
    };
    let lower = target.to_ascii_lowercase();
    if lower.starts_with("https://") || (lower.starts_with("http://") && scheme == "http") {
        return Ok(target.to_owned());
    }
    if lower.starts_with("http://") {
        return Err("which would leave HTTPS");
    }
    if target.starts_with("//") {
        return Ok(format!("{scheme}:{target}"));
    }
    if target.starts_with('/') {
        return Ok(format!("{scheme}://{authority}{target}"));
    }
    Err("which is neither http, https nor a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve_and_never_leave_http_or_https() {
        let from: Uri = "https://hub.example/a/b?c=d".parse().unwrap();
        assert_eq!(follow(&from, "/x?y=z").unwrap(), "https://hub.example/x?y=z");
        assert_eq!(follow(&from, "https://cdn.example/f").unwrap(), "https://cdn.example/f");
        assert_eq!(follow(&from, "//cdn.example/f").unwrap(), "https://cdn.example/f");
        for target in ["http://cdn.example/f", "file:///etc/passwd", "ftp://x/y", "data:,x", ""] {
            assert!(follow(&from, target).is_err(), "{target:?} was followed");
        }
    }

    #[test]
    fn the_token_belongs_to_scheme_host_and_port() {
        let client = Client::new(Vec::new()).with_token("https://Hub.example/", Some("secret".to_owned()));
        let is_hub = |url: &str| client.token.as_ref().unwrap().is_for(&url.parse().unwrap());
        assert!(is_hub("https://hub.example/x") && is_hub("https://HUB.example:443/x"));
        for url in
            ["http://hub.example/", "https://hub.example:444/", "https://hub.example.evil/", "https://evil/hub.example"]
        {
            assert!(!is_hub(url), "{url} would see the token");
        }
        for endpoint in ["", "hub.example", "ftp://hub.example", "https://", "file:///tmp"] {
            assert!(!is_address(endpoint), "{endpoint:?} was taken");
        }
        assert!(is_address("http://127.0.0.1:80/a/b"));
    }
}
