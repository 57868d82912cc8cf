//! Detached signatures of plugins: Ed25519 (RFC 8032) over the bytes of `NAME.wasm`, stored beside
//! it as `NAME.wasm.sig`.
//!
//! Keys and signatures are written in hexadecimal; a secret key is the 32-byte seed of RFC 8032. If
//! `rollout.public-keys` lists keys, a plugin runs only if one of them has signed exactly these
//! bytes. Manifests are not signed: they are the operator's, like the settings.

use std::fmt::Write;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// A public key for verifying plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key in hexadecimal.
    pub fn text(&self) -> String {
        hex(self.0.as_bytes())
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes: [u8; 32] = bytes(text)?;
        let key = VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak());
        key.map(PublicKey).ok_or_else(|| "these 32 bytes are not an Ed25519 public key".into())
    }
}

/// A secret key for signing plugins. It implements no `Debug`, so it cannot get into a log.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A key from 32 random bytes.
    pub fn of(random: &[u8; 32]) -> Self {
        SecretKey(SigningKey::from_bytes(random))
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::of(&bytes(text)?))
    }

    /// Its public key in hexadecimal.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// The signature of some bytes, in hexadecimal.
    pub fn sign(&self, content: &[u8]) -> String {
        hex(&self.0.sign(content).to_bytes())
    }
}

/// The remedy for a missing or wrong signature.
const REMEDY: &str = "Sign the file as it is now: sandmill plugin sign NAME.wasm --key SECRET-KEY-FILE.";

/// Verifies the bytes of a plugin and returns the key that has signed them. `signature` is the text
/// of `NAME.wasm.sig`, if there is one.
pub fn check<'a>(content: &[u8], signature: Option<&str>, keys: &'a [PublicKey]) -> Result<&'a PublicKey, String> {
    let Some(signature) = signature else {
        return Err(format!("it has no signature, and rollout.public-keys requires one\n{REMEDY}"));
    };
    let bytes: [u8; 64] = bytes(signature).map_err(|error| format!("its signature is malformed: {error}\n{REMEDY}"))?;
    let signature = Signature::from_bytes(&bytes);
    let signer = keys.iter().find(|PublicKey(key)| key.verify_strict(content, &signature).is_ok());
    signer.ok_or_else(|| format!("no key in rollout.public-keys has signed these bytes\n{REMEDY}"))
}

/// Parses bytes in hexadecimal. Surrounding whitespace is ignored.
fn bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let text = text.trim();
    let digits = text.as_bytes();
    let malformed = || format!("expected {} hexadecimal digits, found {}", N * 2, text.chars().count());
    if digits.len() != N * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(malformed());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| malformed())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first test vector of RFC 8032, section 7.1: the signature of an empty message.
    const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SIGNATURE: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    #[test]
    fn a_test_vector_of_the_rfc_verifies() {
        let secret = SecretKey::parse(SECRET).unwrap();
        assert_eq!((secret.public(), secret.sign(b"")), (PUBLIC.to_string(), SIGNATURE.to_string()));
        let keys = [PublicKey::parse(&format!(" {PUBLIC}\n")).unwrap()];
        assert_eq!(check(b"", Some(SIGNATURE), &keys).unwrap().text(), PUBLIC);
    }

    #[test]
    fn other_bytes_other_keys_and_malformed_signatures_are_rejected() {
        let (ours, theirs) = (SecretKey::of(&[1; 32]), SecretKey::of(&[2; 32]));
        let keys = [&theirs, &ours].map(|key| PublicKey::parse(&key.public()).unwrap());
        let signature = ours.sign(b"plugin");
        assert_eq!(check(b"plugin", Some(&signature), &keys), Ok(&keys[1]));
        assert!(check(b"plugiN", Some(&signature), &keys).unwrap_err().contains("has signed these bytes"));
        assert!(check(b"plugin", Some(&signature), &keys[..1]).unwrap_err().contains("has signed these bytes"));
        assert!(check(b"plugin", None, &keys).unwrap_err().contains("no signature"));
        assert!(check(b"plugin", Some("ab"), &keys).unwrap_err().contains("expected 128 hexadecimal digits, found 2"));
        for bad in ["", "zz", &"0".repeat(64)] {
            assert!(PublicKey::parse(bad).is_err(), "{bad}");
        }
    }
}
