//! The secrets that sign messages, by the rules of Standard Webhooks. Pure.

use std::fmt;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The prefix of a secret's text, which may be left out.
const PREFIX: &str = "whsec_";
/// Shortest secret in bytes, from Standard Webhooks.
const SHORTEST: usize = 24;
/// Longest secret in bytes, from Standard Webhooks.
const LONGEST: usize = 64;

/// A secret that the host and a receiver share. Neither it nor its text is ever displayed.
#[derive(Clone)]
pub struct Secret {
    key: Hmac<Sha256>,
    /// Its Base64 without padding, to recognise it in answers.
    text: Box<str>,
}

/// The error of a text that is not a secret. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// It is not Base64.
    #[error("it is not Base64, with or without the prefix whsec_; make a secret with `openssl rand -base64 32`")]
    NotBase64,
    /// It is too short or too long.
    #[error("it has {0} bytes, and must have {SHORTEST} to {LONGEST}; make a secret with `openssl rand -base64 32`")]
    Length(usize),
}

impl Secret {
    /// Parses Base64 of 24 to 64 bytes, with or without the prefix `whsec_`.
    ///
    /// # Errors
    ///
    /// [`InvalidSecret`], with the remedy.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim().trim_start_matches(PREFIX).trim_end_matches('=');
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| InvalidSecret::NotBase64)?;
        if !(SHORTEST..=LONGEST).contains(&bytes.len()) {
            return Err(InvalidSecret::Length(bytes.len()));
        }
        // A key of HMAC may have any length.
        let key = Hmac::new_from_slice(&bytes).map_err(|_| InvalidSecret::Length(bytes.len()))?;
        Ok(Secret { key, text: text.into() })
    }

    /// The signature of a message at one attempt, with its version: `v1,…`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let mut mac = self.key.clone();
        for part in [id, ".", &timestamp.to_string(), ".", body] {
            mac.update(part.as_bytes());
        }
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }

    /// Its Base64 without padding.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of the libraries of Standard Webhooks.
    #[test]
    fn the_published_message_has_the_published_signature() {
        for text in ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let secret = Secret::parse(text).unwrap();
            assert_eq!(
                secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#),
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
            );
        }
    }

    #[test]
    fn secrets_are_checked_and_never_displayed() {
        let padded = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MQ==";
        for good in [padded.to_owned(), padded.replace('=', ""), format!("whsec_{padded}"), format!(" {padded}\n")] {
            let secret = Secret::parse(&good).unwrap();
            assert_eq!((secret.text(), format!("{secret:?}").as_str()), (padded.trim_end_matches('='), "***"));
        }
        for (bad, error) in [
            ("s3cret!", InvalidSecret::NotBase64),
            ("whsec_s3cret!", InvalidSecret::NotBase64),
            ("", InvalidSecret::Length(0)),
            ("c2VjcmV0", InvalidSecret::Length(6)),
            (&"AAAA".repeat(22), InvalidSecret::Length(66)),
        ] {
            let found = Secret::parse(bad).unwrap_err();
            assert_eq!(found, error);
            assert!(bad.is_empty() || !found.to_string().contains(bad), "{found}");
        }
    }
}
