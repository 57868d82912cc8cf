//! Detached signatures of plugins: Ed25519 (RFC 8032) over the file's bytes, beside it as `NAME.wasm.sig`.
//!
//! Keys and signatures are written in hexadecimal, a secret key as the 32 bytes that RFC 8032 begins with. Where the settings name public keys, a plugin runs only if one
//! of them has signed exactly these bytes; whose it was does not matter. What a manifest says is not signed: it is the operator's word, as the settings are.

use std::fmt::Write;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// A public key that plugins may be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// In hexadecimal.
    pub fn text(&self) -> String {
        hex(self.0.as_bytes())
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes: [u8; 32] = bytes(text)?;
        let key = VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak());
        key.map(PublicKey).ok_or_else(|| "these 32 bytes are no public key of Ed25519".into())
    }
}

/// A key to sign with. Shown to nobody.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes a key of 32 random bytes.
    pub fn of(random: &[u8; 32]) -> Self {
        SecretKey(SigningKey::from_bytes(random))
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::of(&bytes(text)?))
    }

    /// The public key that goes with it, in hexadecimal.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// Signs bytes; in hexadecimal.
    pub fn sign(&self, content: &[u8]) -> String {
        hex(&self.0.sign(content).to_bytes())
    }
}

/// Which of the keys has signed these bytes; it is refused if none has. `signature` is what stands beside them, if anything does.
pub fn check<'a>(content: &[u8], signature: Option<&str>, keys: &'a [PublicKey]) -> Result<&'a PublicKey, String> {
    let way_out = "`sandmill plugin sign` makes one";
    let Some(signature) = signature else {
        return Err(format!(
            "it has no signature, and the settings ask for one (rollout.public-keys)\nPut NAME.wasm.sig beside it; {way_out}."
        ));
    };
    let bytes: [u8; 64] = bytes(signature).map_err(|why| format!("its signature cannot be read: {why}\n{way_out}."))?;
    let signature = Signature::from_bytes(&bytes);
    let signer = keys.iter().find(|PublicKey(key)| key.verify_strict(content, &signature).is_ok());
    signer.ok_or_else(|| {
        format!(
            "its signature is not of these bytes by a key that the settings name (rollout.public-keys)\nSign the file as it is now; {way_out}."
        )
    })
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let text = text.trim();
    let digits = text.as_bytes();
    let wrong = || format!("expected {} hexadecimal digits, and these are {}", N * 2, text.chars().count());
    if digits.len() != N * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
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

    /// The first test of RFC 8032, 7.1, which signs nothing.
    const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SIGNATURE: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    #[test]
    fn it_is_the_standards_algorithm() {
        let secret = SecretKey::parse(SECRET).unwrap();
        assert_eq!((secret.public(), secret.sign(b"")), (PUBLIC.to_string(), SIGNATURE.to_string()));
        let keys = [PublicKey::parse(&format!(" {PUBLIC}\n")).unwrap()];
        assert_eq!(check(b"", Some(SIGNATURE), &keys).unwrap().text(), PUBLIC);
    }

    #[test]
    fn only_these_bytes_by_these_keys_pass() {
        let (ours, theirs) = (SecretKey::of(&[1; 32]), SecretKey::of(&[2; 32]));
        let keys = [&theirs, &ours].map(|key| PublicKey::parse(&key.public()).unwrap());
        let signature = ours.sign(b"plugin");
        assert_eq!(check(b"plugin", Some(&signature), &keys), Ok(&keys[1]));
        assert!(check(b"plugiN", Some(&signature), &keys).unwrap_err().contains("not of these bytes"));
        assert!(check(b"plugin", Some(&signature), &keys[..1]).unwrap_err().contains("not of these bytes"));
        assert!(check(b"plugin", None, &keys).unwrap_err().contains("no signature"));
        assert!(
            check(b"plugin", Some("ab"), &keys)
                .unwrap_err()
                .contains("expected 128 hexadecimal digits, and these are 2")
        );
        for bad in ["", "zz", &"0".repeat(64)] {
            assert!(PublicKey::parse(bad).is_err(), "{bad}");
        }
    }
}
