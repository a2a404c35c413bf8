//! Links: https, or plain http to this very machine, and nothing else.
//!
//! Shown without what follows the `?`: behind a redirect that is often a signature.

use http::Uri;
use std::{fmt, net::IpAddr};

/// A link that may be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// Path and query, beginning with `/`; of an endpoint, without a `/` at its end.
    target: String,
}

impl Url {
    /// An absolute link; or what is wrong with it.
    pub fn parse(text: &str) -> Result<Url, String> {
        let uri: Uri = text
            .parse()
            .map_err(|_| "it is no link that can be followed".to_owned())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it must begin with https://".into()),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it must hold no user name".into());
        }
        let host = authority.host().to_ascii_lowercase();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() {
            return Err("it names no host".into());
        }
        if !https && !is_loopback(&host) {
            return Err("plain http goes to this machine alone; use https".into());
        }
        Ok(Url {
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            https,
            host,
            target: (uri.path_and_query()).map_or("/".into(), |t| t.as_str().to_owned()),
        })
    }

    /// Another path of the same endpoint; `path` begins with `/`.
    pub fn below(&self, path: &str) -> Url {
        Url {
            target: format!("{}{path}", self.target.trim_end_matches('/')),
            ..self.clone()
        }
    }

    /// Where a redirect leads. Never from https to plain http.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        let next = match location.starts_with('/') && !location.starts_with("//") {
            true => {
                let checked: Uri = location.parse().map_err(|_| "it leads nowhere")?;
                Url {
                    target: (checked.path_and_query()).map_or("/".into(), |t| t.to_string()),
                    ..self.clone()
                }
            }
            false => Url::parse(location)?,
        };
        match self.https && !next.https {
            true => Err("it leads from https to plain http".into()),
            false => Ok(next),
        }
    }

    /// True for the same scheme, host and port: who may see what was meant for the other.
    pub fn same_origin(&self, other: &Url) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }

    /// `HOST[:PORT]`, for people and for the `host` header.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Path and query, as a request line has them.
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let path = self.target.split('?').next().unwrap_or_default();
        write!(
            f,
            "{scheme}://{}{}",
            self.authority(),
            path.trim_end_matches('/')
        )
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// One part of a path: a `/` in it is not one between parts.
pub fn segment(text: &str) -> String {
    escaped(text, "")
}

/// A path of several parts.
pub fn path(text: &str) -> String {
    escaped(text, "/")
}

fn escaped(text: &str, also: &str) -> String {
    let escape = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b if also.as_bytes().contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_to_this_machine_alone() {
        for good in [
            "https://huggingface.co",
            "https://10.0.0.1:8080/hub",
            "http://127.0.0.1:1",
            "http://localhost",
            "http://[::1]:9",
        ] {
            assert!(Url::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://huggingface.co",
            "http://127.0.0.1.evil.example",
            "http://localhost.example",
            "ftp://x",
            "file:///etc/passwd",
            "huggingface.co",
            "https://user@host",
            "https://",
            "",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_are_followed_up_and_sideways_and_never_down() {
        let at = Url::parse("https://hub.example/a/b?c").unwrap();
        let to = |location| {
            at.join(location)
                .map(|url| url.to_string() + " " + url.target())
        };
        assert_eq!(to("/x?y=1").unwrap(), "https://hub.example/x /x?y=1");
        assert_eq!(
            to("https://cdn.example:9/z").unwrap(),
            "https://cdn.example:9/z /z"
        );
        for bad in [
            "http://127.0.0.1/x",
            "//cdn.example/x",
            "x",
            "javascript:1",
            "https://a@b/",
        ] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let url = |text| Url::parse(text).unwrap();
        let hub = url("https://hub.example");
        assert!(hub.same_origin(&url("https://HUB.example:443/x")));
        for other in ["https://hub.example:444", "https://x.hub.example"] {
            assert!(!hub.same_origin(&url(other)), "{other}");
        }
        assert!(!url("http://127.0.0.1").same_origin(&url("http://localhost")));
    }

    #[test]
    fn what_is_shown_holds_no_signature() {
        let url = Url::parse("https://cdn.example/f?Signature=abc").unwrap();
        assert_eq!(url.to_string(), "https://cdn.example/f");
        assert_eq!(url.target(), "/f?Signature=abc");
        let endpoint = Url::parse("https://mirror.example/hub").unwrap();
        assert_eq!(endpoint.below("/api").target(), "/hub/api");
        assert_eq!(segment("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(path("a b/c+d"), "a%20b/c%2Bd");
    }
}
