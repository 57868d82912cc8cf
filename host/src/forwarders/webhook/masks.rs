//! Masking of secrets in what a receiver answers. Pure.
//!
//! A receiver may repeat what it got: the path it does not know, or the secret it expected. The
//! beginning of its answer goes into the failure's message, so texts that may be secret become
//! `***`.

use super::{secret::Secret, url::WebhookUrl};
use crate::model::text;

const MASK: &str = "***";
/// Bytes of an answer in a failure's message. 200: the first sentence of an error.
const SHOWN: usize = 200;
/// Minimum bytes of a part of the URL to be masked. 8: shorter ones are words, or tokens that could
/// be guessed.
const TOKEN: usize = 8;

/// The texts to mask.
pub(super) struct Masks(Vec<Box<[u8]>>);

impl Masks {
    /// The masks of a webhook: its secrets, and the parts of its URL that may be a token.
    pub(super) fn of(secrets: &[Secret], url: &WebhookUrl) -> Self {
        // Some languages escape a slash in JSON.
        let forms = |secret: &Secret| [secret.text().to_owned(), secret.text().replace('/', "\\/")];
        let tokens = url.tokens().filter(|token| token.len() >= TOKEN).map(str::to_owned);
        let mut texts: Vec<String> = secrets.iter().flat_map(forms).chain(tokens).collect();
        // Of two texts that begin at the same place, the longer one is masked.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        Masks(texts.into_iter().map(|text| text.into_bytes().into()).collect())
    }

    /// The beginning of an answer's body for a message, masked, escaped and in quotes. `is_whole`
    /// states whether the answer ends with `body`. None if it is empty.
    pub(super) fn excerpt(&self, body: &[u8], is_whole: bool) -> Option<String> {
        let (mut shown, mut rest) = (Vec::new(), body);
        while shown.len() < SHOWN
            && let Some((first, after)) = rest.split_first()
        {
            let whole = self.0.iter().find(|text| rest.starts_with(text));
            // A secret may have been cut off with the rest of the answer.
            let is_begun = || !is_whole && self.0.iter().any(|text| text.starts_with(rest));
            if let Some(text) = whole {
                shown.extend_from_slice(MASK.as_bytes());
                rest = &rest[text.len()..];
            } else if is_begun() {
                shown.extend_from_slice(MASK.as_bytes());
                rest = &[];
            } else {
                shown.push(*first);
                rest = after;
            }
        }
        let mut shown = String::from_utf8_lossy(&shown).trim().to_owned();
        if !rest.is_empty() || !is_whole {
            shown.push('…');
        }
        (!shown.is_empty()).then(|| text::quoted(&shown, 8 * SHOWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "c2VjcmV0/2VjcmV0c2VjcmV0c2VjcmV0MQ";

    fn masks() -> Masks {
        let secret = Secret::parse(&format!("whsec_{SECRET}==")).unwrap();
        Masks::of(&[secret], &"https://example.com/hooks/T0K3NT0K3N?key=K3YK3YK3Y".parse().unwrap())
    }

    #[test]
    fn secrets_and_tokens_are_masked_in_every_place() {
        for (body, shown) in [
            (format!("expected whsec_{SECRET}=="), "\"expected whsec_***==\""),
            (format!("{SECRET}{SECRET}"), "\"******\""),
            (format!("{{\"secret\":\"{}\"}}", SECRET.replace('/', "\\/")), r#""{\"secret\":\"***\"}""#),
            ("Cannot POST /hooks/T0K3NT0K3N?key=K3YK3YK3Y".into(), "\"Cannot POST /hooks/***?key=***\""),
        ] {
            assert_eq!(masks().excerpt(body.as_bytes(), true).as_deref(), Some(shown));
        }
        // At each distance from the end of what is shown, and of what was read.
        for before in SHOWN - SECRET.len() - 4..=SHOWN {
            let body = " .".repeat(SHOWN)[..before].to_owned() + SECRET;
            for read in before..=body.len() {
                for is_whole in [read == body.len(), false] {
                    let excerpt = masks().excerpt(&body.as_bytes()[..read], is_whole).unwrap();
                    assert!(!excerpt.contains(&SECRET[..1]), "{excerpt}");
                }
            }
        }
    }

    #[test]
    fn an_excerpt_is_short_and_cannot_forge_its_end() {
        assert_eq!(masks().excerpt(b"", true), None);
        assert_eq!(masks().excerpt(b" \r\n", true), None);
        assert_eq!(masks().excerpt(b"", false).as_deref(), Some("\"…\""));
        assert_eq!(masks().excerpt(b"no\x1b[2J \"room\"\xff\n", true).as_deref(), Some(r#""no\u{1b}[2J \"room\"�""#));
        let long = masks().excerpt(&b"x".repeat(10_000), true).unwrap();
        assert_eq!(long, format!("\"{}…\"", "x".repeat(SHOWN)));
        let worst = masks().excerpt(&b"\x1b".repeat(10_000), false).unwrap();
        assert!(worst.len() <= 8 * SHOWN && worst.ends_with("…\""), "{worst}");
    }
}
