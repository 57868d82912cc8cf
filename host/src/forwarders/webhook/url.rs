//! The URL of a webhook. Its path and query often contain a token, so it is displayed without them.

use std::{fmt, str::FromStr};

use hyper::Uri;
use url::{Position, Url};

use crate::forwarders::http::Endpoint;

/// A URL of HTTP or HTTPS. Displayed as scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    url: Url,
    endpoint: Endpoint,
    /// The path and the query.
    target: Uri,
}

/// The error of a text that is not the URL of a webhook. It does not repeat the text, which may
/// contain a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It cannot be read.
    #[error("it is not a URL; write one like https://example.com/hooks/orders")]
    Unreadable,
    /// Its scheme is another one, or its host or port cannot be used.
    #[error("it must begin with https:// or http://, and name a valid host and port")]
    Endpoint,
    /// It contains a user or a password.
    #[error("it contains a user name or a password; remove them, because receivers verify the signature instead")]
    Credentials,
    /// Its path or query contains characters that HTTP does not allow.
    #[error("its path or query contains a character that must be written with % and two hexadecimal digits")]
    Target,
}

impl WebhookUrl {
    /// Where to connect.
    pub(in crate::forwarders) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What to request there: the path and the query.
    pub(super) fn target(&self) -> &Uri {
        &self.target
    }

    /// The parts of its path and query that may be a token: segments of the path, and values of the
    /// query, as they are written.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &str> {
        let values = self.url.query().unwrap_or_default().split('&');
        let values = values.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
        self.url.path().split('/').chain(values)
    }
}

impl FromStr for WebhookUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let url = Url::parse(text).map_err(|_| InvalidUrl::Unreadable)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidUrl::Credentials);
        }
        let endpoint = Endpoint::of(&url).ok_or(InvalidUrl::Endpoint)?;
        let target = url[Position::BeforePath..Position::AfterQuery].parse().map_err(|_| InvalidUrl::Target)?;
        Ok(WebhookUrl { url, endpoint, target })
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/***", self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_displayed_without_its_tokens() {
        let url: WebhookUrl = "https://hooks.example.com/T0K3N/?key=T0K3N#part".parse().unwrap();
        assert_eq!(url.to_string(), "https://hooks.example.com");
        assert_eq!(format!("{url:?}"), "https://hooks.example.com/***");
        assert_eq!(url.target().to_string(), "/T0K3N/?key=T0K3N");
        assert_eq!(url.tokens().filter(|token| !token.is_empty()).collect::<Vec<_>>(), ["T0K3N", "T0K3N"]);
        assert_eq!("http://example.com".parse::<WebhookUrl>().unwrap().target(), "/");
    }

    #[test]
    fn unusable_urls_are_rejected_without_repeating_them() {
        for (text, error) in [
            ("", InvalidUrl::Unreadable),
            ("example.com/T0K3N", InvalidUrl::Unreadable),
            ("https://", InvalidUrl::Unreadable),
            ("ftp://example.com/T0K3N", InvalidUrl::Endpoint),
            ("unix:/run/T0K3N", InvalidUrl::Endpoint),
            ("https://example.com:0/T0K3N", InvalidUrl::Endpoint),
            ("https://ada:T0K3N@example.com/", InvalidUrl::Credentials),
            ("https://T0K3N@example.com/", InvalidUrl::Credentials),
        ] {
            let found = text.parse::<WebhookUrl>().unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("T0K3N"), "{found}");
        }
    }
}
